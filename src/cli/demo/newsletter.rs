//! The demo's recipient: a newsletter service on the loopback that is busy twice, then takes what it is told, and says
//! in a signed receipt that it is done.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::output::{self, GREEN, RED, RESET};
use crate::cli::{CliError, open_ledger, stores};
use crate::clock::{self, Stopwatch};
use crate::config::Config;
use crate::http::Api;
use crate::outbound;
use crate::propagate::Propagation;
use crate::recipient::Recipients;
use crate::recipient::webhook::{SigningKey, VerifyingKey, sign, verify};
use crate::types::Name;

/// The port that the configuration names, where nobody else has it.
const PORT: u16 = 7118;
const NAME: &str = "newsletter";
/// How often it is busy before it takes anything.
const BUSY: usize = 2;
/// How long it may take until all is said before something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);
/// A path of a socket that is longer does not fit (unix(7)).
const LONGEST_PATH: usize = 100;

/// Its address, taken before the configuration is written that names it.
pub(super) struct Address {
    listener: std::net::TcpListener,
}

impl Address {
    pub(super) fn take() -> Result<Address, CliError> {
        let failed = |source| CliError::Io { doing: "listen on the loopback".to_owned(), source };
        let bind = |port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = bind(PORT).or_else(|_| bind(0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Address { listener })
    }

    /// The configuration with this address in it.
    pub(super) fn put_into(&self, configuration: &str) -> String {
        let port = self.listener.local_addr().map_or(PORT, |address| address.port());
        configuration.replace(&format!("127.0.0.1:{PORT}"), &format!("127.0.0.1:{port}"))
    }
}

/// What messages and receipts are signed with: new for each demo.
pub(super) fn secret() -> String {
    use base64::Engine;
    let bytes = clock::random_bytes::<32>();
    format!("whsec_{}\n", base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// The service.
struct Service {
    signs: SigningKey,
    verifies: VerifyingKey,
    socket: std::path::PathBuf,
    seen: Mutex<Seen>,
    news: Notify,
}

/// What it has seen.
#[derive(Clone, Default)]
struct Seen {
    busy: usize,
    forged: usize,
    messages: usize,
    people: usize,
    receipts: usize,
}

impl Service {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let service = self.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| answer(service.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer);
                // Whoever breaks off is told nothing.
                connection.await.ok();
            });
        }
    }

    /// Whether a message is signed by expunged, and whom it is about.
    fn take(&self, headers: &HeaderMap, body: &[u8]) -> (StatusCode, Option<String>) {
        let mut seen = self.seen();
        let Ok(id) = verify(&self.verifies, headers, body, clock::now()) else {
            seen.forged += 1;
            return (StatusCode::UNAUTHORIZED, None);
        };
        if seen.busy < BUSY {
            seen.busy += 1;
            return (StatusCode::SERVICE_UNAVAILABLE, None);
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        seen.messages += 1;
        seen.people += body["data"]["subjects"].as_array().map_or(0, Vec::len);
        (StatusCode::ACCEPTED, Some(id.to_owned()))
    }

    /// Says that it has forgotten those whom a message was about.
    async fn send_receipt(&self, notice: String) {
        let now = clock::now();
        let said = json!({
            "type": "deletion.completed",
            "timestamp": now.to_string(),
            "data": { "notice": notice },
        });
        let (id, body) = (format!("receipt_{}", clock::new_id()), said.to_string());
        let seconds = now.as_second();
        let signature = sign([&self.signs], &id, seconds, body.as_bytes());
        let Ok(client) = outbound::over_socket(&self.socket) else { return };
        let request = client
            .post(format!("http://expunged/v1/receipts/{NAME}"))
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature)
            .body(body);
        if request.send().await.is_ok_and(|answer| answer.status().is_success()) {
            self.seen().receipts += 1;
        }
        self.news.notify_one();
    }
}

async fn answer(
    service: Arc<Service>,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let (status, taken) = service.take(&head.headers, &body);
    if let Some(notice) = taken {
        tokio::spawn(async move { service.send_receipt(notice).await });
    }
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = status;
    Ok(answer)
}

/// Has the service told whatever it has not been told, and waits for its receipts. Returns whether all is over.
pub(super) async fn show(
    config: &Config,
    address: Address,
    secret: &Path,
) -> Result<bool, CliError> {
    let failed = |source| CliError::Io { doing: "start the newsletter service".to_owned(), source };
    let broken = |why: String| CliError::Usage(format!("{}: {why}", secret.display()));
    let key = std::fs::read_to_string(secret).map_err(failed)?;
    let mut api = config.api.clone();
    if api.socket.as_os_str().len() > LONGEST_PATH {
        api.socket = std::env::temp_dir().join(format!("expunged-demo-{}.sock", clock::new_id()));
    }
    let service = Arc::new(Service {
        signs: SigningKey::parse(&key).map_err(broken)?,
        verifies: VerifyingKey::parse(&key).map_err(broken)?,
        socket: api.socket.clone(),
        seen: Mutex::default(),
        news: Notify::new(),
    });
    let listener = TcpListener::from_std(address.listener).map_err(failed)?;
    let serving = tokio::spawn(service.clone().serve(listener));

    let ledger = open_ledger(config).await?;
    let (rules, stores) = (Arc::new(config.rules.clone()), stores(config));
    let recipients = Arc::new(Recipients::new(&config.recipients, &stores));
    let mut api = Api::new(ledger.clone(), api, rules.clone(), Arc::new(Notify::new()));
    api.heed(recipients.clone());
    api.open();
    let watch = Stopwatch::start();
    let couriers = Propagation::start(&ledger, &recipients, &rules);
    // A name that is one.
    let name: Option<Name> = NAME.parse().ok();
    let is_over = loop {
        let states = ledger.recipient_states().await?;
        let state = name.as_ref().and_then(|name| states.get(name));
        if state.is_none_or(|state| state.open.is_empty()) {
            break true;
        }
        if watch.elapsed() > PATIENCE {
            break false;
        }
        tokio::time::timeout(Duration::from_millis(50), service.news.notified()).await.ok();
    };
    let took = watch.elapsed();
    couriers.stop().await;
    api.close().await;
    serving.abort();
    stores.close().await;
    ledger.close().await;
    let seen = service.seen().clone();
    tell(&seen, took, is_over);
    Ok(is_over && seen.forged == 0 && seen.receipts == seen.messages)
}

fn tell(seen: &Seen, took: Duration, is_over: bool) {
    let mut table = output::table(&["the newsletter service", "times", ""]);
    let number = |count: usize| output::right(output::number(count as u64));
    table.add_row(vec![
        "answered 503: busy".into(),
        number(seen.busy),
        "told again later, under the same id".into(),
    ]);
    table.add_row(vec![
        "answered 202: accepted".into(),
        number(seen.messages),
        format!("signed messages, about {} people", output::number(seen.people as u64)).into(),
    ]);
    table.add_row(vec![
        "sent its receipt: completed".into(),
        number(seen.receipts),
        "signed, and verified before it was read".into(),
    ]);
    output::print_table(table, &[]);
    println!();
    let (style, text) = if is_over {
        let text = format!(
            "The service has forgotten them all, {:.1} s after it was first told. Whom the messages were about is \
             gone from the ledger, too.",
            took.as_secs_f64()
        );
        (GREEN, text)
    } else {
        (RED, "The service has not said that it is done.".to_owned())
    };
    anstream::println!("{style}{}{RESET}", output::hanging(&text, 0));
}
