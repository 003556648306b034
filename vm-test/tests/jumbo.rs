//! Links whose packets are longer than natgate's frames (topology: `vm_test::rig`).

use std::time::Duration;

use anyhow::{Result, ensure};
use vm_test::client::{connect, echo_bulk, pattern};
use vm_test::rig::{Mtus, S1};
use vm_test::{Gateway, Options, Rig, server, wait};

const PORT: u16 = 7;
const LARGE: Mtus = Mtus { pods: 9000, inside: 9000, outside: 9000, server: 9000 };

fn tcp_does_not_hang(rig: &mut Rig) -> Result<()> {
    // Generic mode gets what a veth's sender leaves to its card as it is.
    for (host, interfaces) in
        [(&rig.node, vec!["gw0"]), (&rig.r, vec!["down"]), (&rig.pods[0], vec!["eth0"])]
    {
        for interface in interfaces {
            host.exec(&format!("ethtool -K {interface} tso off gso off gro off"))?;
        }
    }
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    rig.pods[0].run(|| echo_bulk(&mut connect((S1[0], PORT))?, pattern(1, 1 << 20)))??;
    let rows = rig.natgate()?.json(&["interfaces"])?;
    for interface in ["int", "ext"] {
        let row = rows.iter().find(|row| row["interface"] == interface);
        let text = format!("{row:?}");
        ensure!(
            text.contains("its MTU is 9000, and packets above 3822 bytes are dropped"),
            "{text}"
        );
        ensure!(row.is_some_and(|row| row["mtu"] == 3822), "{text}");
    }
    // A datagram that is too long is dropped under its name.
    let long = format!("ping -c1 -W1 -s 8000 {}", S1[0]);
    ensure!(rig.pods[0].exec(&long).is_err(), "it was answered");
    ensure!(rig.natgate()?.dropped("super-packet")? > 0);
    Ok(())
}

#[test]
fn connections_over_links_of_9000_bytes_are_told_what_fits() {
    let flags = ["--mode", "generic"].map(str::to_owned).to_vec();
    let options = Options { mtus: LARGE, flags, ..Options::natgate() };
    let mut rig = Rig::start(options).unwrap();
    let done = tcp_does_not_hang(&mut rig);
    rig.must(done);
}

#[test]
fn a_driver_that_takes_no_program_at_9000_bytes_is_named() {
    let rig = Rig::without_translator(Options { mtus: LARGE, ..Options::natgate() }).unwrap();
    let arguments = rig.natgate_arguments().unwrap();
    let mut gateway = rig.launch(&arguments).unwrap();
    let status = wait::until("its end", Duration::from_secs(10), || gateway.ended()).unwrap();
    let log = gateway.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let driver = if rig.gw.guest().is_some() { "virtio_net" } else { "veth" };
    let said = format!("error: MTU too large (int): the driver {driver} takes no XDP program");
    assert!(log.contains(&said), "{log}");
    assert!(log.contains("`ip link set int mtu 3498`"), "{log}");
}

fn grows(rig: &mut Rig) -> Result<()> {
    rig.node.ip("link set dev gw0 mtu 3000")?;
    rig.gw.ip("link set dev int mtu 3000")?;
    wait::until("the warning", Duration::from_secs(5), || {
        let log = rig.natgate.as_ref().map(Gateway::log).unwrap_or_default();
        let warned = log.contains("its MTU is 3000, and packets above 1774 bytes are dropped")
            && log.contains("or start natgate again for up to 3822");
        Ok(warned.then_some(()))
    })?;
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    rig.pods[0].run(|| echo_bulk(&mut connect((S1[0], PORT))?, pattern(1, 1 << 20)))?
}

#[test]
fn an_mtu_that_grows_beyond_the_frames_is_told() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    let done = grows(&mut rig);
    rig.must(done);
}
