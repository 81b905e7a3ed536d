//! A case on stage: its origins, its Ravelin, its clients.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use std::{fs, io};

use super::config;
use super::model::{Act, BindKind, Case, Message, Via, Which};
use super::text::{Text, Variables};
use crate::support::{
    Action, Answer, Bind, Connection, Deadline, Events, H2Connection, Launch, Origin, Outgoing, Ravelin, Reserved, Response,
    Transcript, Trouble, listeners,
};

/// Whom the requests of a case meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Against {
    /// A Ravelin with the case's configuration, and its requests in this lane.
    Ravelin(&'static str),
    /// The first origin itself: for tests of the runner.
    Origin,
}

/// Everything of a case that runs.
pub(crate) struct Stage<'a> {
    pub(crate) case: &'a Case,
    pub(crate) deadline: Deadline,
    pub(crate) variables: Variables,
    pub(crate) events: Events,
    // Clients end before the proxy, the proxy before the origins.
    pub(crate) clients: Vec<Client>,
    pub(crate) ravelin: Option<Ravelin>,
    pub(crate) origins: Vec<Origin>,
    /// As it was written to the file.
    pub(crate) config: String,
    pub(crate) directory: tempfile::TempDir,
    /// Connections with names.
    named: BTreeMap<String, usize>,
    /// The connection of the last step that used one.
    current: Option<usize>,
    /// Answers to `request N times`, until a step looks at them.
    pub(crate) batch: Vec<(Response, Duration)>,
    /// How many requests of each origin the steps have looked at.
    pub(crate) looked_at: BTreeMap<String, usize>,
    _reserved: Vec<Reserved>,
}

/// A connection of the case.
pub(crate) struct Client {
    pub(crate) label: String,
    pub(crate) link: Link,
}

pub(crate) enum Link {
    H1(Connection),
    H2(H2Connection),
    /// Closed by the case.
    Gone(Transcript),
}

impl Client {
    pub(crate) fn transcript(&self) -> &Transcript {
        match &self.link {
            Link::H1(connection) => &connection.transcript,
            Link::H2(connection) => &connection.transcript,
            Link::Gone(transcript) => transcript,
        }
    }

    pub(crate) fn sent_at(&self) -> Instant {
        match &self.link {
            Link::H1(connection) => connection.sent_at,
            Link::H2(connection) => connection.sent_at,
            Link::Gone(_) => Instant::now(),
        }
    }

    pub(crate) fn request(&mut self, request: &Outgoing, deadline: Deadline) -> Result<(), Trouble> {
        match &mut self.link {
            Link::H1(connection) => connection.request(request, deadline),
            Link::H2(connection) => connection.request(request, deadline),
            Link::Gone(_) => Err(gone()),
        }
    }

    pub(crate) fn next_response(&mut self, deadline: Deadline) -> Result<Response, Trouble> {
        match &mut self.link {
            Link::H1(connection) => connection.next_response(deadline),
            Link::H2(connection) => connection.next_response(deadline),
            Link::Gone(_) => Err(gone()),
        }
    }
}

fn gone() -> Trouble {
    Trouble::Broken("this connection was closed by an earlier step".into())
}

impl<'a> Stage<'a> {
    /// Binds the origins and reserves what the placeholders need; starts nothing.
    pub(crate) fn set(case: &'a Case) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (mut variables, events, mut reserved) = (Variables::new(), Events::new(), Vec::new());
        variables.insert("dir".into(), directory.path().display().to_string());
        for name in &case.placeholders {
            let kind = name.split('.').next().unwrap_or_default();
            if kind == "dead" || kind == "port" {
                let port = Reserved::v4().map_err(|error| error.to_string())?;
                let value = if kind == "dead" { port.address().to_string() } else { port.port().to_string() };
                variables.insert(name.clone(), value);
                reserved.push(port);
            }
        }
        let mut origins = Vec::new();
        for script in &case.origins {
            let bind = match script.bind {
                BindKind::V4 => Bind::V4,
                BindKind::V6 => Bind::V6,
                BindKind::Unix => Bind::Unix(directory.path().join(format!("{}.sock", script.name))),
            };
            let origin = Origin::prepare(&script.name, bind, script.per_connection, events.clone());
            let origin = origin.map_err(|error| format!("origin {}: {error}", script.name))?;
            let address = origin.address().to_owned();
            let port = address.rsplit(':').next().unwrap_or_default().to_owned();
            variables.insert(format!("origin.{}.port", script.name), port);
            if case.origins.len() == 1 {
                variables.insert("origin".into(), address.clone());
            }
            variables.insert(format!("origin.{}", script.name), address);
            origins.push(origin);
        }
        Ok(Self {
            case,
            deadline: Deadline::standard(),
            variables,
            events,
            clients: Vec::new(),
            ravelin: None,
            origins,
            config: String::new(),
            directory,
            named: BTreeMap::new(),
            current: None,
            batch: Vec::new(),
            looked_at: BTreeMap::new(),
            _reserved: reserved,
        })
    }

