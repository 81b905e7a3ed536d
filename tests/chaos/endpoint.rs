//! An endpoint: a process that answers, and on demand does so badly. And the handle by which a test holds one.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{Reserved, free_port};

/// What a healthy one takes for an answer.
pub(crate) const USUAL: Duration = Duration::from_millis(5);

/// How it behaves.
#[derive(Default)]
struct Manner {
    delay_ms: AtomicU64,
    /// Of a hundred requests so many are answered with 503.
    share: AtomicU64,
    /// Connections are accepted and reset.
    resets: AtomicBool,
    /// Requests that came; where connections are reset, those.
    count: AtomicU64,
}

/// Serves until its standard input ends, which holds a command a line.
pub(crate) fn serve(address: &str, name: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let manner = Arc::new(Manner::default());
        manner.delay_ms.store(USUAL.as_millis() as u64, Ordering::Relaxed);
        let mut serving = Some(accept(address, name, &manner).await);
        println!("ready");
        let (read, mut commands) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| read.send(line)));
        while let Some(command) = commands.recv().await {
            let (word, number) = command.split_once(' ').unwrap_or((&command, "0"));
            let number: u64 = number.parse().unwrap();
            match word {
                "delay" => manner.delay_ms.store(number, Ordering::Relaxed),
                "share" => manner.share.store(number, Ordering::Relaxed),
                "resets" => manner.resets.store(number == 1, Ordering::Relaxed),
                // Connections close with the listener.
                "down" => drop(serving.take()),
                "up" => serving = Some(accept(address, name, &manner).await),
                "count" => {}
                _ => panic!("{command}"),
            }
            println!("{}", manner.count.load(Ordering::Relaxed));
        }
    });
    ExitCode::SUCCESS
}

async fn accept(address: &str, name: &str, manner: &Arc<Manner>) -> JoinSet<()> {
    let listener = TcpListener::bind(address).await.unwrap();
    let (name, manner) = (name.to_owned(), manner.clone());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    if manner.resets.load(Ordering::Relaxed) {
                        manner.count.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.set_zero_linger();
                        continue;
                    }
                    let _ = stream.set_nodelay(true);
                    connections.spawn(answer(stream, name.clone(), manner.clone()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
    serving
}

/// Answers on a connection for as long as requests come.
async fn answer(mut stream: TcpStream, name: String, manner: Arc<Manner>) {
    let mut seen = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let mut buffer = [0; 2048];
            match stream.read(&mut buffer).await {
                Ok(read @ 1..) => seen.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        };
        let text = String::from_utf8_lossy(&seen[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0_usize);
        while seen.len() < head + length {
            let mut buffer = [0; 2048];
            match stream.read(&mut buffer).await {
                Ok(read @ 1..) => seen.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        }
        let probe = text.starts_with("get /health ");
        seen.drain(..head + length);
        if manner.resets.load(Ordering::Relaxed) {
            let _ = stream.set_zero_linger();
            return;
        }
        tokio::time::sleep(Duration::from_millis(manner.delay_ms.load(Ordering::Relaxed))).await;
        // Every fifth, not one of five by chance: what a run sees does not depend on luck. Probes do not learn of it.
        let share = manner.share.load(Ordering::Relaxed);
        let busy = !probe && {
            let number = manner.count.fetch_add(1, Ordering::Relaxed) + 1;
            number * share / 100 != (number - 1) * share / 100
        };
        let status = if busy { "503 Service Unavailable" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\nx-endpoint: {name}\r\ncontent-length: 2\r\n\r\nok");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// An endpoint that a test started.
pub(crate) struct Endpoint {
    name: String,
    port: Reserved,
    running: Mutex<Running>,
}

struct Running {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Endpoint {
    pub(crate) fn start(name: &str) -> Self {
        let port = free_port();
        let running = Mutex::new(Running::start(&port.address().to_string(), name));
        Self { name: name.to_owned(), port, running }
    }

    pub(crate) fn address(&self) -> String {
        self.port.address().to_string()
    }

    /// Changes how it behaves; the number of requests that it has had.
    pub(crate) fn tell(&self, command: &str) -> u64 {
        let mut running = self.running.lock().unwrap();
        writeln!(running.commands, "{command}").unwrap();
        running.line().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.running.lock().unwrap().child), signal).unwrap();
    }

    /// Kills it: no goodbye to anybody.
    pub(crate) fn kill(&self) {
        let mut running = self.running.lock().unwrap();
        running.child.kill().unwrap();
        running.child.wait().unwrap();
    }

    /// Starts it again, at the same address.
    pub(crate) fn restart(&self) {
        *self.running.lock().unwrap() = Running::start(&self.address(), &self.name);
    }
}

impl Running {
    fn start(address: &str, name: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        command.args(["endpoint", address, name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut running = Self { child, commands, answers };
        assert_eq!(running.line(), "ready");
        running
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
