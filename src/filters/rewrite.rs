//! `rewrite`: changes what the upstream is asked for. The route is not chosen anew.

mod replace;

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use self::replace::Replace;
use crate::config::Spanned;
use crate::filter::{BuildCx, BuildError, Error, Filter, Flow, Hooks, RequestCx, RequestView};
use crate::types::{Authority, Phase, Template, carries_a_secret, path};

/// Settings of `rewrite`. Of the path either `path`, or `regex` and `with`, or `strip_prefix` and `add_prefix` (first the one, then the
/// other, or one alone).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewriteConfig {
    /// The whole path; may hold `{{ … }}`.
    pub path: Option<Spanned<Template>>,
    /// Taken off the front of the path, on a segment border: `/v1` makes `/v1/x` into `/x`, and leaves `/v1x` alone.
    pub strip_prefix: Option<Spanned<String>>,
    /// Put in front of the path.
    pub add_prefix: Option<Spanned<String>>,
    /// A regular expression over the path in normal form: the first match is replaced. A path without one is left alone.
    pub regex: Option<Spanned<String>>,
    /// With `regex`, in its place: text with `$1` or `$name` for what a group captured and `$$` for `$`; may hold `{{ … }}`.
    pub with: Option<Spanned<Template>>,
    /// What the upstream sees as `Host` (where it says `host: preserve`).
    pub host: Option<Authority>,
    /// Changes to the query.
    pub query: QueryConfig,
}

/// Changes to the query: first `remove`, then `set`. Names and values are written percent-encoded where needed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueryConfig {
    /// One parameter of this name, in the place of all others. Values may hold `{{ … }}`.
    pub set: BTreeMap<String, Spanned<Template>>,
    /// Every parameter of this name goes.
    pub remove: Vec<String>,
}

/// The `rewrite` filter.
pub struct Rewrite {
    path: Option<Template>,
    replace: Option<Replace>,
    strip: Option<String>,
    add: Option<String>,
    host: Option<Authority>,
    set: Vec<(String, Template)>,
    remove: Vec<String>,
}

impl Filter for Rewrite {
    const NAME: &'static str = "rewrite";
    const PURE: bool = true;
    type Config = RewriteConfig;
    type State = ();

    fn build(config: RewriteConfig, cx: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        config.path.iter().chain(config.query.set.values()).for_each(|template| cx.look_over(template));
        if let Some(path) = &config.path {
            if config.strip_prefix.is_some() || config.add_prefix.is_some() {
                return Err(BuildError::new("`path` replaces the whole path: it can't go with `strip_prefix` or `add_prefix`")
                    .at(path.span));
            }
            in_request_phase(path)?;
            if path.value.as_literal().is_some_and(|text| path::normalise(text).is_err()) {
                return Err(BuildError::new("not a path: write one that starts with `/`").at(path.span));
            }
        }
        let replace = replacement(&config)?;
        config.query.set.values().try_for_each(in_request_phase)?;
        let set = config.query.set.into_iter().map(|(name, value)| (name, value.value)).collect();
        Ok(Self {
            path: config.path.map(|path| path.value),
            replace,
            strip: config.strip_prefix.map(prefix).transpose()?,
            add: config.add_prefix.map(prefix).transpose()?,
            host: config.host,
            set,
            remove: config.query.remove,
        })
    }

    fn hooks(&self) -> Hooks {
        Hooks::REQUEST
    }

    async fn request(&self, req: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        let path = self.new_path(req);
        let query = self.new_query(req);
        if path.is_some() || query.is_some() {
            let path = path.unwrap_or_else(|| req.path().to_owned());
            let path = path::normalise(&path)?;
            let query = query.unwrap_or_else(|| req.query().map(str::to_owned));
            req.set_target(&path, query.as_deref())?;
        }
        if let Some(host) = &self.host {
            req.set_host(host.as_str())?;
        }
        Ok(Flow::Next)
    }

    fn explain(&self, req: &RequestView<'_>) -> Option<String> {
        let path = match (&self.path, self.strip.is_some() || self.add.is_some()) {
            (Some(template), _) => Some(template.to_string()),
            (None, true) => Some(self.reprefixed(req.path())),
            (None, false) => None,
        };
        let path = path.map(|path| format!("path {} becomes {path}", req.path()));
        let path = path.or_else(|| self.replace.as_ref().map(|replace| format!("path {}: {}", req.path(), replace.shown())));
        let host = self.host.as_ref().map(|host| format!("host becomes {host}"));
        let removed = self.remove.iter().map(|name| format!("query loses {name}"));
        let set = self.set.iter().map(|(name, value)| match carries_a_secret(name) {
            true => format!("query gets {name}=***"),
            false => format!("query gets {name}={value}"),
        });
        Some(path.into_iter().chain(host).chain(removed).chain(set).collect::<Vec<_>>().join(", "))
    }
}

