//! What the origins saw.

use std::ops::RangeInclusive;

use super::model::Seen;
use super::run::{Stuck, Taken};
use super::stage::Stage;
use super::verify::Problem;
use crate::support::{Origin, Received};

/// The request that a step looks at: the nth, or the next that none has looked at.
pub(super) fn received(stage: &mut Stage<'_>, origin: &str, nth: Option<usize>, complete: bool) -> Result<Received, Stuck> {
    let next = stage.looked_at.get(origin).copied().unwrap_or(0);
    let index = nth.map_or(next, |nth| nth - 1);
    let found = stage
        .origin(origin)?
        .wait_for(stage.deadline, |record| record.requests.get(index).filter(|request| request.complete || !complete).cloned());
    stage.looked_at.insert(origin.to_owned(), index + 1);
    let count = stage.origin(origin)?.requests().len();
    let came = if count > index { "its body did not come whole".into() } else { format!("{count} in all") };
    found.ok_or_else(|| Stuck::new(format!("origin {origin} to receive request {}", index + 1), came))
}

pub(super) fn saw(stage: &Stage<'_>, line: usize, origin: &str, what: Seen, numbers: &RangeInclusive<usize>) -> Taken {
    let count = |origin: &Origin| match what {
        Seen::Requests => origin.requests().len(),
        Seen::Connections => origin.connections(),
    };
    let origin = stage.origin(origin)?;
    origin.wait_for(stage.deadline, |record| {
        let count = if what == Seen::Requests { record.requests.len() } else { record.connections };
        (count >= *numbers.start()).then_some(())
    });
    let came = count(origin);
    if numbers.contains(&came) {
        return Ok(vec![]);
    }
    let unit = if what == Seen::Requests { "requests" } else { "connections" };
    Ok(vec![Problem::new(line, format!("{} {unit}", shown(numbers)), format!("{came} {unit}"))])
}

pub(super) fn spread(stage: &Stage<'_>, line: usize, parts: &[(String, RangeInclusive<usize>)]) -> Taken {
    let mut met = true;
    let (mut expected, mut came) = (Vec::new(), Vec::new());
    for origin in &stage.origins {
        let part = parts.iter().find(|(name, _)| name == origin.name());
        let counts = part.map_or(0..=0, |(_, counts)| counts.clone());
        let count = origin.requests().len();
        met &= counts.contains(&count);
        expected.push(format!("{}={}", origin.name(), shown(&counts)));
        came.push(format!("{}={count}", origin.name()));
    }
    if met { Ok(vec![]) } else { Ok(vec![Problem::new(line, expected.join(" "), came.join(" "))]) }
}

fn shown(numbers: &RangeInclusive<usize>) -> String {
    let (low, high) = (numbers.start(), numbers.end());
    if low == high { low.to_string() } else { format!("{low}..{high}") }
}

/// The origins' names in the order in which requests arrived at them.
pub(super) fn arrivals(stage: &Stage<'_>) -> Vec<String> {
    let requests = |origin: &Origin| {
        let name = origin.name().to_owned();
        origin.requests().into_iter().map(move |request| (request.sequence, name.clone())).collect::<Vec<_>>()
    };
    let mut all: Vec<(usize, String)> = stage.origins.iter().flat_map(requests).collect();
    all.sort();
    all.into_iter().map(|(_, name)| name).collect()
}
