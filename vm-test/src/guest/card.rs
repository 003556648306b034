//! Which network cards does QEMU emulate, and what do their drivers need?

/// Modules of the devices without cards that suites make: tunnels, and one without XDP in its driver.
pub(super) const DEVICES: [&str; 2] = ["vxlan", "bridge"];

/// A kind of network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    /// That of virtual machines: several queues, XDP in the driver.
    VirtioNet,
    /// VMware's: XDP in the driver since Linux 6.6.
    Vmxnet3,
    /// Intel's 82574: no XDP in the driver.
    E1000e,
}

impl Card {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::VirtioNet, Self::Vmxnet3, Self::E1000e];

    /// The name of its driver.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VirtioNet => "virtio-net",
            Self::Vmxnet3 => "vmxnet3",
            Self::E1000e => "e1000e",
        }
    }

    /// Modules of the driver, and of virtio-net, which the card to the guest itself has. In the order in which cards
    /// get their names.
    pub(super) const fn modules(self) -> &'static [&'static str] {
        match self {
            Self::VirtioNet => &["virtio_pci", "virtio_net"],
            Self::Vmxnet3 => &["vmxnet3", "virtio_pci", "virtio_net"],
            Self::E1000e => &["e1000e", "virtio_pci", "virtio_net"],
        }
    }

    /// Can the guest say how many queues it has?
    pub const fn has_channels(self) -> bool {
        matches!(self, Self::VirtioNet)
    }

    /// What QEMU is told about one with `queues` queues.
    pub(super) fn device(self, queues: u16) -> String {
        match self {
            // It passes tags of networks that nobody has asked for, as a veth does.
            Self::VirtioNet => {
                format!("virtio-net-pci,mq=on,ctrl_vlan=off,vectors={}", 2 * queues + 2)
            }
            Self::Vmxnet3 | Self::E1000e => self.name().to_owned(),
        }
    }
}
