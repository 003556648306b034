//! The shipped description is current, all that is served is described and the other way round, and what is answered is
//! what it says.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::describe::{Body, Served, description, served};
use crate::api::routes;
use crate::api::tests::{Fake, stop_journal};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/natgate.openapi.json");

#[test]
fn the_description_is_current() {
    let made = format!("{:#}\n", description());
    if std::env::var_os("NATGATE_WRITE_OPENAPI").is_some() {
        std::fs::write(PATH, &made).unwrap();
    }
    let shipped = std::fs::read_to_string(PATH).unwrap_or_default();
    let remedy = "write it anew: NATGATE_WRITE_OPENAPI=1 cargo test -p natgate the_description";
    assert!(made == shipped, "deploy/natgate.openapi.json is not what is served; {remedy}");
}

#[test]
fn every_path_is_described_and_no_other() {
    let Served { operations, .. } = served();
    let described: BTreeSet<&str> = operations.iter().map(|it| it.path).collect();
    let served: BTreeSet<&str> = routes::paths().into_iter().collect();
    assert_eq!(described, served);
    let index: BTreeSet<&str> = routes::INDEX
        .lines()
        .filter_map(|line| line.split_whitespace().next().filter(|word| word.starts_with('/')))
        .collect();
    assert_eq!(served.iter().filter(|path| **path != "/").copied().collect::<BTreeSet<_>>(), index);
    let fake = Fake::new(1);
    fake.run(async || {
        for path in &described {
            for method in ["get", "post", "put", "patch", "delete"] {
                let known = operations.iter().any(|it| (it.path, it.method) == (*path, method));
                // An answer that does not end by itself has begun, which is all that is asked here.
                let path = if *path == "/v1/events" { "/v1/events?follow=false" } else { path };
                let status = fake.status(method, path).await;
                assert_eq!(status != 405 && status != 404, known, "{method} {path}: {status}");
            }
        }
    });
}

/// What the description says of an answer of this path.
fn schema(
    path: &str,
    schemas: &serde_json::Map<String, Value>,
    of: &Value,
) -> jsonschema::Validator {
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [of],
        "components": {"schemas": schemas},
    });
    jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn answers_are_as_described() {
    let fake = Fake::new(9);
    let Served { operations, mut schemas } = served();
    // Nothing is answered that the description does not know.
    for schema in schemas.values_mut().filter(|schema| schema["type"] == "object") {
        schema["additionalProperties"] = false.into();
    }
    fake.run(async || {
        stop_journal(&fake);
        let mut count = 0;
        for operation in operations.iter().filter(|it| it.method == "get") {
            let query = match operation.path {
                "/v1/events" => "?follow=false&since=0",
                "/v1/who" => "?endpoint=203.0.113.7:60000/udp",
                // Its workers answer no such questions.
                "/v1/explain" | "/v1/capture" => continue,
                _ => "",
            };
            let (status, text) = fake.get(&format!("{}{query}", operation.path)).await;
            let (of, answers): (_, Vec<&str>) = match &operation.body {
                Body::Json(of) => (of, vec![&text]),
                Body::Lines(of) => (of, text.lines().collect()),
                Body::Other(_) => continue,
            };
            assert_eq!(status, 200, "{}: {text}", operation.path);
            assert!(!answers.is_empty(), "{}", operation.path);
            let schema = schema(operation.path, &schemas, of.as_value());
            for answer in answers {
                let answer: Value = serde_json::from_str(answer).unwrap();
                let wrong: Vec<String> =
                    schema.iter_errors(&answer).map(|error| error.to_string()).collect();
                assert!(wrong.is_empty(), "{}: {wrong:?} in {answer:#}", operation.path);
                count += 1;
            }
        }
        assert!(count > 20, "{count} answers");
        let (_, refused) = fake.get("/v1/sessions?limit=x").await;
        let of = json!({"$ref": "#/components/schemas/Problem"});
        let problem: Value = serde_json::from_str(&refused).unwrap();
        assert!(schema("a refusal", &schemas, &of).is_valid(&problem), "{refused}");
        // The control: what it does not describe is noticed.
        assert!(!schema("a refusal", &schemas, &of).is_valid(&json!({"error": 3})));
        assert_eq!(fake.json("/v1/openapi.json").await["openapi"], "3.1.0");
    });
}
