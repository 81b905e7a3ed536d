//! Paths of unix sockets: a relative one is meant from the file that names it, whoever starts the process, and from where.

use std::path::Path;

use crate::config::load::beside;
use crate::config::tree::{Kind, NodeId, Tree};

/// Makes the relative paths below the top level of `file` absolute.
pub(crate) fn make_absolute(tree: &mut Tree, root: NodeId, file: &Path) {
    let mut addresses: Vec<NodeId> = tree.at(root, &["admin", "address"]).into_iter().collect();
    let sections = |tree: &Tree, name| tree.at(root, &[name]).map(|section| tree.entries(section).to_vec()).unwrap_or_default();
    for listener in sections(tree, "listeners") {
        addresses.extend(tree.at(listener.value, &["address"]));
    }
    for upstream in sections(tree, "upstreams") {
        let endpoints = tree.at(upstream.value, &["endpoints"]).map(|endpoints| tree.elements(endpoints)).unwrap_or_default();
        addresses.extend(endpoints.iter().map(|endpoint| tree.at(*endpoint, &["address"]).unwrap_or(*endpoint)));
    }
    for address in addresses {
        if let Kind::Scalar(scalar) = &mut tree.node_mut(address).kind
            && let Some(path) = scalar.text.strip_prefix("unix:")
            && !path.is_empty()
        {
            scalar.text = format!("unix:{}", beside(file, Path::new(path)).display());
        }
    }
}
