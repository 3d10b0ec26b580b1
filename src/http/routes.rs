//! What is answered to whom.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::BodyExt;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Rules;
use super::intake::{Heard, Intake};
use super::receipts::{Receipts, Verdict};
use crate::clock::{self, Stopwatch};
use crate::event::json::{self, Malformed};
use crate::ledger::{ReceiptReceived, Received};

/// The longest body, in bytes.
const LONGEST_BODY: usize = 1024 * 1024;
/// The longest receipt, in bytes.
const LONGEST_RECEIPT: usize = 64 * 1024;
/// Of a longer body, so many times as much is read and dropped: whoever still sends would not hear the answer.
const PATIENTLY: usize = 16;
/// How long a request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// When somebody may try again whose events were not taken.
const AGAIN: &str = "5";
/// Who asks for this is answered without a token: it says nothing.
const HEALTH: &str = "/healthz";
/// Nor does it take a token to send a receipt: its recipient has signed it.
const RECEIPTS: &str = "/v1/receipts/{recipient}";

/// What it takes to answer.
pub(super) struct Desk {
    pub(super) intake: Intake,
    pub(super) receipts: Receipts,
    pub(super) rules: watch::Receiver<Rules>,
}

/// What somebody has to know; kept as its sum, so that comparing takes the same time whatever they say.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token([u8; 32]);

impl Token {
    pub(super) fn new(secret: &SecretString) -> Token {
        Token(Sha256::digest(secret.expose_secret()).into())
    }

    fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) else {
            return false;
        };
        let Some((scheme, token)) = value.split_at_checked("Bearer ".len()) else { return false };
        let told: [u8; 32] = Sha256::digest(token).into();
        scheme.eq_ignore_ascii_case(b"Bearer ") && self.0.ct_eq(&told).into()
    }
}

/// Everything there is to ask; with a token, for those who know it, but for what anybody may ask.
pub(super) fn router(desk: Arc<Desk>, token: Option<Token>) -> Router {
    let nothing = || async {
        let text = "there is nothing here: events go to POST /v1/events, receipts to POST /v1/receipts/RECIPIENT";
        refusal(StatusCode::NOT_FOUND, text)
    };
    let wrong_method = || async {
        let text = "this cannot be done here: events go to POST /v1/events, receipts to POST /v1/receipts/RECIPIENT";
        refusal(StatusCode::METHOD_NOT_ALLOWED, text)
    };
    let guarded = Router::new()
        .route("/v1/events", post(take_in))
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method);
    let guarded = match token {
        Some(token) => guarded.layer(middleware::from_fn_with_state(token, guard)),
        None => guarded,
    };
    let open = Router::new()
        .route(RECEIPTS, post(receive))
        .route(HEALTH, get(|| async { "ok\n" }))
        .method_not_allowed_fallback(wrong_method);
    guarded.merge(open).with_state(desk)
}

async fn guard(State(token): State<Token>, request: Request, next: Next) -> Response {
    if token.is_in(request.headers()) {
        return next.run(request).await;
    }
    let text = "a token is needed: send `Authorization: Bearer …` with the one that `[api]` names";
    with(refusal(StatusCode::UNAUTHORIZED, text), WWW_AUTHENTICATE, "Bearer")
}

