//! Servers that misbehave: always a right answer, always in time, and nothing private in it.

use std::time::Duration;

use expunged::clock::Stopwatch;
use expunged::notice::Answer;
use expunged::recipient::Ailment;
use tempfile::TempDir;

use crate::house::{
    Act, SECRET, Server, anna, authority, later, now, path, recipient, secret, shown, signed,
    status, with,
};

/// A webhook to a URL.
fn config(folder: &TempDir, url: &str, more: &str) -> String {
    let one = secret(folder.path(), "one", SECRET);
    format!("[recipient.ads]\nprotocol = \"webhook\"\nurl = \"{url}\"\nsecret = {one}\n{more}")
}

async fn tell(url: &str, more: &str) -> (Answer, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let ads = recipient(folder.path(), &config(&folder, url, more));
    let watch = Stopwatch::start();
    let answer = ads.tell(&anna(), now()).await;
    shown(&answer);
    (answer, watch.elapsed())
}

async fn tell_server(act: impl Fn() -> Act + Send + Sync + 'static) -> (Answer, Duration, Server) {
    let server = Server::new(move |_| act()).await;
    let more = "internal = true\ntimeout = \"1 second\"\n";
    let (answer, took) = tell(&server.url("/secret-path"), more).await;
    (answer, took, server)
}

#[tokio::test]
async fn statuses_mean_what_the_specification_says() {
    for code in [200, 201, 202, 204] {
        assert_eq!(tell_server(move || status(code)).await.0, Answer::Completed, "{code}");
    }
    for code in [401, 403, 500, 502, 503, 504] {
        let (answer, _, _) = tell_server(move || status(code)).await;
        assert_eq!(later(&answer), (None, true), "{code}");
    }
    for code in [400, 404, 422] {
        let (answer, _, _) = tell_server(move || status(code)).await;
        assert!(matches!(answer, Answer::Failed(_)), "{code}: {answer:?}");
    }
    assert_eq!(tell_server(|| status(410)).await.0, Answer::Gone);
}

#[tokio::test]
async fn who_asks_to_be_left_alone_is_heeded() {
    let (answer, _, _) = tell_server(|| with(429, "retry-after", "120")).await;
    assert_eq!(later(&answer), (Some(Duration::from_secs(120)), false));
    let in_an_hour = now() + jiff::SignedDuration::from_hours(1);
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&in_an_hour);
    let date = date.unwrap();
    let (answer, _, _) = tell_server(move || with(503, "retry-after", &date)).await;
    let (after, is_down) = later(&answer);
    let after = after.unwrap().as_secs();
    assert!(is_down && (3_590..=3_600).contains(&after), "{after}");
    let (answer, _, _) = tell_server(|| with(429, "retry-after", "soon")).await;
    assert_eq!(later(&answer), (None, false));
}

#[tokio::test]
async fn redirections_are_not_followed() {
    let inside = Server::new(|_| status(200)).await;
    let inner = inside.url("/");
    for location in
        [inner.as_str(), "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "/"]
    {
        for code in [301, 302, 303, 307, 308] {
            let location = location.to_owned();
            let (answer, _, server) = tell_server(move || with(code, "location", &location)).await;
            assert!(matches!(answer, Answer::Failed(_)), "{code}: {answer:?}");
            assert_eq!(server.seen().len(), 1);
        }
    }
    assert!(inside.seen().is_empty());
}

#[tokio::test]
async fn who_is_silent_or_breaks_off_is_told_later() {
    let (answer, took, server) = tell_server(|| Act::Silence).await;
    assert_eq!(later(&answer), (None, true));
    assert!(shown(&answer).contains("did not answer in time"), "{answer:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    // Nothing of it goes on.
    server.left.notified().await;
    for bytes in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 999999 X\r\n\r\n",
        b"\x00\x01\x02",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    ] {
        let (answer, _, _) = tell_server(|| Act::Raw(bytes.to_vec())).await;
        assert_eq!(later(&answer), (None, true), "{bytes:?}: {answer:?}");
    }
    let (answer, _, _) = tell_server(|| Act::Reset).await;
    assert_eq!(later(&answer), (None, true));
}

#[tokio::test]
async fn a_body_without_an_end_ends_where_the_limit_is() {
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
    ] {
        let (answer, took, server) =
            tell_server(|| Act::Endless(head.into(), vec![b'x'; 8192])).await;
        // The status has come; what follows it does not matter to a webhook.
        assert_eq!(answer, Answer::Completed, "{head}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        server.left.notified().await;
    }
    // Headers without an end are no answer at all.
    let (answer, took, server) =
        tell_server(|| Act::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".to_vec())).await;
    assert_eq!(later(&answer), (None, true));
    assert!(took < Duration::from_secs(3), "{took:?}");
    server.left.notified().await;
}

// --- certificates ---------------------------------------------------------------------------------

#[tokio::test]
async fn only_a_good_certificate_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path());
    let other = tempfile::tempdir().unwrap();
    let stranger = authority(other.path());
    let names = "DNS:localhost, IP:127.0.0.1";
    let good = signed(folder.path(), "good", &ca, names, "2");
    let expired = signed(folder.path(), "expired", &ca, names, "-1");
    let misnamed = signed(folder.path(), "misnamed", &ca, "DNS:elsewhere.example", "2");
    let foreign = signed(folder.path(), "foreign", &stranger, names, "2");
    let by = |ca: &crate::house::Certificate| {
        format!("internal = true\nca = \"{}\"\n", path(&ca.certificate))
    };
    for (certificate, more, said) in [
        (&good, by(&ca), None),
        (&expired, by(&ca), Some("it has expired")),
        (&misnamed, by(&ca), Some("it is for another name")),
        (&foreign, by(&ca), Some("nobody whom this machine trusts has signed it")),
        (&good, by(&stranger), Some("nobody whom this machine trusts has signed it")),
        (
            &good,
            "internal = true\n".to_owned(),
            Some("nobody whom this machine trusts has signed it"),
        ),
        // Signed by itself.
        (&ca, "internal = true\n".to_owned(), Some("")),
    ] {
        let server = Server::tls(certificate, |_| status(204)).await;
        for host in ["localhost", "127.0.0.1"] {
            let url = format!("https://{host}:{}/secret-path", server.port);
            let (answer, _) = tell(&url, &more).await;
            let Some(said) = said else {
                assert_eq!(answer, Answer::Completed);
                continue;
            };
            assert_eq!(later(&answer), (None, true));
            assert!(shown(&answer).contains(said), "{said}: {answer:?}");
            let configured = config(&folder, &url, &more);
            let ailment = recipient(folder.path(), &configured).test(now()).await.unwrap_err();
            assert!(matches!(ailment, Ailment::Certificate { .. }), "{ailment:?}");
            assert!(ailment.to_string().contains(said), "{ailment}");
        }
        assert_eq!(server.seen().len(), if said.is_none() { 2 } else { 0 });
    }
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (content, said) in [
        (None, "No such file"),
        (Some("hello"), "no certificate"),
        (Some("-----BEGIN CERTIFICATE-----\n!"), ""),
    ] {
        let file = folder.path().join("authority.crt");
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let more = format!("internal = true\nca = \"{}\"\n", path(&file));
        let (answer, _) = tell("https://localhost:9/", &more).await;
        assert_eq!(later(&answer), (None, true));
        let text = shown(&answer);
        assert!(text.contains("authority.crt") && text.contains(said), "{text}");
    }
}

