//! A server that does as it is told, certificates, and a recipient in a line.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use expunged::config::{Config, InputFile};
use expunged::notice::{Answer, Identities, Message};
use expunged::recipient::{Recipient, Recipients};
use expunged::store::Stores;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A shared secret of 24 bytes, as the specification's own example has it.
pub(crate) const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// What nobody must be shown.
const PRIVATE: [&str; 5] = ["anna@example.org", "u-1001", "C2FVsBQI", "hunter2", "/secret-path"];

// --- what is told ---------------------------------------------------------------------------------

pub(crate) fn now() -> Timestamp {
    expunged::clock::now()
}

pub(crate) fn person(identities: &[(&str, &str)]) -> Identities {
    let entries = identities.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Identities(entries.collect())
}

pub(crate) fn about(people: Vec<Identities>) -> Message {
    let created_at = "2026-11-28T12:00:00.25Z".parse().unwrap();
    let rule = "inactive-accounts".parse().unwrap();
    Message { id: expunged::clock::new_id(), rule, created_at, about: people }
}

pub(crate) fn anna() -> Message {
    about(vec![person(&[("email", "anna@example.org"), ("user_id", "u-1001")])])
}

/// The only recipient of a configuration.
pub(crate) fn recipient(folder: &Path, text: &str) -> Arc<Recipient> {
    let file = InputFile { path: folder.join("expunged.toml"), bytes: text.as_bytes().to_vec() };
    let config = Config::parse(vec![file], folder, std::iter::empty());
    let config = config.unwrap_or_else(|error| panic!("{error}"));
    let stores = Arc::new(Stores::new(config.stores));
    let recipients = Recipients::new(&config.recipients, &stores);
    let (_, recipient) = recipients.iter().next().expect("there is one");
    recipient.clone()
}

/// Puts a secret into a file that only its owner reads; gives its reference.
pub(crate) fn secret(folder: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!("{{ file = \"{}\" }}", path.display())
}

/// The words of an answer, which show nothing private.
#[track_caller]
pub(crate) fn shown(answer: &Answer) -> String {
    let text = format!("{answer:?}");
    for private in PRIVATE {
        assert!(!text.contains(private), "{private} is shown: {text}");
    }
    text
}

/// Whether it is to be told again later, and whether it is down.
#[track_caller]
pub(crate) fn later(answer: &Answer) -> (Option<Duration>, bool) {
    shown(answer);
    match answer {
        Answer::Later { after, is_down, .. } => (*after, *is_down),
        other => panic!("not later: {other:?}"),
    }
}

// --- a server that does as it is told --------------------------------------------------------------

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// Which connection of the server's it came over.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What a server does with a request.
pub(crate) enum Act {
    /// Answers: a status, headers, a body.
    Answer(u16, Vec<(String, String)>, String),
    /// Sends these bytes and closes.
    Raw(Vec<u8>),
    /// Breaks off.
    Reset,
    /// Says nothing until the client has gone.
    Silence,
    /// Sends these bytes over and over until the client has gone.
    Endless(Vec<u8>, Vec<u8>),
}

pub(crate) fn status(status: u16) -> Act {
    Act::Answer(status, Vec::new(), String::new())
}

pub(crate) fn json(status: u16, body: &serde_json::Value) -> Act {
    Act::Answer(status, Vec::new(), body.to_string())
}

pub(crate) fn with(status: u16, name: &str, value: &str) -> Act {
    Act::Answer(status, vec![(name.to_owned(), value.to_owned())], String::new())
}

/// A server on the loopback; gone when dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
    /// Notified when a client has left a server that says nothing.
    pub(crate) left: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn new(act: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Server {
        Server::start(None, act).await
    }

    /// With TLS, by a certificate and its key.
    pub(crate) async fn tls(
        certificate: &Certificate,
        act: impl Fn(&Request) -> Act + Send + Sync + 'static,
    ) -> Server {
        let chain = CertificateDer::pem_file_iter(&certificate.certificate).unwrap();
        let chain: Vec<_> = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
        let provider = tokio_rustls::rustls::crypto::ring::default_provider();
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Server::start(Some(TlsAcceptor::from(Arc::new(config))), act).await
    }

    async fn start(
        tls: Option<TlsAcceptor>,
        act: impl Fn(&Request) -> Act + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, left) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::new(Notify::new()));
        let (requests, gone, act) = (seen.clone(), left.clone(), Arc::new(act));
        let task = tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((stream, _)) = listener.accept().await {
                connection += 1;
                let (requests, gone, act) = (requests.clone(), gone.clone(), act.clone());
                let tls = tls.clone();
                tokio::spawn(async move {
                    let talk = Talk { connection, requests, gone };
                    match tls {
                        None => talk.serve(stream, &*act).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                talk.serve(stream, &*act).await;
                            }
                        }
                    }
                });
            }
        });
        Server { port, seen, left, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Request {
        self.seen().pop().expect("something came")
    }
}

