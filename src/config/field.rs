//! How is a field of the tree read as what it should be?
//!
//! Every method notes what is wrong and returns what could be read, so that one run finds all
//! mistakes.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::ask::{Ask, Form, PORTS};
use super::problem::{Place, Problems};
use super::tree::{Node, Value};

/// A value together with its path in the object.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    node: &'a Node,
    path: String,
}

/// Which fields a group may have.
pub(super) struct Schema {
    /// The group, for messages: `Gateway`, `timers`.
    pub(super) of: &'static str,
    /// Fields of this version.
    pub(super) known: &'static [&'static str],
    /// Fields of later versions: refused by name.
    pub(super) later: &'static [&'static str],
}

/// A value that was read and where.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<'a> Field<'a> {
    /// The field of a whole object.
    pub(super) fn root(node: &'a Node) -> Self {
        Self { node, path: String::new() }
    }

    /// A field below `path`.
    pub(super) fn new(node: &'a Node, path: impl Into<String>) -> Self {
        Self { node, path: path.into() }
    }

    /// The value.
    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    /// Where it is.
    pub(super) fn place(&self) -> Place {
        Place { origin: self.node.origin.clone(), field: self.path.clone() }
    }

    fn mistyped(&self, expected: &str, problems: &mut Problems) {
        let found = self.node.value.describe();
        let why = format!("expected {expected}, found {found}");
        problems.error(&self.place(), "wrong type", why, format!("write {expected}"));
    }

    /// Text of a form, which the caller checks.
    pub(super) fn text(&self, form: &'static Form, problems: &mut Problems) -> Option<&'a str> {
        problems.asked(&self.path, || Ask::Text(form));
        self.any_text(problems)
    }

    /// Text that must be one of `words`, which the caller checks.
    pub(super) fn word(&self, words: &[&str], problems: &mut Problems) -> Option<&'a str> {
        let owned = |word: &&str| (*word).to_owned();
        problems.asked(&self.path, || Ask::Word(words.iter().map(owned).collect()));
        self.any_text(problems)
    }

    /// Whether it is exactly this text.
    pub(super) fn is_word(&self, word: &str, problems: &mut Problems) -> bool {
        problems.asked(&self.path, || Ask::Word(vec![word.to_owned()]));
        matches!(&self.node.value, Value::Text(text) if text == word)
    }

    /// Whether it is `false`.
    pub(super) fn is_false(&self, problems: &mut Problems) -> bool {
        problems.asked(&self.path, || Ask::False);
        self.node.value == Value::Bool(false)
    }

    fn any_text(&self, problems: &mut Problems) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            Value::Int(number) => {
                let why = format!("expected text, found the number {number}");
                let remedy = format!("put it in quotes: \"{number}\"");
                problems.error(&self.place(), "wrong type", why, remedy);
                None
            }
            _ => {
                self.mistyped("text", problems);
                None
            }
        }
    }

    /// Whether it is text.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.node.value, Value::Text(_))
    }

    /// Ports, as text: people write a number or a range. The caller checks them.
    pub(super) fn ports_text(&self, problems: &mut Problems) -> Option<String> {
        problems.asked(&self.path, || Ask::Number(1, u16::MAX.into()));
        problems.asked(&self.path, || Ask::Text(&PORTS));
        match &self.node.value {
            Value::Int(number) => Some(number.to_string()),
            Value::Text(text) => Some(text.clone()),
            _ => {
                self.mistyped("a number or text", problems);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn truth(&self, problems: &mut Problems) -> Option<bool> {
        problems.asked(&self.path, || Ask::Truth);
        if let Value::Bool(value) = self.node.value {
            return Some(value);
        }
        self.mistyped("true or false", problems);
        None
    }

    /// A whole number within `range`.
    pub(super) fn number<T>(&self, range: RangeInclusive<T>, problems: &mut Problems) -> Option<T>
    where
        T: TryFrom<i64> + Copy + Into<i64> + PartialOrd + Display,
    {
        let (low, high) = (range.start(), range.end());
        problems.asked(&self.path, || Ask::Number((*low).into(), (*high).into()));
        let Value::Int(number) = self.node.value else {
            self.mistyped(&format!("a whole number from {low} to {high}"), problems);
            return None;
        };
        let value = T::try_from(number).ok().filter(|value| range.contains(value));
        if value.is_none() {
            let why = format!("{number} is not from {low} to {high}");
            let remedy = format!("write a whole number from {low} to {high}");
            problems.error(&self.place(), "value out of range", why, remedy);
        }
        value
    }

    /// Notes that only these numbers are right; the caller refuses others.
    pub(super) fn among(&self, numbers: impl Iterator<Item = i64>, problems: &mut Problems) {
        problems.asked(&self.path, || Ask::Among(numbers.collect()));
    }

    /// One of the named values.
    pub(super) fn choice<T: Copy>(
        &self,
        choices: &[(&str, T)],
        problems: &mut Problems,
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let text = self.word(&names, problems)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|&(_, value)| value);
        if found.is_none() {
            let why = format!("there is no such value as {text:?}");
            problems.error(
                &self.place(),
                "unknown value",
                why,
                format!("write {}", any_of(&names)),
            );
        }
        found
    }

    /// The items of a list; at least one.
    pub(super) fn list(&self, problems: &mut Problems) -> Vec<Field<'a>> {
        problems.asked(&self.path, || Ask::List);
        let Value::List(items) = &self.node.value else {
            self.mistyped("a list", problems);
            return Vec::new();
        };
        if items.is_empty() {
            let remedy = "write at least one item, or remove the field";
            problems.error(&self.place(), "empty list", "it has no items", remedy);
        }
        let item = |(index, node)| Field { node, path: format!("{}[{index}]", self.path) };
        items.iter().enumerate().map(item).collect()
    }

    /// The fields of a group, without those that `schema` doesn't know.
    pub(super) fn group(&self, schema: &Schema, problems: &mut Problems) -> Option<Group<'a>> {
        problems.asked(&self.path, || Ask::Group(schema.known));
        let fields = self.entries(problems)?;
        let (mut known, mut meant) = (Vec::with_capacity(fields.len()), Vec::new());
        for (key, field, key_place) in fields {
            if schema.known.contains(&key) {
                known.push((key, field));
            } else if schema.later.contains(&key) {
                let why = format!("{} {key:?} is not in this version of natgate", schema.of);
                problems.error(&key_place, "unsupported field", why, "remove the field");
            } else {
                meant.extend(refuse_unknown(key, schema, &key_place, problems));
            }
        }
        Some(Group { place: self.place(), of: schema.of, fields: known, meant })
    }

    /// The field `name` of this map, if it is one and has it.
    pub(super) fn member(&self, name: &str) -> Option<Field<'a>> {
        let Value::Map(entries) = &self.node.value else { return None };
        let entry = entries.iter().find(|entry| entry.key == name)?;
        Some(Field { node: &entry.value, path: join(&self.path, name) })
    }

    /// Key, value and the key's place, of every entry of a map with free keys of the form `keys`, which
    /// the caller checks; of a repeated key the first.
    pub(super) fn map(
        &self,
        keys: &'static Form,
        problems: &mut Problems,
    ) -> Option<Vec<(&'a str, Field<'a>, Place)>> {
        problems.asked(&self.path, || Ask::Map(keys));
        self.entries(problems)
    }

    fn entries(&self, problems: &mut Problems) -> Option<Vec<(&'a str, Field<'a>, Place)>> {
        let Value::Map(entries) = &self.node.value else {
            self.mistyped("a group of fields", problems);
            return None;
        };
        let mut seen: Vec<(&str, Field<'a>, Place)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let key = entry.key.as_str();
            let path = join(&self.path, key);
            let place = Place { origin: entry.origin.clone(), field: path.clone() };
            if let Some((_, _, first)) = seen.iter().find(|(name, ..)| *name == key) {
                let why = format!("{key:?} is already given at {}", first.origin);
                problems.error(&place, "duplicate field", why, "remove one of them");
            } else {
                seen.push((key, Field { node: &entry.value, path }, place));
            }
        }
        Some(seen)
    }
}

