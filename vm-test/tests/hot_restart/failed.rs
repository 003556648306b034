//! A start that fails on its way leaves the sessions to the next one.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use vm_test::{Gateway, Rig, wait};

use super::{Before, objects, options, restored, start, state_file};

const METRICS: &str = "127.0.0.1:9464";

fn fails_once(rig: &mut Rig) -> Result<()> {
    let mut before = Before::open(rig, 10)?;
    let ended = rig.natgate()?.terminate()?;
    ensure!(ended.success(), "{ended}");
    // Somebody else serves where this one should.
    let somebody = rig.gw.run(|| TcpListener::bind(METRICS))??;
    let mut arguments = rig.natgate_arguments()?;
    arguments.extend(["--metrics", METRICS].map(str::to_owned));
    let mut gateway = Gateway::launch(&rig.gw, rig.directory(), &arguments)?;
    let status = wait::until("its end", Duration::from_secs(30), || gateway.ended())?;
    ensure!(status.code() == Some(1), "{status} {}", gateway.log());
    ensure!(gateway.log().contains("cannot serve metrics"), "{}", gateway.log());
    ensure!(state_file(rig).exists(), "the sessions are gone");
    drop(somebody);
    start(rig, &objects("second", ""), 1)?;
    let said = restored(rig)?;
    ensure!(said.contains("live on"), "{said}");
    ensure!(!state_file(rig).exists(), "it could be used twice");
    before.all_go_on()
}

#[test]
fn bug_a_start_that_failed_lost_the_sessions_that_were_left_for_it() {
    let mut rig = Rig::start(options(1, 1, "")).unwrap();
    let done = fails_once(&mut rig);
    rig.must(done);
}