impl Rewrite {
    fn new_path(&self, req: &RequestCx<'_>) -> Option<String> {
        match &self.path {
            Some(template) => Some(req.render(template)),
            None if let Some(replace) = &self.replace => replace.apply(req.path(), |template| req.render(template)),
            None if self.strip.is_some() || self.add.is_some() => Some(self.reprefixed(req.path())),
            None => None,
        }
    }

    fn reprefixed(&self, path: &str) -> String {
        let rest = match &self.strip {
            Some(prefix) => {
                path.strip_prefix(prefix.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path)
            }
            None => path,
        };
        let rest = if rest.is_empty() { "/" } else { rest };
        match &self.add {
            Some(prefix) => format!("{prefix}{rest}"),
            None => rest.to_owned(),
        }
    }

    /// `None`: the query stays; `Some(None)`: there is none any more.
    fn new_query(&self, req: &RequestCx<'_>) -> Option<Option<String>> {
        if self.set.is_empty() && self.remove.is_empty() {
            return None;
        }
        let gone = |name: &str| self.remove.iter().any(|other| other == name) || self.set.iter().any(|(other, _)| other == name);
        let kept = req.query().into_iter().flat_map(|query| query.split('&')).filter(|pair| {
            let name = pair.split('=').next().unwrap_or("");
            !pair.is_empty() && !gone(&decoded(name))
        });
        let mut query: Vec<Cow<'_, str>> = kept.map(Cow::Borrowed).collect();
        for (name, value) in &self.set {
            query.push(format!("{}={}", encoded(name), encoded(&req.render(value))).into());
        }
        Some((!query.is_empty()).then(|| query.join("&")))
    }
}

/// `regex` and `with`, which go together and with nothing else about the path.
fn replacement(config: &RewriteConfig) -> Result<Option<Replace>, BuildError> {
    let (regex, with) = match (&config.regex, &config.with) {
        (None, None) => return Ok(None),
        (Some(regex), None) => {
            return Err(BuildError::new("`regex` without `with`: what should stand in its place?").at(regex.span));
        }
        (None, Some(with)) => return Err(BuildError::new("`with` without `regex`: in the place of what?").at(with.span)),
        (Some(regex), Some(with)) => (regex, with),
    };
    if config.path.is_some() || config.strip_prefix.is_some() || config.add_prefix.is_some() {
        let message = "`regex` changes the path: it can't go with `path`, `strip_prefix` or `add_prefix`";
        return Err(BuildError::new(message).at(regex.span));
    }
    in_request_phase(with)?;
    Replace::new(regex, with).map(Some)
}

fn in_request_phase(template: &Spanned<Template>) -> Result<(), BuildError> {
    match template.value.needs() {
        Phase::Request => Ok(()),
        Phase::Upstream | Phase::Response | Phase::End => Err(BuildError::new(
            "the request is rewritten before an endpoint is chosen: only request, client and route are known",
        )
        .at(template.span)),
    }
}

/// A prefix in normal form, without a slash at its end.
fn prefix(prefix: Spanned<String>) -> Result<String, BuildError> {
    match path::normalise(&prefix.value) {
        Ok(path) if path != "*" => Ok(path.trim_end_matches('/').to_owned()),
        Ok(_) => Err(BuildError::new("not a prefix: write a path such as `/v1`").at(prefix.span)),
        Err(error) => Err(BuildError::new(error.to_string()).at(prefix.span)),
    }
}

