//! Pingora's TCP health check, with the upstream's name in what it logs.

use async_trait::async_trait;
use pingora_core::Error;
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::{HealthCheck, TcpHealthCheck};

use crate::config;

pub(super) struct Probe {
    upstream: Box<str>,
    tcp: TcpHealthCheck,
}

impl Probe {
    pub(super) fn new(upstream: &str, settings: &config::TcpHealthCheck) -> Self {
        let mut tcp = TcpHealthCheck::default();
        tcp.consecutive_success = settings.healthy_after as usize;
        tcp.consecutive_failure = settings.unhealthy_after as usize;
        tcp.peer_template.options.connection_timeout = Some(settings.timeout.get());
        Self { upstream: upstream.into(), tcp }
    }
}

#[async_trait]
impl HealthCheck for Probe {
    async fn check(&self, target: &Backend) -> pingora_core::Result<()> {
        // Pingora logs the whole error, with all options of the peer: its kind says what an operator needs.
        self.tcp.check(target).await.map_err(|error| Error::new_up(error.etype().clone()))
    }

    fn backend_summary(&self, target: &Backend) -> String {
        format!("upstream={} endpoint={}", self.upstream, target.addr)
    }

    fn health_threshold(&self, success: bool) -> usize {
        self.tcp.health_threshold(success)
    }
}
