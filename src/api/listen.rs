//! Where does the stats socket listen, and who may hold it open?

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::load;
use super::pools::PoolRows;
use super::routes;
use super::shared::Shared;

/// Connections at a time, for each listener.
const CONNECTIONS: usize = 64;
/// A client must send its request within this time, and the next one on the same connection.
const HEADER_TIME: Duration = Duration::from_secs(10);

/// Who may come to a listener.
#[derive(Clone, Copy, Debug)]
struct House {
    /// A connection ends after this time, whatever happens on it.
    connection_time: Duration,
    /// It is for one request.
    one_request: bool,
    /// When there is no room for one more, whoever has been there the longest goes; else whoever has been silent the
    /// longest, and those who have asked are waited for.
    oldest_goes: bool,
}

/// The stats socket: only those whom the file's mode lets in.
const OPERATORS: House =
    House { connection_time: Duration::from_secs(600), one_request: false, oldest_goes: false };
/// Metrics and signs of life over TCP: anybody, pods too. Whoever holds on to connections must keep nobody out who asks
/// whether natgate lives.
const ANYBODY: House =
    House { connection_time: Duration::from_secs(10), one_request: true, oldest_goes: true };
/// Pause after an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the stats socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// Another process answers there.
    #[error(
        "cannot open the stats socket ({0}): another natgate listens there; stop it, or use another --socket"
    )]
    InUse(PathBuf),
    /// Something else lies there.
    #[error(
        "cannot open the stats socket ({0}): there is a file that is not a socket; use another --socket"
    )]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error(
        "cannot open the stats socket ({path}): {source}; see that the directory exists and is writable"
    )]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refuses.
    #[error("cannot serve metrics ({address}): {source}; use another --metrics")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Who is at the other end of a connection, for the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer(Option<(u32, Option<i32>)>);

impl Peer {
    fn of(stream: &UnixStream) -> Self {
        Self(stream.peer_cred().ok().map(|peer| (peer.uid(), peer.pid())))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((user, Some(process))) => write!(f, "user {user}, process {process}"),
            Some((user, None)) => write!(f, "user {user}"),
            None => f.write_str("somebody"),
        }
    }
}

/// Open listeners. The socket's file vanishes with it.
#[derive(Debug)]
pub(crate) struct Server {
    unix: UnixListener,
    tcp: Option<TcpListener>,
    _file: SocketFile,
}

impl Server {
    /// Opens the stats socket at `path` (mode 0660), taking the place of a dead process's, and the TCP
    /// address for metrics. Connections wait until [`serve`](Self::serve).
    pub(crate) async fn bind(path: &Path, metrics: Option<SocketAddr>) -> Result<Self, ServeError> {
        let (unix, file) = bind_unix(path)?;
        let tcp = match metrics {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|source| ServeError::Metrics { address, source })?)
            }
            None => None,
        };
        Ok(Self { unix, tcp, _file: file })
    }

    /// The TCP address that metrics are served on.
    pub(crate) fn metrics_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Answers until [`Shared::ending`], and then ends what it has begun.
    pub(crate) async fn serve(self, shared: Arc<Shared>) {
        let looked_at = Arc::clone(&shared);
        let pools = Arc::new(PoolRows::new(Arc::clone(&shared)));
        let ending = || shared.ending.subscribe();
        let router = routes::all(Arc::clone(&shared), Arc::clone(&pools));
        let unix = accept_all(OPERATORS, router, ending(), async || {
            let (stream, _) = self.unix.accept().await?;
            let peer = Peer::of(&stream);
            Ok((stream, peer))
        });
        let tcp = async {
            let Some(listener) = &self.tcp else { return end(&mut ending()).await };
            let accept =
                async || listener.accept().await.map(|(stream, _)| (stream, Peer::default()));
            let router = routes::public(Arc::clone(&shared), pools);
            accept_all(ANYBODY, router, ending(), accept).await;
        };
        let looks = async {
            let mut interval = tokio::time::interval(load::INTERVAL);
            loop {
                let now = interval.tick().await;
                looked_at.loads.observe(&looked_at.counters, now.into_std());
            }
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(unix, tcp) } => {}
            () = looks => {}
        }
    }
}

/// Waits for the end.
async fn end(ending: &mut watch::Receiver<bool>) {
    // Where nobody is left to tell, it has come.
    let _ = ending.wait_for(|has_come| *has_come).await;
}

async fn accept_all<S>(
    house: House,
    router: Router,
    mut ending: watch::Receiver<bool>,
    accept: impl AsyncFn() -> io::Result<(S, Peer)>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut guests = Guests::default();
    loop {
        let accepted = tokio::select! {
            accepted = accept() => accepted,
            () = end(&mut ending) => return guests.leave().await,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the stats socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        guests.make_room(house).await;
        let asked = Arc::new(AtomicBool::new(false));
        let has_asked = Arc::clone(&asked);
        let router = router.clone().layer(Extension(peer)).layer(from_fn(
            move |request: Request, next: Next| {
                has_asked.store(true, Ordering::Relaxed);
                next.run(request)
            },
        ));
        let service = TowerToHyperService::new(router);
        let mut ending = ending.clone();
        guests.admit(asked, async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .keep_alive(!house.one_request)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let served = async {
                tokio::select! {
                    served = connection.as_mut() => return served,
                    () = end(&mut ending) => connection.as_mut().graceful_shutdown(),
                }
                connection.await
            };
            if let Ok(Err(error)) = tokio::time::timeout(house.connection_time, served).await {
                tracing::debug!(%error, "a client of the stats socket");
            }
        });
    }
}

/// The connections of a listener, oldest first.
#[derive(Default)]
struct Guests {
    tasks: JoinSet<()>,
    /// Whether they have asked anything, and how to end them.
    all: VecDeque<(Arc<AtomicBool>, AbortHandle)>,
}

impl Guests {
    fn admit(
        &mut self,
        asked: Arc<AtomicBool>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = self.tasks.spawn(connection);
        self.all.push_back((asked, task));
    }

    /// Returns when all have gone.
    async fn leave(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    /// Returns when there is room for one more, by the rules of the `house`: many who say nothing keep nobody out.
    async fn make_room(&mut self, house: House) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.all.retain(|(_, task)| !task.is_finished());
            if self.all.len() < CONNECTIONS {
                return;
            }
            // Whoever came just now gets the time to ask.
            tokio::task::yield_now().await;
            let silent = |(asked, _): &(Arc<AtomicBool>, AbortHandle)| {
                house.oldest_goes || !asked.load(Ordering::Relaxed)
            };
            let silent = self.all.iter().position(silent);
            if let Some((_, task)) = silent.and_then(|at| self.all.remove(at)) {
                task.abort();
            }
            self.tasks.join_next().await;
        }
    }
}

/// The socket's file, removed at the end if it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), ServeError> {
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(ServeError::NotASocket(path.to_owned()));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ServeError::InUse(path.to_owned()));
        }
    }
    // Nobody may connect before the mode is right, so the socket moves to its place afterwards.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let bind = || {
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o660))?;
        fs::rename(&temporary, path)?;
        let inode = fs::symlink_metadata(path)?.ino();
        Ok((listener, SocketFile { path: path.to_owned(), inode }))
    };
    bind().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        ServeError::Socket { path: path.to_owned(), source }
    })
}
