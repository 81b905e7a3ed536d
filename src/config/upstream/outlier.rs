//! `outlier_detection`: endpoints that fail requests are left out for a while.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::bounds::positive_duration;
use crate::types::{Count, Duration, Limit, Percent};

/// When an endpoint is left out for how its requests ended, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutlierDetection {
    /// So many failures in a row.
    pub consecutive_errors: Limit<Count>,
    /// This share of the requests within `window`, once there were 20 of them.
    pub error_ratio: Limit<Percent>,
    /// The time over which the share is taken.
    #[serde(deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub window: Duration,
    /// How long an endpoint is left out for the first time; each time after that it is twice as long, up to 5 minutes.
    #[serde(deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub eject_for: Duration,
    /// No more than this share of the endpoints is left out at once, but always one if there are two.
    pub max_ejected: Percent,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_errors: Limit::at(Count::FIVE),
            error_ratio: Limit::at(Percent::HALF),
            window: Duration::from(StdDuration::from_secs(10)),
            eject_for: Duration::from(StdDuration::from_secs(30)),
            max_ejected: Percent::HALF,
        }
    }
}
