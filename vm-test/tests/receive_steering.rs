//! What natgate has NICs do, so that packets arrive at the worker that needs them (topology: `vm_test::rig`). The cards
//! here are veths, which can't; a program `ethtool` of the test's own, found before the real one, plays one that can.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::client::{echo_datagram, udp};
use vm_test::rig::S1;
use vm_test::{Gateway, Options, Rig, server};

const PORT: u16 = 7;

/// Keeps its settings in files beside itself, and writes down what it was asked for. Like the real one, it ends with 0
/// when a driver (file `deaf`) refuses to spread packets otherwise.
const CARD: &str = r#"#!/bin/sh
d=$(dirname "$0")
echo "$*" >> "$d/asked"
case "$1 $3" in
"-n rx-flow-hash")
    echo "$4 flows use these fields for computing Hash flow key:"
    for field in $(cat "$d/$2-$4" 2>/dev/null || echo s d f n); do
        case $field in
        s) echo "IP SA" ;; d) echo "IP DA" ;;
        f) echo "L4 bytes 0 & 1 [TCP/UDP src port]" ;; n) echo "L4 bytes 2 & 3 [TCP/UDP dst port]" ;;
        esac
    done ;;
"-N rx-flow-hash")
    if [ -e "$d/deaf" ]; then echo "Cannot change RX network flow hashing options: Operation not supported" >&2
    else echo "$5" | sed 's/./& /g' > "$d/$2-$4"; fi ;;
"-k ")
    echo "Features for $2:"
    echo "ntuple-filters: $(cat "$d/filters" 2>/dev/null || echo off)" ;;
"-K ntuple")
    echo "$4" > "$d/filters" ;;
"-N flow-type")
    if [ -e "$d/full" ] && [ "$8" = "3" ]; then
        echo "rmgr: Cannot insert RX class rule: No space left on device" >&2
        exit 1
    fi
    n=$(($(cat "$d/last" 2>/dev/null || echo 99) + 1))
    echo $n > "$d/last"
    echo "$4 $6 $8" > "$d/rule-$n"
    echo "Added rule with ID $n" ;;
"-N delete")
    rm "$d/rule-$4" ;;
"-n ")
    echo "4 RX rings available" ;;
*)
    echo "not known here: $*" >&2
    exit 1 ;;
esac
"#;

/// What spares hand-overs on the rig's interfaces, in the order of doing.
const COMMANDS: [(&str, &str); 11] = [
    ("int", "ethtool -N int rx-flow-hash tcp4 s"),
    ("int", "ethtool -N int rx-flow-hash udp4 s"),
    ("ext", "ethtool -K ext ntuple on"),
    ("ext", "ethtool -N ext flow-type tcp4 dst-ip 203.0.113.10 action 2"),
    ("ext", "ethtool -N ext flow-type udp4 dst-ip 203.0.113.10 action 2"),
    ("ext", "ethtool -N ext flow-type tcp4 dst-ip 203.0.113.11 action 3"),
    ("ext", "ethtool -N ext flow-type udp4 dst-ip 203.0.113.11 action 3"),
    ("ext", "ethtool -N ext flow-type tcp4 dst-ip 203.0.113.12 action 0"),
    ("ext", "ethtool -N ext flow-type udp4 dst-ip 203.0.113.12 action 0"),
    ("ext", "ethtool -N ext flow-type tcp4 dst-ip 203.0.113.13 action 1"),
    ("ext", "ethtool -N ext flow-type udp4 dst-ip 203.0.113.13 action 1"),
];

struct Card {
    rig: Rig,
    programs: PathBuf,
}

impl Card {
    /// A rig whose natgate, with `flags`, finds a card with these quirks.
    fn start(quirks: &[&str], flags: &[&str]) -> Result<Self> {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let options = Options { queues: 4, workers: 4, flags, ..Options::natgate() };
        let mut rig = Rig::without_translator(options)?;
        let programs = rig.directory().join("programs");
        std::fs::create_dir(&programs)?;
        for quirk in quirks {
            std::fs::write(programs.join(quirk), "")?;
        }
        let program = programs.join("ethtool");
        std::fs::write(&program, CARD)?;
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let arguments = rig.natgate_arguments()?;
        let mut gateway = Gateway::launch_beside(
            Some(&programs),
            &rig.gw.namespace,
            rig.directory(),
            &arguments,
        )?;
        gateway.await_ready(Duration::from_secs(20))?;
        rig.natgate = Some(gateway);
        Ok(Self { rig, programs })
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.programs.join(file)).unwrap_or_default().trim().to_owned()
    }

    /// What it was told, and not only asked.
    fn told(&self) -> Vec<String> {
        let asked = self.read("asked");
        let changes = |line: &&str| line.starts_with("-N ") || line.starts_with("-K ");
        asked.lines().filter(changes).map(|line| format!("ethtool {line}")).collect()
    }

    fn rules(&self) -> Result<usize> {
        let names = std::fs::read_dir(&self.programs)?.filter_map(Result::ok);
        Ok(names.filter(|it| it.file_name().to_string_lossy().starts_with("rule-")).count())
    }
}

/// State, command and what was said of each receive setting.
fn shown(rig: &mut Rig) -> Result<Vec<(String, String, String, String)>> {
    let mut all = Vec::new();
    for row in rig.natgate()?.json(&["interfaces"])? {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        for step in row["receive_steering"].as_array().context("no receive_steering")? {
            let (state, command) = (text(&step["state"]), text(&step["command"]));
            all.push((text(&row["interface"]), state, command, text(&step["said"])));
        }
    }
    Ok(all)
}

