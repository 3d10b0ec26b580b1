//! Receipts by HTTP, signed as Standard Webhooks are: every answer, and that what is not heeded changes nothing.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use expunged::config::{ApiConfig, Secret, TcpConfig};
use expunged::http::Api;
use expunged::ledger::{Ledger, Notice, ReceiptReceived};
use expunged::notice::{Answer, Receipt, State, Step};
use expunged::recipient::Recipients;
use expunged::recipient::webhook::{SigningKey, sign};
use expunged::store::Stores;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::poll;
use crate::house::{self, Talk};
use crate::place::{Place, SECRET};
use crate::recipients::recipient;

const TOKEN: &str = "a-token-of-many-characters";
const PATH: &str = "/v1/receipts/ads";

/// An interface with both doors, and the ledger behind it.
struct Desk {
    place: Place,
    api: Api,
    ledger: Ledger,
    address: SocketAddr,
}

impl Desk {
    async fn of(place: Place) -> Desk {
        place.says(&["run"]);
        let sent = Answer::Sent { job: None };
        place.answer("ads", &vec![sent; 5]).await;
        let (config, ledger) = place.open().await;
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        place.inner.secret("token", TOKEN);
        let token = Secret::File(place.inner.path("token"));
        let settings = ApiConfig {
            enabled: true,
            socket: place.inner.path("api.sock"),
            mode: 0o660,
            group: None,
            tcp: Some(TcpConfig { listen, token }),
        };
        let rules = Arc::new(house::rules());
        let mut api = Api::new(ledger.clone(), settings, rules, Arc::new(Notify::new()));
        let stores = Arc::new(Stores::new(config.stores.clone()));
        api.heed(Arc::new(Recipients::new(&config.recipients, &stores)));
        api.open();
        Desk { place, api, ledger, address: listen }
    }

    /// Sends a receipt over TCP, without a token.
    fn send(&self, headers: &str, body: &str) -> house::Answer {
        Talk::to(self.address).ask("POST", PATH, headers, body.as_bytes())
    }

    fn over_socket(&self, headers: &str, body: &str) -> house::Answer {
        Talk::at(&self.place.inner.path("api.sock")).ask("POST", PATH, headers, body.as_bytes())
    }

    async fn notice(&self, at: usize) -> Notice {
        self.place.notices("ads").await.swap_remove(at)
    }

    /// How often the audit log says that receipts were not heeded, by reason.
    async fn refused(&mut self) -> Vec<(String, u64)> {
        self.api.close().await;
        let log = self.place.inner.audit();
        let refused = log.iter().filter(|entry| entry["kind"] == "receipts_refused");
        let told = refused.map(|entry| {
            assert_eq!(entry["recipient"], "ads");
            (entry["reason"].as_str().unwrap().to_owned(), entry["receipts"].as_u64().unwrap())
        });
        told.collect()
    }
}

/// The headers of a receipt that is signed now, or so many seconds ago.
fn signed(id: &str, ago: i64, body: &str) -> String {
    let key = SigningKey::parse(SECRET).unwrap();
    let seconds = expunged::clock::now().as_second() - ago;
    let signature = sign([&key], id, seconds, body.as_bytes());
    format!(
        "webhook-id: {id}\r\nwebhook-timestamp: {seconds}\r\nwebhook-signature: {signature}\r\n"
    )
}

fn receipt(step: &str, notice: &Notice, reason: Option<&str>) -> String {
    let kind = format!("deletion.{step}");
    json!({ "type": kind, "data": { "notice": notice.id, "reason": reason } }).to_string()
}