    /// Starts the origins that are not to be stopped at first.
    pub(crate) fn start_origins(&self) -> Result<(), String> {
        for (script, origin) in self.case.origins.iter().zip(&self.origins) {
            let mut answers = Vec::new();
            for answer in &script.answers {
                let target = answer.target.as_ref().map(|text| text.string(&self.variables)).transpose()?;
                let actions = answer.actions.iter().map(|act| self.action(act)).collect::<Result<_, _>>()?;
                answers.push(Answer { trigger: answer.trigger, target, actions });
            }
            origin.script(answers);
            if !script.stopped {
                origin.resume().map_err(|error| format!("origin {}: {error}", script.name))?;
            }
        }
        Ok(())
    }

    fn action(&self, act: &Act) -> Result<Action, String> {
        Ok(match act {
            Act::Message(message) => self.answer(message)?,
            Act::Send(bytes) => Action::Send(bytes.bytes(&self.variables)?),
            Act::Wait(event) => Action::Wait(event.clone()),
            Act::Sleep(time) => Action::Sleep(*time),
            Act::Close => Action::Close,
            Act::Reset => Action::Reset,
            Act::Stall => Action::Stall,
            Act::Echo => Action::Echo,
        })
    }

    fn answer(&self, message: &Message) -> Result<Action, String> {
        let first = message.first.string(&self.variables)?;
        let first = if first.starts_with("HTTP/") { first } else { format!("HTTP/1.1 {first}") };
        // The reason phrase may be empty, but its space may not be missing.
        let first = if first.matches(' ').count() < 2 { format!("{first} ") } else { first };
        let mut fields = self.fields(message)?;
        let body = message.body.bytes(&self.variables)?;
        let bodiless = [" 1", " 204", " 304"].iter().any(|status| first.contains(status)) && body.is_empty();
        if !has(&fields, "transfer-encoding") && !bodiless {
            add(&mut fields, message, "Content-Length", body.len().to_string());
        }
        let whole = Outgoing { method: String::new(), target: String::new(), version: String::new(), fields, body };
        let bytes = whole.bytes();
        let at = bytes.windows(2).position(|two| two == b"\r\n").unwrap_or(0);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |end| end + 4);
        let mut head = first.into_bytes();
        head.extend_from_slice(&bytes[at..end]);
        Ok(Action::Message { head, body: bytes[end..].to_vec() })
    }

    /// A request of the case, with what is added by itself.
    pub(crate) fn outgoing(&self, message: &Message, h2: bool) -> Result<Outgoing, String> {
        let first = message.first.string(&self.variables)?;
        let mut words = first.splitn(3, ' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or("/"));
        let version = words.next().unwrap_or("HTTP/1.1");
        let mut fields = self.fields(message)?;
        let body = message.body.bytes(&self.variables)?;
        if !has(&fields, "host") && !message.without.iter().any(|name| name == "host") {
            fields.insert(0, ("Host".into(), b"ravelin.test".to_vec()));
        }
        if !body.is_empty() && !h2 && !has(&fields, "transfer-encoding") {
            add(&mut fields, message, "Content-Length", body.len().to_string());
        }
        Ok(Outgoing { method: method.into(), target: target.into(), version: version.into(), fields, body })
    }

    fn fields(&self, message: &Message) -> Result<Vec<(String, Vec<u8>)>, String> {
        let fields = message.fields.iter().map(|(name, value)| Ok((name.clone(), value.bytes(&self.variables)?)));
        fields.collect()
    }

    /// Writes the files and starts the process; `ready`: waits until it accepts.
    pub(crate) fn start_ravelin(&mut self, lane: &str, ready: bool) -> Result<(), String> {
        let io = |error: io::Error| error.to_string();
        for (name, text) in &self.case.files {
            self.write(name, text)?;
        }
        self.config = config::effective(self.case, &self.case.config.string(&self.variables)?, &self.origins);
        fs::write(self.directory.path().join("ravelin.yaml"), &self.config).map_err(io)?;
        let mut launch = Launch::new(self.directory.path()).env("RAVELIN_LANE", lane);
        if let Some(arguments) = &self.case.arguments {
            let arguments: Result<Vec<String>, String> = arguments.iter().map(|text| text.string(&self.variables)).collect();
            launch = launch.arguments(arguments?);
        }
        for (name, value) in &self.case.environment {
            launch = launch.env(name, &value.string(&self.variables)?);
        }
        let listeners = listeners(&self.config);
        let ravelin = self.ravelin.insert(launch.spawn().map_err(|error| format!("ravelin does not start: {error}"))?);
        if ready {
            ravelin.ready(listeners.len().max(1), self.deadline)?;
            let addresses = ravelin.addresses().to_vec();
            self.variables.insert("listener".into(), ravelin.address().to_owned());
            if let Some(admin) = ravelin.admin() {
                self.variables.insert("admin".into(), admin);
            }
            for (name, address) in config::actual(&listeners, &addresses) {
                self.variables.insert(format!("listener.{name}"), address);
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, name: &str, text: &Text) -> Result<(), String> {
        let path = self.directory.path().join(name);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all);
        let text = text.bytes(&self.variables)?;
        written.and_then(|()| fs::write(&path, text)).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn origin(&self, name: &str) -> Result<&Origin, String> {
        self.origins.iter().find(|origin| origin.name() == name).ok_or_else(|| format!("there is no origin {name}"))
    }

    /// The connection that a step sends over, opened if need be.
    pub(crate) fn connection(&mut self, via: &Via) -> Result<&mut Client, String> {
        let index = match &via.connection {
            Which::New => self.open(via, None)?,
            Which::Again => self.current.ok_or("no step has opened a connection yet")?,
            Which::Named(name) => match self.named.get(name) {
                Some(index) => *index,
                None => self.open(via, Some(name.clone()))?,
            },
        };
        self.current = Some(index);
        Ok(&mut self.clients[index])
    }

    /// The connection of this name, or the one last used.
    pub(crate) fn used(&mut self, name: Option<&String>) -> Result<&mut Client, String> {
        let index = match name {
            Some(name) => *self.named.get(name).ok_or_else(|| format!("no step has opened a connection `{name}`"))?,
            None => self.current.ok_or("no step has opened a connection yet")?,
        };
        self.current = Some(index);
        Ok(&mut self.clients[index])
    }

    fn open(&mut self, via: &Via, name: Option<String>) -> Result<usize, String> {
        let address = self.address(via)?;
        let link = if via.h2 {
            H2Connection::open(&address, self.deadline).map(Link::H2)
        } else {
            Connection::open(&address, self.deadline).map(Link::H1)
        };
        let link = link.map_err(|error| format!("cannot connect to {address}: {error}"))?;
        let number = self.clients.len() + 1;
        let label = match &name {
            Some(name) => format!("connection {name} to {address}"),
            None => format!("connection {number} to {address}"),
        };
        self.clients.push(Client { label, link });
        if let Some(name) = name {
            self.named.insert(name, self.clients.len() - 1);
        }
        Ok(self.clients.len() - 1)
    }

    pub(crate) fn address(&self, via: &Via) -> Result<String, String> {
        let Some(to) = &via.to else {
            return self.variables.get("listener").cloned().ok_or_else(|| "ravelin is not running".into());
        };
        let to = to.string(&self.variables)?;
        if to.contains(':') {
            return Ok(to);
        }
        self.variables.get(&format!("listener.{to}")).cloned().ok_or_else(|| format!("there is no listener `{to}`"))
    }
}

fn has(fields: &[(String, Vec<u8>)], name: &str) -> bool {
    fields.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
}

fn add(fields: &mut Vec<(String, Vec<u8>)>, message: &Message, name: &str, value: String) {
    if !has(fields, name) && !message.without.contains(&name.to_ascii_lowercase()) {
        fields.push((name.into(), value.into_bytes()));
    }
}
