//! What do the kernel's routing rules (`ip rule`) mean for natgate's packets?
//!
//! Packets that natgate forwards have no mark, and arrive by an interface. What depends on more than
//! arrival, source and destination is not followed, and named.

use std::net::{IpAddr, Ipv4Addr};

use dataplane::interface::InterfaceId;
use dataplane::roads::{Arrival, Denial, Signpost, Towards};
use ipnet::Ipv4Net;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

/// The kernel's tables `local`, `main` and `default`.
const LOCAL: u32 = 255;
const MAIN: u32 = 254;
const DEFAULT: u32 = 253;

/// A rule of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelRule {
    priority: u32,
    from: Ipv4Net,
    to: Ipv4Net,
    /// Name of the interface of arrival.
    arrival: Option<String>,
    inverted: bool,
    action: Action,
    /// What else it asks for, and why natgate can't tell.
    unclear: Option<&'static str>,
    /// It means none of natgate's packets, whatever else it asks for.
    never: bool,
    /// It means packets that arrive in a VRF, and the table is that of the VRF (`l3mdev`).
    by_vrf: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Table(u32, Option<u8>),
    Denied(Denial),
    NoRoute,
    GoTo(u32),
    Nothing,
}

impl Action {
    fn without_table(action: RuleAction) -> Self {
        match action {
            RuleAction::Blackhole => Self::Denied(Denial::Blackhole),
            RuleAction::Unreachable => Self::NoRoute,
            RuleAction::Prohibit => Self::Denied(Denial::Prohibit),
            _ => Self::Nothing,
        }
    }
}

impl KernelRule {
    /// The rules of a kernel without routing policy.
    pub(super) fn defaults() -> Vec<Self> {
        let rule =
            |(priority, table)| Self { action: Action::Table(table, None), ..Self::all(priority) };
        [(0, LOCAL), (32766, MAIN), (32767, DEFAULT)].map(rule).to_vec()
    }

    /// One that means all packets, and nothing with them.
    fn all(priority: u32) -> Self {
        Self {
            priority,
            from: Ipv4Net::default(),
            to: Ipv4Net::default(),
            arrival: None,
            inverted: false,
            action: Action::Nothing,
            unclear: None,
            never: false,
            by_vrf: false,
        }
    }

    /// The rule in `message`; `None` if it is not IPv4.
    pub(super) fn from_message(message: &RuleMessage) -> Option<Self> {
        let header = &message.header;
        let (mut from, mut to) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        let (mut priority, mut table, mut target) = (0, u32::from(header.table), None);
        let (mut arrival, mut suppressed, mut mark, mut mask) = (None, None, 0, None);
        let mut unclear = (header.tos != 0).then_some("a type of service");
        let (mut departure, mut by_vrf) = (false, false);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Source(IpAddr::V4(address)) => from = *address,
                RuleAttribute::Destination(IpAddr::V4(address)) => to = *address,
                RuleAttribute::Source(_) | RuleAttribute::Destination(_) => return None,
                RuleAttribute::Iifname(name) => arrival = Some(name.clone()),
                // Packets that are forwarded are bound to none.
                RuleAttribute::Oifname(_) => departure = true,
                RuleAttribute::Goto(priority) => target = Some(*priority),
                RuleAttribute::Priority(value) => priority = *value,
                RuleAttribute::FwMark(value) => mark = *value,
                RuleAttribute::FwMask(value) => mask = Some(*value),
                RuleAttribute::Table(value) => table = *value,
                // All ones: none is suppressed.
                RuleAttribute::SuppressPrefixLen(len) => suppressed = u8::try_from(*len).ok(),
                RuleAttribute::SuppressIfGroup(u32::MAX)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::TunId(0)
                | RuleAttribute::Realm(_) => {}
                RuleAttribute::SuppressIfGroup(_) => unclear = Some("a group of interfaces"),
                RuleAttribute::TunId(_) => unclear = Some("a tunnel"),
                RuleAttribute::L3MDev(asks) => by_vrf = *asks,
                RuleAttribute::UidRange(_) => unclear = Some("users"),
                RuleAttribute::IpProtocol(_) => unclear = Some("a protocol"),
                RuleAttribute::SourcePortRange(_) | RuleAttribute::DestinationPortRange(_) => {
                    unclear = Some("ports");
                }
                _ => unclear = Some("something unknown"),
            }
        }
        let action = match header.action {
            RuleAction::ToTable => Action::Table(table, suppressed),
            RuleAction::Goto => Action::GoTo(target?),
            other => Action::without_table(other),
        };
        let inverted = header.flags.contains(RuleFlags::Invert);
        let rule = Self {
            priority,
            from: Ipv4Net::new(from, header.src_len).ok()?,
            to: Ipv4Net::new(to, header.dst_len).ok()?,
            arrival,
            inverted,
            action,
            unclear: unclear.or((by_vrf && inverted).then_some("being in no VRF")),
            never: false,
            by_vrf,
        };
        let marked = mark & mask.unwrap_or(u32::MAX) != 0;
        Some(match (departure || marked, rule.inverted) {
            (false, _) => rule,
            (true, false) if marked => Self { never: true, unclear: Some("a mark"), ..rule },
            (true, false) => Self { never: true, unclear: None, ..rule },
            // All packets but such that natgate does not have: `not fwmark`, as WireGuard writes it.
            (true, true) => Self { action, ..Self::all(priority) },
        })
    }

    /// Its line for an operator, if natgate does not follow it.
    fn refusal(&self) -> Option<String> {
        let what = self.unclear?;
        Some(format!(
            "routing rule {} (ip rule) is not followed: it asks for {what}, and natgate knows arrival, source and \
             destination only; write it in these terms, or see that it means no pods' traffic",
            self.priority
        ))
    }
}

