//! What stands in the JSON of the stats socket? Server and client use these types.

use dataplane::request;
use serde::{Deserialize, Serialize};

/// `/v1/status`: the whole at a glance.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Status {
    /// Version of natgate.
    pub(crate) version: String,
    /// Process number.
    pub(crate) pid: u32,
    /// Seconds since the start.
    pub(crate) uptime_s: u64,
    /// Traffic flows.
    pub(crate) ready: bool,
    /// Since when no session is opened any more, in seconds since 1970.
    pub(crate) drained_since: Option<u64>,
    /// natgate was told to stop: in how many seconds it does at the latest.
    pub(crate) stopping_in_s: Option<u64>,
    /// Where the configuration came from.
    pub(crate) config: String,
    /// Raised by every change of configuration.
    pub(crate) config_generation: u32,
    /// Changes with the routing table.
    pub(crate) roads_generation: u32,
    /// Workers.
    pub(crate) workers: usize,
    /// Sessions now.
    pub(crate) sessions: u64,
    /// Sessions that there may be.
    pub(crate) sessions_maximum: u64,
    /// Sessions ever created.
    pub(crate) sessions_created: u64,
    /// Subscribers now.
    pub(crate) subscribers: u64,
    /// Packets received.
    pub(crate) received: u64,
    /// Packets sent on.
    pub(crate) forwarded: u64,
    /// Packets answered by natgate itself.
    pub(crate) answered: u64,
    /// Packets dropped by workers.
    pub(crate) dropped: u64,
    /// Packets dropped by the steering program, before any worker.
    pub(crate) dropped_by_steering: u64,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
    /// Interfaces that were removed and are not back, by name.
    #[serde(default)]
    pub(crate) gone: Vec<String>,
    /// What was taken away and is still there, and what is to come, since the configuration changed.
    pub(crate) transitions: Vec<String>,
    /// What became of the sessions of the natgate before this one, if it left any.
    pub(crate) restored: Option<String>,
    /// What was set at run time, over what is written.
    pub(crate) settings: Vec<SettingRow>,
    /// The last time that the configuration was read again.
    pub(crate) last_reload: Option<LastReload>,
}

/// What came of reading the configuration again.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LastReload {
    /// Who wanted it: `SIGHUP`, `changed files` or `natgate reload`.
    pub(crate) trigger: String,
    /// When, in seconds since 1970.
    pub(crate) at: u64,
    /// It is in force. Otherwise nothing was changed.
    pub(crate) ok: bool,
    /// Every mistake.
    pub(crate) problems: Vec<String>,
}

/// `POST /v1/reload`: what is in force now.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Reloaded {
    /// Number of the configuration in force.
    pub(crate) generation: u32,
    /// It says something else than the one before.
    pub(crate) changed: bool,
    /// Milliseconds from the beginning to the end.
    pub(crate) took_ms: u64,
    /// What is different now, a line for each kind of object.
    pub(crate) changes: Vec<String>,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
    /// What is not in force yet, and why.
    pub(crate) waiting: Vec<String>,
}

/// `/v1/settings`: one setting that can change at run time.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SettingRow {
    /// Its name: that of the object's field, such as `pools.NAME.timers.udp`.
    pub(crate) key: String,
    /// What is in force.
    pub(crate) value: String,
    /// What the files and flags say.
    pub(crate) written: String,
    /// It was set at run time.
    pub(crate) set: bool,
    /// Who set it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) by: Option<String>,
    /// When, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) at: Option<u64>,
}

/// `PATCH /v1/settings`: what is different now.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SettingChange {
    /// Its name.
    pub(crate) key: String,
    /// What was in force.
    pub(crate) old: String,
    /// What is.
    pub(crate) new: String,
    /// It does not go back by itself: until it is reset, or natgate ends.
    pub(crate) set: bool,
}

/// `/v1/drain`: whether sessions are opened, and what there is.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Drain {
    /// Since when no session is opened any more, in seconds since 1970.
    pub(crate) drained_since: Option<u64>,
    /// natgate was told to stop: in how many seconds it does at the latest.
    pub(crate) stopping_in_s: Option<u64>,
    /// Sessions that remain.
    pub(crate) sessions: u64,
    /// New flows that were refused since natgate started.
    pub(crate) refused: u64,
    /// What remains, by pool.
    pub(crate) pools: Vec<Remainder>,
}

/// What remains of a pool's sessions.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Remainder {
    /// The pool.
    pub(crate) pool: String,
    /// Sessions.
    pub(crate) sessions: u64,
    /// Established TCP connections among them.
    pub(crate) established: u64,
    /// Seconds since the oldest one began.
    pub(crate) oldest_s: u64,
    /// Packets of the busiest session.
    pub(crate) most_packets: u64,
    /// Milliseconds since a packet of the one that is silent for longest.
    pub(crate) longest_idle_ms: u64,
    /// Milliseconds until the last one ends, if nothing comes.
    pub(crate) last_expires_in_ms: u64,
    /// The session that has carried most packets, and is likely to stay.
    pub(crate) busiest: String,
}

