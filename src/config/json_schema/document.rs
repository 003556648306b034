//! What does a field mean? `docs/objects.md` says so, in tables with one row for each field.

/// The document.
const OBJECTS: &str = include_str!("../../../docs/objects.md");

/// What the field at `path`, such as `spec.quota.blocks`, of a `kind` means, and what it is by default.
pub(super) fn meaning(kind: &str, path: &str) -> Option<String> {
    let name = path.strip_prefix("spec.")?;
    let (_, part) = OBJECTS.split_once(&format!("\n## {kind}\n"))?;
    let part = part.split_once("\n## ").map_or(part, |(part, _)| part);
    let mut header: Vec<&str> = Vec::new();
    for line in part.lines() {
        let Some(cells) = cells(line) else {
            header.clear();
            continue;
        };
        if header.is_empty() {
            header = cells;
        } else if let Some(rest) = row_of(header[0], cells[0], name) {
            return Some(plain(&sentence(&header, &cells, rest)));
        }
    }
    None
}

/// The cells of a row of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let mut cells = Vec::new();
    let mut start = 0;
    for (at, _) in row.match_indices('|') {
        if !row[..at].ends_with('\\') {
            cells.push(row[start..at].trim());
            start = at + 1;
        }
    }
    cells.push(row[start..].trim());
    Some(cells)
}

/// If the row whose first cell is `cell` is about the field `name`: what that cell says beside names.
fn row_of<'a>(title: &str, cell: &'a str, name: &str) -> Option<&'a str> {
    let group = title.strip_prefix("field of `spec")?.strip_suffix('`')?;
    let name =
        if group.is_empty() { name } else { name.strip_prefix(&group[1..])?.strip_prefix('.')? };
    let (names, rest) = cell.split_once(':').unwrap_or((cell, ""));
    names.split(", ").any(|one| one == format!("`{name}`")).then_some(rest.trim())
}

/// Meaning, default and minimum, from the columns that there are.
fn sentence(header: &[&str], cells: &[&str], rest: &str) -> String {
    let column = |name: &str| {
        let at = header.iter().position(|title| title.starts_with(name))?;
        cells
            .get(at)
            .copied()
            .filter(|cell| !matches!(*cell, "" | "–" | "required" | "one of the two"))
    };
    let mut parts: Vec<String> = Vec::new();
    parts.extend((!rest.is_empty()).then(|| rest.to_owned()));
    parts.extend(column("meaning").map(ToOwned::to_owned));
    let profiles = (column("`high-density`"), column("`rfc4787`"));
    match (column("default"), profiles) {
        (Some(default), _) => parts.push(format!("Default: {default}")),
        (None, (Some(dense), Some(strict))) if dense == strict => {
            parts.push(format!("Default: {dense}"));
        }
        (None, (dense, strict)) if dense.or(strict).is_some() => parts.push(format!(
            "Default with high-density: {}; with rfc4787: {}",
            dense.unwrap_or("none"),
            strict.unwrap_or("none")
        )),
        _ => {}
    }
    if let Some(minimum) = column("min") {
        let requirement = column("requirement").unwrap_or_default();
        parts.push(format!("Minimum: {minimum} ({requirement})"));
    }
    parts.join(". ")
}

/// Text without the marks of Markdown: `[text](address)` is `text`.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        let target =
            link.split_once("](").and_then(|(name, after)| Some((name, after.split_once(')')?.1)));
        plain.push_str(before);
        if let Some((name, after)) = target {
            plain.push_str(name);
            rest = after;
        } else {
            plain.push('[');
            rest = link;
        }
    }
    plain.push_str(rest);
    plain.replace(['`', '*', '\\'], "")
}