/// Takes a receipt in. Whoever is refused is shown out, so that many of them leave room for others.
async fn receive(
    State(desk): State<Arc<Desk>>,
    Path(recipient): Path<String>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = timeout(ANSWER_WITHIN, read(body, LONGEST_RECEIPT)).await else {
        let text = "the receipt did not come to its end within 10 seconds";
        return with(refusal(StatusCode::REQUEST_TIMEOUT, text), CONNECTION, "close");
    };
    let body = match body {
        Ok(Some(body)) => body,
        Ok(None) => {
            let text = "a receipt has at most 64 KiB";
            return with(refusal(StatusCode::PAYLOAD_TOO_LARGE, text), CONNECTION, "close");
        }
        Err(refusal) => return refusal,
    };
    match desk.receipts.take(&recipient, &head.headers, &body).await {
        Verdict::Taken(received) => {
            let says = match received {
                ReceiptReceived::Heeded => "heeded",
                ReceiptReceived::Replayed => "replayed: the same receipt was there before",
                ReceiptReceived::Known | ReceiptReceived::Unknown => {
                    "known: it says what is known, or comes too late to change anything"
                }
            };
            let json = serde_json::json!({ "receipt": says });
            (StatusCode::OK, [(CONTENT_TYPE, "application/json")], format!("{json}\n"))
                .into_response()
        }
        Verdict::Refused(status, why) => with(refusal(status, &why), CONNECTION, "close"),
        Verdict::Again(why) => {
            let text = format!("{why}: send the receipt again");
            with(refusal(StatusCode::SERVICE_UNAVAILABLE, &text), RETRY_AFTER, AGAIN)
        }
    }
}

async fn take_in(State(desk): State<Arc<Desk>>, request: Request) -> Response {
    match taken_in(&desk, request).await {
        Ok(received) => {
            let json = serde_json::json!({ "accepted": received.new, "known": received.known });
            (StatusCode::ACCEPTED, [(CONTENT_TYPE, "application/json")], format!("{json}\n"))
                .into_response()
        }
        Err(refusal) => {
            // Not what was wrong: that quotes what was sent.
            tracing::warn!(status = refusal.status().as_u16(), "events were refused");
            refusal
        }
    }
}

async fn taken_in(desk: &Desk, request: Request) -> Result<Received, Response> {
    let watch = Stopwatch::start();
    if !is_json(request.headers()) {
        let text = "events are sent as JSON: say `Content-Type: application/json`";
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let Ok(body) = timeout(ANSWER_WITHIN, read(request.into_body(), LONGEST_BODY)).await else {
        let text = "the request did not come to its end within 10 seconds";
        return Err(refusal(StatusCode::REQUEST_TIMEOUT, text));
    };
    let Some(body) = body? else {
        let text = "a request has at most 1 MiB: send the events in several";
        return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, text));
    };
    let rules = desk.rules.borrow().clone();
    let heard = heard(&body, &rules).map_err(|(status, text)| refusal(status, &text))?;
    let rest = ANSWER_WITHIN.saturating_sub(watch.elapsed());
    if let Ok(Ok(received)) = timeout(rest, desk.intake.take(heard)).await {
        return Ok(received);
    }
    let text = "the ledger does not answer, so the events are not acknowledged: send them again, with the same ids if they have any";
    Err(with(refusal(StatusCode::SERVICE_UNAVAILABLE, text), RETRY_AFTER, AGAIN))
}

/// What a text tells, for the rules that listen: all of it, or what is wrong.
fn heard(text: &[u8], rules: &Rules) -> Result<Heard, (StatusCode, String)> {
    let told = json::read(text).map_err(|error| {
        let status = match error {
            Malformed::Syntax(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        (status, error.to_string())
    })?;
    let of = told.len();
    let each = told.into_iter().zip(1..).map(|(one, position)| {
        one.heard_by(rules.values(), || clock::new_id().to_string()).map_err(|error| {
            let place = if of == 1 { String::new() } else { format!("event {position} of {of}: ") };
            (StatusCode::UNPROCESSABLE_ENTITY, format!("{place}{error}"))
        })
    });
    each.collect()
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json")
}

/// Reads a body to its end; `None` where it is longer.
async fn read(mut body: Body, longest: usize) -> Result<Option<Bytes>, Response> {
    let mut read = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(refusal(StatusCode::BAD_REQUEST, "the request broke off"));
        };
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > PATIENTLY * longest {
            break;
        }
        if length <= longest {
            read.extend_from_slice(&data);
        }
    }
    Ok((length <= longest).then(|| read.into()))
}

fn refusal(status: StatusCode, error: &str) -> Response {
    let json = serde_json::json!({ "error": error });
    (status, [(CONTENT_TYPE, "application/json")], format!("{json}\n")).into_response()
}

fn with(mut response: Response, name: HeaderName, value: &'static str) -> Response {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}