fn says(answer: &house::Answer) -> String {
    answer.json()["receipt"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

async fn each_receipt_has_its_answer(place: Place) {
    let mut desk = Desk::of(place).await;
    let first = desk.notice(0).await;
    let body = receipt("accepted", &first, None);
    let headers = signed("r1", 0, &body);
    let answer = desk.send(&headers, &body);
    assert_eq!((answer.status, &*says(&answer)), (200, "heeded"), "{answer:?}");
    assert_eq!(desk.place.state(first.id).await, State::Accepted);
    // The very same again.
    let answer = desk.over_socket(&headers, &body);
    assert_eq!(answer.status, 200);
    assert!(says(&answer).starts_with("replayed"), "{answer:?}");
    let body = receipt("completed", &first, None);
    let answer = desk.over_socket(&signed("r2", 0, &body), &body);
    assert_eq!((answer.status, &*says(&answer)), (200, "heeded"));
    assert_eq!(desk.place.state(first.id).await, State::Completed);
    // Something else of what is over already.
    let late = receipt("denied", &first, Some("no"));
    let answer = desk.send(&signed("r3", 0, &late), &late);
    assert_eq!(answer.status, 200);
    assert!(says(&answer).starts_with("known"), "{answer:?}");
    assert_eq!(desk.place.state(first.id).await, State::Completed);

    let second = desk.notice(1).await;
    let body = receipt("exempt", &second, Some("its own consent"));
    assert_eq!(desk.send(&signed("r4", 0, &body), &body).status, 200);
    let shown = desk.place.says(&["notices", "show", &second.id.to_string()]);
    assert!(shown.contains("its own consent"), "{shown}");

    // What is not heeded.
    let third = desk.notice(2).await;
    let body = receipt("completed", &third, None);
    let old = signed("r5", 400, &body);
    let other = signed("r6", 0, "{}");
    for headers in ["", &old, &other, &signed("r7", 0, &body).replace("v1,", "v1a,")] {
        let answer = desk.send(headers, &body);
        assert_eq!(answer.status, 401, "{headers}: {answer:?}");
        assert!(answer.head.contains("connection: close"), "{answer:?}");
        assert!(!answer.body.contains(&third.id.to_string()), "{answer:?}");
    }
    for body in ["", "{}", "no json", r#"{"type":"deletion.forgotten","data":{"notice":"x"}}"#] {
        let answer = desk.send(&signed("r8", 0, body), body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
    }
    let mut stranger = third.clone();
    stranger.id = "00000000-0000-7000-8000-000000000000".parse().unwrap();
    let theirs = desk.place.notices("crm").await.swap_remove(0);
    for notice in [&stranger, &theirs] {
        let body = receipt("completed", notice, None);
        let answer = desk.send(&signed("r9", 0, &body), &body);
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(answer.error().contains("never sent this notice"), "{answer:?}");
    }
    assert_eq!(desk.place.state(third.id).await, State::Sent);
    assert_eq!(desk.place.state(theirs.id).await, State::Pending);

    let mut refused = desk.refused().await;
    refused.sort();
    let reasons: Vec<_> = refused.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "it is of a notice that the recipient was not sent",
            "it is too old, or from the future",
            "it was not understood",
            "its signature is missing or wrong",
            "the same receipt was there before",
        ]
    );
    desk.ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_receipt_has_its_answer_on_sqlite() {
    each_receipt_has_its_answer(Place::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_receipt_has_its_answer_on_postgres() {
    each_receipt_has_its_answer(Place::postgres().await).await;
}

/// Receipts of OpenDSR have no id of their own: what says the same twice is the same, until the notice is told again.
async fn what_is_said_of_another_attempt_is_no_replay(place: Place) {
    place.says(&["run"]);
    place.answer("ads", &vec![Answer::Sent { job: None }; 5]).await;
    let notices = place.notices("ads").await;
    let (_, ledger) = place.open().await;
    let ads = "ads".parse().unwrap();
    let refuse = async |notice: &Notice| {
        let refusal = Receipt {
            id: format!("{}:cancelled", notice.id),
            notice: notice.id,
            step: Step::Deny,
            reason: Some("no".to_owned()),
        };
        ledger.receive_receipt(&ads, &refusal, expunged::clock::now()).await.unwrap()
    };
    let [first, other, ..] = &notices[..] else { panic!("{notices:?}") };
    for notice in [first, other] {
        assert_eq!(refuse(notice).await, ReceiptReceived::Heeded);
        assert_eq!(refuse(notice).await, ReceiptReceived::Replayed);
    }
    place.says(&["notices", "retry", &first.id.to_string()]);
    place.answer("ads", &[Answer::Sent { job: None }]).await;
    assert_eq!(place.state(first.id).await, State::Sent);
    assert_eq!(refuse(first).await, ReceiptReceived::Heeded);
    assert_eq!(place.state(first.id).await, State::Denied);
    for notice in [first, other] {
        assert_eq!(refuse(notice).await, ReceiptReceived::Replayed);
    }
    ledger.close().await;
}

#[tokio::test]
async fn what_is_said_of_another_attempt_is_no_replay_on_sqlite() {
    what_is_said_of_another_attempt_is_no_replay(Place::sqlite().await).await;
}

#[tokio::test]
async fn what_is_said_of_another_attempt_is_no_replay_on_postgres() {
    what_is_said_of_another_attempt_is_no_replay(Place::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_tcp_a_receipt_needs_no_token_and_everything_else_does() {
    let mut desk = Desk::of(Place::sqlite().await).await;
    let notice = desk.notice(0).await;
    let body = receipt("completed", &notice, None);
    let headers = signed("r1", 0, &body);
    for path in [
        "/v1/events",
        "/v1/receipts",
        "/v1/receipts/",
        "/v1/receipts/ads/",
        "/v1/receipts/ads/more",
        "//v1/receipts/ads",
        "/v1/receipts/../events",
        "/v1/receipts%2fads",
        "/V1/receipts/ads",
        "/",
    ] {
        let answer = Talk::to(desk.address).ask("POST", path, &headers, body.as_bytes());
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{path}: {answer:?}");
    }
    assert_eq!(desk.place.state(notice.id).await, State::Sent);
    // Those that are no recipient, or send no receipts.
    for path in
        ["/v1/receipts/crm", "/v1/receipts/other", "/v1/receipts/%2e%2e", "/v1/receipts/A_B"]
    {
        let answer = Talk::to(desk.address).ask("POST", path, &headers, body.as_bytes());
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }
    let answer = Talk::to(desk.address).ask("GET", PATH, "", b"");
    assert_eq!(answer.status, 405, "{answer:?}");
    // A token does no harm, and no good.
    let with = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(desk.send(&with, &body).status, 401);
    assert_eq!(desk.send(&format!("{with}{headers}"), &body).status, 200);
    desk.api.close().await;
    desk.ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_heads_are_bounded() {
    let mut desk = Desk::of(Place::sqlite().await).await;
    let long = "x".repeat(64 * 1024 + 1);
    let answer = desk.send(&signed("r1", 0, &long), &long);
    assert_eq!(answer.status, 413, "{answer:?}");
    let fits = "x".repeat(64 * 1024);
    assert_eq!(desk.send(&signed("r1", 0, &fits), &fits).status, 400);
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let wide = format!("x: {}\r\n", "y".repeat(128 * 1024));
    for headers in [many, wide] {
        // It may hang up before everything was said.
        let answer = Talk::to(desk.address).try_ask("POST", PATH, &headers, b"");
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 431), "{answer:?}");
    }
    assert_eq!(Talk::to(desk.address).ask("GET", "/healthz", "", b"").status, 200);
    desk.api.close().await;
    desk.ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forged_receipts_writes_next_to_nothing_and_lets_events_in() {
    const EACH: u64 = 300;
    let mut desk = Desk::of(Place::sqlite().await).await;
    let before = desk.ledger.audit_size().await.unwrap();
    let body = receipt("completed", &desk.notice(0).await, None);
    let address = desk.address;
    let flood = |_| {
        let (body, forged) = (body.clone(), signed("r1", 0, "{}"));
        std::thread::spawn(move || {
            for _ in 0..EACH {
                let answer = Talk::to(address).ask("POST", PATH, &forged, body.as_bytes());
                assert_eq!(answer.status, 401);
            }
        })
    };
    let floods: Vec<_> = (0..8).map(flood).collect();
    let headers = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
    for number in 0..20 {
        let event = house::finished(&format!("e{number}"), "k");
        let answer = Talk::to(address).ask("POST", "/v1/events", &headers, event.as_bytes());
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    for flood in floods {
        flood.join().unwrap();
    }
    desk.api.close().await;
    let pool = desk.place.inner.ledger().await;
    let reason = "its signature is missing or wrong";
    let untold =
        pool.count(&format!("SELECT untold FROM refused_receipt WHERE reason = '{reason}'")).await;
    pool.close().await;
    let told = desk.refused().await;
    assert_eq!(told.len(), 1, "one entry, and the rest is counted: {told:?}");
    assert_eq!(told[0].1 + u64::try_from(untold).unwrap(), 8 * EACH, "each of them is counted");
    let grown = desk.ledger.audit_size().await.unwrap() - before;
    assert!(grown <= 2, "{grown} entries");
    desk.ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_does_not_answer_has_the_receipt_sent_again() {
    let mut desk = Desk::of(Place::sqlite().await).await;
    let notice = desk.notice(0).await;
    let body = receipt("completed", &notice, None);
    desk.ledger.close().await;
    let answer = desk.send(&signed("r1", 0, &body), &body);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.contains("retry-after: 5"), "{answer:?}");
    assert!(answer.error().contains("send the receipt again"), "{answer:?}");
    desk.api.close().await;
    assert_eq!(desk.place.state(notice.id).await, State::Sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_cannot_be_read_judges_nobody() {
    let mut desk = Desk::of(Place::sqlite().await).await;
    let body = receipt("completed", &desk.notice(0).await, None);
    std::fs::remove_file(desk.place.inner.path("ads-secret")).unwrap();
    let answer = desk.send(&signed("r1", 0, &body), &body);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.body.contains("ads-secret"), "where it is is nobody's business: {answer:?}");
    assert_eq!(desk.refused().await, []);
    desk.ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_takes_receipts_of_whom_a_reload_brings() {
    let place = Place::sqlite().await;
    place.says(&["run"]);
    place.answer("ads", &vec![Answer::Sent { job: None }; 5]).await;
    let notice = place.notices("ads").await.swap_remove(0);
    place.configure_with("", "subject = \"id\"");
    let mut daemon = place.inner.start();
    let socket = place.inner.path("api.sock");
    let body = receipt("completed", &notice, None);
    let send = |headers: &str| Talk::at(&socket).ask("POST", PATH, headers, body.as_bytes());
    assert_eq!(send(&signed("r1", 0, &body)).status, 404, "nobody is configured");
    place.configure(&place.recipients("https://ads.invalid/hooks", ""));
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("reloaded");
    assert_eq!(send("").status, 401);
    let answer = send(&signed("r1", 0, &body));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(place.state(notice.id).await, State::Completed);
    let log: Value = place.json(&["audit", "log", "--kind", "notices_settled"]);
    let of_ads = log.as_array().unwrap().iter().filter(|entry| entry["recipient"] == "ads");
    let states: Vec<_> = of_ads.map(|entry| &entry["state"]).collect();
    assert_eq!(states, ["completed"], "{log}");
    assert_eq!(place.inner.entries("receipts_refused"), 1, "written down before it ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_run_to_the_certificate() {
    let place = Place::sqlite().await;
    let (address, asked) =
        recipient("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let recipients = place.recipients(&format!("http://{address}/hooks"), "internal = true");
    place.configure(&recipients.replace("/bin/false", "/bin/true"));
    place.says(&["run"]);
    let wrong = place.refuses(&["certificate", "inactive"]);
    assert!(wrong.contains("ads: 5 of 5 notices open"), "{wrong}");
    let daemon = place.inner.start();
    let socket = place.inner.path("api.sock");
    for number in 0..5 {
        let (_, told) = asked.recv_timeout(house::LIMIT).unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told["type"], "data.deleted", "{told}");
        let body =
            json!({ "type": "deletion.completed", "data": { "notice": told["data"]["notice"] } });
        let body = body.to_string();
        let headers = signed(&format!("r{number}"), 0, &body);
        // It may come before the daemon has written down that the recipient was told.
        let answer = Talk::at(&socket).ask("POST", PATH, &headers, body.as_bytes());
        assert_eq!((answer.status, &*says(&answer)), (200, "heeded"), "{answer:?}");
    }
    let pool = place.inner.ledger().await;
    let open = "SELECT count(*) FROM notice WHERE state NOT IN ('completed', 'exempt')";
    poll(&pool, open, |open| open == 0).await;
    pool.close().await;
    assert_eq!(daemon.stop().code(), Some(0));
    let json = place.json(&["certificate", "inactive"]);
    assert_eq!(json["recipients"][0]["completed"], 5, "{json}");
    assert_eq!(json["recipients"][1]["exempt"], 1, "{json}");
}
