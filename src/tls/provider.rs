//! The cryptography of this process.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// AWS-LC: the fastest that rustls has, and X25519MLKEM768 first among the groups that keys are agreed in.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}

/// Makes it the one of the whole process. Before anything of Pingora's runs: it would take `ring` where there is none.
pub(crate) fn install_provider() {
    // Whoever was first, an embedding program say, has decided for all.
    let _ = CryptoProvider::install_default(CryptoProvider::clone(provider()));
}

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;

    use super::*;

    #[test]
    fn keys_are_agreed_so_that_no_quantum_computer_finds_them_later() {
        assert_eq!(provider().kx_groups[0].name(), NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn every_suite_is_forward_secret_and_authenticated() {
        for suite in &provider().cipher_suites {
            let name = format!("{:?}", suite.suite());
            let modern = name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_");
            assert!(modern && (name.contains("GCM") || name.contains("CHACHA20")), "{name}");
        }
    }
}
