//! How do the sockets of all workers come into being, in the best mode that the drivers offer?

use std::num::NonZeroU32;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::{error, io};

use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::{FrameDesc, Umem};

use super::attach::AttachMode;
use super::bind::{bind_queue, busy_poll, cause, denied, send_at_once};
use super::error::XskError;
use super::frame::{BATCH, Memory};
use super::io::{Relays, Shared, Way, XskIo};
use super::nic;
use super::port::{Port, fill_ring};
use super::steering::{InterfaceEntry, MAX_QUEUES, Steering};
use crate::counters::MAX_INTERFACES;
use crate::interface::{InterfaceId, Roles};
use crate::io::BURST;
use crate::waker::Waker;

/// Bytes that the kernel keeps free before each packet.
const HEADROOM: u32 = 256;
/// Ethernet header with one VLAN tag.
const LINK_HEADER: u32 = 18;
/// Longest IP packet that a frame of the largest size holds, in bytes.
pub const LONGEST: u32 = 4096 - HEADROOM - LINK_HEADER;
/// Free frames that a worker keeps before it gives some to the common pool.
const MOST_FREE: usize = 8 * BATCH;

/// Which way of moving packets is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Zero-copy where the driver can, else copy in the driver.
    #[default]
    Auto,
    /// Zero-copy or failure.
    ZeroCopy,
    /// Copy in the driver.
    Copy,
    /// The program runs in the network stack: any driver, slower.
    Generic,
}

/// How packets get into the packet memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode {
    /// The NIC writes them there.
    ZeroCopy,
    /// The kernel copies them.
    Copy,
}

impl BindMode {
    /// `zero-copy` or `copy`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        }
    }
}

/// An interface to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenInterface {
    /// Its number in the snapshot.
    pub id: InterfaceId,
    /// Its name.
    pub name: String,
    /// The kernel's index of it.
    pub ifindex: u32,
    /// Sides it serves.
    pub roles: Roles,
    /// Serve at most so many of its queues; all if `None`.
    pub queues: Option<u32>,
    /// Largest IP packet on it, in bytes.
    pub mtu: u32,
    /// Packets of tunnels are taken out where they arrive on it.
    pub underlay: bool,
    /// And pods' packets in tunnels that natgate does not know are dropped.
    pub closed: bool,
}

/// What to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenConfig {
    /// The interfaces, each of a different id.
    pub interfaces: Vec<OpenInterface>,
    /// Workers; at most 64, and as many as the interface with most queues has.
    pub workers: usize,
    /// Which mode is wanted.
    pub mode: Mode,
    /// Poll the driver from the workers instead of waiting for interrupts.
    pub busy_poll: bool,
    /// Entries of each receive and transmit ring: a power of two.
    pub ring: u32,
    /// Frames for each worker beyond what rings and free lists hold: as many as may wait in hand-off
    /// rings, for next hops and in bursts.
    pub spare_frames: u32,
}

impl OpenConfig {
    /// Rings of 1,024 entries, 2,048 spare frames, mode `Auto`, no busy polling.
    pub fn new(interfaces: Vec<OpenInterface>, workers: usize) -> Self {
        Self {
            interfaces,
            workers,
            mode: Mode::Auto,
            busy_poll: false,
            ring: 1024,
            spare_frames: 2048,
        }
    }
}

/// What was opened on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceReport {
    /// Its number.
    pub id: InterfaceId,
    /// Its name.
    pub name: String,
    /// Its driver, such as `ixgbe` or `veth`; `?` if unknown.
    pub driver: String,
    /// How the program is to be attached.
    pub attach: AttachMode,
    /// How packets get into the packet memory.
    pub bind: BindMode,
    /// Queues served.
    pub queues: u32,
    /// Longest IP packet that a frame holds, in bytes; the steering program drops what is longer.
    pub longest: u32,
    /// What may go wrong, each with its remedy; [`merging`](super::merging) is apart.
    pub warnings: Vec<String>,
}

