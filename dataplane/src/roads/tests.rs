use super::*;

const IN: InterfaceId = InterfaceId(0);
const OUT: InterfaceId = InterfaceId(1);

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn addr(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn routers(count: u8) -> Vec<Adjacency> {
    (1..=count).map(|n| Adjacency::new(OUT, Ipv4Addr::new(203, 0, 113, n), None)).collect()
}

/// A default route by routers with these weights.
fn several(weights: &[u16]) -> Roads {
    let member =
        |(id, weight): (u32, &u16)| Member { way: Way::Via(AdjacencyId(id)), weight: *weight };
    let members: Arc<[Member]> = (0..).zip(weights).map(member).collect();
    Roads::new([(net("0.0.0.0/0"), Route::Several(members))], routers(weights.len() as u8))
}

fn flow(flow: u64) -> Journey {
    Journey { flow, ..Journey::to(addr("192.0.2.1")) }
}

fn by(roads: &Roads, journey: &Journey) -> usize {
    match roads.next_hop(journey) {
        NextHop::Adjacency(AdjacencyId(id)) => id as usize,
        other => panic!("{other:?}"),
    }
}

fn fail(roads: &mut Roads, router: usize) {
    Arc::make_mut(&mut roads.adjacencies)[router].failed = true;
}

#[test]
fn flows_are_shared_by_weight() {
    let roads = several(&[1, 2, 1]);
    let mut flows = [0u32; 3];
    for n in 0..40_000 {
        flows[by(&roads, &flow(n))] += 1;
        assert_eq!(by(&roads, &flow(n)), by(&roads, &flow(n)));
    }
    // Standard deviation: below 100.
    for (flows, wanted) in flows.into_iter().zip([10_000u32, 20_000, 10_000]) {
        assert!(flows.abs_diff(wanted) < 500, "{flows} of {wanted}");
    }
}

#[test]
fn only_flows_of_a_failed_router_move() {
    let mut roads = several(&[1, 1, 1, 1]);
    let before: Vec<usize> = (0..4_000).map(|n| by(&roads, &flow(n))).collect();
    fail(&mut roads, 2);
    let mut moved = [0u32; 4];
    for (n, &before) in (0..).zip(&before) {
        let after = by(&roads, &flow(n));
        assert!(after != 2 && (before == 2 || after == before));
        moved[after] += u32::from(before == 2);
    }
    assert!(moved.iter().filter(|count| **count > 200).count() == 3, "spread: {moved:?}");
    // When all have failed, each is tried again.
    (0..4).for_each(|router| fail(&mut roads, router));
    for (n, &before) in (0..).zip(&before) {
        assert_eq!(by(&roads, &flow(n)), before);
    }
}

#[test]
fn a_flow_keeps_its_router_while_it_lives() {
    let (one, two) = (several(&[1]), several(&[1, 1]));
    let kept = |n| Journey { kept: Some(AdjacencyId(0)), ..flow(n) };
    assert!((0..100).any(|n| by(&two, &flow(n)) == 1), "some would go by the new one");
    assert!((0..100).all(|n| by(&one, &flow(n)) == 0 && by(&two, &kept(n)) == 0));
    let mut failed = two;
    fail(&mut failed, 0);
    assert!((0..100).all(|n| by(&failed, &kept(n)) == 1));
    // One that is no longer among them is not kept.
    let elsewhere = Journey { kept: Some(AdjacencyId(7)), ..flow(1) };
    assert!(by(&failed, &elsewhere) == 1);
}

#[test]
fn several_links_know_their_neighbours() {
    let ways = [Way::OnLink(IN), Way::OnLink(OUT)].map(|way| Member { way, weight: 1 });
    let mut roads = Roads::new([(net("192.0.2.0/24"), Route::Several(ways.into()))], vec![]);
    let hops: Vec<NextHop> = (0..100).map(|n| roads.next_hop(&flow(n))).collect();
    for link in [IN, OUT] {
        assert!(hops.contains(&NextHop::Unknown(link, addr("192.0.2.1"))));
    }
    roads.adjacencies = Arc::new(vec![Adjacency::new(OUT, addr("192.0.2.1"), None)]);
    roads.neighbours = Arc::new([((OUT, addr("192.0.2.1")), AdjacencyId(0))].into_iter().collect());
    fail(&mut roads, 0);
    assert!((0..100).all(|n| roads.next_hop(&flow(n)) == NextHop::Unknown(IN, addr("192.0.2.1"))));
}

/// Three tables: 0 is asked first, 1 has a default route, 2 is for some.
fn with_rules(signposts: impl IntoIterator<Item = Signpost>) -> Roads {
    let table = |routes: &[(&str, Route)]| {
        routes.iter().map(|(prefix, route)| (net(prefix), route.clone())).collect()
    };
    let via = |id| Route::Via(AdjacencyId(id));
    Roads {
        tables: vec![
            table(&[("10.0.0.1/32", Route::Local), ("192.0.2.0/24", Route::Throw)]),
            table(&[("0.0.0.0/0", via(0)), ("198.51.100.0/24", via(1))]),
            table(&[("0.0.0.0/0", via(2)), ("192.0.2.64/26", Route::Denied(Denial::Prohibit))]),
        ],
        signposts: signposts.into_iter().collect(),
        ..Roads::new([], routers(3))
    }
}

fn some(towards: Towards) -> Signpost {
    Signpost { towards, ..Signpost::to_table(0) }
}

fn journey(source: &str, arrival: Option<InterfaceId>, destination: &str) -> Journey {
    Journey { source: addr(source), arrival, ..Journey::to(addr(destination)) }
}

fn hop(id: u32) -> NextHop {
    NextHop::Adjacency(AdjacencyId(id))
}

#[test]
fn rules_are_asked_in_order() {
    let from = Signpost { from: net("10.244.1.0/24"), ..Signpost::to_table(2) };
    let roads = with_rules([Signpost::to_table(0), from, Signpost::to_table(1)]);
    let to = |source, destination| roads.next_hop(&journey(source, Some(IN), destination));
    assert_eq!(to("10.244.1.7", "192.0.2.1"), hop(2));
    assert_eq!(to("10.244.1.7", "192.0.2.70"), NextHop::Denied(Denial::Prohibit));
    assert_eq!(to("10.244.2.7", "192.0.2.70"), hop(0), "`throw` in the first table is no answer");
    assert_eq!(to("10.244.1.7", "10.0.0.1"), NextHop::NotOurs, "the first table comes first");
    for never in ["224.0.0.5", "255.255.255.255"] {
        assert_eq!(to("10.244.1.7", never), NextHop::NotOurs);
    }
}

#[test]
fn rules_tell_packets_apart() {
    let rule =
        Signpost { to: net("192.0.2.0/25"), arrival: Arrival::At(IN), ..Signpost::to_table(2) };
    let not = Signpost { inverted: true, ..rule.clone() };
    for (rule, means) in [(rule, true), (not, false)] {
        let roads = with_rules([rule, Signpost::to_table(1)]);
        for (arrival, to, inside) in [
            (Some(IN), "192.0.2.1", true),
            (Some(OUT), "192.0.2.1", false),
            (None, "192.0.2.1", false),
            (Some(IN), "192.0.2.129", false),
        ] {
            let wanted = if inside == means { hop(2) } else { hop(0) };
            assert_eq!(roads.next_hop(&journey("10.244.1.7", arrival, to)), wanted, "{to}");
        }
    }
    let elsewhere = Signpost { arrival: Arrival::Elsewhere, ..Signpost::to_table(2) };
    let roads = with_rules([elsewhere, Signpost::to_table(1)]);
    assert_eq!(roads.next_hop(&journey("10.244.1.7", Some(IN), "192.0.2.1")), hop(0));
}

#[test]
fn rules_that_name_no_table() {
    let there =
        |signposts: Vec<Signpost>, to| with_rules(signposts).next_hop(&Journey::to(addr(to)));
    let all = Signpost::to_table(1);
    let prohibit = some(Towards::Denied(Denial::Prohibit));
    assert_eq!(there(vec![prohibit, all.clone()], "192.0.2.1"), NextHop::Denied(Denial::Prohibit));
    assert_eq!(there(vec![some(Towards::NoRoute), all.clone()], "192.0.2.1"), NextHop::Unreachable);
    assert_eq!(there(vec![some(Towards::Next), all.clone()], "192.0.2.1"), hop(0));
    assert_eq!(there(vec![some(Towards::Unclear(2)), all.clone()], "192.0.2.1"), hop(0));
    // What WireGuard sets up: the main table, but not its default route.
    let but_default = some(Towards::Table(1, Some(0)));
    let tunnel = vec![but_default, Signpost::to_table(2)];
    assert_eq!(there(tunnel.clone(), "198.51.100.1"), hop(1));
    assert_eq!(there(tunnel, "192.0.2.1"), hop(2));
    let jump = vec![some(Towards::Signpost(2)), all, Signpost::to_table(2)];
    assert_eq!(there(jump, "192.0.2.1"), hop(2));
    // To itself, or back: the next rule.
    let circle = vec![some(Towards::Signpost(0)), Signpost::to_table(2)];
    assert_eq!(there(circle, "192.0.2.1"), hop(2));
    assert_eq!(there(vec![], "192.0.2.1"), NextHop::Unreachable);
}

#[test]
fn every_possible_route_is_known() {
    let via = |id| Some(Route::Via(AdjacencyId(id)));
    let possible = |signposts: Vec<Signpost>, to: &str| {
        let roads = with_rules(signposts);
        let routes = roads.possible_routes(addr(to)).into_iter();
        routes.map(|it| it.map(|(_, route)| route.clone())).collect::<Vec<_>>()
    };
    let (all, to_two) = (Signpost::to_table(1), Signpost::to_table(2));
    let from = |from| Signpost { from: net(from), ..to_two.clone() };
    assert_eq!(possible(vec![all.clone(), to_two.clone()], "192.0.2.1"), [via(0)]);
    let sources = vec![from("10.1.0.0/16"), all.clone()];
    assert_eq!(possible(sources, "192.0.2.1"), [via(2), via(0)]);
    let unclear = vec![some(Towards::Unclear(2)), all.clone()];
    assert_eq!(possible(unclear, "192.0.2.1"), [via(2), via(0)]);
    let others = Signpost { to: net("198.51.100.0/24"), ..to_two.clone() };
    assert_eq!(possible(vec![others.clone(), all.clone()], "192.0.2.1"), [via(0)]);
    assert_eq!(possible(vec![others, all.clone()], "198.51.100.1"), [via(2)]);
    assert_eq!(possible(vec![from("10.1.0.0/16")], "192.0.2.1"), [via(2), None]);
    // Jumps that mean some packets only: both ways.
    let jump = Signpost { from: net("10.1.0.0/16"), ..some(Towards::Signpost(2)) };
    assert_eq!(possible(vec![jump, all, to_two], "192.0.2.1"), [via(0), via(2)]);
}

#[test]
fn a_change_is_news_to_destinations_nearby_only() {
    let mut roads = Roads::default();
    let seen = |roads: &Roads, to: &str| roads.generation_of(addr(to));
    let before = [seen(&roads, "10.1.0.0"), seen(&roads, "192.0.2.1")];
    roads.note_change(net("192.0.2.0/24"));
    assert_eq!(seen(&roads, "10.1.0.0"), before[0]);
    assert_ne!(seen(&roads, "192.0.2.1"), before[1]);
    let before = [seen(&roads, "10.1.0.0"), seen(&roads, "192.0.2.1")];
    roads.note_change(net("0.0.0.0/0"));
    assert_ne!(seen(&roads, "10.1.0.0"), before[0]);
    assert_ne!(seen(&roads, "255.1.0.0"), before[1]);
    let before = [seen(&roads, "12.0.0.0"), seen(&roads, "15.255.0.0"), seen(&roads, "16.0.0.0")];
    roads.note_change(net("12.0.0.0/6"));
    assert!(seen(&roads, "12.0.0.0") != before[0] && seen(&roads, "15.255.0.0") != before[1]);
    assert_eq!(seen(&roads, "16.0.0.0"), before[2]);
}
