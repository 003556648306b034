//! Objects and flags as texts, in; configurations or mistakes, out.

use std::sync::Arc;
use std::time::Duration;

use conntrack::{Behavior, Endpoint, IpId, Pooling, Protocol};
use dataplane::rule::Action;
use proptest::prelude::*;

use super::*;

/// Reads `text` as a file named `t.yaml`.
pub(super) fn load(text: &str) -> Result<Config, ConfigErrors> {
    let mut problems = Problems::default();
    let documents = yaml::read(&Arc::from("t.yaml"), text, &mut problems);
    let objects = Objects::read(documents, &mut problems);
    let whole = Place::of(Origin::Path(Arc::from("t.yaml")));
    let args = (&GatewayArgs::default(), &Tuning::default());
    assemble(objects, args, &whole, &[], problems)
}

fn flags(args: &[(&str, &[&str])]) -> GatewayArgs {
    let mut flags = GatewayArgs::default();
    for (name, values) in args {
        let values = values.iter().map(ToString::to_string).collect();
        match *name {
            "internal" => flags.internal = values,
            "external" => flags.external = values,
            "pool" => flags.pool = values,
            "from" => flags.from = values,
            "exempt" => flags.exempt = values,
            other => panic!("no flag {other}"),
        }
    }
    flags
}

pub(super) const GATEWAY: &str = "
{apiVersion: natgate.dev/v1alpha1, kind: Gateway, metadata: {name: g},
 spec: {interfaces: {internal: [a], external: [b]}}}
";

