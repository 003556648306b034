//! What `natgate capture` writes is what was on both sides, as an independent reader sees it (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (natgate capture → tshark) ── r ── s1
//! ```

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use vm_test::client::{PATIENCE, echo_datagram, udp};
use vm_test::namespace::output;
use vm_test::rig::{Overlay, PODS, S1};
use vm_test::{Namespace, Options, Rig, Translator, server, wait};

const PORT: u16 = 7;

/// A packet as tshark reads it.
#[derive(Debug)]
struct Packet {
    comment: String,
    interface: String,
    src: String,
    dst: String,
    checksum_is_good: bool,
}

/// Reads a file with tshark, which must find nothing wrong with it.
fn read(file: &Path) -> Result<Vec<Packet>> {
    let fields =
        ["frame.comment", "frame.interface_name", "ip.src", "ip.dst", "ip.checksum.status"];
    let mut command = Command::new("tshark");
    command.args(["-r"]).arg(file).args(["-o", "ip.check_checksum:TRUE", "-T", "fields"]);
    command.args(["-E", "separator=|"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let text = output(&mut command)?;
    let packet = |line: &str| {
        let mut cells = line.split('|').map(str::to_owned);
        let mut next = || cells.next().with_context(|| format!("too few fields: {line}"));
        Ok(Packet {
            comment: next()?,
            interface: next()?,
            src: next()?,
            dst: next()?,
            checksum_is_good: next()? == "1",
        })
    };
    text.lines().map(packet).collect()
}

/// Runs `natgate capture` beside what happens meanwhile.
fn begin(rig: &mut Rig, file: &Path, arguments: &[&str]) -> Result<JoinHandle<(i32, String)>> {
    let file = file.to_str().context("a path of text")?.to_owned();
    let mut all: Vec<String> = ["capture", "-w", &file].map(str::to_owned).to_vec();
    all.extend(arguments.iter().map(|it| (*it).to_owned()));
    let command = rig.natgate()?.client(&all)?;
    let running = std::thread::spawn(move || {
        let mut command = command;
        let done = command.output().expect("natgate runs");
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code().unwrap_or(-1), text)
    });
    // The head of the file comes when the workers have been asked.
    let made = PathBuf::from(&file);
    wait::until("the capture to begin", PATIENCE, || {
        Ok(std::fs::metadata(&made).is_ok_and(|it| it.len() > 0).then_some(()))
    })?;
    Ok(running)
}

fn exchange(pod: &Namespace, count: u8) -> Result<()> {
    pod.run(move || -> Result<()> {
        let socket = udp((S1[0], PORT))?;
        (0..count).try_for_each(|n| echo_datagram(&socket, &[n; 40]))
    })?
}

/// Both sides of both directions, in pairs, with the pod's address inside and the public one outside.
fn both_sides(rig: &mut Rig) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], PORT)?;
    let file = rig.directory().join("both.pcapng");
    let from = PODS[0].to_string();
    let running = begin(rig, &file, &["--from", &from, "--count", "20", "--seconds", "30"])?;
    exchange(&rig.pods[1], 5)?;
    exchange(&rig.pods[0], 10)?;
    let (status, said) = running.join().expect("no panic");
    ensure!(
        status == 0 && said.contains("40 packets") && said.contains("none was missed"),
        "{said}"
    );
    let packets = read(&file)?;
    ensure!(packets.len() == 40, "{} packets", packets.len());
    ensure!(packets.iter().all(|it| it.checksum_is_good), "{packets:#?}");
    let public = peers.all().into_iter().map(|peer| peer.ip().to_string());
    let public: Vec<String> = public.collect();
    let (pod, server) = (PODS[0].to_string(), S1[0].to_string());
    for pair in packets.chunks(2) {
        let [before, after] = pair else { anyhow::bail!("an odd number") };
        ensure!(before.comment.ends_with("before translation"), "{before:?}");
        ensure!(after.comment.ends_with("after translation"), "{after:?}");
        let number = |packet: &Packet| packet.comment.split(',').next().map(str::to_owned);
        ensure!(number(before) == number(after), "{before:?} {after:?}");
        if before.interface == "int" {
            ensure!((&before.src, &before.dst) == (&pod, &server), "{before:?}");
            ensure!(after.interface == "ext" && after.dst == server, "{after:?}");
            ensure!(public.contains(&after.src), "{after:?} {public:?}");
        } else {
            ensure!(before.interface == "ext" && before.src == server, "{before:?}");
            ensure!(after.interface == "int" && after.dst == pod, "{after:?}");
        }
    }
    Ok(())
}

