//! Whoever mistreats the stats socket harms neither traffic nor natgate (topology: `vm_test::rig`).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use vm_test::namespace::output;
use vm_test::rig::{S1, verified};
use vm_test::{Options, Rig, wait};

/// Clients at once: many times what natgate serves at a time.
const CLIENTS: usize = 1_000;
/// What they may cost: connections, and what waits for those who do not read.
const MEMORY_KIB: u64 = 64 * 1024;

/// A pod's pings meanwhile, every 20 ms; what `ping` says in the end.
fn pings(rig: &Rig, seconds: u32) -> Result<JoinHandle<Result<String>>> {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-q", "-i", "0.02", "-W", "2", "-c", &(seconds * 50).to_string()]);
    ping.arg(S1[0].to_string());
    rig.pods[0].spawn(move || output(&mut ping))
}

/// What an attacker sends on the connection with this number.
fn nonsense(number: usize) -> Vec<u8> {
    let byte = |at: usize| (at.wrapping_mul(2_654_435_761).wrapping_add(number * 97) >> 13) as u8;
    match number % 6 {
        0 => Vec::new(),
        1 => b"GET /v1/status HTTP/1.1\r\nhost: n\r\nx-".to_vec(),
        2 => (0..100_000).map(byte).collect(),
        3 => [b"GET /".as_slice(), "a".repeat(200_000).as_bytes(), b" HTTP/1.1\r\n\r\n"].concat(),
        4 => {
            b"POST /v1/reload HTTP/1.1\r\nhost: n\r\ncontent-length: 99999999999\r\n\r\n{".to_vec()
        }
        _ => b"GET /v1/sessions HTTP/1.1\r\nhost: n\r\n\r\n".repeat(50),
    }
}

#[test]
fn silent_slow_and_mad_clients_harm_nobody() {
    verified(Options::natgate(), abuse);
}

fn abuse(rig: &mut Rig) -> Result<()> {
    let socket = rig.directory().join("natgate.sock");
    let traffic = pings(rig, 8)?;
    let before = rig.natgate()?.resident_kib()?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut stream = UnixStream::connect(&socket).context("refused")?;
        stream.set_write_timeout(Some(Duration::from_millis(20)))?;
        // Those whom natgate sends away hear of it here.
        let _ = stream.write_all(&nonsense(number));
        clients.push(stream);
    }
    let natgate = rig.natgate()?;
    // People are served all the same: those who asked and do not read have some seconds only.
    let status =
        wait::until("an answer", Duration::from_secs(60), || Ok(natgate.get("/v1/status").ok()))?;
    ensure!(status.contains("\"ready\":true"), "{status}");
    let grown = natgate.resident_kib()?.saturating_sub(before);
    ensure!(grown < MEMORY_KIB, "{CLIENTS} clients cost {grown} KiB");
    drop(clients);
    let said = traffic.join().map_err(|_| anyhow!("the pings ended in a panic"))??;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    let natgate = rig.natgate()?;
    ensure!(natgate.ended()?.is_none(), "natgate has ended");
    // And everybody can ask at once again.
    for _ in 0..100 {
        natgate.get("/healthz")?;
    }
    let mut last = UnixStream::connect(&socket)?;
    last.write_all(b"nonsense\r\n\r\n")?;
    let mut answer = String::new();
    last.set_read_timeout(Some(Duration::from_secs(5)))?;
    last.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 400"), "{answer:?}");
    Ok(())
}
