//! The process log: env_logger, and a bound on what clients can make others write to it.

use std::time::Instant;

use log::{Log, Metadata, Record};

use crate::observe::Budget;

/// Whose lines a client can cause as often as it likes: the libraries below, and panics that were contained.
const BOUNDED: [&str; 6] =
    ["pingora", "h2", "hyper", "ravelin::filter::erased", "ravelin::cli::logging", "ravelin::server::connection"];

/// Starts it: `RUST_LOG`, or what an operator wants to see. A panic that is contained goes there too.
pub(super) fn start_logging() {
    let filter = env_logger::Env::default().default_filter_or(
        // Pingora's own lines on start and stop say nothing that ours don't; its health checks' do.
        "info,pingora_core=warn,pingora_proxy=warn,pingora_load_balancing=info",
    );
    let logger = env_logger::Builder::from_env(filter).format_timestamp_millis().build();
    let most = logger.filter();
    // A second call, in tests, leaves the first logger in place.
    if log::set_boxed_logger(Box::new(Bounded { logger, budget: Budget::default() })).is_ok() {
        log::set_max_level(most);
    }
    std::panic::set_hook(Box::new(|panic| log::error!("panic {panic}")));
}

struct Bounded {
    logger: env_logger::Logger,
    budget: Budget,
}

impl Log for Bounded {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if BOUNDED.iter().any(|bounded| record.target().starts_with(bounded)) {
            let kind = (record.file_static().unwrap_or(""), record.line().unwrap_or(0));
            match self.budget.spend(kind, Instant::now()) {
                None => return,
                Some(0) => {}
                Some(held) => {
                    let said = format_args!("lines held back like the next count={held}");
                    self.logger.log(&Record::builder().metadata(record.metadata().clone()).args(said).build());
                }
            }
        }
        self.logger.log(record);
    }

    fn flush(&self) {
        self.logger.flush();
    }
}
