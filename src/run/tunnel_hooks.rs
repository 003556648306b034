//! The steering program on the devices of tunnels, which come and go while natgate runs.
//!
//! What arrives in tunnels is taken out by the workers. What the kernel takes out itself (outer fragments, another
//! interface) arrives on the device: the program drops there what is natgate's.

use dataplane::xsk::{
    self, AttachMode, Inspection, InterfaceEntry, InterfaceLock, Steering, TunnelEntry, XskError,
};
use tracing::{error, info, warn};

use crate::mirror::MirrorState;

use super::world::{Device, INTERNAL, World};

/// The device of a tunnel.
#[derive(Debug)]
struct Hook {
    device: (u32, String),
    entry: TunnelEntry,
    /// A device that is down takes nothing.
    up: bool,
    /// Held for as long as it is served.
    _lock: InterfaceLock,
}

/// The devices of all tunnels that are served.
#[derive(Debug, Default)]
pub(super) struct TunnelHooks {
    hooks: Vec<Hook>,
    /// Those that can't be, and why, a line each.
    failed: Vec<String>,
}

impl TunnelHooks {
    /// The kernel's index and the name of each.
    pub(super) fn devices(&self) -> impl Iterator<Item = &(u32, String)> {
        self.hooks.iter().map(|hook| &hook.device)
    }

    /// The devices that are not served because they can't be closed, a line each.
    pub(super) fn failed(&self) -> &[String] {
        &self.failed
    }

    /// Closes the devices that are new, and forgets those that are gone. One that can't be closed is not served until
    /// it can.
    pub(super) fn follow(&mut self, steering: &mut Steering, state: &MirrorState) {
        let wanted = World::tunnels(state);
        self.hooks.retain_mut(|hook| {
            let found = wanted.iter().find(|it| it.ifindex == hook.device.0);
            if let Some(found) = found {
                (hook.device.1, hook.entry, hook.up) = (found.name.clone(), found.entry, found.up);
            } else if let Err(error) = steering.forget_interface(hook.device.0) {
                warn!("{error}");
            }
            found.is_some()
        });
        let before = std::mem::take(&mut self.failed);
        for Device { ifindex, name, entry, up } in wanted {
            if self.hooks.iter().any(|hook| hook.device.0 == ifindex)
                || nix::net::if_::if_nametoindex(name.as_str()) != Ok(ifindex)
            {
                continue;
            }
            match close(steering, ifindex, &name) {
                Ok(lock) => {
                    info!(device = name, vni = entry.vni, port = entry.port, "tunnel served");
                    self.hooks.push(Hook { device: (ifindex, name), entry, up, _lock: lock });
                }
                Err(error) => {
                    let line = format!(
                        "{name} (VXLAN) is not served: {error}; pods' packets in it are dropped"
                    );
                    if !before.contains(&line) {
                        warn!("{line}");
                    }
                    self.failed.push(line);
                }
            }
        }
    }

    /// Has the packets of all these tunnels looked into.
    pub(super) fn open(&self, steering: &mut Steering) -> Result<(), XskError> {
        let hooks = self.hooks.iter().filter(|hook| hook.up);
        let entries: Vec<TunnelEntry> = hooks.map(|hook| hook.entry).collect();
        steering.set_tunnels(&entries)
    }

    /// Takes the program off all of them for a moment: the kernel refuses one beneath them otherwise.
    pub(super) fn lift(&self) -> Result<(), XskError> {
        self.devices().try_for_each(|(ifindex, name)| lift(*ifindex, name))
    }

    /// Sees that the program is on every device that there is.
    pub(super) fn watch(&self, steering: &mut Steering) {
        for (ifindex, name) in self.devices() {
            if matches!(xsk::glance(*ifindex, name), Ok(Inspection::None)) {
                error!(device = name, "the steering program was removed; attaching it again");
                if let Err(error) = steering.attach(*ifindex, name, AttachMode::Generic) {
                    error!("{error}");
                }
            }
        }
    }
}

/// The tunnels that there are.
pub(super) fn entries(state: &MirrorState) -> Vec<TunnelEntry> {
    World::tunnels(state).into_iter().filter(|it| it.up).map(|it| it.entry).collect()
}

/// Takes the program that a natgate has left off these devices: the kernel refuses one beneath them otherwise.
pub(super) fn lift_left(devices: &[(u32, String)]) -> Result<(), XskError> {
    for (ifindex, name) in devices {
        // One that runs keeps its own.
        let Ok(_lock) = InterfaceLock::acquire(*ifindex, name) else { continue };
        lift(*ifindex, name)?;
    }
    Ok(())
}

fn lift(ifindex: u32, name: &str) -> Result<(), XskError> {
    if matches!(xsk::glance(ifindex, name), Ok(Inspection::Ours { .. })) {
        xsk::detach(ifindex, name)?;
    }
    Ok(())
}

fn close(steering: &mut Steering, ifindex: u32, name: &str) -> Result<InterfaceLock, XskError> {
    let lock = InterfaceLock::acquire(ifindex, name)?;
    if let Inspection::Foreign { id, name: program } = xsk::glance(ifindex, name)? {
        return Err(XskError::HookBusy { interface: name.to_owned(), name: program, id });
    }
    steering.set_interface(InterfaceEntry::without_sockets(ifindex, INTERNAL))?;
    steering.attach(ifindex, name, AttachMode::Generic)?;
    Ok(lock)
}
