//! What do the kernel's routing rules (`ip rule`) mean for natgate's packets?
//!
//! Packets that natgate forwards have no mark, and arrive by an interface. What depends on more than
//! arrival, source and destination is not followed, and named.

use std::net::{IpAddr, Ipv4Addr};

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Table(u32, Option<u8>),
    Denied(Denial),
    NoRoute,
    GoTo(u32),
    Nothing,
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
        }
    }

    /// The rule in `message`; `None` if it is not IPv4.
    pub(super) fn from_message(message: &RuleMessage) -> Option<Self> {
        let header = &message.header;
        let (mut from, mut to) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        let (mut priority, mut table, mut target) = (0, u32::from(header.table), None);
        let (mut arrival, mut suppressed, mut mark, mut mask) = (None, None, 0, None);
        let mut unclear = (header.tos != 0).then_some("a type of service");
        let mut departure = false;
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
                RuleAttribute::L3MDev(_) => unclear = Some("a VRF"),
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
            RuleAction::Blackhole => Action::Denied(Denial::Blackhole),
            RuleAction::Unreachable => Action::NoRoute,
            RuleAction::Prohibit => Action::Denied(Denial::Prohibit),
            RuleAction::Goto => Action::GoTo(target?),
            _ => Action::Nothing,
        };
        let rule = Self {
            priority,
            from: Ipv4Net::new(from, header.src_len).ok()?,
            to: Ipv4Net::new(to, header.dst_len).ok()?,
            arrival,
            inverted: header.flags.contains(RuleFlags::Invert),
            action,
            unclear,
            never: false,
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
/// gives the index of a table by its number, `served` the number of an interface by its name.
pub(super) fn signposts(
    rules: &[KernelRule],
    mut table: impl FnMut(u32) -> usize,
    served: impl Fn(&str) -> Option<dataplane::interface::InterfaceId>,
) -> (Vec<Signpost>, Vec<String>) {
    let signposts = rules.iter().map(|rule| {
        let towards = match rule.action {
            _ if rule.never => Towards::Next,
            Action::Table(id, _) if rule.unclear.is_some() => Towards::Unclear(table(id)),
            _ if rule.unclear.is_some() => Towards::Next,
            Action::Table(id, suppressed) => Towards::Table(table(id), suppressed),
            Action::Denied(denial) => Towards::Denied(denial),
            Action::NoRoute => Towards::NoRoute,
            Action::GoTo(priority) => {
                let target = rules.iter().position(|it| it.priority == priority);
                target.map_or(Towards::Next, Towards::Signpost)
            }
            Action::Nothing => Towards::Next,
        };
        let arrival = match rule.arrival.as_deref() {
            None => Arrival::Anywhere,
            Some(name) => served(name).map_or(Arrival::Elsewhere, Arrival::At),
        };
        Signpost { arrival, from: rule.from, to: rule.to, inverted: rule.inverted, towards }
    });
    (signposts.collect(), rules.iter().filter_map(KernelRule::refusal).collect())
}

#[cfg(test)]
mod tests {
    use dataplane::interface::InterfaceId;

    use super::*;

    fn rule(action: RuleAction, attributes: &[RuleAttribute]) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.action = action;
        message.attributes = attributes.to_vec();
        message
    }

    /// Tables have the index of their number; `in0` is interface 0.
    fn read(messages: &[RuleMessage]) -> (Vec<Signpost>, Vec<String>) {
        let rules: Vec<_> = messages.iter().filter_map(KernelRule::from_message).collect();
        signposts(&rules, |id| id as usize, |name| (name == "in0").then_some(InterfaceId(0)))
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
