//! Where is it measured? Three network namespaces in a row, made for one trial and removed after it.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::{process, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use tools::Tunnel;
use tools::interface::parse_mac;

/// Namespaces, by what they are.
const SPACES: [&str; 3] = ["gen", "gw", "sink"];
/// Ethernet address of the gateway's internal side.
pub const GATEWAY_INTERNAL: &str = "02:00:00:00:01:01";
/// Ethernet address of the gateway's external side.
pub const GATEWAY_EXTERNAL: &str = "02:00:00:00:02:01";
/// Ethernet address of the generator.
pub const GENERATOR: &str = "02:00:00:00:01:02";
/// Ethernet address of the sink.
pub const SINK: &str = "02:00:00:00:02:02";
/// Address of the sink.
pub const SINK_ADDRESS: &str = "198.51.100.2";
/// Address of a pod in the generator's namespace whose packets the kernel sends.
pub const POD: &str = "10.10.255.1";

/// Ethernet addresses of the tunnel's device in the gateway, and of the other end.
const TUNNEL: [&str; 2] = ["02:00:00:00:03:01", "02:00:00:00:03:02"];
/// Number of the VXLAN network, and UDP port.
const NETWORK: (u32, u16) = (1, 8472);

/// What the generator puts packets into.
pub fn tunnel() -> Result<Tunnel> {
    let (vni, port) = NETWORK;
    let ends = ("10.9.0.2".parse()?, "10.9.0.1".parse()?);
    Ok(Tunnel { ends, vni, port, to: parse_mac(TUNNEL[0])? })
}

/// The namespaces of one trial; dropped, they and what runs in them are gone.
#[derive(Debug)]
pub struct Rig {
    prefix: String,
    children: Vec<Child>,
}

impl Rig {
    /// Makes the namespaces, the cables between them, addresses and routes.
    pub fn new() -> Result<Self> {
        let rig = Self { prefix: format!("ngb{}", process::id()), children: Vec::new() };
        for space in SPACES {
            run(Command::new("ip").args(["netns", "add", &rig.name(space)]))?;
        }
        rig.cable(
            ["gen", "gen0", GENERATOR, "10.9.0.2/24"],
            ["gw", "int0", GATEWAY_INTERNAL, "10.9.0.1/24"],
        )?;
        rig.cable(
            ["gw", "ext0", GATEWAY_EXTERNAL, "198.51.100.1/24"],
            ["sink", "sink0", SINK, "198.51.100.2/24"],
        )?;
        rig.sh(
            "gw",
            "sysctl -qw net.ipv4.ip_forward=1 && ip route add 10.10.0.0/16 via 10.9.0.2 && \
             ip route add 10.64.0.0/10 via 10.9.0.2 && ip route add 198.18.0.0/15 via 198.51.100.2",
        )?;
        let pod =
            format!("ip addr add {POD}/32 dev gen0 && ip route add 198.51.100.0/24 via 10.9.0.1");
        rig.sh("gen", &pod)?;
        rig.sh("sink", "ip route add 203.0.113.0/24 via 198.51.100.1")?;
        rig.sh("gw", "ping -q -c 1 -W 2 198.51.100.2 && ping -q -c 1 -W 2 10.9.0.2")?;
        // A neighbour that is asked for again while the cores are full would be lost, and all with it.
        for [space, interface, address, mac] in [
            ["gw", "ext0", SINK_ADDRESS, SINK],
            ["gw", "int0", "10.9.0.2", GENERATOR],
            ["sink", "sink0", "198.51.100.1", GATEWAY_EXTERNAL],
            ["gen", "gen0", "10.9.0.1", GATEWAY_INTERNAL],
        ] {
            rig.sh(
                space,
                &format!("ip neigh replace {address} lladdr {mac} dev {interface} nud permanent"),
            )?;
        }
        Ok(rig)
    }

    /// A VXLAN device in the gateway, by which the pods are reached from then on.
    pub fn lay_tunnel(&self) -> Result<()> {
        let ([own, peer], (vni, port)) = (TUNNEL, NETWORK);
        self.sh(
            "gw",
            &format!(
                "ip link add vx0 address {own} type vxlan id {vni} dev int0 local 10.9.0.1 dstport {port} nolearning && \
                 ip link set vx0 up && ip neigh add 10.10.255.254 lladdr {peer} dev vx0 nud permanent && \
                 bridge fdb add {peer} dev vx0 dst 10.9.0.2 && \
                 ip route replace 10.10.0.0/16 via 10.10.255.254 dev vx0 onlink"
            ),
        )
    }

    fn name(&self, space: &str) -> String {
        format!("{}-{space}", self.prefix)
    }

    fn cable(&self, a: [&str; 4], b: [&str; 4]) -> Result<()> {
        run(Command::new("ip").args([
            "link",
            "add",
            a[1],
            "netns",
            &self.name(a[0]),
            "address",
            a[2],
            "type",
            "veth",
            "peer",
            "name",
            b[1],
            "netns",
            &self.name(b[0]),
            "address",
            b[2],
        ]))?;
        for [space, interface, _, address] in [a, b] {
            self.sh(
                space,
                &format!("ip addr add {address} dev {interface} && ip link set {interface} up"),
            )?;
        }
        Ok(())
    }

    /// Runs a shell command in `space`, to its end.
    pub fn sh(&self, space: &str, script: &str) -> Result<()> {
        run(Command::new("ip").args(["netns", "exec", &self.name(space), "sh", "-c", script]))
    }

    /// Starts a program in the gateway; it is killed with the rig. Returns its process id.
    pub fn start(&mut self, arguments: &[&str], log: File) -> Result<u32> {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.name("gw")])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("error: ip (PATH): it can't be run; install iproute2")?;
        let process = child.id();
        self.children.push(child);
        Ok(process)
    }

    /// Fails if something that was started has ended.
    pub fn check(&mut self) -> Result<()> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("it ended ({status})");
            }
        }
        Ok(())
    }

    /// Runs `work` on a thread of its own in `space`.
    pub fn within<T: Send>(
        &self,
        space: &str,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let file = File::open(format!("/run/netns/{}", self.name(space)))?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself: then there is nothing to do.
            let _ended = child.kill();
            let _status = child.wait();
        }
        for space in SPACES {
            // On failure the kernel says why on stderr, and the next space is still to be removed.
            let _status = Command::new("ip").args(["netns", "del", &self.name(space)]).status();
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output =
        command.output().with_context(|| format!("error: {command:?}: it can't be run"))?;
    ensure!(
        output.status.success(),
        "error: {command:?}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
