//! `request_id`: names the header that carries the request's id to the upstream and back to the client.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::filter::{BuildCx, BuildError, Error, Filter, Flow, Hooks, RequestCx, RequestView, ResponseCx};
use crate::types::HeaderName;

/// Settings of `request_id`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequestIdConfig {
    /// The header. Default: `x-request-id`.
    pub header: Option<HeaderName>,
    /// Whether an id that the client sent is passed on in place of Ravelin's own: one of 1 to 128 visible ASCII characters.
    pub trust: bool,
}

/// The `request_id` filter.
pub struct RequestIdFilter {
    header: String,
    trust: bool,
}

const MAX_LENGTH: usize = 128;

impl Filter for RequestIdFilter {
    const NAME: &'static str = "request_id";
    const PURE: bool = true;
    type Config = RequestIdConfig;
    /// The client's id, where it is trusted.
    type State = Option<String>;

    fn build(config: RequestIdConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        let header = config.header.map_or_else(|| "x-request-id".to_owned(), |header| header.as_str().to_owned());
        Ok(Self { header, trust: config.trust })
    }

    fn hooks(&self) -> Hooks {
        Hooks::REQUEST | Hooks::RESPONSE
    }

    async fn request(&self, req: &mut RequestCx<'_>, id: &mut Option<String>) -> Result<Flow, Error> {
        if self.trust {
            *id = req.header(&self.header).filter(|id| is_sound(id)).map(str::to_owned);
        }
        match id {
            Some(id) => req.set_header(&self.header, id)?,
            None => req.set_header(&self.header, req.id().digits())?,
        }
        Ok(Flow::Next)
    }

    async fn response(&self, res: &mut ResponseCx<'_>, id: &mut Option<String>) -> Result<(), Error> {
        match id {
            Some(id) => res.set_header(&self.header, id)?,
            None => res.set_header(&self.header, res.id().digits())?,
        }
        Ok(())
    }

    fn explain(&self, _: &RequestView<'_>) -> Option<String> {
        Some(format!("sends the request's id as {}", self.header))
    }
}

fn is_sound(id: &str) -> bool {
    (1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Request;
    use crate::filter::testing::Harness;

    #[test]
    fn the_same_id_goes_both_ways_and_the_clients_is_replaced() {
        let sent = Harness::<RequestIdFilter>::new("{}").unwrap().send(Request::get("/").header("x-request-id", "mine"));
        let id = sent.upstream_header("x-request-id").unwrap();
        assert_eq!(id.len(), 32);
        assert_eq!(sent.header("x-request-id"), Some(id));
    }

    #[test]
    fn a_trusted_id_passes_if_it_is_sound() {
        let harness = Harness::<RequestIdFilter>::new("{header: x-trace, trust: true}").unwrap();
        let sent = harness.send(Request::get("/").header("x-trace", "abc"));
        assert_eq!((sent.upstream_header("x-trace"), sent.header("x-trace")), (Some("abc"), Some("abc")));
        let long = "a".repeat(129);
        for bad in ["", "a b", long.as_str()] {
            let sent = harness.send(Request::get("/").header("x-trace", bad));
            assert_eq!(sent.upstream_header("x-trace").unwrap().len(), 32);
        }
    }
}
