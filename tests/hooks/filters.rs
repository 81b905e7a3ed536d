//! Filters made to show what hooks promise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use ravelin::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

/// Ravelin with all of them.
pub(crate) fn app() -> App {
    App::new()
        .filter::<Mark>()
        .filter::<Fail>()
        .filter::<Answer>()
        .filter::<Divert>()
        .filter::<Gather>()
        .filter::<Shout>()
        .filter::<Swap>()
        .filter::<Tick>()
        .filter::<Share>()
        .filter::<Tally>()
        .filter::<Escape>()
        .filter::<Stillborn>()
        .filter::<Doomed>()
        .filter::<Coy>()
}

/// Leaves its name wherever it comes by.
struct Mark(String);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MarkConfig {
    name: String,
}

impl Filter for Mark {
    const NAME: &'static str = "mark";
    type Config = MarkConfig;
    /// How many hooks have run.
    type State = u32;

    fn build(config: MarkConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self(config.name))
    }

    async fn request(&self, req: &mut RequestCx<'_>, hooks: &mut u32) -> Result<Flow, Error> {
        *hooks += 1;
        let seen = [req.header("x-seen").unwrap_or(""), &self.0].join(" ");
        req.set_header("x-seen", seen.trim())?;
        req.note(format!("mark {}", self.0));
        Ok(Flow::Next)
    }

    async fn upstream_request(&self, req: &mut UpstreamCx<'_>, hooks: &mut u32) -> Result<(), Error> {
        *hooks += 1;
        let attempt = req.attempt();
        Ok(req.add_header("x-attempt", format!("{} {attempt}", self.0))?)
    }

    async fn response(&self, res: &mut ResponseCx<'_>, hooks: &mut u32) -> Result<(), Error> {
        *hooks += 1;
        let back = [res.header("x-back").unwrap_or(""), &self.0].join(" ");
        res.set_header("x-back", back.trim())?;
        Ok(res.set_header(&format!("x-hooks-{}", self.0), hooks.to_string())?)
    }

    fn log(&self, done: &LogCx<'_>, hooks: &mut u32) {
        let status = done.status().map_or_else(|| "none".to_owned(), |status| status.to_string());
        log::info!("mark logged name={} path={} status={status} hooks={hooks}.", self.0, done.exchange().target.path());
    }
}

/// Fails in one of its hooks: by an error, or by a panic.
struct Fail {
    at: Hook,
    panics: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FailConfig {
    at: Hook,
    #[serde(default)]
    panics: bool,
}

#[derive(Deserialize, JsonSchema, PartialEq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Hook {
    Request,
    RequestBody,
    UpstreamRequest,
    Response,
    ResponseBody,
    Log,
}

impl Fail {
    #[expect(clippy::panic, reason = "it is what this filter is for")]
    fn fail(&self, at: Hook) -> Result<(), Error> {
        match self.at == at {
            true if self.panics => panic!("as configured"),
            true => Err(Error::status(418).with_reason("teapot")),
            false => Ok(()),
        }
    }
}

impl Filter for Fail {
    const NAME: &'static str = "fail";
    type Config = FailConfig;
    type State = ();

    fn build(config: FailConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self { at: config.at, panics: config.panics })
    }

    async fn request(&self, _: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        self.fail(Hook::Request)?;
        Ok(Flow::Next)
    }

    async fn request_body(&self, _: &mut BodyCx<'_>, (): &mut ()) -> Result<(), Error> {
        self.fail(Hook::RequestBody)
    }

    async fn upstream_request(&self, _: &mut UpstreamCx<'_>, (): &mut ()) -> Result<(), Error> {
        self.fail(Hook::UpstreamRequest)
    }

    async fn response(&self, _: &mut ResponseCx<'_>, (): &mut ()) -> Result<(), Error> {
        self.fail(Hook::Response)
    }

    fn response_body(&self, body: &mut BodyCx<'_>, (): &mut ()) -> Result<(), Error> {
        // Only on what asks for it, so that a first piece may pass.
        if body.chunk().starts_with(b"bad") { self.fail(Hook::ResponseBody) } else { Ok(()) }
    }

    fn log(&self, _: &LogCx<'_>, (): &mut ()) {
        // Nothing is left to answer with an error.
        let _ = self.fail(Hook::Log);
    }
}

