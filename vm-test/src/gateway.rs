//! How does a test start, ask, stop and kill natgate?

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::binary::natgate_binary;
use crate::namespace::output;
use crate::{Namespace, Process, wait};

/// A running natgate.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    socket: PathBuf,
}

impl Gateway {
    /// Runs `natgate run` with `arguments` in `namespace` and waits until traffic flows.
    pub fn start(namespace: &Namespace, directory: &Path, arguments: &[String]) -> Result<Self> {
        let mut gateway = Self::launch(namespace, directory, arguments)?;
        gateway.await_ready(Duration::from_secs(10))?;
        Ok(gateway)
    }

    /// Runs `natgate run` and does not wait.
    pub fn launch(namespace: &Namespace, directory: &Path, arguments: &[String]) -> Result<Self> {
        let socket = directory.join("natgate.sock");
        let mut command = namespace.command(natgate_binary()?);
        command.arg("run").args(arguments).arg("--socket").arg(&socket);
        command.arg("--state-dir").arg(directory.join("state"));
        Ok(Self { process: Process::start(command, "natgate", directory)?, socket })
    }

    /// Waits until `/readyz` answers 200.
    pub fn await_ready(&mut self, limit: Duration) -> Result<()> {
        let ready = wait::until("natgate to be ready", limit, || {
            if let Some(status) = self.process.ended()? {
                anyhow::bail!("natgate ended with {status}");
            }
            Ok(self.get("/readyz").is_ok().then_some(()))
        });
        ready.with_context(|| self.output())
    }

    /// Everything that it has written so far, for people.
    pub fn output(&self) -> String {
        format!(
            "--- natgate's stdout\n{}\n--- natgate's stderr\n{}",
            self.process.stdout(),
            self.process.stderr()
        )
    }

    /// Memory that it occupies, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.process.resident_kib()
    }

    /// Number of its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// `kill -9`.
    pub fn kill9(&mut self) -> Result<ExitStatus> {
        self.process.end(Signal::SIGKILL, Duration::from_secs(10))
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.end(Signal::SIGTERM, Duration::from_secs(15))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// A client command that is yet to run.
    pub fn client(&self, arguments: &[String]) -> Result<Command> {
        let mut command = Command::new(natgate_binary()?);
        command.args(arguments).arg("--socket").arg(&self.socket);
        Ok(command)
    }

    /// Runs a client command: exit status, standard output, standard error.
    pub fn command(&self, arguments: &[&str]) -> Result<(i32, String, String)> {
        let mut command = Command::new(natgate_binary()?);
        let done = command.args(arguments).arg("--socket").arg(&self.socket).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = done.status.code().context("ended by a signal")?;
        Ok((code, text(&done.stdout), text(&done.stderr)))
    }

    /// The rows of a client command (`drops`, `workers`, ...) with `--json`: an array, an object
    /// or one object a line all become a list of objects.
    pub fn json(&self, arguments: &[&str]) -> Result<Vec<serde_json::Value>> {
        let mut command = Command::new(natgate_binary()?);
        command.args(arguments).arg("--json").arg("--socket").arg(&self.socket);
        let text = output(&mut command)?;
        let mut rows = Vec::new();
        for value in serde_json::Deserializer::from_str(&text).into_iter() {
            match value? {
                serde_json::Value::Array(values) => rows.extend(values),
                other => rows.push(other),
            }
        }
        Ok(rows)
    }

    /// What was dropped for which reason, in a line.
    pub fn drops(&self) -> String {
        let text = |row: &serde_json::Value| {
            let packets = row["packets"].as_u64().filter(|packets| *packets > 0)?;
            Some(format!("{} {packets}", row["reason"].as_str()?))
        };
        match self.json(&["drops"]) {
            Ok(rows) => rows.iter().filter_map(text).collect::<Vec<_>>().join(", "),
            Err(error) => format!("unknown ({error:#})"),
        }
    }

    /// How many packets were dropped for `reason`, everywhere.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        let rows = self.json(&["drops"])?;
        let counts = rows.iter().filter(|row| row["reason"] == reason);
        Ok(counts.filter_map(|row| row["packets"].as_u64()).sum())
    }

    /// The sum of one field over all workers.
    pub fn workers_total(&self, field: &str) -> Result<u64> {
        let rows = self.json(&["workers"])?;
        Ok(rows.iter().filter_map(|row| row[field].as_u64()).sum())
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// The body of a 200 answer on the stats socket.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: natgate\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok(body.to_owned())
    }
}
