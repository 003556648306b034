//! Starting, stopping, refusing to start (topology: `vm_test::rig`).
//!
//! ```text
//!  c1 ── node ── gw (ip_forward=1, natgate comes and goes) ── r (capture) ── s1
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_test::oracle::{Kind, Trace};
use vm_test::rig::{FROM, PODS, S1};
use vm_test::{Options, Rig, client, server, wait};

fn forwarding() -> Options {
    Options { gateway_forwards: true, ..Options::natgate() }
}

fn try_to_pass(rig: &Rig) {
    // Whether it is answered does not matter: the router's capture tells what passed.
    let _ = rig.pods[0].exec(&format!("ping -n -q -c 3 -i 0.1 -W 1 {}", S1[0]));
}

/// How many packets with a pod's own address reached the router.
fn untranslated(rig: &mut Rig) -> Result<usize> {
    let [_, external] = rig.end_captures()?;
    let trace = Trace::read(&external)?;
    let untranslated = trace
        .packets()
        .filter(|packet| matches!(&packet.kind, Kind::Ipv4(ip) if ip.source() == PODS[0]));
    Ok(untranslated.count())
}

fn stop(rig: &mut Rig) -> Result<()> {
    let status = rig.natgate()?.terminate()?;
    ensure!(status.code() == Some(0), "SIGTERM ended it with {status}");
    Ok(())
}

#[test]
fn a_stop_keeps_pods_blocked() {
    let mut rig = Rig::start(forwarding()).unwrap();
    rig.must(rig.pods[0].exec(&format!("ping -n -q -c 1 -W 10 {}", S1[0])));
    let stopped = stop(&mut rig);
    rig.must(stopped);
    try_to_pass(&rig);
    let untranslated = untranslated(&mut rig);
    assert_eq!(rig.must(untranslated), 0);
}

#[test]
fn a_stop_lets_pods_pass_if_told_to() {
    let flags = vec!["--on-exit".to_owned(), "pass".to_owned()];
    let mut rig = Rig::start(Options { flags, ..forwarding() }).unwrap();
    let stopped = stop(&mut rig);
    rig.must(stopped);
    try_to_pass(&rig);
    let untranslated = untranslated(&mut rig);
    assert_eq!(rig.must(untranslated), 3);
}

#[test]
fn detach_gives_the_interfaces_back() {
    for what in [&["int", "ext"][..], &["--all"]] {
        let mut rig = Rig::start(forwarding()).unwrap();
        let stopped = stop(&mut rig);
        rig.must(stopped);
        let words = [&["detach"], what].concat();
        let (status, said) = rig.must(rig.gw.natgate("", &words));
        assert_eq!(status, 0, "{said}");
        assert!(!rig.must(links(&rig)).contains("xdp"), "a program is left after detach {what:?}");
        try_to_pass(&rig);
        let untranslated = untranslated(&mut rig);
        assert_eq!(rig.must(untranslated), 3);
    }
}

/// The links of the gateway, as far as natgate could change them.
fn links(rig: &Rig) -> Result<String> {
    rig.gw.sh("ip link show")
}

/// natgate must refuse with one error that contains `phrases`, and leave the host as it was.
fn refused(rig: &Rig, wrapper: &str, arguments: &[&str], phrases: &[&str]) -> Result<()> {
    let before = links(rig)?;
    let socket = rig.directory().join("second.sock");
    let named = ["--socket", socket.to_str().context("a path of text")?];
    let words = [&["run"], arguments, &named[..]].concat();
    let (status, said) = rig.gw.natgate(wrapper, &words)?;
    ensure!(status == 1, "{status}: {said}");
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error:")).collect();
    ensure!(errors.len() == 1, "not one error: {said}");
    for phrase in phrases {
        ensure!(errors[0].contains(phrase), "no {phrase:?} in {said}");
    }
    ensure!(links(rig)? == before, "the links changed from {before} to {}", links(rig)?);
    ensure!(!rig.gw.has(&socket)?, "a socket is left");
    Ok(())
}

