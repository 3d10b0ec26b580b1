//! Tasks that are to go on for as long as the process does: one that a defect ends is begun anew.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long after its end a task is begun anew.
pub const AGAIN: Duration = Duration::from_secs(5);

/// Keeps a task going until it is stopped. Dropped, it ends at once.
pub async fn keep_up<F>(
    what: String,
    pause: Duration,
    stop: CancellationToken,
    begin: impl Fn(CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        // In a task of its own, so that a panic ends nothing else.
        let mut task = JoinSet::new();
        task.spawn(begin(stop.clone()));
        task.join_next().await;
        if stop.is_cancelled() {
            return;
        }
        // Where is in the line that the panic hook logged; what it says may quote data.
        tracing::error!(what, "a defect of expunged ended a task; it is begun anew");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_a_panic_ends_is_begun_anew_until_it_is_stopped() {
        let (times, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let count = times.clone();
        let begin = move |stop: CancellationToken| {
            let time = count.fetch_add(1, Ordering::Relaxed);
            async move {
                assert!(time >= 2, "a defect");
                stop.cancel();
            }
        };
        keep_up("a test".to_owned(), Duration::ZERO, stop.clone(), begin).await;
        assert_eq!((times.load(Ordering::Relaxed), stop.is_cancelled()), (3, true));
    }
}
