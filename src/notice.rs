//! Notices: what recipients are told of records that are gone, and the legal states that a notice goes through.
//!
//! ```text
//! pending -> sent -> accepted -> completed
//!    |  any of these -> completed | denied | exempt | failed
//!    '<- denied, failed (when somebody has it tried again)
//! ```
//!
//! One notice is one message to one recipient: about one subject or record, or about as many as the recipient takes
//! at once. It is *overdue* while it is not over and its due time has passed, whatever its state.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::types::Name;

/// How long after each attempt the next one comes, where nothing else is configured: the example of the Standard
/// Webhooks specification ("Retries"). The last one repeats until the notice is overdue.
pub const DELAYS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];
/// Longer than this nobody is heeded who asks to come again later.
const LONGEST: Duration = Duration::from_hours(24);

/// What identifies one subject or record to a recipient: values by the names that the recipient knows them by.
/// `Debug` shows the names alone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identities(pub BTreeMap<String, String>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Which recipient a rule has told of its records, and how it knows them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Telling {
    /// The recipient.
    pub recipient: Name,
    /// By its names of them, the columns (or placeholders of the path) that identify a record to it.
    pub identify: BTreeMap<String, String>,
    /// Whether it is told of each person or of each record.
    pub per: Per,
    /// How many it takes in one message.
    pub at_once: usize,
    /// How many seconds it has until it must have completed.
    pub due_seconds: u64,
}

/// Whether a recipient is told of persons or of records.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Each subject once, however many of its records a batch takes.
    #[default]
    Subject,
    /// Each record.
    Record,
}

/// Where a notice stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has not reached the recipient.
    Pending,
    /// It has, and the recipient has not said anything of it yet.
    Sent,
    /// The recipient has said that it is at work.
    Accepted,
    /// The recipient has done it.
    Completed,
    /// The recipient has refused.
    Denied,
    /// The recipient need not: somebody, or the recipient, has said why.
    Exempt,
    /// It could not be delivered, and is not tried again by itself.
    Failed,
}

impl State {
    /// All of them.
    pub const ALL: [State; 7] = [
        State::Pending,
        State::Sent,
        State::Accepted,
        State::Completed,
        State::Denied,
        State::Exempt,
        State::Failed,
    ];

    /// The word for it, in the ledger and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Sent => "sent",
            State::Accepted => "accepted",
            State::Completed => "completed",
            State::Denied => "denied",
            State::Exempt => "exempt",
            State::Failed => "failed",
        }
    }

    /// What the word stands for.
    pub fn from_word(word: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether the deletion no longer waits for this recipient.
    pub fn is_over(self) -> bool {
        matches!(self, State::Completed | State::Exempt)
    }

    /// Whether it goes on by itself.
    pub fn is_under_way(self) -> bool {
        matches!(self, State::Pending | State::Sent | State::Accepted)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What happens to a notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It has reached the recipient.
    Send,
    /// The recipient says that it is at work.
    Accept,
    /// The recipient says that it has done it.
    Complete,
    /// The recipient refuses.
    Deny,
    /// The recipient need not.
    Exempt,
    /// It is not tried again by itself.
    Fail,
    /// Somebody has it tried again.
    Retry,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 7] = [
        Step::Send,
        Step::Accept,
        Step::Complete,
        Step::Deny,
        Step::Exempt,
        Step::Fail,
        Step::Retry,
    ];
}

/// The state after a step; `None` where the step changes nothing: what is over stays over, and what comes late, or
/// twice, or in the wrong order leads nowhere back.
pub fn next(state: State, step: Step) -> Option<State> {
    use State::{Accepted, Completed, Denied, Exempt, Failed, Pending, Sent};
    match (state, step) {
        (Completed | Exempt, _) => None,
        (Pending, Step::Send) => Some(Sent),
        (Pending | Sent | Failed, Step::Accept) => Some(Accepted),
        // Whoever has refused, or could not be reached, may have done it after all.
        (_, Step::Complete) => Some(Completed),
        (Pending | Sent | Accepted | Failed, Step::Deny) => Some(Denied),
        (_, Step::Exempt) => Some(Exempt),
        (Pending | Sent | Accepted, Step::Fail) => Some(Failed),
        // One that was accepted and of which nothing was heard since may be told again.
        (Denied | Failed | Sent | Accepted, Step::Retry) => Some(Pending),
        _ => None,
    }
}