fn with_pool(settings: &str) -> String {
    format!(
        "---{GATEWAY}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {{name: p}}
spec:
  addresses: [192.0.2.0/30, 198.51.100.7]
{settings}
---
{{\"apiVersion\": \"natgate.dev/v1alpha1\", \"kind\": \"NatRule\", \"metadata\": {{\"name\": \"r\"}},
 \"spec\": {{\"from\": [\"10.0.0.0/8\"], \"pool\": \"p\"}}}}
"
    )
}

#[test]
fn defaults_are_those_of_the_data_plane() {
    let config = load(&with_pool("")).unwrap();
    assert_eq!(config.pools[0].settings, PoolSettings::default());
    assert_eq!(config.gateway.sessions, 1_048_576);
    assert!(config.gateway.answers.ping);
    assert_eq!(config.warnings, []);
}

#[test]
fn the_segment_size_is_a_word_or_a_number_and_reaches_the_data_plane() {
    use dataplane::snapshot::MssClamp;
    let clamp = |text: &str| {
        let gateway = GATEWAY.replace("spec: {", &format!("spec: {{mssClamp: {text}, "));
        let config = load(&with_pool("").replace(GATEWAY, &gateway)).ok()?;
        Some(config.policy(1).mss_clamp)
    };
    assert_eq!(load(&with_pool("")).unwrap().policy(1).mss_clamp, MssClamp::Auto);
    for (text, want) in [
        ("auto", Some(MssClamp::Auto)),
        ("off", Some(MssClamp::Off)),
        ("1360", Some(MssClamp::Bytes(1360))),
        ("88", Some(MssClamp::Bytes(88))),
        ("87", None),
        ("65496", None),
        ("never", None),
        ("true", None),
    ] {
        assert_eq!(clamp(text), want, "{text}");
    }
}

#[test]
fn every_address_of_a_prefix_is_used() {
    let policy = load(&with_pool("")).unwrap().policy(7);
    let addresses: Vec<String> =
        policy.pools[0].addresses.iter().map(|address| address.addr.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.7"]);
    assert_eq!((policy.generation, policy.addresses.len()), (7, 5));
}

#[test]
fn pool_settings_are_read() {
    let text =
        "  ports: {range: \"2048-4095\"}\n  blockSize: 256\n  quota: {blocks: 2, sessions: 9}
  holdDown: {blockSeconds: 121}\n  spill: false\n  profile: high-density\n  shared: false
  timers: {udp: 200, udpByPort: {53: 5}, tcpEstablished: 8000, tcpOpening: 30, tcpClosing: 250,
    tcpTimeWait: 20, tcpReset: 10, icmpQuery: 70}";
    let settings = load(&with_pool(text)).unwrap().pools[0].settings.clone();
    let seconds = Duration::from_secs;
    assert_eq!((settings.ports, settings.block_size), (2048..=4095, 256));
    assert_eq!((settings.quota.blocks, settings.quota.sessions), (2, 9));
    assert_eq!((settings.hold_down.block, settings.spill), (seconds(121), false));
    let timers = settings.timers;
    assert_eq!((timers.udp, timers.udp_by_port), (seconds(200), vec![(53, seconds(5))]));
    assert_eq!(timers.udp_answered, []);
    let text = "  timers: {udpByPort: {53: {idle: 9, answered: 3}, 123: 7}}";
    let by_port = load(&with_pool(text)).unwrap().pools[0].settings.timers.clone();
    assert_eq!(by_port.udp_by_port, [(53, seconds(9)), (123, seconds(7))]);
    assert_eq!(by_port.udp_answered, [(53, seconds(3))]);
    assert_eq!((timers.tcp_established, timers.tcp_opening), (seconds(8000), seconds(30)));
    assert_eq!((timers.tcp_closing, timers.tcp_time_wait), (seconds(250), seconds(20)));
    assert_eq!((timers.tcp_reset, timers.icmp_query), (seconds(10), seconds(70)));
}

#[test]
fn timers_below_an_rfc_minimum_are_warned_about_by_requirement() {
    for (setting, requirement) in [
        ("timers: {udp: 119}", "4787-REQ-5"),
        ("timers: {tcpEstablished: 7439}", "5382-REQ-5.2"),
        ("timers: {tcpClosing: 239}", "5382-REQ-5.3"),
        ("timers: {icmpQuery: 59}", "5508-REQ-2"),
        ("holdDown: {blockSeconds: 119}", "6888-REQ-8"),
    ] {
        let config = load(&with_pool(&format!("  {setting}"))).unwrap();
        let [warning] = &config.warnings[..] else { panic!("{setting}: {:?}", config.warnings) };
        assert!(warning.why.ends_with(&format!("requirement {requirement} is lost")), "{warning}");
    }
    let minimum = "  timers: {udp: 120, tcpEstablished: 7440, tcpClosing: 240, icmpQuery: 60}";
    assert_eq!(load(&with_pool(minimum)).unwrap().warnings, []);
}

#[test]
fn blocks_are_counted_as_the_directory_does() {
    for (ports, size) in
        [(1024..=u16::MAX, 64), (1030..=1200, 64), (1024..=1024, 16), (4000..=9000, 512)]
    {
        let directory = conntrack::Directory::new(ports.clone(), size);
        assert_eq!(pool::blocks_in(&ports, size), directory.blocks(), "{ports:?} {size}");
    }
}

#[test]
fn flags_alone_make_a_pool_and_rules() {
    let args = flags(&[
        ("internal", &["a"]),
        ("external", &["a"]),
        ("pool", &["192.0.2.1", "192.0.2.8-192.0.2.9"]),
        ("from", &["10.1.0.0/16", "10.2.0.0/16"]),
        ("exempt", &["10.0.0.0/8"]),
    ]);
    let config = Config::load(&args, &[]).unwrap();
    assert_eq!(config.pools[0].name, "default");
    assert_eq!(config.warnings, []);
    let rules = config.policy(1).rules;
    let decide = |from: &str, to: &str| {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        rules.decide(from, to, Some(Protocol::Tcp), 80).map(|(_, rule)| rule.action)
    };
    assert_eq!(decide("10.1.2.3", "198.51.100.1"), Some(Action::Pool(PoolId(0))));
    assert_eq!(decide("10.2.2.3", "10.9.9.9"), Some(Action::Exempt));
    assert_eq!(decide("10.3.2.3", "198.51.100.1"), None);
}

#[test]
fn host_address_in_a_pool_is_refused() {
    let args = flags(&[
        ("internal", &["a"]),
        ("external", &["a"]),
        ("pool", &["192.0.2.0/24"]),
        ("from", &["10.1.0.0/16"]),
    ]);
    let errors = Config::load(&args, &["192.0.2.77".parse().unwrap()]).unwrap_err();
    assert_eq!(errors.0.len(), 1);
    assert!(errors.0[0].why.starts_with("192.0.2.77 belongs to this host"), "{errors}");
}

#[test]
fn more_interfaces_than_the_data_plane_numbers_are_refused() {
    let names: Vec<String> = (0..17).map(|number| format!("eth{number}")).collect();
    let list = |names: &[String]| names.join(", ");
    let load_with = |internal: &[String], external: &[String]| {
        let lists = format!("internal: [{}], external: [{}]", list(internal), list(external));
        load(&with_pool("").replace("internal: [a], external: [b]", &lists))
    };
    assert!(load_with(&names[..16], &names[..16]).is_ok());
    let errors = load_with(&names[..9], &names[8..]).unwrap_err();
    assert_eq!((errors.0.len(), errors.0[0].place.field.as_str()), (1, "spec.interfaces"));
    assert_eq!(errors.0[0].why, "17 interfaces are named, 16 are possible");
}

/// Two rules: `from` with as many prefixes as given, and an exempt one from the first of them.
fn rules_of(count: u32) -> Vec<whole::NamedRule> {
    let place = Place::flag("--from");
    let rule = |count: u32, target| {
        let net = |number: u32| ipnet::Ipv4Net::new((0x0a00_0000 + number).into(), 32).unwrap();
        let from = (0..count).map(|n| field::Placed { value: net(n), place: place.clone() });
        let (to, from) = (vec![ipnet::Ipv4Net::default()], from.collect());
        let (except, services) = (Vec::new(), Vec::new());
        let priority = count;
        let spec = nat_rule::RuleSpec { priority, from, to, except, services, target };
        (field::Placed { value: format!("r{count}"), place: place.clone() }, Some(spec))
    };
    vec![rule(count, None), rule(1000, Some(nat_rule::Target::Exempt))]
}

#[test]
fn more_prefixes_than_the_steering_map_holds_are_refused() {
    let mut problems = Problems::default();
    whole::check(&[], &rules_of(60_000), &[], &mut problems);
    assert!(problems.is_clean());
    whole::check(&[], &rules_of(60_001), &[], &mut problems);
    let errors = problems.finish().unwrap_err();
    assert_eq!(
        errors.to_string().trim_end(),
        "error: too many source prefixes (--from): the rules have more than 60000 source prefixes; \
         merge some into shorter prefixes"
    );
}

#[test]
fn overlap_is_found_behind_a_range_that_reaches_further() {
    let text = with_pool("").replace(
        "192.0.2.0/30, 198.51.100.7",
        "192.0.2.0-192.0.2.100, 192.0.2.5, 192.0.2.50-192.0.2.60",
    );
    let errors = load(&text).unwrap_err();
    let fields: Vec<&str> = errors.0.iter().map(|e| e.place.field.as_str()).collect();
    assert_eq!(fields, ["spec.addresses[1]", "spec.addresses[2]"]);
}

#[test]
fn rules_with_different_services_are_no_tie() {
    let rule = |name: &str, port: u16| {
        format!(
            "---\napiVersion: natgate.dev/v1alpha1\nkind: NatRule\nmetadata: {{name: {name}}}
spec: {{from: [10.9.0.0/16], pool: p, services: [{{protocol: tcp, ports: [{port}]}}]}}\n"
        )
    };
    let text = with_pool("") + &rule("web", 80);
    assert_eq!(load(&(text.clone() + &rule("tls", 443))).unwrap().rules.len(), 3);
    let errors = load(&(text + &rule("web-too", 80))).unwrap_err();
    assert_eq!((errors.0.len(), errors.0[0].what.as_str()), (1, "tied rules"));
}

#[test]
fn nesting_without_end_is_refused() {
    for text in ["[".repeat(5000), "- ".repeat(5000), "{a: ".repeat(200)] {
        assert!(load(&text).is_err());
    }
}

prop_compose! {
    fn ranges()(first: u32, more in 0..100_000_u32) -> String {
        let (first, last) = (Ipv4Addr::from(first), Ipv4Addr::from(first.saturating_add(more)));
        format!("{first}-{last}")
    }
}

proptest! {
    #[test]
    fn printed_range_reads_as_the_same_range(text in ranges()) {
        let range: AddressRange = text.parse().unwrap();
        prop_assert_eq!(range.to_string().parse::<AddressRange>().unwrap(), range);
        prop_assert_eq!(range.addresses().count() as u64, range.len());
    }

    #[test]
    fn prefix_is_the_range_of_its_addresses(address: u32, length in 8_u8..=32) {
        let net = ipnet::Ipv4Net::new(address.into(), length).unwrap().trunc();
        let range: AddressRange = net.to_string().parse().unwrap();
        prop_assert_eq!((range.first(), range.last()), (net.network(), net.broadcast()));
    }

    #[test]
    fn any_text_is_an_address_range_or_refused(text in "\\PC{0,40}|[0-9./-]{0,30}") {
        let _ = text.parse::<AddressRange>();
        let _ = address::prefix(&text);
        let _ = address::ports(&text);
    }

    #[test]
    fn garbage_is_refused_without_panic(text in "\\PC{0,300}|[a-z:{}\\[\\],&*!|>\"'# \\n\\t-]{0,300}") {
        prop_assert!(load(&text).is_err());
    }

    /// A good file with a piece overwritten: read or refused, and every mistake has a place.
    #[test]
    fn spoilt_file_never_panics(at in 0..500_usize, len in 0..20_usize, junk in "[ -~\\n]{0,12}") {
        let mut text = with_pool("  timers: {udp: 300}\n  quota: {blocks: 3}");
        let at = at.min(text.len());
        text.replace_range(at..(at + len).min(text.len()), &junk);
        if let Err(errors) = load(&text) {
            prop_assert!(errors.to_string().lines().all(|line| line.starts_with("error: ")));
        }
    }
}

#[test]
fn a_profile_is_where_single_settings_start_from() {
    let strict = load(&with_pool("  profile: rfc4787")).unwrap();
    assert_eq!(strict.pools[0].settings, PoolSettings::rfc4787());
    assert_eq!(strict.warnings, []);
    let text = "  profile: rfc4787\n  filtering: {tcp: address-dependent}\n  blockSize: 256
  quota: {blocks: 9, blocksSoft: 8, udp: 100, newPerSecond: 50, halfOpen: 7}
  pooling: {kind: arbitrary, linger: 5}\n  ports: {low: none, except: [2000, \"3000-3100\"]}
  holdDown: {seconds: 130, maxPorts: 8, afterRestart: 121}\n  onExhaustion: icmp-admin
  timers: {tcpIncomingSyn: 7, other: 20, fragment: 3}\n  ipId: strict\n  midStream: drop";
    let config = load(&with_pool(text)).unwrap();
    let settings = &config.pools[0].settings;
    assert_eq!(settings.filtering_tcp, Behavior::AddressDependent);
    assert_eq!(settings.filtering_udp, Behavior::EndpointIndependent);
    assert_eq!((settings.quota.blocks, settings.quota.blocks_soft), (9, Some(8)));
    assert_eq!((settings.quota.new_per_second, settings.quota.burst), (Some(50), 50));
    assert_eq!((settings.quota.udp, settings.quota.half_open), (Some(100), 7));
    assert_eq!((settings.pooling, settings.linger), (Pooling::Arbitrary, Duration::from_secs(5)));
    assert_eq!(
        (settings.low_ports.clone(), &settings.except),
        (None, &vec![2000..=2000, 3000..=3100])
    );
    assert_eq!((settings.hold_down.max_ports, settings.ip_id), (Some(8), IpId::Strict));
    assert_eq!(settings.timers.fragment, Duration::from_secs(3));
    let lost: Vec<&str> = config.warnings.iter().map(|warning| warning.why.as_str()).collect();
    assert_eq!(
        lost,
        [
            "it loses 4787-REQ-2 and 6888-S3a, which the profile keeps",
            "it loses 4787-REQ-3a, which the profile keeps"
        ]
    );
}

// Proves: 4787-REQ-5
#[test]
fn the_strict_profile_refuses_times_below_a_must() {
    for (setting, requirement) in [
        ("timers: {udp: 60}", "4787-REQ-5"),
        ("timers: {tcpEstablished: 7439}", "5382-REQ-5.2"),
        ("timers: {tcpIncomingSyn: 5}", "5382-REQ-4.1"),
        ("timers: {icmpQuery: 59}", "5508-REQ-2"),
    ] {
        let refused = load(&with_pool(&format!("  profile: rfc4787\n  {setting}"))).unwrap_err();
        assert!(refused.to_string().contains(requirement), "{setting}: {refused}");
    }
    let advice = load(&with_pool("  profile: rfc4787\n  timers: {tcpOpening: 239}")).unwrap();
    assert!(advice.warnings[0].why.contains("7857-S2.1c"), "{:?}", advice.warnings);
}

#[test]
fn fixed_mappings_take_their_ports_out_of_the_pool() {
    let text = with_pool("") + "---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: web},
 spec: {address: 192.0.2.1, protocol: tcp, ports: \"8000-8003\", target: {address: 10.1.2.3, ports: \"80-83\"}}}
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: one},
 spec: {address: 198.51.100.9, target: 10.1.2.4}}
";
    let policy = load(&text).unwrap().policy(1);
    let public = Endpoint::new("192.0.2.1".parse().unwrap(), 8002);
    for address in &policy.pools[0].addresses {
        let here = address.addr == public.addr;
        let reserved = [7999, 8000, 8003, 8004].map(|port| address.is_reserved(port));
        assert_eq!(reserved, [false, here, here, false], "{}", address.addr);
    }
    assert!(policy.pools[0].addresses.iter().any(|address| address.addr == public.addr));
    let fixed = policy.forwards.by_public(Protocol::Tcp, public).unwrap();
    assert_eq!(fixed.internal, Endpoint::new("10.1.2.3".parse().unwrap(), 82));
    assert_eq!(fixed.pool, PoolId(0));
    let one = "198.51.100.9".parse().unwrap();
    assert!(policy.addresses.contains_key(&one) && policy.forwards.is_static(one));
    assert_eq!(policy.pools[1].addresses[0].directory.blocks(), 0);
}

#[test]
fn answers_to_scans_lose_a_requirement() {
    for (answer, lost) in [("silent", 0), ("icmp", 1), ("reset", 1)] {
        let setting = format!("external: [b]}}, onUnmapped: {answer}");
        let text = with_pool("").replacen("external: [b]}", &setting, 1);
        let warnings = load(&text).unwrap().warnings;
        assert_eq!(warnings.len(), lost, "{answer}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.why.contains("5382-REQ-4.1")));
        let strict = with_pool("  profile: rfc4787").replacen("external: [b]}", &setting, 1);
        assert_eq!(load(&strict).unwrap().warnings, [], "the pool waits for 6 s");
    }
}

/// Every field that is read has a row, or a cell, of its own in the part about its object.
#[test]
fn the_objects_document_names_every_field() {
    let document = include_str!("../../docs/objects.md");
    let mut count = 0;
    for (kind, asked) in object::KINDS.map(|(name, kind)| (name, json_schema::explore::spec(kind)))
    {
        let (_, part) = document.split_once(&format!("\n## {kind}\n")).unwrap();
        let part = part.split_once("\n## ").map_or(part, |(part, _)| part);
        for (group, field) in
            asked.groups().flat_map(|(path, names)| names.iter().map(move |n| (path, n)))
        {
            let ends = [format!("`{field}`"), format!(".{field}`"), format!("{{{field}:")];
            let inside = [format!(" {field}: "), format!("`{field}:")];
            let named = ends.iter().chain(&inside).any(|form| part.contains(form.as_str()));
            assert!(named, "{kind} {group}: {field} is not documented");
            count += 1;
        }
    }
    assert!(count > 85, "{count} fields");
}

#[test]
fn a_pool_that_nothing_uses_is_warned_about() {
    let second = "---
{apiVersion: natgate.dev/v1alpha1, kind: AddressPool, metadata: {name: q}, spec: {addresses: [203.0.113.9]}}
";
    let forward = "---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: f},
 spec: {address: 203.0.113.9, protocol: tcp, ports: 80, target: {address: 10.1.2.3}}}
";
    let warnings = |text: &str| {
        let config = load(text).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let both = with_pool("") + second;
    assert!(matches!(&warnings(&both)[..], [one] if one.contains("no rule uses pool \"q\"")));
    assert_eq!(warnings(&(both + forward)), Vec::<String>::new());
}

#[test]
fn one_typing_mistake_is_one_error() {
    let errors = |text: &str| -> Vec<String> {
        load(text).unwrap_err().0.iter().map(ToString::to_string).collect()
    };
    let told = errors(&with_pool("").replace("addresses:", "addreses:"));
    assert!(
        matches!(&told[..], [one] if one.ends_with("did you mean \"addresses\"?")),
        "{told:#?}"
    );
    // One that is nothing like it leaves the field missing.
    let told = errors(&with_pool("").replace("addresses:", "quux:")).join("\n");
    assert!(told.contains("unknown field") && told.contains("missing field"), "{told}");
}
