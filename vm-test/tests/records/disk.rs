//! The disk is full, and the directories are deleted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use vm_test::namespace::output;
use vm_test::{Options, Rig, wait};

use super::{LIMIT, Traffic, metric, objects, rows, said};

/// What all that natgate writes goes to, in a mount namespace of the calling thread and its children.
struct Disk(PathBuf);

impl Disk {
    fn mount() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("natgate-disk-{}", std::process::id()));
        unshare(CloneFlags::CLONE_NEWNS)?;
        output(Command::new("mount").args(["--make-rprivate", "/"]))?;
        std::fs::create_dir(&path)?;
        let disk = Self(path);
        output(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk.0))?;
        Ok(disk)
    }

    /// Nothing more can be written.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.0.join("fill"))?;
        while file.write_all(&[0; 512]).is_ok() {}
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("fill"))?)
    }

    fn events(&self) -> PathBuf {
        self.0.join("log/events.json")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The namespace is the thread's: it goes with it.
        let _ = output(Command::new("umount").arg("-l").arg(&self.0));
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Every number is in the file, once or more often, up to the newest one.
fn nothing_is_lost(path: &Path) -> Result<()> {
    let rows = rows(path)?;
    let mut last = 0;
    for row in &rows {
        ensure!(row["kind"] != "gap", "{row}");
        if let Some(seq) = row["seq"].as_u64() {
            ensure!(last == 0 || seq <= last + 1, "after {last}: {row}");
            last = last.max(seq);
        }
    }
    ensure!(last > 0, "no entries");
    Ok(())
}

fn full(rig: &mut Rig, disk: &Disk, traffic: &Traffic) -> Result<()> {
    let before = rig.natgate()?.log().len();
    disk.fill()?;
    traffic.goes_on()?;
    said(rig, before, &["WARN", "event file", "cannot be written", "No space left", "see that"])?;
    said(rig, before, &["WARN", "attribution records", "cannot be written"])?;
    ensure!(metric(rig, "natgate_events_failing{sink=\"file\"}")? == 1, "it does not say so");
    traffic.goes_on()?;
    let (code, _, error) = rig.natgate()?.command(&["set", "log", "natgate=info"])?;
    ensure!(code == 0, "{error}");
    disk.free()?;
    said(rig, before, &["event file", "works again"])?;
    said(rig, before, &["attribution records", "works again"])?;
    traffic.goes_on()?;
    ensure!(metric(rig, "natgate_events_failing{sink=\"file\"}")? == 0, "it fails still");
    ensure!(metric(rig, "natgate_events_lost_total{sink=\"file\"}")? == 0, "entries are lost");
    wait::until("the entries", LIMIT, || Ok(nothing_is_lost(&disk.events()).ok()))?;
    nothing_is_lost(&disk.events())
}

fn deleted(rig: &mut Rig, disk: &Disk, traffic: &Traffic) -> Result<()> {
    std::fs::remove_dir_all(disk.0.join("log"))?;
    std::fs::remove_dir_all(disk.0.join("state/attribution"))?;
    std::fs::remove_file(disk.0.join("state/running"))?;
    wait::until("the directories to be there again", LIMIT, || {
        let state = disk.0.join("state");
        let there = [disk.events(), state.join("running"), state.join("attribution")];
        Ok(there.iter().all(|path| path.exists()).then_some(()))
    })?;
    traffic.goes_on()?;
    let first = wait::until("the state", LIMIT, || {
        Ok(rows(&disk.events())?.into_iter().find(|row| row["kind"] == "state"))
    })?;
    ensure!(first["count"].as_u64() > Some(0), "no block is held: {first}");
    // What natgate has written since is there for who asks.
    let seen = rig.seen_by_server(4_000)?[0];
    let endpoint = format!("{seen}/udp");
    let now = rig.natgate()?.json(&["who", &endpoint])?;
    let at = now[0]["at"].as_str().context("no time")?.to_owned();
    let then = wait::until("the record", LIMIT, || {
        let answer = rig.natgate()?.json(&["who", &endpoint, "--at", &at])?;
        let holders = answer[0]["holders"].as_array().cloned().unwrap_or_default();
        Ok((!holders.is_empty()).then_some(holders))
    })?;
    ensure!(then[0]["subscriber"] == vm_test::rig::PODS[0].to_string(), "{then:?}");
    Ok(())
}

/// It stops in order with a full disk, and says that its sessions can't live on.
fn stops(rig: &mut Rig, disk: &Disk) -> Result<()> {
    let before = rig.natgate()?.log().len();
    disk.fill()?;
    let ended = rig.natgate()?.terminate()?;
    ensure!(ended.success(), "{ended}");
    said(rig, before, &["WARN", "sessions will not survive", "cannot be written"])?;
    disk.free()?;
    rig.start_translator()?;
    let log = rig.natgate()?.log();
    ensure!(!log.contains("without a word"), "an end in order is taken for a crash: {log}");
    Ok(())
}

fn run() -> Result<()> {
    let disk = Disk::mount()?;
    let config = Some(objects(&disk.0));
    let mut rig = Rig::without_translator(Options { config, ..Options::natgate() })?;
    std::fs::create_dir(disk.0.join("state"))?;
    // Where the rig has natgate keep its records.
    std::os::unix::fs::symlink(disk.0.join("state"), rig.directory().join("state"))?;
    rig.start_translator()?;
    let traffic = Traffic::begin(&rig)?;
    let done = (|| {
        traffic.goes_on()?;
        full(&mut rig, &disk, &traffic)?;
        deleted(&mut rig, &disk, &traffic)
    })();
    rig.must(done);
    let done = traffic.end();
    rig.must(done);
    let done = stops(&mut rig, &disk);
    rig.must(done);
    Ok(())
}

#[test]
fn a_full_disk_and_deleted_directories_hold_up_no_packet_and_are_said() {
    std::thread::spawn(run).join().unwrap().unwrap();
}
