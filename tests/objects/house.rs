//! The servers, and what is put into them.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use expunged::clock;
use expunged::path::Template;
use expunged::store::objects::{Credentials, Entry, Objects, Service, Settings};
use expunged::store::search::{Age, Limits, Search};
use expunged::store::sql::{Access, Bounds};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use reqwest::Client;
use s3s::access::S3Access;
use s3s::auth::SimpleAuth;
use s3s::dto::ListObjectsInput;
use s3s::service::S3ServiceBuilder;
use s3s::{S3Request, S3Result};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) const BUCKET: &str = "photos";
pub(crate) const KEY_ID: &str = "AKIDEXPUNGED";
pub(crate) const SECRET: &str = "not-a-secret-outside-of-tests";

pub(crate) fn settings(url: &str, bucket: &str) -> Settings {
    Settings {
        service: Service::S3,
        bucket: bucket.to_owned(),
        prefix: None,
        endpoint: Some(url.to_owned()),
        region: Some("eu-central-1".to_owned()),
        bucket_in_host: false,
        credentials: Some(Credentials { id: KEY_ID.to_owned(), secret: SECRET.into() }),
        timeout: Duration::from_secs(30),
    }
}

pub(crate) fn open(settings: Settings) -> Objects {
    Objects::open("photos".parse().unwrap(), settings, Access::ReadWrite).unwrap()
}

/// Looks for what these mean and is older than so many hours.
pub(crate) fn older(templates: &[&str], hours: i64) -> Arc<Search> {
    let now = clock::now();
    started_before(templates, now - SignedDuration::from_hours(hours))
}

pub(crate) fn started_before(templates: &[&str], cutoff: Timestamp) -> Arc<Search> {
    // The servers' clock is this one, but for the fractions of a second that they leave out.
    let bounds = Bounds { cutoff, now: clock::now() + SignedDuration::from_hours(2) };
    let earliest = "1990-01-01".parse().unwrap();
    Arc::new(Search {
        templates: parsed(templates),
        age: Age::Modified(Limits { bounds, earliest }),
        kept: Vec::new(),
    })
}

pub(crate) fn named(templates: &[&str]) -> Arc<Search> {
    Arc::new(Search::named(parsed(templates)))
}

fn parsed(templates: &[&str]) -> Vec<Template> {
    templates.iter().map(|template| template.parse().unwrap()).collect()
}

pub(crate) fn paths(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8(entry.path.clone()).unwrap()).collect()
}

/// Which of these are there.
pub(crate) async fn look(objects: &Objects, which: &[(Vec<u8>, Option<String>)]) -> Vec<bool> {
    objects.look(which).await.unwrap().iter().map(|found| !found.is_empty()).collect()
}

/// Walks to the end, batch by batch.
pub(crate) async fn walked(objects: &Objects, search: &Arc<Search>, most: usize) -> Vec<Entry> {
    let mut walk = objects.walk(search.clone());
    let mut all = Vec::new();
    while let Some(some) = walk.next(most).await.unwrap() {
        assert!(!some.is_empty() && some.len() <= most);
        all.extend(some);
    }
    all
}

// --- s3s-fs ---------------------------------------------------------------------------------------

/// s3s-fs, over a folder of its own; the objects are files in it.
pub(crate) struct Files {
    pub(crate) folder: TempDir,
    pub(crate) url: String,
    runtime: Option<Runtime>,
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// s3s-fs would take rclone's empty delimiter for one.
struct Lenient;

#[async_trait::async_trait]
impl S3Access for Lenient {
    async fn list_objects(&self, request: &mut S3Request<ListObjectsInput>) -> S3Result<()> {
        request.input.delimiter = request.input.delimiter.take().filter(|text| !text.is_empty());
        Ok(())
    }
}

impl Files {
    pub(crate) fn serve() -> Files {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        service.set_access(Lenient);
        let service = service.build();
        let (runtime, listener) = listen();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service.clone());
                tokio::spawn(served);
            }
        });
        Files { folder, url, runtime: Some(runtime) }
    }

    /// Puts an object there that was last modified so many hours ago.
    pub(crate) fn put(&self, key: &str, hours: u64) {
        self.put_in(BUCKET, key, hours);
    }

    pub(crate) fn put_in(&self, bucket: &str, key: &str, hours: u64) {
        let path = self.folder.path().join(bucket).join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        file.set_modified(SystemTime::from(clock::now()) - Duration::from_secs(hours * 3600))
            .unwrap();
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.folder.path().join(BUCKET).join(key).exists()
    }

    pub(crate) fn open(&self) -> Objects {
        open(settings(&self.url, BUCKET))
    }
}

fn listen() -> (Runtime, TcpListener) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let guard = runtime.enter();
    let listener = TcpListener::from_std(listener).unwrap();
    drop(guard);
    (runtime, listener)
}

// --- a proxy that misbehaves ----------------------------------------------------------------------

/// What the fake does with a request.
pub(crate) enum Act {
    /// Lets it through.
    Pass,
    /// Ends the connection without a word.
    Drop,
    /// Lets it through, and ends the connection instead of passing the answer on.
    DropAnswer,
    /// Answers itself.
    Answer(u16, String),
}

