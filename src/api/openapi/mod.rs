//! What does the socket serve, for programs that read it? An OpenAPI description, made from the types of the answers.

#[cfg(test)]
mod describe;
#[cfg(test)]
mod tests;

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// As it is shipped; a test keeps it current.
const DESCRIPTION: &str = include_str!("../../../deploy/natgate.openapi.json");

/// `GET /v1/openapi.json`.
pub(super) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}
