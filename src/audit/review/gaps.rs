//! Times that the log says little about: the daemon was down, or the clock cannot be believed.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::audit::entry::{Entry, Event};

/// Entries are dated when they are decided on and written a moment later, so that two writers may
/// pass each other. Only more than this is told, in seconds.
const TOLERANCE: i64 = 60;

/// A time that the log says little about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "gap", rename_all = "snake_case")]
pub enum Gap {
    /// The daemon was stopped, and started later or not since.
    Stopped {
        /// The position of the entry that it ended with.
        position: u64,
        /// When it stopped.
        since: Timestamp,
        /// When it was started again.
        until: Option<Timestamp>,
    },
    /// The daemon was started, and had not been stopped before: it was killed or crashed, or two of
    /// them share the ledger.
    Killed {
        /// The position of the entry that it started with.
        position: u64,
        /// The last entry before: it was alive then, or somebody else was.
        since: Timestamp,
        /// When it was started.
        until: Timestamp,
    },
    /// An entry is dated before the one that it follows.
    Backwards {
        /// The entry's position.
        position: u64,
        /// By how many seconds.
        seconds: i64,
    },
    /// The daemon saw the clock jump.
    ClockJumped {
        /// The entry's position.
        position: u64,
        /// By how many seconds.
        seconds: i64,
    },
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = |at: &Timestamp| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        match self {
            Gap::Stopped { position, since, until: Some(until) } => write!(
                f,
                "the daemon was down from {} to {}: it was stopped (entry {position})",
                moment(since),
                moment(until)
            ),
            Gap::Stopped { position, since, until: None } => {
                write!(f, "the daemon is down since {} (entry {position})", moment(since))
            }
            Gap::Killed { position, since, until } => write!(
                f,
                "the daemon ended without a word between {} and {}, when it was started again (entry {position})",
                moment(since),
                moment(until)
            ),
            Gap::Backwards { position, seconds } => {
                write!(f, "entry {position} is dated {seconds} s before the one that it follows")
            }
            Gap::ClockJumped { position, seconds } => {
                write!(f, "the clock jumped by {seconds} s (entry {position})")
            }
        }
    }
}

/// Finds gaps while the entries pass by.
#[derive(Debug, Default)]
pub(super) struct Finder {
    /// When the latest entry was dated.
    last: Option<Timestamp>,
    is_running: bool,
    /// The position and the moment of the latest stop, until a start follows.
    stopped: Option<(u64, Timestamp)>,
}

impl Finder {
    pub(super) fn look(&mut self, position: u64, entry: &Entry) -> Option<Gap> {
        let at = entry.at;
        let last = self.last.replace(at);
        match &entry.event {
            Event::DaemonStarted { .. } => {
                let was_running = std::mem::replace(&mut self.is_running, true);
                let stopped = self.stopped.take();
                if let Some((position, since)) = stopped {
                    return Some(Gap::Stopped { position, since, until: Some(at) });
                }
                if let (true, Some(since)) = (was_running, last) {
                    return Some(Gap::Killed { position, since, until: at });
                }
            }
            Event::DaemonStopped { .. } => {
                self.is_running = false;
                self.stopped = Some((position, at));
            }
            Event::ClockJumped { seconds } => {
                return Some(Gap::ClockJumped { position, seconds: *seconds });
            }
            _ => {}
        }
        let back = last.map_or(0, |last| last.duration_since(at).as_secs());
        (back > TOLERANCE).then_some(Gap::Backwards { position, seconds: back })
    }

    /// What is still open at the log's end.
    pub(super) fn finish(&mut self) -> Option<Gap> {
        let (position, since) = self.stopped.take()?;
        Some(Gap::Stopped { position, since, until: None })
    }
}
