//! What the commands print, from a natgate that is threads and counters.

use super::*;
use crate::api::model::{Remainder, SettingRow};
use crate::api::tests::Fake;

/// What a command prints, without a terminal.
pub(crate) async fn shown(fake: &Fake, what: What, json: bool) -> Result<String, ViewError> {
    let mut out = Vec::new();
    show_to(&mut out, Screen::PLAIN, &fake.socket, &what, json).await?;
    Ok(String::from_utf8(out).unwrap())
}

fn tcp() -> Filter {
    Filter { protocol: Some("tcp".into()), ..Filter::default() }
}

#[test]
fn tables_for_people() {
    let fake = Fake::new(3);
    fake.run(async || {
        let commands = [
            (What::Status, "natgate 0.1.0: starting, up 0.0s"),
            (What::Pools, "main"),
            (What::Subscribers(Filter::default()), "10.0.0.1"),
            (What::Sessions(tcp()), "10.0.0.1:1"),
            (What::Workers, "eth0:1"),
            (What::Interfaces, "warning (eth0): slow"),
        ];
        for (what, expected) in commands {
            let text = shown(&fake, what.clone(), false).await.unwrap();
            assert!(text.contains(expected), "{what:?}: {text}");
            fits(&what, &text);
            println!("{text}");
        }
        let drops = shown(&fake, What::Drops { all: false }, false).await.unwrap();
        let reasons: Vec<&str> = drops
            .lines()
            .skip(1)
            .filter_map(|l| l.split_whitespace().find(|w| w.contains('-')))
            .collect();
        assert_eq!(reasons[0], "no-rule", "{drops}");
        assert!(drops.contains("20.0 k") && drops.contains("add a NatRule"), "{drops}");
        assert!(!drops.contains("malformed"), "{drops}");
        let all = shown(&fake, What::Drops { all: true }, false).await.unwrap();
        assert!(all.contains("malformed"));
    });
}

#[track_caller]
fn fits(what: &What, text: &str) {
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(longest <= 80, "{what:?} is {longest} wide:\n{text}");
    let blank = text.lines().find(|line| line.ends_with(' '));
    assert_eq!(blank, None, "{what:?} has blanks at the end of a line");
}

#[test]
fn what_leaves_a_pool_and_what_is_lost_is_named() {
    let fake = Fake::new(0);
    fake.run(async || {
        let mut pools: Vec<PoolRow> = fetch_json(&fake.socket, "/v1/pools").await.unwrap();
        let named = ["10.0.0.1", "10.0.0.2"].map(str::to_owned).to_vec();
        let row = |address: &str, blocks, first_subscribers| crate::api::model::LeavingRow {
            address: address.into(),
            blocks,
            subscribers: 3,
            first_subscribers,
        };
        pools[0].leaving = 12;
        pools[0].leaving_addresses =
            vec![row("203.0.113.9", 5, named), row("203.0.113.8", 0, Vec::new())];
        pools[0].leaving_addresses.extend((0..10).map(|_| row("203.0.113.7", 1, Vec::new())));
        let text = tables::pools(&pools, 80);
        for expected in [
            "leaving (main): 203.0.113.9, 5 blocks of 10.0.0.1, 10.0.0.2 and 1 more\n  natgate sessions --address 203.0.113.9",
            "leaving (main): 203.0.113.8, no block is held",
            "4 addresses more",
        ] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
        fits(&What::Pools, &text);
        "(static)".clone_into(&mut pools[0].pool);
        let text = tables::pools(&pools, 80);
        assert!(text.contains("leaving (static): ") && !text.contains("(("), "{text}");
        let mut status: Status = fetch_json(&fake.socket, "/v1/status").await.unwrap();
        assert!(tables::status(&status, 80).contains(": starting"), "no interface is lost");
        status.gone = vec!["eth1".to_owned()];
        let text = tables::status(&status, 80);
        assert!(text.contains("NOT READY, eth1 gone") && !text.contains("starting"), "{text}");
        let first = text.lines().next().unwrap();
        assert_eq!(alarm(&What::Status, first), Some(RED));
    });
}

