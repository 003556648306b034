//! A start that fails on its way leaves the sessions to the next one.

use std::time::Duration;

use anyhow::{Result, ensure};
use vm_test::{Rig, wait};

use super::{Before, objects, options, restored, start, state_file};

/// An address that the gateway has not.
const METRICS: &str = "203.0.113.77:9464";

fn fails_once(rig: &mut Rig) -> Result<()> {
    let mut before = Before::open(rig, 10)?;
    let ended = rig.natgate()?.terminate()?;
    ensure!(ended.success(), "{ended}");
    let mut arguments = rig.natgate_arguments()?;
    arguments.extend(["--metrics", METRICS].map(str::to_owned));
    let mut gateway = rig.launch(&arguments)?;
    let status = wait::until("its end", Duration::from_secs(30), || gateway.ended())?;
    ensure!(status.code() == Some(1), "{status} {}", gateway.log());
    ensure!(gateway.log().contains("cannot serve metrics"), "{}", gateway.log());
    ensure!(rig.gw.has(&state_file(rig))?, "the sessions are gone");
    start(rig, &objects("second", ""), 1)?;
    let said = restored(rig)?;
    ensure!(said.contains("live on"), "{said}");
    ensure!(!rig.gw.has(&state_file(rig))?, "it could be used twice");
    before.all_go_on()
}

#[test]
fn bug_a_start_that_failed_lost_the_sessions_that_were_left_for_it() {
    let mut rig = Rig::start(options(1, 1, "")).unwrap();
    let done = fails_once(&mut rig);
    rig.must(done);
}
