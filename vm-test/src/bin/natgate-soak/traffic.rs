//! What pods do all the time: transfers, short connections, datagrams small and in fragments, pings, and somebody from
//! outside who calls a forwarded port.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, setsockopt,
    sockopt,
};
use nix::sys::time::TimeVal;
use vm_test::client::{connect, pattern};
use vm_test::oracle::Ipv4;
use vm_test::rig::{PODS, S1};
use vm_test::{Namespace, Rig, craft, server, wait};

use crate::report::{Times, note, times};

const PORT: u16 = 7;
/// Where the outside calls a pod.
const FORWARDED: (Ipv4Addr, u16) = (Ipv4Addr::new(203, 0, 113, 10), 8080);
/// The identifier of the pings.
const IDENTIFIER: u16 = 0x5a5a;
const ECHO_REPLY: u8 = 0;
const KINDS: [&str; 7] = [
    "transfer, 32 KiB",
    "short connection",
    "datagram, one socket",
    "datagram, new socket",
    "datagram, fragments",
    "call from outside",
    "ping",
];

/// What one kind of traffic came to.
#[derive(Clone)]
struct Tally {
    times: Times,
    last: Instant,
    count: u64,
    unanswered: u64,
    broken: u64,
}

/// What one kind came to.
#[derive(Clone)]
pub(crate) struct Total {
    /// Its name.
    pub(crate) kind: &'static str,
    /// How long exchanges took.
    pub(crate) times: Times,
    /// Exchanges that nobody answered in time.
    pub(crate) unanswered: u64,
    /// Connections that ended early.
    pub(crate) broken: u64,
}

/// How one exchange ended.
enum End {
    Done,
    Unanswered,
    Broken,
}

/// Everything that runs.
pub(crate) struct Traffic {
    tallies: Vec<Arc<Mutex<Tally>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    pub(crate) fn begin(rig: &Rig) -> Result<Self> {
        server::tcp_echo(&rig.s1, S1[0], PORT)?;
        server::udp_echo(&rig.s1, S1[0], PORT)?;
        server::tcp_echo(&rig.pods[1], PODS[1], 80)?;
        let mut traffic = Self { tallies: Vec::new(), stop: Arc::default(), threads: Vec::new() };
        let [c1, c2] = &rig.pods;
        let mut transfer = Transfer::default();
        traffic.run(c1, 5, move |round| transfer.exchange(round))?;
        traffic.run(c2, 20, short_connection)?;
        let one = c2.run(open)??;
        traffic.run(c2, 5, move |round| datagram(&one, round, 200))?;
        traffic.run(c1, 30, |round| datagram(&open()?, round, 64))?;
        let large = c1.run(open)??;
        traffic.run(c1, 50, move |round| datagram(&large, round, 4000))?;
        traffic.run(&rig.x, 50, call)?;
        let raw = c2.run(open_raw)??;
        traffic.run(c2, 50, move |round| ping(&raw, round))?;
        let begun = Instant::now();
        traffic.is_back(begun, Duration::from_secs(20))?;
        Ok(traffic)
    }

    /// Repeats one kind of exchange, with pauses of so many milliseconds.
    fn run(
        &mut self,
        host: &Namespace,
        pause_ms: u64,
        mut exchange: impl FnMut(u64) -> Result<End> + Send + 'static,
    ) -> Result<()> {
        let tally =
            Tally { times: times(), last: Instant::now(), count: 0, unanswered: 0, broken: 0 };
        let tally = Arc::new(Mutex::new(tally));
        self.tallies.push(Arc::clone(&tally));
        let stop = Arc::clone(&self.stop);
        self.threads.push(host.spawn(move || {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let begun = Instant::now();
                let end = exchange(round)?;
                let mut tally = tally.lock().expect("a client panicked");
                match end {
                    End::Done => {
                        note(&mut tally.times, begun.elapsed());
                        // What was asked before an event may be answered after it.
                        tally.last = begun;
                        tally.count += 1;
                    }
                    End::Unanswered => tally.unanswered += 1,
                    End::Broken => tally.broken += 1,
                }
                drop(tally);
                std::thread::sleep(Duration::from_millis(pause_ms));
            }
            Ok(())
        })?);
        Ok(())
    }

    /// Waits until each kind had an exchange that began after `moment`; how long after it the last of them began.
    pub(crate) fn is_back(&self, moment: Instant, limit: Duration) -> Result<Duration> {
        let mut missing = Vec::new();
        let back = wait::until("traffic", limit, || {
            ensure!(
                !self.threads.iter().any(JoinHandle::is_finished),
                "a client has ended: {:?}",
                self.failed()
            );
            missing.clear();
            for (tally, kind) in self.tallies.iter().zip(KINDS) {
                let tally = tally.lock().expect("a client panicked");
                if tally.last <= moment || tally.count == 0 {
                    missing.push(kind);
                }
            }
            Ok(missing.is_empty().then(|| moment.elapsed()))
        });
        back.map_err(|error| anyhow!("{error:#}; missing: {missing:?}"))
    }

    fn failed(&self) -> Vec<&'static str> {
        let pairs = self.threads.iter().zip(KINDS);
        pairs.filter(|(thread, _)| thread.is_finished()).map(|(_, kind)| kind).collect()
    }

    /// Ends everything.
    pub(crate) fn end(self) -> Result<Vec<Total>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        let total = |(tally, kind): (&Arc<Mutex<Tally>>, &'static str)| {
            let tally = tally.lock().expect("a client panicked");
            let (unanswered, broken) = (tally.unanswered, tally.broken);
            Total { kind, times: tally.times.clone(), unanswered, broken }
        };
        Ok(self.tallies.iter().zip(KINDS).map(total).collect())
    }
}

