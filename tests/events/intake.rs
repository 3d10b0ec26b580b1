//! What is sent: taken as a whole and durable, or refused as a whole, with the right status and words.

use crate::house::{Answer, House, Talk, finished, name};
use crate::on_both;

on_both!(
    what_is_acknowledged_is_in_the_ledger_and_a_duplicate_is_known,
    nothing_that_is_refused_leaves_a_trace,
    an_array_is_taken_whole_or_not_at_all,
    a_ledger_that_is_locked_takes_nothing_and_says_so,
);

async fn what_is_acknowledged_is_in_the_ledger_and_a_duplicate_is_known(house: House) {
    let mut api = house.api().await;
    let mut talk = Talk::at(&house.socket());
    let answer = talk.post(&finished("a", "k1"));
    assert_eq!((answer.status, answer.body.trim()), (202, r#"{"accepted":1,"known":0}"#));
    assert!(answer.head.contains("content-type: application/json"));
    let ledger = house.ledger().await;
    for rule in ["photos", "jobs"] {
        let pending = ledger.pending_events(&name(rule), 10).await.unwrap();
        assert_eq!((pending.len(), pending[0].values["upload_key"].as_str()), (1, "k1"));
    }
    let again = talk.post(&finished("a", "k1"));
    assert_eq!((again.status, again.body.trim()), (202, r#"{"accepted":0,"known":1}"#));
    assert_eq!(house.count("event").await, 2);
    // Without an id, each is an event of its own.
    let anonymous = r#"{"event": "synthesis.failed", "values": {"upload_key": "k2"}}"#;
    for _ in 0..2 {
        assert_eq!(talk.post(anonymous).json()["accepted"], 1);
    }
    let kind = "Content-Type: application/cloudevents+json; charset=utf-8\r\n";
    let cloud = r#"{"specversion": "1.0", "type": "synthesis.failed", "source": "/s", "id": "a", "data": {"upload_key": "k3"}}"#;
    let answer = talk.ask("POST", "/v1/events", kind, cloud.as_bytes());
    assert_eq!(answer.json()["accepted"], 1, "{answer:?}");
    assert_eq!(house.count("event WHERE rule = 'photos'").await, 4);
    api.close().await;
}

/// Method, path, headers and body; status, and words of the answer.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, &'a str);

async fn nothing_that_is_refused_leaves_a_trace(house: House) {
    let mut api = house.api().await;
    let json = "Content-Type: application/json\r\n";
    let good = finished("a", "k1");
    let large = format!(
        r#"{{"event": "synthesis.failed", "values": {{"x": "{}"}}}}"#,
        "x".repeat(1_048_576)
    );
    let one_wrong = format!("[{good}, {}]", good.replace("upload_key", "upload_kye"));
    let cases: [Case; 14] = [
        ("POST", "/v1/events", json, b"", 400, "not JSON"),
        ("POST", "/v1/events", json, b"{\"event\"", 400, "not JSON"),
        ("POST", "/v1/events", json, b"\xff\xfe{}", 400, "not JSON"),
        ("POST", "/v1/events", json, b"{}", 422, "lacks `event`"),
        ("POST", "/v1/events", json, b"[]", 422, "empty"),
        ("POST", "/v1/events", json, br#"{"event": "payment.done"}"#, 422, "no rule listens"),
        ("POST", "/v1/events", json, one_wrong.as_bytes(), 422, "event 2 of 2"),
        ("POST", "/v1/events", json, large.as_bytes(), 413, "1 MiB"),
        ("POST", "/v1/events", "", good.as_bytes(), 415, "Content-Type"),
        (
            "POST",
            "/v1/events",
            "Content-Type: text/plain\r\n",
            good.as_bytes(),
            415,
            "Content-Type",
        ),
        ("POST", "/v1/event", json, good.as_bytes(), 404, "POST /v1/events"),
        ("POST", "/", json, good.as_bytes(), 404, "POST /v1/events"),
        ("PUT", "/v1/events", json, good.as_bytes(), 405, "POST /v1/events"),
        ("POST", "/healthz", json, good.as_bytes(), 405, "POST /v1/events"),
    ];
    for (method, path, headers, body, status, words) in cases {
        // A connection each: after some of these, one is closed.
        let answer = Talk::at(&house.socket()).ask(method, path, headers, body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.error().contains(words), "{answer:?}");
    }
    assert_eq!(house.count("event").await, 0);
    assert_eq!(house.count("request").await, 0);
    let healthy = Talk::at(&house.socket()).ask("GET", "/healthz", "", b"");
    assert_eq!((healthy.status, healthy.body.trim()), (200, "ok"));
    assert_eq!(Talk::at(&house.socket()).post(&good).status, 202, "and it goes on");
    api.close().await;
}

async fn an_array_is_taken_whole_or_not_at_all(house: House) {
    let mut api = house.api().await;
    let mut talk = Talk::at(&house.socket());
    let array = |range: std::ops::Range<usize>| {
        let all: Vec<_> = range.map(|n| finished(&n.to_string(), "k")).collect();
        format!("[{}]", all.join(","))
    };
    let wrong = array(0..999).replace("\"998\"", "\"\"");
    let refused = talk.post(&wrong);
    assert_eq!(refused.status, 422);
    assert!(refused.error().contains("event 999 of 999"), "{refused:?}");
    assert_eq!(house.count("event").await, 0);
    assert_eq!(talk.post(&array(0..1_001)).status, 422);
    let taken = talk.post(&array(0..1_000)).json();
    assert_eq!((&taken["accepted"], &taken["known"]), (&1_000.into(), &0.into()));
    let overlapping = talk.post(&array(999..1_005)).json();
    assert_eq!((&overlapping["accepted"], &overlapping["known"]), (&5.into(), &1.into()));
    assert_eq!(house.count("event WHERE rule = 'jobs'").await, 1_005);
    api.close().await;
}

/// Somebody else keeps the ledger locked for longer than a request may take.
async fn a_ledger_that_is_locked_takes_nothing_and_says_so(house: House) {
    let mut api = house.api().await;
    let pool = house.pool().await;
    let (lock, free) = if house.is_sqlite() {
        ("BEGIN EXCLUSIVE", "ROLLBACK")
    } else {
        // The locks go with the transaction, and the transaction with its session.
        ("BEGIN; LOCK TABLE event IN ACCESS EXCLUSIVE MODE", "ROLLBACK")
    };
    let mut held = hold(&pool, lock).await;
    let socket = house.socket();
    let asked: Vec<_> = (0..3)
        .map(|n| {
            let socket = socket.clone();
            std::thread::spawn(move || Talk::at(&socket).post(&finished(&n.to_string(), "k")))
        })
        .collect();
    let answers = tokio::task::spawn_blocking(|| {
        asked.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<Answer>>()
    });
    for answer in answers.await.unwrap() {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.head.contains("retry-after: 5"), "{answer:?}");
        assert!(answer.error().contains("send them again"));
    }
    held.execute(free).await;
    drop(held);
    pool.close().await;
    assert_eq!(house.count("event").await, 0);
    assert_eq!(house.count("request").await, 0);
    // And as soon as it is free, all is well.
    let answer = Talk::at(&socket).post(&finished("0", "k"));
    assert_eq!(answer.json()["accepted"], 1, "{answer:?}");
    api.close().await;
}

/// One connection of a pool.
enum Held {
    Sqlite(sqlx::pool::PoolConnection<sqlx::Sqlite>),
    Postgres(sqlx::pool::PoolConnection<sqlx::Postgres>),
}

async fn hold(pool: &crate::support::Pool, lock: &'static str) -> Held {
    use crate::support::Pool;
    let mut held = match pool {
        Pool::Sqlite(pool) => Held::Sqlite(pool.acquire().await.unwrap()),
        Pool::Postgres(pool) => Held::Postgres(pool.acquire().await.unwrap()),
        Pool::MySql(_) => panic!("no ledger is there"),
    };
    held.execute(lock).await;
    held
}

impl Held {
    async fn execute(&mut self, sql: &'static str) {
        let query = sqlx::raw_sql(sql);
        match self {
            Held::Sqlite(connection) => query.execute(&mut **connection).await.map(drop),
            Held::Postgres(connection) => query.execute(&mut **connection).await.map(drop),
        }
        .unwrap();
    }
}
