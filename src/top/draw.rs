//! How does the screen look? Lines from top to bottom; what there is most of gets the room that is left.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::data::{Data, Seen};
use super::keys::{Order, Ui};
use crate::api::model::SubscriberRow;
use crate::view::{count, counted, millis, nanos, shorten, state, wrap};

const BAR: usize = 10;
/// Rows of each of the short lists, at most.
const SHORT: usize = 4;

const HELP: &[&str] = &[
    "natgate top: what the running gateway does",
    "",
    "  s        order the subscribers by sessions, new sessions, blocks, refusals",
    "  /        filter pools, subscribers and drops by a part of their name;",
    "           Enter keeps it, Esc takes it away",
    "  f space  freeze, and go on",
    "  h ?      this help, and back",
    "  q        quit",
    "",
    "LOAD      share of the last second that a worker spent on packets",
    "OVER      packets a second given to other workers; TAKEN: taken from them",
    "P50 P99   half, and 99 in 100, of the packets stayed no longer than this in",
    "          natgate in the last ten seconds (of one busy turn in 64)",
    "USED      port blocks held, of all in the pool",
    "NEW/S     sessions opened in a second; REFUSED/S: refused for want of something",
    "",
    "More: natgate explain, natgate sessions, natgate capture, docs/operations.md",
];

/// The screen, `width` columns and `height` rows.
pub(crate) fn screen(data: &Data, ui: &Ui, width: usize, height: usize) -> Vec<Line<'static>> {
    let paint = Paint(ui.colour);
    let mut lines = head(data, ui, (paint, width));
    if ui.help {
        lines.extend(HELP.iter().map(|line| Line::raw(*line)));
    } else if let Some(seen) = &data.now {
        lines.extend(interfaces(data, seen, paint));
        lines.extend(pools(seen, ui, paint));
        lines.extend(workers(data, seen, paint));
        let left = height.saturating_sub(lines.len() + 1);
        let dropped = drops(data, seen, ui, (paint, width));
        let for_drops = dropped.len().min((left / 2).max(3));
        lines.extend(subscribers(data, seen, ui, paint, left.saturating_sub(for_drops)));
        lines.extend(dropped.into_iter().take(for_drops));
    }
    lines.truncate(height.saturating_sub(1));
    lines.resize(height.saturating_sub(1), Line::default());
    lines.push(foot(ui, paint));
    lines.into_iter().map(|line| cut(line, width)).collect()
}

/// Colours, if there are any.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn colour(self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new() }
    }

    fn title(self, text: String) -> Line<'static> {
        let style = self.colour(Color::Cyan).add_modifier(Modifier::BOLD);
        Line::styled(text, style)
    }

    /// By how much is used of something.
    fn share(self, share: f64) -> Style {
        match share {
            0.9.. => self.colour(Color::Red),
            0.75.. => self.colour(Color::Yellow),
            _ => self.colour(Color::Green),
        }
    }
}

fn cut(line: Line<'static>, width: usize) -> Line<'static> {
    let mut room = width;
    let style = line.style;
    let spans = line.spans.into_iter().map(|span| {
        let text: String = span.content.chars().take(room).collect();
        room -= text.chars().count();
        Span::styled(text, span.style)
    });
    Line::from(spans.collect::<Vec<_>>()).style(style)
}

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(BAR - full))
}

/// Bytes a second, as bits.
fn bits(bytes: u64) -> String {
    let bits = count(bytes.saturating_mul(8));
    let space = if bits.contains(char::is_alphabetic) { "" } else { " " };
    format!("{bits}{space}bit/s")
}

