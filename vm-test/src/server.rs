//! Which servers do the pods talk to, and whom did those see?

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{Namespace, Process, wait};

/// Largest datagram over a link of 1,500 bytes.
pub const LARGEST_DATAGRAM: usize = 1472;

/// The addresses and ports that a server saw as its clients.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Mutex<BTreeSet<SocketAddr>>>);

impl Peers {
    /// All of them so far.
    pub fn all(&self) -> BTreeSet<SocketAddr> {
        self.0.lock().expect("a server thread panicked").clone()
    }

    fn add(&self, peer: SocketAddr) {
        self.0.lock().expect("a server thread panicked").insert(peer);
    }
}

/// Echoes every byte of every TCP connection, each in a small thread; lives as long as the
/// test's process.
pub fn tcp_echo(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<Peers> {
    let listener = namespace.run(move || TcpListener::bind((address, port)))??;
    let peers = Peers::default();
    let seen = peers.clone();
    namespace.spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Ok(peer) = stream.peer_addr() {
                seen.add(peer);
            }
            let echo = std::thread::Builder::new().stack_size(64 * 1024);
            // A thread that can't be made closes its connection, which the client notices.
            let _ = echo.spawn(move || echo_stream(stream));
        }
    })?;
    Ok(peers)
}

fn echo_stream(mut stream: TcpStream) {
    let mut bytes = [0; 2048];
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
}

/// Echoes every datagram, the empty one included.
pub fn udp_echo(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<Peers> {
    let socket = namespace.run(move || UdpSocket::bind((address, port)))??;
    let peers = Peers::default();
    let seen = peers.clone();
    namespace.spawn(move || {
        let mut bytes = vec![0; 65_536];
        while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
            seen.add(peer);
            // A lost answer is what the client looks for.
            let _ = socket.send_to(&bytes[..length], peer);
        }
    })?;
    Ok(peers)
}

/// A UDP echo server that sends without a checksum (`SO_NO_CHECK`).
pub fn udp_echo_without_checksum(
    namespace: &Namespace,
    address: Ipv4Addr,
    port: u16,
    directory: &Path,
) -> Result<Process> {
    let program = format!(
        "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         s.setsockopt(socket.SOL_SOCKET,11,1)\ns.bind(('{address}',{port}))\n\
         print('ready',file=sys.stderr,flush=True)\n\
         while True:\n d,a=s.recvfrom(2048)\n s.sendto(d,a)\n"
    );
    let mut command = namespace.command("python3");
    command.args(["-c", &program]);
    let mut process = Process::start(command, "udp-no-check", directory)?;
    process.await_stderr("ready", Duration::from_secs(10))?;
    Ok(process)
}

/// Python's HTTP server over a directory; its log on standard error names each client.
pub fn http(namespace: &Namespace, address: Ipv4Addr, files: &Path) -> Result<Process> {
    let mut command = namespace.command("python3");
    command.args(["-m", "http.server", "80", "--bind", &address.to_string()]);
    command.arg("--directory").arg(files);
    let server = Process::start(command, &format!("http-{address}"), files)?;
    await_tcp(namespace, address, 80)?;
    Ok(server)
}

/// A real unbound that knows an address for every name under `example.test`.
pub fn unbound(namespace: &Namespace, address: Ipv4Addr, directory: &Path) -> Result<Process> {
    let configuration = directory.join("unbound.conf");
    std::fs::write(
        &configuration,
        format!(
            "server:\n interface: {address}\n access-control: 0.0.0.0/0 allow\n username: \"\"\n \
             chroot: \"\"\n directory: \"{d}\"\n pidfile: \"\"\n do-daemonize: no\n \
             use-syslog: no\n logfile: \"\"\n verbosity: 1\n module-config: \"iterator\"\n \
             local-zone: \"example.test.\" redirect\n \
             local-data: \"example.test. A 192.0.2.99\"\nremote-control:\n control-enable: no\n",
            d = directory.display()
        ),
    )?;
    let mut command = namespace.command("unbound");
    command.arg("-d").arg("-c").arg(&configuration);
    let server = Process::start(command, "unbound", directory)?;
    await_tcp(namespace, address, 53).with_context(|| server.stderr())?;
    Ok(server)
}

/// Waits until something listens there.
fn await_tcp(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<()> {
    namespace.run(move || {
        wait::until("a server to listen", Duration::from_secs(10), || {
            Ok(TcpStream::connect((address, port)).is_ok().then_some(()))
        })
    })?
}
