//! The program is replaced, and sessions live on (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (natgate ends in order; another one takes its place) ── r ── s1
//! ```

mod failed;
mod leaving;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use vm_test::client::{connect, echo, echo_datagram};
use vm_test::rig::{PODS, S1};
use vm_test::{Options, Rig, server};

const PORT: u16 = 7;
const IDLE: usize = 2_000;

fn pool(name: &str, address: &str, settings: &str) -> String {
    format!(
        "---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {{name: {name}}}
spec: {{addresses: [{address}]{settings}}}
"
    )
}

/// c1 goes by the pool `first`, c2 by `second`.
fn objects(second: &str, settings: &str) -> String {
    objects_at(second, "203.0.113.11", settings)
}

/// The same; the second pool has this address.
fn objects_at(second: &str, address: &str, settings: &str) -> String {
    let (first, other) = (pool("first", "203.0.113.10", settings), pool(second, address, settings));
    format!(
        "\
apiVersion: natgate.dev/v1alpha1
kind: Gateway
metadata: {{name: gateway}}
spec: {{interfaces: {{internal: [int], external: [ext]}}}}
{first}{other}---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {{name: c1}}
spec: {{from: [{}/32], pool: first}}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {{name: c2}}
spec: {{from: [{}/32], pool: {second}}}
",
        PODS[0], PODS[1]
    )
}

fn options(workers: u16, queues: u16, settings: &str) -> Options {
    let config = Some(objects("second", settings));
    Options { config, workers, queues, ..Options::natgate() }
}

/// Starts natgate with these objects and workers, while the rig goes on.
fn start(rig: &mut Rig, objects: &str, workers: u16) -> Result<()> {
    let mut arguments = rig.natgate_arguments()?;
    rig.write_objects(objects)?;
    let at = arguments.iter().position(|it| it == "--workers").context("no --workers")?;
    arguments[at + 1] = workers.to_string();
    rig.natgate = Some(rig.launch_ready(&arguments)?);
    Ok(())
}

fn restart(rig: &mut Rig, objects: &str, workers: u16) -> Result<Duration> {
    let begun = Instant::now();
    let ended = rig.natgate()?.terminate()?;
    ensure!(ended.success(), "{ended}");
    start(rig, objects, workers)?;
    Ok(begun.elapsed())
}

fn state_file(rig: &Rig) -> PathBuf {
    rig.directory().join("natgate.state")
}

fn restored(rig: &mut Rig) -> Result<String> {
    let status = rig.natgate()?.json(&["status"])?.into_iter().next().context("no status")?;
    Ok(status["restored"].as_str().unwrap_or("nothing was left").to_owned())
}

/// Sessions as they are seen outside, without what goes on.
fn seen(rig: &mut Rig) -> Result<Vec<(String, String, String)>> {
    let rows = rig.natgate()?.json(&["sessions"])?;
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or("-").to_owned();
    let row = |row: &Value| (text(row, "internal"), text(row, "public"), text(row, "remote"));
    let mut all: Vec<_> = rows.iter().map(row).collect();
    all.sort();
    Ok(all)
}

/// Since when the block of the first session is its pod's, as `natgate who` says.
fn held_since(rig: &mut Rig) -> Result<String> {
    let public = seen(rig)?.into_iter().next().context("no session")?.1;
    let answer = rig.natgate()?.json(&["who", &public])?;
    let since = answer[0].pointer("/holders/0/from").and_then(Value::as_str);
    Ok(since.with_context(|| format!("no holder of {public}: {answer:?}"))?.to_owned())
}

/// A transfer that goes on until it is told to end: bytes that came back, and the longest silence.
struct Bulk {
    stop: Arc<AtomicBool>,
    ends: [JoinHandle<Result<(u64, Duration)>>; 2],
}

