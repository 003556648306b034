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
    Err(if invalid { ViewError::Invalid(said) } else { ViewError::Refused(said) })
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
