//! `expunged recipients`: what is wrong with a recipient is said exactly.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};

use expunged::recipient::webhook::{VerifyingKey, verify};
use insta::assert_snapshot;

use crate::place::{Place, SECRET};

/// Somebody who answers every request with these bytes, and hands out what was asked.
pub(crate) fn recipient(answer: &'static str) -> (SocketAddr, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, asked) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap_or(0) > 0 {}
            let lower = head.to_ascii_lowercase();
            let length = lower.split("content-length: ").nth(1).unwrap_or("0");
            let length = length.split("\r\n").next().unwrap_or("0").trim().parse().unwrap_or(0);
            let mut body = vec![0; length];
            stream.read_exact(&mut body).ok();
            stream.get_mut().write_all(answer.as_bytes()).ok();
            if sender.send((head, body)).is_err() {
                break;
            }
        }
    });
    (address, asked)
}

/// Somebody who answers before anything is asked, and not by TLS.
fn speaks_no_tls() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok();
            // Hanging up at once could take the answer back.
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    address
}

async fn tested(url: &str, code: i32) -> String {
    let place = Place::sqlite().await;
    place.configure(&place.recipients(url, "internal = true\ntimeout = \"2 s\""));
    place.ends(&["recipients", "test", "ads"], code).0
}

/// Ports and times differ from run to run.
fn without_numbers(text: &str) -> String {
    let time = regex::Regex::new(r"after \d+ ms").unwrap();
    let port = regex::Regex::new(r"127\.0\.0\.1:\d+").unwrap();
    port.replace_all(&time.replace_all(text, "after TIME"), "127.0.0.1:PORT").into_owned()
}

#[tokio::test]
async fn a_good_recipient_gets_a_harmless_signed_ping() {
    let (address, asked) = recipient("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    let said = tested(&format!("http://{address}/hooks"), 0).await;
    assert_snapshot!("test_well", without_numbers(&said));
    let (head, body) = asked.recv().unwrap();
    let mut headers = http::HeaderMap::new();
    for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        headers.insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    let key = VerifyingKey::parse(SECRET).unwrap();
    verify(&key, &headers, &body, expunged::clock::now()).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&json["type"], &json["data"]), (&"ping".into(), &serde_json::json!({})));
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let (refusing, _asked) = recipient("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    let said = tested(&format!("http://{refusing}/hooks"), 1).await;
    assert!(said.contains("failed ads (webhook): status: 127.0.0.1 answered 401"), "{said}");
    let (moved, _asked) =
        recipient("HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n");
    let said = tested(&format!("http://{moved}/hooks"), 1).await;
    assert!(said.contains("answered 302"), "not followed: {said}");
    let (broken, _asked) = recipient("");
    let said = tested(&format!("http://{broken}/hooks"), 1).await;
    assert!(said.contains("connection: "), "{said}");
    let plain = speaks_no_tls();
    let said = tested(&format!("https://{plain}/hooks"), 1).await;
    assert!(said.contains("TLS: "), "{said}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = tested(&format!("http://{free}/hooks"), 1).await;
    assert!(said.contains("cannot be connected to"), "{said}");
    let said = tested("https://no-such-host.invalid/hooks", 1).await;
    assert!(said.contains("DNS: no-such-host.invalid"), "{said}");
}

#[tokio::test]
async fn an_address_of_ones_own_network_and_a_bad_secret_are_said_without_showing_it() {
    let place = Place::sqlite().await;
    // Without `internal`: an address of one's own is not public.
    place.configure(&place.recipients("https://127.0.0.1:9/hooks", ""));
    let (said, _) = place.ends(&["recipients", "test", "ads"], 1);
    assert!(said.contains("address: 127.0.0.1 is not a public address"), "{said}");

    let (well, _asked) = recipient("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    place.configure(&place.recipients(&format!("http://{well}/"), "internal = true"));
    place.inner.secret("ads-secret", "hunter2-is-not-a-key");
    let json = place.output(&["--json", "recipients", "test"]);
    assert_eq!(json.status.code(), Some(1));
    let text = String::from_utf8(json.stdout).unwrap();
    assert!(text.contains("secret: ") && !text.contains("hunter2"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json[0]["is_well"], &json[1]["recipient"]), (&false.into(), &"crm".into()));
    std::fs::remove_file(place.inner.path("ads-secret")).unwrap();
    let (said, _) = place.ends(&["recipients", "test", "ads"], 1);
    assert!(said.contains("secret: "), "{said}");

    let wrong = place.refuses(&["recipients", "test", "adds"]);
    assert!(wrong.contains("there is no recipient `adds`; there are ads, crm"), "{wrong}");
    place.configure_with("", "subject = \"id\"");
    let wrong = place.refuses(&["recipients", "test"]);
    assert!(wrong.contains("there are no recipients"), "{wrong}");
    assert!(place.says(&["recipients", "list"]).contains("There are no recipients"));
}

#[tokio::test]
async fn the_help_of_recipients_teaches() {
    let place = Place::sqlite().await;
    for command in ["list", "test"] {
        let help = place.says(&["recipients", command, "--help"]);
        assert_snapshot!(format!("help_recipients_{command}"), help);
    }
}
