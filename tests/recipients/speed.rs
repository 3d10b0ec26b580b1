//! How many signed messages a recipient is told in a second: one by one, and many at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use expunged::clock::Stopwatch;
use expunged::notice::Answer;
use tokio::task::JoinSet;

use crate::house::{SECRET, Server, anna, now, recipient, secret, status};
use crate::support::tell;

const MESSAGES: usize = 4_000;
const AT_ONCE: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_signed_messages_go_over_a_few_connections() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_| status(204)).await;
    let one = secret(folder.path(), "one", SECRET);
    let ads = recipient(
        folder.path(),
        &format!(
            "[recipient.ads]\nprotocol = \"webhook\"\nurl = \"{}\"\ninternal = true\nsecret = {one}\n",
            server.url("/")
        ),
    );
    let (left, watch) = (Arc::new(AtomicUsize::new(MESSAGES)), Stopwatch::start());
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (ads, left) = (ads.clone(), left.clone());
        tasks.spawn(async move {
            let less = |left: usize| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
                assert_eq!(ads.tell(&anna(), now()).await, Answer::Completed);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let took = watch.elapsed();
    let seen = server.seen();
    let connections = seen.iter().map(|request| request.connection).max().unwrap();
    assert_eq!(seen.len(), MESSAGES);
    assert!(connections <= 2 * AT_ONCE, "{connections} connections");
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = MESSAGES as f64 / took.as_secs_f64();
    tell(&format!(
        "recipients: {rate:.0} signed messages a second, {AT_ONCE} at a time, over {connections} connections"
    ));
}
