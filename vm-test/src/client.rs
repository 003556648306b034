//! What do the pods do?

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, setsockopt,
    sockopt,
};
use nix::sys::time::TimeVal;

use crate::craft;
use crate::oracle::Ipv4;
use crate::oracle::packet::ECHO_REPLY;

/// How long a client waits for any one answer.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Connects with bounded patience.
pub fn connect(server: (Ipv4Addr, u16)) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from(server), PATIENCE)
        .with_context(|| format!("connect to {}:{}", server.0, server.1))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects from a chosen address and port, which the standard library can't.
pub fn connect_from(source: (Ipv4Addr, u16), server: (Ipv4Addr, u16)) -> Result<TcpStream> {
    let socket =
        socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let address = |(address, port)| SockaddrIn::from(SocketAddrV4::new(address, port));
    socket::bind(socket.as_raw_fd(), &address(source))?;
    let stream = TcpStream::from(socket);
    // A send timeout bounds `connect` too (socket(7)).
    stream.set_write_timeout(Some(PATIENCE))?;
    socket::connect(stream.as_raw_fd(), &address(server))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends `bytes` to a TCP echo server and expects them back.
pub fn echo(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).context("read the echo")?;
    ensure!(answer == bytes, "another echo than was sent");
    Ok(())
}

/// Sends `bytes` to a TCP echo server while it reads them back, however many they are.
pub fn echo_bulk(stream: &mut TcpStream, bytes: Vec<u8>) -> Result<()> {
    let mut answer = vec![0; bytes.len()];
    let mut writing = stream.try_clone()?;
    let writer = std::thread::spawn(move || writing.write_all(&bytes).map(|()| bytes));
    let read = stream.read_exact(&mut answer);
    let bytes = writer.join().expect("the writer panicked")?;
    read.context("read the echo")?;
    ensure!(answer == bytes, "another echo than was sent");
    Ok(())
}

/// A UDP socket towards one server, with bounded patience.
pub fn udp(server: (Ipv4Addr, u16)) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends one datagram and expects it back.
pub fn echo_datagram(socket: &UdpSocket, bytes: &[u8]) -> Result<()> {
    socket.send(bytes)?;
    let mut answer = vec![0; bytes.len() + 1];
    let length = socket
        .recv(&mut answer)
        .with_context(|| format!("no answer to a datagram of {} bytes", bytes.len()))?;
    ensure!(answer[..length] == *bytes, "another datagram than was sent: {length} bytes");
    Ok(())
}

/// Asks for the address of `name` and checks the answer (RFC 1035): same identifier, no error,
/// one record.
pub fn resolve(socket: &UdpSocket, identifier: u16, name: &str) -> Result<()> {
    let mut query = identifier.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send(&query)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).with_context(|| format!("no answer for {name}"))?;
    ensure!(length > query.len(), "a short answer for {name}");
    ensure!(answer[..2] == query[..2], "an answer to another query than {name}");
    if answer[3] & 0xf != 0 || answer[6..8] != [0, 1] {
        bail!("no address for {name}: code {}", answer[3] & 0xf);
    }
    ensure!(answer[12..query.len()] == query[12..], "an answer to another question than {name}");
    Ok(())
}

/// A pattern of `length` bytes that differs with `seed`.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .collect()
}

/// Sends `count` echo requests of `size` bytes of data that differ with `seed`, one each 20 ms, and
/// expects each answer with its data once. Run as a thread of a namespace.
///
/// `ping -c` waits for late answers no longer than one interval once one answer came, so on a
/// busy machine it calls late what nothing lost.
pub fn ping(server: Ipv4Addr, identifier: u16, count: u16, size: usize, seed: u64) -> Result<()> {
    let socket = socket::socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::Icmp),
    )?;
    let to = SockaddrIn::from(SocketAddrV4::new(server, 0));
    socket::connect(socket.as_raw_fd(), &to)?;
    let data = move |sequence: u16| pattern(seed << 16 | u64::from(sequence), size);
    let sending = socket.try_clone()?;
    let sender = std::thread::spawn(move || -> Result<()> {
        for sequence in 1..=count {
            let request = craft::echo_request(identifier, sequence, &data(sequence));
            socket::send(sending.as_raw_fd(), &request, MsgFlags::empty())?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
    let timeout = TimeVal::new(PATIENCE.as_secs().try_into()?, 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
    let mut missing: BTreeSet<u16> = (1..=count).collect();
    let mut packet = vec![0; 65_536];
    while !missing.is_empty() {
        let length = socket::recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty())
            .with_context(|| format!("no answer to the pings {missing:?} of {size} bytes"))?;
        let ip = Ipv4::parse(&packet[..length]).context("no IPv4 packet")?;
        if ip.body.first() != Some(&ECHO_REPLY) || ip.word(4) != Some(identifier) {
            continue;
        }
        let sequence = ip.word(6).context("a short answer")?;
        ensure!(missing.remove(&sequence), "ping {sequence} was answered twice");
        ensure!(ip.body[8..] == data(sequence), "ping {sequence}: other data came back");
    }
    sender.join().expect("the sender panicked")
}