impl Bulk {
    fn begin(mut stream: TcpStream) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        let mut writing = stream.try_clone()?;
        let stopping = Arc::clone(&stop);
        let writer = std::thread::spawn(move || {
            let mut sent = 0_u64;
            while !stopping.load(Ordering::Relaxed) {
                // Each byte says where it belongs.
                let bytes: Vec<u8> = (sent..sent + 4096).map(|at| (at % 251) as u8).collect();
                writing.write_all(&bytes)?;
                sent += 4096;
                // Some megabytes a second: every packet is captured twice.
                std::thread::sleep(Duration::from_millis(1));
            }
            writing.shutdown(std::net::Shutdown::Write)?;
            Ok((sent, Duration::ZERO))
        });
        let reader = std::thread::spawn(move || {
            let (mut bytes, mut came, mut gap) = (vec![0; 16_384], 0_u64, Duration::ZERO);
            let mut last = Instant::now();
            loop {
                let length = stream.read(&mut bytes)?;
                gap = gap.max(last.elapsed());
                last = Instant::now();
                if length == 0 {
                    return Ok((came, gap));
                }
                for (at, byte) in (came..).zip(&bytes[..length]) {
                    ensure!(u64::from(*byte) == at % 251, "byte {at} is another one");
                }
                came += length as u64;
            }
        });
        Ok(Self { stop, ends: [writer, reader] })
    }

    /// Ends it; everything that was sent must have come back. The longest silence.
    fn end(self) -> Result<(u64, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut results = Vec::new();
        for end in self.ends {
            results.push(end.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        ensure!(results[0].0 == results[1].0, "sent {}, came {}", results[0].0, results[1].0);
        Ok(results[1])
    }
}

/// What pods have before: connections that are idle, sockets, and a transfer.
struct Before {
    idle: Vec<TcpStream>,
    sockets: Vec<UdpSocket>,
}

impl Before {
    fn open(rig: &Rig, connections: usize) -> Result<Self> {
        server::tcp_echo(&rig.s1, S1[0], PORT)?;
        server::udp_echo(&rig.s1, S1[0], PORT)?;
        let (mut idle, mut sockets) = (Vec::new(), Vec::new());
        for pod in &rig.pods {
            let opened = pod.run(move || -> Result<(Vec<TcpStream>, Vec<UdpSocket>)> {
                let mut streams = Vec::new();
                for _ in 0..connections / 2 {
                    let mut stream = connect((S1[0], PORT))?;
                    echo(&mut stream, b"before")?;
                    streams.push(stream);
                }
                let mut sockets = Vec::new();
                for _ in 0..20 {
                    let socket = vm_test::client::udp((S1[0], PORT))?;
                    echo_datagram(&socket, b"before")?;
                    sockets.push(socket);
                }
                Ok((streams, sockets))
            })??;
            idle.extend(opened.0);
            sockets.extend(opened.1);
        }
        Ok(Self { idle, sockets })
    }

    fn all_go_on(&mut self) -> Result<()> {
        for (number, stream) in self.idle.iter_mut().enumerate() {
            echo(stream, b"after").with_context(|| format!("connection {number}"))?;
        }
        for (number, socket) in self.sockets.iter().enumerate() {
            echo_datagram(socket, b"after").with_context(|| format!("socket {number}"))?;
        }
        Ok(())
    }
}

fn bulk(rig: &Rig) -> Result<Bulk> {
    Bulk::begin(rig.pods[0].run(|| connect((S1[0], PORT)))??)
}

/// The journal of a natgate that has taken over has every block as it was, and no gap.
fn records_go_on(rig: &mut Rig) -> Result<()> {
    let events = rig.natgate()?.json(&["events", "--last", "1000"])?;
    let of = |kind: &str| events.iter().filter(|row| row["kind"] == kind).count();
    let restored = events.iter().filter(|row| row["restored"] == true).count();
    ensure!(restored > 0 && restored == of("block-allotted"), "{restored} blocks: {events:?}");
    ensure!(of("missing") + of("crashed") == 0, "{events:?}");
    ensure!(events.iter().all(|row| row["found"] != true), "{events:?}");
    let log = rig.natgate()?.log();
    ensure!(!log.contains("unrecorded") && !log.contains("without a word"), "{log}");
    Ok(())
}

/// A transfer, idle connections and datagrams live through `times` restarts, everyone under the address and port that
/// it had; new ones begin.
fn survive(rig: &mut Rig, settings: &str, connections: usize, workers: &[u16]) -> Result<()> {
    let mut before = Before::open(rig, connections)?;
    let transfer = bulk(rig)?;
    let since = held_since(rig)?;
    for &workers in workers {
        let was = seen(rig)?;
        ensure!(was.len() == connections + 41, "{} sessions", was.len());
        let took = restart(rig, &objects("second", settings), workers)?;
        println!("restart with {workers} workers: {took:?}; {}", restored(rig)?);
        ensure!(!rig.gw.has(&state_file(rig))?, "the state is left to be loaded twice");
        let said = restored(rig)?;
        let all = was.len();
        ensure!(said == format!("{all} of {all} sessions of the natgate before live on"), "{said}");
        ensure!(seen(rig)? == was, "sessions are others than before");
        ensure!(held_since(rig)? == since, "a block is held since {since}");
        records_go_on(rig)?;
        before.all_go_on()?;
        ensure!(seen(rig)? == was, "sessions began anew");
    }
    let (bytes, gap) = transfer.end()?;
    println!("{bytes} bytes, longest silence {gap:?}");
    ensure!(bytes > 0, "nothing was transferred");
    let mut new = rig.pods[1].run(|| connect((S1[0], PORT)))??;
    echo(&mut new, b"new")
}

fn survives(mut rig: Rig, settings: &str, connections: usize, workers: &[u16]) {
    let done = survive(&mut rig, settings, connections, workers);
    rig.must(done);
    let summary = rig.verify();
    rig.must(summary);
}

#[test]
fn a_transfer_and_two_thousand_idle_connections_survive_a_restart() {
    survives(Rig::start(options(1, 1, "")).unwrap(), "", IDLE, &[1, 1]);
}

#[test]
fn sessions_survive_with_other_numbers_of_workers() {
    survives(Rig::start(options(2, 2, "")).unwrap(), "", 200, &[1, 2]);
}

#[test]
fn sessions_of_endpoint_independent_mappings_survive() {
    let settings = ", profile: rfc4787, quota: {blocks: 16}";
    survives(Rig::start(options(2, 2, settings)).unwrap(), settings, 200, &[2, 1]);
}

/// The negative control: with no state file, connections are gone.
#[test]
fn nothing_survives_without_a_state_file() {
    let mut options = options(1, 1, "");
    options.flags = vec!["--state-file".to_owned(), "none".to_owned()];
    let mut rig = Rig::start(options).unwrap();
    survive(&mut rig, "", 10, &[1]).unwrap_err();
}

fn without_its_pool(rig: &mut Rig) -> Result<()> {
    let mut before = Before::open(rig, 20)?;
    restart(rig, &objects("third", ""), 1)?;
    let said = restored(rig)?;
    let wanted = "30 of 60 sessions of the natgate before live on; lost: 30 whose pool is gone";
    ensure!(said.starts_with(wanted), "{said}");
    let (kept, gone) = before.idle.split_at_mut(10);
    for stream in kept {
        echo(stream, b"after")?;
    }
    for stream in gone {
        ensure!(echo(stream, b"after").is_err(), "a connection without its pool goes on");
    }
    // What c2 opens now is of the new pool.
    let mut new = rig.pods[1].run(|| connect((S1[0], PORT)))??;
    echo(&mut new, b"new")
}

#[test]
fn sessions_of_a_pool_that_is_gone_end_and_the_others_live() {
    let mut rig = Rig::start(options(1, 1, "")).unwrap();
    let done = without_its_pool(&mut rig);
    rig.must(done);
}

/// natgate ends; `change` does something to what it left; the next one must say `said`, start empty, and serve.
fn refuse(rig: &mut Rig, change: impl FnOnce(&mut Vec<u8>), said: &str) -> Result<()> {
    let mut stream = rig.pods[0].run(|| connect((S1[0], PORT)))??;
    echo(&mut stream, b"before")?;
    rig.natgate()?.terminate()?;
    let mut bytes = rig.gw.read_bytes(&state_file(rig))?;
    change(&mut bytes);
    rig.gw.write(&state_file(rig), &bytes)?;
    start(rig, &objects("second", ""), 1)?;
    let line = restored(rig)?;
    ensure!(line.contains("refused") && line.contains(said), "{line}");
    ensure!(rig.natgate()?.log().contains(said), "{}", rig.natgate()?.log());
    ensure!(seen(rig)?.is_empty(), "half of a state was loaded");
    ensure!(echo(&mut stream, b"after").is_err(), "a session lives that was not restored");
    let mut new = rig.pods[0].run(|| connect((S1[0], PORT)))??;
    echo(&mut new, b"new")
}

fn wrong_states(rig: &mut Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    refuse(rig, |bytes| bytes[16] += 1, "format 4, and this natgate reads 3")?;
    refuse(rig, |bytes| bytes.truncate(bytes.len() / 2), "cut short")?;
    refuse(rig, |bytes| bytes.truncate(7), "not a state of natgate")?;
    refuse(rig, |bytes| *bytes = vec![0xa5; 100_000], "not a state of natgate")?;
    let damage = |bytes: &mut Vec<u8>| {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    };
    refuse(rig, damage, "damaged")
}

#[test]
fn a_state_that_is_not_whole_is_refused_whole_and_by_name() {
    let mut rig = Rig::start(options(1, 1, "")).unwrap();
    let done = wrong_states(&mut rig);
    rig.must(done);
}

fn killed(rig: &mut Rig) -> Result<()> {
    let mut before = Before::open(rig, 4)?;
    restart(rig, &objects("second", ""), 1)?;
    before.all_go_on()?;
    // What was loaded is gone, and who is killed leaves nothing but a sign of life.
    let count = seen(rig)?.len();
    let sign = rig.directory().join("state/running");
    vm_test::wait::until("a sign of life", Duration::from_secs(30), || {
        let text = rig.gw.read(&sign)?;
        Ok(text.contains(&format!("\"sessions\":{count},")).then_some(()))
    })?;
    rig.natgate()?.kill9()?;
    ensure!(!rig.gw.has(&state_file(rig))?, "a state is left");
    start(rig, &objects("second", ""), 1)?;
    a_crash_is_told(rig, count)?;
    ensure!(seen(rig)?.is_empty(), "sessions of a state that was loaded before");
    before.all_go_on().err().context("connections survive kill -9")?;
    let mut new = rig.pods[0].run(|| connect((S1[0], PORT)))??;
    echo(&mut new, b"new")?;
    // Once, and not of an end in order.
    restart(rig, &objects("second", ""), 1)?;
    records_go_on(rig)?;
    echo(&mut new, b"old")
}

/// In one line of the log, in the status, and in the journal.
fn a_crash_is_told(rig: &mut Rig, sessions: usize) -> Result<()> {
    let log = rig.natgate()?.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("without a word")).collect();
    let lost = format!("the {sessions} sessions that it had");
    ensure!(lines.len() == 1 && lines[0].contains(&lost) && lines[0].contains("WARN"), "{log}");
    let said = restored(rig)?;
    ensure!(said.starts_with("nothing: ") && said.contains(&lost), "{said}");
    let events = rig.natgate()?.json(&["events", "--last", "10"])?;
    let crash = events.iter().find(|row| row["kind"] == "crashed").context("no such event")?;
    ensure!(crash["count"] == sessions && crash["last_seen"].is_string(), "{crash}");
    let (_, text, _) = rig.natgate()?.command(&["events"])?;
    ensure!(text.contains("the natgate before, last seen at"), "{text}");
    Ok(())
}

#[test]
fn a_gateway_that_is_killed_leaves_nothing() {
    let mut rig = Rig::start(options(1, 1, "")).unwrap();
    let done = killed(&mut rig);
    rig.must(done);
}
