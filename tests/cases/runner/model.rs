//! What a case file says.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::text::{Expression, Text};
use crate::support::{Signal, Trigger};

/// A case file.
#[derive(Debug)]
pub(crate) struct Case {
    /// For messages: its path from the root of the repository.
    pub(crate) file: String,
    /// The comment at its head.
    pub(crate) title: String,
    /// The configuration keys that it shows to have an effect.
    pub(crate) covers: Vec<String>,
    pub(crate) needs_ipv6: bool,
    /// Something in the process panics, and it lives on.
    pub(crate) panics: bool,
    /// Arguments in place of `run -c ravelin.yaml`.
    pub(crate) arguments: Option<Vec<Text>>,
    pub(crate) config: Text,
    /// No section is added to the configuration.
    pub(crate) config_exactly: bool,
    pub(crate) files: Vec<(String, Text)>,
    pub(crate) environment: Vec<(String, Text)>,
    pub(crate) origins: Vec<OriginScript>,
    pub(crate) steps: Vec<Step>,
    /// The placeholders in all of it.
    pub(crate) placeholders: BTreeSet<String>,
}

/// An `origin` section with the answers that follow it.
#[derive(Debug)]
pub(crate) struct OriginScript {
    pub(crate) name: String,
    pub(crate) bind: BindKind,
    pub(crate) per_connection: bool,
    pub(crate) stopped: bool,
    pub(crate) answers: Vec<AnswerScript>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BindKind {
    V4,
    V6,
    Unix,
}

#[derive(Debug)]
pub(crate) struct AnswerScript {
    pub(crate) trigger: Trigger,
    pub(crate) target: Option<Text>,
    pub(crate) actions: Vec<Act>,
}

/// One thing that an origin does.
#[derive(Debug)]
pub(crate) enum Act {
    Message(Message),
    Send(Text),
    Wait(String),
    Sleep(Duration),
    Close,
    Reset,
    Stall,
    Echo,
}

/// A request or a response to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) first: Text,
    pub(crate) fields: Vec<(String, Text)>,
    /// Fields that are not to be added by themselves, in lower case.
    pub(crate) without: Vec<String>,
    pub(crate) body: Text,
}

#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) what: What,
}

/// What a step does or expects.
#[derive(Debug)]
pub(crate) enum What {
    Request {
        via: Via,
        times: Option<usize>,
        message: Message,
    },
    Send {
        via: Via,
        bytes: Text,
    },
    Response {
        on: Option<String>,
        so_far: bool,
        checks: Vec<Check>,
    },
    Receive {
        on: Option<String>,
        bytes: Text,
    },
    Close {
        on: Option<String>,
        how: Closing,
    },
    Closed {
        on: Option<String>,
    },
    /// What comes ends before it is a whole response.
    Aborted {
        on: Option<String>,
    },
    Received {
        origin: String,
        nth: Option<usize>,
        checks: Vec<Check>,
    },
    ReceivedExactly {
        origin: String,
        nth: Option<usize>,
        head: Vec<(usize, Text)>,
        body: Text,
    },
    ReceivedBytes {
        origin: String,
        nth: Option<usize>,
        bytes: Text,
    },
    Saw {
        origin: String,
        what: Seen,
        numbers: RangeInclusive<usize>,
    },
    Disconnected {
        origin: String,
    },
    Spread(Vec<(String, RangeInclusive<usize>)>),
    Order(Vec<String>),
    Forget,
    Stop {
        origin: String,
    },
    Start {
        origin: String,
    },
    Release(String),
    Signal(Signal),
    Exits {
        code: Option<i32>,
        checks: Vec<Check>,
    },
    Log(Check),
    /// A file that Ravelin writes, and what is to be in it.
    Read(String, Check),
    WaitUntil {
        status: u16,
        from: Option<String>,
        via: Via,
        message: Message,
    },
    Write {
        file: String,
        text: Text,
    },
}

/// Over which connection something is sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Via {
    pub(crate) connection: Which,
    /// A listener's name or an address; default: the first listener.
    pub(crate) to: Option<Text>,
    pub(crate) h2: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) enum Which {
    #[default]
    New,
    Again,
    Named(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    Close,
    HalfClose,
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Requests,
    Connections,
}

/// A line that expects something.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) line: usize,
    /// As it stands in the file.
    pub(crate) written: String,
    pub(crate) expects: Expects,
}

#[derive(Debug)]
pub(crate) enum Expects {
    /// The status of a response.
    Status(u16),
    /// The start line.
    First(Text),
    FirstMatches(Expression),
    /// Exactly these values, in order (one for each line of that name).
    Fields {
        name: String,
        values: Vec<Text>,
    },
    FieldMatches {
        name: String,
        expression: Expression,
    },
    Absent {
        name: String,
    },
    Trailer {
        name: String,
        value: Text,
    },
    Body(Text),
    BodyMatches(Expression),
    BodyContains(Text),
    BodyLacks(Text),
    Json {
        pointer: String,
        value: Text,
    },
    /// The connection is closed afterwards.
    Closed,
    /// The connection stays open.
    Kept,
    /// The message is cut short.
    Incomplete,
    Within(Duration),
    After(Duration),
    /// On the origin's nth connection.
    OnConnection(usize),
    /// A stream of lines.
    OutputContains(Output, Text),
    OutputLacks(Output, Text),
    OutputMatches(Output, Expression),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Log,
    Stdout,
}
