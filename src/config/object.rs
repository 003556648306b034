//! Which objects are there: kind, name and `spec` of each document.

use std::collections::HashMap;

use super::ask::{ANY, NAME};
use super::field::{Field, Placed, Schema, any_of, nearest};
use super::problem::{Place, Problems};
use super::tree::{Node, Value};

/// The version of the objects.
const API_VERSION: &str = "natgate.dev/v1alpha1";

/// Kinds of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gateway,
    AddressPool,
    NatRule,
    PortForward,
    StaticNat,
}

pub(super) const KINDS: [(&str, Kind); 5] = [
    ("Gateway", Kind::Gateway),
    ("AddressPool", Kind::AddressPool),
    ("NatRule", Kind::NatRule),
    ("PortForward", Kind::PortForward),
    ("StaticNat", Kind::StaticNat),
];

const OBJECT: Schema = Schema {
    of: "an object",
    known: &["apiVersion", "kind", "metadata", "spec"],
    later: &["status"],
};
const METADATA: Schema =
    Schema { of: "metadata", known: &["name", "labels", "annotations"], later: &["namespace"] };

/// An object whose `spec` was not looked at yet.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) name: Placed<String>,
    pub(super) spec: Node,
}

impl Object {
    /// Its `spec`.
    pub(super) fn spec(&self) -> Field<'_> {
        Field::new(&self.spec, "spec")
    }
}

/// All objects by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub(super) gateways: Vec<Object>,
    pub(super) pools: Vec<Object>,
    pub(super) rules: Vec<Object>,
    pub(super) forwards: Vec<Object>,
    pub(super) statics: Vec<Object>,
    /// Whether some document could not be read as an object: what seems missing may be there.
    pub(super) incomplete: bool,
}

impl Objects {
    /// Sorts `documents` by kind.
    pub(super) fn read(documents: Vec<Node>, problems: &mut Problems) -> Self {
        let mut objects = Self { incomplete: !problems.is_clean(), ..Self::default() };
        for document in documents {
            match header(&document, problems) {
                Some((kind, object)) => objects.list(kind).push(object),
                None => objects.incomplete = true,
            }
        }
        let Self { gateways, pools, rules, forwards, statics, .. } = &objects;
        for list in [gateways, pools, rules, forwards, statics] {
            refuse_same_names(list, problems);
        }
        objects
    }

    fn list(&mut self, kind: Kind) -> &mut Vec<Object> {
        match kind {
            Kind::Gateway => &mut self.gateways,
            Kind::AddressPool => &mut self.pools,
            Kind::NatRule => &mut self.rules,
            Kind::PortForward => &mut self.forwards,
            Kind::StaticNat => &mut self.statics,
        }
    }
}

fn header(document: &Node, problems: &mut Problems) -> Option<(Kind, Object)> {
    let root = Field::root(document);
    if document.value == Value::Null {
        let why = "it holds no object";
        problems.error(&root.place(), "empty document", why, "write an object or remove the ---");
        return None;
    }
    let group = root.group(&OBJECT, problems)?;
    let remedy = "write apiVersion: natgate.dev/v1alpha1";
    if let Some(field) = group.required("apiVersion", remedy, problems)
        && let Some(version) = field.word(&[API_VERSION], problems)
        && version != API_VERSION
    {
        let why = format!("{version:?} is not a version that natgate knows");
        problems.error(&field.place(), "unknown version", why, format!("write {API_VERSION}"));
    }
    let remedy = "write kind: Gateway, AddressPool, NatRule, PortForward or StaticNat";
    let kind = group.required("kind", remedy, problems).and_then(|field| kind(field, problems));
    let remedy = "write metadata: {name: NAME}";
    let name = group.required("metadata", remedy, problems).and_then(|f| name(f, problems));
    let spec = group.required("spec", "write the settings of the object under spec", problems);
    let (name, spec) = (name?, spec?.node().clone());
    Some((kind?, Object { name, spec }))
}

fn kind(field: &Field<'_>, problems: &mut Problems) -> Option<Kind> {
    let names = KINDS.map(|(name, _)| name);
    let text = field.word(&names, problems)?;
    let found = KINDS.iter().find(|(name, _)| *name == text).map(|&(_, kind)| kind);
    if found.is_none() {
        let remedy = nearest(text, &names).map_or_else(
            || format!("write {}", any_of(&names)),
            |name| format!("did you mean {name:?}?"),
        );
        let why = format!("natgate knows no {text:?}");
        problems.error(&field.place(), "unknown kind", why, remedy);
    }
    found
}

fn name(field: &Field<'_>, problems: &mut Problems) -> Option<Placed<String>> {
    let group = field.group(&METADATA, problems)?;
    for free in ["labels", "annotations"] {
        if let Some(field) = group.get(free) {
            field.map(&ANY, problems);
        }
    }
    let field = group.required("name", "write metadata: {name: NAME}", problems)?;
    let text = field.text(&NAME, problems)?;
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label = (1..=63).contains(&text.len())
        && text.chars().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if !is_label {
        let why = format!("{text:?} is not a name");
        let remedy = "write 1 to 63 lower-case letters, digits and inner hyphens";
        problems.error(&field.place(), "bad name", why, remedy);
    }
    Some(Placed { value: text.to_owned(), place: field.place() })
}

fn refuse_same_names(objects: &[Object], problems: &mut Problems) {
    let mut firsts: HashMap<&str, &Object> = HashMap::new();
    for object in objects {
        let name = &object.name;
        let first = *firsts.entry(&name.value).or_insert(object);
        if !std::ptr::eq(first, object) {
            let why =
                format!("{:?} is already the name of the object at {}", name.value, origin(first));
            problems.error(
                &name.place,
                "duplicate name",
                why,
                "give each object a name of its own",
            );
        }
    }
}

fn origin(object: &Object) -> String {
    let Place { origin, .. } = &object.name.place;
    origin.to_string()
}
