//! How does a command reach natgate? One HTTP request over the Unix socket.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::ViewError;
use crate::api::model::Problem;

/// natgate answers within this time, or not at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// It takes so long at most to read the largest configuration.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// Sends one request; the body is still to be read.
pub(crate) async fn get(socket: &Path, path: &str) -> Result<Response<Incoming>, ViewError> {
    ask(socket, (Method::GET, path), Bytes::new(), PATIENCE).await
}

/// Orders something and reads the whole answer.
pub(super) async fn order(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, ViewError> {
    whole(socket, ask(socket, (method, path), body, LONG_PATIENCE).await?).await
}

async fn ask(
    socket: &Path,
    (method, path): (Method, &str),
    body: Bytes,
    patience: Duration,
) -> Result<Response<Incoming>, ViewError> {
    let why = |why: String| ViewError::Answer { path: socket.to_owned(), why };
    let asked = tokio::time::timeout(patience, async {
        let stream =
            UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| why(error.to_string()))?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(header::HOST, "natgate");
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| why(error.to_string()))?;
        sender.send_request(request).await.map_err(|error| why(error.to_string()))
    });
    let response =
        asked.await.map_err(|_| why(format!("no answer in {} s", patience.as_secs())))??;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| why(error.to_string()))?;
    let problem = serde_json::from_slice::<Problem>(&body.to_bytes());
    let said = problem.map_or_else(|_| status.to_string(), |problem| problem.error);
    let invalid = [StatusCode::UNPROCESSABLE_ENTITY, StatusCode::BAD_REQUEST].contains(&status);
    Err(if invalid { ViewError::Invalid(typed(&said)) } else { ViewError::Refused(said) })
}

/// What the interface says of a field of its query, by the flag or argument that it was typed as.
fn typed(said: &str) -> String {
    let place = || {
        let after = match said.strip_prefix("bad value ") {
            Some(rest) => said.len() - rest.len() + rest.find("\" (")? + 3,
            None => said.strip_prefix("missing value (").map(|rest| said.len() - rest.len())?,
        };
        let field = said[after..].split_once("): ")?.0;
        let is_field = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_lowercase());
        is_field.then_some((after, field))
    };
    match place() {
        Some((at, "endpoint")) => {
            format!("{}ENDPOINT{}", &said[..at], &said[at + "endpoint".len()..])
        }
        Some((at, _)) => format!("{}--{}", &said[..at], &said[at..]),
        None => said.to_owned(),
    }
}

/// Sends one request and reads the whole answer.
pub(super) async fn fetch(socket: &Path, path: &str) -> Result<Bytes, ViewError> {
    whole(socket, get(socket, path).await?).await
}

async fn whole(socket: &Path, response: Response<Incoming>) -> Result<Bytes, ViewError> {
    let body = response.into_body();
    let read = tokio::time::timeout(PATIENCE, body.collect()).await;
    let why = match read {
        Ok(Ok(body)) => return Ok(body.to_bytes()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not end".to_owned(),
    };
    Err(ViewError::Answer { path: socket.to_owned(), why })
}

fn unreachable(socket: &Path, error: &std::io::Error) -> ViewError {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    ViewError::Unreachable { path: socket.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_named_as_they_were_typed() {
        for (said, expected) in [
            ("bad value \"x\" (to): why; do", "bad value \"x\" (--to): why; do"),
            ("bad value \"-1x\" (at): why; do", "bad value \"-1x\" (--at): why; do"),
            ("bad value \"(x)\" (endpoint): why; do", "bad value \"(x)\" (ENDPOINT): why; do"),
            ("missing value (to): why; do", "missing value (--to): why; do"),
        ] {
            assert_eq!(typed(said), expected);
        }
        // Places that nobody typed a flag for.
        for said in [
            "bad value 5 (spec.timers.udp): why; do",
            "unknown key (pools): why; do",
            "value out of range (natgate.yaml:3:4: spec.workers): why; do",
        ] {
            assert_eq!(typed(said), said);
        }
    }
}
