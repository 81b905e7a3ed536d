//! Watches: one log line for each request that took too long, with the time until its answer began.
//!
//! ```yaml
//! listeners:
//!   http: {address: "127.0.0.1:8080"}
//! upstreams:
//!   app: {endpoints: [127.0.0.1:3000]}
//! routes:
//!   app: {filters: [{slow: {over: 250ms}}], upstream: app}
//! ```

use std::time::Duration;

use ravelin::prelude::*;

/// Logs slow requests.
struct Slow(Duration);

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct SlowConfig {
    /// A request that takes longer is logged.
    over: ravelin::types::Duration,
}

impl Filter for Slow {
    const NAME: &'static str = "slow";
    type Config = SlowConfig;
    /// Of one request: how long its answer took to begin.
    type State = Option<Duration>;

    fn build(c: SlowConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self(c.over.get()))
    }

    fn hooks(&self) -> Hooks {
        Hooks::RESPONSE | Hooks::LOG
    }

    async fn response(&self, res: &mut ResponseCx<'_>, began: &mut Self::State) -> Result<(), Error> {
        *began = Some(res.exchange().started.elapsed());
        Ok(())
    }

    fn log(&self, done: &LogCx<'_>, began: &mut Self::State) {
        let exchange = done.exchange();
        let took = exchange.started.elapsed();
        if took > self.0 {
            let (id, path) = (exchange.id, exchange.target.path());
            log::warn!("slow took={took:.0?} began={began:.0?} id={id} path={path:?}");
        }
    }
}

fn main() -> ExitCode {
    App::new().filter::<Slow>().run()
}
