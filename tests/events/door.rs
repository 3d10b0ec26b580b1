//! Who may come in: permissions of the socket, tokens, what is in the way of a socket, how doors close.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use expunged::config::{ApiConfig, Secret, TcpConfig};

use crate::house::{House, Talk, finished, rules};

const TOKEN: &str = "a-token-of-many-characters";

/// A secret in a file, as the configuration names it.
fn secret(house: &House, value: &str) -> Secret {
    let path = house.folder.path().join("token");
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    std::io::Write::write_all(&mut options.open(&path).unwrap(), value.as_bytes()).unwrap();
    Secret::File(path)
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn with_port(house: &House, token: &str) -> (ApiConfig, SocketAddr) {
    let listen = free_port();
    let tcp = TcpConfig { listen, token: secret(house, token) };
    (ApiConfig { tcp: Some(tcp), ..house.settings() }, listen)
}

fn mode(house: &House) -> u32 {
    fs::metadata(house.socket()).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_has_the_permissions_and_the_group_that_were_asked_for() {
    let house = House::sqlite();
    let mut api = house.api().await;
    assert!(fs::metadata(house.socket()).unwrap().file_type().is_socket());
    assert_eq!(mode(&house), 0o660);
    let group = fs::metadata(house.folder.path()).unwrap().gid();
    let other = ApiConfig { mode: 0o600, group: Some(group.to_string()), ..house.settings() };
    api.reconfigure(&other, Arc::new(rules())).await;
    assert_eq!(mode(&house), 0o600);
    assert_eq!(fs::metadata(house.socket()).unwrap().gid(), group);
    assert_eq!(Talk::at(&house.socket()).post(&finished("a", "k")).status, 202);

    let unknown = ApiConfig { group: Some("no-such-group".to_owned()), ..house.settings() };
    api.reconfigure(&unknown, Arc::new(rules())).await;
    assert!(!house.socket().exists(), "rather none than one that others may use");
    api.reconfigure(&house.settings(), Arc::new(rules())).await;
    assert_eq!(Talk::at(&house.socket()).post(&finished("b", "k")).status, 202);
    api.close().await;
    assert!(!house.socket().exists(), "it goes with the daemon");
    let left: Vec<_> = fs::read_dir(house.folder.path()).unwrap().flatten().collect();
    assert!(!left.iter().any(|left| left.file_name().to_string_lossy().contains("sock")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_tcp_only_those_come_in_who_know_the_token() {
    let house = House::sqlite();
    let mut api = house.api().await;
    let (settings, address) = with_port(&house, TOKEN);
    api.reconfigure(&settings, Arc::new(rules())).await;
    let json = "Content-Type: application/json\r\n";
    let longer = format!("{TOKEN}x");
    let wrong = [
        String::new(),
        "Authorization: Bearer \r\n".to_owned(),
        "Authorization: Bearer wrong\r\n".to_owned(),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        format!("Authorization: Bearer {longer}\r\n"),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        format!("X-Authorization: Bearer {TOKEN}\r\n"),
    ];
    let event = finished("a", "k");
    for header in wrong {
        for path in ["/v1/events", "/", "/nothing"] {
            let headers = format!("{header}{json}");
            let answer = Talk::to(address).ask("POST", path, &headers, event.as_bytes());
            assert_eq!(answer.status, 401, "{header}{answer:?}");
            assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
            assert!(!answer.body.contains(TOKEN));
        }
    }
    assert_eq!(house.count("event").await, 0);
    assert_eq!(Talk::to(address).ask("GET", "/healthz", "", b"").status, 200);
    let headers = format!("Authorization: bearer {TOKEN}\r\n{json}");
    let mut talk = Talk::to(address);
    assert_eq!(talk.ask("POST", "/v1/events", &headers, event.as_bytes()).status, 202);
    assert_eq!(Talk::at(&house.socket()).post(&event).status, 202, "the socket needs none");

    // A reload reads the token again; the socket stays open meanwhile.
    let mut standing = Talk::at(&house.socket());
    assert_eq!(standing.post(&event).status, 202);
    secret(&house, "another-token-of-many-characters");
    api.reconfigure(&settings, Arc::new(rules())).await;
    assert_eq!(Talk::to(address).ask("POST", "/v1/events", &headers, event.as_bytes()).status, 401);
    let headers = headers.replace(TOKEN, "another-token-of-many-characters");
    assert_eq!(Talk::to(address).ask("POST", "/v1/events", &headers, event.as_bytes()).status, 202);
    assert_eq!(standing.post(&event).status, 202);
    api.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_one_door_leaves_the_other_open() {
    let house = House::sqlite();
    let mut api = house.api().await;
    let (settings, address) = with_port(&house, "short");
    api.reconfigure(&settings, Arc::new(rules())).await;
    assert!(std::net::TcpStream::connect(address).is_err(), "that token could be guessed");
    assert_eq!(Talk::at(&house.socket()).post(&finished("a", "k")).status, 202);
    // What was wrong is put right, and the next look finds that.
    secret(&house, TOKEN);
    api.open();
    assert_eq!(Talk::to(address).ask("GET", "/healthz", "", b"").status, 200);
    let off = ApiConfig { enabled: false, ..settings };
    api.reconfigure(&off, Arc::new(rules())).await;
    assert!(!house.socket().exists() && std::net::TcpStream::connect(address).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_socket_is_replaced_and_nothing_else_is() {
    let house = House::sqlite();
    // Closed without being removed, as by a process that was killed.
    drop(UnixListener::bind(house.socket()).unwrap());
    assert!(house.socket().exists());
    let mut first = house.api().await;
    assert_eq!(Talk::at(&house.socket()).post(&finished("a", "k")).status, 202);

    // A second one finds the first, leaves it alone, and takes over when it is gone.
    let mut second = house.api().await;
    second.close().await;
    assert_eq!(Talk::at(&house.socket()).post(&finished("b", "k")).status, 202);
    let mut third = house.api().await;
    first.close().await;
    assert!(!house.socket().exists());
    third.open();
    assert_eq!(Talk::at(&house.socket()).post(&finished("c", "k")).status, 202);
    third.close().await;

    fs::write(house.socket(), "a letter").unwrap();
    let mut fourth = house.api().await;
    fourth.close().await;
    assert_eq!(fs::read_to_string(house.socket()).unwrap(), "a letter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_that_closes_lets_those_inside_finish() {
    let house = House::sqlite();
    let mut api = house.api().await;
    let event = finished("a", "k");
    let mut inside = Talk::at(&house.socket());
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        event.len()
    );
    // An answer says that the connection was let in; then the next request begins.
    assert_eq!(inside.ask("GET", "/healthz", "", b"").status, 200);
    inside.say(head.as_bytes()).unwrap();
    inside.say(&event.as_bytes()[..5]).unwrap();
    let mut idle = Talk::at(&house.socket());
    assert_eq!(idle.ask("GET", "/healthz", "", b"").status, 200);
    let socket = house.socket();
    let finishing = std::thread::spawn(move || {
        // The socket's name goes first: nobody new comes in.
        while socket.exists() {
            std::thread::yield_now();
        }
        inside.say(&event.as_bytes()[5..]).unwrap();
        inside.hear().unwrap()
    });
    api.close().await;
    assert_eq!(finishing.join().unwrap().status, 202);
    assert!(idle.try_ask("GET", "/healthz", "", b"").is_err(), "who said nothing was shown out");
    assert_eq!(house.count("event").await, 2);
}