/// A connection that lives as long as it can.
#[derive(Default)]
struct Transfer(Option<TcpStream>);

impl Transfer {
    fn exchange(&mut self, round: u64) -> Result<End> {
        let Some(stream) = &mut self.0 else {
            self.0 = connect((S1[0], PORT)).ok();
            return Ok(End::Unanswered);
        };
        let end = echo(stream, round, 32 * 1024)?;
        if !matches!(end, End::Done) {
            self.0 = None;
        }
        Ok(end)
    }
}

fn short_connection(round: u64) -> Result<End> {
    match connect((S1[0], PORT)) {
        Ok(mut stream) => echo(&mut stream, round, 500),
        Err(_) => Ok(End::Unanswered),
    }
}

fn call(round: u64) -> Result<End> {
    let patience = Duration::from_secs(3);
    match TcpStream::connect_timeout(&SocketAddr::from(FORWARDED), patience) {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(patience))?;
            echo(&mut stream, round, 500)
        }
        Err(_) => Ok(End::Unanswered),
    }
}

/// Other bytes than those sent are an error of the whole run; an end is not.
fn echo(stream: &mut TcpStream, round: u64, size: usize) -> Result<End> {
    let (sent, mut came) = (pattern(round, size), vec![0; size]);
    stream.set_nodelay(true)?;
    if stream.write_all(&sent).and_then(|()| stream.read_exact(&mut came)).is_err() {
        return Ok(End::Broken);
    }
    ensure!(sent == came, "a connection got bytes that are not its own");
    Ok(End::Done)
}

/// A datagram and its answer.
fn datagram(socket: &UdpSocket, round: u64, size: usize) -> Result<End> {
    let sent = pattern(round, size);
    let mut came = vec![0; size + 1];
    if socket.send(&sent).is_err() {
        return Ok(End::Unanswered);
    }
    // Answers to earlier ones may come late.
    while let Ok(length) = socket.recv(&mut came) {
        if came[..length] == sent[..] {
            return Ok(End::Done);
        }
        let late = (round.saturating_sub(100)..round)
            .any(|earlier| came[..length] == pattern(earlier, size));
        ensure!(late, "a socket got bytes that are not its own");
    }
    Ok(End::Unanswered)
}

fn open() -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((S1[0], PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

fn open_raw() -> Result<OwnedFd> {
    let (raw, icmp) = (SockType::Raw, Some(SockProtocol::Icmp));
    let socket = socket::socket(AddressFamily::Inet, raw, SockFlag::SOCK_CLOEXEC, icmp)?;
    socket::connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(S1[0], 0)))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000))?;
    Ok(socket)
}

/// An echo request and its answer.
fn ping(socket: &OwnedFd, round: u64) -> Result<End> {
    let (sequence, data) = (round as u16, pattern(round, 56));
    let request = craft::echo_request(IDENTIFIER, sequence, &data);
    if socket::send(socket.as_raw_fd(), &request, MsgFlags::empty()).is_err() {
        return Ok(End::Unanswered);
    }
    let mut packet = [0; 2048];
    // What else comes to the pod by ICMP is not for us; answers to earlier pings may come late.
    while let Ok(length) = socket::recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
        let ip = Ipv4::parse(&packet[..length]).context("no IPv4 packet")?;
        let ours = ip.body.first() == Some(&ECHO_REPLY) && ip.word(4) == Some(IDENTIFIER);
        if ours && ip.word(6) == Some(sequence) {
            ensure!(ip.body[8..] == data, "a ping got bytes that are not its own");
            return Ok(End::Done);
        }
    }
    Ok(End::Unanswered)
}