struct Talk {
    connection: usize,
    requests: Arc<Mutex<Vec<Request>>>,
    gone: Arc<Notify>,
}

impl Talk {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        act: &(impl Fn(&Request) -> Act + ?Sized),
    ) {
        while let Some(request) = self.read(&mut stream).await {
            self.requests.lock().unwrap().push(request.clone());
            match act(&request) {
                Act::Answer(status, headers, body) => {
                    let mut text =
                        format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
                    for (name, value) in headers {
                        text.push_str(&format!("{name}: {value}\r\n"));
                    }
                    text.push_str("\r\n");
                    text.push_str(&body);
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Act::Raw(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.shutdown().await;
                    return;
                }
                Act::Reset => return,
                Act::Silence => {
                    let mut rest = [0; 1];
                    // Nothing more comes but the client's leave.
                    let _ = stream.read(&mut rest).await;
                    self.gone.notify_one();
                    return;
                }
                Act::Endless(head, again) => {
                    let _ = stream.write_all(&head).await;
                    while stream.write_all(&again).await.is_ok() {}
                    self.gone.notify_one();
                    return;
                }
            }
        }
    }

    async fn read(&self, stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            match stream.read(&mut buffer).await {
                Ok(length @ 1..) => bytes.extend_from_slice(&buffer[..length]),
                _ => return None,
            }
        };
        let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
        let mut lines = text.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
        let mut body = bytes.split_off(head + 4);
        while body.len() < length {
            match stream.read(&mut buffer).await {
                Ok(read @ 1..) => body.extend_from_slice(&buffer[..read]),
                _ => return None,
            }
        }
        let body = String::from_utf8(body).unwrap();
        Some(Request { method, path, headers, body, connection: self.connection })
    }
}

// --- certificates ---------------------------------------------------------------------------------

/// A certificate and its key, in files.
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// An authority with a name; of RSA, as OpenDSR wants it.
pub(crate) fn authority(folder: &Path) -> Certificate {
    let made = Certificate { certificate: folder.join("ca.crt"), key: folder.join("ca.key") };
    // Two of the same name would be taken for one that signs wrongly.
    let subject = format!("/CN=authority{}", folder.file_name().unwrap().to_str().unwrap());
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        &subject,
        "-keyout",
        path(&made.key),
        "-out",
        path(&made.certificate),
    ]);
    made
}

/// A certificate for a name (`DNS:localhost`), signed by an authority, that lasts so many days.
pub(crate) fn signed(
    folder: &Path,
    file: &str,
    by: &Certificate,
    names: &str,
    days: &str,
) -> Certificate {
    let made = Certificate {
        certificate: folder.join(format!("{file}.crt")),
        key: folder.join(format!("{file}.key")),
    };
    let (request, extensions) =
        (folder.join(format!("{file}.csr")), folder.join(format!("{file}.ext")));
    std::fs::write(&extensions, format!("subjectAltName = {names}\n")).unwrap();
    openssl(&[
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=a server",
        "-keyout",
        path(&made.key),
        "-out",
        path(&request),
    ]);
    openssl(&[
        "x509",
        "-req",
        "-days",
        days,
        "-in",
        path(&request),
        "-CA",
        path(&by.certificate),
        "-CAkey",
        path(&by.key),
        "-CAcreateserial",
        "-out",
        path(&made.certificate),
        "-extfile",
        path(&extensions),
    ]);
    made
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn openssl(args: &[&str]) -> Vec<u8> {
    run("openssl", args, b"")
}

/// Runs a program to its good end; gives what it printed.
pub(crate) fn run(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let (good, printed) = try_run(program, args, input);
    assert!(good, "{program} {args:?}: {}", String::from_utf8_lossy(&printed));
    printed
}

/// Runs a program; says whether it ended well, and what it printed or complained of.
pub(crate) fn try_run(program: &str, args: &[&str], input: &[u8]) -> (bool, Vec<u8>) {
    use std::io::Write;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("{program} is needed ({error}): run the tests through tests/run")
    });
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), printed)
}
