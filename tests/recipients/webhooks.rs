//! Standard Webhooks: what others have written verifies our signatures, and we verify theirs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use expunged::notice::{Answer, Step};
use expunged::recipient::ReceiptError;
use http::HeaderMap;
use serde_json::json;

use crate::house::{
    Act, Request, SECRET, Server, anna, now, openssl, path, recipient, run, secret, shown, status,
    try_run, with,
};
use crate::support::environment;

const PYTHON: &str = "
import json, sys
from datetime import datetime, timezone
from standardwebhooks import Webhook
given = json.load(sys.stdin)
webhook = Webhook(given['secret'])
if given['act'] == 'verify':
    print(json.dumps(webhook.verify(given['body'], given['headers'])))
else:
    at = datetime.fromtimestamp(given['seconds'], tz=timezone.utc)
    print(json.dumps(webhook.sign(given['id'], at, given['body'])))
";

const NODE: &str = "
const { Webhook } = require('standardwebhooks');
const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const webhook = new Webhook(given.secret);
const done = given.act === 'verify' ? webhook.verify(given.body, given.headers)
                                    : webhook.sign(given.id, new Date(given.seconds * 1000), given.body);
console.log(JSON.stringify(done));
";

/// What others make of it: the package of PyPI, and that of npm.
fn others(given: &serde_json::Value) -> [(bool, String); 2] {
    let input = given.to_string().into_bytes();
    let python = environment("EXPUNGED_TEST_WEBHOOKS_PYTHON");
    let node = format!(
        "module.paths.push({:?}); {NODE}",
        environment("EXPUNGED_TEST_WEBHOOKS_NODE") + "/node_modules"
    );
    [try_run(&python, &["-c", PYTHON], &input), try_run("node", &["-e", &node], &input)]
        .map(|(good, printed)| (good, String::from_utf8(printed).unwrap()))
}

fn as_given(request: &Request, secret: &str) -> serde_json::Value {
    let header = |name: &str| request.header(name).unwrap();
    json!({
        "act": "verify",
        "secret": secret,
        "body": request.body,
        "headers": {
            "webhook-id": header("webhook-id"),
            "webhook-timestamp": header("webhook-timestamp"),
            "webhook-signature": header("webhook-signature"),
        },
    })
}

fn config(server: &Server, secret: &str, more: &str) -> String {
    format!(
        "[recipient.ads]\nprotocol = \"webhook\"\nurl = \"{}\"\ninternal = true\nsecret = {secret}\n{more}",
        server.url("/secret-path")
    )
}

#[tokio::test]
async fn others_verify_what_we_sign() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_| status(204)).await;
    let one = secret(folder.path(), "one", SECRET);
    let other_secret = format!("whsec_{}", STANDARD.encode([9; 32]));
    let other = secret(folder.path(), "other", &other_secret);
    let ads =
        recipient(folder.path(), &config(&server, &one, &format!("previous_secret = {other}\n")));
    let message = anna();
    assert_eq!(ads.tell(&message, now()).await, Answer::Completed);
    let request = server.last();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/secret-path"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("webhook-id"), Some(format!("msg_{}", message.id).as_str()));
    let expected = json!({
        "type": "data.deleted",
        "timestamp": "2026-11-28T12:00:00Z",
        "data": {
            "notice": format!("msg_{}", message.id),
            "rule": "inactive-accounts",
            "subjects": [{ "email": "anna@example.org", "user_id": "u-1001" }],
        },
    });
    assert_eq!(request.json(), expected);
    // While a secret is exchanged, whoever has either of the two verifies.
    for secret in [SECRET, &other_secret] {
        for (good, said) in others(&as_given(&request, secret)) {
            assert!(good, "{said}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&said).unwrap(), expected);
        }
    }
    let mut changed = as_given(&request, SECRET);
    changed["body"] = json!(request.body.replace("u-1001", "u-1002"));
    for (good, _) in others(&changed) {
        assert!(!good, "a changed body must not verify");
    }
    // The same id each time, by which a recipient knows what it has seen.
    ads.tell(&message, now()).await;
    assert_eq!(server.last().header("webhook-id"), request.header("webhook-id"));
}

#[tokio::test]
async fn we_verify_what_others_sign() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_| status(202)).await;
    let one = secret(folder.path(), "one", SECRET);
    let more = format!("receipt_secret = {one}\nack = \"callback\"\n");
    let ads = recipient(folder.path(), &config(&server, &one, &more));
    let message = anna();
    let answer = ads.tell(&message, now()).await;
    assert_eq!(answer, Answer::Sent { job: None });
    let at = now();
    let receipt = json!({
        "type": "deletion.denied",
        "timestamp": at.to_string(),
        "data": { "notice": format!("msg_{}", message.id), "reason": "u-10017 is under contract" },
    });
    let body = receipt.to_string();
    let given = json!({
        "act": "sign", "secret": SECRET, "body": body, "id": "msg_receipt", "seconds": at.as_second(),
    });
    for (good, said) in others(&given) {
        assert!(good, "{said}");
        let signature: String = serde_json::from_str(&said).unwrap();
        let headers = headers("msg_receipt", at.as_second(), &format!("v1,AAAA {signature}"));
        let read = ads.receipt(&headers, body.as_bytes(), at).unwrap();
        assert_eq!(
            (read.id.as_str(), read.notice, read.step),
            ("msg_receipt", message.id, Step::Deny)
        );
        assert_eq!(read.reason.as_deref(), Some("… is under contract"));
        let later = at + jiff::SignedDuration::from_secs(301);
        assert_eq!(ads.receipt(&headers, body.as_bytes(), later), Err(ReceiptError::Stale));
        let other = body.replace("denied", "completed");
        assert_eq!(ads.receipt(&headers, other.as_bytes(), at), Err(ReceiptError::Forged));
    }
    assert_eq!(ads.receipt(&HeaderMap::new(), body.as_bytes(), at), Err(ReceiptError::Forged));
}

