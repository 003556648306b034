//! What ends natgate, and how another one takes its place.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::{Rig, wait};

use crate::events::Events;

/// How long natgate may take to notice that it has to end.
const NOTICED: Duration = Duration::from_secs(20);

/// A stop in order: every frame is where it should be.
pub(crate) fn restart(events: &mut Events, rig: &mut Rig) -> Result<()> {
    in_order(rig)?;
    events.ends += 1;
    start(events, rig)
}

/// Stops natgate, and looks at its last words.
pub(crate) fn in_order(rig: &mut Rig) -> Result<()> {
    let status = rig.natgate()?.terminate()?;
    let log = rig.natgate()?.log();
    ensure!(status.success(), "natgate ended with {status}: {log}");
    ensure!(log.contains("every frame accounted for"), "frames are missing: {log}");
    Ok(())
}

pub(crate) fn kill(events: &mut Events, rig: &mut Rig) -> Result<()> {
    rig.natgate()?.kill9()?;
    start(events, rig)
}

/// Somebody replaces natgate's program by force: natgate ends. Another one starts when that program is gone.
pub(crate) fn foreign_program(events: &mut Events, rig: &mut Rig) -> Result<()> {
    let object = rig.foreign_program()?;
    rig.gw.sh(&format!("ip -force link set dev ext xdpdrv obj {object} sec xdp"))?;
    let ended = wait::until("natgate to end", NOTICED, || rig.natgate()?.ended())?;
    let log = rig.natgate()?.log();
    ensure!(ended.code() == Some(1) && log.contains("XDP hook busy (ext)"), "{ended}: {log}");
    let refused = rig.start_translator().err().context("it serves beside another's program")?;
    ensure!(format!("{refused:#}").contains("XDP hook busy (ext)"), "{refused:#}");
    rig.gw.ip("link set dev ext xdp off")?;
    start(events, rig)
}

/// The link inside is removed and made again: natgate starts again by itself.
pub(crate) fn made_again(_: &mut Events, rig: &mut Rig) -> Result<()> {
    rig.remove_inside()?;
    rig.make_inside_again()
}

/// With the first form of the objects, which the rig writes.
fn start(events: &mut Events, rig: &mut Rig) -> Result<()> {
    events.form = 0;
    rig.start_translator()
}
