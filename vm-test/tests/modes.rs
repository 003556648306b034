//! Which mode works on which driver of which kernel, and does natgate say so (topology: `vm_test::rig`)?
//!
//! ```text
//!  c1, c2 (pings, datagrams, streams) ── node ── gw (natgate, mode by mode) ── r ── s1
//! ```
//! `docs/drivers.md` has the answers; `NATGATE_WRITE_DRIVERS=1` writes those of this run there. `VM_TEST_KERNEL=6.1` takes
//! the older kernel for the virtual machine.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vm_test::client::{connect, echo_bulk, echo_datagram, pattern, ping, udp};
use vm_test::guest::Machine;
use vm_test::oracle::balance;
use vm_test::rig::S1;
use vm_test::table::Table;
use vm_test::{Options, Rig, server};

const PORT: u16 = 7;
const MODES: [&str; 4] = ["auto", "zerocopy", "copy", "generic"];
const TABLE: Table = Table {
    document: "docs/drivers.md",
    head: "| driver | kernel | `--mode` | what natgate reports | pings | datagrams | streams |",
    wish: "NATGATE_WRITE_DRIVERS",
};

/// Both pods ping with the same identifier.
fn pings(rig: &Rig) -> Result<()> {
    for size in [0, 56, 1472] {
        let mut clients = Vec::new();
        for (seed, pod) in (1..).zip(&rig.pods) {
            clients.push(pod.spawn(move || ping(S1[1], 77, 5, size, seed))?);
        }
        for client in clients {
            client.join().expect("a client thread panicked")?;
        }
    }
    Ok(())
}

fn datagrams(rig: &Rig) -> Result<()> {
    for pod in &rig.pods {
        pod.run(|| -> Result<()> {
            let socket = udp((S1[0], PORT))?;
            (0..=1472)
                .step_by(46)
                .try_for_each(|size| echo_datagram(&socket, &pattern(size, size as usize)))
        })??;
    }
    Ok(())
}

fn streams(rig: &Rig) -> Result<()> {
    for pod in &rig.pods {
        pod.run(|| echo_bulk(&mut connect((S1[0], PORT))?, pattern(1, 1 << 19)))??;
    }
    Ok(())
}

/// Starts natgate in this mode.
fn start(rig: &mut Rig, mode: &str) -> Result<()> {
    let mut arguments = rig.natgate_arguments()?;
    arguments.extend(["--mode".to_owned(), mode.to_owned()]);
    rig.natgate = Some(rig.launch_ready(&arguments)?);
    Ok(())
}

/// What natgate says of its interfaces: mode, and warnings.
fn reported(rig: &mut Rig) -> Result<String> {
    let rows = rig.natgate()?.json(&["interfaces"])?;
    let mut said = Vec::new();
    for row in &rows {
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        said.push(text(&row["mode"]));
        for warning in row["warnings"].as_array().into_iter().flatten().map(text) {
            // The same of both interfaces.
            said.push(
                warning.split_once(": ").map_or(warning.clone(), |(_, what)| what.to_owned()),
            );
        }
    }
    said.sort();
    said.dedup();
    Ok(said.join("; "))
}

/// The error with which it refused to start.
fn refusal(error: &anyhow::Error) -> Result<String> {
    let said = format!("{error:#}");
    let line = said.lines().find_map(|line| line.strip_prefix("error: "));
    Ok(format!("refused: {}", line.with_context(|| said.clone())?))
}

/// One row of the table: whether everything passed.
fn try_mode(rig: &mut Rig, driver: &str, kernel: &str, mode: &str) -> Result<bool> {
    let (report, results) = if let Err(error) = start(rig, mode) {
        (refusal(&error)?, None)
    } else {
        let report = reported(rig)?;
        let results = [pings(rig), datagrams(rig), streams(rig)];
        balance::settled(rig.natgate()?)?;
        let status = rig.natgate()?.terminate()?;
        ensure!(status.success(), "mode {mode}: {status}");
        (report, Some(results))
    };
    // Its program stays in a mode of its own otherwise.
    let (status, said) = rig.gateway_natgate("", &["detach", "--all"])?;
    ensure!(status == 0, "{said}");
    let word = |result: &Result<()>| {
        if let Err(error) = result {
            eprintln!("{driver} {kernel} {mode}: {error:#}");
        }
        if result.is_ok() { "pass".to_owned() } else { "fail".to_owned() }
    };
    let words = results
        .as_ref()
        .map_or_else(|| vec!["–".to_owned(); 3], |all| all.iter().map(word).collect());
    let mut cells = vec![driver.to_owned(), kernel.to_owned(), mode.to_owned(), report.clone()];
    cells.extend(words);
    TABLE.note(3, &cells)?;
    // Zero-copy may be refused, if that is what is said.
    Ok(results.map_or(mode == "zerocopy" && report.contains("no zero-copy"), |all| {
        all.iter().all(Result::is_ok)
    }))
}

fn every_mode(options: Options, driver: &str) {
    let mut rig = Rig::without_translator(options).expect("the rig");
    // In generic mode nobody cuts what senders leave to their cards to cut: natgate's warning says this.
    for (host, interface) in [(&rig.node, "gw0"), (&rig.r, "down")] {
        let off = "tso off gso off gro off tx-udp-segmentation off";
        rig.must(host.exec(&format!("ethtool -K {interface} {off}")));
    }
    rig.must(server::udp_echo(&rig.s1, S1[0], PORT));
    rig.must(server::tcp_echo(&rig.s1, S1[0], PORT));
    let kernel = rig.must(rig.gateway_sh("uname -r"));
    let kernel = kernel.trim().split('.').take(2).collect::<Vec<_>>().join(".");
    let mut failed = Vec::new();
    for mode in MODES {
        let passed = try_mode(&mut rig, driver, &kernel, mode);
        if !rig.must(passed) {
            failed.push(mode);
        }
    }
    assert_eq!(failed, [""; 0], "modes that fail with {driver} on Linux {kernel}");
}

#[test]
fn every_mode_on_veth() {
    every_mode(Options { queues: 2, workers: 2, ..Options::natgate() }, "veth");
}

#[test]
fn every_mode_on_virtio_net() {
    let machine = Some(Machine::with_queues(2));
    every_mode(Options { machine, queues: 2, workers: 2, ..Options::natgate() }, "virtio-net");
}
