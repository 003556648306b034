//! What a suite does at the gateway, be that a namespace or a virtual machine.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Rig;
use crate::binary::natgate_binary;
use crate::namespace::{link, output};
use crate::{Gateway, relay, server, wait};

impl Rig {
    /// How much longer than in a namespace things may take at the gateway: emulating a machine costs several times its work.
    pub fn slower(&self) -> u32 {
        if self.guest.is_some() { 6 } else { 1 }
    }

    /// Runs a line of shell where natgate runs.
    pub fn gateway_sh(&self, line: &str) -> Result<String> {
        match &self.guest {
            Some(guest) => guest.sh(line),
            None => output(self.gw.command("sh").args(["-c", line])),
        }
    }

    /// Runs `ip` commands, one a line, there.
    pub fn gateway_ip(&self, lines: &str) -> Result<()> {
        let Some(guest) = &self.guest else { return self.gw.ip(lines) };
        let file = Path::new("/tmp/ip-batch");
        guest.put(file, lines.as_bytes())?;
        guest.sh(&format!("ip -batch {}", file.display())).map(drop)
    }

    /// Sets a kernel setting there.
    pub fn gateway_sysctl(&self, key: &str, value: u32) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.gateway_sh(&format!("echo {value} > {path}")).map(drop)
    }

    /// Starts natgate there, and does not wait.
    pub fn launch(&self, arguments: &[String]) -> Result<Gateway> {
        match &self.guest {
            Some(guest) => Gateway::launch_in_guest(guest, self.directory(), arguments),
            None => Gateway::launch(&self.gw, self.directory(), arguments),
        }
    }

    /// Starts natgate there, and waits until traffic flows.
    pub fn launch_ready(&self, arguments: &[String]) -> Result<Gateway> {
        let mut gateway = self.launch(arguments)?;
        gateway.await_ready(Duration::from_secs(10) * self.slower())?;
        Ok(gateway)
    }

    /// Runs natgate there with these words, and yields exit status and everything that it printed, errors last. `wrapper` is
    /// a program with its arguments that runs it.
    pub fn gateway_natgate(&self, wrapper: &str, words: &[&str]) -> Result<(i32, String)> {
        let words = words.join(" ");
        if let Some(guest) = &self.guest {
            let line = format!("timeout 30 {wrapper} natgate {words}");
            return guest
                .try_sh(&format!("{line} 2>/tmp/said; status=$?; cat /tmp/said; exit $status"));
        }
        let mut command = self.gw.command("timeout");
        command.arg("10").args(wrapper.split_whitespace()).arg(natgate_binary()?);
        let done = command.args(words.split_whitespace()).output().context("natgate")?;
        let said = [done.stdout, done.stderr].concat();
        let status = done.status.code().context("ended by a signal")?;
        Ok((status, String::from_utf8_lossy(&said).into_owned()))
    }

    /// Writes a file there; readers find it as it was, or whole.
    pub fn gateway_write(&self, path: &Path, contents: &[u8]) -> Result<()> {
        match &self.guest {
            Some(guest) => guest.put(path, contents),
            None => Ok(relay::replace(path, contents)?),
        }
    }

    /// Writes the file with natgate's objects.
    pub fn write_objects(&self, objects: &str) -> Result<()> {
        self.gateway_write(&self.directory().join("natgate.yaml"), objects.as_bytes())
    }

    /// A file there.
    pub fn gateway_read_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        let Some(guest) = &self.guest else { return Ok(std::fs::read(path)?) };
        let digits = guest.sh(&format!("od -An -v -tx1 {}", path.display()))?;
        digits.split_whitespace().map(|it| Ok(u8::from_str_radix(it, 16)?)).collect()
    }

    /// A text file there.
    pub fn gateway_read(&self, path: &Path) -> Result<String> {
        match &self.guest {
            Some(guest) => guest.sh(&format!("cat {}", path.display())),
            None => Ok(std::fs::read_to_string(path)?),
        }
    }

    /// Whether there is such a file there.
    pub fn gateway_has(&self, path: &Path) -> Result<bool> {
        match &self.guest {
            Some(guest) => Ok(guest.try_sh(&format!("test -e {}", path.display()))?.0 == 0),
            None => Ok(path.exists()),
        }
    }

    /// Echoes streams and datagrams at each of the gateway's own addresses.
    pub fn gateway_echo(&self, port: u16) -> Result<()> {
        let any = std::net::Ipv4Addr::UNSPECIFIED;
        let Some(guest) = &self.guest else {
            server::tcp_echo(&self.gw, any, port)?;
            return server::udp_echo(&self.gw, any, port).map(drop);
        };
        guest.sh(&format!("vm-test-guest echo {any}:{port} >/dev/null 2>&1 &"))?;
        let listens = format!("netstat -lnu | grep -q ':{port} '");
        wait::until("the guest's server", Duration::from_secs(20), || {
            Ok((guest.try_sh(&listens)?.0 == 0).then_some(()))
        })
    }

    /// An object file with an XDP program that is not natgate's, where the gateway's programs find it.
    pub fn foreign_program(&self) -> Result<String> {
        const TEXT: &str = "__attribute__((section(\"xdp\"), used)) int foreign(void *packet)\n\
                            { (void)packet; return 2; }\n";
        let (source, object) =
            (self.directory().join("foreign.c"), self.directory().join("foreign.o"));
        if !object.exists() {
            std::fs::write(&source, TEXT)?;
            let mut clang = Command::new("clang");
            clang.args(["-O2", "-target", "bpf", "-c"]).arg(&source).arg("-o").arg(&object);
            output(&mut clang)?;
            if let Some(guest) = &self.guest {
                guest.put(&object, &std::fs::read(&object)?)?;
            }
        }
        Ok(object.display().to_string())
    }

    /// Takes the carrier of the external interface away, or gives it back.
    pub fn carrier_outside(&self, there: bool) -> Result<()> {
        match &self.guest {
            Some(guest) => {
                let state = if there { "on" } else { "off" };
                guest.monitor(&format!("set_link n1 {state}")).map(drop)
            }
            None => self.r.ip(&format!("link set dev down {}", if there { "up" } else { "down" })),
        }
    }

    /// Has the internal interface vanish: the link is removed, or the driver gives its card up.
    pub fn remove_inside(&self) -> Result<()> {
        if self.guest.is_none() {
            return self.node.ip("link del gw0");
        }
        self.gateway_sh(
            "device=$(basename $(readlink /sys/class/net/int/device)) && echo $device > /tmp/device && \
             readlink -f /sys/class/net/int/device/driver > /tmp/driver && echo $device > $(cat /tmp/driver)/unbind",
        )
        .map(drop)
    }

    /// Has it come back after that, with its addresses and routes.
    pub fn make_inside_again(&self) -> Result<()> {
        let lines = self.card_lines("int");
        if self.guest.is_none() {
            link((&self.node, "gw0"), (&self.gw, "int"), self.options.queues)?;
            self.node.ip("addr add 10.0.0.2/24 dev gw0\nroute add default via 10.0.0.1")?;
            return self.gateway_sh(&lines).map(drop);
        }
        let bind = "cat /tmp/device > $(cat /tmp/driver)/bind && ip link set eth0 name int";
        self.gateway_sh(&format!("{bind} && {lines}")).map(drop)
    }
}
