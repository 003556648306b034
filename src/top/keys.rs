//! What do the keys do?

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What the busiest subscribers have most of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Sessions,
    New,
    Blocks,
    Refused,
}

impl Order {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::New => "new sessions",
            Self::Blocks => "blocks",
            Self::Refused => "refusals",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Sessions => Self::New,
            Self::New => Self::Blocks,
            Self::Blocks => Self::Refused,
            Self::Refused => Self::Sessions,
        }
    }
}

/// What the user has chosen.
#[derive(Clone, Debug)]
pub(crate) struct Ui {
    pub(super) colour: bool,
    pub(super) interval: Duration,
    pub(super) frozen: bool,
    pub(super) help: bool,
    pub(super) order: Order,
    /// Part of an address, a pool, or a reason.
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) typing: bool,
}

impl Ui {
    pub(crate) fn new(colour: bool, interval: Duration) -> Self {
        Self {
            colour,
            interval,
            frozen: false,
            help: false,
            order: Order::Sessions,
            filter: String::new(),
            typing: false,
        }
    }

    /// A key was pressed; whether it is the end.
    pub(super) fn press(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return true;
        }
        if self.typing {
            self.type_filter(key.code);
            return false;
        }
        match key.code {
            KeyCode::Char('q') => return true,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('h' | '?') => self.help = !self.help,
            KeyCode::Char('f' | ' ') => self.frozen = !self.frozen,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('/') => self.typing = true,
            _ => {}
        }
        false
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.typing = false;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) => self.filter.push(character),
            _ => {}
        }
    }

    /// Whether a row with this name is to be shown.
    pub(super) fn admits(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }
}