/// The fields of a group that are known.
#[derive(Debug)]
pub(super) struct Group<'a> {
    /// Where the group is.
    pub(super) place: Place,
    of: &'static str,
    fields: Vec<(&'a str, Field<'a>)>,
    /// Fields that unknown ones were taken for: mistakes that are told already.
    meant: Vec<&'static str>,
}

impl<'a> Group<'a> {
    /// The field `name`, if given.
    pub(super) fn get(&self, name: &str) -> Option<&Field<'a>> {
        self.fields.iter().find(|(key, _)| *key == name).map(|(_, field)| field)
    }

    /// The field `name`; its absence is a mistake that `remedy` mends, unless it is a mere typing mistake.
    pub(super) fn required(
        &self,
        name: &str,
        remedy: &str,
        problems: &mut Problems,
    ) -> Option<&Field<'a>> {
        problems.asked(&self.place.field, || Ask::Needs(name.to_owned()));
        let field = self.get(name);
        if field.is_none() && !self.meant.contains(&name) {
            let path = join(&self.place.field, name);
            let place = Place { origin: self.place.origin.clone(), field: path };
            let why = format!("{} needs {name:?}", self.of);
            problems.error(&place, "missing field", why, remedy);
        }
        field
    }
}

impl Group<'_> {
    /// Notes that one of these fields must be there; the caller refuses groups without.
    pub(super) fn needs_one_of(&self, names: &'static [&'static str], problems: &mut Problems) {
        problems.asked(&self.place.field, || Ask::NeedsOneOf(names));
    }
}

/// `a, b or c`.
pub(super) fn any_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Refuses a field, and gives the one that may be meant.
fn refuse_unknown(
    key: &str,
    schema: &Schema,
    place: &Place,
    problems: &mut Problems,
) -> Option<&'static str> {
    let why = format!("{} has no field {key:?}", schema.of);
    let meant = nearest(key, schema.known);
    let remedy = meant.map_or_else(
        || format!("remove it; the fields are {}", schema.known.join(", ")),
        |name| format!("did you mean {name:?}?"),
    );
    problems.error(place, "unknown field", why, remedy);
    meant
}

/// The candidate that differs from `word` by few typing mistakes.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let near = candidates.iter().filter_map(|name| Some((typing_mistakes(word, name)?, *name)));
    near.min().map(|(_, name)| name)
}

/// By how many typing mistakes `word` differs from `name`, if they are few enough for a guess: a wrong one helps less than
/// none.
pub(crate) fn typing_mistakes(word: &str, name: &str) -> Option<usize> {
    let count = strsim::damerau_levenshtein(&word.to_lowercase(), &name.to_lowercase());
    (count <= (word.chars().count() / 3).clamp(1, 3)).then_some(count)
}