/// Answers by itself: with a whole body, or with a stream that may break.
struct Answer(AnswerConfig);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AnswerConfig {
    #[serde(default)]
    pieces: Vec<String>,
    #[serde(default)]
    breaks: bool,
}

impl Filter for Answer {
    const NAME: &'static str = "answer";
    type Config = AnswerConfig;
    type State = ();

    fn build(config: AnswerConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self(config))
    }

    fn hooks(&self) -> Hooks {
        Hooks::REQUEST
    }

    async fn request(&self, _: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        let AnswerConfig { pieces, breaks } = &self.0;
        if pieces.is_empty() {
            return Ok(Flow::Reply(Reply::text(200, "answered")));
        }
        let mut pieces: Vec<Result<Bytes, Error>> = pieces.iter().map(|piece| Ok(Bytes::from(piece.clone()))).collect();
        if *breaks {
            pieces.push(Err(Error::status(500)));
        }
        Ok(Flow::Reply(Reply::new(200).with_stream(futures_util::stream::iter(pieces))))
    }
}

/// Sends requests that ask for it to another upstream.
struct Divert(UpstreamRef);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DivertConfig {
    to: Spanned<String>,
}

impl Filter for Divert {
    const NAME: &'static str = "divert";
    type Config = DivertConfig;
    type State = ();

    fn build(config: DivertConfig, cx: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self(cx.upstream(&config.to.value).map_err(|error| error.at(config.to.span))?))
    }

    fn hooks(&self) -> Hooks {
        Hooks::REQUEST
    }

    async fn request(&self, req: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        if req.header("x-divert").is_some() {
            req.use_upstream(&self.0);
        }
        Ok(Flow::Next)
    }
}

/// Reads the body before the upstream is chosen.
struct Gather(usize);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GatherConfig {
    max: usize,
}

impl Filter for Gather {
    const NAME: &'static str = "gather";
    type Config = GatherConfig;
    type State = ();

    fn build(config: GatherConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self(config.max))
    }

    fn hooks(&self) -> Hooks {
        Hooks::REQUEST
    }

    async fn request(&self, req: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        let body = req.buffer_body(self.0).await?;
        req.set_header("x-gathered", body.len().to_string())?;
        Ok(Flow::Next)
    }
}

/// Writes bodies in capitals, both ways.
struct Shout;

/// No settings.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShoutConfig {}

impl Filter for Shout {
    const NAME: &'static str = "shout";
    type Config = ShoutConfig;
    type State = ();

    fn build(_: ShoutConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    async fn request_body(&self, body: &mut BodyCx<'_>, (): &mut ()) -> Result<(), Error> {
        let shouted = body.chunk().to_ascii_uppercase();
        if !shouted.is_empty() {
            body.set_chunk(shouted);
        }
        Ok(())
    }

    async fn response(&self, res: &mut ResponseCx<'_>, (): &mut ()) -> Result<(), Error> {
        res.will_change_body();
        Ok(())
    }

    fn response_body(&self, body: &mut BodyCx<'_>, (): &mut ()) -> Result<(), Error> {
        let mut shouted = body.chunk().to_ascii_uppercase();
        if body.is_end() {
            shouted.extend_from_slice(b"!");
        }
        body.set_chunk(shouted);
        Ok(())
    }
}

/// Puts its own answer in the place of errors.
struct Swap;

/// No settings.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SwapConfig {}

impl Filter for Swap {
    const NAME: &'static str = "swap";
    type Config = SwapConfig;
    type State = ();

    fn build(_: SwapConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn hooks(&self) -> Hooks {
        Hooks::RESPONSE
    }

    async fn response(&self, res: &mut ResponseCx<'_>, (): &mut ()) -> Result<(), Error> {
        if res.status() >= 500 {
            res.replace(Reply::text(200, "all is well"));
        }
        Ok(())
    }
}

/// Counts in the background.
struct Tick(Arc<AtomicU32>);

/// No settings.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TickConfig {}

impl Filter for Tick {
    const NAME: &'static str = "tick";
    type Config = TickConfig;
    type State = ();