/// A fake in front of a real server.
pub(crate) struct Fake {
    pub(crate) url: String,
    pub(crate) requests: Arc<AtomicUsize>,
    runtime: Option<Runtime>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Decides what to do with a request, by its number, its method and its query.
type Decide = Arc<dyn Fn(usize, &str, &str) -> Act + Send + Sync>;

impl Fake {
    pub(crate) fn before(
        server: &str,
        decide: impl Fn(usize, &str, &str) -> Act + Send + Sync + 'static,
    ) -> Fake {
        let (runtime, listener) = listen();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let (decide, server): (Decide, String) = (Arc::new(decide), server.to_owned());
        let counted = requests.clone();
        let client = client();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (decide, server, counted, client) =
                    (decide.clone(), server.clone(), counted.clone(), client.clone());
                let serve = service_fn(move |request| {
                    let number = counted.fetch_add(1, Ordering::SeqCst);
                    let query = request.uri().query().unwrap_or_default().to_owned();
                    let act = decide(number, request.method().as_str(), &query);
                    answer(act, request, server.clone(), client.clone())
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), serve);
                tokio::spawn(served);
            }
        });
        Fake { url, requests, runtime: Some(runtime) }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dropped on purpose")
    }
}

impl std::error::Error for Dropped {}

async fn answer(
    act: Act,
    request: Request<Incoming>,
    server: String,
    client: Client,
) -> Result<Response<Full<Bytes>>, Dropped> {
    match act {
        Act::Drop => Err(Dropped),
        Act::Answer(status, body) => {
            let answer = Response::builder().status(status).body(Full::from(body));
            Ok(answer.unwrap())
        }
        Act::DropAnswer => {
            pass(request, &server, &client).await;
            Err(Dropped)
        }
        Act::Pass => Ok(pass(request, &server, &client).await),
    }
}

/// With all its headers, the host's name among them: the signature covers it.
async fn pass(request: Request<Incoming>, server: &str, client: &Client) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let url = format!("{server}{}", head.uri.path_and_query().unwrap());
    let sent = client.request(head.method, url).headers(head.headers).body(body).send().await;
    let answer = sent.unwrap();
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != "transfer-encoding" {
            response = response.header(name, value);
        }
    }
    response.body(Full::from(answer.bytes().await.unwrap())).unwrap()
}

fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().build().unwrap()
}

pub(crate) fn error_answer(code: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>x</Message></Error>")
}

/// An address on which nobody listens.
pub(crate) fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    format!("http://{address}")
}

// --- moto -----------------------------------------------------------------------------------------

/// A bucket of its own in moto.
pub(crate) struct Moto {
    pub(crate) url: String,
    pub(crate) bucket: String,
    client: Client,
}

impl Moto {
    pub(crate) async fn plain() -> Moto {
        Moto::new(&[]).await
    }

    pub(crate) async fn versioned() -> Moto {
        let moto = Moto::new(&[]).await;
        let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        moto.send("PUT", "?versioning", &[], on).await;
        moto
    }

    /// With versions, and with Object Lock.
    pub(crate) async fn locking() -> Moto {
        Moto::new(&[("x-amz-bucket-object-lock-enabled", "true")]).await
    }

    async fn new(headers: &[(&str, &str)]) -> Moto {
        let url = crate::support::environment("EXPUNGED_TEST_MOTO_URL");
        let bucket = format!("b{}", clock::new_id().simple());
        let moto = Moto { url, bucket, client: client() };
        let region = "<CreateBucketConfiguration><LocationConstraint>eu-central-1</LocationConstraint></CreateBucketConfiguration>";
        moto.send("PUT", "", headers, region).await;
        moto
    }

    pub(crate) fn open(&self) -> Objects {
        open(settings(&self.url, &self.bucket))
    }

    /// Puts an object there, and says which version it is.
    pub(crate) async fn put(&self, key: &str) -> String {
        self.put_with(key, &[]).await
    }

    pub(crate) async fn put_with(&self, key: &str, headers: &[(&str, &str)]) -> String {
        let answer = self.send("PUT", &encoded(key), headers, "x").await;
        version_of(&answer)
    }

    /// Deletes as people do: where there are versions, a marker is put on top. Says which.
    pub(crate) async fn hide(&self, key: &str) -> String {
        version_of(&self.send("DELETE", &encoded(key), &[], "").await)
    }

    /// Deletes one version for good.
    #[allow(dead_code, reason = "it is there for tests/backups")]
    pub(crate) async fn remove(&self, key: &str, version: &str) {
        let rest = format!("{}?versionId={version}", encoded(key));
        self.send("DELETE", &rest, &[], "").await;
    }

    /// Whether a person would find it.
    pub(crate) async fn has(&self, key: &str) -> bool {
        let url = format!("{}/{}/{}", self.url, self.bucket, encoded(key));
        let asked = self.client.head(url).header("authorization", somebody());
        asked.send().await.unwrap().status().is_success()
    }

    /// How many versions and how many markers there are in all.
    pub(crate) async fn kept(&self) -> (usize, usize) {
        let list = self.send("GET", "?versions=", &[], "").await.text().await.unwrap();
        (list.matches("<Version>").count(), list.matches("<DeleteMarker>").count())
    }

    async fn send(
        &self,
        method: &str,
        rest: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> reqwest::Response {
        let url = format!("{}/{}/{rest}", self.url, self.bucket);
        let url = if rest.is_empty() { url.trim_end_matches('/').to_owned() } else { url };
        let mut request = self.client.request(method.parse().unwrap(), url).body(body.to_owned());
        request = request.header("authorization", somebody());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        if !status.is_success() {
            panic!("moto answered {status} to {method} {rest}: {}", answer.text().await.unwrap());
        }
        answer
    }
}

/// A mock does not check who asks, but wants to be asked by somebody.
fn somebody() -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    )
}

fn version_of(answer: &reqwest::Response) -> String {
    let version = answer.headers().get("x-amz-version-id");
    version.map(|version| version.to_str().unwrap().to_owned()).unwrap_or_default()
}

fn encoded(key: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(byte);
    key.bytes()
        .map(
            |byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") },
        )
        .collect()
}
