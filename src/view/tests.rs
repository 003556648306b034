//! What the commands print, from a natgate that is threads and counters.

use super::*;
use crate::api::tests::Fake;

async fn shown(fake: &Fake, what: What, json: bool) -> Result<String, ViewError> {
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
        assert_eq!(error.to_string(), "bad value 'a b&c' (address): give an IPv4 address");
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
        let shown = async |json| {
            let mut out = Vec::new();
            events::events_to(&mut out, &fake.socket, which, json, true).await.unwrap();
            String::from_utf8(out).unwrap()
        };
        let text = shown(false).await;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("block-allotted") && lines[1].contains("10.0.0.1  pool main"));
        assert!(lines.iter().all(|line| line.chars().count() <= 120), "{text}");
        let json = shown(true).await;
        let row: crate::events::Row = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!((row.seq, row.kind.as_str()), (Some(1), "started"));
    });
}
