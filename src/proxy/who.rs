//! Ravelin's own word on who asks: the `X-Forwarded-*` fields that stand in the place of what a client says of itself.

use std::net::IpAddr;

use http::HeaderValue;
use http::header::{FORWARDED, HOST, InvalidHeaderValue};
use pingora_http::RequestHeader;

use crate::config::ForwardedHeader;
use crate::filter::{InvalidField, Scheme};
use crate::proxy::forwarded::Believed;

/// The values of the fields; `None`: the field is not there.
pub(super) struct WhoAsks {
    addresses: Option<HeaderValue>,
    /// `Forwarded`, where it is what a trusted proxy speaks.
    forwarded: Option<HeaderValue>,
    scheme: HeaderValue,
    host: Option<HeaderValue>,
}

pub(super) const FOR: &str = "x-forwarded-for";
pub(super) const PROTO: &str = "x-forwarded-proto";
pub(super) const HOST_FIELD: &str = "x-forwarded-host";

impl WhoAsks {
    /// `peer` is who speaks to us, with what is believed of others before it; that is passed on.
    pub(super) fn new(
        head: &RequestHeader,
        peer: Option<IpAddr>,
        scheme: Scheme,
        believed: Option<&Believed>,
    ) -> Result<Self, InvalidField> {
        let host = match head.uri.authority() {
            Some(authority) => Some(HeaderValue::from_str(authority.as_str()).map_err(|_| invalid(HOST_FIELD))?),
            None => head.headers.get(HOST).cloned(),
        };
        let addresses = match believed.filter(|believed| !believed.hops.is_empty()) {
            Some(chain) => Some(HeaderValue::try_from(chain.x_forwarded_for(peer))),
            None => peer.map(address_value),
        };
        let forwarded = believed
            .filter(|believed| believed.header == ForwardedHeader::Forwarded)
            .map(|believed| believed.forwarded(peer))
            .filter(|value| !value.is_empty())
            .map(HeaderValue::try_from);
        Ok(Self {
            addresses: addresses.transpose().map_err(|_| invalid(FOR))?,
            forwarded: forwarded.transpose().map_err(|_| invalid(FORWARDED.as_str()))?,
            scheme: HeaderValue::from_static(scheme.as_str()),
            host: host.filter(|host| !host.is_empty()),
        })
    }

    /// Puts the fields in a head, in the place of all of these names.
    pub(super) fn put_in(&self, head: &mut RequestHeader) -> Result<(), InvalidField> {
        put(head, FOR, self.addresses.as_ref())?;
        if let Some(value) = &self.forwarded {
            head.insert_header(FORWARDED, value.clone()).map_err(|_| invalid(FORWARDED.as_str()))?;
        }
        put(head, PROTO, Some(&self.scheme))?;
        put(head, HOST_FIELD, self.host.as_ref())
    }
}

fn put(head: &mut RequestHeader, name: &'static str, value: Option<&HeaderValue>) -> Result<(), InvalidField> {
    match value {
        Some(value) => head.insert_header(name, value.clone()).map_err(|_| invalid(name)),
        None => {
            head.remove_header(name);
            Ok(())
        }
    }
}

fn invalid(name: &str) -> InvalidField {
    InvalidField::Value(name.to_owned())
}

fn address_value(ip: IpAddr) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut text = Vec::with_capacity("255.255.255.255".len());
    write_address(ip, &mut text);
    HeaderValue::try_from(text)
}

/// An address as a field's value. Written by hand for IPv4, where the formatting machinery costs more than all of the field.
pub(super) fn write_address(ip: IpAddr, text: &mut Vec<u8>) {
    let IpAddr::V4(ip) = ip else { return text.extend_from_slice(ip.to_string().as_bytes()) };
    for (place, octet) in ip.octets().into_iter().enumerate() {
        if place > 0 {
            text.push(b'.');
        }
        if octet >= 100 {
            text.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            text.push(b'0' + octet / 10 % 10);
        }
        text.push(b'0' + octet % 10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_everywhere_else() {
        for octet in 0..=255 {
            let ip = IpAddr::from([octet, 255 - octet, 0, octet / 7]);
            assert_eq!(address_value(ip).unwrap(), ip.to_string());
        }
        let ip: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(address_value(ip).unwrap(), "2001:db8::1");
    }

    #[test]
    fn what_a_client_says_of_itself_is_replaced_or_gone() {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for name in [FOR, PROTO, HOST_FIELD] {
            head.append_header(name, "forged").unwrap();
            head.append_header(name, "twice").unwrap();
        }
        WhoAsks::new(&head, None, Scheme::Http, None).unwrap().put_in(&mut head).unwrap();
        assert_eq!(head.headers.iter().map(|(_, value)| value.to_str().unwrap()).collect::<Vec<_>>(), ["http"]);
    }
}
