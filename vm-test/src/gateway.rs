//! How does a test start, ask, stop and kill natgate?

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::binary::natgate_binary;
use crate::guest::Guest;
use crate::{Namespace, Process, wait};

/// A running natgate.
#[derive(Debug)]
pub struct Gateway {
    place: Place,
    socket: PathBuf,
}

/// Where it runs.
#[derive(Debug)]
enum Place {
    /// In a namespace of this machine.
    Here(Process),
    /// In a guest, whose files tell about it: `/tmp/natgate.{pid,status,out,err}`.
    Guest(Arc<Guest>),
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
        Self::launch_beside(None, namespace, directory, arguments)
    }

    /// The same; programs in the directory `programs` are found before others.
    pub fn launch_beside(
        programs: Option<&Path>,
        namespace: &Namespace,
        directory: &Path,
        arguments: &[String],
    ) -> Result<Self> {
        let Some(programs) = programs else {
            return Self::launch_in(&[], namespace, directory, arguments);
        };
        let path = std::env::var("PATH").context("PATH is not set")?;
        let path = format!("{}:{path}", programs.display());
        Self::launch_in(&[("PATH", &path)], namespace, directory, arguments)
    }

    /// The same, with these variables in its environment.
    pub fn launch_in(
        environment: &[(&str, &str)],
        namespace: &Namespace,
        directory: &Path,
        arguments: &[String],
    ) -> Result<Self> {
        let socket = directory.join("natgate.sock");
        let mut command = namespace.command(natgate_binary()?);
        command.envs(environment.iter().copied());
        command.arg("run").args(arguments).arg("--socket").arg(&socket);
        command.arg("--state-dir").arg(directory.join("state"));
        Ok(Self { place: Place::Here(Process::start(command, "natgate", directory)?), socket })
    }

    /// Runs `natgate run` in a guest and does not wait. Its state is in `directory` there.
    pub fn launch_in_guest(
        guest: &Arc<Guest>,
        directory: &Path,
        arguments: &[String],
    ) -> Result<Self> {
        let (socket, state) = (directory.join("natgate.sock"), directory.join("state"));
        let arguments = arguments.join(" ");
        let run = format!(
            "echo $$ > /tmp/natgate.pid; exec natgate run {arguments} --socket {} --state-dir {} > /tmp/natgate.out 2> /tmp/natgate.err",
            socket.display(),
            state.display()
        );
        // The guest's relay knows one place.
        guest.sh(&format!(
            "rm -f /tmp/natgate.* && mkdir -p {} && ln -sf {} /run/natgate.sock",
            directory.display(),
            socket.display()
        ))?;
        guest.sh(&format!("(sh -c '{run}'; echo $? > /tmp/natgate.status) >/dev/null 2>&1 &"))?;
        Ok(Self { place: Place::Guest(Arc::clone(guest)), socket: guest.socket() })
    }

    /// Waits until `/readyz` answers 200.
    pub fn await_ready(&mut self, limit: Duration) -> Result<()> {
        let ready = wait::until("natgate to be ready", limit, || {
            if let Some(status) = self.ended()? {
                anyhow::bail!("natgate ended with {status}");
            }
            Ok(self.get("/readyz").is_ok().then_some(()))
        });
        ready.with_context(|| self.output())
    }

    /// Everything that it has written so far, for people.
    pub fn output(&self) -> String {
        let (stdout, stderr) = match &self.place {
            Place::Here(process) => (process.stdout(), process.stderr()),
            Place::Guest(guest) => {
                let read = |what| guest.sh(&format!("cat /tmp/natgate.{what}")).unwrap_or_default();
                (read("out"), read("err") + "\n--- console\n" + &guest.console())
            }
        };
        format!("--- natgate's stdout\n{stdout}\n--- natgate's stderr\n{stderr}")
    }

    /// Memory that it occupies, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        match &self.place {
            Place::Here(process) => process.resident_kib(),
            Place::Guest(guest) => {
                let line = guest.sh("grep VmRSS /proc/$(cat /tmp/natgate.pid)/status")?;
                let number = line.split_whitespace().nth(1).context("no VmRSS")?;
                Ok(number.parse()?)
            }
        }
    }

    /// Number of its process, where it runs.
    pub fn id(&self) -> Result<u32> {
        match &self.place {
            Place::Here(process) => Ok(process.id()),
            Place::Guest(guest) => Ok(guest.sh("cat /tmp/natgate.pid")?.trim().parse()?),
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.place {
            Place::Here(process) => process.ended(),
            Place::Guest(guest) => {
                let (gone, status) = guest.try_sh("cat /tmp/natgate.status")?;
                // It is there a moment before it says something.
                let written = gone == 0 && !status.trim().is_empty();
                let status = if written { Some(status.trim().parse::<i32>()?) } else { None };
                // A shell tells the signal that ended a program as 128 and more.
                Ok(status.map(|it| ExitStatus::from_raw(if it > 128 { it - 128 } else { it << 8 })))
            }
        }
    }

    /// `kill -9`.
    pub fn kill9(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGKILL, Duration::from_secs(10))
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM, Duration::from_secs(15))
    }

    fn end(&mut self, signal: Signal, limit: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        wait::until(&format!("natgate's end after {signal}"), limit, || self.ended())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match &self.place {
            Place::Here(process) => process.signal(signal),
            Place::Guest(guest) => {
                let kill = format!("kill -{} $(cat /tmp/natgate.pid)", signal as i32);
                guest.sh(&kill).map(drop)
            }
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        match &self.place {
            Place::Here(process) => process.stderr(),
            Place::Guest(guest) => guest.sh("cat /tmp/natgate.err").unwrap_or_default(),
        }
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
        let (code, text, error) = self.command(&[arguments, &["--json"]].concat())?;
        ensure!(code == 0, "natgate {}: {code}: {error}", arguments.join(" "));
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
