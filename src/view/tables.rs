//! How do the short answers look for people?

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use super::columns::shorten;
use super::human::{ago, bytes, count, counted, millis, nanos};
use super::screen::wrap;
use super::state::stopping;
use crate::api::model::{
    Drain, DropRow, InterfaceRow, LeavingRow, PoolRow, ReceiveSteeringRow, Reloaded, Remainder,
    SettingRow, Status, WorkerRow,
};

/// A table with a header line, without blanks at the ends of lines; columns whose title begins with `>` are aligned to the
/// right, and the values of those whose title begins with `!` are never broken, however narrow it is.
pub(crate) fn table(
    width: usize,
    titles: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(width).unwrap_or(u16::MAX));
    let align = |index: usize| {
        let right = titles.get(index).is_some_and(|title| title.starts_with('>'));
        if right { CellAlignment::Right } else { CellAlignment::Left }
    };
    let cells = |row: Vec<String>| -> Vec<Cell> {
        let cells = row.into_iter().enumerate();
        cells.map(|(index, text)| Cell::new(text).set_alignment(align(index))).collect()
    };
    let header =
        titles.iter().map(|title| title.trim_start_matches(['>', '!']).to_owned()).collect();
    table.set_header(cells(header));
    for row in rows {
        table.add_row(cells(row));
    }
    for (column, title) in table.column_iter_mut().zip(titles) {
        column.set_padding((0, 1));
        if title.starts_with('!') {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

pub(super) fn status(status: &Status, width: usize) -> String {
    let state = super::state(status);
    let share = 100.0 * status.sessions as f64 / status.sessions_maximum.max(1) as f64;
    let up = millis(status.uptime_s * 1000);
    let mut text = format!("natgate {}: {state}, up {up}, pid {}\n", status.version, status.pid);
    let mut line = |name: &str, value: String| {
        wrap(&mut text, &format!("  {name:<14}{value}"), 16, width);
    };
    line("config", format!("{} (generation {})", status.config, status.config_generation));
    line("workers", status.workers.to_string());
    let maximum = count(status.sessions_maximum);
    line("sessions", format!("{} of {maximum} ({share:.1} %)", count(status.sessions)));
    line("created", count(status.sessions_created));
    line("subscribers", count(status.subscribers));
    line("received", count(status.received));
    line("forwarded", count(status.forwarded));
    line("answered", count(status.answered));
    let (workers, steering) = (count(status.dropped), count(status.dropped_by_steering));
    line("dropped", format!("{workers} by workers, {steering} by steering"));
    if let Some(reload) = &status.last_reload {
        let outcome = if reload.ok { "in force" } else { "REFUSED: nothing was changed" };
        line("last reload", format!("{} ({}), {outcome}", ago(reload.at), reload.trigger));
        for problem in &reload.problems {
            line("", problem.clone());
        }
    }
    if let Some(restored) = &status.restored {
        line("restored", restored.clone());
    }
    for SettingRow { key, value, written, by, at, .. } in &status.settings {
        let by = by.as_deref().unwrap_or("somebody");
        let when = ago(at.unwrap_or_default());
        line("set", format!("{key} {value} (written: {written}), {when} by {by}"));
    }
    for transition in &status.transitions {
        line("in transition", transition.clone());
    }
    for warning in &status.warnings {
        line("warning", warning.clone());
    }
    text
}

pub(super) fn reloaded(reloaded: &Reloaded) -> String {
    let Reloaded { generation, changed, took_ms, changes, warnings, waiting } = reloaded;
    let mut text = if *changed {
        format!("reloaded in {took_ms} ms (generation {generation})\n")
    } else {
        format!("nothing has changed (generation {generation})\n")
    };
    for (name, lines) in [("", changes), ("waiting: ", waiting), ("warning: ", warnings)] {
        for line in lines {
            let _ = writeln!(text, "  {name}{line}");
        }
    }
    text
}

pub(super) fn drain(drain: &Drain, width: usize) -> String {
    let mut text = match drain.drained_since {
        Some(since) => {
            let stopping = stopping(drain.stopping_in_s);
            format!("draining since {}{stopping}: no new sessions\n", ago(since))
        }
        None => "not draining: new sessions are opened\n".to_owned(),
    };
    let remain = if drain.sessions == 1 { "remains" } else { "remain" };
    let were = if drain.refused == 1 { "was" } else { "were" };
    let _ = writeln!(
        text,
        "{} {remain}; {} {were} refused\n",
        counted(drain.sessions, "session"),
        counted(drain.refused, "new flow")
    );
    if drain.pools.is_empty() {
        return text;
    }
    let row = |pool: &Remainder| {
        vec![
            shorten(&pool.pool, 20),
            count(pool.sessions),
            count(pool.established),
            millis(pool.oldest_s * 1000),
            millis(pool.longest_idle_ms),
            millis(pool.last_expires_in_ms),
        ]
    };
    let titles =
        ["POOL", ">SESSIONS", ">ESTABLISHED", ">OLDEST", ">LONGEST IDLE", ">LAST EXPIRES IN"];
    text += &table(width, &titles, drain.pools.iter().map(row));
    text.push('\n');
    for pool in &drain.pools {
        wrap(&mut text, &format!("busiest ({}): {}", pool.pool, pool.busiest), 2, width);
    }
    text
}

pub(super) fn settings(rows: &[SettingRow], width: usize) -> String {
    let row = |row: &SettingRow| {
        let set = row.at.map(|at| format!("{}, {}", ago(at), row.by.as_deref().unwrap_or("-")));
        let cells = [&row.key, &row.value, &row.written].map(String::clone);
        cells.into_iter().chain([set.unwrap_or_default()]).collect()
    };
    table(width, &["!SETTING", ">NOW", ">WRITTEN", "SET"], rows.iter().map(row))
}

pub(super) fn pools(rows: &[PoolRow], width: usize) -> String {
    if rows.is_empty() {
        return "no pools".to_owned();
    }
    let titles =
        ["POOL", ">ADDRESSES", ">BLOCKS", ">HELD", ">RESTING", ">FREE", ">USED", ">PORTS/BLOCK"];
    let row = |row: &PoolRow| {
        let free = row.blocks.saturating_sub(row.blocks_held + row.blocks_resting);
        let used = 100.0 * row.blocks_held as f64 / row.blocks.max(1) as f64;
        vec![
            shorten(&row.pool, 20),
            row.addresses.to_string(),
            count(row.blocks),
            count(row.blocks_held),
            count(row.blocks_resting),
            count(free),
            format!("{used:.1} %"),
            row.block_size.to_string(),
        ]
    };
    let mut text = table(width, &titles, rows.iter().map(row));
    let mut line = |text_of: String| {
        text.push('\n');
        wrap(&mut text, &text_of, 2, width);
        text.truncate(text.trim_end().len());
    };
    for row in rows {
        // That of the 1:1 addresses has its parentheses already.
        let pool = row.pool.trim_start_matches('(').trim_end_matches(')');
        for address in row.leaving_addresses.iter().take(LEAVING) {
            line(leaving(pool, address));
            line(format!("  natgate sessions --address {}", address.address));
        }
        if let Some(more) = row.leaving_addresses.len().checked_sub(LEAVING).filter(|it| *it > 0) {
            let more = counted(more as u64, "address");
            line(format!("leaving ({pool}): {more} more, see natgate pools --json"));
        }
    }
    text
}

/// Addresses that leave a pool and are named.
const LEAVING: usize = 8;

/// What still holds an address that was taken out of its pool.
fn leaving(pool: &str, row: &LeavingRow) -> String {
    let LeavingRow { address, blocks, subscribers, first_subscribers } = row;
    if *blocks == 0 {
        return format!(
            "leaving ({pool}): {address}, no block is held; sessions without one may be"
        );
    }
    let blocks = counted(*blocks as u64, "block");
    let more = match subscribers.saturating_sub(first_subscribers.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("leaving ({pool}): {address}, {blocks} of {}{more}", first_subscribers.join(", "))
}

/// Most frequent first.
pub(super) fn drops(mut rows: Vec<DropRow>, all: bool, width: usize) -> String {
    rows.retain(|row| all || row.packets > 0);
    if rows.is_empty() {
        return "no drops".to_owned();
    }
    rows.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| a.reason.cmp(&b.reason)));
    let row = |row: DropRow| vec![count(row.packets), row.reason, row.place, row.remedy];
    table(width, &[">PACKETS", "REASON", "WHERE", "REMEDY"], rows.into_iter().map(row))
}

pub(super) fn workers(rows: &[WorkerRow], width: usize) -> String {
    if rows.is_empty() {
        return "no workers".to_owned();
    }
    let titles = [
        "WORKER",
        ">CORE",
        ">LOAD",
        ">RECEIVED",
        ">SENT",
        ">DROPPED",
        ">OVER",
        ">TAKEN",
        ">SESSIONS",
        ">P50",
        ">P99",
    ];
    let row = |row: &WorkerRow| {
        vec![
            row.worker.to_string(),
            row.core.map_or_else(|| "-".to_owned(), |core| core.to_string()),
            format!("{:.0} %", 100.0 * row.load),
            count(row.received),
            count(row.forwarded),
            count(row.dropped),
            count(row.handed_over),
            count(row.taken_over),
            count(row.sessions),
            nanos(row.latency.p50_ns),
            nanos(row.latency.p99_ns),
        ]
    };
    let mut text = table(width, &titles, rows.iter().map(row));
    for row in rows {
        text.push('\n');
        wrap(&mut text, &format!("queues ({}): {}", row.worker, row.queues.join(" ")), 12, width);
        text.truncate(text.trim_end().len());
    }
    text
}

pub(super) fn interfaces(rows: &[InterfaceRow], width: usize) -> String {
    if rows.is_empty() {
        return "no interfaces".to_owned();
    }
    let titles = ["INTERFACE", "SIDE", "LINK", ">MTU", ">RX", ">RX BYTES", ">TX", ">TX BYTES"];
    let side = |row: &InterfaceRow| match row.roles.as_slice() {
        [one] => one.clone(),
        _ => "both".to_owned(),
    };
    let row = |row: &InterfaceRow| {
        vec![
            row.interface.clone(),
            side(row),
            if row.up { "up" } else { "down" }.to_owned(),
            row.mtu.to_string(),
            count(row.received_packets),
            bytes(row.received_bytes),
            count(row.transmitted_packets),
            bytes(row.transmitted_bytes),
        ]
    };
    let mut text = table(width, &titles, rows.iter().map(row));
    let mut line = |text_of: String| {
        text.push('\n');
        wrap(&mut text, &text_of, 2, width);
        text.truncate(text.trim_end().len());
    };
    for row in rows {
        let InterfaceRow { interface, driver, mode, queues, mac, .. } = row;
        if let Some(tunnel) = &row.tunnel {
            line(format!("{interface}: {tunnel} · {mac}"));
        } else {
            let queues = counted((*queues).into(), "queue");
            line(format!("{interface}: {driver} · {mode} · {queues} · {mac}"));
        }
    }
    for row in rows {
        for warning in &row.warnings {
            line(format!("warning ({}): {warning}", row.interface));
        }
        for ReceiveSteeringRow { state, command, said } in &row.receive_steering {
            let mut told = format!("receive steering ({}): {state}", row.interface);
            let parts = [command.as_deref().unwrap_or_default(), said];
            for part in parts.into_iter().filter(|it| !it.is_empty()) {
                let _ = write!(told, ": {part}");
            }
            line(told);
        }
    }
    text
}
