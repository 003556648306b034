//! What does the service manager hear? The test is the manager: it opens the socket.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vm_test::Process;
use vm_test::halt::Halted;
use vm_test::namespace::output;

use crate::Bench;

/// Time between two signs of life: a third of this.
const WATCHDOG: Duration = Duration::from_millis(900);

struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn start(bench: &Bench) -> Result<(Self, Process)> {
        let path = bench.directory.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut command = bench.natgate(&[])?;
        command.env("NOTIFY_SOCKET", &path);
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        Ok((Self { socket }, Process::start(command, "natgate", bench.directory.path())?))
    }

    /// The next message: lines of `NAME=VALUE`.
    fn hear(&self) -> Result<Vec<String>> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).context("natgate says nothing more")?;
        Ok(str::from_utf8(&message[..length])?.lines().map(ToOwned::to_owned).collect())
    }

    /// Listens until a message has the line `wanted`; yields it.
    fn hear_until(&self, wanted: &str) -> Result<Vec<String>> {
        loop {
            let message = self.hear()?;
            if message.iter().any(|line| line == wanted) {
                return Ok(message);
            }
        }
    }
}

fn has(message: &[String], line: &str) -> bool {
    message.iter().any(|one| one == line)
}

const ALIVE: &str = "WATCHDOG=1";
const WELL: &str = "STATUS=1 worker, 0 subscribers, 0 sessions";

#[test]
fn manager_hears_ready_then_signs_of_life_then_the_end() -> Result<()> {
    let bench = Bench::new()?;
    let (manager, mut natgate) = Manager::start(&bench)?;
    let first = manager.hear()?;
    ensure!(has(&first, "READY=1") && has(&first, WELL), "{first:?}: {}", natgate.stderr());
    // What the manager is told is true: it is asked right now.
    let mut ask = std::process::Command::new("curl");
    ask.args(["-sS", "--fail", "http://n/readyz", "--unix-socket"]).arg(bench.socket());
    output(&mut ask)?;
    for _ in 0..4 {
        let sign = manager.hear()?;
        ensure!(has(&sign, ALIVE) && has(&sign, WELL), "{sign:?}");
    }
    bench.gateway.ip("link del in0")?;
    manager.hear_until("STATUS=an interface is gone")?;
    natgate.signal(Signal::SIGTERM)?;
    manager.hear_until("STOPPING=1")?;
    ensure!(natgate.end(Signal::SIGTERM, Duration::from_secs(10))?.success());
    ensure!(!natgate.stderr().contains("no progress"), "{}", natgate.stderr());
    Ok(())
}

#[test]
fn manager_hears_no_sign_of_life_while_a_worker_stands_still() -> Result<()> {
    let bench = Bench::new()?;
    let (manager, natgate) = Manager::start(&bench)?;
    manager.hear_until(ALIVE)?;
    // A debugger stops this thread alone; the control thread goes on.
    let halted = Halted::worker(natgate.id(), 0)?;
    let stuck = "STATUS=no progress: worker 0";
    let first = manager.hear_until(stuck)?;
    ensure!(!has(&first, ALIVE), "{first:?}");
    for _ in 0..6 {
        let message = manager.hear()?;
        ensure!(has(&message, stuck) && !has(&message, ALIVE), "{message:?}");
    }
    ensure!(natgate.stderr().matches("workers make no progress").count() == 1);
    drop(halted);
    let message = manager.hear_until(WELL)?;
    ensure!(has(&message, ALIVE), "{message:?}");
    Ok(())
}
