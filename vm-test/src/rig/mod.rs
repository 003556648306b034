//! What does the test network look like?
//!
//! ```text
//!  c1 ─┐ bridge                                          ┌─ s1  192.0.2.10, 192.0.2.11
//!      ├─ node ───────────── gw ───────────────── r ─────┤
//!  c2 ─┘   10.0.0.2   10.0.0.1  203.0.113.2  203.0.113.1 ├─ s2  192.0.2.70
//!                   int  natgate  ext                    └─ x   192.0.2.130 (off-path)
//!  c1 10.244.1.11   node's "gw0" ↔ gw's "int"     on-link pool 203.0.113.10-203.0.113.13
//!  c2 10.244.1.12   gw's "ext" ↔ r's "down"      routed pool  198.51.100.0/28 via 203.0.113.2
//!  other 10.9.0.2 (if asked for): behind node too, not natgate's business, routed at r
//! ```
//! Overlay (`Options::overlay`): `gw0` and `int` are VXLAN devices, above `under` 10.99.0.2 and 10.99.0.1.
//! The servers, and r, have no route to 10.244.0.0/16 or 10.0.0.0/24: an untranslated packet can
//! never be answered by accident.

mod gateway;
mod options;
mod wiring;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use tempfile::TempDir;

use crate::client::{PATIENCE, echo_datagram};
use crate::namespace::{directory, sweep};
use crate::oracle::{Faults, Oracles, Scope, Summary, Trace, leaks};
use crate::{Capture, Gateway, Host, Namespace, kernel_nat, server};

pub use options::{
    FROM, GATEWAY, Mtus, OTHER, Options, Overlay, PODS, Pool, S1, S2, STATIC, Translator, UNDER,
};

/// The network, its programs and its captures. Everything goes when it is dropped.
#[derive(Debug)]
pub struct Rig {
    /// natgate, when it translates (dropped first).
    pub natgate: Option<Gateway>,
    captures: Option<[Capture; 2]>,
    /// The pods.
    pub pods: [Namespace; 2],
    /// The router of the pods.
    pub node: Namespace,
    /// The gateway: interfaces `int` and `ext`.
    pub gw: Host,
    /// The router outside: `down` leads to the gateway.
    pub r: Namespace,
    /// The first server.
    pub s1: Namespace,
    /// The second server.
    pub s2: Namespace,
    /// The off-path host.
    pub x: Namespace,
    /// The host that is not natgate's business.
    pub other: Option<Namespace>,
    /// Of the gateway: inside, outside.
    gateway_macs: [[u8; 6]; 2],
    options: Options,
    directory: TempDir,
}

impl Rig {
    /// Makes the network, starts the captures and then the translator.
    pub fn start(options: Options) -> Result<Self> {
        let mut rig = Self::without_translator(options)?;
        rig.start_captures()?;
        rig.start_translator()?;
        Ok(rig)
    }

    /// Starts the captures of both of the gateway's links.
    pub fn start_captures(&mut self) -> Result<()> {
        self.captures = Some([
            Capture::start(&self.node, "gw0", self.directory.path())?,
            Capture::start(&self.r, "down", self.directory.path())?,
        ]);
        Ok(())
    }

    /// Makes the network only.
    pub fn without_translator(options: Options) -> Result<Self> {
        sweep()?;
        let mut rig = Self {
            natgate: None,
            captures: None,
            pods: [Namespace::new("c1")?, Namespace::new("c2")?],
            node: Namespace::new("node")?,
            gw: Host::new("gw")?,
            r: Namespace::new("r")?,
            s1: Namespace::new("s1")?,
            s2: Namespace::new("s2")?,
            x: Namespace::new("x")?,
            other: if options.other { Some(Namespace::new("other")?) } else { None },
            gateway_macs: [[0; 6]; 2],
            directory: directory()?,
            options,
        };
        rig.wire_inside()?;
        rig.wire_outside()?;
        rig.set_mtus()?;
        rig.gateway_macs = [rig.gw.mac("int")?, rig.gw.mac("ext")?];
        rig.offloads()?;
        rig.move_into_guest()?;
        Ok(rig)
    }

    /// Where its files go.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Each pod sends a datagram from a socket of its own to the first server, to ports from `first` on, which nobody may
    /// have used: as whom the server sees each.
    pub fn seen_by_server(&self, first: u16) -> Result<Vec<SocketAddr>> {
        let mut seen = Vec::new();
        for (pod, port) in self.pods.iter().zip(first..) {
            let peers = server::udp_echo(&self.s1, S1[0], port)?;
            pod.run(move || -> Result<()> {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect((S1[0], port))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                echo_datagram(&socket, b"who am I?")
            })??;
            let all = peers.all();
            ensure!(all.len() == 1, "the server saw {all:?}");
            seen.extend(all);
        }
        Ok(seen)
    }

    /// Ethernet addresses of the gateway: inside, outside.
    pub fn gateway_macs(&self) -> [[u8; 6]; 2] {
        self.gateway_macs
    }

    /// What it was made of.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// natgate, or an error where something else translates.
    pub fn natgate(&mut self) -> Result<&mut Gateway> {
        self.natgate.as_mut().ok_or_else(|| anyhow!("natgate does not run in this rig"))
    }

    /// Starts whoever translates.
    pub fn start_translator(&mut self) -> Result<()> {
        match self.options.translator {
            Translator::Natgate => {
                let arguments = self.natgate_arguments()?;
                self.natgate = Some(self.launch_ready(&arguments)?);
                Ok(())
            }
            Translator::KernelNat => kernel_nat::start(
                &self.gw.namespace,
                "ext",
                FROM,
                self.options.pool.range(),
                &self.options.exempt,
            ),
            Translator::Nothing => Ok(()),
        }
    }