/// The signposts that `rules` (in the kernel's order) are, and a line for each rule that is not followed. `table`
/// gives the index of a table by its number, `served` the number of an interface by its name. `vrfs`: interfaces that
/// belong to a VRF, and its table.
pub(super) fn signposts(
    rules: &[KernelRule],
    mut table: impl FnMut(u32) -> usize,
    served: impl Fn(&str) -> Option<InterfaceId>,
    vrfs: &[(InterfaceId, u32)],
) -> (Vec<Signpost>, Vec<String>) {
    // A rule for VRFs is one for each interface in one.
    let expanded: Vec<(usize, Option<(InterfaceId, u32)>)> = (0..rules.len())
        .flat_map(|index| {
            let by_vrf = rules[index].by_vrf && rules[index].unclear.is_none();
            let each = if by_vrf { vrfs } else { &[] };
            let once = (!by_vrf).then_some((index, None));
            once.into_iter().chain(each.iter().map(move |vrf| (index, Some(*vrf))))
        })
        .collect();
    let signposts = expanded.iter().map(|&(index, vrf)| {
        let rule = &rules[index];
        let towards = match rule.action {
            _ if rule.never => Towards::Next,
            Action::Table(id, _) if rule.unclear.is_some() => Towards::Unclear(table(id)),
            _ if rule.unclear.is_some() => Towards::Next,
            Action::Table(id, suppressed) => {
                Towards::Table(table(vrf.map_or(id, |(_, table)| table)), suppressed)
            }
            Action::Denied(denial) => Towards::Denied(denial),
            Action::NoRoute => Towards::NoRoute,
            Action::GoTo(priority) => {
                let target = rules.iter().position(|it| it.priority == priority);
                let target = target.and_then(|to| expanded.iter().position(|(it, _)| *it >= to));
                target.map_or(Towards::Next, Towards::Signpost)
            }
            Action::Nothing => Towards::Next,
        };
        let named = rule.arrival.as_deref().map(&served);
        let arrival = match (named, vrf) {
            (None, None) => Arrival::Anywhere,
            (None, Some((id, _))) => Arrival::At(id),
            (Some(named), None) => named.map_or(Arrival::Elsewhere, Arrival::At),
            (Some(named), Some((id, _))) if named == Some(id) => Arrival::At(id),
            (Some(_), Some(_)) => Arrival::Elsewhere,
        };
        Signpost { arrival, from: rule.from, to: rule.to, inverted: rule.inverted, towards }
    });
    (signposts.collect(), rules.iter().filter_map(KernelRule::refusal).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: RuleAction, attributes: &[RuleAttribute]) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.action = action;
        message.attributes = attributes.to_vec();
        message
    }

    /// Tables have the index of their number; `in0` is interface 0.
    fn read(messages: &[RuleMessage]) -> (Vec<Signpost>, Vec<String>) {
        read_with(messages, &[])
    }

    fn read_with(
        messages: &[RuleMessage],
        vrfs: &[(InterfaceId, u32)],
    ) -> (Vec<Signpost>, Vec<String>) {
        let rules: Vec<_> = messages.iter().filter_map(KernelRule::from_message).collect();
        let served = |name: &str| (name == "in0").then_some(InterfaceId(0));
        signposts(&rules, |id| id as usize, served, vrfs)
    }

    #[test]
    fn a_rule_for_vrfs_asks_the_table_of_the_vrf_that_a_packet_arrives_in() {
        let jump = rule(RuleAction::Goto, &[RuleAttribute::Goto(2000)]);
        let vrf = rule(
            RuleAction::ToTable,
            &[RuleAttribute::Priority(1000), RuleAttribute::L3MDev(true)],
        );
        let last =
            rule(RuleAction::ToTable, &[RuleAttribute::Priority(2000), RuleAttribute::Table(254)]);
        let rules = [jump, vrf.clone(), last];
        let (signposts, refused) = read_with(&rules, &[(InterfaceId(0), 10), (InterfaceId(3), 20)]);
        assert!(refused.is_empty(), "{refused:?}");
        let ways: Vec<_> = signposts.iter().map(|it| (it.arrival, it.towards)).collect();
        assert_eq!(
            ways,
            [
                (Arrival::Anywhere, Towards::Signpost(3)),
                (Arrival::At(InterfaceId(0)), Towards::Table(10, None)),
                (Arrival::At(InterfaceId(3)), Towards::Table(20, None)),
                (Arrival::Anywhere, Towards::Table(254, None)),
            ]
        );
        // Nobody is in one; and what can't be said of one.
        assert_eq!(read_with(&rules, &[]).0.len(), 2);
        let mut inverted = vrf;
        inverted.header.flags = RuleFlags::Invert;
        assert!(read_with(&[inverted], &[]).1[0].contains("being in no VRF"));
    }

    #[test]
    fn what_can_be_said_is_followed() {
        let table = RuleAttribute::Table(1000);
        let mut first = rule(
            RuleAction::ToTable,
            &[
                RuleAttribute::Priority(100),
                RuleAttribute::Source(Ipv4Addr::new(10, 244, 0, 0).into()),
                RuleAttribute::Iifname("in0".into()),
                RuleAttribute::SuppressPrefixLen(0),
                RuleAttribute::SuppressIfGroup(u32::MAX),
                table.clone(),
            ],
        );
        first.header.src_len = 16;
        first.header.flags = RuleFlags::Invert;
        let elsewhere = rule(RuleAction::Prohibit, &[RuleAttribute::Iifname("lo".into())]);
        let jump = rule(RuleAction::Goto, &[RuleAttribute::Goto(400)]);
        let unreachable = rule(RuleAction::Unreachable, &[RuleAttribute::Priority(400)]);
        let (signposts, refused) = read(&[first, elsewhere, jump, unreachable]);
        assert!(refused.is_empty(), "{refused:?}");
        let first = Signpost {
            arrival: Arrival::At(InterfaceId(0)),
            from: "10.244.0.0/16".parse().unwrap(),
            to: Ipv4Net::default(),
            inverted: true,
            towards: Towards::Table(1000, Some(0)),
        };
        assert_eq!(signposts[0], first);
        assert_eq!(signposts[1].arrival, Arrival::Elsewhere);
        let towards: Vec<Towards> = signposts.iter().skip(1).map(|it| it.towards).collect();
        let prohibit = Towards::Denied(Denial::Prohibit);
        assert_eq!(towards, [prohibit, Towards::Signpost(3), Towards::NoRoute]);
    }

    #[test]
    fn what_cannot_be_said_is_refused_by_name() {
        let ports = RuleAttribute::IpProtocol(17.into());
        let table = RuleAttribute::Table(7);
        let priority = RuleAttribute::Priority(55);
        let by_protocol = rule(RuleAction::ToTable, &[ports.clone(), table.clone(), priority]);
        let denies = rule(RuleAction::Blackhole, &[ports]);
        let mark = RuleAttribute::FwMark(0x200);
        let marked =
            rule(RuleAction::ToTable, &[mark, RuleAttribute::FwMask(0xf00), table.clone()]);
        let (signposts, refused) = read(&[by_protocol, denies, marked]);
        let towards: Vec<Towards> = signposts.iter().map(|it| it.towards).collect();
        assert_eq!(towards, [Towards::Unclear(7), Towards::Next, Towards::Next]);
        assert_eq!(refused.len(), 3);
        assert!(
            refused[0]
                .starts_with("routing rule 55 (ip rule) is not followed: it asks for a protocol")
        );
        assert!(refused[2].contains("a mark"));
        // A mark that says nothing, and one that packets without a mark have.
        let none = rule(RuleAction::ToTable, &[RuleAttribute::FwMask(0xf00), table.clone()]);
        // Nothing that is forwarded is bound to an interface.
        let bound = rule(RuleAction::ToTable, &[RuleAttribute::Oifname("in0".into()), table]);
        let mut wireguard =
            rule(RuleAction::ToTable, &[RuleAttribute::FwMark(5), none.attributes[1].clone()]);
        wireguard.header.flags = RuleFlags::Invert;
        let (signposts, refused) = read(&[none, bound, wireguard]);
        assert_eq!((signposts[0].towards, refused.len()), (Towards::Table(7, None), 0));
        assert_eq!(signposts[1].towards, Towards::Next);
        assert_eq!(signposts[2], Signpost::to_table(7));
    }
}