    fn build(_: TickConfig, cx: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        let ticks = Arc::new(AtomicU32::new(0));
        let counted = ticks.clone();
        cx.task(async move {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        Ok(Self(ticks))
    }

    fn hooks(&self) -> Hooks {
        Hooks::REQUEST
    }

    async fn request(&self, _: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        match self.0.load(Ordering::Relaxed) {
            0 => Err(Error::status(503)),
            ticks => Ok(Flow::Reply(Reply::text(200, format!("{ticks} tick")))),
        }
    }
}

/// Counts requests for itself, and leaves the count for other filters of the request.
struct Share(AtomicU32);

/// No settings.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShareConfig {}

struct Count(u32);

impl Filter for Share {
    const NAME: &'static str = "share";
    type Config = ShareConfig;
    type State = ();

    fn build(_: ShareConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self(AtomicU32::new(0)))
    }

    fn hooks(&self) -> Hooks {
        Hooks::REQUEST | Hooks::RESPONSE
    }

    async fn request(&self, req: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        let before = req.get::<Count>().map_or(0, |count| count.0);
        req.insert(Count(before + 1 + self.0.fetch_add(1, Ordering::Relaxed)));
        Ok(Flow::Next)
    }

    async fn response(&self, res: &mut ResponseCx<'_>, (): &mut ()) -> Result<(), Error> {
        let count = res.get::<Count>().map_or(0, |count| count.0);
        Ok(res.set_header("x-count", count.to_string())?)
    }
}

/// Counts requests, over reloads.
struct Tally(Arc<AtomicU32>);

impl Filter for Tally {
    const NAME: &'static str = "tally";
    type Config = ShareConfig;
    type State = ();

    fn build(_: ShareConfig, cx: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self(cx.keep(|| AtomicU32::new(0))))
    }

    async fn response(&self, res: &mut ResponseCx<'_>, (): &mut ()) -> Result<(), Error> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(res.set_header("x-tally", count.to_string())?)
    }
}

/// What gets hold of the process might do: opens the file of `x-open`, writes to that of `x-write`, and so on; and starts the program of `x-start`.
struct Escape;

impl Filter for Escape {
    const NAME: &'static str = "escape";
    type Config = ShareConfig;
    type State = ();

    fn build(_: ShareConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    async fn request(&self, req: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        let said = |outcome: std::io::Result<()>| outcome.map_or_else(|error| error.kind().to_string(), |()| "done".to_owned());
        let existing = || std::fs::OpenOptions::new();
        type Deed<'a> = (&'a str, &'a dyn Fn(&str) -> std::io::Result<()>);
        let deeds: [Deed<'_>; 6] = [
            ("x-open", &|path| std::fs::File::open(path).map(drop)),
            ("x-write", &|path| {
                existing().write(true).open(path).and_then(|mut file| std::io::Write::write_all(&mut file, b"!"))
            }),
            ("x-truncate", &|path| existing().write(true).truncate(true).open(path).map(drop)),
            ("x-create", &|path| existing().write(true).create_new(true).open(path).map(drop)),
            ("x-remove", &|path| std::fs::remove_file(path)),
            ("x-start", &|program| std::process::Command::new(program).status().map(drop)),
        ];
        let outcome = deeds.iter().find_map(|(name, deed)| req.header(name).map(|what| said(deed(what))));
        Ok(Flow::Reply(Reply::text(200, outcome.unwrap_or_default())))
    }
}

/// Starts a task that panics.
struct Doomed;

impl Filter for Doomed {
    const NAME: &'static str = "doomed";
    type Config = ShareConfig;
    type State = ();

    fn build(_: ShareConfig, cx: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        cx.task(async { panic!("in a task of its own") });
        Ok(Self)
    }
}

/// Has no state, for it panics.
struct Stillborn;

struct Never;

impl Default for Never {
    fn default() -> Self {
        panic!("no state")
    }
}

impl Filter for Stillborn {
    const NAME: &'static str = "stillborn";
    type Config = ShareConfig;
    type State = Never;

    fn build(_: ShareConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self)
    }
}

/// Refuses everything, and can't say by which hook.
struct Coy;

impl Filter for Coy {
    const NAME: &'static str = "coy";
    type Config = ShareConfig;
    type State = ();

    fn build(_: ShareConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn hooks(&self) -> Hooks {
        panic!("no hooks")
    }

    async fn request(&self, _: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        Err(Error::status(403))
    }
}
