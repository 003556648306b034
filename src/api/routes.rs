//! Which address answers what?

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use conntrack::Protocol;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::drain;
use super::events;
use super::listen::Peer;
use super::metrics;
use super::model::{Problem, Reloaded};
use super::openapi;
use super::orders::Order;
use super::pools::PoolRows;
use super::settings;
use super::shared::Shared;
use super::stream::{self, Filter};
use super::who;
use crate::explain::model::Explained;
use crate::explain::{Asked, NoAnswer, Question};
use crate::view::millis;

/// Streams of sessions and subscribers at a time; and of events.
const STREAMS: usize = 16;
/// Searches of records at a time: each reads all of them.
const SEARCHES: usize = 2;

pub(super) const INDEX: &str = "natgate stats socket

/v1/status        the whole at a glance
/v1/pools         address pools and their port blocks
/v1/subscribers   one JSON object a line; ?address= ?pool= ?limit=
/v1/sessions      one JSON object a line; ?address= ?pool= ?protocol= ?state= ?limit=
/v1/events        what happens, one JSON object a line, as it comes; ?since= ?last= ?follow=false
/v1/who           who has, or had, a public endpoint; ?endpoint=A.B.C.D:PORT/udp ?at=
/v1/drops         packets dropped, by reason, with remedies
/v1/workers       workers, their load and rings
/v1/interfaces    interfaces of the gateway
/v1/settings      what can be set at run time; PATCH an object KEY: value (null resets); DELETE: reset all
/v1/drain         what remains; POST: open no session any more; DELETE: open them again
/v1/capture       packets as pcapng; ?drops= ?from= ?to= ?count= ?seconds= ?snap= ?rate=
/v1/explain       what would become of a flow; ?from= ?to= ?vni=
/v1/openapi.json  all this, as an OpenAPI description
/v1/reload        POST: read the configuration again, and bring it into force as a whole or not at all
/metrics          for Prometheus
/healthz          200 while the process lives
/readyz           200 once traffic flows, 503 before, and while natgate is drained
";

#[derive(Clone)]
pub(super) struct App {
    pub(super) shared: Arc<Shared>,
    pools: Arc<PoolRows>,
    streams: Arc<Semaphore>,
    captures: Arc<Semaphore>,
    /// Who has begun the capture that is under way, or the last one, and when.
    capturing: Arc<Mutex<Option<(Peer, Instant)>>>,
    followers: Arc<Semaphore>,
    searchers: Arc<Semaphore>,
}

impl App {
    /// Room for one more who searches the past.
    pub(super) fn searcher(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.searchers).try_acquire_owned().map_err(|_| {
            let error = format!("no room (records): {SEARCHES} searches are under way; try again");
            Refusal(StatusCode::SERVICE_UNAVAILABLE, error)
        })
    }

    /// Room for one who captures.
    fn capturer(&self, peer: Peer) -> Result<OwnedSemaphorePermit, Refusal> {
        let mut capturing = self.capturing.lock().unwrap_or_else(PoisonError::into_inner);
        let permit = Arc::clone(&self.captures).try_acquire_owned().map_err(|_| {
            let whose = capturing.as_ref().map_or_else(String::new, |(peer, begun)| {
                let ago = millis(begun.elapsed().as_millis() as u64);
                format!(", begun {ago} ago by {peer}")
            });
            let error =
                format!("no room (capture): one is under way already{whose}; end it and try again");
            Refusal(StatusCode::SERVICE_UNAVAILABLE, error)
        })?;
        *capturing = Some((peer, Instant::now()));
        Ok(permit)
    }

    /// Room for one more who follows events.
    pub(super) fn follower(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.followers).try_acquire_owned().map_err(|_| {
            let error =
                format!("no room (events): {STREAMS} follow them already; end one and try again");
            Refusal(StatusCode::SERVICE_UNAVAILABLE, error)
        })
    }
}

/// A path, and what answers there.
type Route = (&'static str, MethodRouter<App>);

/// What the TCP address serves.
pub(super) fn public(shared: Arc<Shared>, pools: Arc<PoolRows>) -> Router {
    finish(probes(), shared, pools)
}

/// All paths that the Unix socket serves.
#[cfg(test)]
pub(super) fn paths() -> Vec<&'static str> {
    probes().into_iter().chain(views()).map(|(path, _)| path).collect()
}

/// What the Unix socket serves.
pub(super) fn all(shared: Arc<Shared>, pools: Arc<PoolRows>) -> Router {
    finish(probes().into_iter().chain(views()), shared, pools)
}

