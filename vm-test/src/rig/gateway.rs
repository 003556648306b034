//! What a suite does at the gateway, be that a namespace or a virtual machine.

use std::process::Command;

use anyhow::Result;

use super::Rig;
use crate::Gateway;
use crate::namespace::{link, output};

impl Rig {
    /// Starts natgate there, and does not wait.
    pub fn launch(&self, arguments: &[String]) -> Result<Gateway> {
        self.gw.launch(self.directory(), arguments)
    }

    /// Starts natgate there, and waits until traffic flows.
    pub fn launch_ready(&self, arguments: &[String]) -> Result<Gateway> {
        self.gw.start(self.directory(), arguments)
    }

    /// Writes the file with natgate's objects.
    pub fn write_objects(&self, objects: &str) -> Result<()> {
        self.gw.write(&self.directory().join("natgate.yaml"), objects.as_bytes())
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
            if let Some(guest) = self.gw.guest() {
                guest.put(&object, &std::fs::read(&object)?)?;
            }
        }
        Ok(object.display().to_string())
    }

    /// Takes the carrier of the external interface away, or gives it back.
    pub fn carrier_outside(&self, there: bool) -> Result<()> {
        match self.gw.guest() {
            Some(guest) => {
                let state = if there { "on" } else { "off" };
                guest.monitor(&format!("set_link n1 {state}")).map(drop)
            }
            None => self.r.ip(&format!("link set dev down {}", if there { "up" } else { "down" })),
        }
    }

    /// Has the internal interface vanish: the link is removed, or the driver gives its card up.
    pub fn remove_inside(&self) -> Result<()> {
        if self.gw.guest().is_none() {
            return self.node.ip("link del gw0");
        }
        self.gw.sh(
            "device=$(basename $(readlink /sys/class/net/int/device)) && echo $device > /tmp/device && \
             readlink -f /sys/class/net/int/device/driver > /tmp/driver && echo $device > $(cat /tmp/driver)/unbind",
        )
        .map(drop)
    }

    /// Has it come back after that, with its addresses and routes.
    pub fn make_inside_again(&self) -> Result<()> {
        let lines = self.card_lines("int");
        if self.gw.guest().is_none() {
            link((&self.node, "gw0"), (&self.gw.namespace, "int"), self.options.queues)?;
            self.node.ip("addr add 10.0.0.2/24 dev gw0\nroute add default via 10.0.0.1")?;
            return self.gw.sh(&lines).map(drop);
        }
        let bind = "cat /tmp/device > $(cat /tmp/driver)/bind && ip link set eth0 name int";
        self.gw.sh(&format!("{bind} && {lines}")).map(drop)
    }
}
