//! Is `docs/screens.md` what the terminal shows? The tables and `top`, drawn by the program from made-up figures.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::api::model::{
    DropRow, InterfaceRow, LatencyRow, LeavingRow, PoolRow, Status, SubscriberRow, WorkerRow,
};
use crate::api::tests::Fake;
use crate::top::{Data, Seen, Ui, screen};
use crate::view::tests::shown;
use crate::view::{Filter, What, fetch_json, fetch_rows, render};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/screens.md");
const WIDTH: usize = 80;
/// Lines of a long list that are shown.
const LINES: usize = 8;

#[test]
fn the_screens_are_current() {
    let made = document();
    for line in made.lines().skip_while(|line| !line.starts_with("```")) {
        assert!(line.chars().count() <= WIDTH || line.starts_with('#'), "{line}");
        assert_eq!(line, line.trim_end(), "blanks at the end");
    }
    if std::env::var_os("NATGATE_WRITE_SCREENS").is_some() {
        std::fs::write(PATH, &made).unwrap();
    }
    let shipped = std::fs::read_to_string(PATH).unwrap_or_default();
    let remedy = "write it anew: NATGATE_WRITE_SCREENS=1 cargo test -p natgate the_screens";
    assert!(made == shipped, "docs/screens.md is not what is shown; {remedy}");
}

fn document() -> String {
    let mut out = "# Screens\n\nWhat `natgate` shows on a terminal of 80 columns and 24 rows, drawn by the program itself from \
                   made-up figures; a test keeps it so. What to do with it: [operations.md](operations.md#look).\n"
        .to_owned();
    for (pods, title) in [
        (0, "Without a subscriber"),
        (2, "With two subscribers"),
        (10_000, "With 10,000 subscribers"),
    ] {
        let _ = write!(out, "\n## {title}\n");
        screens(&mut out, pods);
    }
    out
}

/// One block for each command.
fn screens(out: &mut String, pods: usize) {
    // Of a few rows the threads that play workers make one subscriber each, with nine sessions.
    let fake = Fake::new(if pods == 2 { 9 } else { pods / 2 });
    fake.run(async || {
        let now = look(&fake, pods, Instant::now()).await;
        for (command, what, body) in [
            ("status", What::Status, json(&now.status)),
            ("pools", What::Pools, json(&now.pools)),
            ("drops", What::Drops { all: false }, json(&now.drops)),
            ("workers", What::Workers, json(&now.workers)),
            ("interfaces", What::Interfaces, json(&now.interfaces)),
        ] {
            block(out, command, &render(&what, body.as_bytes(), WIDTH).unwrap());
        }
        let subscribers = What::Subscribers(Filter::default());
        block(out, "subscribers", &shown(&fake, subscribers, false).await.unwrap());
        if pods < 10 {
            let tcp = Filter { protocol: Some("tcp".to_owned()), ..Filter::default() };
            block(
                out,
                "sessions --protocol tcp",
                &shown(&fake, What::Sessions(tcp), false).await.unwrap(),
            );
        }
        block(out, "top", &top(now));
    });
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

fn block(out: &mut String, command: &str, text: &str) {
    let _ = write!(out, "\n```text\n$ natgate {command}\n");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    // `top` is as high as the terminal, whatever there is.
    let shown = if lines.len() > 60 { LINES } else { lines.len() };
    for line in &lines[..shown] {
        let _ = writeln!(out, "{line}");
    }
    if lines.len() > shown {
        let _ = writeln!(out, "… and {} more", lines.len() - shown);
    }
    *out += "```\n";
}

/// The screen of `top`, two seconds after a first look.
fn top(now: Seen) -> String {
    let mut before = now.clone();
    before.at = now.at.checked_sub(Duration::from_secs(2)).unwrap();
    before.status.sessions_created -= before.status.sessions_created / 2_000;
    for row in &mut before.interfaces {
        row.received_packets -= row.received_packets / 40;
        row.received_bytes -= row.received_bytes / 40;
        row.transmitted_packets -= row.transmitted_packets / 40;
        row.transmitted_bytes -= row.transmitted_bytes / 40;
    }
    for row in &mut before.workers {
        row.received -= row.received / 40;
        row.handed_over -= row.handed_over / 40;
        row.taken_over -= row.taken_over / 40;
    }
    for row in &mut before.drops {
        row.packets -= row.packets / 100;
    }
    let mut data = Data::default();
    data.take(Ok(before));
    data.take(Ok(now));
    let lines = screen(&data, &Ui::new(false, Duration::from_secs(2)), WIDTH, 24);
    let text = |line: &ratatui::text::Line<'_>| -> String {
        line.spans.iter().map(|span| span.content.as_ref()).collect()
    };
    let lines: Vec<String> = lines.iter().map(text).collect();
    lines.join("\n")
}

