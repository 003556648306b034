//! The description, from a table of what is served and the types that are.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::super::model::{
    Drain, DropRow, InterfaceRow, PoolRow, Problem, Reloaded, SessionRow, SettingChange,
    SettingRow, Status, SubscriberRow, WorkerRow,
};
use super::super::{events, routes, who};
use crate::capture;
use crate::events::{Answer, Row};
use crate::explain::{self, model::Explained};

/// What a path answers with, in a form and of a type.
pub(super) enum Body {
    /// One JSON value.
    Json(Schema),
    /// JSON objects, a line each.
    Lines(Schema),
    /// Anything else, by its media type.
    Other(&'static str),
}

/// One way to ask.
pub(super) struct Operation {
    pub(super) path: &'static str,
    pub(super) method: &'static str,
    summary: &'static str,
    /// What may be in its query.
    query: Option<Schema>,
    pub(super) body: Body,
    /// Refusals that it knows, beside 400 for a bad query.
    refusals: &'static [u16],
}

/// All that is served, and the schemas that it refers to.
pub(super) struct Served {
    pub(super) operations: Vec<Operation>,
    pub(super) schemas: Map<String, Value>,
}

fn one<T: JsonSchema>(make: &mut SchemaGenerator) -> Schema {
    make.subschema_for::<T>()
}

/// The fields of a query.
fn fields<T: JsonSchema>() -> Schema {
    schemars::schema_for!(T)
}

#[allow(clippy::too_many_lines)] // a table
pub(super) fn served() -> Served {
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut make = settings.into_generator();
    let json = |schema| Body::Json(schema);
    let get = |path, summary, body| Operation {
        path,
        method: "get",
        summary,
        query: None,
        body,
        refusals: &[],
    };
    let with = |operation: Operation, query: Schema, refusals: &'static [u16]| Operation {
        query: Some(query),
        refusals,
        ..operation
    };
    let change = |method, path, summary, body, refusals: &'static [u16]| Operation {
        method,
        refusals,
        ..get(path, summary, body)
    };
    let make = &mut make;
    let operations = vec![
        get("/", "What there is, for people", Body::Other("text/plain")),
        get("/v1/openapi.json", "This description", Body::Other("application/json")),
        get("/v1/status", "The whole at a glance", json(one::<Status>(make))),
        get("/v1/pools", "Address pools and their port blocks", json(one::<Vec<PoolRow>>(make))),
        with(
            get(
                "/v1/subscribers",
                "Subscribers, a line each",
                Body::Lines(one::<SubscriberRow>(make)),
            ),
            fields::<routes::SubscriberQuery>(),
            &[503],
        ),
        with(
            get("/v1/sessions", "Sessions, a line each", Body::Lines(one::<SessionRow>(make))),
            fields::<routes::SessionQuery>(),
            &[503],
        ),
        with(
            get(
                "/v1/events",
                "What happens, a line each, as it comes",
                Body::Lines(one::<Row>(make)),
            ),
            fields::<events::EventQuery>(),
            &[503],
        ),
        with(
            get("/v1/who", "Who has, or had, a public endpoint", json(one::<Answer>(make))),
            fields::<who::WhoQuery>(),
            &[409, 503],
        ),
        get("/v1/drops", "Packets dropped, by reason", json(one::<Vec<DropRow>>(make))),
        get("/v1/workers", "Workers, their load and rings", json(one::<Vec<WorkerRow>>(make))),
        get("/v1/interfaces", "Interfaces of the gateway", json(one::<Vec<InterfaceRow>>(make))),
        get("/v1/settings", "What can be set at run time", json(one::<Vec<SettingRow>>(make))),
        change(
            "patch",
            "/v1/settings",
            "Set keys to values; null resets",
            json(one::<Vec<SettingChange>>(make)),
            &[422, 503],
        ),
        change(
            "delete",
            "/v1/settings",
            "Reset everything that was set",
            json(one::<Vec<SettingChange>>(make)),
            &[422, 503],
        ),
        change("get", "/v1/drain", "What remains", json(one::<Drain>(make)), &[503]),
        change(
            "post",
            "/v1/drain",
            "Open no session any more",
            json(one::<Drain>(make)),
            &[422, 503],
        ),
        change("delete", "/v1/drain", "Open sessions again", json(one::<Drain>(make)), &[422, 503]),
        with(
            get("/v1/explain", "What would become of a flow", json(one::<Explained>(make))),
            fields::<explain::Asked>(),
            &[503],
        ),
        with(
            get("/v1/capture", "Packets, as they come", Body::Other("application/x-pcapng")),
            fields::<capture::Asked>(),
            &[503],
        ),
        change(
            "post",
            "/v1/reload",
            "Read the configuration again, and bring it into force as a whole or not at all",
            json(one::<Reloaded>(make)),
            &[422, 503],
        ),
        get("/metrics", "For Prometheus", Body::Other("application/openmetrics-text")),
        get("/healthz", "200 while the process lives", Body::Other("text/plain")),
        change(
            "get",
            "/readyz",
            "200 once traffic flows; 503 before, and while natgate is drained",
            Body::Other("text/plain"),
            &[503],
        ),
    ];
    one::<Problem>(make);
    Served { operations, schemas: make.take_definitions(true) }
}

