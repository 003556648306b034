//! How do long lists fit the screen? Columns are as wide as their first rows ask for; those that matter least are left out
//! where there is no room.

use std::io::{self, Write};

use super::screen::Screen;

/// Rows that are looked at before the first is written.
const LOOK: usize = 512;

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    right: bool,
    /// What is left out first has most; what has 0 always stays.
    spare: u8,
    /// It is cut where there is no room even so.
    cut: bool,
}

impl Column {
    /// Text, to the left.
    pub(super) const fn left(title: &'static str) -> Self {
        Self { title, right: false, spare: 0, cut: false }
    }

    /// A number, to the right.
    pub(super) const fn right(title: &'static str) -> Self {
        Self { right: true, ..Self::left(title) }
    }

    /// The same, which may be left out: the more `spare`, the sooner.
    pub(super) const fn spare(self, spare: u8) -> Self {
        Self { spare, ..self }
    }

    /// The same, which may be cut.
    pub(super) const fn cut(self) -> Self {
        Self { cut: true, ..self }
    }
}

/// Rows that are written as they come.
pub(super) struct Rows<'a, W: Write> {
    out: &'a mut W,
    screen: Screen,
    columns: &'a [Column],
    waiting: Vec<Vec<String>>,
    /// By column; `None`: left out. Empty until the first row is written.
    widths: Vec<Option<usize>>,
}

impl<'a, W: Write> Rows<'a, W> {
    pub(super) fn new(out: &'a mut W, screen: Screen, columns: &'a [Column]) -> Self {
        Self { out, screen, columns, waiting: Vec::new(), widths: Vec::new() }
    }

    /// One more row, a cell for each column.
    pub(super) fn push(&mut self, row: Vec<String>) -> io::Result<()> {
        if !self.widths.is_empty() {
            self.make_room(&row);
            return self.write(&row);
        }
        self.waiting.push(row);
        if self.waiting.len() == LOOK { self.settle() } else { Ok(()) }
    }

    /// There are no more rows; whether there was any.
    pub(super) fn finish(mut self) -> io::Result<bool> {
        if self.widths.is_empty() && !self.waiting.is_empty() {
            self.settle()?;
        }
        Ok(!self.widths.is_empty())
    }

    fn settle(&mut self) -> io::Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        self.widths = widths(self.columns, &rows, self.screen.width);
        let titles = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let titles: Vec<String> = titles;
        let line = self.line(&titles);
        writeln!(self.out, "{}", self.screen.paint(1, &line))?;
        rows.iter().try_for_each(|row| self.write(row))
    }

    /// Where a late row is longer than those before, the columns move from there on.
    fn make_room(&mut self, row: &[String]) {
        let cells = || self.columns.iter().zip(&self.widths).zip(row);
        let too_long = |((column, width), cell): ((&Column, &Option<usize>), &String)| {
            !column.cut && width.is_some_and(|width| cell.chars().count() > width)
        };
        if cells().any(too_long) {
            let as_wide = self.widths.iter().map(|width| " ".repeat(width.unwrap_or(0)));
            let rows = [as_wide.collect(), row.to_vec()];
            self.widths = widths(self.columns, &rows, self.screen.width);
        }
    }

    fn write(&mut self, row: &[String]) -> io::Result<()> {
        let line = self.line(row);
        writeln!(self.out, "{line}")
    }

    fn line(&self, row: &[String]) -> String {
        let mut line = String::new();
        for ((column, width), cell) in self.columns.iter().zip(&self.widths).zip(row) {
            let Some(width) = *width else { continue };
            if !line.is_empty() {
                line.push(' ');
            }
            let cell = if column.cut { shorten(cell, width) } else { cell.clone() };
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            if column.right {
                line.push_str(&pad);
            }
            line.push_str(&cell);
            if !column.right {
                line.push_str(&pad);
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// `text`, or as much of it as fits `width`.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn widths(columns: &[Column], rows: &[Vec<String>], room: usize) -> Vec<Option<usize>> {
    let widest = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut widths: Vec<Option<usize>> = (columns.iter().enumerate())
        .map(|(index, column)| Some(widest(index).max(column.title.chars().count())))
        .collect();
    let total =
        |widths: &[Option<usize>]| widths.iter().flatten().map(|width| width + 1).sum::<usize>();
    while total(&widths) > room + 1 {
        let there = columns.iter().enumerate().filter(|(index, _)| widths[*index].is_some());
        let spare = there.filter(|(_, it)| it.spare > 0).max_by_key(|(_, column)| column.spare);
        if let Some((index, _)) = spare {
            widths[index] = None;
            continue;
        }
        let over = total(&widths) - room - 1;
        let cut = columns.iter().position(|column| column.cut);
        if let Some(width) = cut.and_then(|index| widths[index].as_mut()) {
            *width = width.saturating_sub(over).max(4);
        }
        break;
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::left("NAME"),
        Column::left("STATE").cut(),
        Column::right("IDLE").spare(1),
        Column::right("BYTES").spare(2),
    ];

    fn shown(width: usize, rows: &[[&str; 4]]) -> String {
        let mut out = Vec::new();
        let screen = Screen { width, ..Screen::PLAIN };
        let mut list = Rows::new(&mut out, screen, &COLUMNS);
        for row in rows {
            list.push(row.map(str::to_owned).to_vec()).unwrap();
        }
        assert_eq!(list.finish().unwrap(), !rows.is_empty());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_matters_least_goes_first() {
        let row = ["a long name", "established", "1.0s", "12 kB"];
        assert_eq!(
            shown(80, &[row]),
            "NAME        STATE       IDLE BYTES\na long name established 1.0s 12 kB\n"
        );
        assert_eq!(
            shown(30, &[row]),
            "NAME        STATE       IDLE\na long name established 1.0s\n"
        );
        assert_eq!(shown(24, &[row]), "NAME        STATE\na long name established\n");
        assert_eq!(shown(20, &[row]), "NAME        STATE\na long name establi…\n");
        assert_eq!(shown(80, &[]), "");
    }

    #[test]
    fn a_late_row_that_is_longer_fits_too() {
        let mut out = Vec::new();
        let mut list = Rows::new(&mut out, Screen { width: 24, ..Screen::PLAIN }, &COLUMNS);
        let row = |name: &str| [name, "established", "1.0s", "2 B"].map(str::to_owned).to_vec();
        for _ in 0..LOOK {
            list.push(row("a")).unwrap();
        }
        list.push(row("a longer name")).unwrap();
        drop(list);
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 24), "{text}");
        assert_eq!(text.lines().last(), Some("a longer name establish…"));
    }

    #[test]
    fn rows_that_come_late_are_written_at_once() {
        let mut out = Vec::new();
        let mut list = Rows::new(&mut out, Screen::PLAIN, &COLUMNS);
        for _ in 0..=LOOK {
            list.push(["a", "open", "1", "2"].map(str::to_owned).to_vec()).unwrap();
        }
        drop(list);
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), LOOK + 2);
    }
}
