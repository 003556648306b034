//! What do objects look like before anything is known about them?
//!
//! Every reader (YAML and JSON files, flags, later the Kubernetes API) makes this tree; validation
//! knows nothing else.

use super::problem::Origin;

/// A value and where it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

/// A value as written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Node>),
    /// In the order written; keys may repeat, validation refuses that.
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) value: Node,
}

impl Value {
    /// What an unquoted scalar means (YAML 1.2 core schema; numbers that are not whole stay text).
    pub(super) fn from_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Self::Null,
            "true" | "True" | "TRUE" => Self::Bool(true),
            "false" | "False" | "FALSE" => Self::Bool(false),
            _ => text.parse().map_or_else(|_| Self::Text(text.to_owned()), Self::Int),
        }
    }

    /// The value for people: `the text "x"`, `the number 3`, `a list`.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("the truth value {value}"),
            Self::Int(value) => format!("the number {value}"),
            Self::Text(text) => format!("the text {text:?}"),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a group of fields".to_owned(),
        }
    }
}

impl Node {
    /// Puts `node` at `path` below this map, making groups on the way and replacing what is there.
    pub(super) fn set(&mut self, path: &[&str], node: Node) {
        let Value::Map(entries) = &mut self.value else { return };
        let [key, rest @ ..] = path else { return };
        let found = entries.iter_mut().find(|entry| entry.key == *key);
        let origin = node.origin.clone();
        match (found, rest) {
            (Some(entry), []) => entry.value = node,
            (Some(entry), _) => entry.value.set(rest, node),
            (None, []) => entries.push(Entry { key: (*key).to_owned(), origin, value: node }),
            (None, _) => {
                let mut group = Node { origin: origin.clone(), value: Value::Map(Vec::new()) };
                group.set(rest, node);
                entries.push(Entry { key: (*key).to_owned(), origin, value: group });
            }
        }
    }

    /// Takes away what is at `path` below this map.
    pub(super) fn remove(&mut self, path: &[&str]) {
        let Value::Map(entries) = &mut self.value else { return };
        match path {
            [] => {}
            [key] => entries.retain(|entry| entry.key != *key),
            [key, rest @ ..] => {
                let below = entries.iter_mut().filter(|entry| entry.key == *key);
                below.for_each(|entry| entry.value.remove(rest));
            }
        }
    }
}
