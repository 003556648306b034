//! How is the picture of [`super`] made of links, addresses and routes?

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::{FROM, Mtus, OTHER, Overlay, PODS, Rig, Translator, UNDER};
use crate::guest::Machine;
use crate::namespace::link;

/// What a VXLAN header and what is around it takes of a packet.
const OUTER: u16 = 50;
/// Packets one by one, for captures.
const WHOLE_PACKETS: &str = "tso off gso off gro off tx-udp-segmentation off";

/// What a tunnel to `remote` is, in the words of `ip`.
fn kind(learning: bool, remote: Ipv4Addr) -> String {
    if learning {
        format!("id 7 dstport 4789 remote {remote}")
    } else {
        "id 1 dstport 8472 nolearning".to_owned()
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Rig {
    pub(super) fn wire_inside(&self) -> Result<()> {
        // A bridge that snoops on multicast joins a group itself, and its reports reach the pods.
        self.node
            .ip("link add pods type bridge forward_delay 0 mcast_snooping 0\naddr add 10.244.1.1/24 dev pods\n\
             link set pods up")?;
        for (index, pod) in self.pods.iter().enumerate() {
            let port = format!("pod{index}");
            link((&self.node, &port), (pod, "eth0"), 1)?;
            self.node.ip(&format!("link set {port} master pods"))?;
            pod.ip(&format!(
                "addr add {}/24 dev eth0\nroute add default via 10.244.1.1",
                PODS[index]
            ))?;
        }
        match self.options.overlay {
            Overlay::Plain => {
                link((&self.node, "gw0"), (&self.gw.namespace, "int"), self.options.queues)?;
            }
            overlay => self.lay_tunnel(overlay == Overlay::Learning)?,
        }
        self.node.ip("addr add 10.0.0.2/24 dev gw0\nroute add default via 10.0.0.1")?;
        self.gw.ip("addr add 10.0.0.1/24 dev int\nroute add 10.244.0.0/16 via 10.0.0.2")?;
        if let Some(other) = &self.other {
            link((&self.node, "other"), (other, "eth0"), 1)?;
            self.node.ip("addr add 10.9.0.1/24 dev other")?;
            other.ip(&format!("addr add {OTHER}/24 dev eth0\nroute add default via 10.9.0.1"))?;
            self.gw.ip("route add 10.9.0.0/24 via 10.0.0.2")?;
        }
        self.node.sysctl("net.ipv4.ip_forward", 1)
    }

    /// A tunnel in place of the link between the node and the gateway.
    fn lay_tunnel(&self, learning: bool) -> Result<()> {
        link((&self.node, "under"), (&self.gw.namespace, "under"), self.options.queues)?;
        let inside = self.options.mtus.inside;
        let ends = [(&self.node, "gw0", UNDER[0]), (&self.gw.namespace, "int", UNDER[1])];
        for ((host, device, local), (.., remote)) in ends.iter().zip(ends.iter().rev()) {
            let mtu = inside + OUTER;
            host.ip(&format!("link set under mtu {mtu}\naddr add {local}/24 dev under"))?;
            host.ip(&format!(
                "link add {device} type vxlan {} dev under local {local}\n\
                 link set {device} up mtu {inside}",
                kind(learning, *remote)
            ))?;
            // Whole packets, one by one, as on the plain link: captures are taken on the device.
            host.exec(&format!("ethtool -K {device} {WHOLE_PACKETS}"))?;
        }
        if learning {
            return Ok(());
        }
        for ((host, device, _), (other, its, remote)) in ends.iter().zip(ends.iter().rev()) {
            let mac = text(other.mac(its)?);
            let address = if *device == "int" { "10.0.0.2" } else { "10.0.0.1" };
            host.ip(&format!("neigh add {address} lladdr {mac} dev {device} nud permanent"))?;
            host.exec(&format!("bridge fdb add {mac} dev {device} dst {remote}"))?;
        }
        Ok(())
    }

    pub(super) fn wire_outside(&self) -> Result<()> {
        link((&self.gw.namespace, "ext"), (&self.r, "down"), self.options.queues)?;
        self.gw.ip("addr add 203.0.113.2/24 dev ext\nroute add default via 203.0.113.1")?;
        self.r.ip("addr add 203.0.113.1/24 dev down")?;
        for (server, name, net, hosts) in [
            (&self.s1, "s1", 0, vec![10, 11]),
            (&self.s2, "s2", 64, vec![70]),
            (&self.x, "x", 128, vec![130]),
        ] {
            link((&self.r, name), (server, "eth0"), 1)?;
            self.r.ip(&format!("addr add 192.0.2.{}/26 dev {name}", net + 1))?;
            for host in hosts {
                server.ip(&format!("addr add 192.0.2.{host}/26 dev eth0"))?;
            }
            server.ip(&format!("route add default via 192.0.2.{}", net + 1))?;
        }
        self.r.ip("route add 198.51.100.0/28 via 203.0.113.2")?;
        if self.options.other {
            self.r.ip("route add 10.9.0.0/24 via 203.0.113.2")?;
        }
        if !self.options.exempt.is_empty() {
            self.r.ip(&format!("route add {FROM} via 203.0.113.2"))?;
        }
        self.gw.sysctl("net.ipv4.ip_forward", u32::from(self.options.gateway_forwards))?;
        self.r.sysctl("net.ipv4.ip_forward", 1)
    }

    /// The MTUs that were asked for, at both ends of each link.
    pub(super) fn set_mtus(&self) -> Result<()> {
        let Mtus { pods, inside, outside, server } = self.options.mtus;
        let [c1, c2] = &self.pods;
        for (host, interface, mtu) in [
            (c1, "eth0", pods),
            (c2, "eth0", pods),
            (&self.node, "pod0", pods),
            (&self.node, "pod1", pods),
            (&self.node, "pods", pods),
            (&self.node, "gw0", inside),
            (&self.gw.namespace, "int", inside),
            (&self.gw.namespace, "ext", outside),
            (&self.r, "down", outside),
            (&self.r, "s1", server),
            (&self.s1, "eth0", server),
        ] {
            if mtu != 1500 {
                host.ip(&format!("link set dev {interface} mtu {mtu}"))?;
            }
        }
        Ok(())
    }

    /// Senders' checksum offload; and for Linux's NAT, whose packets would stay unfinished from
    /// end to end, whole checksums and whole packets on the gateway's links.
    pub(super) fn offloads(&self) -> Result<()> {
        if !self.options.sender_checksum_offload {
            for host in self.pods.iter().chain([&self.s1, &self.s2, &self.x]) {
                host.exec("ethtool -K eth0 tx off")?;
            }
        }
        if self.options.translator != Translator::Natgate {
            for (host, interface) in [
                (&self.node, "gw0"),
                (&self.gw.namespace, "int"),
                (&self.gw.namespace, "ext"),
                (&self.r, "down"),
            ] {
                host.exec(&format!("ethtool -K {interface} tx off"))?;
            }
        }
        Ok(())
    }

    /// Has a virtual machine take the gateway's place.
    pub(super) fn move_into_guest(&mut self) -> Result<()> {
        // Controls that need no natgate need no guest either.
        if self.options.translator != Translator::Natgate {
            return Ok(());
        }
        let Some(machine) = self.machine() else { return Ok(()) };
        if self.options.overlay != Overlay::Plain {
            self.gw.ip("link del int")?;
        }
        let cards = self.cards();
        // Packets one by one, as on a link of namespaces with natgate: captures are taken here.
        let inner = self.inner_card();
        let beneath = if inner == "int" { "gw0" } else { inner };
        for (host, interface) in [(&self.node, beneath), (&self.r, "down")] {
            host.exec(&format!("ethtool -K {interface} {WHOLE_PACKETS}"))?;
        }
        self.gw.move_into_guest(machine, &cards, self.directory.path())?;
        self.configure_guest()?;
        self.let_guest_forward()
    }

    /// The machine that was asked for.
    fn machine(&self) -> Option<Machine> {
        let machine = self.options.machine?;
        Some(Machine { queues: machine.queues.max(self.options.queues), ..machine })
    }

    /// Names and MTUs of the gateway's cards, the inner one first.
    fn cards(&self) -> [(&'static str, u16); 2] {
        let Mtus { inside, outside, .. } = self.options.mtus;
        let outer = if self.options.overlay == Overlay::Plain { 0 } else { OUTER };
        [(self.inner_card(), inside + outer), ("ext", outside)]
    }

    /// Gives the cards of a guest that has just booted their names and addresses, and the guest its routes.
    pub fn configure_guest(&self) -> Result<()> {
        let cards = self.cards();
        self.gw.sh(&format!("mkdir -p {}", self.directory.path().display()))?;
        self.gw.name_cards(self.machine().context("no guest")?, &cards)?;
        for (side, _) in &cards {
            self.gw.sh(&self.card_lines(side))?;
        }
        self.gw.await_cards(&cards)?;
        match self.options.overlay {
            Overlay::Plain => Ok(()),
            overlay => self.lay_tunnel_in_guest(overlay == Overlay::Learning),
        }
    }

    /// The gateway's card towards the node: beneath the tunnel, if there is one.
    fn inner_card(&self) -> &'static str {
        if self.options.overlay == Overlay::Plain { "int" } else { "under" }
    }

    /// A guest's end of the tunnel, with the address that the node knows.
    fn lay_tunnel_in_guest(&self, learning: bool) -> Result<()> {
        let (own, its) = (text(self.gateway_macs[0]), text(self.node.mac("gw0")?));
        let [remote, local] = UNDER;
        self.gw.ip(&format!(
            "link add int type vxlan {} dev under local {local}\n\
             link set int address {own} mtu {}\nlink set int up\n\
             addr add 10.0.0.1/24 dev int\nroute add 10.244.0.0/16 via 10.0.0.2",
            kind(learning, remote),
            self.options.mtus.inside
        ))?;
        self.gw.sh(&format!("ethtool -K int {WHOLE_PACKETS}"))?;
        if learning {
            return Ok(());
        }
        self.gw.ip(&format!("neigh add 10.0.0.2 lladdr {its} dev int nud permanent"))?;
        self.gw.sh(&format!("bridge fdb add {its} dev int dst {remote}")).map(drop)
    }

    /// Has the kernel of a guest forward, if that is wanted: last, since until natgate's programs are there after a boot
    /// everything is the kernel's.
    pub fn let_guest_forward(&self) -> Result<()> {
        let forwards = u32::from(self.options.gateway_forwards);
        self.gw.sh(&format!("echo {forwards} > /proc/sys/net/ipv4/ip_forward")).map(drop)
    }

    /// What sets up the gateway's interface `side`, which has this name: commands of a shell, joined by `&&`.
    pub fn card_lines(&self, side: &str) -> String {
        let Mtus { inside, outside, .. } = self.options.mtus;
        let under = format!("{}/24", UNDER[1]);
        let (mtu, address, route) = match side {
            "int" => (inside, "10.0.0.1/24", " && ip route add 10.244.0.0/16 via 10.0.0.2"),
            "under" => (inside + OUTER, under.as_str(), ""),
            _ => (outside, "203.0.113.2/24", " && ip route add default via 203.0.113.1"),
        };
        let other = match &self.other {
            Some(_) if side == "int" => " && ip route add 10.9.0.0/24 via 10.0.0.2",
            _ => "",
        };
        format!(
            "ip link set {side} mtu {mtu} && ip addr add {address} dev {side} && ip link set {side} up\
             {route}{other}"
        )
    }
}
