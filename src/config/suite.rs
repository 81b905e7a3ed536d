//! `tests`: what the file's author expects of it, to be checked offline by `ravelin test`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::config::Spanned;
use crate::config::bounds::given;
use crate::types::{HeaderName, Method, Name, Status, Url};

/// A request, and what should become of it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// What it is about, in a few words.
    pub name: Spanned<String>,
    /// What a client sends.
    pub request: TestRequest,
    /// What the upstream answers, should it be asked. Default: 200 without a body.
    #[serde(default)]
    pub upstream_reply: UpstreamReply,
    /// What should become of it; at least one key.
    pub expect: Spanned<Expect>,
}

/// What a client sends.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestRequest {
    /// Default: GET.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Method")]
    pub method: Option<Method>,
    /// Where it goes, as a client would have it: `https://example.com/path`.
    pub url: Spanned<Url>,
    /// Header fields. A `host` takes the place of the URL's.
    #[serde(default)]
    pub headers: BTreeMap<HeaderName, String>,
    /// Who is connected. Default: `127.0.0.1`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "IpAddr")]
    pub client: Option<IpAddr>,
    /// The listener that it comes through. Default: the one with the URL's port, else the first for its scheme.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Name")]
    pub listener: Option<Spanned<Name>>,
    /// Default: none.
    #[serde(default)]
    pub body: String,
}

/// What an upstream answers.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamReply {
    /// Default: 200.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Status")]
    pub status: Option<Status>,
    /// Header fields.
    pub headers: BTreeMap<HeaderName, String>,
    /// Default: none.
    pub body: String,
}

/// What should become of a request. What is not given is not looked at.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// The route that takes it; `null`: none does.
    #[serde(deserialize_with = "name_or_none")]
    #[schemars(with = "Option<Name>")]
    pub route: Option<Option<Spanned<Name>>>,
    /// The upstream that is asked; `null`: none is.
    #[serde(deserialize_with = "name_or_none")]
    #[schemars(with = "Option<Name>")]
    pub upstream: Option<Option<Spanned<Name>>>,
    /// The endpoint that is asked, as it stands in the file. Of several that take turns it is the first.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "String")]
    pub endpoint: Option<String>,
    /// The request as the endpoint gets it.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "ExpectRequest")]
    pub upstream_request: Option<ExpectRequest>,
    /// The status that the client gets.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Status")]
    pub status: Option<Status>,
    /// Header fields that the client gets; `null`: absent.
    pub headers: BTreeMap<HeaderName, Option<String>>,
    /// The body that the client gets.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "String")]
    pub body: Option<String>,
}

/// A request as an endpoint gets it. What is not given is not looked at.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExpectRequest {
    /// The method.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Method")]
    pub method: Option<Method>,
    /// The path, without the query.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "String")]
    pub path: Option<String>,
    /// The query, without the `?`; `""`: there is none.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "String")]
    pub query: Option<String>,
    /// What it is sent as `Host`.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "String")]
    pub host: Option<String>,
    /// Header fields; `null`: absent.
    pub headers: BTreeMap<HeaderName, Option<String>>,
    /// The body.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "String")]
    pub body: Option<String>,
}

/// A key that is given says something with `null` too.
fn name_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Spanned<Name>>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Expect {
    /// Whether anything is looked at.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { route, upstream, endpoint, upstream_request, status, headers, body } = self;
        route.is_none()
            && upstream.is_none()
            && endpoint.is_none()
            && upstream_request.is_none()
            && status.is_none()
            && headers.is_empty()
            && body.is_none()
    }
}
