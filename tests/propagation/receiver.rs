//! A recipient on the loopback that keeps what it is told, and behaves as a test wants.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use expunged::clock::Stopwatch;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::Notify;

use crate::harness::LIMIT;

/// What somebody was told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The notice.
    pub(crate) id: String,
    /// Which time it was, counted from 1.
    pub(crate) time: usize,
    /// The identities of each subject.
    pub(crate) subjects: Vec<HashMap<String, String>>,
}

/// What the recipient does about it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// It answers with this status.
    Answer(u16),
    /// It asks to come again after so many seconds.
    TooMany(u64),
    /// It sends whoever comes elsewhere.
    Redirect(&'static str),
    /// It says nothing.
    Hang,
    /// It breaks the connection off.
    Reset,
    /// Its answer has no end.
    Endless,
}

type Behaviour = Box<dyn Fn(&Told) -> Act + Send + Sync>;

struct Inner {
    behaviour: Behaviour,
    told: Mutex<Vec<Told>>,
    times: Mutex<HashMap<String, usize>>,
    news: Notify,
}

/// A recipient, in a thread of its own; it is there until the test's process ends.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    inner: Arc<Inner>,
}

impl Receiver {
    pub(crate) fn new(behaviour: impl Fn(&Told) -> Act + Send + Sync + 'static) -> Receiver {
        let inner = Arc::new(Inner {
            behaviour: Box::new(behaviour),
            told: Mutex::default(),
            times: Mutex::default(),
            news: Notify::new(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/expunged/hook", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let serving = inner.clone();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, serving));
        });
        Receiver { url, inner }
    }

    /// One that is somebody else's: nothing is kept of what it is told.
    pub(crate) fn at(url: &str) -> Receiver {
        Receiver { url: url.to_owned(), ..Receiver::well() }
    }

    /// One that is well.
    pub(crate) fn well() -> Receiver {
        Receiver::new(|_| Act::Answer(204))
    }

    /// What it was told so far.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.inner.told.lock().unwrap().clone()
    }

    /// The values by which it knows the subjects that it was told of and took, each with the notices that named it.
    pub(crate) fn subjects(&self, name: &str) -> HashMap<String, Vec<String>> {
        let mut known: HashMap<String, Vec<String>> = HashMap::new();
        for told in self.inner.told.lock().unwrap().iter() {
            for subject in &told.subjects {
                known.entry(subject[name].clone()).or_default().push(told.id.clone());
            }
        }
        known
    }

    /// Waits until what it was told will do.
    pub(crate) async fn until(&self, what: &str, will_do: impl Fn(&[Told]) -> bool) {
        let watch = Stopwatch::start();
        loop {
            let news = self.inner.news.notified();
            if will_do(&self.inner.told.lock().unwrap()) {
                return;
            }
            let rest = LIMIT.saturating_sub(watch.elapsed());
            let came = tokio::time::timeout(rest, news).await;
            assert!(came.is_ok(), "in vain: {what}; it was told {}", self.told().len());
        }
    }
}

async fn serve(listener: std::net::TcpListener, inner: Arc<Inner>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let inner = inner.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(inner.clone(), request));
            // A client that is killed breaks its connections off.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(inner: Arc<Inner>, request: Request<Incoming>) -> Result<Answer, std::io::Error> {
    let id = request.headers()["webhook-id"].to_str().unwrap().to_owned();
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let subjects = serde_json::from_value(body["data"]["subjects"].clone()).unwrap_or_default();
    let time = {
        let mut times = inner.times.lock().unwrap();
        let time = times.entry(id.clone()).or_default();
        *time += 1;
        *time
    };
    let told = Told { id, time, subjects };
    let act = (inner.behaviour)(&told);
    inner.told.lock().unwrap().push(told);
    inner.news.notify_waiters();
    let empty = || Full::new(Bytes::new()).boxed_unsync();
    let builder = Response::builder();
    let answer = match act {
        Act::Answer(status) => builder.status(status).body(empty()),
        Act::TooMany(seconds) => builder.status(429).header("retry-after", seconds).body(empty()),
        Act::Redirect(to) => builder.status(302).header("location", to).body(empty()),
        Act::Hang => {
            tokio::time::sleep(Duration::from_hours(1)).await;
            builder.status(200).body(empty())
        }
        Act::Reset => return Err(std::io::Error::other("as the test wants")),
        Act::Endless => {
            let endless = tokio_stream::iter(std::iter::repeat_with(|| {
                Ok(hyper::body::Frame::data(Bytes::from_static(&[b'x'; 4_096])))
            }));
            let endless = http_body_util::StreamBody::new(endless).boxed_unsync();
            builder.status(200).body(endless)
        }
    };
    Ok(answer.unwrap())
}