/// A notice as it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Its id, the same for each attempt: by it a recipient knows what it has seen before.
    pub id: Uuid,
    /// The rule that took the records.
    pub rule: Name,
    /// When their deletion was recorded.
    pub created_at: Timestamp,
    /// Whom or what it is about, one after the other.
    pub about: Vec<Identities>,
}

/// Which notices to one recipient wait for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// One goes after the other, and none before one that was put off because the recipient was in trouble.
    Lists,
    /// Of those of a lane, the earlier one goes first.
    Lanes,
    /// None waits for another.
    Free,
}

/// What came of telling a recipient, or of asking how far it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It has done it.
    Completed,
    /// It has received it, and is asked, or says by itself, how it went; by this name, where it has given one.
    Sent {
        /// The recipient's own name of the job.
        job: Option<String>,
    },
    /// It is at work.
    Accepted,
    /// It refuses, for this reason.
    Denied(String),
    /// It need not, for this reason, such as the subject's own consent given to it.
    Exempt(String),
    /// It cannot be told just now.
    Later {
        /// How long it asks to be left alone.
        after: Option<Duration>,
        /// Why, without anything that was told.
        why: String,
        /// Whether the recipient as a whole is in trouble, rather than this message.
        is_down: bool,
    },
    /// Telling it again would be in vain.
    Failed(String),
    /// It does not want to be told anything any more (410): nothing is sent until somebody looks.
    Gone,
}

/// What a recipient says by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The receipt's own id, by which a replayed one is known; the notice's and state where it has none.
    pub id: String,
    /// The notice.
    pub notice: Uuid,
    /// What it says: accept, complete, deny or exempt.
    pub step: Step,
    /// Why, where it refuses.
    pub reason: Option<String>,
}

/// How long until the next attempt after `attempts` failed ones, by these delays. `chance` is from 0 to 1 and spreads the moments by a
/// fifth to either side, so that many notices do not come at once; what the recipient asked for is the least.
pub fn delay(delays: &[Duration], attempts: u32, asked: Option<Duration>, chance: f64) -> Duration {
    let place = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let delay = delays.get(place).or(delays.last()).copied().unwrap_or(LONGEST);
    let spread = delay.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0));
    spread.max(asked.unwrap_or_default().min(LONGEST))
}

/// Whether a notice is not tried again by itself: its schedule is at its end, and so is its time.
pub fn is_hopeless(delays: &[Duration], attempts: u32, due_at: Timestamp, now: Timestamp) -> bool {
    attempts as usize > delays.len() && now >= due_at
}

/// When a notice that is created at `now` is due. A time beyond the calendar is its end.
pub fn due_at(now: Timestamp, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// The columns (or placeholders) whose values are told, each once, in the order in which a batch carries them.
pub fn told(tellings: &[Telling]) -> Vec<&str> {
    let columns = tellings.iter().flat_map(|telling| telling.identify.values());
    let columns: BTreeSet<&str> = columns.map(String::as_str).collect();
    columns.into_iter().collect()
}

impl Telling {
    /// Of what a batch carries, the values that this recipient is told, record after record: of each in the order
    /// of [`Telling::identify`], as [`lists`] takes them. `columns` are those of [`told`].
    pub fn values<'a>(
        &self,
        columns: &[&str],
        records: &'a [Vec<Option<String>>],
    ) -> Vec<Option<&'a str>> {
        let place = |wanted: &String| columns.iter().position(|column| column == wanted);
        let places: Vec<_> = self.identify.values().map(place).collect();
        let value =
            |record: &'a Vec<Option<String>>, place: Option<usize>| record.get(place?)?.as_deref();
        let pick = |record| places.iter().map(move |place| value(record, *place));
        records.iter().flat_map(pick).collect()
    }
}

