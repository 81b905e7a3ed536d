//! A trace as text, for whoever wonders where a request went.

use std::fmt;

use crate::proxy::trace::{Action, Candidate, Endpoint, Retry, Side, Target, Trace};

/// Shows a trace.
pub(in crate::cli) struct Text<'a> {
    pub(in crate::cli) trace: &'a Trace,
    pub(in crate::cli) colours: bool,
}

#[derive(Clone, Copy)]
enum Paint {
    Good,
    Bad,
    Bold,
    Faint,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request(f)?;
        self.candidates(f)?;
        self.verdict(f)?;
        self.filters(f)?;
        self.action(f)?;
        self.sent(f)
    }
}

impl Text<'_> {
    fn request(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = &self.trace.request;
        let host = if asked.host.is_empty() { "(no host)" } else { &asked.host };
        let query = asked.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let line = format!("{} {}://{}{}{query}", asked.method, asked.scheme, host, asked.path);
        writeln!(f, "{}", self.paint(Paint::Bold, &line))?;
        let client = asked.client.as_deref().unwrap_or("a unix socket");
        let peer = asked.peer.as_ref().map(|peer| format!(" (behind {peer}, who is believed)")).unwrap_or_default();
        let listener = asked.listener.as_ref().map(|name| format!(", through the listener `{name}`")).unwrap_or_default();
        writeln!(f, "from {client}{peer}{listener}")
    }

    fn candidates(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let candidates = &self.trace.candidates;
        if candidates.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{}", self.paint(Paint::Bold, "Routes, the nearest first"))?;
        let width = candidates.iter().map(|candidate| candidate.route.chars().count()).max().unwrap_or(0);
        for candidate in candidates {
            let (mark, paint) = match candidate.verdict {
                "taken" => ("✓", Paint::Good),
                "outranked" => ("·", Paint::Faint),
                _ => ("✗", Paint::Bad),
            };
            let name = format!("{:width$}", candidate.route);
            write!(f, "  {} {}  {}", self.paint(paint, mark), self.paint(Paint::Bold, &name), self.reason(candidate))?;
            match &candidate.place {
                Some(place) => writeln!(f, "  {}", self.paint(Paint::Faint, &format!("({place})")))?,
                None => writeln!(f)?,
            }
        }
        match self.trace.candidates_left_out {
            0 => Ok(()),
            1 => writeln!(f, "  … and one more whose host or path does not match (--all shows it)"),
            more => writeln!(f, "  … and {more} more whose host or path does not match (--all shows them)"),
        }
    }

    fn reason(&self, candidate: &Candidate) -> String {
        let winner = self.trace.route.as_ref().map_or("", |route| route.name.as_str());
        match (candidate.verdict, candidate.why, &candidate.condition) {
            ("taken", ..) => "takes it".to_owned(),
            (_, Some(why), _) => format!("matches too, but `{winner}` {why}"),
            (_, _, Some(condition)) => match &candidate.saw {
                Some(saw) => format!("needs {condition}; the request has {saw}"),
                None => format!("needs {condition}; the request has none"),
            },
            _ => "does not match".to_owned(),
        }
    }

    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (outcome, route) = (&self.trace.outcome, &self.trace.route);
        writeln!(f)?;
        match route {
            Some(route) => {
                write!(f, "{}", self.paint(Paint::Good, &format!("→ route `{}`", route.name)))?;
                if let Some(timeout) = &route.timeout {
                    write!(f, ", {timeout} for the whole exchange")?;
                }
                match &route.lane_reason {
                    Some(reason) => writeln!(f, "\n  {} lane: {reason}", route.lane),
                    None => writeln!(f, "\n  {} lane", route.lane),
                }
            }
            None => {
                let status = outcome.status.map(|status| status.to_string()).unwrap_or_default();
                let line = match outcome.kind {
                    "no_route" if self.trace.candidates.is_empty() => format!("→ {status}: there are no routes"),
                    "no_route" => format!("→ {status}: no route matches"),
                    "answered" => format!("→ {status}: answered before it is routed"),
                    _ => format!("→ {status}: refused before it is routed"),
                };
                write!(f, "{}", self.paint(Paint::Bad, &line))?;
                match (outcome.kind, &outcome.message, &outcome.reason) {
                    ("no_route", ..) => writeln!(f),
                    (_, Some(message), Some(reason)) => writeln!(f, " ({reason}): {message}"),
                    (_, _, Some(reason)) => writeln!(f, " ({reason})"),
                    _ => writeln!(f),
                }
            }
        }
    }

    fn filters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.trace.filters.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{}", self.paint(Paint::Bold, "Filters, in order"))?;
        for (step, number) in self.trace.filters.iter().zip(1..) {
            let does = step.does.as_deref().filter(|does| !does.is_empty());
            let unseen = if step.unseen { " (runs only when a request comes)" } else { "" };
            writeln!(f, "  {number}. {}: {}{unseen}", step.filter, does.unwrap_or("does not say what it would do"))?;
        }
        Ok(())
    }

    fn action(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = &self.trace.outcome;
        let status = outcome.status.unwrap_or_default();
        match &self.trace.action {
            None => {}
            Some(Action::Filter) => writeln!(f, "\nAnswered by a filter with {status}: nothing is forwarded")?,
            Some(Action::Redirect { location }) => writeln!(f, "\nRedirected with {status} to {location}")?,
            Some(Action::Respond { content_type }) => {
                let body = content_type.as_ref().map_or(String::new(), |kind| format!(", a body of {kind}"));
                writeln!(f, "\nAnswered by the route with {status}{body}: nothing is forwarded")?;
            }
            Some(Action::Split { cookie, by_cookie, sides }) => self.split(f, cookie.as_deref(), *by_cookie, sides)?,
            Some(Action::Upstream) => {}
        }
        if let Some(upstream) = &self.trace.upstream {
            upstream_of(f, upstream)?;
        }
        if let Some(mirror) = &self.trace.mirror {
            writeln!(f, "  mirror: a copy of {} of the requests goes to `{}`", mirror.ratio, mirror.upstream)?;
        }
        if outcome.kind == "failed" {
            let message = outcome.message.as_deref().or(outcome.reason.as_deref()).unwrap_or("it fails");
            writeln!(f, "\n{}", self.paint(Paint::Bad, &format!("It would fail with {status}: {message}")))?;
        }
        Ok(())
    }

    fn split(&self, f: &mut fmt::Formatter<'_>, cookie: Option<&str>, by_cookie: bool, sides: &[Side]) -> fmt::Result {
        let total: u64 = sides.iter().map(|side| u64::from(side.weight)).sum();
        writeln!(f, "\n{}", self.paint(Paint::Bold, "Split"))?;
        for side in sides {
            // Shares are for people: a tenth of a percent is enough.
            let share = f64::from(side.weight) * 100.0 / (total.max(1) as f64);
            writeln!(f, "  {} {}%", side.upstream, (share * 10.0).round() / 10.0)?;
        }
        let upstream = self.trace.upstream.as_ref().map_or("", |upstream| upstream.name.as_str());
        match (cookie, by_cookie) {
            (Some(cookie), true) => writeln!(f, "  the cookie `{cookie}` keeps this client on `{upstream}`"),
            (Some(cookie), false) => {
                writeln!(f, "  drawn, and then kept there by the cookie `{cookie}`; shown for `{upstream}`")
            }
            (None, _) => writeln!(f, "  drawn for each request; shown for `{upstream}`"),
        }
    }

    fn sent(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(sent) = &self.trace.sent else { return Ok(()) };
        let endpoint = self.trace.upstream.as_ref().and_then(|upstream| upstream.endpoint.as_deref());
        let to = endpoint.map(|endpoint| format!(", to {endpoint}")).unwrap_or_default();
        write!(f, "\n{}", self.paint(Paint::Bold, &format!("As it would leave{to}")))?;
        match sent.without.as_slice() {
            [] => writeln!(f)?,
            without => {
                let names: Vec<String> = without.iter().map(|name| format!("`{name}`")).collect();
                writeln!(f, " (without what {} may change)", names.join(" and "))?;
            }
        }
        writeln!(f, "  {} {}", sent.method, sent.target)?;
        sent.headers.iter().try_for_each(|(name, value)| writeln!(f, "  {name}: {value}"))
    }

    fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Good => "1;32",
            Paint::Bad => "1;31",
            Paint::Bold => "1",
            Paint::Faint => "2",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn upstream_of(f: &mut fmt::Formatter<'_>, upstream: &Target) -> fmt::Result {
    let weighted = upstream.endpoints.iter().any(|endpoint| endpoint.weight != 1);
    let endpoint = |endpoint: &Endpoint| {
        let weight = if weighted { format!(" (weight {})", endpoint.weight) } else { String::new() };
        let state = if endpoint.drained == Some(true) {
            " (drained)".to_owned()
        } else if endpoint.ejected == Some(true) {
            " (left out for its errors)".to_owned()
        } else if endpoint.healthy == Some(false) {
            " (not healthy)".to_owned()
        } else {
            let slow = endpoint.share.filter(|share| *share < 100);
            slow.map(|share| format!(" (starting slowly, at {share}%)")).unwrap_or_default()
        };
        format!("{}{weight}{state}", endpoint.address)
    };
    let list: Vec<String> = upstream.endpoints.iter().map(endpoint).collect();
    let order = match (upstream.balance, list.len()) {
        (_, 0) => "no endpoint",
        (_, 1) => "always",
        ("random", _) => "at random, one of",
        ("least_requests", _) => "of two drawn the one with less to do, of",
        ("peak_ewma", _) => "of two drawn the one that is expected to be quicker, of",
        ("hash", _) => "by hash, one of",
        _ => "in turn,",
    };
    writeln!(f, "\nForwarded to upstream `{}`: {order} {}", upstream.name, list.join(", "))?;
    if let Some(sticky) = &upstream.sticky {
        let held = if sticky.by_cookie { "which this client has" } else { "which decides nothing here" };
        writeln!(f, "  sticky: by the cookie `{}`, {held}", sticky.cookie)?;
    }
    let Target { connect_timeout, response_timeout, read_timeout, retry, .. } = upstream;
    write!(f, "  timeouts: connect {connect_timeout}, response {response_timeout}, read {read_timeout}")?;
    if let Some(limit) = &retry.try_timeout {
        write!(f, ", each try {limit}")?;
    }
    writeln!(f)?;
    retries(f, upstream.retries, retry)?;
    if let Some(after) = &retry.hedge {
        let slow = if after.ends_with('%') {
            format!("is slower than {after} of the requests")
        } else {
            format!("takes longer than {after}")
        };
        writeln!(f, "  hedge: another endpoint is asked too when the first {slow}; the first answer counts")?;
    }
    Ok(())
}

fn retries(f: &mut fmt::Formatter<'_>, retries: u32, retry: &Retry) -> fmt::Result {
    if retries == 0 || retry.conditions.is_empty() {
        return writeln!(f, "  retries: none");
    }
    let Retry { conditions, backoff_base, backoff_max, budget, .. } = retry;
    let waits = format!("each waits up to {backoff_base}, and longer up to {backoff_max}");
    let budget = budget
        .as_ref()
        .map_or_else(|| "no budget".to_owned(), |(ratio, min)| format!("all together at most {ratio} of the requests and {min}"));
    writeln!(f, "  retries: {retries} after {}; {waits}; {budget}", conditions.join(", "))
}
