//! A gateway is emptied: what is there goes on, nothing new begins (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (`natgate drain`, SIGTERM with --grace) ── r ── s1
//! ```

use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use vm_test::client::{PATIENCE, connect, echo, echo_datagram};
use vm_test::rig::{PODS, S1, verified};
use vm_test::{Options, Rig, server, wait};

const PORT: u16 = 7;
const PUBLIC: &str = "203.0.113.10";
const LIMIT: Duration = Duration::from_secs(20);

fn objects(onward: &str) -> String {
    format!(
        "\
apiVersion: natgate.dev/v1alpha1
kind: Gateway
metadata: {{name: gateway}}
spec: {{interfaces: {{internal: [int], external: [ext]}}}}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {{name: general}}
spec: {{addresses: [{PUBLIC}], timers: {{tcpTimeWait: 1, tcpReset: 1}}{onward}}}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {{name: everyone}}
spec: {{from: [10.244.0.0/16], pool: general}}
---
apiVersion: natgate.dev/v1alpha1
kind: PortForward
metadata: {{name: web}}
spec: {{address: {PUBLIC}, protocol: tcp, ports: \"8080\", target: {{address: {}, ports: \"80\"}}}}
",
        PODS[1]
    )
}

fn options(workers: u16, flags: &[&str]) -> Options {
    let flags = flags.iter().map(ToString::to_string).collect();
    let config = Some(objects(""));
    Options { config, workers, queues: workers, flags, ..Options::natgate() }
}

fn status(rig: &mut Rig) -> Result<Value> {
    rig.natgate()?.json(&["status"])?.into_iter().next().context("no status")
}

/// What pods and others have before.
struct Before {
    stream: TcpStream,
    socket: UdpSocket,
    forwarded: TcpStream,
}

impl Before {
    fn open(rig: &Rig) -> Result<Self> {
        server::tcp_echo(&rig.s1, S1[0], PORT)?;
        server::udp_echo(&rig.s1, S1[0], PORT)?;
        server::tcp_echo(&rig.pods[1], PODS[1], 80)?;
        Self::again(rig)
    }

    /// The same, with the servers that there are.
    fn again(rig: &Rig) -> Result<Self> {
        let stream = rig.pods[0].run(|| connect((S1[0], PORT)))??;
        let socket = datagrams(rig)?;
        let forwarded = forward(rig)?;
        let mut before = Self { stream, socket, forwarded };
        before.goes_on()?;
        Ok(before)
    }

    /// Everything works.
    fn goes_on(&mut self) -> Result<()> {
        echo(&mut self.stream, b"still here")?;
        echo_datagram(&self.socket, b"still here")?;
        echo(&mut self.forwarded, b"still here")
    }
}

fn datagrams(rig: &Rig) -> Result<UdpSocket> {
    rig.pods[0].run(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((S1[0], PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    })?
}

/// Somebody outside calls the forwarded port.
fn forward(rig: &Rig) -> Result<TcpStream> {
    rig.x.run(|| -> Result<TcpStream> {
        let address = format!("{PUBLIC}:8080").parse()?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })?
}

/// Nothing new begins, from either side, and the pod learns it.
fn nothing_begins(rig: &mut Rig) -> Result<()> {
    let dropped = rig.natgate()?.dropped("draining")?;
    let begun = Instant::now();
    let refused = rig.pods[0].run(|| connect((S1[0], PORT)))?;
    let refused = refused.err().context("a new connection was opened")?;
    ensure!(
        begun.elapsed() < Duration::from_secs(1) * rig.gw.slower(),
        "the pod had to wait: {refused:#}"
    );
    ensure!(echo_datagram(&datagrams(rig)?, b"new").is_err(), "a new UDP flow was opened");
    ensure!(forward(rig).is_err(), "a new connection came in");
    let ping = rig.pods[0].exec(&format!("ping -n -q -c 1 -W 1 {}", S1[0]));
    ensure!(ping.is_err(), "a new ping was opened");
    // From the very endpoint that the forwarded port leads to.
    let source = (PODS[1], 80);
    let opened = rig.pods[1].run(move || vm_test::client::connect_from(source, (S1[0], PORT)));
    ensure!(!opened.is_ok_and(|opened| opened.is_ok()), "a connection by the forward was opened");
    let more = rig.natgate()?.dropped("draining")? - dropped;
    ensure!(more >= 4, "only {more} drops");
    Ok(())
}

fn probes(rig: &mut Rig, ready: bool) -> Result<()> {
    let answer = rig.natgate()?.get("/readyz");
    if ready {
        ensure!(answer? == "ready\n", "not ready");
    } else {
        let answer = format!("{:#}", answer.err().context("ready while draining")?);
        ensure!(answer.contains("503") && answer.contains("draining"), "{answer}");
    }
    ensure!(rig.natgate()?.get("/healthz")? == "ok\n", "not alive");
    let gauge = format!("natgate_draining {}", u8::from(!ready));
    ensure!(rig.natgate()?.metrics()?.contains(&gauge), "no {gauge}");
    let shown = status(rig)?;
    ensure!(shown["drained_since"].is_null() == ready, "{shown}");
    ensure!(shown["stopping_in_s"].is_null(), "{shown}");
    Ok(())
}

fn drain_and_back(rig: &mut Rig) -> Result<()> {
    let mut before = Before::open(rig)?;
    probes(rig, true)?;
    let (code, out, error) = rig.natgate()?.command(&["drain"])?;
    ensure!(code == 0 && out.contains("general") && out.contains("draining since"), "{out}{error}");
    ensure!(out.contains("OLDEST"), "{out}");
    probes(rig, false)?;
    nothing_begins(rig)?;
    before.goes_on()?;
    // What remains, in numbers: two connections and the datagrams' session.
    let shown: Value = serde_json::from_str(&rig.natgate()?.get("/v1/drain")?)?;
    let general = &shown["pools"][0];
    ensure!(general["pool"] == "general" && general["sessions"] == 3, "{shown}");
    ensure!(general["established"] == 2, "{shown}");
    // They began before others were refused, which takes seconds.
    let oldest = general["oldest_s"].as_u64().context("no age")?;
    ensure!((1..600).contains(&oldest), "{oldest} s");
    ensure!(shown["sessions"] == 3 && shown["refused"].as_u64() >= Some(4), "{shown}");
    // A new configuration does not end it, nor does drain once more.
    rig.write_objects(&objects(", quota: {sessions: 100}"))?;
    let (code, _, error) = rig.natgate()?.command(&["reload"])?;
    ensure!(code == 0, "{error}");
    let (code, _, error) = rig.natgate()?.command(&["set", "pools.general.timers.udp", "200"])?;
    ensure!(code == 0, "{error}");
    let (code, _, error) = rig.natgate()?.command(&["drain"])?;
    ensure!(code == 0, "{error}");
    nothing_begins(rig)?;
    before.goes_on()?;
    let (code, _, error) = rig.natgate()?.command(&["drain", "--wait", "--timeout", "1"])?;
    ensure!(code == 1 && error.contains("not empty (3 sessions)"), "{code}: {error}");
    let (code, out, error) = rig.natgate()?.command(&["undrain"])?;
    ensure!(code == 0 && out.contains("not draining"), "{out}{error}");
    probes(rig, true)?;
    before.goes_on()?;
    Before::again(rig).map(drop)
}

#[test]
fn a_drained_gateway_opens_nothing_and_cuts_nobody() {
    verified(options(1, &[]), drain_and_back);
}

#[test]
fn four_workers_drain_as_one() {
    verified(options(4, &[]), drain_and_back);
}

/// The negative control: without natgate there is nothing to drain.
#[test]
fn nothing_is_drained_without_natgate() {
    let config = options(1, &[]).config;
    let mut rig = Rig::start(Options { config, ..Options::untranslated() }).unwrap();
    drain_and_back(&mut rig).unwrap_err();
}

fn wait_for_the_last(rig: &mut Rig) -> Result<()> {
    let mut before = Before::open(rig)?;
    let (code, _, error) = rig.natgate()?.command(&["set", "pools.general.timers.udp", "2"])?;
    ensure!(code == 0, "{error}");
    before.goes_on()?;
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        drop(before);
    });
    let (code, out, error) = rig.natgate()?.command(&["drain", "--wait", "--timeout", "30"])?;
    ensure!(code == 0, "{code}: {error}");
    ensure!(out.contains("3 sessions remain") && out.ends_with("0 sessions remain\n"), "{out}");
    // Counted at another moment than what was waited for.
    wait::until("no session in the status", LIMIT, || {
        Ok((status(rig)?["sessions"] == 0).then_some(()))
    })?;
    ends.join().map_err(|_| anyhow::anyhow!("the connections did not end"))
}

#[test]
fn drain_waits_for_the_last_session() {
    verified(options(1, &[]), wait_for_the_last);
}

/// Who told it to stop takes its end for granted, so `undrain` is refused.
fn stopping_is_shown_and_not_taken_back(rig: &mut Rig) -> Result<()> {
    let left = status(rig)?["stopping_in_s"].as_u64().context("the stop is not shown")?;
    ensure!((1..=30).contains(&left), "{left} s");
    for command in ["status", "drain"] {
        let (code, out, error) = rig.natgate()?.command(&[command])?;
        ensure!(code == 0 && out.contains(", STOPPING in "), "{command}: {out}{error}");
    }
    let (code, out, error) = rig.natgate()?.command(&["undrain"])?;
    let told = "error: still draining (undrain): natgate was told to stop, and does so in ";
    ensure!(code == 1 && error.starts_with(told), "{code}: {out}{error}");
    let now = status(rig)?;
    ensure!(!now["drained_since"].is_null(), "it was undrained: {now}");
    ensure!(now["stopping_in_s"].as_u64() <= Some(left), "{now}");
    Ok(())
}

/// Told to stop with time to do so: nothing new begins, and it stops when the last session has ended.
fn grace(rig: &mut Rig) -> Result<()> {
    let mut before = Before::open(rig)?;
    let (code, _, error) = rig.natgate()?.command(&["set", "pools.general.timers.udp", "1"])?;
    ensure!(code == 0, "{error}");
    rig.natgate()?.signal(Signal::SIGTERM)?;
    wait::until("the draining", LIMIT, || {
        Ok((!status(rig)?["drained_since"].is_null()).then_some(()))
    })?;
    stopping_is_shown_and_not_taken_back(rig)?;
    nothing_begins(rig)?;
    echo(&mut before.stream, b"still here")?;
    echo(&mut before.forwarded, b"still here")?;
    ensure!(rig.natgate()?.ended()?.is_none(), "it did not wait");
    drop(before);
    let ended = wait::until("the end", LIMIT, || rig.natgate()?.ended())?;
    ensure!(ended.success(), "{ended}");
    let log = rig.natgate()?.log();
    ensure!(log.contains("no session is left") && log.contains("every frame accounted"), "{log}");
    Ok(())
}

#[test]
fn a_gateway_with_grace_stops_when_the_last_session_has_ended() {
    let mut rig = Rig::start(options(1, &["--grace", "30"])).unwrap();
    let done = grace(&mut rig);
    rig.must(done);
}

/// The time is over, or the operator is impatient.
fn cut(rig: &mut Rig, again: bool, within: (u64, u64), said: &str) -> Result<()> {
    let mut before = Before::open(rig)?;
    let begun = Instant::now();
    rig.natgate()?.signal(Signal::SIGTERM)?;
    wait::until("the draining", LIMIT, || {
        Ok(rig.natgate()?.log().contains("waiting for sessions to end").then_some(()))
    })?;
    before.goes_on()?;
    if again {
        rig.natgate()?.signal(Signal::SIGTERM)?;
    }
    let ended = wait::until("the end", LIMIT, || rig.natgate()?.ended())?;
    let took = begun.elapsed();
    ensure!(ended.success(), "{ended}");
    ensure!(rig.natgate()?.log().contains(said), "{}", rig.natgate()?.log());
    let (least, most) = (Duration::from_secs(within.0), Duration::from_secs(within.1));
    ensure!(took >= least && took < most, "it took {took:?}");
    Ok(())
}

#[test]
fn grace_ends() {
    let mut rig = Rig::start(options(1, &["--grace", "3"])).unwrap();
    let done = cut(&mut rig, false, (3, 10), "the time for draining is over");
    rig.must(done);
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut rig = Rig::start(options(1, &["--grace", "60"])).unwrap();
    let done = cut(&mut rig, true, (0, 15), "stopping at once");
    rig.must(done);
}