/// The text that a query's name stands for (`application/x-www-form-urlencoded`).
fn decoded(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        let mut ahead = rest.clone();
        let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        match (byte, hex(ahead.next()), hex(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                rest = ahead;
            }
            (b'+', _, _) => bytes.push(b' '),
            (byte, _, _) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                const HEX: [u8; 16] = *b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Request;
    use crate::filter::testing::Harness;

    fn target(settings: &str, request: &str) -> String {
        Harness::<Rewrite>::new(settings).unwrap().send(Request::get(request)).upstream_target().unwrap()
    }

    #[test]
    fn a_prefix_goes_on_a_segment_border() {
        assert_eq!(target("strip_prefix: /v1", "/v1/x?a=1"), "/x?a=1");
        assert_eq!(target("strip_prefix: /v1/", "/v1"), "/");
        assert_eq!(target("strip_prefix: /v1", "/v1x"), "/v1x");
        assert_eq!(target("{strip_prefix: /v1, add_prefix: /v2/}", "/v1/x"), "/v2/x");
    }

    #[test]
    fn a_path_may_be_made_of_the_request() {
        assert_eq!(target("path: '/in{{ request.path }}'", "/a/b?q"), "/in/a/b?q");
        assert_eq!(target("path: /a/../b", "/"), "/b");
    }

    #[test]
    fn what_a_template_brings_in_is_normalised_again() {
        assert_eq!(target("path: '/x/{{ request.query }}'", "/?../y"), "/y?../y");
        let sent = Harness::<Rewrite>::new("path: '/x/{{ request.query }}'").unwrap().send(Request::get("/?../../y"));
        assert_eq!((sent.status(), sent.upstream_target()), (500, None));
    }

    #[test]
    fn a_match_is_replaced_by_what_it_captured() {
        assert_eq!(target("{regex: '^/u/([0-9]+)/(?<rest>.*)$', with: '/users/$1/$rest'}", "/u/7/a/b?q=1"), "/users/7/a/b?q=1");
        assert_eq!(target("{regex: '^/u/([0-9]+)$', with: '/users/$1x'}", "/u/7"), "/users/7x");
        assert_eq!(target("{regex: '^/u/([0-9]+)$', with: /x}", "/u/a"), "/u/a");
        assert_eq!(target("{regex: '/b', with: /c}", "/a/b/b"), "/a/c/b");
        assert_eq!(target("{regex: '^/v1(/.*)?$', with: '$1'}", "/v1"), "/");
        assert_eq!(target("{regex: '^/(.*)$', with: '$1$$'}", "/a"), "/a$");
        assert_eq!(target("{regex: '^/a', with: '/{{ request.method }}/${0}'}", "/a"), "/GET/a");
    }

    #[test]
    fn what_captures_make_is_normalised_again() {
        assert_eq!(target("{regex: '^/(.)x/(.)x/', with: '/a/$1$2/'}", "/.x/.x/b"), "/b");
        let sent = Harness::<Rewrite>::new("{regex: '^/(.)x/(.)x/', with: '/$1$2/'}").unwrap().send(Request::get("/.x/.x/b"));
        assert_eq!((sent.status(), sent.upstream_target()), (500, None));
    }

    #[test]
    fn a_replacement_that_cannot_be_is_refused() {
        for (settings, reason) in [
            ("{regex: '^/(a)', with: '/$2'}", "no group `$2`: it has one"),
            ("{regex: '^/(?<a>a)', with: '/$b'}", "no group `$b`"),
            ("{regex: '^/a', with: '/$1'}", "put what to keep in ( )"),
            ("{regex: '^/(a', with: /b}", "unclosed group"),
            ("{regex: '(a{1000}){1000}', with: /b}", "too large"),
            ("{regex: '', with: /b}", "is empty"),
            ("{regex: '^/a', with: '/$'}", "followed by no group"),
            ("{regex: '^/a', with: '{{ upstream.name }}'}", "before an endpoint is chosen"),
            ("{regex: '^/(a)', with: '/../$1'}", "`with` never makes a path: the path climbs above the root"),
            ("{regex: '^/(a)', with: '/b?q=$1'}", "never makes a path"),
            ("{regex: 'a', with: '/b c'}", "must be encoded"),
            ("{regex: 'a', with: '%zz'}", "broken escape"),
            ("{regex: '^/a'}", "without `with`"),
            ("{with: /a}", "without `regex`"),
            ("{regex: '^/a', with: /b, path: /c}", "it can't go with"),
            ("{regex: '^/a', with: /b, strip_prefix: /c}", "it can't go with"),
        ] {
            let error = Harness::<Rewrite>::new(settings).err().unwrap().to_string();
            assert!(error.contains(reason), "{settings}: {error}");
        }
    }

    #[test]
    fn query_parameters_are_removed_and_set() {
        assert_eq!(target("query: {remove: [a, 'b c'], set: {d: 'x&y'}}", "/?a=1&a=2&b+c=3&b%20c=4&e=5&d=6"), "/?e=5&d=x%26y");
        assert_eq!(target("query: {remove: [a]}", "/?a=1"), "/");
        assert_eq!(target("query: {remove: [a]}", "/?b=%zz&c"), "/?b=%zz&c");
    }

    #[test]
    fn the_host_changes_for_the_upstream() {
        let sent = Harness::<Rewrite>::new("host: api.internal:8080").unwrap().send(Request::get("/"));
        assert_eq!(sent.upstream_header("host"), Some("api.internal:8080"));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for settings in ["{path: /a, strip_prefix: /b}", "strip_prefix: b", "path: '{{ upstream.name }}'", "path: a"] {
            assert!(Harness::<Rewrite>::new(settings).is_err(), "{settings}");
        }
    }
}
