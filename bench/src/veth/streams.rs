//! How fast are bulk TCP, and many short requests?

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, Shutdown as How, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt,
    shutdown, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use crate::contestant::{Contestant, Given};
use crate::measure::Settings;
use crate::rig::{self, Rig};

/// Connections that are open at once.
const CLIENTS: usize = 8;
/// Pods that ask in turn: one alone has not as many ports as it can close connections.
const PODS: u8 = 200;
const PORT: u16 = 8080;
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n\
0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

/// One gateway, measured once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub contestant: Contestant,
    /// Segmentation offloads of the pod's and the server's interface.
    pub offloads: bool,
    /// Which repetition, from 0.
    pub repetition: usize,
    /// Bits a second of one TCP connection, by iperf3.
    pub bulk: f64,
    /// Requests a second, each with a connection of its own.
    pub requests: f64,
}

/// Measures `contestant`. An interface with an XDP program on its other end has no segmentation offload, so natgate
/// is only measured without.
pub fn trial(
    settings: &Settings,
    contestant: Contestant,
    offloads: bool,
    repetition: usize,
) -> Result<Trial> {
    let mut rig = Rig::new()?;
    let given = Given {
        programs: &settings.programs,
        results: &settings.results,
        addresses: 4,
        flows: 1 << 16,
    };
    let held = contestant.start(&mut rig, &given)?;
    if offloads {
        drop(held); // the program that lets generated frames in: no frames are generated here
    } else {
        rig.sh("gen", "ethtool -K gen0 tso off gso off")?;
        rig.sh("sink", "ethtool -K sink0 tso off gso off")?;
    }
    rig.sh(
        "gen",
        &format!(
            "for i in $(seq {PODS}); do echo addr add 10.10.254.$i/32 dev gen0; done | ip -batch -"
        ),
    )?;
    let requests = requests(&rig, settings.length)?;
    let bulk = bulk(&rig, settings.length)?;
    rig.check()?;
    Ok(Trial { contestant, offloads, repetition, bulk, requests })
}

fn bulk(rig: &Rig, length: Duration) -> Result<f64> {
    let mut server = rig.within("sink", || {
        let mut command = Command::new("iperf3");
        command.args(["-s", "-1"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("error: iperf3 (PATH): it can't be run; install it")
    })?;
    thread::sleep(Duration::from_millis(300));
    let seconds = length.as_secs().max(1).to_string();
    let output = rig.within("gen", || {
        let mut command = Command::new("iperf3");
        command.args(["-c", rig::SINK_ADDRESS, "-B", rig::POD, "-J", "-t", &seconds]);
        Ok(command.stdin(Stdio::null()).output()?)
    });
    // It may have ended by itself.
    let _ended = server.kill();
    let _status = server.wait();
    let report: serde_json::Value = serde_json::from_slice(&output?.stdout)?;
    let rate =
        report.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
    rate.with_context(|| format!("error: iperf3: {}", report["error"]))
}

fn requests(rig: &Rig, length: Duration) -> Result<f64> {
    let done = AtomicBool::new(false);
    let listener = rig.within("sink", || Ok(TcpListener::bind((rig::SINK_ADDRESS, PORT))?))?;
    let served = thread::scope(|scope| {
        scope.spawn(|| serve(&listener, &done));
        let counted = rig.within("gen", || {
            await_server()?;
            ask(length)
        });
        done.store(true, Ordering::Relaxed);
        // Ends the wait for the next connection: no loopback device is up that one could come by.
        shutdown(listener.as_raw_fd(), How::Both)?;
        counted
    })?;
    ensure!(served > 0, "error: the requests: none was answered");
    Ok(served as f64 / length.as_secs_f64())
}

fn serve(listener: &TcpListener, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        // A connection that fails is the client's failure, and counted there.
        let Ok((mut stream, _)) = listener.accept() else { continue };
        let _answered = stream.read(&mut [0; 256]).and_then(|_| stream.write_all(ANSWER));
        let _closed = stream.shutdown(Shutdown::Both);
    }
}

fn await_server() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    while request(1).is_err() {
        ensure!(Instant::now() < deadline, "error: the server: it can't be reached in 15 s");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn ask(length: Duration) -> Result<u64> {
    let (answered, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + length;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (answered, failed) = (&answered, &failed);
            let mut pods = (1..=PODS).cycle().skip(client * usize::from(PODS) / CLIENTS);
            scope.spawn(move || {
                while Instant::now() < end {
                    let pod = pods.next().unwrap_or(1);
                    let counter = if request(pod).is_ok() { answered } else { failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (answered, failed) = (answered.into_inner(), failed.into_inner());
    ensure!(failed == 0, "error: the requests: {failed} of {} failed", answered + failed);
    Ok(answered)
}

/// One request of the pod with this number.
fn request(pod: u8) -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::new(3, 0);
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
    let from = SocketAddrV4::new(Ipv4Addr::new(10, 10, 254, pod), 0);
    let to = SocketAddrV4::new(rig::SINK_ADDRESS.parse()?, PORT);
    bind(socket.as_raw_fd(), &SockaddrIn::from(from))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer == ANSWER, "the answer was another");
    Ok(())
}
