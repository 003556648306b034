//! How much room is there, and are there colours?

use std::io::{self, IsTerminal};

/// Columns where there is no terminal to ask, and at least.
pub(super) const NARROW: usize = 80;

/// What is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    /// It is a terminal, and nobody said NO_COLOR.
    pub(super) colour: bool,
    /// Columns.
    pub(super) width: usize,
}

impl Screen {
    /// Without a terminal.
    pub(super) const PLAIN: Self = Self { colour: false, width: NARROW };

    /// Standard output.
    pub(super) fn of_stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Self::PLAIN;
        }
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let width = terminal_size::terminal_size().map_or(NARROW, |(width, _)| width.0.into());
        Self { colour: !no_colour, width: width.max(NARROW) }
    }

    /// `text` in a colour of the terminal by its code, or bold (1).
    pub(super) fn paint(self, code: u8, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Columns of standard output: at least, and where it is no terminal, 80.
pub(crate) fn terminal_width() -> usize {
    Screen::of_stdout().width
}

/// Appends `text` as lines of at most `width` columns, broken at spaces; all but the first begin at column `indent`. Spaces
/// that don't break (U+00A0: between a number and its unit) become plain ones.
pub(crate) fn wrap(out: &mut String, text: &str, indent: usize, width: usize) {
    let mut column = 0;
    for (number, word) in text.split(' ').enumerate() {
        let len = word.chars().count();
        if number > 0 && column + 1 + len > width && column > indent {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if number > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(&word.replace('\u{a0}', " "));
        column += len;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_spaces_and_indented() {
        let mut text = String::new();
        wrap(&mut text, "  name    some words that are long", 10, 20);
        assert_eq!(text, "  name    some words\n          that are\n          long\n");
        let mut text = String::new();
        wrap(&mut text, "aaaaaaaaaaaaaaaaaaaaaaaaa b", 2, 10);
        assert_eq!(text, "aaaaaaaaaaaaaaaaaaaaaaaaa\n  b\n");
        let mut text = String::new();
        wrap(&mut text, "to port 123 10\u{a0}s", 2, 15);
        assert_eq!(text, "to port 123\n  10 s\n");
    }
}
