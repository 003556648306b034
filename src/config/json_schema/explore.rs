//! What does every reader ask?
//!
//! A reader shows what it wants when it is given something: fields that it asks for a group are given groups with
//! every field, lists an item, and every field is given one value of each type, until nothing new is asked.

use std::collections::BTreeMap;

use crate::config::ask::Ask;
use crate::config::field::Field;
use crate::config::object::{Kind, Objects};
use crate::config::problem::{Origin, Problems};
use crate::config::tree::{Entry, Node, Value};
use crate::config::{forward, gateway, nat_rule, pool};

/// A key that stands for all keys of a map.
const KEY: &str = "53";

/// What the readers asked, by the path of the field.
#[derive(Debug, Default)]
pub(in crate::config) struct Asked(BTreeMap<String, Vec<Ask>>);

impl Asked {
    /// What was asked of the field at `path`, in the order in which it was asked.
    pub(super) fn at(&self, path: &str) -> &[Ask] {
        self.0.get(path).map_or(&[], Vec::as_slice)
    }

    /// Every group: its path and its fields.
    #[cfg(test)]
    pub(in crate::config) fn groups(
        &self,
    ) -> impl Iterator<Item = (&str, &'static [&'static str])> {
        let groups = self.0.iter().flat_map(|(path, asks)| asks.iter().map(move |ask| (path, ask)));
        groups.filter_map(|(path, ask)| match ask {
            Ask::Group(names) => Some((path.as_str(), *names)),
            _ => None,
        })
    }

    /// Takes in what was asked; true if some of it is new.
    fn learn(&mut self, asked: Vec<(String, Ask)>) -> bool {
        let mut is_new = false;
        for (path, ask) in asked {
            let known = self.0.entry(path).or_default();
            if !known.contains(&ask) {
                known.push(ask);
                is_new = true;
            }
        }
        is_new
    }

    /// An object with every field that is known, and `value` at `probed`.
    fn tree(&self, path: &str, probed: &str, value: &Value) -> Value {
        if path == probed {
            return value.clone();
        }
        let inner = |path: &str| node(self.tree(path, probed, value));
        let pair = |name: &str, path: String| Entry {
            key: name.to_owned(),
            origin: Origin::Flag(""),
            value: inner(&path),
        };
        let structure = self.at(path).iter().find_map(|ask| match ask {
            Ask::Group(names) => {
                Some(Value::Map(names.iter().map(|name| pair(name, field(path, name))).collect()))
            }
            Ask::List => Some(Value::List(vec![inner(&format!("{path}[0]"))])),
            Ask::Map(_) => Some(Value::Map(vec![pair(KEY, entry(path))])),
            _ => None,
        });
        structure.unwrap_or(Value::Null)
    }
}

/// The path of the field `name` of the group at `path`.
pub(super) fn field(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The path of the values of the map at `path`.
pub(super) fn entry(path: &str) -> String {
    field(path, KEY)
}

/// What is asked of any object but for its `spec`.
pub(super) fn header() -> Asked {
    explore("", |node, problems| {
        Objects::read(vec![node], problems);
    })
}

/// What is asked of the `spec` of a `kind`. That of a `Gateway` may lack what flags give.
pub(in crate::config) fn spec(kind: Kind) -> Asked {
    explore("spec", |node, problems| {
        let spec = Field::new(&node, "spec");
        match kind {
            Kind::Gateway => drop(gateway::read(&spec, false, problems)),
            Kind::AddressPool => drop(pool::read(&spec, problems)),
            Kind::NatRule => drop(nat_rule::read(&spec, problems)),
            Kind::PortForward => drop(forward::read_forward(&spec, problems)),
            Kind::StaticNat => drop(forward::read_static(&spec, problems)),
        }
    })
}

fn explore(root: &str, read: impl Fn(Node, &mut Problems)) -> Asked {
    let probes =
        [Value::Map(Vec::new()), Value::Text("?".to_owned()), Value::Bool(false), Value::Null];
    let mut asked = Asked(BTreeMap::from([(root.to_owned(), Vec::new())]));
    loop {
        let mut is_new = false;
        // No field has the last path: there, every field is what it was asked for.
        let paths: Vec<String> = asked.0.keys().cloned().chain(["-".to_owned()]).collect();
        for (path, probe) in paths.iter().flat_map(|path| probes.iter().map(move |p| (path, p))) {
            let mut problems = Problems::listening();
            read(node(asked.tree(root, path, probe)), &mut problems);
            is_new |= asked.learn(problems.into_asked());
        }
        if !is_new {
            return asked;
        }
    }
}

fn node(value: Value) -> Node {
    Node { origin: Origin::Flag(""), value }
}