/// The whole description.
pub(super) fn description() -> Value {
    let Served { operations, schemas } = served();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in &operations {
        let of_path = paths.entry(operation.path).or_default();
        of_path.insert(operation.method.to_owned(), described(operation));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "natgate stats socket",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HTTP/1.1 over a Unix socket, /run/natgate.sock unless another one is named. --metrics ADDR:PORT serves \
                /metrics, /healthz and /readyz over TCP.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "http://natgate"}],
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn described(operation: &Operation) -> Value {
    let content = |body: &Body| match body {
        Body::Json(schema) => json!({"application/json": {"schema": schema}}),
        Body::Lines(schema) => json!({"application/x-ndjson": {"schema": schema}}),
        Body::Other(kind) => json!({(*kind): {}}),
    };
    let mut responses = Map::new();
    let done = json!({"description": "Done", "content": content(&operation.body)});
    responses.insert("200".to_owned(), done);
    let bad =
        operation.query.iter().map(|_| 400).chain((operation.method == "patch").then_some(400));
    for status in bad.chain(operation.refusals.iter().copied()) {
        let problem = json!({"$ref": "#/components/schemas/Problem"});
        let content = match operation.body {
            Body::Other("text/plain") => json!({"text/plain": {}}),
            _ => json!({"application/json": {"schema": problem}}),
        };
        let why = match status {
            400 => "The request makes no sense",
            409 => "The records can't be read",
            422 => "The configuration is wrong: every mistake, a line each; nothing was changed",
            _ => "Not now",
        };
        responses.insert(status.to_string(), json!({"description": why, "content": content}));
    }
    let mut described = json!({"summary": operation.summary, "responses": responses});
    if let Some(query) = &operation.query {
        described["parameters"] = parameters(query);
    }
    if operation.method == "patch" {
        let value = json!({"type": ["string", "number", "boolean", "null"]});
        let schema = json!({"type": "object", "additionalProperties": value});
        described["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    described
}

fn parameters(query: &Schema) -> Value {
    let required = |name: &str| {
        let names = query.get("required").and_then(Value::as_array);
        names.is_some_and(|names| names.iter().any(|it| it == name))
    };
    let fields = query.get("properties").and_then(Value::as_object).into_iter().flatten();
    let parameter = |(name, field): (&String, &Value)| {
        json!({
            "name": name,
            "in": "query",
            "required": required(name),
            "description": field["description"],
            "schema": {"type": "string"},
        })
    };
    fields.map(parameter).collect()
}
