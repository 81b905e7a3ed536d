//! Which endpoints are given requests: the healthy ones, backups only while no other is healthy, and all where so few are healthy
//! that those would fall too.

use crate::types::Percent;

/// What decides on an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) healthy: bool,
    pub(super) backup: bool,
}

/// For each endpoint whether it is given requests. With a smaller share of healthy ones than `panic`, among those that are no backups,
/// all of these are, unless none is healthy and a backup is.
pub(super) fn eligible(endpoints: &[Standing], panic: Percent) -> Vec<bool> {
    let count = |wanted: &dyn Fn(&Standing) -> bool| endpoints.iter().filter(|endpoint| wanted(endpoint)).count();
    let primaries = count(&|endpoint| !endpoint.backup);
    let healthy = count(&|endpoint| !endpoint.backup && endpoint.healthy);
    let backups = healthy == 0 && count(&|endpoint| endpoint.backup && endpoint.healthy) > 0;
    let panics = !backups && panic.is_above(healthy, primaries);
    endpoints.iter().map(|endpoint| endpoint.backup == backups && (endpoint.healthy || panics)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `h`: healthy, `i`: ill; in capitals a backup.
    fn shown(endpoints: &str, panic: &str) -> String {
        let standing = |letter: char| Standing { healthy: letter.eq_ignore_ascii_case(&'h'), backup: letter.is_uppercase() };
        let endpoints: Vec<Standing> = endpoints.chars().map(standing).collect();
        eligible(&endpoints, panic.parse().unwrap()).into_iter().map(|open| if open { '+' } else { '-' }).collect()
    }

    #[test]
    fn the_healthy_ones() {
        assert_eq!(shown("hih", "0%"), "+-+");
        assert_eq!(shown("ii", "0%"), "--");
        assert_eq!(shown("", "100%"), "");
    }

    #[test]
    fn backups_only_while_no_other_is_healthy() {
        assert_eq!(shown("hiH", "0%"), "+--");
        assert_eq!(shown("iiHI", "0%"), "--+-");
        assert_eq!(shown("iI", "0%"), "--");
    }

    #[test]
    fn all_where_too_few_are_healthy() {
        assert_eq!(shown("hiii", "30%"), "++++");
        assert_eq!(shown("hhii", "50%"), "++--");
        assert_eq!(shown("iii", "1%"), "+++");
        assert_eq!(shown("hiiH", "50%"), "+++-");
    }

    #[test]
    fn a_healthy_backup_is_better_than_all_that_are_ill() {
        assert_eq!(shown("iiH", "50%"), "--+");
        assert_eq!(shown("iiI", "50%"), "++-");
    }
}
