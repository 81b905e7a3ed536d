//! A guard: lets in who knows the word, and refuses everybody else with 403.
//!
//! ```yaml
//! listeners:
//!   http: {address: "127.0.0.1:8080"}
//! routes:
//!   secret:
//!     filters:
//!       - word: {word: sesame}
//!     respond: {body: "come in\n"}
//! ```
//!
//! ```console
//! $ cargo run --example word -- run -c word.yaml
//! $ curl -H 'x-word: sesame' http://127.0.0.1:8080/
//! come in
//! ```

use ravelin::prelude::*;

/// Lets in who knows the word.
struct Word {
    word: String,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct WordConfig {
    /// The word that a caller must send in `x-word`.
    word: String,
}

impl Filter for Word {
    const NAME: &'static str = "word";
    type Config = WordConfig;
    type State = ();

    fn build(c: WordConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self { word: c.word })
    }

    fn hooks(&self) -> Hooks {
        Hooks::REQUEST
    }

    async fn request(&self, req: &mut RequestCx<'_>, _: &mut ()) -> Result<Flow, Error> {
        if req.header("x-word") == Some(self.word.as_str()) { Ok(Flow::Next) } else { Err(Error::status(403)) }
    }
}

fn main() -> ExitCode {
    App::new().filter::<Word>().run()
}
