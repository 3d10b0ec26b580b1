//! How fast recipients are told, against what `wrk` gets from the same recipient with as many connections.
//!
//! `tests/run --release --test propagation speed -- --nocapture` measures what users see; only then is anything
//! asserted, and there are as many notices as that takes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use expunged::clock::Stopwatch;

use crate::harness::Daemon;
use crate::house::House;
use crate::receiver::Receiver;
use crate::support::tell;

const NOTICES: u32 = if cfg!(debug_assertions) { 2_000 } else { 100_000 };
const SUBJECTS: u32 = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
/// Messages in flight, and connections of `wrk`.
const CONNECTIONS: usize = 64;
/// Of what `wrk` gets.
const LEAST: f64 = 0.1;
/// Of the daemon, in KiB.
const MEMORY: u64 = 96 * 1024;

/// A recipient in Node, gone when this is dropped.
struct Node {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    port: u16,
}

impl Node {
    fn start() -> Node {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/propagation/receiver.mjs");
        let mut command = Command::new("node");
        let command = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command
            .spawn()
            .expect("node is there: run the tests through tests/run, which installs it");
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        Node { process, input, output, port: line.trim().parse().unwrap() }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/expunged/hook", self.port)
    }

    /// Requests so far.
    fn requests(&mut self) -> u64 {
        writeln!(self.input).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Requests a second that `wrk` gets, each of 500 bytes.
fn wrk(node: &Node) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("post.lua");
    let body = "x".repeat(500);
    std::fs::write(&script, format!("wrk.method = \"POST\"\nwrk.body = \"{body}\"\n")).unwrap();
    let output = Command::new("wrk")
        .args(["--threads", "1", "--duration", "5s", "--connections"])
        .arg(CONNECTIONS.to_string())
        .arg("--script")
        .arg(&script)
        .arg(node.url())
        .output()
        .expect("wrk is there: run the tests through tests/run, which installs it");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).expect(&text);
    line.trim().parse().unwrap()
}

/// The most memory that a daemon has held, in KiB.
fn high_water(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
}

/// Deletes so many people; their notices wait until there is a daemon.
async fn waiting(people: u32, url: &str, more: &str) -> House {
    let receiver = Receiver::at(url);
    let mut house = House::new(people).await;
    house.recipient("ads", &receiver, more);
    house.configure();
    let run = house.place.run(&["run", "people"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_are_told_at_a_tenth_of_what_the_recipient_can_take() {
    let mut node = Node::start();
    let house = waiting(NOTICES, &node.url(), &format!("concurrency = {CONNECTIONS}")).await;
    let before = if cfg!(debug_assertions) { 0.0 } else { wrk(&node) };
    let taken = node.requests();
    let watch = Stopwatch::start();
    let daemon = house.place.start();
    house.until_over("ads").await;
    let seconds = watch.elapsed().as_secs_f64();
    let memory = high_water(&daemon);
    assert_eq!(node.requests() - taken, u64::from(NOTICES));
    assert_eq!(daemon.stop().code(), Some(0));
    let after = if cfg!(debug_assertions) { 0.0 } else { wrk(&node) };
    let (rate, most) = (f64::from(NOTICES) / seconds, before.max(after));
    tell(&format!(
        "{NOTICES} signed notices one by one in {seconds:.1} s, {rate:.0} a second; wrk {before:.0} and {after:.0}: ratio {:.3}; daemon's peak memory {memory} KiB",
        rate / most
    ));
    if !cfg!(debug_assertions) {
        assert!(rate >= LEAST * most, "{rate:.0} a second, of {most:.0}");
        assert!(memory < MEMORY, "{memory} KiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_subjects_are_told_in_lists_within_half_a_minute() {
    let mut node = Node::start();
    let house = waiting(SUBJECTS, &node.url(), "at_once = 1000").await;
    let watch = Stopwatch::start();
    let daemon = house.place.start();
    house.until_over("ads").await;
    let seconds = watch.elapsed().as_secs_f64();
    let (messages, memory) = (node.requests(), high_water(&daemon));
    assert_eq!(daemon.stop().code(), Some(0));
    tell(&format!(
        "{SUBJECTS} subjects in {messages} lists in {seconds:.1} s; daemon's peak memory {memory} KiB"
    ));
    if !cfg!(debug_assertions) {
        assert!(seconds < 30.0, "{seconds:.1} s");
        assert!(memory < MEMORY, "{memory} KiB");
    }
}