/// Changes a route of the gateway, and waits until natgate has followed.
fn reroute(rig: &mut Rig, command: &str) -> Result<()> {
    let generation = |rig: &mut Rig| -> Result<Option<u64>> {
        Ok(rig.natgate()?.json(&["status"])?[0]["roads_generation"].as_u64())
    };
    let before = generation(rig)?;
    rig.gw.ip(command)?;
    wait::until("the mirror to follow", Duration::from_secs(15), || {
        Ok((generation(rig)? != before).then_some(()))
    })
}

/// A destination inside `from` that no pod has follows the default route to the outside: it must not get
/// there with the pod's own address.
#[test]
fn a_destination_that_no_pod_has_does_not_leak() {
    let mut rig = Rig::start(forwarding()).unwrap();
    for command in ["route add 10.244.0.0/18 via 10.0.0.2", &format!("route del {FROM}")] {
        let followed = reroute(&mut rig, command);
        rig.must(followed);
    }
    let _ = rig.pods[0].exec("ping -n -q -c 3 -i 0.1 -W 1 10.244.200.9");
    rig.must(rig.pods[0].exec(&format!("ping -n -q -c 3 -i 0.1 -W 1 {}", S1[0])));
    let untranslated = untranslated(&mut rig);
    assert_eq!(rig.must(untranslated), 0);
}

#[test]
fn a_removed_program_is_attached_again() {
    let mut rig = Rig::start(forwarding()).unwrap();
    rig.must(rig.gw.ip("link set dev int xdp off"));
    let back = wait::until("the program to be back", Duration::from_secs(15), || {
        Ok(links(&rig)?.matches("prog/xdp").count().ge(&2).then_some(()))
    });
    rig.must(back);
    try_to_pass(&rig);
    let untranslated = untranslated(&mut rig);
    assert_eq!(rig.must(untranslated), 0);
}

/// An interface is removed and made again, with addresses and routes; natgate starts again by itself.
fn made_again(rig: &mut Rig) -> Result<Duration> {
    server::udp_echo(&rig.s1, S1[0], 7)?;
    let answered = |rig: &Rig| {
        rig.pods[0].run(|| {
            let socket = client::udp((S1[0], 7))?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            wait::until("an answer", Duration::from_secs(15), || {
                Ok(client::echo_datagram(&socket, b"q").ok())
            })
        })?
    };
    answered(rig)?;
    let process = rig.natgate()?.id()?;
    rig.remove_inside()?;
    wait::until("natgate to notice", Duration::from_secs(15), || {
        Ok(rig.natgate()?.get("/readyz").is_err().then_some(()))
    })?;
    wait::until("the lost interface to be named", Duration::from_secs(15), || {
        let (_, shown, _) = rig.natgate()?.command(&["status"])?;
        let named = shown.contains("NOT READY, int gone") && shown.contains("int is gone: ");
        let logged = rig.natgate()?.log().matches("int is gone: ").count();
        ensure!(logged <= 1, "it is logged {logged} times");
        Ok((named && logged == 1).then_some(()))
    })?;
    rig.make_inside_again()?;
    let begun = Instant::now();
    answered(rig)?;
    let took = begun.elapsed();
    ensure!(rig.natgate()?.id()? == process, "another process");
    // The first answer may come before it has said so.
    wait::until("the second ready", Duration::from_secs(5), || {
        let said = rig.natgate()?.output();
        let told = said.contains("interface replaced (int)");
        Ok((told && said.matches("\nready").count() == 2).then_some(()))
    })?;
    captures(rig, answered)?;
    Ok(took)
}

/// Its commands reach the workers that serve now.
fn captures(rig: &mut Rig, traffic: impl Fn(&Rig) -> Result<()>) -> Result<()> {
    let file = rig.directory().join("after.pcapng").display().to_string();
    let words = ["capture", "--seconds", "20", "--count", "4", "-w", &file].map(str::to_owned);
    let mut capture = rig.natgate()?.client(&words)?;
    let running = std::thread::spawn(move || capture.output());
    while !running.is_finished() {
        traffic(rig)?;
    }
    let done = running.join().expect("no panic")?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success() && said.contains("8 packets"), "{said}");
    Ok(())
}

