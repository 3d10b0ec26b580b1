//! Doors: the socket and the port at which requests come in.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::routes::{Desk, Token, router};
use crate::config::{ApiConfig, SecretError, TcpConfig};

/// How long requests may take to be answered when a door closes.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Connections at one door; further ones wait to be let in.
const CONNECTIONS: usize = 64;
/// How long a connection may say nothing, or take for the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes; and so much of a body is read at a time.
const LONGEST_HEAD: usize = 64 * 1024;
/// How long after an error the next connection is let in.
const AFTER_ERROR: Duration = Duration::from_millis(200);
/// A token that is shorter could be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Somebody else listens at the socket.
    #[error("another process answers at the socket {}: is a second daemon running?", .0.display())]
    Taken(PathBuf),
    /// There is something else.
    #[error("{} is not a socket and stays untouched: remove it, or name another `socket`", .0.display())]
    NoSocket(PathBuf),
    /// The system refused the socket.
    #[error("cannot {doing} the socket {}: {source}", path.display())]
    Socket {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no such group on this machine.
    #[error("there is no group `{0}` in /etc/group: name one that is there, or its number")]
    NoGroup(String),
    /// The system refused the port.
    #[error("cannot listen at {at}: {source}")]
    Port {
        /// Where.
        at: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
    /// The token cannot be read.
    #[error("the token cannot be read: {0}")]
    Token(#[from] SecretError),
    /// The token could be guessed.
    #[error("the token is shorter than 16 characters: make one with `openssl rand -hex 32`")]
    ShortToken,
}

/// Where a door is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Socket { path: PathBuf, mode: u32, group: Option<String> },
    Port(TcpConfig),
}

impl Place {
    pub(super) fn all(config: &ApiConfig) -> Vec<Place> {
        if !config.enabled {
            return Vec::new();
        }
        let ApiConfig { socket, mode, group, .. } = config.clone();
        let socket = Place::Socket { path: socket, mode, group };
        [socket].into_iter().chain(config.tcp.clone().map(Place::Port)).collect()
    }

    /// What one has to know there.
    fn token(&self) -> Result<Option<Token>, ApiError> {
        let Place::Port(tcp) = self else { return Ok(None) };
        let secret = tcp.token.read()?;
        if secret.expose_secret().len() < SHORTEST_TOKEN {
            return Err(ApiError::ShortToken);
        }
        Ok(Some(Token::new(&secret)))
    }

    /// Whether what is said there can be heard on a network.
    pub(super) fn is_for_all_to_hear(&self) -> bool {
        matches!(self, Place::Port(tcp) if !tcp.listen.ip().is_loopback())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Socket { path, .. } => write!(f, "{}", path.display()),
            Place::Port(tcp) => write!(f, "http://{}", tcp.listen),
        }
    }
}

/// A door that was opened.
pub(super) struct Door {
    pub(super) place: Place,
    token: Option<Token>,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl Door {
    pub(super) fn open(place: Place, desk: &Arc<Desk>) -> Result<Door, ApiError> {
        let closing = CancellationToken::new();
        let token = place.token()?;
        let router = router(desk.clone(), token.clone());
        let task = match &place {
            Place::Socket { path, mode, group } => {
                let listener = Socket::bind(path, *mode, group.as_deref())?;
                tokio::spawn(serve(listener, router, closing.clone()))
            }
            Place::Port(tcp) => {
                let listener =
                    bind(tcp.listen).map_err(|source| ApiError::Port { at: tcp.listen, source })?;
                tokio::spawn(serve(listener, router, closing.clone()))
            }
        };
        Ok(Door { place, token, closing, task })
    }

    /// Whether its token is still the one that is kept where the configuration says.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.place.token().is_ok_and(|token| token == self.token)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.task.is_finished()
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    /// Returns when everybody has left.
    pub(super) async fn closed(self) {
        self.task.await.ok();
    }
}

/// What lets connections in.
trait Listener: Send + 'static {
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for TcpListener {
    type Connection = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Connection> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Listener for Socket {
    type Connection = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Connection> {
        Ok(self.listener.accept().await?.0)
    }
}

/// Serves connections until the door closes and those that are inside have had their answers.
async fn serve(listener: impl Listener, router: Router, closing: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let inside = GracefulShutdown::new();
    loop {
        let let_in = async {
            // The semaphore is never closed.
            let permit = room.clone().acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            let_in = let_in => let_in,
            () = closing.cancelled() => break,
        };
        match accepted {
            Ok(connection) => attend(connection, permit, router.clone(), &inside),
            Err(error) => {
                // Such as too many open files: others have to close some first.
                tracing::warn!(%error, "a connection could not be let in");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
    drop(listener);
    inside.shutdown().await;
}

fn attend(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    permit: Option<OwnedSemaphorePermit>,
    router: Router,
    inside: &GracefulShutdown,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    let served = inside.watch(served);
    tokio::spawn(async move {
        // Why somebody hung up is theirs to know.
        served.await.ok();
        drop(permit);
    });
}

/// A port, without waiting: addresses are numbers, so nothing is looked up.
fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() {
        tokio::net::TcpSocket::new_v4()
    } else {
        tokio::net::TcpSocket::new_v6()
    }?;
    // Connections of a daemon that has just ended are not in the way.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(1024)
}

/// A socket that takes its file with it.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of its file.
    identity: (u64, u64),
}

impl Socket {
    /// Makes the socket. It gets its name only when its permissions are right, in one step; a file that
    /// a daemon has left which was killed goes in the same step.
    fn bind(path: &Path, mode: u32, group: Option<&str>) -> Result<Socket, ApiError> {
        let failed =
            |doing| move |source| ApiError::Socket { doing, path: path.to_owned(), source };
        let group = group.map(group_id).transpose()?;
        make_sure_nobody_answers(path)?;
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("make")(error));
            }
            _ => {}
        }
        let listener = unix::UnixListener::bind(&new).map_err(failed("make"))?;
        let ready = fs::set_permissions(&new, fs::Permissions::from_mode(0o600))
            .and_then(|()| group.map_or(Ok(()), |group| unix_chown(&new, group)))
            .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode)))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::metadata(&new))
            .and_then(|metadata| fs::rename(&new, path).map(|()| metadata));
        let metadata = ready.map_err(|error| {
            fs::remove_file(&new).ok();
            failed("give permissions to")(error)
        })?;
        let listener = UnixListener::from_std(listener).map_err(failed("listen at"))?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Socket { listener, path: path.to_owned(), identity })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another daemon may have put its own there.
        let there = fs::symlink_metadata(&self.path).map(|there| (there.dev(), there.ino()));
        if there.is_ok_and(|there| there == self.identity) {
            fs::remove_file(&self.path).ok();
        }
    }
}

fn unix_chown(path: &Path, group: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, None, Some(group))
}

fn make_sure_nobody_answers(path: &Path) -> Result<(), ApiError> {
    let failed = |source| ApiError::Socket { doing: "look at", path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(ApiError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match unix::UnixStream::connect(path) {
        Ok(_) => Err(ApiError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// The number of a group, which may be written as it is.
fn group_id(group: &str) -> Result<u32, ApiError> {
    let unknown = || ApiError::NoGroup(group.to_owned());
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let groups = fs::read_to_string("/etc/group").map_err(|_| unknown())?;
    let mut lines = groups.lines().map(|line| line.split(':'));
    let found = lines.find_map(|mut line| {
        let name = line.next()?;
        let id = line.nth(1)?;
        (name == group).then(|| id.parse().ok()).flatten()
    });
    found.ok_or_else(unknown)
}