    /// The arguments of `natgate run` for this rig.
    pub fn natgate_arguments(&self) -> Result<Vec<String>> {
        let mut arguments: Vec<String> = Vec::new();
        if let Some(config) = &self.options.config {
            self.write_objects(config)?;
            let file = self.directory.path().join("natgate.yaml");
            arguments.extend(["--config".to_owned(), file.display().to_string()]);
        } else {
            let (first, last) = self.options.pool.range();
            let pool = match self.options.pool {
                Pool::OnLink => format!("{first}-{last}"),
                Pool::Routed => format!("{first}/28"),
            };
            let words = ["--internal", "int", "--external", "ext", "--from", FROM, "--pool"];
            arguments.extend(words.map(str::to_owned));
            arguments.push(pool);
            for destination in &self.options.exempt {
                arguments.extend(["--exempt".to_owned(), destination.clone()]);
            }
        }
        arguments.extend(["--workers".to_owned(), self.options.workers.to_string()]);
        arguments.extend(self.options.flags.iter().cloned());
        Ok(arguments)
    }

    /// Ends the captures and applies every oracle to them; natgate's counters must balance too.
    pub fn verify(&mut self) -> Result<Summary> {
        let captures = self.captures.take().ok_or_else(|| anyhow!("no captures run"))?;
        let [internal, external] = captures;
        let oracles = Oracles {
            internal: internal.stop(&self.node, GATEWAY[0])?,
            external: external.stop(&self.r, GATEWAY[1])?,
            scope: self.scope()?,
        };
        let summary = oracles.check()?;
        println!("oracles: {} packets, {} translated", summary.packets, summary.matched);
        if let Some(natgate) = &self.natgate {
            crate::oracle::balance::settled(natgate)?;
        }
        Ok(summary)
    }

    /// Ends the captures and looks for leaks outside: for who removes the link inside, and its capture with it.
    pub fn verify_outside(&mut self) -> Result<()> {
        let captures = self.captures.take().ok_or_else(|| anyhow!("no captures run"))?;
        let [_, external] = captures;
        let external = Trace::read(&external.stop(&self.r, GATEWAY[1])?)?;
        ensure!(!external.is_empty(), "an empty capture");
        let mut faults = Faults::default();
        leaks::check(&external, &self.scope()?, &mut faults);
        ensure!(faults.is_empty(), "{faults}");
        Ok(())
    }

    /// Ends the captures and yields their files (internal, external) unchecked.
    pub fn end_captures(&mut self) -> Result<[PathBuf; 2]> {
        let captures = self.captures.take().ok_or_else(|| anyhow!("no captures run"))?;
        let [internal, external] = captures;
        Ok([internal.stop(&self.node, GATEWAY[0])?, external.stop(&self.r, GATEWAY[1])?])
    }

    /// What the oracles must know about this network.
    pub fn scope(&self) -> Result<Scope> {
        Ok(Scope {
            internal: vec![FROM.parse()?, "10.0.0.0/24".parse()?, "10.99.0.0/24".parse()?],
            public: vec![Pool::OnLink.range(), Pool::Routed.range(), (STATIC[0], STATIC[1])],
            exempt: self.options.exempt.iter().map(|it| it.parse()).collect::<Result<_, _>>()?,
            gateway_internal_mac: self.gateway_macs[0],
            gateway_external_mac: self.gateway_macs[1],
        })
    }

    /// Unwraps `result`; a failure prints what natgate wrote and dropped.
    pub fn must<T>(&self, result: Result<T>) -> T {
        match result {
            Ok(value) => value,
            Err(error) => {
                if let Some(natgate) = &self.natgate {
                    eprintln!("{}\n--- natgate's drops\n{}\n", natgate.output(), natgate.drops());
                }
                panic!("{error:#}");
            }
        }
    }
}

/// One whole suite run: the rig, the scenario, hand-offs if there are several workers, and every
/// oracle over the captures of the run. Panics with what failed.
pub fn verified(options: Options, scenario: impl FnOnce(&mut Rig) -> Result<()>) -> Summary {
    let several = options.workers > 1;
    let mut rig = Rig::start(options).expect("the rig starts");
    let done = scenario(&mut rig);
    rig.must(done);
    if several {
        rig.must(expect_hand_offs(&rig));
    }
    let summary = rig.verify();
    rig.must(summary)
}

/// Several workers shared the work: packets were handed over, and hardly one was lost to it. More workers than cores wait
/// for each other, and what a full ring can't take meanwhile is dropped.
fn expect_hand_offs(rig: &Rig) -> Result<()> {
    let Some(natgate) = &rig.natgate else { return Ok(()) };
    let workers = natgate.json(&["workers"])?.len();
    anyhow::ensure!(workers == usize::from(rig.options.workers), "{workers} workers run");
    // A suite of few flows may have had each of them arrive at its home, by chance: others follow.
    let mut handed = natgate.workers_total("handed_over")?;
    for port in (20_000..20_040).step_by(PODS.len()) {
        if handed > 0 {
            break;
        }
        rig.seen_by_server(port)?;
        handed = natgate.workers_total("handed_over")?;
    }
    anyhow::ensure!(handed > 0, "no packet was handed over");
    let lost = natgate.dropped("hand-off-full")?;
    anyhow::ensure!(lost * 100 <= handed, "{lost} of {handed} packets were lost between workers");
    Ok(())
}