/// What only the Unix socket serves.
fn views() -> Vec<Route> {
    let status = async |State(app): State<App>| Json(app.shared.status());
    let drops = async |State(app): State<App>| Json(app.shared.drops());
    let workers = async |State(app): State<App>| Json(app.shared.worker_rows());
    let interfaces = async |State(app): State<App>| Json(app.shared.interface_rows());
    vec![
        ("/", get(async || INDEX)),
        ("/v1/openapi.json", get(openapi::show)),
        ("/v1/status", get(status)),
        ("/v1/pools", get(pool_rows)),
        ("/v1/drops", get(drops)),
        ("/v1/workers", get(workers)),
        ("/v1/interfaces", get(interfaces)),
        ("/v1/sessions", get(sessions)),
        ("/v1/subscribers", get(subscribers)),
        ("/v1/settings", get(settings::list).patch(settings::patch).delete(settings::reset)),
        ("/v1/drain", get(drain::show).post(drain::begin).delete(drain::end)),
        ("/v1/explain", get(explain)),
        ("/v1/capture", get(capture)),
        ("/v1/events", get(events::follow)),
        ("/v1/who", get(who::who)),
        ("/v1/reload", post(reload)),
    ]
}

fn probes() -> Vec<Route> {
    vec![("/metrics", get(scrape)), ("/healthz", get(async || "ok\n")), ("/readyz", get(ready))]
}

fn finish(
    routes: impl IntoIterator<Item = Route>,
    shared: Arc<Shared>,
    pools: Arc<PoolRows>,
) -> Router {
    let add = |router: Router<App>, (path, methods)| router.route(path, methods);
    let router = routes.into_iter().fold(Router::new(), add);
    let unknown = async |uri: Uri| {
        let error = format!(
            "unknown path ({}): natgate serves nothing there; GET / lists what there is",
            uri.path()
        );
        Refusal(StatusCode::NOT_FOUND, error)
    };
    let method = async |method: Method, uri: Uri| {
        let error = format!(
            "wrong method ({}): it takes no {method}; GET / lists what there is",
            uri.path()
        );
        Refusal(StatusCode::METHOD_NOT_ALLOWED, error)
    };
    router.fallback(unknown).method_not_allowed_fallback(method).with_state(App {
        shared,
        pools,
        streams: Arc::new(Semaphore::new(STREAMS)),
        captures: Arc::new(Semaphore::new(1)),
        capturing: Arc::default(),
        followers: Arc::new(Semaphore::new(STREAMS)),
        searchers: Arc::new(Semaphore::new(SEARCHES)),
    })
}

/// An answer that is not what was asked for.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(Problem { error: self.1 })).into_response()
    }
}

async fn ready(State(app): State<App>) -> (StatusCode, &'static str) {
    if !app.shared.is_ready() {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    } else if app.shared.drained_since().is_some() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining: no new sessions\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn reload(State(app): State<App>) -> Result<Json<Reloaded>, Refusal> {
    order(&app.shared, Order::Reload).await.map(Json)
}

/// Has something done by whoever changes something, and waits until it is.
pub(super) async fn order<T>(
    shared: &Shared,
    what: impl FnOnce(oneshot::Sender<Result<T, Vec<String>>>) -> Order,
) -> Result<T, Refusal> {
    let (reply, outcome) = oneshot::channel();
    let busy = || {
        let error =
            "cannot be done now (order): natgate is busy with other orders, or stopping; try again";
        Refusal(StatusCode::SERVICE_UNAVAILABLE, error.into())
    };
    shared.orders.try_send(what(reply)).map_err(|_| busy())?;
    match outcome.await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(lines)) => Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, lines.join("\n"))),
        Err(_) => Err(busy()),
    }
}

async fn pool_rows(State(app): State<App>) -> Response {
    Json(app.pools.get().as_slice()).into_response()
}