#[tokio::test]
async fn plain_http_on_a_port_for_tls_is_no_answer() {
    let server = Server::new(|_| status(200)).await;
    let url = format!("https://127.0.0.1:{}/", server.port);
    let (answer, _) = tell(&url, "internal = true\ntimeout = \"2 seconds\"\n").await;
    assert_eq!(later(&answer), (None, true));
}

// --- addresses ------------------------------------------------------------------------------------

#[tokio::test]
async fn ones_own_network_is_reached_only_where_that_is_said() {
    let server = Server::new(|_| status(200)).await;
    let folder = tempfile::tempdir().unwrap();
    for host in ["127.0.0.1", "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1"] {
        let url = format!("https://{host}:{}/secret-path", server.port);
        let (answer, _) = tell(&url, "").await;
        assert_eq!(later(&answer), (None, true), "{host}");
        let said = shown(&answer);
        assert!(said.contains("public address"), "{host}: {said}");
        let ailment = recipient(folder.path(), &config(&folder, &url, "")).test(now()).await;
        assert!(matches!(ailment, Err(Ailment::NotPublic(_))), "{ailment:?}");
    }
    for host in ["169.254.169.254", "10.0.0.1", "192.168.1.1", "[fd00::1]", "0.0.0.0"] {
        let (answer, took) = tell(&format!("https://{host}/"), "").await;
        assert_eq!(later(&answer), (None, true), "{host}");
        assert!(took < Duration::from_secs(1), "{host} was connected to");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn what_is_wrong_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let test = async |url: &str| {
        let more = "internal = true\ntimeout = \"1 second\"\n";
        let configured = config(&folder, url, more);
        recipient(folder.path(), &configured).test(now()).await.unwrap_err()
    };
    let unknown = test("https://no-such-name.invalid/secret-path").await;
    assert!(matches!(unknown, Ailment::Dns { .. } | Ailment::TimeOut { .. }), "{unknown:?}");
    // A port that was free a moment ago.
    let free = Server::new(|_| status(200)).await.port;
    let refused = test(&format!("http://127.0.0.1:{free}/secret-path")).await;
    assert!(matches!(refused, Ailment::Connect { .. }), "{refused:?}");
    let silent = Server::new(|_| Act::Silence).await;
    let slow = test(&silent.url("/secret-path")).await;
    assert!(matches!(slow, Ailment::TimeOut { .. }), "{slow:?}");
    let rude = Server::new(|_| Act::Reset).await;
    let broken = test(&rude.url("/secret-path")).await;
    assert!(matches!(broken, Ailment::Broken { .. }), "{broken:?}");
    let strict = Server::new(|_| status(401)).await;
    let unauthorized = test(&strict.url("/secret-path")).await;
    assert!(matches!(unauthorized, Ailment::Status { status: 401, .. }), "{unauthorized:?}");
    assert!(unauthorized.to_string().contains("secrets the same on both sides"));
    for ailment in [unknown, refused, slow, broken, unauthorized] {
        assert!(!ailment.to_string().contains("secret-path"), "{ailment}");
    }
}

#[tokio::test]
async fn one_who_is_slow_holds_up_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (slow, quick) = (Server::new(|_| Act::Silence).await, Server::new(|_| status(204)).await);
    let of = |server: &Server| {
        let more = "internal = true\ntimeout = \"2 seconds\"\n";
        recipient(folder.path(), &config(&folder, &server.url("/"), more))
    };
    let (slow, quick) = (of(&slow), of(&quick));
    let message = anna();
    let waiting = slow.tell(&message, now());
    let others = async {
        for _ in 0..50 {
            assert_eq!(quick.tell(&message, now()).await, Answer::Completed);
        }
        true
    };
    tokio::select! {
        biased;
        answer = waiting => panic!("the slow one was first: {answer:?}"),
        done = others => assert!(done),
    }
}
