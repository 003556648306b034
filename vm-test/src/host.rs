//! Where natgate runs, and what a suite does there: a namespace, or a virtual machine that has taken its place.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binary::natgate_binary;
use crate::guest::{Guest, Machine};
use crate::namespace::{output, parse_mac};
use crate::{Gateway, Namespace, relay, server, wait};

/// What networks are set up with, in a namespace and at a [`Host`] alike.
pub trait Commands {
    /// Runs `ip` commands, one a line.
    fn ip(&self, lines: &str) -> Result<()>;
    /// Runs a command line (split at spaces) and yields its standard output.
    fn exec(&self, line: &str) -> Result<String>;
    /// The hardware address of an interface.
    fn mac(&self, interface: &str) -> Result<[u8; 6]>;
}

impl Commands for Namespace {
    fn ip(&self, lines: &str) -> Result<()> {
        self.ip(lines)
    }

    fn exec(&self, line: &str) -> Result<String> {
        self.exec(line)
    }

    fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        self.mac(interface)
    }
}

impl Commands for Host {
    fn ip(&self, lines: &str) -> Result<()> {
        self.ip(lines)
    }

    fn exec(&self, line: &str) -> Result<String> {
        self.exec(line)
    }

    fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        self.mac(interface)
    }
}

/// Where natgate runs. The guest ends before its namespace.
#[derive(Debug)]
pub struct Host {
    guest: Option<Arc<Guest>>,
    /// Where natgate's links end: its own namespace, or that of the emulator.
    pub namespace: Namespace,
}

impl Host {
    /// A new namespace.
    pub fn new(role: &str) -> Result<Self> {
        Ok(Self { guest: None, namespace: Namespace::new(role)? })
    }

    /// The virtual machine, if there is one.
    pub fn guest(&self) -> Option<&Arc<Guest>> {
        self.guest.as_ref()
    }

    /// How much longer than in a namespace things may take: emulating a machine costs several times its work.
    pub fn slower(&self) -> u32 {
        if self.guest.is_some() { 6 } else { 1 }
    }

    /// An address of natgate's host that only programs in [`namespace`](Self::namespace) reach.
    pub fn address(&self) -> Ipv4Addr {
        self.guest.as_ref().map_or(Ipv4Addr::LOCALHOST, |guest| guest.address())
    }

    /// Has the machine that this program's suites ask for, if any, take the namespace's place; its cards are `links`, which
    /// have no addresses yet.
    pub fn move_if_asked(&mut self, links: &[&str], directory: &Path) -> Result<()> {
        let Some(machine) = Machine::of_test() else { return Ok(()) };
        let links: Vec<_> = links.iter().map(|&link| (link, 1500)).collect();
        self.move_into_guest(machine, &links, directory)?;
        self.name_cards(machine, &links)?;
        let up = |(link, _): &(&str, u16)| format!("link set {link} up\n");
        self.ip(&links.iter().map(up).collect::<String>())?;
        self.await_cards(&links)
    }

    /// Boots a virtual machine in the namespace's place: `links` (name, MTU) end at bridges, on which its cards hang, with
    /// the hardware addresses that the links had.
    pub fn move_into_guest(
        &mut self,
        machine: Machine,
        links: &[(&str, u16)],
        directory: &Path,
    ) -> Result<()> {
        // QEMU opens a tap of one queue as one that has never heard of several.
        let several = if machine.queues > 1 { "multi_queue" } else { "" };
        let mut taps = Vec::new();
        for (number, (link, mtu)) in links.iter().enumerate() {
            taps.push((format!("tap-{link}"), self.namespace.mac(link)?));
            self.namespace.ip(&format!(
                "addr flush dev {link}\nlink set {link} address 02:00:00:00:fe:0{number}\n\
                 link add br-{link} type bridge forward_delay 0 mcast_snooping 0\n\
                 tuntap add dev tap-{link} mode tap {several} vnet_hdr\n\
                 link set {link} master br-{link}\nlink set tap-{link} master br-{link} mtu {mtu}\n\
                 link set tap-{link} up\nlink set br-{link} up"
            ))?;
        }
        let cards: Vec<_> = taps.iter().map(|(tap, mac)| (tap.as_str(), *mac)).collect();
        let guest = Guest::boot(machine, &self.namespace, &cards, directory)?;
        self.guest = Some(Arc::new(guest));
        // Suites that know of guests say themselves how long things may take there.
        if Machine::of_test().is_some() {
            wait::be_patient(self.slower());
        }
        Ok(())
    }

    /// Gives the cards of a guest that has just booted the names of their links, and the queues that they are to have.
    pub fn name_cards(&self, machine: Machine, links: &[(&str, u16)]) -> Result<()> {
        for (number, (link, mtu)) in links.iter().enumerate() {
            self.sh(&format!("ip link set eth{number} name {link} mtu {mtu}"))?;
            if !machine.card.has_channels() {
                continue;
            }
            // A driver may begin with one queue for each processor.
            let queues = format!("ethtool -L {link} combined {}", machine.queues);
            self.sh(&format!(
                "{queues} 2>/tmp/said || grep -q 'no channel parameters changed' /tmp/said"
            ))?;
        }
        Ok(())
    }

