//! Active health: what probes say of an endpoint, once they have said it often enough.

/// How an endpoint stands by its probes. It counts as healthy until it has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    healthy: bool,
    /// Probes in a row that say otherwise.
    against: u32,
}

/// How many probes in a row change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thresholds {
    pub(super) healthy_after: u32,
    pub(super) unhealthy_after: u32,
}

impl Health {
    pub(super) const fn new() -> Self {
        Self { healthy: true, against: 0 }
    }

    pub(super) fn is_healthy(self) -> bool {
        self.healthy
    }

    /// A probe ended. Whether that changes how the endpoint stands.
    pub(super) fn heard(&mut self, well: bool, thresholds: Thresholds) -> bool {
        if well == self.healthy {
            self.against = 0;
            return false;
        }
        self.against += 1;
        if self.against < if well { thresholds.healthy_after } else { thresholds.unhealthy_after } {
            return false;
        }
        *self = Self { healthy: well, against: 0 };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_in_a_row_change_anything() {
        let mut health = Health::new();
        let thresholds = Thresholds { healthy_after: 3, unhealthy_after: 2 };
        let mut heard = |probes: &str| -> String {
            let heard = |letter| {
                health.heard(letter == '.', thresholds);
                if health.is_healthy() { '.' } else { 'x' }
            };
            probes.chars().map(heard).collect()
        };
        assert_eq!(heard(".x.xx"), "....x");
        assert_eq!(heard("..x..x..."), "xxxxxxxx.");
        assert_eq!(heard("x"), ".");
    }
}
