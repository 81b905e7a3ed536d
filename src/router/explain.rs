//! Why a request takes the route that it takes.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;

use crate::router::condition::shown;
use crate::router::rank::{Criterion, Standing};
use crate::router::{Patterns, Question, Router, Rule};

/// One route and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// In the order in which the routes were added.
    pub(crate) route: usize,
    pub(crate) verdict: Verdict,
}

/// What became of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The request takes it.
    Taken,
    /// It matches, but the one that is taken is more specific: by this, in other words by that.
    Outranked(Criterion, &'static str),
    /// It does not match.
    Failed {
        /// The first condition that does not hold, as it stands in the file.
        condition: String,
        /// What the request has in its place; `None`: nothing.
        saw: Option<String>,
        /// Whether host and path match: then the route was near.
        near: bool,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str("taken"),
            Self::Outranked(_, why) => write!(f, "matches too, but the taken one {why}"),
            Self::Failed { condition, saw: Some(saw), .. } => write!(f, "{condition} does not hold for {saw}"),
            Self::Failed { condition, saw: None, .. } => write!(f, "{condition} does not hold: there is none"),
        }
    }
}

impl Router {
    /// Every route and what becomes of it for this request: those whose host and path match in the order of their rank, then those
    /// whose host matches, then the others, in the order of the file.
    pub(crate) fn explain(&self, question: &Question<'_>) -> Vec<Candidate> {
        let standings = self.standings(question);
        let winner = self.find(question).map(|found| found.route);
        let best = winner.and_then(|route| standings.get(&route)).copied();
        let mut candidates: Vec<_> = (0..)
            .zip(self.rules.iter().zip(&self.patterns))
            .map(|(route, (rule, patterns))| {
                let standing = standings.get(&route);
                let verdict = match standing {
                    None => patterns.misses(question, rule.keeps_slashes),
                    Some(standing) => self.verdict(rule, question, standing, best.as_ref()),
                };
                let group = match (standing, patterns.meet_host(question)) {
                    (Some(_), _) => 0,
                    (None, true) => 1,
                    (None, false) => 2,
                };
                ((group, standing.copied(), route), Candidate { route, verdict })
            })
            .collect();
        candidates.sort_by_key(|(key, _)| *key);
        candidates.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// The rank of each route whose host and path match.
    fn standings(&self, question: &Question<'_>) -> HashMap<usize, Standing> {
        let mut standings: HashMap<usize, Standing> = HashMap::new();
        self.walk(question, |list, path, keeps_slashes| {
            for (target, regex) in list.routes() {
                let route = target.route();
                let rule = self.rule(route);
                if rule.reads(question, keeps_slashes) && regex.is_none_or(|regex| regex.is_match(path.as_bytes())) {
                    // Met by several of its hosts and paths, it counts by the most specific.
                    let standing = Standing { host: list.host, path: list.path, rank: rule.rank };
                    standings.entry(route as usize).or_insert(standing);
                }
            }
            ControlFlow::Continue(())
        });
        standings
    }

    fn verdict(&self, rule: &Rule, question: &Question<'_>, standing: &Standing, best: Option<&Standing>) -> Verdict {
        let failed = rule.conditions.iter().find(|condition| !condition.holds(question));
        match (failed, best) {
            (Some(condition), _) => {
                Verdict::Failed { condition: condition.text(), saw: condition.saw(question, &self.listeners), near: true }
            }
            (None, Some(best)) if best != standing => {
                let (by, why) = best.differs_by(standing);
                Verdict::Outranked(by, why)
            }
            (None, _) => Verdict::Taken,
        }
    }
}

impl Patterns {
    fn meet_host(&self, question: &Question<'_>) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|host| host.matches(question.host))
    }

    /// Why the tables do not lead to this route.
    fn misses(&self, question: &Question<'_>, keeps_slashes: bool) -> Verdict {
        let (name, patterns, saw) = if self.meet_host(question) {
            let path = question.unmerged.filter(|_| keeps_slashes).unwrap_or(question.path);
            ("paths", self.paths.iter().map(ToString::to_string).collect::<Vec<_>>(), path)
        } else {
            ("hosts", self.hosts.iter().map(ToString::to_string).collect(), question.host)
        };
        let saw = (!saw.is_empty()).then(|| shown(saw.as_bytes()));
        Verdict::Failed { condition: format!("{name}: [{}]", patterns.join(", ")), saw, near: false }
    }
}