async fn scrape(State(app): State<App>) -> Result<Response, Refusal> {
    let text = metrics::render(&app.shared, &app.pools)
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct SessionQuery {
    /// Only sessions in which this address takes part.
    address: Option<String>,
    /// Only sessions of this pool.
    pool: Option<String>,
    /// Only this protocol: tcp, udp or icmp.
    protocol: Option<String>,
    /// Only sessions in this state.
    state: Option<String>,
    /// Lines at most.
    limit: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct SubscriberQuery {
    /// Only this internal address.
    address: Option<String>,
    /// Only holders of blocks of this pool.
    pool: Option<String>,
    /// Lines at most.
    limit: Option<String>,
}

async fn sessions(
    State(app): State<App>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let filter = check(&app.shared, query)?;
    let permit = permit(&app)?;
    Ok(lines(stream::sessions(app.shared, filter, permit)))
}

async fn subscribers(
    State(app): State<App>,
    query: Result<Query<SubscriberQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let SubscriberQuery { address, pool, limit } = query;
    let query = SessionQuery { address, pool, limit, ..SessionQuery::default() };
    let filter = check(&app.shared, query)?;
    let permit = permit(&app)?;
    Ok(lines(stream::subscribers(app.shared, &filter, permit)))
}

async fn capture(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<crate::capture::Asked>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(asked) = query.map_err(|rejection| bad_query(&rejection))?;
    let wanted = crate::capture::Wanted::read(&asked).map_err(bad)?;
    let permit = app.capturer(peer)?;
    let body = crate::capture::stream(app.shared, &wanted, permit)
        .map_err(|error| Refusal(StatusCode::SERVICE_UNAVAILABLE, error))?;
    Ok(([(header::CONTENT_TYPE, "application/x-pcapng")], body).into_response())
}

async fn explain(
    State(app): State<App>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Explained>, Refusal> {
    let Query(asked) = query.map_err(|rejection| bad_query(&rejection))?;
    let question = Question::read(&asked).map_err(bad)?;
    let told = tokio::task::spawn_blocking(move || crate::explain::explain(&app.shared, &question));
    let told = told.await.map_err(|error| NoAnswer::Late(error.to_string())).flatten();
    told.map(Json).map_err(|error| match error {
        NoAnswer::Wrong(error) => bad(error),
        NoAnswer::Late(error) => Refusal(StatusCode::SERVICE_UNAVAILABLE, error),
    })
}

pub(super) fn permit(app: &App) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        let error =
            format!("no room (lists): {STREAMS} are being read already; end one and try again");
        Refusal(StatusCode::SERVICE_UNAVAILABLE, error)
    })
}

pub(super) fn lines(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn check(shared: &Shared, query: SessionQuery) -> Result<Filter, Refusal> {
    let mut filter = Filter::default();
    if let Some(text) = query.address {
        let address = text.parse();
        filter.address = Some(
            address.map_err(|_| bad_value("address", &text, "it is no IPv4 address; give one"))?,
        );
    }
    if let Some(text) = query.pool {
        let snapshot = shared.snapshot.get();
        let pools = &snapshot.policy.pools;
        let found = pools.iter().find(|pool| pool.name == text).map(|pool| pool.id);
        let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        let remedy = format!("there is no such pool; give one of: {}", names.join(", "));
        filter.pool = Some(found.ok_or_else(|| bad_value("pool", &text, remedy))?);
    }
    if let Some(text) = query.protocol {
        let found = Protocol::ALL.into_iter().find(|protocol| protocol.name() == text);
        let found = found.ok_or_else(|| {
            bad_value("protocol", &text, "it is no protocol of sessions; give tcp, udp or icmp")
        })?;
        filter.protocol = Some(found);
    }
    if let Some(text) = query.state {
        let names = state_names();
        if !names.contains(&text.as_str()) {
            let remedy = format!("there is no such state; give one of: {}", names.join(", "));
            return Err(bad_value("state", &text, remedy));
        }
        filter.state = Some(text);
    }
    if let Some(text) = query.limit {
        let limit = text.parse();
        filter.limit = Some(limit.map_err(|_| {
            bad_value("limit", &text, "it is no whole number; give one such as 100")
        })?);
    }
    Ok(filter)
}

/// The names of the states of sessions; states that share one are neighbours.
fn state_names() -> Vec<&'static str> {
    let mut names: Vec<&str> =
        conntrack::State::ALL.into_iter().map(conntrack::State::name).collect();
    names.dedup();
    names
}

/// A query with fields that nobody reads, and the like.
pub(super) fn bad_query(rejection: &QueryRejection) -> Refusal {
    bad(format!("bad query (request): {}; GET / lists what each path takes", rejection.body_text()))
}

pub(super) fn bad(error: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, error)
}

/// `why`: what is wrong with it, and after a semicolon what to do.
pub(super) fn bad_value(field: &str, value: &str, why: impl Display) -> Refusal {
    bad(format!("bad value {value:?} ({field}): {why}"))
}
