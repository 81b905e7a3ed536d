//! The admin address: nobody's else, and guarded where strangers can reach it.

use super::Resolver;
use crate::config::report::Diagnostic;
use crate::config::{Admin, Listener, Named};
use crate::types::ListenAddress;

impl Resolver<'_> {
    pub(super) fn admin(&mut self, admin: &Admin, listeners: &[Named<Listener>]) {
        let address = &admin.address;
        let shown = self.report.shown(address.span, &address.to_string());
        if !is_local(&address.value) && admin.token.is_none() {
            let diagnostic =
                Diagnostic::error(address.span, format!("the admin address `{shown}` is not loopback, and there is no token"));
            self.report.push(diagnostic.hint("add `token: \"${RAVELIN_ADMIN_TOKEN}\"`, or listen on 127.0.0.1 or a unix socket"));
        }
        // Each address with port 0 gets a port of its own.
        let takes_any = matches!(address.value, ListenAddress::Tcp(address) if address.port() == 0);
        let same = |listener: &&Named<Listener>| listener.value.address.value == address.value;
        if let Some(listener) = listeners.iter().find(same).filter(|_| !takes_any) {
            let message = format!("the listener `{}` has the address `{shown}` too", listener.name.as_str());
            let diagnostic = Diagnostic::error(address.span, message).hint("give the admin address a port of its own");
            self.report.push(diagnostic.related(listener.value.address.span, "given here"));
        }
        if let Some(token) = admin.explain_token.as_ref().filter(|token| !token.fits_a_header()) {
            let message = "the token holds what no header field of a request should carry";
            self.report.push(Diagnostic::error(token.span, message).hint("use letters, digits and punctuation, without spaces"));
        }
        if let Some(token) = admin.token.as_ref().filter(|token| !token.fits_a_header()) {
            let message = "the token holds what no `Authorization` header can carry";
            self.report.push(Diagnostic::error(token.span, message).hint("use letters, digits and punctuation, without spaces"));
        }
    }
}

/// Whether only this machine can connect.
fn is_local(address: &ListenAddress) -> bool {
    match address {
        ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
        ListenAddress::Unix(_) => true,
    }
}