fn head(data: &Data, ui: &Ui, (paint, width): (Paint, usize)) -> Vec<Line<'static>> {
    let mut first = match &data.now {
        None => vec![Span::raw("natgate top")],
        Some(Seen { status, at, .. }) => {
            let (state, rest, colour) = match state(status) {
                // What it was when it still answered says nothing of now.
                _ if data.error.is_some() => {
                    let silent =
                        format!("not seen for {}", millis(at.elapsed().as_millis() as u64));
                    (silent, String::new(), Color::Red)
                }
                state => {
                    let up = millis(status.uptime_s * 1000);
                    let colour = if state == "ready" { Color::Green } else { Color::Yellow };
                    (state, format!(", up {up}, generation {}", status.config_generation), colour)
                }
            };
            vec![
                Span::styled(format!("natgate {} ", status.version), Modifier::BOLD),
                Span::styled(state, paint.colour(colour)),
                Span::raw(rest),
            ]
        }
    };
    if ui.frozen {
        first.push(Span::styled(
            "  FROZEN",
            paint.colour(Color::Yellow).add_modifier(Modifier::BOLD),
        ));
    }
    let style = paint.colour(Color::Red).add_modifier(Modifier::BOLD);
    let second = match (&data.error, &data.now) {
        (Some(error), _) => {
            let mut text = String::new();
            wrap(&mut text, &format!("NOT REACHABLE: {error}"), 2, width);
            let lines = text.lines().map(|line| Line::styled(line.to_owned(), style));
            return std::iter::once(Line::from(first)).chain(lines).collect();
        }
        (None, None) => Line::raw("asking..."),
        (None, Some(Seen { status, .. })) => {
            let warnings = match status.warnings.len() {
                0 => String::new(),
                warnings => {
                    format!(" · {} (natgate status)", counted(warnings as u64, "warning"))
                }
            };
            let dropped = data.rate(|it| Some(it.status.dropped + it.status.dropped_by_steering));
            Line::raw(format!(
                "sessions {} of {}, {} new/s · subscribers {} · drops {}/s{warnings}",
                count(status.sessions),
                count(status.sessions_maximum),
                count(data.rate(|it| Some(it.status.sessions_created))),
                count(status.subscribers),
                count(dropped),
            ))
        }
    };
    vec![Line::from(first), second]
}

fn foot(ui: &Ui, paint: Paint) -> Line<'static> {
    let style = paint.colour(Color::DarkGray);
    if ui.typing {
        return Line::raw(format!("filter: {}_  (Enter keeps it, Esc takes it away)", ui.filter));
    }
    let filter =
        if ui.filter.is_empty() { String::new() } else { format!("  [filter: {}]", ui.filter) };
    let seconds = ui.interval.as_secs_f64();
    Line::styled(
        format!("h help · s sort · / filter · f freeze · q quit · every {seconds} s{filter}"),
        style,
    )
}

fn interfaces(data: &Data, seen: &Seen, paint: Paint) -> Vec<Line<'static>> {
    let title = format!(
        "{:<16}{:<10}{:>10}{:>15}{:>10}{:>15}",
        "INTERFACE", "LINK", "IN/S", "IN", "OUT/S", "OUT"
    );
    let mut lines = vec![paint.title(title)];
    for (index, row) in seen.interfaces.iter().enumerate().take(SHORT) {
        let rate = |of: fn(&crate::api::model::InterfaceRow) -> u64| {
            data.rate(|it| it.interfaces.get(index).map(of))
        };
        let link = if row.up { "up" } else { "DOWN" };
        let style = paint.colour(if row.up { Color::Green } else { Color::Red });
        lines.push(Line::from(vec![
            Span::raw(format!("{:<16}", shorten(&row.interface, 15))),
            Span::styled(format!("{link:<10}"), style),
            Span::raw(format!(
                "{:>10}{:>15}{:>10}{:>15}",
                count(rate(|it| it.received_packets)),
                bits(rate(|it| it.received_bytes)),
                count(rate(|it| it.transmitted_packets)),
                bits(rate(|it| it.transmitted_bytes)),
            )),
        ]));
    }
    lines
}

fn pools(seen: &Seen, ui: &Ui, paint: Paint) -> Vec<Line<'static>> {
    let share =
        |row: &crate::api::model::PoolRow| row.blocks_held as f64 / row.blocks.max(1) as f64;
    let mut rows: Vec<_> = seen.pools.iter().filter(|row| ui.admits(&row.pool)).collect();
    rows.sort_by(|a, b| share(b).total_cmp(&share(a)));
    let title = format!(
        "{:<20}{:>10}{:>10}{:>10}{:>10}  USED",
        "POOL", "ADDRESSES", "BLOCKS", "RESTING", "FREE"
    );
    let mut lines = vec![paint.title(title)];
    for row in rows.into_iter().take(SHORT) {
        let free = row.blocks.saturating_sub(row.blocks_held + row.blocks_resting);
        let used = share(row);
        lines.push(Line::from(vec![
            Span::raw(format!(
                "{:<20}{:>10}{:>10}{:>10}{:>10}  ",
                shorten(&row.pool, 19),
                row.addresses,
                count(row.blocks),
                count(row.blocks_resting),
                count(free)
            )),
            Span::styled(format!("{} {:.1} %", bar(used), 100.0 * used), paint.share(used)),
        ]));
    }
    lines
}

