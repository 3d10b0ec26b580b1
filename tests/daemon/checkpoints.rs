//! Signed checkpoints leave the machine, and keys do not change under a daemon.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use expunged::audit::Checkpoint;
use expunged::audit::note::Verifier;
use expunged::audit::review::split_notes;

use crate::harness::{LIMIT, Place};

/// Somebody who takes checkpoints: refuses the first, then accepts. Gives each request's text.
fn witness() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            let is_whole = |request: &[u8]| {
                let text = String::from_utf8_lossy(request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                length.is_some_and(|length| body.len() >= length.parse().unwrap())
            };
            while !is_whole(&request) {
                let read = stream.read(&mut buffer).unwrap();
                assert!(read > 0, "it was broken off");
                request.extend_from_slice(&buffer[..read]);
            }
            let answer = if number == 0 { "503 Busy" } else { "204 Fine" };
            write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").unwrap();
            if sender.send(String::from_utf8(request).unwrap()).is_err() {
                break;
            }
        }
    });
    (port, requests)
}

fn verifier(place: &Place) -> Verifier {
    let key = fs::read_to_string(place.path("keys/audit-signing.pub")).unwrap();
    Verifier::parse(key.trim()).unwrap()
}

#[test]
fn checkpoints_leave_the_machine_at_start_and_stop() {
    let (port, requests) = witness();
    let place = Place::new();
    let secret = place.secret("token", "Bearer abc");
    place.configure(&format!(
        "[audit]\ncheckpoint_file = \"checkpoints\"\ncheckpoint_every = \"1 s\"\n\
         checkpoint_webhook = {{ url = \"http://127.0.0.1:{port}/log\", internal = true, authorization = {secret} }}\n"
    ));
    let mut daemon = place.start();
    let failed = daemon.wait_for("a checkpoint could not be published");
    assert_eq!((&failed["outlet"], &failed["failures"]), (&"webhook".into(), &1.into()));
    let first = requests.recv_timeout(LIMIT).unwrap();
    assert!(first.starts_with("POST /log HTTP/1.1\r\n"), "{first}");
    assert!(first.contains("authorization: Bearer abc\r\n"), "{first}");
    let again = requests.recv_timeout(LIMIT).unwrap();
    assert_eq!(daemon.stop().code(), Some(0));
    let last = requests.recv_timeout(LIMIT).unwrap();

    let key = verifier(&place);
    let open = |request: &str| {
        let body = request.split_once("\r\n\r\n").unwrap().1;
        Checkpoint::open(body, &key).unwrap()
    };
    assert_eq!(open(&first), open(&again), "it was tried again");
    let kept = fs::read_to_string(place.path("checkpoints")).unwrap();
    let kept = split_notes(&kept);
    assert_eq!(Checkpoint::open(kept.last().unwrap(), &key).unwrap(), open(&last));
    let entries = u64::try_from(place.audit().len()).unwrap();
    assert_eq!(open(&last).size, entries, "its stop is in it");
    let kept = place.path("checkpoints");
    let verified = place.run(&["audit", "verify", "--since", kept.to_str().unwrap()]);
    assert_eq!(verified.status.code(), Some(0));
}

#[test]
fn a_file_that_cannot_be_written_stops_nothing_and_a_ledger_that_was_put_back_is_told() {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    place.configure("[audit]\ncheckpoint_file = \"folder\"\n");
    let mut daemon = place.start_without_waiting();
    daemon.wait_for("a checkpoint could not be published");
    assert_eq!(daemon.stop().code(), Some(0));

    place.configure("[audit]\ncheckpoint_file = \"checkpoints\"\n");
    let copy = fs::read(place.path("ledger.db")).unwrap();
    assert_eq!(place.start().stop().code(), Some(0));
    assert_eq!(place.start().stop().code(), Some(0));
    fs::write(place.path("ledger.db"), copy).unwrap();
    let mut daemon = place.start_without_waiting();
    daemon.wait_for("the file of checkpoints is ahead of the ledger");
    daemon.stop();
    let kept = place.path("checkpoints");
    let verified = place.run(&["audit", "verify", "--since", kept.to_str().unwrap()]);
    assert_eq!(verified.status.code(), Some(1));
}

async fn keys_stay_while_a_daemon_runs(place: Place) {
    place.configure("");
    let daemon = place.start();
    let destroy = ["audit", "destroy-commitment-key", "--yes", "forget-every-record"];
    for command in [&["audit", "rotate-key"][..], &destroy[..]] {
        let refused = place.run(command);
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains("a daemon runs on this ledger"), "{said}");
    }
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(place.run(&["audit", "rotate-key"]).status.code(), Some(0));
    let daemon = place.start();
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(place.entries("key_rotated"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_stay_while_a_daemon_runs_on_sqlite() {
    keys_stay_while_a_daemon_runs(Place::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_stay_while_a_daemon_runs_on_postgres() {
    let ledger = crate::support::fresh_postgres().await;
    keys_stay_while_a_daemon_runs(Place::on(&ledger)).await;
}

/// A daemon that was killed is a gap, and so is the time between a stop and a start.
#[test]
fn verification_tells_when_the_daemon_was_down() {
    let place = Place::new();
    place.configure("");
    assert_eq!(place.start().stop().code(), Some(0));
    place.start().kill();
    assert_eq!(place.start().stop().code(), Some(0));
    let verified = place.json(&["audit", "verify"]);
    let gaps: Vec<_> = verified["gaps"].as_array().unwrap().iter().map(|gap| &gap["gap"]).collect();
    assert_eq!(gaps, ["stopped", "killed", "stopped"], "{verified}");
}