/// `/v1/pools`: one address pool.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PoolRow {
    /// Name.
    pub(crate) pool: String,
    /// Public addresses.
    pub(crate) addresses: usize,
    /// Addresses that were removed and still have sessions.
    pub(crate) leaving: usize,
    /// Which these are, and who holds them.
    #[serde(default)]
    pub(crate) leaving_addresses: Vec<LeavingRow>,
    /// Port blocks in all.
    pub(crate) blocks: u64,
    /// Port blocks given out.
    pub(crate) blocks_held: u64,
    /// Port blocks given back, and not for others yet.
    pub(crate) blocks_resting: u64,
    /// Ports in a block.
    pub(crate) block_size: u16,
}

/// A public address that was removed from its pool and is still in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LeavingRow {
    /// The address.
    pub(crate) address: String,
    /// Port blocks that are held there. None: only sessions without a block of their own are left.
    pub(crate) blocks: usize,
    /// Subscribers that hold them.
    pub(crate) subscribers: usize,
    /// The first of these, by address.
    pub(crate) first_subscribers: Vec<String>,
}

/// `/v1/drops`: packets dropped for one reason.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DropRow {
    /// Why.
    pub(crate) reason: String,
    /// How many.
    pub(crate) packets: u64,
    /// `worker` or `steering`.
    #[serde(rename = "where")]
    pub(crate) place: String,
    /// What an operator can do.
    pub(crate) remedy: String,
}

/// `/v1/workers`: one worker.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct WorkerRow {
    /// Number.
    pub(crate) worker: usize,
    /// The core that it is pinned to.
    pub(crate) core: Option<usize>,
    /// Queues that it serves, as `eth0:2`.
    pub(crate) queues: Vec<String>,
    /// Packets received.
    pub(crate) received: u64,
    /// Packets sent on.
    pub(crate) forwarded: u64,
    /// Packets answered.
    pub(crate) answered: u64,
    /// Packets given to other workers.
    pub(crate) handed_over: u64,
    /// Packets taken from other workers.
    pub(crate) taken_over: u64,
    /// Packets dropped.
    pub(crate) dropped: u64,
    /// Packets that wait for a next hop.
    pub(crate) held: u64,
    /// Sessions now.
    pub(crate) sessions: u64,
    /// Subscribers now.
    pub(crate) subscribers: u64,
    /// Packets that took the slow path.
    pub(crate) slow_path: u64,
    /// Share of the loops that found packets since the start, 0 to 1.
    pub(crate) busy_ratio: f64,
    /// Share of the last second that went into packets, 0 to 1.
    pub(crate) load: f64,
    /// How long packets stayed in the last ten seconds.
    pub(crate) latency: LatencyRow,
    /// Times that the worker slept.
    pub(crate) sleeps: u64,
    /// Wake-up system calls.
    pub(crate) wakeups: u64,
    /// Frames free.
    pub(crate) frames_free: u64,
    /// Frames with the kernel.
    pub(crate) frames_in_kernel: u64,
    /// Packets that did not fit a transmit ring.
    pub(crate) transmit_ring_full: u64,
    /// Packets lost because a receive ring was full.
    pub(crate) receive_ring_full: u64,
    /// Times that a fill ring was empty.
    pub(crate) fill_ring_empty: u64,
    /// Records of events lost.
    pub(crate) records_lost: u64,
}

/// How long packets stay, from before their burst was received until it was handed to the interfaces, of one busy turn in
/// `latencySample`.
/// Nothing where none was timed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LatencyRow {
    /// Packets that were timed.
    pub(crate) packets: u64,
    /// Nanoseconds that half of them took at most.
    pub(crate) p50_ns: Option<u64>,
    /// The same of 99 in 100.
    pub(crate) p99_ns: Option<u64>,
    /// The same of 999 in 1,000.
    pub(crate) p999_ns: Option<u64>,
}

