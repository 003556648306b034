//! An address is taken out of its pool, and the program is replaced before the last session there has ended.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use vm_test::{Rig, client::echo};

use super::{Before, objects, objects_at, options, restart, restored, seen};

/// The address of the second pool first, and then.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 11), Ipv4Addr::new(203, 0, 113, 12)];

fn moved(settings: &str) -> String {
    objects_at("second", &ADDRESSES[1].to_string(), settings)
}

/// How many addresses of the second pool are leaving.
fn leaving(rig: &mut Rig) -> Result<u64> {
    let pools = rig.natgate()?.json(&["pools"])?;
    let pool = pools.iter().find(|pool| pool["pool"] == "second").context("no such pool")?;
    pool["leaving"].as_u64().context("no number")
}

fn on_the_first(rig: &mut Rig) -> Result<usize> {
    let public = format!("{}:", ADDRESSES[0]);
    Ok(seen(rig)?.iter().filter(|(_, endpoint, _)| endpoint.starts_with(&public)).count())
}

fn leave(rig: &mut Rig) -> Result<()> {
    let mut before = Before::open(rig, 20)?;
    ensure!(on_the_first(rig)? == 30, "c2 is elsewhere");
    rig.write_objects(&moved(""))?;
    let (code, _, error) = rig.natgate()?.command(&["reload"])?;
    ensure!(code == 0 && leaving(rig)? == 1, "{error}");
    before.all_go_on()?;
    // Twice: what a natgate took over it leaves to the next one.
    for round in 0..2 {
        let was = seen(rig)?;
        restart(rig, &moved(""), 1)?;
        let (said, all) = (restored(rig)?, was.len());
        let wanted = format!("{all} of {all} sessions of the natgate before live on");
        ensure!(said == wanted, "{said}");
        ensure!(leaving(rig)? == 1, "the address is not leaving");
        before.all_go_on()?;
        ensure!(seen(rig)? == was, "sessions began anew");
        let new = rig.seen_by_server(3_000 + 2 * round)?;
        ensure!(new[1].ip() == ADDRESSES[1], "{} was given out", new[1]);
    }
    // And now they are to end.
    let all = seen(rig)?.len();
    restart(rig, &moved(", removal: cut"), 1)?;
    let said = restored(rig)?;
    let wanted = format!(
        "{} of {all} sessions of the natgate before live on; lost: 30 whose public address was taken out of their pool",
        all - 30
    );
    ensure!(said == wanted, "{said}");
    ensure!(leaving(rig)? == 0 && on_the_first(rig)? == 0, "the address is natgate's still");
    let (kept, gone) = before.idle.split_at_mut(10);
    for stream in kept {
        echo(stream, b"after")?;
    }
    // One tells for all: to wait in vain takes seconds.
    ensure!(echo(&mut gone[0], b"after").is_err(), "a connection without its address goes on");
    Ok(())
}

#[test]
fn sessions_on_an_address_that_leaves_its_pool_survive_a_restart() {
    let config = Some(objects("second", ""));
    let mut rig = Rig::start(vm_test::Options { config, ..options(1, 1, "") }).unwrap();
    let done = leave(&mut rig);
    rig.must(done);
    let summary = rig.verify();
    rig.must(summary);
}

/// The last session ends after the restart, and with it the address.
fn end(rig: &mut Rig) -> Result<()> {
    let timers = ", timers: {tcpTimeWait: 1, tcpReset: 1}";
    let mut before = Before::open(rig, 4)?;
    restart(rig, &moved(timers), 1)?;
    ensure!(leaving(rig)? == 1, "the address is not leaving: {}", restored(rig)?);
    before.all_go_on()?;
    before.sockets.clear();
    before.idle.clear();
    let (code, _, error) = rig.natgate()?.command(&["set", "pools.second.timers.udp", "1"])?;
    ensure!(code == 0, "{error}");
    vm_test::wait::until("the address to go", std::time::Duration::from_secs(30), || {
        Ok((leaving(rig)? == 0).then_some(()))
    })?;
    let log = rig.natgate()?.log();
    ensure!(log.contains("nobody has this address any more"), "{log}");
    Ok(())
}

#[test]
fn an_address_goes_with_its_last_session_after_a_restart() {
    let mut rig = Rig::start(options(1, 1, "")).unwrap();
    let done = end(&mut rig);
    rig.must(done);
}
