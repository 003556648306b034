//! What runs while something breaks: a transfer, idle connections, and datagrams that tell when traffic flows.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use vm_test::client::{connect, echo, pattern, udp};
use vm_test::rig::S1;
use vm_test::{Namespace, Rig, server, wait};

const PORT: u16 = 7;
/// Bytes of the transfer that are under way at once.
const PIECE: usize = 32 * 1024;
/// An application that hears nothing for so long opens another connection.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// When something came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Arc<Mutex<Vec<Instant>>>);

impl Times {
    fn note(&self) {
        self.0.lock().expect("a client panicked").push(Instant::now());
    }

    /// How often since `moment`.
    pub(crate) fn since(&self, moment: Instant) -> usize {
        self.0.lock().expect("a client panicked").iter().filter(|it| **it > moment).count()
    }

    /// From `moment` until the first one after it.
    pub(crate) fn first_after(&self, moment: Instant) -> Option<Duration> {
        let times = self.0.lock().expect("a client panicked");
        times.iter().find(|it| **it > moment).map(|it| it.duration_since(moment))
    }

    /// The longest silence that ended after `moment`.
    pub(crate) fn longest_silence(&self, moment: Instant) -> Duration {
        let times = self.0.lock().expect("a client panicked");
        let pairs = times.iter().zip(times.iter().skip(1));
        let gaps = pairs.filter(|(_, end)| **end > moment).map(|(begin, end)| *end - *begin);
        gaps.max().unwrap_or_default()
    }
}

/// The load of one fault.
pub(crate) struct Load {
    /// Answers to datagrams of one socket.
    pub(crate) old: Times,
    /// Answers to datagrams of new sockets.
    pub(crate) new: Times,
    /// Pieces of the transfer.
    pub(crate) bulk: Times,
    /// Connections that the transfer lost.
    pub(crate) broken: Arc<AtomicU64>,
    idle: Vec<TcpStream>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    /// Opens `idle` connections and begins the rest, with a transfer that waits for `patience` for each piece; everything
    /// has worked once when it returns.
    pub(crate) fn begin(rig: &Rig, idle: usize, patience: Duration) -> Result<Self> {
        server::tcp_echo(&rig.s1, S1[0], PORT)?;
        server::udp_echo(&rig.s1, S1[0], PORT)?;
        let mut load = Self {
            old: Times::default(),
            new: Times::default(),
            bulk: Times::default(),
            broken: Arc::default(),
            idle: Vec::new(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for pod in &rig.pods {
            load.idle.extend(hold(pod, idle / 2)?);
        }
        for (number, stream) in load.idle.iter_mut().enumerate() {
            echo(stream, &own(number)).with_context(|| format!("idle connection {number}"))?;
        }
        let (stop, times) = (Arc::clone(&load.stop), load.old.clone());
        load.threads.push(rig.pods[1].spawn(move || ask_by_one_socket(&stop, &times))?);
        let (stop, times) = (Arc::clone(&load.stop), load.new.clone());
        load.threads.push(rig.pods[1].spawn(move || ask_by_new_sockets(&stop, &times))?);
        let (stop, times) = (Arc::clone(&load.stop), load.bulk.clone());
        let broken = Arc::clone(&load.broken);
        load.threads.push(rig.pods[0].spawn(move || transfer(&stop, &times, &broken, patience))?);
        let begun = Instant::now();
        load.flows(begun, Duration::from_secs(20)).context("before anything was broken")?;
        Ok(load)
    }

    /// Waits until datagrams of the old and of new sockets are answered, and go on to be, all sent after `moment`.
    pub(crate) fn answers(&self, moment: Instant, limit: Duration) -> Result<()> {
        wait::until("answers to datagrams", limit, || {
            self.alive()?;
            Ok((self.old.since(moment) >= 20 && self.new.since(moment) >= 3).then_some(()))
        })
    }

    /// The same, and until the transfer goes on.
    pub(crate) fn flows(&self, moment: Instant, limit: Duration) -> Result<()> {
        self.answers(moment, limit)?;
        wait::until("the transfer to go on", limit, || {
            self.alive()?;
            Ok((self.bulk.since(moment) >= 20).then_some(()))
        })
    }

    fn alive(&self) -> Result<()> {
        ensure!(!self.threads.iter().any(JoinHandle::is_finished), "a client has ended");
        Ok(())
    }

    /// Ends it. How many idle connections live on, and how many were reset; each that lives got its own bytes.
    pub(crate) fn end(mut self) -> Result<(usize, usize)> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        let (mut lives, mut reset) = (0, 0);
        // First all, so that they are told side by side what became of them.
        let sent: Vec<_> =
            self.idle.iter_mut().enumerate().map(|(n, it)| it.write_all(&own(n))).collect();
        for (number, (stream, sent)) in self.idle.iter_mut().zip(sent).enumerate() {
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = [0; 64];
            match sent.and_then(|()| stream.read_exact(&mut answer)) {
                Ok(()) if answer[..] == own(number)[..] => lives += 1,
                Ok(()) => bail!("connection {number} got bytes that are not its own"),
                Err(error) if is_reset(&error) => reset += 1,
                Err(error) => return Err(error).with_context(|| format!("connection {number}")),
            }
        }
        Ok((lives, reset))
    }
}

fn hold(pod: &Namespace, count: usize) -> Result<Vec<TcpStream>> {
    pod.run(move || (0..count).map(|_| connect((S1[0], PORT))).collect())?
}

/// What only this connection sends.
fn own(number: usize) -> Vec<u8> {
    pattern(number as u64 + 1, 64)
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn ask(socket: &UdpSocket, number: u64) -> bool {
    let mut answer = [0; 8];
    // Links that are down, and routers that say so, are what is expected now and then.
    let asked = socket.send(&number.to_be_bytes()).is_ok();
    asked && matches!(socket.recv(&mut answer), Ok(8)) && u64::from_be_bytes(answer) <= number
}

fn ask_by_one_socket(stop: &AtomicBool, times: &Times) -> Result<()> {
    let socket = udp((S1[0], PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        if ask(&socket, number) {
            times.note();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn ask_by_new_sockets(stop: &AtomicBool, times: &Times) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let socket = udp((S1[0], PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        if ask(&socket, 1) {
            times.note();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Sends pieces to an echo server and wants each back; opens another connection when one is lost.
fn transfer(
    stop: &AtomicBool,
    times: &Times,
    broken: &AtomicU64,
    patience: Duration,
) -> Result<()> {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = connect((S1[0], PORT)) else { continue };
        stream.set_read_timeout(Some(patience))?;
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            let (sent, mut answer) = (pattern(round, PIECE), vec![0; PIECE]);
            if stream.write_all(&sent).and_then(|()| stream.read_exact(&mut answer)).is_err() {
                broken.fetch_add(1, Ordering::Relaxed);
                break;
            }
            ensure!(sent == answer, "the transfer got bytes that are not its own");
            times.note();
            // Some megabytes a second: every packet is captured twice.
            std::thread::sleep(Duration::from_millis(8));
        }
    }
    Ok(())
}