#[test]
fn keys_of_settings_are_never_broken() {
    let row = |key: &str, value: &str| SettingRow {
        key: key.to_owned(),
        value: value.to_owned(),
        written: value.to_owned(),
        set: false,
        by: None,
        at: None,
    };
    let long = "53: 10 s, once answered 2 s, 123: 10 s, 3478: 300 s, once answered 300 s";
    let rows = [
        row("pools.default.timers.tcpEstablished", "7440"),
        row("pools.default.timers.udpByPort", long),
    ];
    let narrow = tables::settings(&rows, 80);
    for row in &rows {
        assert!(narrow.contains(&row.key), "{narrow}");
    }
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    let lines = tables::settings(&rows, usize::MAX);
    assert_eq!(lines.lines().count(), 1 + rows.len(), "{lines}");
    assert!(lines.contains(long), "{lines}");
}

#[test]
fn endpoints_of_what_remains_are_never_broken() {
    let busiest = "tcp 10.244.100.100:40000 > 198.51.100.5:443";
    let pool = Remainder {
        pool: "a-pool-with-a-name-that-is-rather-long".to_owned(),
        sessions: 12_345,
        established: 12_345,
        oldest_s: 400_000,
        most_packets: 5,
        longest_idle_ms: 360_000_000,
        last_expires_in_ms: 360_000_000,
        busiest: busiest.to_owned(),
    };
    let drain = crate::api::model::Drain {
        drained_since: None,
        stopping_in_s: None,
        sessions: 12_345,
        refused: 0,
        pools: vec![pool],
    };
    let text = tables::drain(&drain, 80);
    for endpoint in ["10.244.100.100:40000", "198.51.100.5:443", "tcp "] {
        assert!(text.contains(endpoint), "{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("12.3 k")).count(), 2, "{text}");
}

#[test]
fn events_are_short_and_ports_that_are_one_are_one() {
    let row = |first, last| crate::events::Row {
        seq: Some(65_536),
        time: "2026-03-01T14:02:00.123Z".into(),
        kind: "fixed-added".into(),
        public: Some("203.0.113.255".into()),
        first: Some(first),
        last: Some(last),
        subscriber: Some("10.244.100.100".into()),
        subscriber_port: Some(8443),
        name: Some("a-name-of-sixty-three-characters-as-kubernetes-has-them-at-most".into()),
        ..crate::events::Row::default()
    };
    let text = |first, last| {
        let mut text = String::new();
        wrap(&mut text, &events::sentence(&row(first, last)), 8, 80);
        text
    };
    assert!(text(8443, 8443).contains("203.0.113.255:8443/all"), "{}", text(8443, 8443));
    assert!(text(8443, 8444).contains("203.0.113.255:8443-8444/all"));
    let long = text(8443, 8444);
    assert!(long.lines().all(|line| line.chars().count() <= 80 && !line.ends_with(' ')), "{long}");
    assert!(long.lines().skip(1).all(|line| line.starts_with("        ")), "{long}");
}

#[test]
fn sessions_that_a_crash_lost_are_counted_in_words() {
    for (count, expected) in [(0, "with 0 sessions"), (1, "with 1 session"), (2, "with 2 sessions")]
    {
        let row = crate::events::Row {
            kind: "crashed".into(),
            count: Some(count),
            ..crate::events::Row::default()
        };
        let told = events::sentence(&row);
        assert!(told.ends_with(expected), "{told}");
    }
}

fn every_table() -> Vec<What> {
    vec![
        What::Status,
        What::Pools,
        What::Subscribers(Filter::default()),
        What::Sessions(Filter::default()),
        What::Drops { all: true },
        What::Workers,
        What::Interfaces,
    ]
}

#[test]
fn tables_fit_80_columns_with_0_and_with_10_000_subscribers() {
    for rows in [0, 10_000] {
        let fake = Fake::new(rows);
        fake.run(async || {
            for what in every_table() {
                let text = shown(&fake, what.clone(), false).await.unwrap();
                fits(&what, &text);
                if let What::Subscribers(_) | What::Sessions(_) = what {
                    let expected = if rows == 0 { 1 } else { 2 * rows + 1 };
                    assert_eq!(text.lines().count(), expected, "{what:?}");
                }
            }
        });
    }
}

#[test]
fn wide_screens_show_more_and_colours_are_for_terminals_only() {
    let fake = Fake::new(3);
    fake.run(async || {
        let on = async |screen: Screen, what: What| {
            let mut out = Vec::new();
            show_to(&mut out, screen, &fake.socket, &what, false).await.unwrap();
            String::from_utf8(out).unwrap()
        };
        let sessions = || What::Sessions(Filter::default());
        let wide = Screen { width: 200, ..Screen::PLAIN };
        let (narrow, wide) = (on(Screen::PLAIN, sessions()).await, on(wide, sessions()).await);
        assert!(wide.contains("ENDS IN") && !narrow.contains("ENDS IN"), "{wide}{narrow}");
        for what in every_table() {
            let plain = on(Screen::PLAIN, what.clone()).await;
            let painted = on(Screen { colour: true, ..Screen::PLAIN }, what.clone()).await;
            assert!(!plain.contains('\x1b'), "{plain}");
            assert!(painted.contains("\x1b[") || what == What::Status, "{painted}");
        }
        let interfaces = on(Screen { colour: true, ..Screen::PLAIN }, What::Interfaces).await;
        assert!(interfaces.contains("\x1b[31meth0") && interfaces.contains("\x1b[33mwarning"));
    });
}

#[test]
fn json_for_programs() {
    let fake = Fake::new(50_000);
    fake.run(async || {
        let status = shown(&fake, What::Status, true).await.unwrap();
        assert!(serde_json::from_str::<Status>(&status).is_ok());
        let sessions = shown(&fake, What::Sessions(Filter::default()), true).await.unwrap();
        assert_eq!(sessions.lines().count(), 100_000);
        for line in sessions.lines().take(100) {
            serde_json::from_str::<crate::api::model::SessionRow>(line).unwrap();
        }
        let few = Filter { limit: Some(7), ..tcp() };
        let sessions = shown(&fake, What::Sessions(few), true).await.unwrap();
        assert_eq!(sessions.lines().count(), 7);
    });
}

#[test]
fn nothing_to_show_is_said() {
    let fake = Fake::new(0);
    fake.run(async || {
        let text = shown(&fake, What::Sessions(Filter::default()), false).await.unwrap();
        assert_eq!(text, "no sessions\n");
        let json = shown(&fake, What::Sessions(Filter::default()), true).await.unwrap();
        assert_eq!(json, "");
    });
}

#[test]
fn errors_say_what_to_do() {
    let fake = Fake::new(0);
    fake.run(async || {
        let bad = Filter { address: Some("a b&c".into()), ..Filter::default() };
        let error = shown(&fake, What::Sessions(bad), false).await.unwrap_err();
        assert_eq!(error.to_string(), "bad value \"a b&c\" (--address): it is no IPv4 address; give one");
        let nowhere = Path::new("/nonexistent/natgate.sock");
        let error = show_to(&mut Vec::new(), Screen::PLAIN, nowhere, &What::Status, false).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot reach natgate (/nonexistent/natgate.sock): no such file; is 'natgate run' running, \
             and with the same --socket?"
        );
    });
}

struct Head(usize);

impl Write for Head {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(data.len()).ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_list() {
    let fake = Fake::new(100_000);
    fake.run(async || {
        let what = What::Sessions(Filter::default());
        let error =
            show_to(&mut Head(5000), Screen::PLAIN, &fake.socket, &what, false).await.unwrap_err();
        assert!(matches!(error, ViewError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe));
    });
}

#[test]
fn events_for_people_and_for_programs() {
    let fake = Fake::new(0);
    fake.run(async || {
        crate::api::tests::stop_journal(&fake);
        let which = Which { since: None, last: 100, follow: true };
        let shown = async |form| {
            let mut out = Vec::new();
            let stopped =
                events::events_to(&mut out, &fake.socket, which, form, true).await.unwrap();
            assert!(stopped, "the last one says so");
            String::from_utf8(out).unwrap()
        };
        let text = shown(events::Form::Lines(80)).await;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.iter().filter(|line| !line.starts_with("        ")).count(), 3, "{text}");
        assert!(lines[1].contains("block-allotted") && lines[1].contains("10.0.0.1"));
        assert!(
            text.contains("main") && lines.iter().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let json = shown(events::Form::Json).await;
        let row: crate::events::Row = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!((row.seq, row.kind.as_str()), (Some(1), "started"));
    });
}
