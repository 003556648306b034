//! Which mode works on which driver of which kernel, and does natgate say so (topology: `vm_test::rig`)?
//!
//! ```text
//!  c1, c2 (pings, datagrams, streams) ── node ── gw (natgate, mode by mode) ── r ── s1
//! ```
//! `docs/drivers.md` has the answers; `NATGATE_WRITE_DRIVERS=1` writes those of this run there. `VM_TEST_KERNEL` names the
//! kernel of the virtual machine.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vm_test::client::{connect, echo_bulk, echo_datagram, pattern, ping, udp};
use vm_test::guest::{Card, Machine};
use vm_test::oracle::balance;
use vm_test::rig::S1;
use vm_test::table::Table;
use vm_test::{Options, Rig, server};

const PORT: u16 = 7;
const MODES: [&str; 4] = ["auto", "zerocopy", "copy", "generic"];
/// Refusals that a driver without a mode is the reason of, each with what is to be done.
const NO_ZERO_COPY: [&str; 2] = ["no zero-copy", "`--mode copy`"];
const NO_XDP: [&str; 2] = ["no native XDP", "`--mode generic`"];
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

/// What drivers merge, as warnings name it, and as `ethtool -k` does.
const MERGES: [(&str, &str); 2] =
    [("gro", "generic-receive-offload"), ("lro", "large-receive-offload")];

/// Warnings of what drivers merge are true, and gone when it was switched off as they say.
fn warnings_hold(rig: &mut Rig) -> Result<()> {
    for (side, (short, long)) in ["int", "ext"].into_iter().flat_map(|it| MERGES.map(|m| (it, m))) {
        let remedy = format!("ethtool -K {side} {short} off");
        let warned = |rig: &mut Rig| Ok::<_, anyhow::Error>(reported(rig)?.contains(&remedy));
        if !warned(rig)? {
            continue;
        }
        let is = rig.gw.sh(&format!("ethtool -k {side}"))?;
        ensure!(is.contains(&format!("{long}: on")), "warned of {long}, which is off: {is}");
        rig.gw.sh(&remedy)?;
        ensure!(!warned(rig)?, "after `{remedy}` the warning is still there");
    }
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

/// One row of the table: whether everything passed, or it was refused for lack of what the driver has not.
fn try_mode(rig: &mut Rig, driver: &str, kernel: &str, mode: &str, lacks: &Lacks) -> Result<bool> {
    let (report, results) = if let Err(error) = start(rig, mode) {
        (refusal(&error)?, None)
    } else {
        let report = reported(rig)?;
        warnings_hold(rig)?;
        let results = [pings(rig), datagrams(rig), streams(rig)];
        balance::settled(rig.natgate()?)?;
        let status = rig.natgate()?.terminate()?;
        ensure!(status.success(), "mode {mode}: {status}");
        (report, Some(results))
    };
    // Its program stays in a mode of its own otherwise.
    let (status, said) = rig.gw.natgate("", &["detach", "--all"])?;
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
    let expected = lacks(mode);
    Ok(match (results, expected) {
        (Some(all), None) => all.iter().all(Result::is_ok),
        (None, Some(words)) => words.iter().all(|word| report.contains(word)),
        _ => false,
    })
}

/// With which words a mode is refused.
type Lacks = dyn Fn(&str) -> Option<[&'static str; 2]>;

/// With XDP in the driver.
fn no_zero_copy(mode: &str) -> Option<[&'static str; 2]> {
    (mode == "zerocopy").then_some(NO_ZERO_COPY)
}

/// Without it.
fn generic_only(mode: &str) -> Option<[&'static str; 2]> {
    no_zero_copy(mode).or((mode != "generic").then_some(NO_XDP))
}

fn every_mode(options: Options, driver: &str, lacks: &Lacks) {
    let machine = options.machine;
    let mut rig = Rig::without_translator(options).expect("the rig");
    // In generic mode nobody cuts what senders leave to their cards to cut: natgate's warning says this.
    for (host, interface) in [(&rig.node, "gw0"), (&rig.r, "down")] {
        let off = "tso off gso off gro off tx-udp-segmentation off";
        rig.must(host.exec(&format!("ethtool -K {interface} {off}")));
    }
    rig.must(server::udp_echo(&rig.s1, S1[0], PORT));
    rig.must(server::tcp_echo(&rig.s1, S1[0], PORT));
    let running = rig.must(rig.gw.sh("uname -r"));
    let running = running.trim().split('.').take(2).collect::<Vec<_>>().join(".");
    let kernel = machine.map_or(running.clone(), |it| it.kernel.name().to_owned());
    assert!(kernel.starts_with(&running), "{kernel} is wanted, {running} runs");
    let mut failed = Vec::new();
    for mode in MODES {
        let passed = try_mode(&mut rig, driver, &kernel, mode, lacks);
        if !rig.must(passed) {
            failed.push(mode);
        }
    }
    assert_eq!(failed, [""; 0], "modes that fail with {driver} on Linux {kernel}");
}

fn in_guest(machine: Machine, lacks: &Lacks) {
    let options = Options { machine: Some(machine), queues: machine.queues, ..Options::natgate() };
    let workers = machine.queues;
    every_mode(Options { workers, ..options }, machine.card.name(), lacks);
}

#[test]
fn every_mode_on_veth() {
    every_mode(Options { queues: 2, workers: 2, ..Options::natgate() }, "veth", &no_zero_copy);
}

#[test]
fn every_mode_on_virtio_net() {
    in_guest(Machine::with_queues(2), &no_zero_copy);
}

#[test]
fn every_mode_on_vmxnet3() {
    let machine = Machine::with_card(Card::Vmxnet3, 1);
    // Linux 6.6 taught it.
    let old = machine.kernel.name().starts_with("6.1-");
    in_guest(machine, if old { &generic_only } else { &no_zero_copy });
}

#[test]
fn every_mode_on_e1000e() {
    in_guest(Machine::with_card(Card::E1000e, 1), &generic_only);
}