/// What such a gateway could tell, with `pods` subscribers.
async fn look(fake: &Fake, pods: usize, at: Instant) -> Seen {
    let socket = &fake.socket;
    let status: Status = fetch_json(socket, "/v1/status").await.unwrap();
    let drops: Vec<DropRow> = fetch_json(socket, "/v1/drops").await.unwrap();
    let workers: Vec<WorkerRow> = fetch_json(socket, "/v1/workers").await.unwrap();
    let interfaces: Vec<InterfaceRow> = fetch_json(socket, "/v1/interfaces").await.unwrap();
    let subscribers: Vec<SubscriberRow> =
        fetch_rows(socket, "/v1/subscribers", 20_000).await.unwrap();
    assert_eq!(subscribers.len(), pods);
    let (pods, sessions) = (pods as u64, 9 * pods as u64);
    let packets = 440 * sessions;
    Seen {
        at,
        status: Status {
            pid: 4711,
            uptime_s: 93_784,
            ready: true,
            config: "/etc/natgate".to_owned(),
            sessions,
            sessions_created: 40 * sessions,
            subscribers: pods,
            received: 2 * packets,
            forwarded: 2 * packets,
            answered: 12,
            dropped: sessions / 2,
            dropped_by_steering: 0,
            warnings: Vec::new(),
            ..status
        },
        pools: pools(pods),
        drops: drops.into_iter().map(|row| fallen(row, sessions)).collect(),
        workers: workers.into_iter().map(|row| busy(row, sessions / 2, packets)).collect(),
        interfaces: interfaces.into_iter().map(|row| carried(row, packets)).collect(),
        subscribers,
    }
}

fn pools(pods: u64) -> Vec<PoolRow> {
    let addresses = (pods * 2).div_ceil(700).max(2);
    let leaving = LeavingRow {
        address: "203.0.113.9".to_owned(),
        blocks: 6,
        subscribers: 5,
        first_subscribers: (1..5).map(|pod| format!("10.0.0.{pod}")).collect(),
    };
    let leaving_addresses = if pods > 100 { vec![leaving] } else { Vec::new() };
    vec![PoolRow {
        pool: "main".to_owned(),
        addresses: addresses as usize,
        leaving: leaving_addresses.len(),
        leaving_addresses,
        blocks: addresses * 896,
        blocks_held: 2 * pods,
        blocks_resting: pods / 50,
        block_size: 64,
    }]
}

fn fallen(row: DropRow, sessions: u64) -> DropRow {
    let packets = match row.reason.as_str() {
        "no-session" => sessions / 3,
        "no-rule" => sessions / 6,
        "quota-sessions" => sessions / 1_000,
        _ => 0,
    };
    DropRow { packets, ..row }
}

fn busy(row: WorkerRow, sessions: u64, packets: u64) -> WorkerRow {
    let latency = match sessions {
        0 => LatencyRow::default(),
        _ => LatencyRow {
            packets: 1_000,
            p50_ns: Some(6_100),
            p99_ns: Some(38_400),
            p999_ns: Some(95_000),
        },
    };
    let load = [0.0, 0.03, 0.62][usize::from(sessions > 0) + usize::from(sessions > 1_000)];
    WorkerRow {
        received: packets,
        forwarded: packets,
        dropped: sessions / 4,
        handed_over: packets / 8,
        taken_over: packets / 8,
        sessions,
        load,
        latency,
        ..row
    }
}

fn carried(row: InterfaceRow, packets: u64) -> InterfaceRow {
    InterfaceRow {
        up: true,
        received_packets: 2 * packets,
        received_bytes: 1_240 * packets,
        transmitted_packets: 2 * packets,
        transmitted_bytes: 1_240 * packets,
        warnings: Vec::new(),
        ..row
    }
}
