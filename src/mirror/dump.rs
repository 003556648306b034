//! What does the kernel know at this moment?

use std::net::{IpAddr, Ipv4Addr};

use futures_util::{Stream, StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage, address::AddressAttribute};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::MirrorError;
use super::atlas::Stale;
use super::fdb::FdbFact;
use super::link::Link;
use super::neighbours::Fact;
use super::rules::KernelRule;
use super::tables::{KernelRoute, Place};

/// Largest number of unanswered requests to resolve.
const RESOLVE_BATCH: usize = 64;

/// The host's own IPv4 addresses, with the kernel's index of the link of each.
pub(super) type Addresses = Vec<(u32, Ipv4Net)>;

/// What was read, of what was asked for.
#[derive(Debug, Default)]
pub(super) struct Dump {
    /// Links and addresses.
    pub(super) links: Option<(Vec<Link>, Addresses)>,
    pub(super) routes: Option<Vec<(Place, KernelRoute)>>,
    pub(super) rules: Option<Vec<KernelRule>>,
    /// Neighbours, and the forwarding databases of VXLAN devices.
    pub(super) neighbours: Option<(Vec<Fact>, Vec<FdbFact>)>,
}

/// A neighbour that the kernel is asked to resolve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) ifindex: u32,
    pub(super) address: Ipv4Addr,
    /// The kernel has an entry for it.
    pub(super) known: bool,
}

/// A connection to the kernel for questions and requests. Cheap to clone.
#[derive(Clone)]
pub(super) struct Kernel {
    pub(super) handle: Handle,
}

impl Kernel {
    /// Connects. Must be called within a tokio runtime.
    pub(super) fn connect() -> Result<Self, MirrorError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| MirrorError::Socket { what: "open", source })?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Reads what is stale.
    pub(super) async fn read(&self, stale: Stale) -> Result<Dump, MirrorError> {
        let mut dump = Dump::default();
        if stale.links {
            dump.links = Some((self.links().await?, self.addresses().await?));
        }
        if stale.rules {
            dump.rules = Some(self.rules().await?);
        }
        if stale.neighbours {
            dump.neighbours = Some((self.neighbours().await?, self.fdb().await?));
        }
        if stale.routes {
            dump.routes = Some(self.routes().await?);
        }
        Ok(dump)
    }

    pub(super) async fn links(&self) -> Result<Vec<Link>, MirrorError> {
        let links = self.handle.link().get().execute().map_ok(Link::from_message);
        collect("links", links).await
    }

    /// The host's own IPv4 addresses, with the prefix lengths they were configured with.
    pub(super) async fn addresses(&self) -> Result<Addresses, MirrorError> {
        let address = |message: rtnetlink::packet_route::address::AddressMessage| {
            let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
                message.attributes.iter().find_map(wanted)
            };
            // On point-to-point links `Address` is the peer's.
            let local = of(|a| matches!(a, AddressAttribute::Local(_)).then(|| ip(a))?)
                .or_else(|| of(|a| matches!(a, AddressAttribute::Address(_)).then(|| ip(a))?));
            let IpAddr::V4(addr) = local? else { return None };
            let net = Ipv4Net::new(addr, message.header.prefix_len).ok()?;
            Some((message.header.index, net))
        };
        let addresses = self.handle.address().get().execute().map_ok(address);
        Ok(collect("addresses", addresses).await?.into_iter().flatten().collect())
    }

    /// The IPv4 routing rules, in the kernel's order.
    pub(super) async fn rules(&self) -> Result<Vec<KernelRule>, MirrorError> {
        let rules = self.handle.rule().get(IpVersion::V4).execute();
        let rules = collect("routing rules", rules.map_ok(|it| KernelRule::from_message(&it)));
        match rules.await {
            Ok(rules) => Ok(rules.into_iter().flatten().collect()),
            // A kernel without CONFIG_IP_MULTIPLE_TABLES.
            Err(MirrorError::Dump { source: rtnetlink::Error::NetlinkError(why), .. })
                if why.to_io().raw_os_error() == Some(Errno::EOPNOTSUPP as i32) =>
            {
                Ok(KernelRule::defaults())
            }
            Err(error) => Err(error),
        }
    }

    /// All IPv4 routes, in the kernel's order.
    pub(super) async fn routes(&self) -> Result<Vec<(Place, KernelRoute)>, MirrorError> {
        let filter = RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(0)
            .protocol(rtnetlink::packet_route::route::RouteProtocol::Unspec)
            .scope(rtnetlink::packet_route::route::RouteScope::Universe)
            .kind(RouteType::Unspec)
            .build();
        let routes = self.handle.route().get(filter).execute();
        let routes =
            collect("routes", routes.map_ok(|message| KernelRoute::from_message(&message)));
        Ok(routes.await?.into_iter().flatten().collect())
    }

    pub(super) async fn neighbours(&self) -> Result<Vec<Fact>, MirrorError> {
        let dump = self.handle.neighbours().get().set_address_family(AddressFamily::Inet).execute();
        let facts = collect("neighbours", dump.map_ok(|message| neighbour_fact(&message))).await?;
        Ok(facts.into_iter().flatten().collect())
    }

    async fn fdb(&self) -> Result<Vec<FdbFact>, MirrorError> {
        let dump = self.handle.neighbours().get().set_address_family(AddressFamily::Bridge);
        let facts = dump.execute().map_ok(|message| FdbFact::from_message(&message, true));
        Ok(collect("forwarding databases", facts).await?.into_iter().flatten().collect())
    }

    /// Asks the kernel to resolve neighbours (`NTF_USE`); what comes of it arrives as events. A refusal
    /// is logged: the next attempt follows by itself.
    pub(super) async fn resolve(&self, wanted: &[Question]) {
        for batch in wanted.chunks(RESOLVE_BATCH) {
            let requests = batch.iter().map(|question| async move {
                if let Err(why) = self.resolve_one(question).await {
                    let Question { ifindex, address, .. } = question;
                    tracing::debug!(%address, ifindex, why, "the kernel refuses to resolve a neighbour");
                }
            });
            futures_util::future::join_all(requests).await;
        }
    }

    async fn resolve_one(&self, question: &Question) -> Result<(), String> {
        let &Question { ifindex, address, known } = question;
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::None;
        message.header.flags = NeighbourFlags::Use;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(address))];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
        // `NTF_USE` makes a permanent entry one that has to be resolved: one that we have not heard of yet, as flannel
        // sets them up, is left alone. What is known and asked for is not permanent.
        let new = if known { 0 } else { NLM_F_EXCL };
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | new;
        let mut answers =
            self.handle.clone().request(request).map_err(|error| error.to_string())?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(error.to_io().to_string());
            }
        }
        Ok(())
    }
}

fn ip(attribute: &AddressAttribute) -> Option<IpAddr> {
    match attribute {
        AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    }
}

/// What a neighbour message says; `None` for other families, proxies and tables.
pub(super) fn neighbour_fact(message: &NeighbourMessage) -> Option<Fact> {
    let header = &message.header;
    if header.family != AddressFamily::Inet || header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    });
    Some(Fact {
        ifindex: header.ifindex,
        address,
        state: header.state,
        mac: mac.map(dataplane::interface::Mac),
    })
}

async fn collect<T>(
    what: &'static str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, MirrorError> {
    stream.try_collect().await.map_err(|source| MirrorError::Dump { what, source })
}
