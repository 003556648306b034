//! The screen at 80×24, with nothing, with much, frozen, filtered, and without natgate.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::Paragraph;

use super::data::{Data, fetch};
use super::draw::screen;
use super::keys::{Order, Ui};
use crate::api::tests::Fake;

fn press(ui: &mut Ui, keys: &str) -> bool {
    keys.chars().any(|key| {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            other => KeyCode::Char(other),
        };
        ui.press(KeyEvent::new(code, KeyModifiers::NONE))
    })
}

fn shown(data: &Data, ui: &Ui) -> String {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal
        .draw(|frame| {
            let lines = screen(data, ui, 80, 24);
            assert_eq!(lines.len(), 24);
            assert!(lines.iter().all(|line| line.width() <= 80), "{lines:#?}");
            frame.render_widget(Paragraph::new(lines), frame.area());
        })
        .unwrap();
    terminal.backend().to_string()
}

fn looked(fake: &Fake) -> Data {
    let mut data = Data::default();
    fake.run(async || {
        let begin = Instant::now();
        for seconds in [0, 2] {
            let at = begin + Duration::from_secs(seconds);
            let seen = fetch(&fake.socket, at).await.map_err(|error| error.to_string());
            fake.shared.counters[1].drops[dataplane::DropReason::NoRule.index()].add(500);
            fake.shared.counters[0].interfaces[0].received_packets.add(4_000);
            data.take(seen);
        }
    });
    data
}

#[test]
fn nothing_and_much_fit_80_columns_and_24_rows() {
    for rows in [0, 3, 10_000] {
        let data = looked(&Fake::new(rows));
        let ui = Ui::new(true, Duration::from_secs(2));
        let text = shown(&data, &ui);
        println!("{text}");
        for expected in ["natgate 0.1.0 starting", "eth0", "main", "WORKER", "h help", "no-rule"] {
            assert!(text.contains(expected), "{rows}: no {expected} in\n{text}");
        }
        assert_eq!(text.contains("10.0.0.1"), rows > 0, "{text}");
        // 500 in two seconds; the remedy in words.
        assert!(
            text.contains(" 250   20.5 k  no-rule") && text.contains("add a NatRule"),
            "{text}"
        );
        assert!(text.contains("2000"), "4,000 packets in two seconds\n{text}");
    }
}

#[test]
fn a_full_pool_and_a_busy_worker_fit() {
    let mut data = looked(&Fake::new(3));
    let seen = data.now.as_mut().unwrap();
    seen.pools[0].pool = "a-name-of-sixty-three-characters".into();
    (seen.pools[0].blocks, seen.pools[0].blocks_held) = (1_000_000, 1_000_000);
    seen.workers[0].load = 1.0;
    let text = shown(&data, &Ui::new(false, Duration::from_secs(2)));
    assert!(text.matches("██████████ 100.0 %").count() == 1, "{text}");
    assert!(text.contains("██████████ 100 %"), "{text}");
}

#[test]
fn keys_sort_filter_freeze_and_help() {
    let data = looked(&Fake::new(3));
    let mut ui = Ui::new(false, Duration::from_secs(2));
    for order in [Order::New, Order::Blocks, Order::Refused, Order::Sessions] {
        assert!(!press(&mut ui, "s"));
        assert_eq!(ui.order, order);
        assert!(shown(&data, &ui).contains(order.name()));
    }
    press(&mut ui, "/no-r");
    assert!(shown(&data, &ui).contains("filter: no-r_"));
    press(&mut ui, "\n");
    let text = shown(&data, &ui);
    assert!(
        text.contains("no-rule") && !text.contains("tcp-not-syn") && !text.contains("10.0.0.1")
    );
    press(&mut ui, "\x1b");
    assert!(shown(&data, &ui).contains("tcp-not-syn"));
    press(&mut ui, "h");
    assert!(shown(&data, &ui).contains("freeze, and go on"));
    press(&mut ui, "\x1bf");
    assert!(shown(&data, &ui).contains("FROZEN"));
    press(&mut ui, "/q");
    assert!(ui.typing, "a q in a filter is a q");
    assert!(press(&mut ui, "\nq"));
}

#[test]
fn a_natgate_that_goes_is_said_and_found_again() {
    let mut data = looked(&Fake::new(3));
    let ui = Ui::new(true, Duration::from_secs(2));
    let seen = data.now.clone().unwrap();
    let error = crate::view::ViewError::Unreachable {
        path: "/run/natgate.sock".into(),
        why: "no such file".to_owned(),
    };
    data.take(Err(error.to_string()));
    let text = shown(&data, &ui);
    assert!(
        text.contains("NOT REACHABLE: cannot reach natgate") && text.contains("eth0"),
        "{text}"
    );
    assert!(text.contains("with the same --socket?"), "what to do is cut off:\n{text}");
    let first = text.lines().next().unwrap();
    assert!(first.contains("not seen for") && !first.contains("starting"), "{first}");
    // Another process: its counts begin anew, and rates with them.
    let mut again = seen;
    again.status.pid += 1;
    data.take(Ok(again));
    let text = shown(&data, &ui);
    assert!(!text.contains("NOT REACHABLE") && text.contains("   0   20.5 k  no-rule"), "{text}");
}

#[test]
fn line_one_says_what_status_says() {
    let mut data = looked(&Fake::new(3));
    let ui = Ui::new(true, Duration::from_secs(2));
    for (ready, stopping, drained, gone, expected) in [
        (true, None, None, "", "ready, up"),
        (true, None, Some(1), "", "DRAINING since "),
        (true, Some(9), Some(1), "", "ago, STOPPING in 9.0s"),
        (false, Some(0), Some(1), "", "STOPPING, up"),
        (false, None, None, "eth1", "NOT READY, eth1 gone, up"),
        (false, None, None, "", "starting, up"),
    ] {
        let status = &mut data.now.as_mut().unwrap().status;
        (status.ready, status.stopping_in_s, status.drained_since) = (ready, stopping, drained);
        status.gone = Some(gone.to_owned()).filter(|name| !name.is_empty()).into_iter().collect();
        let text = shown(&data, &ui);
        let first = text.lines().next().unwrap();
        assert!(
            first.contains("natgate 0.1.0 ") && first.contains(expected),
            "{expected}: {first}"
        );
    }
}
