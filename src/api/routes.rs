//! Which address answers what?

use std::fmt::Display;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use conntrack::Protocol;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::drain;
use super::events;
use super::metrics;
use super::model::{Problem, Reloaded};
use super::orders::Order;
use super::pools::PoolRows;
use super::settings;
use super::shared::Shared;
use super::stream::{self, Filter};
use crate::explain::model::Explained;
use crate::explain::{Asked, Question};

/// Streams of sessions and subscribers at a time; and of events.
const STREAMS: usize = 16;
/// Searches of records at a time: each reads all of them.
const SEARCHES: usize = 2;

const INDEX: &str = "natgate stats socket

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
    followers: Arc<Semaphore>,
    searchers: Arc<Semaphore>,
}

impl App {
    /// Room for one more who searches the past.
    pub(super) fn searcher(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.searchers).try_acquire_owned().map_err(|_| {
            let error = format!("{SEARCHES} searches are under way; try again");
            Refusal(StatusCode::SERVICE_UNAVAILABLE, error)
        })
    }

    /// Room for one more who follows events.
    pub(super) fn follower(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.followers).try_acquire_owned().map_err(|_| {
            let error = format!("{STREAMS} follow the events already; end one and try again");
            Refusal(StatusCode::SERVICE_UNAVAILABLE, error)
        })
    }
}

/// What the TCP address serves.
pub(super) fn public(shared: Arc<Shared>, pools: Arc<PoolRows>) -> Router {
    finish(probes(), shared, pools)
}

/// What the Unix socket serves.
pub(super) fn all(shared: Arc<Shared>, pools: Arc<PoolRows>) -> Router {
    let router = probes()
        .route("/", get(async || INDEX))
        .route("/v1/status", get(async |State(app): State<App>| Json(app.shared.status())))
        .route("/v1/pools", get(pool_rows))
        .route("/v1/drops", get(async |State(app): State<App>| Json(app.shared.drops())))
        .route("/v1/workers", get(async |State(app): State<App>| Json(app.shared.worker_rows())))
        .route(
            "/v1/interfaces",
            get(async |State(app): State<App>| Json(app.shared.interface_rows())),
        )
        .route("/v1/sessions", get(sessions))
        .route("/v1/subscribers", get(subscribers))
        .route("/v1/settings", get(settings::list).patch(settings::patch).delete(settings::reset))
        .route("/v1/drain", get(drain::show).post(drain::begin).delete(drain::end))
        .route("/v1/explain", get(explain))
        .route("/v1/capture", get(capture))
        .route("/v1/events", get(events::follow))
        .route("/v1/who", get(events::who))
        .route("/v1/reload", post(reload));
    finish(router, shared, pools)
}

fn probes() -> Router<App> {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
}

fn finish(router: Router<App>, shared: Arc<Shared>, pools: Arc<PoolRows>) -> Router {
    let unknown = async |uri: Uri| {
        let error = format!("unknown path '{}'; GET / lists what there is", uri.path());
        Refusal(StatusCode::NOT_FOUND, error)
    };
    let method = async |method: Method, uri: Uri| {
        let error = format!("'{}' does not take {method}; GET / lists what there is", uri.path());
        Refusal(StatusCode::METHOD_NOT_ALLOWED, error)
    };
    router.fallback(unknown).method_not_allowed_fallback(method).with_state(App {
        shared,
        pools,
        streams: Arc::new(Semaphore::new(STREAMS)),
        captures: Arc::new(Semaphore::new(1)),
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
        let error = "natgate is busy with other orders, or stopping; try again";
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
#[serde(deny_unknown_fields)]
struct SessionQuery {
    address: Option<String>,
    pool: Option<String>,
    protocol: Option<String>,
    state: Option<String>,
    limit: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscriberQuery {
    address: Option<String>,
    pool: Option<String>,
    limit: Option<String>,
}

async fn sessions(
    State(app): State<App>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let filter = check(&app.shared, query)?;
    let permit = permit(&app)?;
    Ok(lines(stream::sessions(app.shared, filter, permit)))
}

async fn subscribers(
    State(app): State<App>,
    query: Result<Query<SubscriberQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let SubscriberQuery { address, pool, limit } = query;
    let query = SessionQuery { address, pool, limit, ..SessionQuery::default() };
    let filter = check(&app.shared, query)?;
    let permit = permit(&app)?;
    Ok(lines(stream::subscribers(app.shared, &filter, permit)))
}

async fn capture(
    State(app): State<App>,
    query: Result<Query<crate::capture::Asked>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(asked) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let wanted = crate::capture::Wanted::read(&asked).map_err(bad)?;
    let permit = Arc::clone(&app.captures).try_acquire_owned().map_err(|_| {
        let error = "a capture is under way already; end it and try again";
        Refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_owned())
    })?;
    let body = crate::capture::stream(app.shared, &wanted, permit)
        .map_err(|error| Refusal(StatusCode::SERVICE_UNAVAILABLE, error))?;
    Ok(([(header::CONTENT_TYPE, "application/x-pcapng")], body).into_response())
}

async fn explain(
    State(app): State<App>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Explained>, Refusal> {
    let Query(asked) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let question = Question::read(&asked).map_err(bad)?;
    let told = tokio::task::spawn_blocking(move || crate::explain::explain(&app.shared, &question));
    let told = told.await.map_err(|error| error.to_string()).flatten();
    Ok(Json(told.map_err(|error| Refusal(StatusCode::SERVICE_UNAVAILABLE, error))?))
}

pub(super) fn permit(app: &App) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        let error = format!("{STREAMS} lists are being read already; end one and try again");
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
        filter.address =
            Some(address.map_err(|_| bad_value("address", &text, "give an IPv4 address"))?);
    }
    if let Some(text) = query.pool {
        let snapshot = shared.snapshot.get();
        let pools = &snapshot.policy.pools;
        let found = pools.iter().find(|pool| pool.name == text).map(|pool| pool.id);
        let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        let remedy = format!("the pools are: {}", names.join(", "));
        filter.pool = Some(found.ok_or_else(|| bad_value("pool", &text, remedy))?);
    }
    if let Some(text) = query.protocol {
        let found = Protocol::ALL.into_iter().find(|protocol| protocol.name() == text);
        let found = found.ok_or_else(|| bad_value("protocol", &text, "use tcp, udp or icmp"))?;
        filter.protocol = Some(found);
    }
    if let Some(text) = query.state {
        let names = state_names();
        if !names.contains(&text.as_str()) {
            let remedy = format!("the states are: {}", names.join(", "));
            return Err(bad_value("state", &text, remedy));
        }
        filter.state = Some(text);
    }
    if let Some(text) = query.limit {
        let limit = text.parse();
        filter.limit = Some(limit.map_err(|_| bad_value("limit", &text, "give a number"))?);
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

pub(super) fn bad(error: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, error)
}

pub(super) fn bad_value(field: &str, value: &str, remedy: impl Display) -> Refusal {
    bad(format!("bad value '{value}' ({field}): {remedy}"))
}
