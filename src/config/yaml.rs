//! How does YAML text become a tree? (JSON is a subset of YAML 1.2 and is read the same way.)
//!
//! Aliases and tags are refused: nothing in the objects needs them, and aliases can make a small
//! file expand to any size.

use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use serde::de::IgnoredAny;

use super::problem::{Origin, Place, Problems};
use super::tree::{Entry, Node, Value};

/// Groups and lists may lie this deep in each other.
const MAX_DEPTH: usize = 64;

/// Reads all documents of `text`, noting what is wrong.
pub(super) fn read(file: &Arc<str>, text: &str, problems: &mut Problems) -> Vec<Node> {
    let mut builder = Builder { file, open: Vec::new(), documents: Vec::new() };
    for event in Parser::new_from_str(text) {
        let outcome = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(scan) => Err((*scan.marker(), scan.info().to_owned(), "correct this line")),
        };
        if let Err((marker, why, remedy)) = outcome {
            if file.ends_with(".json") {
                refuse_json(file, text, (marker, why, remedy), problems);
            } else {
                problems.error(&Place::of(origin(file, marker)), "unreadable YAML", why, remedy);
            }
            return builder.documents;
        }
    }
    if builder.documents.is_empty() {
        let place = Place::of(Origin::Path(Arc::clone(file)));
        problems.error(
            &place,
            "empty file",
            "it holds no object",
            "write an object or remove the file",
        );
    }
    builder.documents
}

/// Says of a JSON file what a reader of JSON says, since YAML's words and places mean nothing to whoever wrote it;
/// `refusal` is what is wrong where it is JSON nevertheless.
fn refuse_json(file: &Arc<str>, text: &str, refusal: Refusal, problems: &mut Problems) {
    // The end of what is there, rather than of a line that follows it and is empty.
    let (origin, why, remedy) = match serde_json::from_str::<IgnoredAny>(text.trim_end()) {
        Ok(_) => (origin(file, refusal.0), refusal.1, refusal.2),
        Err(error) => {
            let (line, column) = (error.line() as u32, error.column() as u32);
            let told = error.to_string();
            let why =
                told.rsplit_once(" at line ").map_or(told.as_str(), |(why, _)| why).to_owned();
            let remedy =
                if error.is_eof() { "write the rest of the file" } else { "correct this line" };
            (Origin::File { file: Arc::clone(file), line, column }, why, remedy)
        }
    };
    problems.error(&Place::of(origin), "unreadable JSON", why, remedy);
}

fn origin(file: &Arc<str>, marker: Marker) -> Origin {
    let (line, column) = (marker.line() as u32, marker.col() as u32 + 1);
    Origin::File { file: Arc::clone(file), line, column }
}

type Refusal = (Marker, String, &'static str);

/// A list or map whose end was not seen yet.
struct Open {
    node: Node,
    /// In a map: the key whose value comes next.
    key: Option<(String, Origin)>,
}

struct Builder<'a> {
    file: &'a Arc<str>,
    open: Vec<Open>,
    documents: Vec<Node>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Refusal> {
        match event {
            Event::Scalar(text, style, _, tag) => {
                refuse_tag(tag.is_some(), span)?;
                let plain = matches!(style, ScalarStyle::Plain);
                self.scalar(&text, plain, span);
                Ok(())
            }
            Event::SequenceStart(_, tag) => {
                self.begin(Value::List(Vec::new()), tag.is_some(), span)
            }
            Event::MappingStart(_, tag) => self.begin(Value::Map(Vec::new()), tag.is_some(), span),
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(done) = self.open.pop() {
                    self.place(done.node);
                }
                Ok(())
            }
            Event::Alias(_) => {
                Err((span.start, "aliases are not supported".to_owned(), "write the value out"))
            }
            _ => Ok(()),
        }
    }

    fn scalar(&mut self, text: &str, plain: bool, span: Span) {
        let origin = origin(self.file, span.start);
        if let Some(Open { node: Node { value: Value::Map(_), .. }, key: key @ None }) =
            self.open.last_mut()
        {
            *key = Some((text.to_owned(), origin));
            return;
        }
        let value = if plain { Value::from_plain(text) } else { Value::Text(text.to_owned()) };
        self.place(Node { origin, value });
    }

    fn begin(&mut self, value: Value, tagged: bool, span: Span) -> Result<(), Refusal> {
        refuse_tag(tagged, span)?;
        if let Some(Open { node: Node { value: Value::Map(_), .. }, key: None }) = self.open.last()
        {
            let why = "the name of a field must be text, not a list or a group of fields";
            return Err((span.start, why.to_owned(), "write the name of a field"));
        }
        if self.open.len() >= MAX_DEPTH {
            let why = format!("groups and lists lie more than {MAX_DEPTH} deep in each other");
            return Err((span.start, why, "write it flatter"));
        }
        let node = Node { origin: origin(self.file, span.start), value };
        self.open.push(Open { node, key: None });
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, node: Node) {
        let Some(Open { node: parent, key }) = self.open.last_mut() else {
            self.documents.push(node);
            return;
        };
        match &mut parent.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => {
                if let Some((key, origin)) = key.take() {
                    entries.push(Entry { key, origin, value: node });
                }
            }
            _ => {}
        }
    }
}

fn refuse_tag(tagged: bool, span: Span) -> Result<(), Refusal> {
    if tagged {
        return Err((span.start, "tags are not supported".to_owned(), "remove the tag"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_json_is_told_in_its_own_words_and_at_a_line_that_there_is() {
        let told = |file: &str, text: &str| {
            let mut problems = Problems::default();
            read(&Arc::from(file), text, &mut problems);
            let told: Vec<String> =
                problems.finish().unwrap_err().0.iter().map(ToString::to_string).collect();
            told.join("\n")
        };
        for (text, expected) in [
            (
                "{\"kind\": \n",
                "unreadable JSON (e.json:1:8): EOF while parsing a value; write the rest of the file",
            ),
            (
                "{\"kind\": \"Gateway\",\n \"spec\": ]}",
                "unreadable JSON (e.json:2:10): expected value; correct this line",
            ),
        ] {
            assert_eq!(told("e.json", text), expected);
            assert!(told("e.yaml", text).starts_with("unreadable YAML (e.yaml:"));
        }
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(
            told("e.json", &deep).contains("unreadable JSON (e.json:1:65): groups and lists lie")
        );
    }
}
