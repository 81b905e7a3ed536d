//! `headers`: sets, adds and removes header fields.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Spanned;
use crate::filter::{
    BuildCx, BuildError, Error, Field, Filter, Flow, Hooks, InvalidField, RequestCx, RequestView, ResponseCx, UpstreamCx,
};
use crate::types::{HeaderName, Phase, Template, Variable, carries_a_secret};

/// Header fields to change.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeadersConfig {
    /// On the request, before the filters that follow see it.
    pub request: EditsConfig,
    /// On the response, after the filters that follow have seen it.
    pub response: EditsConfig,
}

/// Changes to one head: first `remove`, then `set`, then `add`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EditsConfig {
    /// One field of this name, in the place of all others. Values may hold `{{ … }}`.
    pub set: BTreeMap<HeaderName, Spanned<Template>>,
    /// A further field of this name. Values may hold `{{ … }}`.
    pub add: BTreeMap<HeaderName, Spanned<Template>>,
    /// Every field of this name goes.
    pub remove: Vec<Spanned<HeaderName>>,
}

/// The `headers` filter.
pub struct Headers {
    request: Edits,
    /// Values that are known only once an endpoint is chosen.
    upstream: Edits,
    response: Edits,
}

#[derive(Default)]
struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<Edit>,
    add: Vec<Edit>,
}

/// A field to be put in place.
enum Edit {
    /// The same for every message.
    Constant(Field),
    Evaluated(HeaderName, Template),
}

/// Fields that say where a message ends or who it is for: a message with a wrong one is another message.
const RESERVED: [&str; 8] =
    ["connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

impl Filter for Headers {
    const NAME: &'static str = "headers";
    const PURE: bool = true;
    type Config = HeadersConfig;
    type State = ();

    fn build(config: HeadersConfig, cx: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        let mut headers = Self { request: Edits::default(), upstream: Edits::default(), response: Edits::default() };
        let sides = [&config.request, &config.response];
        sides.into_iter().flat_map(|side| side.set.values().chain(side.add.values())).for_each(|value| cx.look_over(value));
        headers.request.remove = removals(config.request.remove)?;
        headers.response.remove = removals(config.response.remove)?;
        for (name, value) in config.request.set.iter().chain(&config.request.add) {
            if value.variables().any(Variable::identifies) {
                cx.claim(name);
            }
        }
        for (name, value) in config.request.set {
            let edit = Edit::new(name, &value)?;
            headers.request_edits(&value)?.set.push(edit);
        }
        for (name, value) in config.request.add {
            let edit = Edit::new(name, &value)?;
            headers.request_edits(&value)?.add.push(edit);
        }
        headers.response.set = edits(config.response.set)?;
        headers.response.add = edits(config.response.add)?;
        Ok(headers)
    }

    fn hooks(&self) -> Hooks {
        let mut hooks = Hooks::NONE;
        for (edits, hook) in
            [(&self.request, Hooks::REQUEST), (&self.upstream, Hooks::UPSTREAM_REQUEST), (&self.response, Hooks::RESPONSE)]
        {
            if !edits.is_empty() {
                hooks = hooks | hook;
            }
        }
        hooks
    }

    async fn request(&self, req: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        self.request.apply(req)?;
        Ok(Flow::Next)
    }

    async fn upstream_request(&self, req: &mut UpstreamCx<'_>, (): &mut ()) -> Result<(), Error> {
        Ok(self.upstream.apply(req)?)
    }

    async fn response(&self, res: &mut ResponseCx<'_>, (): &mut ()) -> Result<(), Error> {
        Ok(self.response.apply(res)?)
    }

    fn explain(&self, _: &RequestView<'_>) -> Option<String> {
        let parts: Vec<String> = [("request", &self.request), ("request", &self.upstream), ("response", &self.response)]
            .into_iter()
            .flat_map(|(side, edits)| edits.describe(side))
            .collect();
        Some(parts.join(", "))
    }
}

impl Headers {
    /// Where a request field of this value is put: as early as all its parts are known.
    fn request_edits(&mut self, value: &Spanned<Template>) -> Result<&mut Edits, BuildError> {
        match value.value.needs() {
            Phase::Request => Ok(&mut self.request),
            Phase::Upstream => Ok(&mut self.upstream),
            Phase::Response | Phase::End => {
                Err(BuildError::new("a request field can't hold `response.status`: there is no response yet").at(value.span))
            }
        }
    }
}

/// The views that have fields and values, as far as edits need them.
trait Head {
    fn remove(&mut self, name: &str);
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField>;
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField>;
    fn set_field(&mut self, field: &Field);
    fn add_field(&mut self, field: &Field);
    fn text(&self, template: &Template) -> String;
}

macro_rules! head {
    ($($cx:ident),*) => {$(
        impl Head for $cx<'_> {
            fn remove(&mut self, name: &str) {
                self.remove_header(name);
            }
            fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
                self.set_header(name, value)
            }
            fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
                self.add_header(name, value)
            }
            fn set_field(&mut self, field: &Field) {
                self.set_field(field);
            }
            fn add_field(&mut self, field: &Field) {
                self.add_field(field);
            }
            fn text(&self, template: &Template) -> String {
                self.render(template)
            }
        }
    )*};
}

head!(RequestCx, UpstreamCx, ResponseCx);