/// Everything that [`open`] made.
#[derive(Debug)]
pub struct Opened {
    /// One for each worker.
    pub workers: Vec<XskIo>,
    /// One for each worker.
    pub wakers: Vec<Waker>,
    /// One for each interface.
    pub reports: Vec<InterfaceReport>,
    entries: Vec<InterfaceEntry>,
    /// Base, queue and descriptor of each socket.
    descriptors: Vec<(u32, u32, RawFd)>,
}

impl Opened {
    /// Tells the program about the interfaces and sockets. Call it before attaching, while the workers
    /// are alive.
    ///
    /// # Errors
    /// [`XskError::Bpf`].
    pub fn register(&self, steering: &mut Steering) -> Result<(), XskError> {
        for (base, queue, socket) in &self.descriptors {
            steering.set_socket(*base, *queue, *socket)?;
        }
        self.entries.iter().try_for_each(|entry| steering.set_interface(*entry))
    }
}

/// Opens a socket for every queue of every interface. Worker `w` of `n` gets the queues `q` with
/// `q mod n = w`.
///
/// All sockets share one packet memory, and the kernel has one copy mode for each memory: zero-copy is
/// used if every interface can.
///
/// # Errors
/// See [`XskError`]; nothing stays open then.
pub fn open(config: &OpenConfig) -> Result<Opened, XskError> {
    let queues = check(config)?;
    match config.mode {
        Mode::ZeroCopy => open_all(config, &queues, BindMode::ZeroCopy),
        Mode::Copy | Mode::Generic => open_all(config, &queues, BindMode::Copy),
        Mode::Auto => match open_all(config, &queues, BindMode::ZeroCopy) {
            Err(XskError::NoZeroCopy { .. }) => open_all(config, &queues, BindMode::Copy),
            result => result,
        },
    }
}

fn open_all(config: &OpenConfig, queues: &[u32], bind: BindMode) -> Result<Opened, XskError> {
    let sizes = Sizes::of(config, queues);
    let (umem, mut frames) = sizes.umem(config)?;
    let mut opened = Sockets::default();
    opened.by_worker.resize_with(config.workers, Vec::new);
    for (interface, queues) in config.interfaces.iter().zip(queues) {
        opened.open_interface(config, interface, *queues, bind, &umem)?;
        opened.describe(config, interface, *queues, bind, &sizes);
    }
    let wakers = (0..config.workers)
        .map(|_| Waker::new())
        .collect::<io::Result<Vec<_>>>()
        .map_err(|source| XskError::refused("make an event", "worker", &[], source))?;
    let shared = Arc::new(Shared {
        memory: Memory::new(umem, sizes.frames, sizes.frame as usize),
        relays: Relays::between(wakers.clone(), config.ring as usize),
    });
    let mut workers = Vec::new();
    for (worker, ports) in opened.by_worker.into_iter().enumerate() {
        let ways = ways(config, queues, worker, &ports);
        let own = frames.len() / (config.workers - worker);
        let mut free = Vec::with_capacity(sizes.frames);
        free.extend(frames.drain(frames.len() - own..));
        workers.push(XskIo::new(Arc::clone(&shared), worker, ports, ways, free, MOST_FREE));
    }
    let Sockets { reports, entries, descriptors, .. } = opened;
    Ok(Opened { workers, wakers, reports, entries, descriptors })
}

/// The queues of the interface that has most: the largest number of workers that [`open`] takes.
///
/// # Errors
/// [`XskError::UnknownInterface`].
pub fn most_queues(interfaces: &[OpenInterface]) -> Result<usize, XskError> {
    let queues = |interface: &OpenInterface| {
        let has = nic::receive_queues(&interface.name)
            .ok_or_else(|| XskError::UnknownInterface { name: interface.name.clone() })?;
        Ok(has.min(interface.queues.unwrap_or(has)) as usize)
    };
    interfaces.iter().try_fold(0, |most, interface| Ok(most.max(queues(interface)?)))
}

