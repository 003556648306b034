//! What is the JSON schema of the objects?
//!
//! Nobody writes it: the readers are asked what they read ([`explore`]), and `docs/objects.md` what it
//! means ([`document`]). It knows one object at a time, and refuses nothing that the readers take, but for odd
//! spellings such as `+80`.

mod document;
pub(super) mod explore;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use self::explore::Asked;
use super::ask::{Ask, Form};
use super::object::{KINDS, Kind};

/// The draft that editors and validators know best.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// The schema of one object of any kind.
pub(crate) fn json_schema() -> Value {
    let mut schema = value(&explore::header(), "", None);
    schema["$schema"] = DRAFT.into();
    schema["title"] = "Object of natgate".into();
    schema["description"] = "One object; a file may hold several, separated by ---. \
        Only `natgate check` knows whether the objects fit each other."
        .into();
    let by_kind = KINDS.iter().map(|(name, _)| {
        json!({
            "if": {"properties": {"kind": {"const": name}}, "required": ["kind"]},
            "then": {"properties": {"spec": {"$ref": format!("#/definitions/{name}")}}},
        })
    });
    schema["allOf"] = by_kind.collect();
    let definition = |&(name, kind): &(&str, Kind)| {
        (name.to_owned(), value(&explore::spec(kind), "spec", Some(name)))
    };
    schema["definitions"] = KINDS.iter().map(definition).collect::<Map<_, _>>().into();
    schema
}

/// The schema of the field at `path`; `kind`: where its meaning is told.
fn value(asked: &Asked, path: &str, kind: Option<&str>) -> Value {
    let asks = asked.at(path);
    let mut forms: Vec<Value> =
        asks.iter().filter_map(|ask| form(ask, asked, path, kind)).collect();
    let mut schema = match forms.len() {
        // Nobody looks at it: labels and the like.
        0 => json!({}),
        1 => forms.remove(0),
        _ => json!({ "anyOf": forms }),
    };
    if let Some(meaning) = kind.and_then(|kind| document::meaning(kind, path)) {
        schema["description"] = meaning.into();
    }
    schema
}

/// What one thing that was asked allows; nothing for what only narrows another.
fn form(ask: &Ask, asked: &Asked, path: &str, kind: Option<&str>) -> Option<Value> {
    Some(match ask {
        Ask::Group(names) => group(names, asked, path, kind),
        Ask::List => json!({
            "type": "array",
            "minItems": 1,
            "items": value(asked, &format!("{path}[0]"), kind),
        }),
        Ask::Map(keys) => json!({
            "type": "object",
            "propertyNames": pattern(keys),
            "additionalProperties": value(asked, &explore::entry(path), kind),
        }),
        Ask::Text(form) => text(form),
        Ask::Word(words) => match &words[..] {
            [only] => json!({ "const": only }),
            _ => json!({ "enum": words }),
        },
        Ask::Number(low, high) => {
            let among = asked.at(path).iter().find_map(|ask| match ask {
                Ask::Among(numbers) => Some(json!({ "enum": numbers })),
                _ => None,
            });
            among.unwrap_or_else(|| json!({"type": "integer", "minimum": low, "maximum": high}))
        }
        Ask::Truth => json!({"type": "boolean"}),
        Ask::False => json!({"const": false}),
        Ask::Needs(_) | Ask::NeedsOneOf(_) | Ask::Among(_) => return None,
    })
}

fn group(names: &[&str], asked: &Asked, path: &str, kind: Option<&str>) -> Value {
    let fields = names.iter().map(|name| {
        let path = explore::field(path, name);
        ((*name).to_owned(), value(asked, &path, kind))
    });
    let mut schema = json!({
        "type": "object",
        "properties": fields.collect::<Map<_, _>>(),
        "additionalProperties": false,
    });
    let asks = asked.at(path).iter();
    let needs: Vec<&String> = asks
        .clone()
        .filter_map(|ask| if let Ask::Needs(name) = ask { Some(name) } else { None })
        .collect();
    if !needs.is_empty() {
        schema["required"] = json!(needs);
    }
    for ask in asks {
        if let Ask::NeedsOneOf(names) = ask {
            schema["anyOf"] = names.iter().map(|name| json!({"required": [name]})).collect();
        }
    }
    schema
}

fn text(form: &Form) -> Value {
    let mut schema = pattern(form);
    schema["type"] = "string".into();
    schema
}

fn pattern(form: &Form) -> Value {
    if form.pattern.is_empty() {
        json!({})
    } else {
        json!({"pattern": form.pattern, "description": form.what})
    }
}
