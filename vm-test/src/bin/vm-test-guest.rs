//! What a virtual machine of the rigs runs beside natgate: a relay to natgate's socket, a place to put files, and a server
//! for suites that talk to the gateway itself.
//!
//! ```text
//!  vm-test-guest serve ADDRESS SOCKET    connections to port 7 go on to the Unix socket; port 8 takes files
//!  vm-test-guest echo ADDRESS:PORT       answers streams and datagrams with what they bring
//! ```

use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, bail};
use vm_test::relay;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address, socket] => serve(address, Path::new(socket)),
        ["echo", address] => echo(address),
        other => bail!("{other:?}: give serve ADDRESS SOCKET, or echo ADDRESS:PORT"),
    }
}

fn serve(address: &str, socket: &Path) -> Result<()> {
    let listen = |port: u16| TcpListener::bind(format!("{address}:{port}"));
    let (clients, files) = (listen(relay::SOCKET)?, listen(relay::FILES)?);
    std::thread::spawn(move || relay::take_files(&files));
    relay::to_socket(&clients, socket);
    Ok(())
}

fn echo(address: &str) -> Result<()> {
    let (streams, datagrams) = (TcpListener::bind(address)?, UdpSocket::bind(address)?);
    std::thread::spawn(move || {
        let mut bytes = [0; 16_384];
        loop {
            // Errors of a datagram socket are those of earlier answers.
            if let Ok((length, from)) = datagrams.recv_from(&mut bytes) {
                let _ = datagrams.send_to(&bytes[..length], from);
            }
        }
    });
    for stream in streams.incoming() {
        let stream = stream.context("a connection")?;
        std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
    }
    Ok(())
}
