//! Two pods fetch the same large file at once and get it whole (topology: `vm_test::rig`).
//!
//! ```text
//!  c1 curl ─┐
//!           ├─ node ── gw ── r ── s1 python's HTTP server
//!  c2 curl ─┘
//! ```

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result, ensure};
use vm_test::namespace::output;
use vm_test::rig::{S1, verified};
use vm_test::{Options, Pool, Rig, server};

const WHOLE: u64 = 200 << 20;
const SHORT: u64 = 20 << 20;

fn fetch(rig: &mut Rig, bytes: u64, patience_s: u32) -> Result<()> {
    let files = rig.directory().join("files");
    std::fs::create_dir(&files)?;
    let blob = files.join("blob");
    std::io::copy(&mut File::open("/dev/urandom")?.take(bytes), &mut File::create(&blob)?)?;
    let sum = output(std::process::Command::new("sha256sum").arg(&blob))?;
    let http = server::http(&rig.s1, S1[0], &files)?;
    let line = format!("curl -sS --fail --max-time {patience_s} http://{}/blob | sha256sum", S1[0]);
    let mut fetching = Vec::new();
    for pod in &rig.pods {
        let mut command = pod.command("bash");
        command.args(["-o", "pipefail", "-c", &line]);
        fetching.push(std::thread::spawn(move || output(&mut command)));
    }
    for pod in fetching {
        let got = pod.join().expect("a client thread panicked")?;
        ensure!(got.split_whitespace().next() == sum.split_whitespace().next(), "another file");
    }
    let pool = rig.options().pool;
    let log = http.stderr();
    let clients = log.lines().filter(|line| line.contains("GET /blob"));
    for client in clients.clone() {
        let address = client.split_whitespace().next().context("an empty line")?.parse()?;
        ensure!(pool.holds(address), "the server saw {address}");
    }
    ensure!(clients.count() == 2, "the server saw other requests than two: {log}");
    Ok(())
}

fn whole_run(options: Options, bytes: u64) {
    verified(options, |rig| fetch(rig, bytes, 120));
}

// Proves: 6864-S4.1b, 6864-S4.3c
// Museum: C25
#[test]
fn two_pods_fetch_200_mb_at_once() {
    whole_run(Options::default(), WHOLE);
}

#[test]
fn four_queues_and_workers_fetch_200_mb() {
    whole_run(Options::four(), WHOLE);
}

#[test]
fn whole_checksums_from_the_sender_stay_right() {
    whole_run(Options { sender_checksum_offload: false, ..Options::default() }, SHORT);
}

#[test]
fn a_routed_pool_serves_as_well() {
    whole_run(Options { pool: Pool::Routed, ..Options::default() }, SHORT);
}

/// The negative control.
#[test]
fn nothing_arrives_without_translation() {
    let mut rig = Rig::start(Options::untranslated()).unwrap();
    fetch(&mut rig, 1 << 20, 3).unwrap_err();
    let verified = rig.verify().unwrap_err().to_string();
    assert!(verified.contains("oracle b: leaks"), "{verified}");
}
