//! What happens to natgate, and to the machine that it runs on.

use std::net::UdpSocket;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vm_test::binary::natgate_binary;
use vm_test::halt::Halted;
use vm_test::rig::{PODS, S1};
use vm_test::{Gateway, Rig, wait};

use crate::load::Load;

const THREE_SECONDS: Duration = Duration::from_secs(3);

pub(crate) fn frozen(rig: &mut Rig, _: &Load) -> Result<()> {
    rig.natgate()?.signal(Signal::SIGSTOP)?;
    std::thread::sleep(THREE_SECONDS);
    rig.natgate()?.signal(Signal::SIGCONT)
}

/// Numbers below `limit`, other ones each time.
struct Random(u64);

impl Random {
    fn begin() -> Result<Self> {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        println!("seed {seed}");
        Ok(Self(seed))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

pub(crate) fn killed(rig: &mut Rig, _: &Load) -> Result<()> {
    let mut random = Random::begin()?;
    for round in 0..4 {
        std::thread::sleep(Duration::from_millis(random.below(300)));
        rig.natgate()?.kill9()?;
        if round % 2 == 1 && rig.gw.guest().is_none() {
            // Another one, in the middle of its start.
            let arguments = rig.natgate_arguments()?;
            let mut next = Gateway::launch(&rig.gw.namespace, rig.directory(), &arguments)?;
            std::thread::sleep(Duration::from_millis(random.below(200)));
            next.kill9()?;
        }
        rig.start_translator()?;
    }
    Ok(())
}

/// The service manager's part is the test's: it starts natgate again when the other's program is gone.
pub(crate) fn foreign_program(rig: &mut Rig, load: &Load) -> Result<()> {
    let object = rig.foreign_program()?;
    let attach = format!("link set dev ext xdpdrv obj {object} sec xdp");
    let asked = Instant::now();
    ensure!(rig.gw.sh(&format!("ip {attach}")).is_err(), "natgate's program was replaced");
    load.flows(asked, Duration::from_secs(20)).context("after an attempt that was refused")?;
    rig.gw.sh(&format!("ip -force {attach}"))?;
    let ended = wait::until("natgate to end", Duration::from_secs(20), || rig.natgate()?.ended())?;
    let log = rig.natgate()?.log();
    ensure!(ended.code() == Some(1) && log.contains("XDP hook busy (ext)"), "{ended}: {log}");
    let refused = rig.start_translator().err().context("it serves beside another's program")?;
    ensure!(format!("{refused:#}").contains("XDP hook busy (ext)"), "{refused:#}");
    rig.gw.sh("ip link set dev ext xdp off")?;
    rig.start_translator()
}

pub(crate) fn no_locked_memory(rig: &mut Rig, _: &Load) -> Result<()> {
    rig.natgate()?.kill9()?;
    let mut command = rig.gw.namespace.command("timeout");
    // Who may raise limits may lock memory, so that right goes too.
    let wrapper = "10 prlimit --memlock=65536 setpriv --bounding-set=-ipc_lock,-sys_resource";
    command.args(wrapper.split_whitespace()).arg(natgate_binary()?).arg("run");
    command.args(rig.natgate_arguments()?);
    let done = command.arg("--socket").arg(rig.directory().join("poor.sock")).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.code() == Some(1), "{}: {said}", done.status);
    ensure!(said.contains("cannot register packet memory"), "{said}");
    rig.start_translator()
}

/// A worker stands still with every frame that reaches it, until there are no more.
pub(crate) fn stuck_worker(rig: &mut Rig, _: &Load) -> Result<()> {
    let rows = rig.natgate()?.json(&["subscribers"])?;
    let pod = PODS[0].to_string();
    let home = rows.iter().find(|row| row["address"] == pod.as_str());
    let home = home.and_then(|row| row["worker"].as_u64()).context("c1 has no home")?;
    let halted = Halted::worker(rig.natgate()?.id()?, home as usize)?;
    rig.pods[0].run(|| -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        let begun = Instant::now();
        while begun.elapsed() < THREE_SECONDS {
            for _ in 0..64 {
                // What the link has no room for is not needed.
                let _ = socket.send_to(&[0; 1200], (S1[0], 9));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    })??;
    drop(halted);
    let natgate = rig.natgate()?;
    let lost = natgate.dropped("hand-off-full")?;
    let full = natgate.workers_total("receive_ring_full")?;
    let dry = natgate.workers_total("fill_ring_empty")?;
    println!("hand-off-full {lost}, receive rings full {full}, fill rings empty {dry}");
    ensure!(lost + full + dry > 0, "there were frames enough for all");
    Ok(())
}

pub(crate) fn no_huge_pages(rig: &mut Rig, _: &Load) -> Result<()> {
    rig.natgate()?.kill9()?;
    rig.gw.sh("echo never > /sys/kernel/mm/transparent_hugepage/enabled")?;
    rig.start_translator()?;
    let said = rig.natgate()?.output();
    ensure!(
        said.contains("none (kernel: never)"),
        "it does not say that there are no huge pages: {said}"
    );
    Ok(())
}

/// natgate counts time from its start, so that the time of day is no matter.
pub(crate) fn other_times(rig: &mut Rig, _: &Load) -> Result<()> {
    for step in ["+ 86400", "- 172800", "+ 86400"] {
        rig.gw.sh(&format!("date -s @$(($(date +%s) {step}))"))?;
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

pub(crate) fn paused(rig: &mut Rig, _: &Load) -> Result<()> {
    let guest = rig.gw.guest().context("no guest")?;
    guest.monitor("stop")?;
    std::thread::sleep(THREE_SECONDS);
    guest.monitor("cont").map(drop)
}

pub(crate) fn crashed(rig: &mut Rig, _: &Load) -> Result<()> {
    let guest = rig.gw.guest().context("no guest")?;
    guest.reboot_by("echo c > /proc/sysrq-trigger")?;
    rig.configure_guest()?;
    rig.start_translator()?;
    rig.let_guest_forward()
}