    /// Waits until the cards, which were set up, carry packets.
    pub fn await_cards(&self, links: &[(&str, u16)]) -> Result<()> {
        for (link, _) in links {
            let up = format!("[ $(cat /sys/class/net/{link}/operstate) = up ]");
            wait::until(&format!("{link} in the guest"), Duration::from_secs(60), || {
                Ok(self.sh(&up).is_ok().then_some(()))
            })?;
        }
        Ok(())
    }

    /// Runs a line of shell.
    pub fn sh(&self, line: &str) -> Result<String> {
        match &self.guest {
            Some(guest) => guest.sh(line),
            None => output(self.namespace.command("sh").args(["-c", line])),
        }
    }

    /// Sets a kernel setting.
    pub fn sysctl(&self, key: &str, value: u32) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.sh(&format!("echo {value} > {path}")).map(drop)
    }

    /// Starts natgate, and does not wait.
    pub fn launch(&self, directory: &Path, arguments: &[String]) -> Result<Gateway> {
        match &self.guest {
            Some(guest) => Gateway::launch_in_guest(guest, directory, arguments),
            None => Gateway::launch(&self.namespace, directory, arguments),
        }
    }

    /// Starts natgate, and waits until traffic flows.
    pub fn start(&self, directory: &Path, arguments: &[String]) -> Result<Gateway> {
        let mut gateway = self.launch(directory, arguments)?;
        gateway.await_ready(Duration::from_secs(10) * self.slower())?;
        Ok(gateway)
    }

    /// Runs natgate with these words, and yields exit status and everything that it printed, errors last. `wrapper` is
    /// a program with its arguments that runs it.
    pub fn natgate(&self, wrapper: &str, words: &[&str]) -> Result<(i32, String)> {
        let words = words.join(" ");
        if let Some(guest) = &self.guest {
            let line = format!("timeout 30 {wrapper} natgate {words}");
            return guest
                .try_sh(&format!("{line} 2>/tmp/said; status=$?; cat /tmp/said; exit $status"));
        }
        let mut command = self.namespace.command("timeout");
        command.arg("10").args(wrapper.split_whitespace()).arg(natgate_binary()?);
        let done = command.args(words.split_whitespace()).output().context("natgate")?;
        let said = [done.stdout, done.stderr].concat();
        let status = done.status.code().context("ended by a signal")?;
        Ok((status, String::from_utf8_lossy(&said).into_owned()))
    }

    /// Writes a file; readers find it as it was, or whole.
    pub fn write(&self, path: &Path, contents: &[u8]) -> Result<()> {
        match &self.guest {
            Some(guest) => guest.put(path, contents),
            None => Ok(relay::replace(path, contents)?),
        }
    }

    /// A file.
    pub fn read_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        let Some(guest) = &self.guest else { return Ok(std::fs::read(path)?) };
        let digits = guest.sh(&format!("od -An -v -tx1 {}", path.display()))?;
        digits.split_whitespace().map(|it| Ok(u8::from_str_radix(it, 16)?)).collect()
    }

    /// A text file.
    pub fn read(&self, path: &Path) -> Result<String> {
        match &self.guest {
            Some(guest) => guest.sh(&format!("cat {}", path.display())),
            None => Ok(std::fs::read_to_string(path)?),
        }
    }

    /// Whether there is such a file.
    pub fn has(&self, path: &Path) -> Result<bool> {
        match &self.guest {
            Some(guest) => Ok(guest.try_sh(&format!("test -e {}", path.display()))?.0 == 0),
            None => Ok(path.exists()),
        }
    }

    /// Echoes streams and datagrams at each of the host's own addresses.
    pub fn echo(&self, port: u16) -> Result<()> {
        let any = Ipv4Addr::UNSPECIFIED;
        let Some(guest) = &self.guest else {
            server::tcp_echo(&self.namespace, any, port)?;
            return server::udp_echo(&self.namespace, any, port).map(drop);
        };
        guest.sh(&format!("vm-test-guest echo {any}:{port} >/dev/null 2>&1 &"))?;
        let listens = format!("netstat -lnu | grep -q ':{port} '");
        wait::until("the guest's server", Duration::from_secs(20), || {
            Ok((guest.try_sh(&listens)?.0 == 0).then_some(()))
        })
    }

    /// Runs `ip` commands, one a line.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let Some(guest) = &self.guest else { return self.namespace.ip(lines) };
        let file = Path::new("/tmp/ip-batch");
        guest.put(file, lines.as_bytes())?;
        guest.sh(&format!("ip -batch {}", file.display())).map(drop)
    }

    /// Runs a command line and yields its standard output.
    pub fn exec(&self, line: &str) -> Result<String> {
        match &self.guest {
            Some(guest) => guest.sh(line),
            None => self.namespace.exec(line),
        }
    }

    /// The hardware address of an interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let Some(guest) = &self.guest else { return self.namespace.mac(interface) };
        parse_mac(guest.sh(&format!("cat /sys/class/net/{interface}/address"))?.trim())
    }
}
