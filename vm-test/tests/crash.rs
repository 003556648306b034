//! `kill -9` in mid-transfer, with kernel forwarding on: nothing untranslated gets out, and a
//! restart needs no cleaning (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (ip_forward=1, natgate killed) ── r (capture) ── s1
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vm_test::client::{PATIENCE, connect, echo, pattern, udp};
use vm_test::oracle::{Faults, Trace, leaks};
use vm_test::rig::S1;
use vm_test::{Namespace, Options, Rig, server, wait};

const PORT: u16 = 7;
/// A restart serves within this time.
const QUICK: Duration = Duration::from_secs(2);

fn options() -> Options {
    Options { gateway_forwards: true, ..Options::natgate() }
}

/// A stream from `pod` that echoes for ever; yields how it ended.
fn long_stream(pod: &Namespace) -> Result<std::thread::JoinHandle<std::io::Error>> {
    let mut stream = pod.run(|| connect((S1[0], PORT)))??;
    pod.run({
        let mut stream = stream.try_clone()?;
        move || echo(&mut stream, &pattern(1, 1000))
    })??;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    pod.spawn(move || exchange_for_ever(&mut stream))
}

fn exchange_for_ever(stream: &mut TcpStream) -> std::io::Error {
    let mut answer = [0; 1000];
    loop {
        if let Err(end) = stream.write_all(&answer).and_then(|()| stream.read_exact(&mut answer)) {
            return end;
        }
    }
}

/// Attempts of every kind; all must fail.
fn nothing_works(rig: &Rig) -> Result<()> {
    for pod in &rig.pods {
        let reached = pod.run(|| {
            let datagram = udp((S1[0], PORT)).and_then(|socket| {
                socket.set_read_timeout(Some(Duration::from_millis(300)))?;
                vm_test::client::echo_datagram(&socket, b"anyone?")
            });
            let address = (S1[0], PORT).into();
            let stream = TcpStream::connect_timeout(&address, Duration::from_millis(1500));
            datagram.is_ok() || stream.is_ok()
        })?;
        ensure!(!reached, "a pod reached the server without natgate");
        ensure!(pod.exec(&format!("ping -n -q -c 2 -i 0.1 -W 1 {}", S1[0])).is_err(), "a pong");
    }
    Ok(())
}

fn serve(rig: &Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    Ok(())
}

fn kill_and_restart(rig: &mut Rig) -> Result<()> {
    let quick = QUICK * rig.gw.slower();
    rig.natgate()?.kill9()?;
    nothing_works(rig)?;
    let mut took = restart(rig)?;
    // What a busy machine adds differs from one to the next.
    for _ in 0..2 {
        if took >= quick {
            rig.natgate()?.kill9()?;
            took = restart(rig)?;
        }
    }
    ensure!(took < quick, "new connections worked after {took:?}");
    Ok(())
}

/// How long it takes from the start to the first new connection.
fn restart(rig: &mut Rig) -> Result<Duration> {
    let start = Instant::now();
    rig.start_translator()?;
    rig.pods[1].run(move || -> Result<()> {
        wait::until("a new connection", PATIENCE, || {
            let address = (S1[0], PORT).into();
            let attempt = TcpStream::connect_timeout(&address, Duration::from_millis(200));
            Ok(attempt.is_ok().then_some(()))
        })?;
        echo(&mut connect((S1[0], PORT))?, b"again")
    })??;
    Ok(start.elapsed())
}

/// natgate is silent towards older connections for a time after it started (here 3 s), so that a
/// standby's packets are not answered, then resets them; the pod's retransmission comes some seconds
/// later.
fn is_reset(old: std::thread::JoinHandle<std::io::Error>) -> Result<()> {
    wait::until("the end of the old connection", Duration::from_secs(45), || {
        Ok(old.is_finished().then_some(()))
    })?;
    let end = old.join().expect("the stream's thread panicked");
    ensure!(end.kind() == std::io::ErrorKind::ConnectionReset, "it ended with {end}");
    Ok(())
}

// Proves: 6888-REQ-8c
#[test]
fn nothing_leaks_after_a_crash_and_a_restart_serves() {
    let config = Some(include_str!("objects/short_grace.yaml").to_owned());
    let mut rig = Rig::start(Options { config, ..options() }).unwrap();
    rig.must(serve(&rig));
    let old = rig.must(long_stream(&rig.pods[0]));
    let done = kill_and_restart(&mut rig);
    rig.must(done);
    rig.must(is_reset(old));
    let verified = rig.verify();
    rig.must(verified);
}

#[test]
fn four_workers_do_not_leak_after_a_crash() {
    let mut rig = Rig::start(Options { gateway_forwards: true, ..natgate_four() }).unwrap();
    rig.must(serve(&rig));
    let done = kill_and_restart(&mut rig);
    rig.must(done);
    let verified = rig.verify();
    rig.must(verified);
}

fn natgate_four() -> Options {
    Options { translator: vm_test::Translator::Natgate, ..Options::four() }
}

/// The negative control: without natgate's program on the interfaces the kernel would have
/// forwarded all of it.
#[test]
fn detached_interfaces_leak() {
    let mut rig = Rig::start(options()).unwrap();
    rig.must(serve(&rig));
    let killed = rig.natgate().and_then(vm_test::Gateway::kill9);
    rig.must(killed);
    let (status, said) = rig.must(rig.gw.natgate("", &["detach", "--all"]));
    assert_eq!(status, 0, "{said}");
    rig.must(nothing_works(&rig));
    let scope = rig.scope().unwrap();
    let ended = rig.end_captures();
    let [_, external] = rig.must(ended);
    let mut faults = Faults::default();
    leaks::check(&rig.must(Trace::read(&external)), &scope, &mut faults);
    assert!(faults.count(leaks::NAME) >= 4, "{faults}");
}
