//! How is something set at run time?

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde_json::Value;

use super::listen::Peer;
use super::model::{SettingChange, SettingRow};
use super::orders::{Order, Tune};
use super::routes::{App, Refusal, order};

type Changes = Result<Json<Vec<SettingChange>>, Refusal>;

pub(super) async fn list(State(app): State<App>) -> Json<Vec<SettingRow>> {
    Json(app.shared.settings())
}

/// An object of keys with their values; `null` resets.
pub(super) async fn patch(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Changes {
    let bad = |error: String| Refusal(StatusCode::BAD_REQUEST, error);
    let asked: BTreeMap<String, Value> = serde_json::from_slice(&body).map_err(|error| {
        bad(format!(
            "bad settings (request body): {error}; send an object such as {{\"log\": \"debug\"}}"
        ))
    })?;
    let change = |(key, value)| {
        let text = match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => Some(value.to_string()),
            Value::Array(_) => {
                let why = "a setting is a text, a number, true or false, or a group of fields";
                return Err(bad(format!(
                    "bad value ({key}): {why}; send one, or null to reset it"
                )));
            }
        };
        Ok((key, text))
    };
    let changes = asked.into_iter().map(change).collect::<Result<Vec<_>, _>>()?;
    tune(&app, Tune { changes: Some(changes), by: peer.to_string() }).await
}

pub(super) async fn reset(State(app): State<App>, Extension(peer): Extension<Peer>) -> Changes {
    tune(&app, Tune { changes: None, by: peer.to_string() }).await
}

async fn tune(app: &App, tune: Tune) -> Changes {
    order(&app.shared, |reply| Order::Tune(tune, reply)).await.map(Json)
}
