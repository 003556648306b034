//! Every mistake in a command line is told in the house's form, and every help fits 80 columns.

use clap::CommandFactory;

use super::*;

fn told_of(line: &str) -> Vec<String> {
    let words = std::iter::once("natgate").chain(line.split_whitespace());
    let Err(error) = read(words.map(OsString::from)) else {
        panic!("nothing is wrong with {line:?}")
    };
    told(&error, line.split_whitespace().next())
}

/// Whether it is `<what> (<where>): <why>; <what to do>`, each part being there.
pub(crate) fn in_form(line: &str) -> bool {
    let parts = || {
        let (what, rest) = line.split_once(" (")?;
        let (place, rest) = rest.split_once("): ")?;
        let (why, remedy) = rest.split_once("; ")?;
        Some([what, place, why, remedy])
    };
    parts().is_some_and(|parts| parts.iter().all(|part| !part.is_empty() && !part.contains('\n')))
}

/// What is typed, and what is told.
const MISTAKES: &[(&str, &str)] = &[
    ("sesions", "unknown command (sesions): natgate has no such command; did you mean sessions?"),
    (
        "xyzzy",
        "unknown command (xyzzy): natgate has no such command; 'natgate --help' lists what there is",
    ),
    (
        "check --wokers 2",
        "unknown flag (--wokers): 'natgate check' takes no such flag; did you mean --workers?",
    ),
    (
        "capture --packets 5",
        "unknown flag (--packets): 'natgate capture' takes no such flag; 'natgate capture --help' lists what there is",
    ),
    (
        "sessions --proto udp",
        "unknown flag (--proto): 'natgate sessions' takes no such flag; did you mean --protocol?",
    ),
    (
        "undrain now",
        "unexpected argument (now): 'natgate undrain' takes no such argument; 'natgate undrain --help' lists what there is",
    ),
    (
        "run --workers",
        "missing value (--workers): it needs one; write --workers N, or see 'natgate run --help'",
    ),
    (
        "run --seccomp maybe",
        "unknown value (--seccomp): there is no such value as \"maybe\"; write enforce, log or off",
    ),
    (
        "completions abc",
        "unknown value (SHELL): there is no such value as \"abc\"; write bash, elvish, fish, powershell or zsh",
    ),
    (
        "events --last abc",
        "bad value \"abc\" (--last): it is no whole number from 0; give one such as 100",
    ),
    (
        "events --last -1",
        "unknown flag (-1): 'natgate events' takes no such flag; 'natgate events --help' lists what there is",
    ),
    (
        "sessions --address 10.0.0.256",
        "bad value \"10.0.0.256\" (--address): it is no IPv4 address; give one such as 10.244.1.7",
    ),
    (
        "status --watch 0",
        "bad value \"0\" (--watch): it is no number of seconds from 0.1 to 86400; give one such as 2",
    ),
    (
        "explain --from 1.2.3.4 --to 1.2.3.4:5 --vni 16777216",
        "bad value \"16777216\" (--vni): it is no number from 0 to 16777215; give one that 'natgate interfaces' shows",
    ),
    (
        "set",
        "missing argument (KEY VALUE): 'natgate set' needs it; for example: natgate set pools.default.timers.udp 120",
    ),
    (
        "detach",
        "missing argument (IF): 'natgate detach' needs it; for example: natgate detach eth0 eth1",
    ),
    (
        "reset",
        "missing argument (KEY): 'natgate reset' needs it; for example: natgate reset pools.default.timers.udp",
    ),
    (
        "detach eth0 --all",
        "contradictory flags (IF): it can't be used together with --all; leave out one of them",
    ),
    (
        "events --since 1 --last 2",
        "contradictory flags (--since): it can't be used together with --last; leave out one of them",
    ),
    (
        "events --last 1 --last 2",
        "contradictory flags (--last): it is given more than once; give it once",
    ),
    (
        "drain --timeout 5",
        "missing flag (--wait): 'natgate drain' needs it; for example: natgate drain --wait --timeout 600",
    ),
    (
        "capture",
        "missing flag (--write): 'natgate capture' needs it; for example: natgate capture -w all.pcapng --from 10.244.1.7 --count 100",
    ),
];

#[test]
fn mistakes_are_told_with_place_reason_and_remedy() {
    for &(line, expected) in MISTAKES {
        let told = told_of(line);
        assert_eq!(told, [expected], "natgate {line}");
        assert!(in_form(&told[0]), "{told:?}");
    }
    let both = told_of("explain");
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(
        both[0].starts_with("missing flag (--from)") && both[1].starts_with("missing flag (--to)")
    );
    assert!(both.iter().all(|line| in_form(line)), "{both:?}");
}

/// Whatever flag there is: a wrong value, and none where one is needed, are told in form.
#[test]
fn every_flag_tells_in_form() {
    let mut count = 0;
    let mut all = Cli::command().disable_help_subcommand(true);
    all.build();
    for command in all.get_subcommands() {
        for argument in command.get_arguments().filter_map(|argument| argument.get_long()) {
            for line in [
                format!("{} --{argument}", command.get_name()),
                format!("{} --{argument} ?", command.get_name()),
            ] {
                let words = std::iter::once("natgate").chain(line.split_whitespace());
                let Err(error) = read(words.map(OsString::from)) else { continue };
                if is_help(error.kind()) {
                    continue;
                }
                count += 1;
                for line in told(&error, Some(command.get_name())) {
                    assert!(in_form(&line), "{line}");
                }
            }
        }
    }
    assert!(count > 60, "{count}");
}

#[test]
fn every_help_fits_80_columns() {
    let mut all = command().term_width(80);
    all.build();
    let names: Vec<String> = all.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    assert!(names.len() > 20, "{names:?}");
    let mut helps = vec![all.render_help().to_string(), all.render_long_help().to_string()];
    for name in names {
        let one = all.find_subcommand_mut(&name).unwrap();
        helps.extend([one.render_help().to_string(), one.render_long_help().to_string()]);
    }
    for help in helps {
        let longest = help.lines().map(|line| line.trim_end().chars().count()).max().unwrap();
        assert!(longest <= 80, "{longest} columns:\n{help}");
    }
}

#[test]
fn words_are_joined_as_people_say_them() {
    assert_eq!(either::<&str>(&[]), "");
    assert_eq!(
        [either(&["a"]), either(&["a", "b"]), either(&["a", "b", "c"])],
        ["a", "a or b", "a, b or c"]
    );
}