/// Are the numbers possible? Returns the queues to serve of each interface.
fn check(config: &OpenConfig) -> Result<Vec<u32>, XskError> {
    let bad = |place: &str, why: String, remedy| {
        Err(XskError::BadRequest { place: place.to_owned(), why, remedy })
    };
    if !config.ring.is_power_of_two() {
        let why = format!("{} entries are not a power of two", config.ring);
        return bad("rings", why, "give a power of two");
    }
    let beyond = config.interfaces.iter().find(|i| i.id.index() >= MAX_INTERFACES);
    if let Some(interface) = beyond {
        let why = format!("there are more than {MAX_INTERFACES} interfaces");
        return bad(&interface.name, why, "serve fewer interfaces");
    }
    let mut queues = Vec::new();
    for interface in &config.interfaces {
        let has = nic::receive_queues(&interface.name)
            .ok_or_else(|| XskError::UnknownInterface { name: interface.name.clone() })?;
        let serve = has.min(interface.queues.unwrap_or(has));
        if serve == 0 || serve > MAX_QUEUES {
            let why = format!("{serve} queues, of 1 to {MAX_QUEUES}");
            return bad(&interface.name, why, "`ethtool -L` changes the number of queues");
        }
        queues.push(serve);
    }
    let most = queues.iter().copied().max().unwrap_or(0) as usize;
    if config.workers == 0 || config.workers > most {
        let why = format!("{} for {}", counted(config.workers, "worker"), counted(most, "queue"));
        return bad(
            "workers",
            why,
            "give at most one worker for each queue (`ethtool -L` for more)",
        );
    }
    Ok(queues)
}

/// By which way worker `worker` sends through each interface.
fn ways(config: &OpenConfig, queues: &[u32], worker: usize, ports: &[Port]) -> Vec<Option<Way>> {
    let mut ways = vec![None; MAX_INTERFACES];
    for (interface, queues) in config.interfaces.iter().zip(queues) {
        let own = ports.iter().position(|port| port.interface == interface.id);
        // A worker without a queue there is beyond the number of queues, so this one has one.
        let other = Way::Relay(worker % *queues as usize);
        ways[interface.id.index()] = Some(own.map_or(other, Way::Own));
    }
    ways
}

/// How much memory for how many frames.
struct Sizes {
    frame: u32,
    frames: usize,
}

impl Sizes {
    fn of(config: &OpenConfig, queues: &[u32]) -> Self {
        let mtu = config.interfaces.iter().map(|interface| interface.mtu).max().unwrap_or(0);
        let frame = if mtu + LINK_HEADER + HEADROOM <= 2048 { 2048 } else { 4096 };
        let ring = config.ring as usize;
        let sockets = queues.iter().sum::<u32>() as usize;
        let frames = sockets * (fill_ring(ring) + ring)
            + config.workers * (MOST_FREE + BATCH + ring + config.spare_frames as usize);
        Self { frame, frames: frames.next_multiple_of(BATCH) }
    }

    /// Bytes for a frame's packet.
    fn room(&self) -> u32 {
        self.frame - HEADROOM
    }

    fn umem(&self, config: &OpenConfig) -> Result<(Umem, Vec<FrameDesc>), XskError> {
        let what = "register packet memory";
        let invalid = |error: &dyn error::Error| XskError::BadRequest {
            place: "packet memory".into(),
            why: error.to_string(),
            remedy: "use smaller rings or fewer queues",
        };
        let ring = |size| QueueSize::new(size).map_err(|error| invalid(&error));
        let umem = UmemConfig::builder()
            .frame_size(FrameSize::new(self.frame).map_err(|error| invalid(&error))?)
            .fill_queue_size(ring(fill_ring(config.ring as usize) as u32)?)
            .comp_queue_size(ring(config.ring)?)
            .build()
            .map_err(|error| invalid(&error))?;
        let frames = u32::try_from(self.frames).ok().and_then(NonZeroU32::new);
        let frames = frames.ok_or_else(|| invalid(&io::Error::other("too many frames")))?;
        Umem::new(umem, frames, false).map_err(|error| {
            let source = cause(&error);
            if let Some(capability) = denied(&source) {
                return XskError::MissingCapability { what, place: "AF_XDP".into(), capability };
            }
            XskError::MemoryLock { mebibytes: (self.frames * self.frame as usize) >> 20, source }
        })
    }
}

