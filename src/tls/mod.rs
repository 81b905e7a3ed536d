//! TLS towards clients: certificates by name, sessions that are resumed, certificates of clients. And towards endpoints (`client`): who is
//! believed, and what is shown.
//!
//! What a listener is configured with becomes a `Terminator`, which belongs to the snapshot. Its certificates follow their files
//! (`files`); beside them are those that come and go by themselves (`Issued`). A handshake asks the terminator once the client has
//! said which name it wants, and goes on by the answer: nothing is decided before.

pub(crate) mod acme;
mod certificate;
mod client;
mod files;
mod issued;
mod names;
mod pem;
mod provider;
mod session;
mod staple;
mod terminator;
mod words;

pub(crate) use self::certificate::{Certificate, CertificateError};
pub(crate) use self::client::{Alpn, ClientTls, Roots};
pub(crate) use self::files::Change;
pub(crate) use self::issued::Issued;
pub(crate) use self::provider::{install_provider, provider};
pub use self::session::{ClientCertificate, TlsSession};
pub(crate) use self::terminator::{Answer, Terminator};
pub(crate) use self::words::in_words;
