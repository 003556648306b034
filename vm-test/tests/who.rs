//! Which pod had a public endpoint? Asked of a running natgate, and of one that was killed and started again
//! (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (natgate who, events; killed) ── r ── s1
//! ```

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vm_test::client::{PATIENCE, echo_datagram};
use vm_test::rig::{PODS, S1};
use vm_test::{Options, Rig, server, wait};

/// How the server sees each pod.
fn endpoints(rig: &Rig, round: u16) -> Result<Vec<SocketAddr>> {
    rig.seen_by_server(2_000 + 2 * round)
}

/// What `natgate who` says.
fn who(rig: &mut Rig, endpoint: SocketAddr, at: Option<&str>) -> Result<Value> {
    let endpoint = format!("{endpoint}/udp");
    let mut words = vec!["who", endpoint.as_str()];
    words.extend(at.into_iter().flat_map(|at| ["--at", at]));
    let mut rows = rig.natgate()?.json(&words)?;
    ensure!(rows.len() == 1, "{rows:?}");
    Ok(rows.remove(0))
}

fn is_pod(answer: &Value, pod: usize) -> Result<()> {
    let holders = answer["holders"].as_array().context("no holders")?;
    ensure!(holders.len() == 1, "{answer}");
    ensure!(holders[0]["subscriber"] == PODS[pod].to_string(), "{answer}");
    Ok(())
}

/// Blocks of every pod, as a replay of the file says.
fn replay(text: &str) -> Result<BTreeMap<(String, u64), String>> {
    let mut table = BTreeMap::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line)?;
        let place = || (row["public"].to_string(), row["first"].as_u64().unwrap_or_default());
        match row["kind"].as_str().context("no kind")? {
            "started" | "state" => table.clear(),
            "block-allotted" | "block-held" => {
                table.insert(place(), row["subscriber"].as_str().unwrap_or_default().to_owned());
            }
            "block-released" => {
                table.remove(&place());
            }
            _ => {}
        }
    }
    Ok(table)
}

/// The file says what `natgate subscribers` says.
fn file_agrees(rig: &mut Rig, file: &Path) -> Result<()> {
    let rows = rig.natgate()?.json(&["subscribers"])?;
    let shown: BTreeMap<String, u64> = rows
        .iter()
        .filter_map(|row| Some((row["address"].as_str()?.to_owned(), row["blocks"].as_u64()?)))
        .filter(|(_, blocks)| *blocks > 0)
        .collect();
    ensure!(!shown.is_empty(), "no subscriber has a block");
    wait::until("the file to say what is held", Duration::from_secs(10), || {
        let text = rig.gw.read(file).unwrap_or_default();
        let mut counted = BTreeMap::new();
        for pod in replay(&text)?.into_values() {
            *counted.entry(pod).or_insert(0) += 1;
        }
        Ok((counted == shown).then_some(()))
    })
}

// Proves: 6888-REQ-12, 6888-REQ-14, 8158-S4.6b
#[test]
fn a_killed_natgate_still_knows_who_it_was() {
    let directory = std::env::temp_dir().join(format!("natgate-who-{}", std::process::id()));
    let file = directory.join("events.json");
    let objects = format!(
        "apiVersion: natgate.dev/v1alpha1
kind: Gateway
metadata: {{name: gateway}}
spec:
  interfaces: {{internal: [int], external: [ext]}}
  events: {{file: {{path: {}}}}}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {{name: one}}
spec: {{addresses: [203.0.113.10]}}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {{name: everyone}}
spec: {{from: [10.244.0.0/16], pool: one}}
",
        file.display()
    );
    let mut rig =
        Rig::start(Options { config: Some(objects), ..Options::natgate() }).expect("the rig");
    let result = check(&mut rig, &file);
    let _ = std::fs::remove_dir_all(&directory);
    rig.must(result);
}

/// Many flows make few records, and none says where they went.
fn records_are_small(rig: &mut Rig, file: &Path) -> Result<()> {
    const FLOWS: usize = 200;
    server::udp_echo(&rig.s1, S1[0], 1_999)?;
    rig.pods[0].run(|| -> Result<()> {
        for _ in 0..FLOWS {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((S1[0], 1_999))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            echo_datagram(&socket, b"one of many")?;
        }
        Ok(())
    })??;
    file_agrees(rig, file)?;
    let text = rig.gw.read(file)?;
    let lines = text.lines().count();
    ensure!((2..FLOWS / 10).contains(&lines), "{lines} records of {FLOWS} flows");
    ensure!(!text.contains(&S1[0].to_string()), "a destination: {text}");
    Ok(())
}

fn check(rig: &mut Rig, file: &Path) -> Result<()> {
    records_are_small(rig, file)?;
    let before = endpoints(rig, 0)?;
    for (pod, &endpoint) in before.iter().enumerate() {
        is_pod(&who(rig, endpoint, None)?, pod)?;
    }
    let free = SocketAddr::new(before[0].ip(), 1_024);
    ensure!(who(rig, free, None)?["holders"] == Value::Array(Vec::new()), "a port of nobody");
    file_agrees(rig, file)?;
    let then = who(rig, before[0], None)?["at"].as_str().context("no time")?.to_owned();
    // What is written every few milliseconds is written.
    std::thread::sleep(Duration::from_millis(500));
    rig.natgate()?.kill9()?;
    rig.start_translator()?;
    let after = endpoints(rig, 1)?;
    for (pod, &endpoint) in before.iter().enumerate() {
        let answer = who(rig, endpoint, Some(&then))?;
        is_pod(&answer, pod)?;
        ensure!(answer["holders"][0]["to"].is_string(), "it ended with the process: {answer}");
    }
    for (pod, &endpoint) in after.iter().enumerate() {
        is_pod(&who(rig, endpoint, None)?, pod)?;
    }
    let (code, _, said) = rig.natgate()?.command(&["who", "203.0.113.10"])?;
    ensure!(code == 2 && said.contains("write for example"), "{code} {said}");
    file_agrees(rig, file)
}
