//! Workers on the memory backend: packets in, packets out, on warped time.
//!
//! ```text
//! pods 10.244.0.0/16 ── node 10.0.0.1 ── [0] natgate [1] ── router 203.0.113.1 ── servers 192.0.2.0/24
//! ```

mod anybody;
mod attack;
mod capture;
mod damage;
mod exempt;
mod explain;
mod fixed_rig;
mod follow;
mod forwards;
mod fragments;
mod fragments_flood;
mod hairpin;
mod homes;
mod icmp;
mod icmp_errors;
mod ip_id;
mod limits;
mod overlay_fixed;
mod overlays;
mod own_addresses;
mod own_errors;
mod packets;
mod pieces;
mod plain;
mod portless;
mod refuse;
mod rig;
mod rights;
mod roads;
mod tcp;
mod threads;
mod too_big;
mod translate;
mod tunnel;
mod tunnel_checksum;
mod tunnel_mtu;
mod work;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use conntrack::{PoolSettings, Protocol};
use crossbeam::channel;
use etherparse::{SlicedPacket, TransportSlice};

use self::packets::{ping, pong, round_trip, seen, tcp, udp};
use self::rig::{
    EXEMPT_SERVER, GATE_MAC, INSIDE, NODE_MAC, OUTSIDE, PUBLIC, ROUTER_MAC, Rig, SERVER, interface,
    pod, roads,
};
use crate::drop_reason::DropReason;
use crate::interface::Mac;
use crate::request::{Notice, Request, SessionFilter};
use crate::roads::{Adjacency, AdjacencyId, Route};
use crate::snapshot::Snapshot;