fn traffic(rig: &Rig) -> Result<()> {
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    for pod in &rig.pods {
        pod.run(|| {
            for _ in 0..8 {
                echo_datagram(&udp((S1[0], PORT))?, b"there and back")?;
            }
            anyhow::Ok(())
        })??;
    }
    Ok(())
}

fn expected(state: &str) -> Vec<(String, String, String)> {
    let row = |&(interface, command): &(&str, &str)| {
        (interface.to_owned(), state.to_owned(), command.to_owned())
    };
    COMMANDS.iter().map(row).collect()
}

fn in_short(rows: Vec<(String, String, String, String)>) -> Vec<(String, String, String)> {
    rows.into_iter().map(|(interface, state, command, _)| (interface, state, command)).collect()
}

fn prints(card: &mut Card) -> Result<()> {
    let rows = in_short(shown(&mut card.rig)?);
    ensure!(rows == expected("wanted"), "{rows:#?}");
    ensure!(card.told().is_empty(), "it was told {:?}", card.told());
    let log = card.rig.natgate()?.log();
    for (_, command) in COMMANDS {
        ensure!(log.matches(command).count() == 1, "{command} is not in the log once: {log}");
    }
    let (_, table, _) = card.rig.natgate()?.command(&["interfaces"])?;
    let line = "receive steering (int): wanted: ethtool -N int rx-flow-hash tcp4 s";
    ensure!(table.lines().any(|it| it == line), "{table}");
    traffic(&card.rig)
}

#[test]
fn commands_are_shown_and_not_run() {
    let mut card = Card::start(&[], &[]).unwrap();
    let done = prints(&mut card);
    card.rig.must(done);
}

fn applies(card: &mut Card) -> Result<()> {
    let rows = in_short(shown(&mut card.rig)?);
    ensure!(rows == expected("done"), "{rows:#?}");
    let told = card.told();
    ensure!(told.iter().eq(COMMANDS.iter().map(|it| it.1)), "{told:#?}");
    ensure!(card.rules()? == 8 && card.read("filters") == "on" && card.read("int-udp4") == "s");
    traffic(&card.rig)?;
    ensure!(card.rig.natgate()?.terminate()?.success());
    ensure!(card.rules()? == 0 && card.read("filters") == "off", "rules or filters stay");
    let fields = (card.read("int-tcp4"), card.read("int-udp4"));
    ensure!(fields == ("s d f n".into(), "s d f n".into()), "{fields:?}");
    let undone = card.told().split_off(COMMANDS.len());
    ensure!(
        undone.len() == COMMANDS.len() && undone[0] == "ethtool -N ext delete 107",
        "{undone:?}"
    );
    Ok(())
}

#[test]
fn commands_are_run_and_taken_back_in_the_end() {
    let mut card = Card::start(&[], &["--receive-steering", "apply"]).unwrap();
    let done = applies(&mut card);
    card.rig.must(done);
}

fn survives_refusals(card: &mut Card) -> Result<()> {
    let rows = shown(&mut card.rig)?;
    let state = |command: &str| {
        let row = rows.iter().find(|it| it.2 == command);
        row.map_or(("none", ""), |it| (it.1.as_str(), it.3.as_str()))
    };
    // It said so with exit status 0.
    let (hash, why) = state(COMMANDS[0].1);
    ensure!(hash == "failed" && why.contains("sdfn"), "{rows:#?}");
    ensure!(state(COMMANDS[3].1).0 == "done", "{rows:#?}");
    let (full, why) = state(COMMANDS[5].1);
    ensure!(full == "failed" && why.contains("No space left on device"), "{rows:#?}");
    ensure!(state(COMMANDS[10].1) == ("failed", "not tried after the failure before"), "{rows:#?}");
    let log = card.rig.natgate()?.log();
    ensure!(log.contains("receive steering failed"), "{log}");
    traffic(&card.rig)?;
    ensure!(card.rig.natgate()?.terminate()?.success());
    ensure!(card.rules()? == 0 && card.read("filters") == "off", "rules or filters stay");
    Ok(())
}

#[test]
fn refusals_are_told_and_hurt_nobody() {
    let quirks = ["deaf", "full"];
    let mut card = Card::start(&quirks, &["--receive-steering", "apply"]).unwrap();
    let done = survives_refusals(&mut card);
    card.rig.must(done);
}

#[test]
fn who_wants_none_is_not_asked() {
    let mut card = Card::start(&[], &["--receive-steering", "off"]).unwrap();
    assert_eq!(shown(&mut card.rig).unwrap(), []);
    assert_eq!(card.read("asked"), "");
}

/// Here the real `ethtool` is asked.
fn veths_refuse(rig: &mut Rig) -> Result<()> {
    let rows = shown(rig)?;
    let of = |interface: &str| rows.iter().find(|it| it.0 == interface).cloned();
    let (_, state, command, said) = of("int").context("nothing about int")?;
    ensure!(state == "impossible" && command.is_empty(), "{rows:#?}");
    ensure!(said.contains("veth") && said.contains("Operation not supported"), "{said}");
    let (_, state, _, said) = of("ext").context("nothing about ext")?;
    ensure!(state == "impossible" && said.contains("veth has no filters"), "{rows:#?}");
    let log = rig.natgate()?.log();
    ensure!(log.contains("no receive steering"), "{log}");
    traffic(rig)
}

#[test]
fn a_veth_is_named_as_unable() {
    let flags = ["--receive-steering", "apply"].map(str::to_owned).to_vec();
    let options = Options { queues: 4, workers: 4, flags, ..Options::natgate() };
    let mut rig = Rig::start(options).unwrap();
    let done = veths_refuse(&mut rig);
    rig.must(done);
}
