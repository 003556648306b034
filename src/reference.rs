//! Is `docs/reference.md` what the program says of itself? Commands, objects, metrics, drop reasons, system calls.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};
use dataplane::DropReason;
use serde_json::Value;

use crate::api::steering::{STEERING_DROPS, SteeringDrop};
use crate::api::tests::Fake;
use crate::cli::Cli;
use crate::config;
use crate::run::confine;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md");

#[test]
fn the_reference_is_current() {
    let made = reference();
    if std::env::var_os("NATGATE_WRITE_REFERENCE").is_some() {
        std::fs::write(PATH, &made).unwrap();
    }
    let shipped = std::fs::read_to_string(PATH).unwrap_or_default();
    let remedy = "write it anew: NATGATE_WRITE_REFERENCE=1 cargo test -p natgate the_reference";
    assert!(made == shipped, "docs/reference.md is not what the program says; {remedy}");
}

fn reference() -> String {
    let mut out = "# Reference\n\n\
        Made from the program itself; a test keeps it so. What to do with all this: [operations.md](operations.md).\n"
        .to_owned();
    out += "\n## Commands\n";
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        describe_command(&mut out, one);
    }
    out += "\n## Objects\nTo begin with, and examples: [objects.md](objects.md).\n";
    describe_objects(&mut out);
    out += "\n## Metrics\n\n| metric | labels | what |\n| --- | --- | --- |\n";
    describe_metrics(&mut out);
    out += "\n## Drop reasons\n\n| reason | what happened | what to do |\n| --- | --- | --- |\n";
    for reason in DropReason::ALL {
        line(&mut out, &[&code(reason.name()), reason.meaning(), reason.remedy()]);
    }
    out += "\nOf the steering program, before any worker (`where` is `steering`); it has `super-packet`, too:\n\n\
        | reason | what happened | what to do |\n| --- | --- | --- |\n";
    for SteeringDrop { name, meaning, remedy } in STEERING_DROPS {
        line(&mut out, &[&code(name), meaning, remedy]);
    }
    out += "\n## System calls\nAll that the process may make; workers only those of the first table.\n";
    let process = [confine::CONTROL, confine::OLDER];
    for groups in [[confine::WORKER, confine::WORKER_OLDER], process] {
        out += "\n| why | calls |\n| --- | --- |\n";
        for group in groups.concat() {
            let names = group.calls.iter().map(|(_, name)| code(name.trim_start_matches("SYS_")));
            line(&mut out, &[group.why, &names.collect::<Vec<_>>().join(" ")]);
        }
    }
    out
}

fn describe_command(out: &mut String, command: &Command) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(out, "\n### {}\n{about}.\n", name.replace('-', " "));
    let arguments = command.get_arguments().filter(|it| !it.is_hide_set() && it.get_id() != "help");
    let rows: Vec<_> = arguments.map(argument).collect();
    if !rows.is_empty() {
        *out += "\n| argument | what |\n| --- | --- |\n";
        for (name, what) in rows {
            line(out, &[&name, &what]);
        }
    }
    if let Some(notes) = command.get_after_long_help() {
        let _ = write!(out, "\n```text\n{notes}\n```\n");
    }
}

fn argument(argument: &Arg) -> (String, String) {
    let value = argument.get_value_names().unwrap_or_default().join(" ");
    let takes = argument.get_action().takes_values();
    let least = argument.get_num_args().map_or(1, |count| count.min_values());
    let value = match argument.get_long() {
        Some(_) if takes && least == 0 => format!(" [{value}]"),
        Some(_) if takes => format!(" {value}"),
        Some(_) => String::new(),
        None if argument.is_required_set() => value,
        None => format!("[{value}]"),
    };
    let short = argument.get_short().map_or_else(String::new, |short| format!("-{short}, "));
    let name = match argument.get_long() {
        Some(long) => format!("{short}--{long}{value}"),
        None => value,
    };
    let mut what = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let words: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|_| takes)
        .map(|word| match word.get_help() {
            Some(help) => format!("{} ({help})", code(word.get_name())),
            None => code(word.get_name()),
        })
        .collect();
    if !words.is_empty() {
        let _ = write!(what, ": {}", words.join(", "));
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|it| it.to_string_lossy()).collect();
    if takes && !defaults.is_empty() {
        let _ = write!(what, " [default: {}]", defaults.join(" "));
    }
    if let Some(variable) = argument.get_env() {
        let _ = write!(what, " [environment: {}]", variable.to_string_lossy());
    }
    (code(name.trim()), what)
}

fn describe_objects(out: &mut String) {
    let schema = config::json_schema();
    for (kind, spec) in schema["definitions"].as_object().into_iter().flatten() {
        let _ = write!(out, "\n### {kind}\n\n| field of `spec` | what |\n| --- | --- |\n");
        describe_fields(out, "", spec);
    }
}

fn describe_fields(out: &mut String, path: &str, schema: &Value) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if let Some(meaning) = field["description"].as_str() {
            line(out, &[&code(&path), meaning]);
        }
        for form in [field, &field["items"]]
            .into_iter()
            .chain(field["anyOf"].as_array().into_iter().flatten())
        {
            describe_fields(out, &path, form);
        }
    }
}

fn describe_metrics(out: &mut String) {
    let text = Fake::new(0).metrics();
    for block in text.split("# HELP ").skip(1) {
        let (head, rest) = block.split_once('\n').unwrap_or((block, ""));
        let (name, help) = head.split_once(' ').unwrap_or((head, ""));
        let kind =
            rest.split_once('\n').map_or("", |(kind, _)| kind).rsplit(' ').next().unwrap_or("");
        let samples: Vec<&str> = rest.lines().filter(|line| !line.starts_with('#')).collect();
        let labels = samples.first().and_then(|it| Some(it.split_once('{')?.1.split_once('}')?.0));
        let labels = labels.unwrap_or_default().split(',').filter_map(|it| it.split_once('='));
        let labels: Vec<String> =
            labels.map(|(label, _)| code(label)).filter(|it| it != "`le`").collect();
        let suffix = if kind == "counter" { "_total" } else { "" };
        line(
            out,
            &[&code(&format!("{name}{suffix}")), &labels.join(" "), help.trim_end_matches('.')],
        );
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// A row of a table.
fn line(out: &mut String, cells: &[&str]) {
    let cells: Vec<String> =
        cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}