/// `/v1/interfaces`: one interface of the gateway.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct InterfaceRow {
    /// Name.
    pub(crate) interface: String,
    /// `internal`, `external`.
    pub(crate) roles: Vec<String>,
    /// Driver, or kind of a virtual interface.
    pub(crate) driver: String,
    /// `zerocopy`, `copy` or `generic`.
    pub(crate) mode: String,
    /// Queues served.
    pub(crate) queues: u32,
    /// Ethernet address.
    pub(crate) mac: String,
    /// Largest IP packet.
    pub(crate) mtu: u16,
    /// The link is up, and has a carrier.
    pub(crate) up: bool,
    /// What packets are put into, if it is a VXLAN device.
    pub(crate) tunnel: Option<TunnelRow>,
    /// Packets received.
    pub(crate) received_packets: u64,
    /// Bytes received.
    pub(crate) received_bytes: u64,
    /// Packets sent.
    pub(crate) transmitted_packets: u64,
    /// Bytes sent.
    pub(crate) transmitted_bytes: u64,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
    /// Receive settings that bring packets to the worker that needs them.
    #[serde(default)]
    pub(crate) receive_steering: Vec<ReceiveSteeringRow>,
}

/// One receive setting of an interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ReceiveSteeringRow {
    /// `wanted`, `in place`, `done`, `failed` or `impossible`.
    pub(crate) state: String,
    /// What makes it.
    pub(crate) command: Option<String>,
    /// What came of it, or why it can't be.
    pub(crate) said: String,
}

/// The tunnel of an interface.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TunnelRow {
    /// VXLAN network identifier.
    pub(crate) vni: u32,
    /// UDP port of both ends.
    pub(crate) port: u16,
    /// The gateway's end.
    pub(crate) local: String,
    /// The interface where its packets arrive.
    pub(crate) underlay: String,
    /// Not 0 if pods behind other tunnels have the same addresses: the number that tells its pods apart.
    pub(crate) overlay: u16,
}

impl std::fmt::Display for TunnelRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { vni, port, local, underlay, overlay } = self;
        write!(f, "VXLAN {vni} at {local}:{port} by {underlay}")?;
        if *overlay > 0 { write!(f, " · overlay {overlay}") } else { Ok(()) }
    }
}

/// `/v1/sessions`: one line, one session.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SessionRow {
    /// Home worker.
    pub(crate) worker: u16,
    /// `tcp`, `udp`, `icmp`.
    pub(crate) protocol: String,
    /// The pod's endpoint, `a.b.c.d:port`.
    pub(crate) internal: String,
    /// The overlay in which that is its own, as `interfaces` shows it; 0: everywhere.
    #[serde(default)]
    pub(crate) overlay: u16,
    /// The public endpoint.
    pub(crate) public: String,
    /// The peer outside.
    pub(crate) remote: String,
    /// State by name.
    pub(crate) state: String,
    /// Pool.
    pub(crate) pool: String,
    /// Name of the rule that admitted it.
    pub(crate) rule: String,
    /// Milliseconds since the last packet.
    pub(crate) idle_ms: u32,
    /// Seconds since it began.
    #[serde(default)]
    pub(crate) age_s: u32,
    /// Milliseconds until it ends, if nothing comes.
    pub(crate) expires_in_ms: u32,
    /// Packets from the pod.
    pub(crate) packets_out: u64,
    /// Bytes from the pod.
    pub(crate) bytes_out: u64,
    /// Packets to the pod.
    pub(crate) packets_in: u64,
    /// Bytes to the pod.
    pub(crate) bytes_in: u64,
}

impl SessionRow {
    /// The row with its numbers replaced by names.
    pub(crate) fn new(row: &request::SessionRow, pool: String, rule: String) -> Self {
        Self {
            worker: row.worker,
            protocol: row.protocol.to_string(),
            internal: row.internal.to_string(),
            overlay: row.overlay,
            public: row.public.to_string(),
            remote: row.remote.to_string(),
            state: row.state.to_owned(),
            pool,
            rule,
            idle_ms: row.idle_ms,
            age_s: row.age_s,
            expires_in_ms: row.expires_in_ms,
            packets_out: row.packets_out,
            bytes_out: row.bytes_out,
            packets_in: row.packets_in,
            bytes_in: row.bytes_in,
        }
    }
}

/// Blocks held on one public address.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct HeldBlocks {
    /// Pool.
    pub(crate) pool: String,
    /// Public address.
    pub(crate) address: String,
    /// Port blocks held there.
    pub(crate) blocks: u32,
}

/// `/v1/subscribers`: one line, one subscriber.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SubscriberRow {
    /// Home worker.
    pub(crate) worker: u16,
    /// Internal address.
    pub(crate) address: String,
    /// The overlay in which that is its own; 0: everywhere.
    #[serde(default)]
    pub(crate) overlay: u16,
    /// Sessions now.
    pub(crate) sessions: u32,
    /// Sessions ever created.
    pub(crate) created: u64,
    /// New flows refused.
    pub(crate) refused: u64,
    /// Port blocks in all.
    pub(crate) blocks: u32,
    /// What it holds.
    pub(crate) holdings: Vec<HeldBlocks>,
}

/// An answer that is not what was asked for; also the last line of a stream that broke.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Problem {
    /// What is wrong, and what to do.
    pub(crate) error: String,
}
