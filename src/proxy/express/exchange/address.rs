//! What endpoints are told of the client, and what clients must not say.

use std::net::IpAddr;

use super::super::Express;
use super::super::classify::Seen;
use super::super::head::Head;
use super::super::table::{Line, options};
use super::ask::Ask;
use crate::config::ForwardedHeader;
use crate::filter::{Error, RequestHead, Scheme};
use crate::proxy::ctx::Ctx;
use crate::proxy::enter::{is_forged, is_kept};
use crate::proxy::forwarded::Believed;
use crate::proxy::head::is_hop_by_hop_name;
use crate::proxy::who::{FOR, HOST_FIELD, PROTO, write_address};
use crate::upstream::Endpoint;

/// Takes away what a client must not say.
pub(super) fn strip_claims(head: &mut Head, seen: &Seen, claims: &[Box<str>]) {
    if seen.connection {
        let nominated: Vec<Vec<u8>> = options(&head.fields).filter(|option| !is_kept(option)).map(<[u8]>::to_vec).collect();
        for name in nominated {
            head.fields.take_away_name(&name);
        }
        head.fields.take_away_name(b"connection");
    }
    if seen.forged {
        head.fields.take_away(|name| is_forged(name, claims));
    }
}

/// Puts our word on who asks in the place of all others.
pub(super) fn claim(head: &mut Head, seen: &Seen, believed: Option<&Believed>, peer: Option<IpAddr>, scheme: Scheme) {
    let fields = &mut head.fields;
    if seen.claims {
        for name in [FOR, PROTO, HOST_FIELD] {
            fields.take_away_name(name.as_bytes());
        }
    }
    match believed.filter(|believed| !believed.hops.is_empty()) {
        Some(chain) => {
            let addresses = chain.x_forwarded_for(peer);
            if !addresses.is_empty() {
                fields.append(FOR.as_bytes(), addresses.as_bytes());
            }
        }
        None => {
            if let Some(peer) = peer {
                fields.append_with(FOR.as_bytes(), |text| write_address(peer, text));
            }
        }
    }
    if let Some(believed) = believed
        && believed.header == ForwardedHeader::Forwarded
    {
        let value = believed.forwarded(peer);
        if !value.is_empty() {
            fields.replace(b"forwarded", value.as_bytes());
        }
    }
    let text: &[u8] = match scheme {
        Scheme::Http => b"x-forwarded-proto: http\r\n",
        Scheme::Https => b"x-forwarded-proto: https\r\n",
    };
    fields.append_line(Line { text, name: PROTO.len() });
    if let Some(host) = fields.place(b"host").filter(|host| !host.is_empty()) {
        fields.append_copy(HOST_FIELD.as_bytes(), host);
    }
}

/// Makes the head that a try sends, and puts what is to be sent into `ask`.
pub(super) async fn address(
    express: &Express,
    ctx: &mut Ctx,
    head: &mut Head,
    ask: &mut Ask,
    (seen, believed, addressed): (&Seen, Option<&Believed>, &mut bool),
    endpoint: &Endpoint,
) -> Result<(), Error> {
    let Ctx { connection, route, run, exchange, version, .. } = &mut *ctx;
    let Some(route) = route.as_ref() else { return Err(Error::internal("no route")) };
    // Filters of a try change what it alone sends. Without them all tries send the same, and nobody needs what it was before.
    let filtered = route.chain.sees_upstream_request();
    let mut copy;
    let head = if filtered {
        copy = head.clone_fields();
        &mut copy
    } else {
        head
    };
    if filtered || !std::mem::replace(addressed, true) {
        let asked = route.chain.sees_request();
        // Filters may have put some in place.
        if seen.hop_by_hop || asked {
            head.fields.take_away(is_hop_by_hop_name);
        }
        if !asked {
            claim(head, seen, believed, connection.client.ip(), exchange.scheme);
        }
        let via = &express.common.via;
        if (asked || seen.via) && head.fields.has(b"via") {
            let extended = via.extended(&head.fields.map(), *version);
            head.fields.replace(b"via", extended.as_bytes());
        } else {
            let (text, name) = via.line(*version);
            head.fields.append_line(Line { text, name });
        }
    }
    if let Some(upstream) = &exchange.upstream
        && let Some(host) = upstream.host_for(endpoint)
    {
        head.set_host(host)?;
    }
    if filtered {
        route.chain.upstream_request(run, head, exchange).await?;
    }
    ask.begin(head);
    Ok(())
}
