//! Places to write to fill up and vanish, and the clock jumps, while traffic goes on (topology: `vm_test::rig`).
//!
//! ```text
//!  c1 ── node ── gw (natgate; its directories on a disk of 1 MiB; its clock is set) ── r ── s1
//! ```

mod clock;
mod disk;

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use vm_test::client::{connect, echo, echo_datagram, udp};
use vm_test::rig::S1;
use vm_test::{Rig, server, wait};

const PORT: u16 = 7;
/// What is written every second is written by then.
const LIMIT: Duration = Duration::from_secs(30);

/// Sessions are recorded too, so that there is always something to write.
fn objects(directory: &Path) -> String {
    format!(
        "apiVersion: natgate.dev/v1alpha1
kind: Gateway
metadata: {{name: gateway}}
spec:
  interfaces: {{internal: [int], external: [ext]}}
  stateFile: {directory}/natgate.state
  events: {{sessions: true, file: {{path: {directory}/log/events.json, maxBytes: 262144, keep: 0}}}}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {{name: one}}
spec: {{addresses: [203.0.113.10], timers: {{udp: 1}}}}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {{name: everyone}}
spec: {{from: [10.244.0.0/16], pool: one}}
",
        directory = directory.display()
    )
}

/// One connection that lives, and a new session every few milliseconds, until it is told to end.
struct Traffic {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Traffic {
    fn begin(rig: &Rig) -> Result<Self> {
        server::tcp_echo(&rig.s1, S1[0], PORT)?;
        server::udp_echo(&rig.s1, S1[0], PORT)?;
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let body = move || -> Result<()> {
            let mut stream: TcpStream = connect((S1[0], PORT))?;
            while !stopping.load(Ordering::Relaxed) {
                echo(&mut stream, b"goes on").context("the connection that lives")?;
                echo_datagram(&udp((S1[0], PORT))?, b"is new").context("a new session")?;
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        };
        Ok(Self { stop, rounds, thread: rig.pods[0].spawn(body)? })
    }

    /// It goes on from now for a while.
    fn goes_on(&self) -> Result<()> {
        let wanted = self.rounds.load(Ordering::Relaxed) + 20;
        wait::until("the traffic to go on", LIMIT, || {
            ensure!(!self.thread.is_finished(), "the traffic has ended");
            Ok((self.rounds.load(Ordering::Relaxed) >= wanted).then_some(()))
        })
    }

    /// No packet was lost: whoever waits in vain ends the thread.
    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a thread panicked"))?
    }
}

/// Waits until the log has a line with all of these words, behind the first `from` bytes.
fn said(rig: &mut Rig, from: usize, words: &[&str]) -> Result<()> {
    wait::until(&format!("{words:?} in the log"), LIMIT, || {
        let log = rig.natgate()?.log();
        let new = log.get(from..).unwrap_or_default();
        Ok(new.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
    })
}

fn metric(rig: &mut Rig, name: &str) -> Result<u64> {
    let text = rig.natgate()?.metrics()?;
    let line = text.lines().find(|line| line.starts_with(name)).context(name.to_owned())?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

/// The whole lines of a file that is being written.
fn rows(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