#[test]
fn an_interface_that_is_made_again_is_served_again() {
    let mut rig = Rig::start(forwarding()).unwrap();
    let took = made_again(&mut rig);
    let took = rig.must(took);
    println!("answered {took:?} after the interface was complete");
    assert!(took < Duration::from_secs(3) * rig.gw.slower(), "{took:?}");
    assert_eq!(rig.must(links(&rig)).matches("prog/xdp").count(), 2, "an interface is open");
    // What was forwarded between the two is none of natgate's doing: the kernel had the new interface for a moment.
    let stopped = stop(&mut rig);
    rig.must(stopped);
}

#[test]
fn a_pool_with_the_router_in_it_is_refused() {
    let rig = bare();
    let mut flags = sides("int", "ext");
    flags[5] = "203.0.113.1";
    rig.must(refused(
        &rig,
        "",
        &flags,
        &["pool address taken (203.0.113.1): it is a router that this host uses on ext"],
    ));
    assert!(!rig.must(links(&rig)).contains("xdp"));
}

const POOL: &str = "203.0.113.10-203.0.113.13";

fn sides<'a>(internal: &'a str, external: &'a str) -> [&'a str; 8] {
    ["--internal", internal, "--external", external, "--pool", POOL, "--from", FROM]
}

fn bare() -> Rig {
    Rig::without_translator(forwarding()).expect("the rig")
}

#[test]
fn a_second_instance_is_refused() {
    let rig = Rig::start(forwarding()).unwrap();
    rig.must(refused(&rig, "", &sides("int", "ext"), &["interface in use (int)"]));
    rig.must(rig.pods[0].exec(&format!("ping -n -q -c 3 -i 0.1 -W 1 {}", S1[0])));
}

#[test]
fn an_unknown_interface_is_refused() {
    let rig = bare();
    rig.must(refused(&rig, "", &sides("nope", "ext"), &["unknown interface (nope)"]));
    rig.must(refused(&rig, "", &sides("int", "nope"), &["unknown interface (nope)"]));
}

#[test]
fn each_missing_capability_is_named() {
    let rig = bare();
    for (without, named) in [
        ("-net_admin", "CAP_NET_ADMIN"),
        ("-net_raw", "CAP_NET_RAW"),
        ("-bpf,-sys_admin", "CAP_BPF"),
    ] {
        let wrapper = format!("setpriv --bounding-set={without}");
        rig.must(refused(
            &rig,
            &wrapper,
            &sides("int", "ext"),
            &[&format!("the capability {named} is missing")],
        ));
    }
}

#[test]
fn no_lockable_memory_is_refused() {
    let rig = bare();
    // Who may raise limits may lock memory, so that right goes too.
    let wrapper = "prlimit --memlock=65536 setpriv --bounding-set=-ipc_lock,-sys_resource";
    rig.must(refused(
        &rig,
        wrapper,
        &sides("int", "ext"),
        &["cannot register packet memory", "CAP_IPC_LOCK"],
    ));
}

#[test]
fn a_busy_xdp_hook_is_refused() {
    let rig = bare();
    rig.must(attach_foreign_program(&rig));
    rig.must(refused(&rig, "", &sides("int", "ext"), &["XDP hook busy (ext)"]));
    assert!(rig.must(links(&rig)).contains("xdp"), "the other's program is gone");
}

/// Attaches a program that is not natgate's to the external interface.
fn attach_foreign_program(rig: &Rig) -> Result<()> {
    let object = rig.foreign_program()?;
    rig.gw.ip(&format!("link set dev ext xdpdrv obj {object} sec xdp"))
}

#[test]
fn a_driver_without_native_mode_is_refused_unless_generic() {
    let rig = bare();
    // The kernel's bridge has no native XDP.
    rig.must(rig.gw.ip("link add plain type bridge\nlink set dev plain up"));
    rig.must(refused(
        &rig,
        "",
        &sides("plain", "ext"),
        &["no native XDP (plain)", "--mode generic"],
    ));
    let both = [&sides("plain", "ext")[..], &["--mode", "copy"]].concat();
    rig.must(refused(&rig, "", &both, &["no native XDP (plain)"]));
}
