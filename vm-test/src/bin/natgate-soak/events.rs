//! What happens to the gateway, at random.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vm_test::Rig;
use vm_test::halt::Halted;
use vm_test::namespace::output;
use vm_test::rig::S1;

use crate::ends;

/// The objects in force, in four forms: addresses, quotas, timers and rules differ, and two port forwards stay.
pub(crate) fn objects(form: u64) -> String {
    let addresses = ["203.0.113.10-203.0.113.13", "203.0.113.10-203.0.113.12"][form as usize % 2];
    let (blocks, udp) = [(64, 20), (128, 30)][form as usize / 2 % 2];
    let exempt = if form % 4 == 3 {
        "---\napiVersion: natgate.dev/v1alpha1\nkind: NatRule\nmetadata: {name: none}\n\
         spec: {from: [10.244.0.0/16], to: [198.18.0.0/15], exempt: true}\n"
    } else {
        ""
    };
    format!(
        "\
apiVersion: natgate.dev/v1alpha1
kind: Gateway
metadata: {{name: gateway}}
spec: {{interfaces: {{internal: [int], external: [ext]}}, grace: 1}}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {{name: general}}
spec:
  addresses: [{addresses}]
  quota: {{blocks: {blocks}}}
  timers: {{udp: {udp}, tcpTimeWait: 10}}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {{name: everyone}}
spec: {{from: [10.244.0.0/16], pool: general}}
---
apiVersion: natgate.dev/v1alpha1
kind: PortForward
metadata: {{name: echo}}
spec: {{address: 203.0.113.10, protocol: tcp, ports: \"8080\", target: {{address: 10.244.1.12, ports: \"80\"}}}}
{exempt}"
    )
}

/// What happens, and its name.
type Event = (&'static str, fn(&mut Events, &mut Rig) -> Result<()>);

/// Those that natgate lives through.
const LIVES: [Event; 17] = [
    ("reload", Events::reload),
    ("reload, wrong file", Events::wrong_file),
    ("routes come and go", Events::routes),
    ("default route changes", Events::default_route),
    ("neighbours forgotten", Events::neighbours),
    ("link outside down, up", Events::link_outside),
    ("link inside down, up", Events::link_inside),
    ("MTU outside 1300, 1500", Events::mtu_outside),
    ("MTU inside 1300, 1500", Events::mtu_inside),
    ("other MAC addresses", Events::macs),
    ("frozen for 0.5 s", Events::freeze),
    ("one worker stands still", Events::halt),
    ("flood of one pod", Events::flood),
    ("drain, undrain", Events::drain),
    ("capture", Events::capture),
    ("its program stays attached", Events::hands_off),
    ("lists and settings", Events::lists),
];
/// Those that end it; another one takes its place.
const ENDS: [Event; 4] = [
    ("stop and start", ends::restart),
    ("kill -9 and start", ends::kill),
    ("other XDP program by force", ends::foreign_program),
    ("interface made again", ends::made_again),
];

/// A pod's second address, by which it floods: its quota is not that of the pod's other traffic.
const FLOODER: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 13);
/// What a flood opens: more than any of the quotas allows.
const FLOOD: u32 = 10_000;

/// Makes things happen.
pub(crate) struct Events {
    random: u64,
    pub(crate) form: u64,
    pub(crate) ends: usize,
}

impl Events {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: seed, form: 0, ends: 0 }
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    /// How often natgate was stopped in order.
    pub(crate) fn ends(&self) -> usize {
        self.ends
    }

    /// Makes one of the events happen; which.
    pub(crate) fn happen(&mut self, rig: &mut Rig, with_ends: bool) -> Result<&'static str> {
        let all = LIVES.len() + if with_ends { ENDS.len() } else { 0 };
        let (name, event) =
            *LIVES.iter().chain(&ENDS).nth(self.below(all as u64) as usize).context("no event")?;
        event(self, rig).with_context(|| name.to_owned())?;
        Ok(name)
    }

    fn write(rig: &Rig, text: &str) -> Result<()> {
        Ok(std::fs::write(rig.directory().join("natgate.yaml"), text)?)
    }

    fn reload(&mut self, rig: &mut Rig) -> Result<()> {
        self.form = self.below(4);
        Self::write(rig, &objects(self.form))?;
        order(rig, &["reload"])
    }

    fn wrong_file(&mut self, rig: &mut Rig) -> Result<()> {
        Self::write(
            rig,
            &objects(self.form).replace("general", "others").replacen("others", "general", 1),
        )?;
        let (code, _, error) = rig.natgate()?.command(&["reload"])?;
        ensure!(code != 0, "a rule without its pool was taken");
        ensure!(error.contains("error:"), "{error}");
        Self::write(rig, &objects(self.form))
    }

    fn routes(&mut self, rig: &mut Rig) -> Result<()> {
        let lines = |verb: &str, first: u64| -> String {
            let line = |n: u64| {
                format!("route {verb} 100.64.{}.{}/32 via 203.0.113.1\n", n >> 8 & 255, n & 255)
            };
            (first..first + 200).map(line).collect()
        };
        let first = self.below(60_000);
        rig.gw.ip(&lines("add", first))?;
        rig.gw.ip(&lines("del", first))
    }

    /// The way to the server goes by a route of its own for a while.
    fn default_route(&mut self, rig: &mut Rig) -> Result<()> {
        rig.gw.ip("route add 192.0.2.0/26 via 203.0.113.1\nroute del default via 203.0.113.1")?;
        std::thread::sleep(Duration::from_millis(self.below(300)));
        rig.gw.ip("route add default via 203.0.113.1\nroute del 192.0.2.0/26 via 203.0.113.1")
    }

    #[allow(clippy::unused_self, reason = "as its kin")]
    fn neighbours(&mut self, rig: &mut Rig) -> Result<()> {
        rig.gw.ip("neigh flush dev ext\nneigh flush dev int")
    }

    fn link_outside(&mut self, rig: &mut Rig) -> Result<()> {
        self.link(rig, "ext", "default via 203.0.113.1")
    }

    fn link_inside(&mut self, rig: &mut Rig) -> Result<()> {
        self.link(rig, "int", "10.244.0.0/16 via 10.0.0.2")
    }

    fn link(&mut self, rig: &Rig, name: &str, route: &str) -> Result<()> {
        rig.gw.ip(&format!("link set {name} down"))?;
        std::thread::sleep(Duration::from_millis(self.below(300)));
        rig.gw.ip(&format!("link set {name} up\nroute add {route}"))
    }

    fn mtu_outside(&mut self, rig: &mut Rig) -> Result<()> {
        self.mtu(rig, "ext")
    }

    fn mtu_inside(&mut self, rig: &mut Rig) -> Result<()> {
        self.mtu(rig, "int")
    }

    fn mtu(&mut self, rig: &Rig, name: &str) -> Result<()> {
        rig.gw.ip(&format!("link set {name} mtu 1300"))?;
        std::thread::sleep(Duration::from_millis(self.below(300)));
        rig.gw.ip(&format!("link set {name} mtu 1500"))
    }

    /// The kernel announces its own addresses if it is asked to; natgate has to announce those of its pool.
    fn macs(&mut self, rig: &mut Rig) -> Result<()> {
        for name in ["int", "ext"] {
            rig.gw.sysctl(&format!("net.ipv4.conf.{name}.arp_notify"), 1)?;
            let last = self.below(1 << 24);
            let [_, a, b, c] = (last as u32).to_be_bytes();
            rig.gw.ip(&format!("link set {name} address 02:00:00:{a:02x}:{b:02x}:{c:02x}"))?;
        }
        Ok(())
    }

    #[allow(clippy::unused_self, reason = "as its kin")]
    fn freeze(&mut self, rig: &mut Rig) -> Result<()> {
        rig.natgate()?.signal(Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_millis(500));
        rig.natgate()?.signal(Signal::SIGCONT)
    }

    /// One worker stands still with every frame that reaches it, the other goes on.
    fn halt(&mut self, rig: &mut Rig) -> Result<()> {
        let workers = rig.natgate()?.json(&["workers"])?.len() as u64;
        let halted = Halted::worker(rig.natgate()?.id()?, self.below(workers) as usize)?;
        std::thread::sleep(Duration::from_millis(500));
        drop(halted);
        Ok(())
    }

    /// New flows as fast as they come, from an address that no other traffic has, to a port where nobody listens.
    #[allow(clippy::unused_self, reason = "as its kin")]
    fn flood(&mut self, rig: &mut Rig) -> Result<()> {
        rig.pods[0].ip(&format!("addr replace {FLOODER}/24 dev eth0"))?;
        rig.pods[0].run(|| -> Result<()> {
            for number in 0..FLOOD {
                let port = 1024 + (number % 60_000) as u16;
                let socket = UdpSocket::bind((FLOODER, port))?;
                // What the link has no room for is not needed.
                let _ = socket.send_to(&[0; 64], (S1[0], 9));
            }
            Ok(())
        })?
    }

    fn drain(&mut self, rig: &mut Rig) -> Result<()> {
        order(rig, &["drain"])?;
        std::thread::sleep(Duration::from_millis(self.below(300)));
        order(rig, &["undrain"])
    }

    /// What goes through is written down, some packets of it: a machine that is busy may have none for a second.
    #[allow(clippy::unused_self, reason = "as its kin")]
    fn capture(&mut self, rig: &mut Rig) -> Result<()> {
        let file = rig.directory().join("some.pcapng");
        let words = ["capture", "--seconds", "10", "--count", "200", "--write"];
        let mut words: Vec<String> = words.map(str::to_owned).into();
        words.push(file.display().to_string());
        output(rig.natgate()?.client(&words)?.stdin(Stdio::null()))?;
        let length = std::fs::metadata(&file)?.len();
        ensure!(length > 1000, "the capture has {length} bytes");
        Ok(std::fs::remove_file(&file)?)
    }

    /// Nobody takes natgate's program away by mistake: not `natgate detach`, not another program without force.
    #[allow(clippy::unused_self, reason = "as its kin")]
    fn hands_off(&mut self, rig: &mut Rig) -> Result<()> {
        let mut detach = rig.gw.namespace.command(vm_test::binary::natgate_binary()?);
        let said = output(detach.args(["detach", "ext"])).err().context("it was detached")?;
        ensure!(format!("{said:#}").contains("error:"), "{said:#}");
        let object = rig.foreign_program()?;
        let attached = rig.gw.ip(&format!("link set dev ext xdpdrv obj {object} sec xdp"));
        ensure!(attached.is_err(), "natgate's program was replaced");
        Ok(())
    }

    #[allow(clippy::unused_self, reason = "as its kin")]
    fn lists(&mut self, rig: &mut Rig) -> Result<()> {
        let lists =
            ["sessions", "subscribers", "pools", "drops", "workers", "interfaces", "events"];
        for list in lists {
            rig.natgate()?.json(&[list])?;
        }
        let key = "pools.general.timers.icmpQuery";
        order(rig, &["set", key, "45"])?;
        order(rig, &["reset", key])
    }
}

/// Gives natgate an order, which it must follow.
fn order(rig: &mut Rig, words: &[&str]) -> Result<()> {
    let (code, _, error) = rig.natgate()?.command(words)?;
    ensure!(code == 0, "natgate {}: {error}", words.join(" "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// `natgate check` looks at a file as a reload does.
    #[test]
    fn natgate_takes_every_form_of_the_objects() {
        let directory = tempfile::tempdir().unwrap();
        for form in 0..4 {
            let file = directory.path().join(format!("{form}.yaml"));
            std::fs::write(&file, objects(form)).unwrap();
            let mut natgate = Command::new(vm_test::binary::natgate_binary().unwrap());
            let said = output(natgate.args(["check", "--config"]).arg(&file));
            assert!(said.is_ok(), "form {form}: {:#}", said.unwrap_err());
        }
    }
}
