//! What the kernel's routes say besides the way (topology: `vm_test::rig`).

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::socket::{getsockopt, sockopt};
use vm_test::client::{connect, echo, pattern};
use vm_test::rig::S1;
use vm_test::{Options, Rig, server, wait};

const PORT: u16 = 7;

/// What `ping` says about a packet of 1,400 bytes with DF; the pod forgets what it has learned before.
fn ping(rig: &Rig) -> Result<String> {
    rig.pods[0].ip("route flush cache")?;
    let line = format!("ping -c1 -W2 -M do -s 1372 {}", S1[0]);
    Ok(rig.pods[0].exec(&line).unwrap_or_else(|error| format!("{error:#}")))
}

fn heard(rig: &Rig, word: &str) -> Result<()> {
    wait::until(word, Duration::from_secs(5), || Ok(ping(rig)?.contains(word).then_some(())))
}

fn segment(rig: &Rig) -> Result<u32> {
    rig.pods[0].run(|| {
        let mut stream = connect((S1[0], PORT))?;
        echo(&mut stream, &pattern(1, 50_000))?;
        Ok(getsockopt(&stream, sockopt::TcpMaxSeg)?)
    })?
}

fn outside_and_inside(rig: &mut Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    heard(rig, " 0% packet loss")?;
    let before = segment(rig)?;
    ensure!(before > 1300, "{before}");
    rig.gw.ip("route replace default via 203.0.113.1 mtu 1300")?;
    heard(rig, "(mtu = 1300)")?;
    ensure!(segment(rig)? <= 1260);
    // Locked, it is the same; others of the same neighbour keep theirs.
    rig.gw.ip("route replace default via 203.0.113.1 mtu lock 1280\nroute add 192.0.2.11/32 via 203.0.113.1")?;
    heard(rig, "(mtu = 1280)")?;
    let other = format!("ping -c1 -W2 -M do -s 1372 {}", S1[1]);
    ensure!(rig.pods[0].exec(&other)?.contains(" 0% packet loss"));
    rig.gw.ip("route replace default via 203.0.113.1")?;
    heard(rig, " 0% packet loss")?;
    // Towards the pods: what they announce, and hear, is short enough.
    rig.gw.ip("route replace 10.244.0.0/16 via 10.0.0.2 mtu 1200")?;
    let short = wait::until("a shorter segment", Duration::from_secs(5), || {
        Ok(Some(segment(rig)?).filter(|it| *it <= 1160))
    });
    short?;
    // A route to a link has one for all behind it, which is not followed, and said.
    rig.gw.ip("route add 192.0.2.0/25 dev ext mtu 1250")?;
    wait::until("the refusal", Duration::from_secs(5), || {
        let status = rig.natgate.as_ref().map(|it| it.json(&["status"])).transpose()?;
        let text = format!("{status:?}");
        Ok(text.contains("the mtu of route 192.0.2.0/25 (table 254) is not followed").then_some(()))
    })
}

#[test]
fn the_mtu_of_a_route_counts() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    let done = outside_and_inside(&mut rig);
    rig.must(done);
}
