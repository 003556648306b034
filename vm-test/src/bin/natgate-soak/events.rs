//! What happens to the gateway, at random.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vm_test::Rig;

/// The objects in force, in four forms: addresses, quotas, timers and rules differ, and two port forwards stay.
pub(crate) fn objects(form: u64) -> String {
    let addresses = ["203.0.113.10-203.0.113.13", "203.0.113.10-203.0.113.12"][form as usize % 2];
    let (blocks, udp) = [(64, 20), (128, 30)][form as usize / 2 % 2];
    let exempt = if form % 4 == 3 {
        "---\napiVersion: natgate.dev/v1alpha1\nkind: NatRule\nmetadata: {name: none}\n\
         spec: {from: [10.244.0.0/16], to: [198.18.0.0/15], action: exempt}\n"
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

type Event = (&'static str, fn(&mut Events, &mut Rig) -> Result<()>);

/// Those that natgate lives through.
const LIVES: [Event; 9] = [
    ("reload", Events::reload),
    ("reload, wrong file", Events::wrong_file),
    ("routes come and go", Events::routes),
    ("default route changes", Events::default_route),
    ("neighbours forgotten", Events::neighbours),
    ("link outside down, up", Events::link_outside),
    ("link inside down, up", Events::link_inside),
    ("frozen for 0.5 s", Events::freeze),
    ("lists and settings", Events::lists),
];
/// Those that end it; another one takes its place.
const ENDS: [Event; 2] = [("stop and start", Events::restart), ("kill -9 and start", Events::kill)];

/// Makes things happen.
pub(crate) struct Events {
    random: u64,
    form: u64,
    ends: usize,
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
        let (code, _, error) = rig.natgate()?.command(&["reload"])?;
        ensure!(code == 0, "{error}");
        Ok(())
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

    #[allow(clippy::unused_self, reason = "as its kin")]
    fn freeze(&mut self, rig: &mut Rig) -> Result<()> {
        rig.natgate()?.signal(Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_millis(500));
        rig.natgate()?.signal(Signal::SIGCONT)
    }

    #[allow(clippy::unused_self, reason = "as its kin")]
    fn lists(&mut self, rig: &mut Rig) -> Result<()> {
        let natgate = rig.natgate()?;
        for list in ["sessions", "subscribers", "pools", "drops", "workers", "interfaces"] {
            natgate.json(&[list])?;
        }
        let key = "pools.general.timers.icmpQuery";
        for order in [&["set", key, "45"][..], &["reset", key]] {
            let (code, _, error) = natgate.command(order)?;
            ensure!(code == 0, "{error}");
        }
        Ok(())
    }

    fn restart(&mut self, rig: &mut Rig) -> Result<()> {
        let status = rig.natgate()?.terminate()?;
        let log = rig.natgate()?.log();
        ensure!(status.success(), "natgate ended with {status}: {log}");
        ensure!(log.contains("every frame accounted for"), "frames are missing: {log}");
        self.ends += 1;
        self.start(rig)
    }

    fn kill(&mut self, rig: &mut Rig) -> Result<()> {
        rig.natgate()?.kill9()?;
        self.start(rig)
    }

    /// With the form of the objects that is written; a rig writes the first.
    fn start(&mut self, rig: &mut Rig) -> Result<()> {
        self.form = 0;
        rig.start_translator()
    }
}