fn headers(id: &str, seconds: i64, signature: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", id.parse().unwrap());
    headers.insert("webhook-timestamp", seconds.into());
    headers.insert("webhook-signature", signature.parse().unwrap());
    headers
}

/// The packages know HMAC alone, so here openssl stands for everybody else.
#[tokio::test]
async fn openssl_verifies_our_ed25519_and_we_verify_its() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (key, public) = (file("key.pem"), file("public.pem"));
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", path(&key)]);
    openssl(&["pkey", "-in", path(&key), "-pubout", "-out", path(&public)]);
    // The last 32 bytes of either form are the key itself (RFC 8410).
    let raw = |args: &[&str]| {
        let der = openssl(args);
        STANDARD.encode(&der[der.len() - 32..])
    };
    let private = raw(&["pkey", "-in", path(&key), "-outform", "DER"]);
    let whpk = format!("whpk_{}", raw(&["pkey", "-in", path(&key), "-pubout", "-outform", "DER"]));
    let server = Server::new(|_| status(200)).await;
    let whsk = secret(folder.path(), "whsk", &format!("whsk_{private}"));
    let more = format!("receipt_key = \"{whpk}\"\n");
    let ads = recipient(folder.path(), &config(&server, &whsk, &more));
    let message = anna();
    assert_eq!(ads.tell(&message, now()).await, Answer::Completed);

    let request = server.last();
    let (id, timestamp) =
        (request.header("webhook-id").unwrap(), request.header("webhook-timestamp").unwrap());
    let signature = request.header("webhook-signature").unwrap().strip_prefix("v1a,").unwrap();
    std::fs::write(file("content"), format!("{id}.{timestamp}.{}", request.body)).unwrap();
    std::fs::write(file("signature"), STANDARD.decode(signature).unwrap()).unwrap();
    openssl(&[
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        path(&public),
        "-rawin",
        "-in",
        path(&file("content")),
        "-sigfile",
        path(&file("signature")),
    ]);

    let at = now();
    let body = json!({ "type": "deletion.completed", "data": { "notice": format!("msg_{}", message.id) } });
    std::fs::write(file("content"), format!("r1.{}.{body}", at.as_second())).unwrap();
    openssl(&[
        "pkeyutl",
        "-sign",
        "-inkey",
        path(&key),
        "-rawin",
        "-in",
        path(&file("content")),
        "-out",
        path(&file("signature")),
    ]);
    let signature = format!("v1a,{}", STANDARD.encode(std::fs::read(file("signature")).unwrap()));
    let headers = headers("r1", at.as_second(), &signature);
    let read = ads.receipt(&headers, body.to_string().as_bytes(), at).unwrap();
    assert_eq!((read.step, read.notice, read.reason), (Step::Complete, message.id, None));
}

#[tokio::test]
async fn a_ping_is_signed_and_names_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_| status(204)).await;
    let one = secret(folder.path(), "one", SECRET);
    let ads = recipient(folder.path(), &config(&server, &one, ""));
    let pong = ads.test(now()).await.unwrap();
    assert!(pong.says.contains("answered 204 to a signed ping"), "{pong:?}");
    let request = server.last();
    assert_eq!(request.json()["type"], "ping");
    assert!(others(&as_given(&request, SECRET)).iter().all(|(good, _)| *good));
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_is_said_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_| status(204)).await;
    let one = secret(folder.path(), "one", "whsec_hunter2");
    let ads = recipient(folder.path(), &config(&server, &one, ""));
    for _ in 0..2 {
        let answer = ads.tell(&anna(), now()).await;
        assert!(shown(&answer).contains("not Base64"), "{answer:?}");
        assert!(matches!(answer, Answer::Later { is_down: true, .. }));
    }
    let ailment = ads.test(now()).await.unwrap_err().to_string();
    assert!(ailment.starts_with("secret:") && !ailment.contains("hunter2"), "{ailment}");
    assert!(!format!("{ads:?}").contains("hunter2"));
    // Once it is right, it is used; nothing need be loaded again.
    std::fs::write(folder.path().join("one"), SECRET).unwrap();
    assert_eq!(ads.tell(&anna(), now()).await, Answer::Completed);
    // One that was exchanged is in use within the minute.
    let first = server.last().header("webhook-signature").unwrap().to_owned();
    std::fs::write(folder.path().join("one"), format!("whsec_{}", STANDARD.encode([3; 24])))
        .unwrap();
    let message = anna();
    let at = now() + jiff::SignedDuration::from_secs(61);
    ads.tell(&message, at).await;
    assert_ne!(server.last().header("webhook-signature").unwrap(), first);
    let mut given = as_given(&server.last(), &format!("whsec_{}", STANDARD.encode([3; 24])));
    given["secret"] = json!(format!("whsec_{}", STANDARD.encode([3; 24])));
    assert!(others(&given).iter().all(|(good, _)| *good));
}

#[tokio::test]
async fn connections_are_kept_from_one_message_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_| json_of_ok()).await;
    let one = secret(folder.path(), "one", SECRET);
    let ads = recipient(folder.path(), &config(&server, &one, ""));
    for _ in 0..20 {
        assert_eq!(ads.tell(&anna(), now()).await, Answer::Completed);
    }
    let connections: Vec<usize> = server.seen().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [1; 20]);
}

fn json_of_ok() -> Act {
    with(200, "x-any", "thing")
}

#[test]
fn the_tools_are_there() {
    run("node", &["--version"], b"");
    run(&environment("EXPUNGED_TEST_WEBHOOKS_PYTHON"), &["-c", "import standardwebhooks"], b"");
}