/// Sockets as they are opened.
#[derive(Default)]
struct Sockets {
    by_worker: Vec<Vec<Port>>,
    reports: Vec<InterfaceReport>,
    entries: Vec<InterfaceEntry>,
    descriptors: Vec<(u32, u32, RawFd)>,
}

impl Sockets {
    fn open_interface(
        &mut self,
        config: &OpenConfig,
        interface: &OpenInterface,
        queues: u32,
        bind: BindMode,
        umem: &Umem,
    ) -> Result<(), XskError> {
        for queue in 0..queues {
            let rings = bind_queue(config, interface, queue, bind, umem)?;
            let port = Port::new(interface.id, rings, config.ring as usize, config.busy_poll);
            let port = port.map_err(|source| {
                XskError::refused("find a transmit ring", &interface.name, &[], source)
            })?;
            send_at_once(port.raw_fd(), (2 * BURST as u32).min(config.ring));
            if config.busy_poll {
                busy_poll(port.raw_fd()).map_err(|source| {
                    let capabilities = ["CAP_NET_ADMIN"];
                    XskError::refused(
                        "turn busy polling on",
                        &interface.name,
                        &capabilities,
                        source,
                    )
                })?;
            }
            self.descriptors.push((base(interface), queue, port.raw_fd()));
            self.by_worker[queue as usize % config.workers].push(port);
        }
        Ok(())
    }

    fn describe(
        &mut self,
        config: &OpenConfig,
        interface: &OpenInterface,
        queues: u32,
        bind: BindMode,
        sizes: &Sizes,
    ) {
        let &OpenInterface { ifindex, roles, underlay, closed, .. } = interface;
        let (base, room) = (base(interface), sizes.room());
        let entry = InterfaceEntry { ifindex, roles, base, queues, room, underlay, closed };
        self.entries.push(entry);
        self.reports.push(InterfaceReport {
            id: interface.id,
            name: interface.name.clone(),
            driver: nic::driver(&interface.name),
            attach: match config.mode {
                Mode::Generic => AttachMode::Generic,
                _ => AttachMode::Native,
            },
            bind,
            queues,
            longest: sizes.room() - LINK_HEADER,
            warnings: warnings(config, interface, queues),
        });
    }
}

/// Index of the interface's queue 0 among the sockets.
fn base(interface: &OpenInterface) -> u32 {
    u32::from(interface.id.0) * MAX_QUEUES
}

fn warnings(config: &OpenConfig, interface: &OpenInterface, queues: u32) -> Vec<String> {
    let name = &interface.name;
    let mut warnings = Vec::new();
    let has = nic::receive_queues(name).unwrap_or(queues);
    if has > queues {
        warnings.push(format!(
            "{name}: {queues} of {has} queues are served, natgate's packets on the others are dropped; \
             `ethtool -L {name} combined {queues}`, or serve all"
        ));
    }
    if config.busy_poll && !nic::busy_poll_ready(name) {
        warnings.push(format!(
            "{name}: busy polling without deferred interrupts gains little; `echo 2 > \
             /sys/class/net/{name}/napi_defer_hard_irqs; echo 200000 > \
             /sys/class/net/{name}/gro_flush_timeout`"
        ));
    }
    warnings
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_interfaces_are_named_as_what_they_are() {
        let interface = |id: u8| OpenInterface {
            id: InterfaceId(id),
            name: format!("if{id}"),
            ifindex: u32::from(id) + 1,
            roles: Roles { internal: true, external: true },
            queues: None,
            mtu: 1500,
            underlay: false,
            closed: false,
        };
        let config = OpenConfig::new((0..=MAX_INTERFACES as u8).map(interface).collect(), 1);
        let error = check(&config).unwrap_err().to_string();
        let said = "cannot serve (if16): there are more than 16 interfaces; serve fewer interfaces";
        assert_eq!(error, said);
    }
}