impl Edits {
    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    fn apply(&self, head: &mut impl Head) -> Result<(), InvalidField> {
        for name in &self.remove {
            head.remove(name.as_str());
        }
        for edit in &self.set {
            match edit {
                Edit::Constant(field) => head.set_field(field),
                Edit::Evaluated(name, value) => head.set(name.as_str(), head.text(value).as_bytes())?,
            }
        }
        for edit in &self.add {
            match edit {
                Edit::Constant(field) => head.add_field(field),
                Edit::Evaluated(name, value) => head.add(name.as_str(), head.text(value).as_bytes())?,
            }
        }
        Ok(())
    }

    fn describe<'a>(&'a self, side: &'a str) -> impl Iterator<Item = String> + 'a {
        let removed = self.remove.iter().map(move |name| format!("removes {name} from the {side}"));
        let set = self.set.iter().map(move |edit| format!("sets {edit} on the {side}"));
        let added = self.add.iter().map(move |edit| format!("adds {edit} to the {side}"));
        removed.chain(set).chain(added)
    }
}

impl Edit {
    fn new(name: HeaderName, value: &Spanned<Template>) -> Result<Self, BuildError> {
        unreserved(&name).map_err(|error| error.at(value.span))?;
        let Some(text) = value.value.as_literal() else { return Ok(Self::Evaluated(name, value.value.clone())) };
        let field = Field::new(name.as_str(), text.as_bytes());
        field.map(Self::Constant).map_err(|_| BuildError::new("a header value can't hold a control character").at(value.span))
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(field) if carries_a_secret(field.name()) => write!(f, "{}: ***", field.name()),
            Self::Evaluated(name, _) if carries_a_secret(name.as_str()) => write!(f, "{name}: ***"),
            Self::Constant(field) => write!(f, "{}: {}", field.name(), String::from_utf8_lossy(field.value())),
            Self::Evaluated(name, value) => write!(f, "{name}: {value}"),
        }
    }
}

fn removals(names: Vec<Spanned<HeaderName>>) -> Result<Vec<HeaderName>, BuildError> {
    for name in &names {
        unreserved(&name.value).map_err(|error| error.at(name.span))?;
    }
    Ok(names.into_iter().map(|name| name.value).collect())
}

fn edits(fields: BTreeMap<HeaderName, Spanned<Template>>) -> Result<Vec<Edit>, BuildError> {
    fields.into_iter().map(|(name, value)| Edit::new(name, &value)).collect()
}

fn unreserved(name: &HeaderName) -> Result<(), BuildError> {
    match name.as_str() {
        "host" => Err(BuildError::new("`host` is not changed by `headers`: use `rewrite: {host: …}` or the upstream's `host`")),
        name if RESERVED.contains(&name) => Err(BuildError::new(format!(
            "`{name}` says where a message ends or how a connection is used: Ravelin sets it itself"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::testing::Harness;
    use crate::filter::{Keeping, Kept};
    use crate::filter::{Reply, Request};

    #[test]
    fn request_fields_are_removed_set_and_added_in_that_order() {
        let harness = Harness::<Headers>::new(
            "request: {remove: [x-a, x-b], set: {x-b: new, x-route: '{{ route.name }}'}, add: {x-c: two}}",
        )
        .unwrap();
        let sent = harness.send(Request::get("/").header("x-a", "1").header("x-b", "1").header("x-b", "2").header("x-c", "one"));
        assert_eq!(sent.upstream_header("x-a"), None);
        assert_eq!(sent.upstream_header("x-b"), Some("new"));
        assert_eq!(sent.upstream_header("x-route"), Some("test"));
        let both = sent.upstream().unwrap().fields().iter().filter(|(name, _)| *name == "x-c").count();
        assert_eq!(both, 2);
    }

    #[test]
    fn response_fields_change_on_the_way_back() {
        let harness = Harness::<Headers>::new("response: {set: {x-status: '{{ response.status }}'}, remove: [server]}")
            .unwrap()
            .upstream(|_| Reply::new(404).with_header("server", "old").unwrap());
        let sent = harness.send(Request::get("/"));
        assert_eq!((sent.header("x-status"), sent.header("server")), (Some("404"), None));
    }

    #[test]
    fn a_value_that_needs_the_endpoint_waits_for_it() {
        let harness = Harness::<Headers>::new("request: {set: {x-to: 'to {{ upstream.endpoint }}'}}").unwrap();
        assert_eq!(harness.send(Request::get("/")).upstream_header("x-to"), Some("to "));
    }

    #[test]
    fn fields_that_frame_a_message_are_refused() {
        for settings in
            ["request: {set: {content-length: '3'}}", "response: {remove: [Transfer-Encoding]}", "request: {set: {host: a}}"]
        {
            assert!(Harness::<Headers>::new(settings).is_err(), "{settings}");
        }
    }

    #[test]
    fn a_request_field_cannot_hold_the_status() {
        let error = Harness::<Headers>::new("request: {set: {x: '{{ response.status }}'}}").err().unwrap();
        assert!(error.contains("no response yet"), "{error}");
    }

    #[test]
    fn settings_without_effect_cost_nothing() {
        let (mut tasks, mut kept) = (Vec::new(), Kept::default());
        let keeping = Keeping { identity: "headers", before: None, kept: &mut kept };
        let filter = Headers::build(HeadersConfig::default(), &mut BuildCx::new(&|_| None, &mut tasks, keeping)).unwrap();
        assert_eq!(filter.hooks(), Hooks::NONE);
    }
}
