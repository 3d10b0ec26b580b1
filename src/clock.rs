//! The only reader of time and of randomness.
//!
//! Everything else is given `now`; a lint (`clippy.toml`) keeps it so.

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use uuid::Uuid;

/// The wall clock, cut to microseconds: what every database can store and give back unchanged.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn now() -> Timestamp {
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX);
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// Measures how long something takes, by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn start() -> Self {
        Stopwatch(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// A new identifier that sorts by time of creation (UUID version 7, RFC 9562).
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// Random bytes from the operating system.
///
/// # Panics
/// When the operating system has no randomness to give: nothing that needs keys can go on then.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads randomness")]
#[expect(clippy::expect_used, reason = "there is no safe way on without randomness")]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
