//! Paths that upstreams name: a relative one is meant from the file that names it.

use std::path::Path;

use crate::config::load::beside;
use crate::config::tree::{Kind, NodeId, Tree};

/// Makes the relative paths below the upstreams of `file` absolute.
pub(crate) fn make_absolute(tree: &mut Tree, root: NodeId, file: &Path) {
    let upstreams = tree.at(root, &["upstreams"]).map(|section| tree.entries(section).to_vec()).unwrap_or_default();
    let mut paths: Vec<NodeId> = Vec::new();
    for upstream in upstreams {
        let tls = ["ca", "client_cert", "client_key"].map(|key| tree.at(upstream.value, &["tls", key]));
        paths.extend(tls.into_iter().flatten());
        paths.extend(tree.at(upstream.value, &["discover", "file", "path"]));
    }
    for path in paths {
        if let Kind::Scalar(scalar) = &mut tree.node_mut(path).kind
            && !scalar.text.is_empty()
        {
            scalar.text = beside(file, Path::new(&scalar.text)).display().to_string();
        }
    }
}