/// What identifies one subject or record to a recipient, as a batch has it. Serialized, it is [`Identities`].
#[derive(Clone, Copy)]
pub struct About<'a> {
    telling: &'a Telling,
    values: &'a [Option<&'a str>],
}

impl<'a> About<'a> {
    /// Its values by their names. Those that are NULL are left out.
    pub fn named(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let known = self.telling.identify.keys().zip(self.values);
        known.filter_map(|(name, value)| Some((name.as_str(), (*value)?)))
    }
}

impl Serialize for About<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.named())
    }
}

/// The messages that a telling makes of a batch: `values` has the values of each record, as [`Telling::values`]
/// gives them.
///
/// Gives the lists, each for one message, and how many records nothing identifies.
pub fn lists<'a>(
    telling: &'a Telling,
    values: &'a [Option<&'a str>],
) -> (Vec<Vec<About<'a>>>, u64) {
    let (mut about, mut unnamed) = (Vec::new(), 0);
    let mut seen = HashSet::new();
    for values in values.chunks(telling.identify.len().max(1)) {
        if values.iter().all(Option::is_none) {
            unnamed += 1;
        } else if telling.per == Per::Record || seen.insert(values) {
            about.push(About { telling, values });
        }
    }
    let lists = about.chunks(telling.at_once.max(1)).map(<[About<'_>]>::to_vec).collect();
    (lists, unnamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_stays_over() {
        for state in State::ALL {
            for step in Step::ALL {
                let after = next(state, step);
                assert_ne!(after, Some(state), "{state} {step:?}");
                if state.is_over() {
                    assert_eq!(after, None);
                }
            }
        }
    }

    #[test]
    fn each_state_is_known_by_its_word() {
        for state in State::ALL {
            assert_eq!(State::from_word(state.as_str()), Some(state));
        }
        assert_eq!(State::from_word("overdue"), None);
    }

    #[test]
    fn delays_follow_the_schedule_and_what_was_asked_for() {
        assert_eq!(delay(&DELAYS, 1, None, 0.5), Duration::from_secs(5));
        assert_eq!(delay(&DELAYS, 2, None, 0.0), Duration::from_mins(4));
        assert_eq!(delay(&DELAYS, 2, None, 1.0), Duration::from_mins(6));
        assert_eq!(delay(&DELAYS, 99, None, 0.5), Duration::from_hours(24));
        assert_eq!(delay(&DELAYS, 1, Some(Duration::from_secs(90)), 0.5), Duration::from_secs(90));
        assert_eq!(
            delay(&DELAYS, 1, Some(Duration::from_hours(99)), 0.5),
            Duration::from_hours(24)
        );
    }

    #[test]
    fn a_subject_is_told_once_and_a_record_each() {
        let mut telling = Telling {
            recipient: "ads".parse().unwrap(),
            identify: [("id".to_owned(), "user_id".to_owned())].into(),
            per: Per::Subject,
            at_once: 2,
            due_seconds: 60,
        };
        let values = [Some("1"), Some("2"), Some("1"), None, Some("3")];
        let sizes = |telling: &Telling| {
            let (lists, unnamed) = lists(telling, &values);
            (lists.iter().map(Vec::len).collect::<Vec<_>>(), unnamed)
        };
        assert_eq!(sizes(&telling), (vec![2, 1], 1));
        telling.per = Per::Record;
        assert_eq!(sizes(&telling), (vec![2, 2], 1));
    }

    #[test]
    fn debug_shows_no_value() {
        let identities = Identities([("email".to_owned(), "anna@example.org".to_owned())].into());
        assert_eq!(format!("{identities:?}"), "{\"email\"}");
    }
}