fn workers(data: &Data, seen: &Seen, paint: Paint) -> Vec<Line<'static>> {
    let title = format!(
        "{:<7}{:<16}{:>9}{:>9}{:>9}{:>9}{:>10}{:>10}",
        "WORKER", "LOAD", "IN/S", "OVER/S", "TAKEN/S", "DROP/S", "P50", "P99"
    );
    let mut lines = vec![paint.title(title)];
    let mut rows: Vec<_> = seen.workers.iter().enumerate().collect();
    rows.sort_by(|(_, a), (_, b)| b.load.total_cmp(&a.load).then(a.worker.cmp(&b.worker)));
    for (index, row) in rows.into_iter().take(SHORT) {
        let rate = |of: fn(&crate::api::model::WorkerRow) -> u64| {
            count(data.rate(|it| it.workers.get(index).map(of)))
        };
        let load = format!("{} {:.0} %", bar(row.load), 100.0 * row.load);
        lines.push(Line::from(vec![
            Span::raw(format!("{:<7}", row.worker)),
            Span::styled(format!("{load:<16}"), paint.share(row.load)),
            Span::raw(format!(
                "{:>9}{:>9}{:>9}{:>9}{:>10}{:>10}",
                rate(|it| it.received),
                rate(|it| it.handed_over),
                rate(|it| it.taken_over),
                rate(|it| it.dropped),
                nanos(row.latency.p50_ns),
                nanos(row.latency.p99_ns),
            )),
        ]));
    }
    if seen.workers.len() > SHORT {
        lines.push(Line::raw(format!("       {} more, less busy", seen.workers.len() - SHORT)));
    }
    lines
}

fn subscribers(data: &Data, seen: &Seen, ui: &Ui, paint: Paint, room: usize) -> Vec<Line<'static>> {
    let rates = data.subscriber_rates();
    let rate = |row: &SubscriberRow| rates.get(row.address.as_str()).copied().unwrap_or_default();
    let weight = |row: &SubscriberRow| match ui.order {
        Order::Sessions => u64::from(row.sessions),
        Order::New => rate(row).0,
        Order::Blocks => u64::from(row.blocks),
        Order::Refused => rate(row).1.max(row.refused),
    };
    let mut rows: Vec<_> = seen.subscribers.iter().filter(|row| ui.admits(&row.address)).collect();
    rows.sort_by(|a, b| weight(b).cmp(&weight(a)).then_with(|| a.address.cmp(&b.address)));
    let title = format!(
        "{:<17}{:>9}{:>8}{:>10}{:>8}  {:<8}by {}",
        "SUBSCRIBER",
        "SESSIONS",
        "NEW/S",
        "REFUSED/S",
        "BLOCKS",
        "PUBLIC",
        ui.order.name()
    );
    let mut lines = vec![paint.title(title)];
    if rows.is_empty() {
        lines.push(Line::raw("none"));
    }
    for row in rows.into_iter().take(room.saturating_sub(1)) {
        let (new, refused) = rate(row);
        let public = row.holdings.first().map_or("-", |held| held.address.as_str());
        let more = row.holdings.len().saturating_sub(1);
        let more = if more > 0 { format!(" +{more}") } else { String::new() };
        let style = if refused > 0 { paint.colour(Color::Red) } else { Style::new() };
        let text = format!(
            "{:<17}{:>9}{:>8}{:>10}{:>8}  {public}{more}",
            row.address,
            count(u64::from(row.sessions)),
            count(new),
            count(refused),
            row.blocks,
        );
        lines.push(Line::styled(text, style));
    }
    lines
}

fn drops(data: &Data, seen: &Seen, ui: &Ui, (paint, width): (Paint, usize)) -> Vec<Line<'static>> {
    let mut rows: Vec<(u64, &crate::api::model::DropRow)> = seen
        .drops
        .iter()
        .enumerate()
        .filter(|(_, row)| row.packets > 0 && ui.admits(&row.reason))
        .map(|(index, row)| (data.rate(|it| it.drops.get(index).map(|row| row.packets)), row))
        .collect();
    rows.sort_by(|(a, x), (b, y)| b.cmp(a).then(y.packets.cmp(&x.packets)));
    let mut lines =
        vec![paint.title(format!("{:>8}{:>9}  {:<22}WHAT TO DO", "DROPS/S", "ALL", "REASON"))];
    if rows.is_empty() {
        lines.push(Line::raw("    none"));
    }
    for (rate, row) in rows {
        let mut text = String::new();
        let all = format!(
            "{:>8}{:>9}  {:<22}{}",
            count(rate),
            count(row.packets),
            row.reason,
            row.remedy
        );
        wrap(&mut text, &all, 41, width);
        let style = if rate > 0 { paint.colour(Color::Yellow) } else { Style::new() };
        lines.extend(text.lines().map(|line| Line::styled(line.to_owned(), style)));
    }
    lines
}