/// Only what is dropped, with its reason, to standard output; natgate's answer goes with it.
fn dropped(rig: &mut Rig) -> Result<()> {
    let file = rig.directory().join("drops.pcapng");
    let running = begin(rig, &file, &["--drops", "no-session", "--count", "3", "--seconds", "30"])?;
    exchange(&rig.pods[0], 5)?;
    let (first, _) = rig.options().pool.range();
    rig.s1.run(move || -> Result<()> {
        let socket = udp((first, 9))?;
        (0..3).try_for_each(|_| Ok(socket.send(b"nobody").map(drop)?))
    })??;
    let (status, said) = running.join().expect("no panic");
    ensure!(status == 0, "{said}");
    let packets = read(&file)?;
    ensure!(packets.len() == 3, "{packets:#?}");
    let right = |packet: &Packet| {
        packet.comment.contains("dropped as no-session: ") && packet.src == S1[0].to_string()
    };
    ensure!(packets.iter().all(right), "{packets:#?}");
    Ok(())
}

/// Its time ends a capture of nothing; what can't be is refused and leaves no file.
fn bounds(rig: &mut Rig) -> Result<()> {
    let file = rig.directory().join("none.pcapng");
    let running = begin(rig, &file, &["--from", "192.0.2.200", "--seconds", "1"])?;
    let (status, said) = running.join().expect("no panic");
    ensure!(status == 0 && said.contains("0 packets"), "{said}");
    ensure!(read(&file)?.is_empty());
    let bad = rig.directory().join("bad.pcapng");
    let bad = bad.to_str().context("a path of text")?;
    let (status, _, said) = rig.natgate()?.command(&["capture", "-w", bad, "--drops", "rain"])?;
    ensure!(status == 2 && said.contains("there is no such reason; give one"), "{status} {said}");
    ensure!(!Path::new(bad).exists(), "a file was left");
    // Afterwards everything is as before.
    exchange(&rig.pods[1], 5)
}

/// A gateway that stops in order ends a capture with its whole file, and who follows events with the last one.
fn stopped(rig: &mut Rig) -> Result<()> {
    let file = rig.directory().join("stopped.pcapng");
    let running = begin(rig, &file, &["--seconds", "60"])?;
    let told = rig.directory().join("followed");
    let words = ["events", "--follow", "--json", "--last", "9"].map(str::to_owned);
    let mut follower = rig.natgate()?.client(&words)?;
    follower.stdout(std::fs::File::create(&told)?).stderr(Stdio::piped());
    let follower = follower.spawn()?;
    let read_told = || Ok(std::fs::read_to_string(&told).unwrap_or_default());
    wait::until("the follower to begin", PATIENCE, || {
        read_told().map(|text| text.contains("\"started\"").then_some(()))
    })?;
    exchange(&rig.pods[0], 2)?;
    let ended = rig.natgate()?.terminate()?;
    ensure!(ended.success(), "{ended}");
    let (status, said) = running.join().expect("no panic");
    ensure!(status == 0 && said.contains("; natgate stopped"), "{status} {said}");
    ensure!(read(&file)?.len() >= 8, "the packets of before are in it");
    let done = follower.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success() && said == "natgate has stopped\n", "{} {said}", done.status);
    let text: String = read_told()?;
    ensure!(text.lines().last().is_some_and(|line| line.contains("\"stopped\"")), "{text}");
    Ok(())
}

/// One that dies leaves what it wrote, and is said to be gone.
fn killed(rig: &mut Rig) -> Result<()> {
    rig.start_translator()?;
    let file = rig.directory().join("killed.pcapng");
    let running = begin(rig, &file, &["--seconds", "60"])?;
    rig.natgate()?.kill9()?;
    let (status, said) = running.join().expect("no panic");
    ensure!(status == 1 && said.starts_with("error: natgate is gone ("), "{status} {said}");
    Ok(())
}

fn whole(options: Options) {
    let translator = Translator::Natgate;
    let mut rig = Rig::start(Options { translator, ..options }).expect("the rig starts");
    for scenario in [both_sides, dropped, bounds] {
        let done = scenario(&mut rig);
        rig.must(done);
    }
}

#[test]
fn both_sides_are_captured() {
    whole(Options::natgate());
}

#[test]
fn a_gateway_that_stops_ends_what_follows_it() {
    let mut rig = Rig::start(Options::natgate()).expect("the rig starts");
    server::udp_echo(&rig.s1, S1[0], PORT).expect("an echo server");
    for scenario in [stopped, killed] {
        let done = scenario(&mut rig);
        rig.must(done);
    }
}

#[test]
fn both_sides_are_captured_by_four_workers() {
    whole(Options::four());
}

#[test]
fn both_sides_are_captured_in_an_overlay() {
    whole(Options { overlay: Overlay::Flannel, ..Options::natgate() });
}
