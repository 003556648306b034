//! What ends natgate, and how another one takes its place.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::namespace::{link, output};
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

/// An XDP program that is not natgate's, compiled once.
pub(crate) fn foreign(rig: &Rig) -> Result<String> {
    let (source, object) = (rig.directory().join("foreign.c"), rig.directory().join("foreign.o"));
    if !object.exists() {
        let text = "__attribute__((section(\"xdp\"), used)) int foreign(void *packet)\n\
                    { (void)packet; return 2; }\n";
        std::fs::write(&source, text)?;
        let mut clang = Command::new("clang");
        output(clang.args(["-O2", "-target", "bpf", "-c"]).arg(&source).arg("-o").arg(&object))?;
    }
    Ok(object.display().to_string())
}

/// Somebody replaces natgate's program by force: natgate ends. Another one starts when that program is gone.
pub(crate) fn foreign_program(events: &mut Events, rig: &mut Rig) -> Result<()> {
    let object = foreign(rig)?;
    rig.gateway_sh(&format!("ip -force link set dev ext xdpdrv obj {object} sec xdp"))?;
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
    let queues = rig.options().queues;
    rig.node.ip("link del gw0")?;
    link((&rig.node, "gw0"), (&rig.gw, "int"), queues)?;
    rig.node.ip("addr add 10.0.0.2/24 dev gw0\nroute add default via 10.0.0.1")?;
    rig.gateway_sh(&rig.card_lines("int")).map(drop)
}

/// With the first form of the objects, which the rig writes.
fn start(events: &mut Events, rig: &mut Rig) -> Result<()> {
    events.form = 0;
    rig.start_translator()
}
