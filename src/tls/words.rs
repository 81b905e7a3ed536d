//! What the library says of certificates, where only those who know it would understand.

use std::io;

use rustls::{CertificateError, Error};

/// Why a handshake with an endpoint failed, in words that say what to do.
pub(crate) fn in_words(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(why)) => format!("invalid peer certificate: {}", certificate(why)),
        _ => error.to_string(),
    }
}

/// What is wrong with a certificate.
fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => "it is issued by nobody who is believed: `tls.ca` of the upstream names who is".to_owned(),
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "it is an authority's (CA:TRUE), and no server's: issue one for the server, without CA:TRUE, and believe its authority by \
             `tls.ca` of the upstream"
                .to_owned()
        }
        why => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{OtherError, RootCertStore};

    use super::*;
    use crate::tls::provider;

    /// As the library finds it, so that its words can't change unnoticed.
    #[test]
    fn an_authority_that_is_used_as_a_server_is_told_so() {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider().clone()).build().unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let error = verifier.verify_server_cert(certificate.der(), &[], &name, &[], UnixTime::now()).unwrap_err();
        let words = in_words(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert!(words.starts_with("invalid peer certificate: it is an authority's (CA:TRUE)"), "{words}");
    }

    #[test]
    fn what_is_clear_stays_as_it_is() {
        let words = |error: Error| in_words(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert!(words(Error::InvalidCertificate(CertificateError::UnknownIssuer)).contains("`tls.ca`"));
        let expired = Error::InvalidCertificate(CertificateError::Expired);
        assert_eq!(words(expired.clone()), expired.to_string());
        assert_eq!(in_words(&io::Error::from(io::ErrorKind::ConnectionReset)), "connection reset");
        let other = CertificateError::Other(OtherError(Arc::new(io::Error::other("odd"))));
        assert_eq!(certificate(&other), other.to_string());
    }
}
