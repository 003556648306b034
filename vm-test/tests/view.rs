//! What natgate tells about itself is what the server saw (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (natgate sessions, pools, ...) ── r ── s1
//! ```

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vm_test::client::{connect, echo};
use vm_test::rig::{PODS, S1};
use vm_test::{Options, Rig, server};

const PORT: u16 = 7;

fn text<'a>(row: &'a Value, field: &str) -> Result<&'a str> {
    row[field].as_str().with_context(|| format!("no text {field} in {row}"))
}

fn number(row: &Value, field: &str) -> Result<u64> {
    row[field].as_u64().with_context(|| format!("no number {field} in {row}"))
}

/// Each pod holds one connection, which the session table must show as the server saw it.
fn shown(rig: &mut Rig) -> Result<()> {
    let peers = server::tcp_echo(&rig.s1, S1[0], PORT)?;
    let mut held = Vec::new();
    for pod in &rig.pods {
        held.push(pod.run(|| -> Result<_> {
            let mut stream = connect((S1[0], PORT))?;
            echo(&mut stream, b"shown")?;
            Ok((stream.local_addr()?.to_string(), stream))
        })??);
    }
    let public: Vec<_> = peers.all().iter().map(ToString::to_string).collect();
    let natgate = rig.natgate()?;
    let sessions = natgate.json(&["sessions"])?;
    ensure!(sessions.len() == 2, "{sessions:?}");
    for (internal, _) in &held {
        let row = sessions.iter().find(|row| row["internal"] == **internal);
        let row = row.with_context(|| format!("no session of {internal} in {sessions:?}"))?;
        ensure!(public.iter().any(|seen| row["public"] == **seen), "{row}: server saw {public:?}");
        ensure!(text(row, "remote")? == format!("{}:{PORT}", S1[0]), "{row}");
        ensure!(text(row, "protocol")? == "tcp" && text(row, "state")? == "established", "{row}");
        // SYN, ACK, data, ACK of the echo; SYN ACK, ACK of the data, echo (which may be one).
        ensure!(number(row, "packets_out")? >= 3 && number(row, "packets_in")? >= 2, "{row}");
        ensure!(number(row, "expires_in_ms")? > 0, "{row}");
    }
    let one = natgate.json(&["sessions", "--address", &PODS[0].to_string()])?;
    ensure!(one.len() == 1, "the filter by address yields {one:?}");
    ensure!(natgate.json(&["subscribers"])?.len() == 2, "not two subscribers");
    Ok(())
}

fn totals(rig: &mut Rig) -> Result<()> {
    let workers = rig.options().workers;
    let natgate = rig.natgate()?;
    let pools = natgate.json(&["pools"])?;
    ensure!(pools.len() == 1 && number(&pools[0], "blocks_held")? == 2, "{pools:?}");
    ensure!(natgate.json(&["workers"])?.len() == usize::from(workers), "workers");
    let interfaces = natgate.json(&["interfaces"])?;
    for name in ["int", "ext"] {
        let row = interfaces.iter().find(|row| row["interface"] == name).context(name)?;
        ensure!(number(row, "received_packets")? > 0, "{row}");
        ensure!(number(row, "transmitted_packets")? > 0, "{row}");
    }
    ensure!(natgate.json(&["status"])?.len() == 1, "status is not one object");
    for row in natgate.json(&["drops"])? {
        ensure!(!text(&row, "reason")?.is_empty() && !text(&row, "remedy")?.is_empty(), "{row}");
    }
    let metrics = natgate.metrics()?;
    ensure!(metrics.lines().any(|line| line.starts_with("natgate_")), "{metrics}");
    natgate.get("/healthz").map(|_| ())
}

fn whole_view(options: Options) {
    let mut rig = Rig::start(options).expect("the rig starts");
    let done = shown(&mut rig);
    rig.must(done);
    let done = totals(&mut rig);
    rig.must(done);
}

#[test]
fn the_view_is_what_the_server_saw() {
    whole_view(Options::natgate());
}

#[test]
fn four_workers_show_the_same() {
    let translator = vm_test::Translator::Natgate;
    whole_view(Options { translator, ..Options::four() });
}

/// The negative control: without natgate there is nothing to ask.
#[test]
fn nothing_is_shown_without_natgate() {
    let mut rig = Rig::start(Options::untranslated()).unwrap();
    totals(&mut rig).unwrap_err();
}
