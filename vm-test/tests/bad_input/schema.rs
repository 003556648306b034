//! Does the JSON schema that natgate prints tell right objects from wrong ones, as an editor would use it?
//!
//! Independent of natgate: files are read by another YAML reader, and validated by a JSON schema validator.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use jsonschema::Validator;
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value};
use vm_test::binary::natgate_binary;

use crate::cases;
use crate::{Case, Input};

/// Mistakes that a schema of single objects shows; the rest depends on other objects, flags, the host, or arithmetic.
const SHOWN: [&str; 15] = [
    "wrong type",
    "unknown value",
    "value out of range",
    "missing field",
    "unknown field",
    "unsupported field",
    "unknown kind",
    "unknown version",
    "bad name",
    "bad interface name",
    "bad address",
    "bad block size",
    "bad state directory",
    "missing action",
    "empty list",
];

fn validator() -> Result<Validator> {
    let output = Command::new(natgate_binary()?).arg("schema").output()?;
    ensure!(output.status.success(), "natgate schema: {}", output.status);
    Ok(jsonschema::validator_for(&serde_json::from_slice(&output.stdout)?)?)
}

/// The documents of a file, as JSON.
fn documents(text: &str) -> Result<Vec<Value>> {
    Yaml::load_from_str(text)?.iter().map(json).collect()
}

fn json(yaml: &Yaml<'_>) -> Result<Value> {
    Ok(match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => (*value).into(),
        Yaml::Value(Scalar::Integer(number)) => (*number).into(),
        Yaml::Value(Scalar::FloatingPoint(number)) => number.into_inner().into(),
        Yaml::Value(Scalar::String(text)) => text.as_ref().into(),
        Yaml::Sequence(items) => Value::Array(items.iter().map(json).collect::<Result<_>>()?),
        Yaml::Mapping(entries) => {
            let entry = |(key, value)| Ok((key_text(key)?, json(value)?));
            Value::Object(entries.iter().map(entry).collect::<Result<Map<_, _>>>()?)
        }
        other => bail!("no JSON for {other:?}"),
    })
}

fn key_text(key: &Yaml<'_>) -> Result<String> {
    match json(key)? {
        Value::String(text) => Ok(text),
        other => Ok(other.to_string()),
    }
}

/// Whether every document of `text` is an object by the schema.
fn is_valid(validator: &Validator, text: &str) -> Result<bool> {
    Ok(documents(text)?.iter().all(|document| validator.is_valid(document)))
}

#[test]
fn shipped_examples_are_valid_by_the_schema() -> Result<()> {
    let validator = validator()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = Vec::new();
    for directory in ["../deploy/examples", "tests/objects"] {
        for entry in fs::read_dir(root.join(directory))? {
            files.push(entry?.path());
        }
    }
    assert!(files.len() >= 6, "{} files", files.len());
    for file in files {
        let name = file.display();
        for document in documents(&fs::read_to_string(&file)?).with_context(|| name.to_string())? {
            let errors: Vec<String> =
                validator.iter_errors(&document).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
        }
    }
    assert!(is_valid(&validator, cases::GOOD)?);
    Ok(())
}

/// Whether natgate found something in a file that the schema is to show. Interfaces may come from flags.
fn is_shown(line: &str) -> bool {
    let Some((what, rest)) = line.strip_prefix("error: ").and_then(|line| line.split_once(" ("))
    else {
        return false;
    };
    let by_flags = what == "missing field" && rest.contains("spec.interfaces");
    SHOWN.contains(&what) && rest.starts_with("$D/") && !by_flags
}

#[test]
fn wrong_objects_are_refused_by_the_schema() -> Result<()> {
    let validator = validator()?;
    let (mut refused, mut missed) = (0, Vec::new());
    for Case { name, input, stderr } in cases::all() {
        if !stderr.lines().any(is_shown) {
            continue;
        }
        let texts = match input {
            Input::Edits(edits) => {
                let edit = |text: String, (old, new): &(&str, &str)| text.replacen(old, new, 1);
                vec![edits.iter().fold(cases::GOOD.to_owned(), edit)]
            }
            Input::Files { files, .. } => {
                files.iter().map(|(_, text)| (*text).to_owned()).collect()
            }
        };
        let mut all_valid = true;
        for text in texts {
            all_valid &= is_valid(&validator, &text).unwrap_or(false);
        }
        if all_valid {
            missed.push((name, stderr));
        } else {
            refused += 1;
        }
    }
    assert!(missed.is_empty(), "valid by the schema: {missed:#?}");
    assert!(refused >= 25, "{refused} cases refused");
    Ok(())
}
