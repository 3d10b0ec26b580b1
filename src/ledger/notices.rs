//! Notices: what recipients are told of records that are gone, from the batch's outcome to their receipt.
//!
//! [`Drafts::write`] stands in the transaction of the batch's outcome, so there is no deletion without its notices and no
//! notice without its deletion. Who tells a recipient holds its lock ([`Ledger::lock_recipient`]), which vanishes
//! with the process: so nothing is leased, and what was told and not written down is told again under the same id.
//! Each change goes through [`notice::next`], as a condition of its statement.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;
use tokio::sync::Notify;
use uuid::Uuid;

use super::error::Doing;
use super::intent::Intended;
use super::row::{Columns, placeholders, to_integer};
use super::{Ledger, LedgerError, Run, Transaction, audit, commit, to_text};
use crate::audit::{Commitments, Entry, Event};
use crate::clock;
use crate::fault;
use crate::keys::Keys;
use crate::notice::{self, About, Answer, Identities, Message, Order, State, Step, Telling};
use crate::types::{Key, Name};

mod desk;
mod receipts;

pub use desk::{Notice, NoticeFilter, RecipientState};
pub use receipts::Received as ReceiptReceived;

/// Rows that are written by one statement.
const ROWS: usize = 64;
/// Columns of a row that is written.
const COLUMNS: usize = 15;
/// What a recipient is told of records that nothing identifies to it.
const UNNAMED: &str = "nothing identifies the records to the recipient";
/// As many bytes of a commitment tell lanes apart.
const LANE: usize = 16;

/// A notice whose turn it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queued {
    /// Its place in the queue.
    pub seq: i64,
    /// What is told.
    pub message: Message,
    /// The run whose records it is about.
    pub run: Uuid,
    /// How often it was told in vain.
    pub attempts: u32,
    /// When it must be over.
    pub due_at: Timestamp,
    /// Under which name the recipient knows it, where it has said so.
    pub job: Option<String>,
}

/// What came of a notice whose turn it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// The notice's place in the queue.
    pub seq: i64,
    /// Its id.
    pub id: Uuid,
    /// What came of it.
    pub answer: Answer,
    /// When it is told or asked again, where it is.
    pub next_at: Option<Timestamp>,
}

/// The notices of a batch, sealed before the transaction in which others wait.
#[derive(Default)]
pub(super) struct Drafts(Vec<(Telling, Vec<Draft>)>);

impl Drafts {
    /// What recipients are told of a batch.
    pub(super) fn of(keys: &Keys, taken: &Intended) -> Drafts {
        let columns = notice::told(&taken.tellings);
        let each = taken.tellings.iter().map(|telling| {
            let values = telling.values(&columns, &taken.told);
            let (lists, unnamed) = notice::lists(telling, &values);
            let lists = lists.iter().map(|about| Draft::of(keys, telling, about));
            let unnamed = (unnamed > 0).then(|| Draft::unnamed(keys, unnamed));
            (telling.clone(), lists.chain(unnamed).collect())
        });
        Drafts(each.collect())
    }

    /// Whether nobody is told anything.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, drafts)| drafts.is_empty())
    }

    /// How many there are to each recipient.
    pub(super) fn notices(&self) -> BTreeMap<Name, u64> {
        self.count(|_| true)
    }

    /// How many of them are over from the start, because nothing identifies the records to the recipient.
    pub(super) fn exempt(&self) -> BTreeMap<Name, u64> {
        self.count(|draft| draft.state == State::Exempt)
    }

    fn count(&self, which: impl Fn(&Draft) -> bool) -> BTreeMap<Name, u64> {
        let mut counts: BTreeMap<Name, u64> = BTreeMap::new();
        for (telling, drafts) in &self.0 {
            let notices = drafts.iter().filter(|draft| which(draft)).count() as u64;
            if notices > 0 {
                *counts.entry(telling.recipient.clone()).or_default() += notices;
            }
        }
        counts
    }

    /// Writes them, in the transaction of the batch's outcome.
    pub(super) async fn write(
        &self,
        tx: &mut Transaction<'_>,
        run: &Run,
        batch: Uuid,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        for (telling, drafts) in &self.0 {
            for some in drafts.chunks(ROWS) {
                insert(tx, run, batch, telling, some, now).await?;
            }
        }
        Ok(())
    }
}

/// A notice that is about to be written.
struct Draft {
    id: Uuid,
    state: State,
    subjects: u64,
    lane: Vec<u8>,
    sealed: Option<Vec<u8>>,
    commitment: [u8; 32],
    reason: Option<Vec<u8>>,
}

impl Draft {
    fn of(keys: &Keys, telling: &Telling, about: &[About<'_>]) -> Draft {
        let id = clock::new_id();
        let root = commitments(keys, &telling.recipient, about.iter().map(About::named)).root().0;
        // Lists go in order, one after the other; of single messages only those about the same.
        let lane = if telling.at_once > 1 { Vec::new() } else { root[..LANE].to_vec() };
        // Maps of texts always have a JSON.
        let plain = serde_json::to_vec(about).unwrap_or_default();
        Draft {
            id,
            state: State::Pending,
            subjects: about.len() as u64,
            lane,
            sealed: Some(keys.seal(&plain, place(id, "about").as_bytes())),
            commitment: root,
            reason: None,
        }
    }

    fn unnamed(keys: &Keys, records: u64) -> Draft {
        let id = clock::new_id();
        Draft {
            id,
            state: State::Exempt,
            subjects: records,
            lane: Vec::new(),
            sealed: None,
            commitment: Commitments::default().root().0,
            reason: Some(keys.seal(UNNAMED.as_bytes(), place(id, "reason").as_bytes())),
        }
    }
}

/// The commitments to what identifies some to a recipient, each by names and values.
fn commitments<'a, W: Iterator<Item = (&'a str, &'a str)>>(
    keys: &Keys,
    recipient: &Name,
    about: impl Iterator<Item = W>,
) -> Commitments {
    keys.commitments_to(recipient, "recipient", about, |who, out| {
        Key::encode_texts_to(who.flat_map(|(name, value)| [name, value]), out);
    })
}

async fn insert(
    tx: &mut Transaction<'_>,
    run: &Run,
    batch: Uuid,
    telling: &Telling,
    drafts: &[Draft],
    now: Timestamp,
) -> Result<(), LedgerError> {
    let values = placeholders(tx, drafts.len(), COLUMNS);
    let statement = format!(
        "INSERT INTO notice (id, recipient, rule, run_id, batch_id, state, subjects, lane, sealed, commitment, \
                             created_at, due_at, next_at, ended_at, reason) VALUES {values}"
    );
    let (run_id, batch_id) = (run.id.to_string(), batch.to_string());
    let (now_text, due) = (to_text(now), to_text(notice::due_at(now, telling.due_seconds)));
    let mut query = sqlx::query(AssertSqlSafe(statement));
    for draft in drafts {
        query = query.bind(draft.id.to_string()).bind(telling.recipient.as_str());
        query = query.bind(run.rule.as_str()).bind(&run_id).bind(&batch_id);
        query = query.bind(draft.state.as_str()).bind(to_integer(draft.subjects));
        query = query.bind(&draft.lane).bind(&draft.sealed).bind(draft.commitment.to_vec());
        let (next_at, ended_at) = match draft.state {
            State::Pending => (Some(&now_text), None),
            _ => (None, Some(&now_text)),
        };
        query = query.bind(&now_text).bind(&due).bind(next_at).bind(ended_at).bind(&draft.reason);
    }
    query.execute(&mut **tx).await.doing("writing notices")?;
    Ok(())
}

/// What binds sealed bytes to their notice.
fn place(id: Uuid, what: &str) -> String {
    format!("notice\0{what}\0{id}")
}

impl Ledger {
    /// The notices to a recipient whose turn it is, after this place in the queue, in order, at most so many.
    ///
    /// # Errors
    /// When the database does not answer, or what is told cannot be opened.
    pub async fn queued_notices(
        &self,
        recipient: &Name,
        order: Order,
        after: i64,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Queued>, LedgerError> {
        let whose_turn = match order {
            // Lists share a lane, which has no name; one that was put off for itself has left it.
            Order::Lists => "(next_at <= $4 OR length(lane) = 0)",
            Order::Lanes => {
                "next_at <= $4 AND seq = (SELECT min(seq) FROM notice AS first \
                 WHERE first.recipient = $1 AND first.state = 'pending' AND first.lane = notice.lane)"
            }
            Order::Free => "next_at <= $4",
        };
        let mut tx = self.snapshot().await?;
        // Put together from constants.
        let query = sqlx::query(AssertSqlSafe(format!(
            "SELECT seq, id, rule, run_id, created_at, due_at, attempts, job, sealed, next_at FROM notice \
             WHERE recipient = $1 AND state = 'pending' AND seq > $2 AND {whose_turn} ORDER BY seq LIMIT $3"
        )));
        let query = query.bind(recipient.as_str()).bind(after).bind(i64::from(limit));
        let rows = query.bind(to_text(now)).fetch_all(&mut *tx).await.doing("reading notices")?;
        let mut queued = Vec::with_capacity(rows.len());
        for row in &rows {
            if row.optional_moment("next_at")?.is_some_and(|next_at| next_at > now) {
                break;
            }
            queued.push(self.open_queued(row)?);
        }
        Ok(queued)
    }

    /// The notices that a recipient has received and is to be asked about, the longest waiting first.
    ///
    /// # Errors
    /// As for [`Ledger::queued_notices`].
    pub async fn notices_to_ask_about(
        &self,
        recipient: &Name,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Queued>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = sqlx::query(
            "SELECT seq, id, rule, run_id, created_at, due_at, attempts, job, sealed FROM notice \
             WHERE recipient = $1 AND state IN ('sent', 'accepted') AND next_at <= $2 \
             ORDER BY next_at, seq LIMIT $3",
        )
        .bind(recipient.as_str())
        .bind(to_text(now))
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await
        .doing("reading notices")?;
        rows.iter().map(|row| self.open_queued(row)).collect()
    }

    /// The next moment from now on at which a notice of a recipient has its turn, be it to tell or to ask.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn next_notice_after(
        &self,
        recipient: &Name,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query(
            "SELECT min(next_at) AS next_at FROM (\
             SELECT min(next_at) AS next_at FROM notice \
             WHERE recipient = $1 AND state = 'pending' AND attempts > 0 AND next_at > $2 UNION ALL \
             SELECT min(next_at) AS next_at FROM notice \
             WHERE recipient = $1 AND state IN ('sent', 'accepted') AND next_at > $2) AS turns",
        )
        .bind(recipient.as_str())
        .bind(to_text(now))
        .fetch_one(&mut *tx)
        .await
        .doing("looking for the next notice")?;
        row.optional_moment("next_at")
    }

    /// Whether a recipient wants to be told nothing any more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_stopped(&self, recipient: &Name) -> Result<bool, LedgerError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query(
            "SELECT count(*) AS stopped FROM recipient WHERE recipient = $1 AND stopped_at IS NOT NULL",
        )
        .bind(recipient.as_str())
        .fetch_one(&mut *tx)
        .await
        .doing("reading how a recipient does")?;
        Ok(row.count("stopped")? > 0)
    }

    /// Wakes whoever waits for notices when this process has written some.
    pub fn notices_written(&self) -> Arc<Notify> {
        self.notices_written.clone()
    }

    fn open_queued(&self, row: &AnyRow) -> Result<Queued, LedgerError> {
        let id = row.id("id")?;
        let seq = row.optional_integer("seq")?;
        Ok(Queued {
            seq: seq.ok_or(LedgerError::Damaged { column: "seq", found: "nothing" })?,
            run: row.id("run_id")?,
            attempts: u32::try_from(row.count("attempts")?).unwrap_or(u32::MAX),
            due_at: row.moment("due_at")?,
            job: self.open_text(id, "job", row)?,
            message: Message {
                id,
                rule: row.name("rule")?,
                created_at: row.moment("created_at")?,
                about: self.open_about(id, &row.bytes("sealed")?)?,
            },
        })
    }

    /// A text that is sealed; nothing where it was sealed under another key, so that it hides nothing else.
    fn open_text(
        &self,
        id: Uuid,
        column: &'static str,
        row: &AnyRow,
    ) -> Result<Option<String>, LedgerError> {
        let sealed = row.optional_bytes(column)?;
        let plain =
            sealed.and_then(|sealed| self.keys.unseal(&sealed, place(id, column).as_bytes()).ok());
        Ok(plain.and_then(|plain| String::from_utf8(plain).ok()))
    }

    fn seal_text(&self, id: Uuid, column: &'static str, text: &str) -> Vec<u8> {
        self.keys.seal(text.as_bytes(), place(id, column).as_bytes())
    }

    /// Whom a notice is about.
    fn open_about(&self, id: Uuid, sealed: &[u8]) -> Result<Vec<Identities>, LedgerError> {
        let damaged = |found| LedgerError::Damaged { column: "sealed", found };
        let plain = self.keys.unseal(sealed, place(id, "about").as_bytes());
        let plain = plain.map_err(|_| damaged("nothing that opens"))?;
        serde_json::from_slice(&plain).map_err(|_| damaged("no identities"))
    }

    /// Writes down what came of notices to one recipient, all in one transaction with their audit entries. A
    /// notice that has gone on meanwhile (a receipt overtook the answer) is left as it is.
    ///
    /// # Errors
    /// When the database does not answer; the notices are told again then.
    pub async fn settle_notices(
        &self,
        recipient: &Name,
        answered: &[Answered],
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        let mut ended: BTreeMap<(Uuid, Name, State), u64> = BTreeMap::new();
        let completed = answered.iter().filter(|one| one.answer == Answer::Completed);
        let completed: Vec<i64> = completed.map(|one| one.seq).collect();
        for some in completed.chunks(ROWS) {
            complete(&mut tx, some, now, &mut ended).await?;
        }
        for one in answered.iter().filter(|one| one.answer != Answer::Completed) {
            self.settle_one(&mut tx, one, now, &mut ended).await?;
        }
        self.record_ended(&mut tx, recipient, ended, now).await?;
        fault::point("notices.settling");
        commit(tx).await?;
        fault::point("notices.settled");
        Ok(())
    }

    async fn settle_one(
        &self,
        tx: &mut Transaction<'_>,
        one: &Answered,
        now: Timestamp,
        ended: &mut BTreeMap<(Uuid, Name, State), u64>,
    ) -> Result<(), LedgerError> {
        let seq = one.seq;
        let next_at = one.next_at.map(to_text);
        let (step, reason, job) = match &one.answer {
            Answer::Completed => (Step::Complete, None, None),
            Answer::Sent { job } => (Step::Send, None, job.as_deref()),
            Answer::Accepted => (Step::Accept, None, None),
            Answer::Denied(reason) => (Step::Deny, Some(reason), None),
            Answer::Exempt(reason) => (Step::Exempt, Some(reason), None),
            Answer::Failed(why) => {
                let failed = take_step(tx, seq, Step::Fail, now).await?;
                note_error(tx, seq, why).await?;
                count(ended, failed);
                return Ok(());
            }
            Answer::Later { why, is_down, .. } => {
                // A list that is put off for itself leaves the lane of lists for one of its own, so that none waits for it.
                sqlx::query(
                    "UPDATE notice SET attempts = attempts + 1, next_at = $1, error = $2, \
                                       lane = CASE WHEN $3 = 1 AND length(lane) = 0 THEN $4 ELSE lane END \
                     WHERE seq = $5 AND state IN ('pending', 'sent', 'accepted')",
                )
                .bind(next_at)
                .bind(why)
                .bind(i64::from(!is_down))
                .bind(one.id.as_bytes().as_slice())
                .bind(seq)
                .execute(&mut **tx)
                .await
                .doing("putting a notice off")?;
                return Ok(());
            }
            // Nothing is wrong with the notice: it waits until somebody has looked at the recipient.
            Answer::Gone => return Ok(()),
        };
        let moved = take_step(tx, seq, step, now).await?;
        // Being asked, it says again what is known: then only the next moment is new.
        let is_at = if moved.is_some() { "" } else { " AND state IN ('sent', 'accepted')" };
        let reason = reason.map(|reason| self.seal_text(one.id, "reason", reason));
        let job = job.map(|job| self.seal_text(one.id, "job", job));
        sqlx::query(AssertSqlSafe(format!(
            "UPDATE notice SET next_at = $1, attempts = 0, reason = coalesce($2, reason), job = coalesce($3, job), \
                               error = NULL WHERE seq = $4{is_at}"
        )))
        .bind(next_at)
        .bind(reason)
        .bind(job)
        .bind(seq)
        .execute(&mut **tx)
        .await
        .doing("writing an answer down")?;
        count(ended, moved);
        Ok(())
    }

    /// Tells the audit log, and the recipient's row, of notices that ended.
    async fn record_ended(
        &self,
        tx: &mut Transaction<'_>,
        recipient: &Name,
        ended: BTreeMap<(Uuid, Name, State), u64>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let completed: u64 = ended
            .iter()
            .filter(|((_, _, state), _)| *state == State::Completed)
            .map(|(_, notices)| notices)
            .sum();
        if completed > 0 {
            sqlx::query(
                "INSERT INTO recipient (recipient, completed, answered_at) VALUES ($1, $2, $3) \
                 ON CONFLICT (recipient) DO UPDATE SET \
                 completed = recipient.completed + excluded.completed, answered_at = excluded.answered_at",
            )
            .bind(recipient.as_str())
            .bind(to_integer(completed))
            .bind(to_text(now))
            .execute(&mut **tx)
            .await
            .doing("counting notices")?;
        }
        for ((run, rule, state), notices) in ended {
            if matches!(state, State::Pending | State::Sent | State::Accepted) {
                continue;
            }
            let recipient = recipient.clone();
            let event = Event::NoticesSettled { run, rule, recipient, state, notices };
            audit::append(tx, &self.keys, &Entry { at: now, event }).await?;
        }
        Ok(())
    }
}

/// A notice that has gone on: its run, its rule, and where it stands now.
type Moved = (Uuid, Name, State);

fn count(ended: &mut BTreeMap<Moved, u64>, moved: Option<Moved>) {
    if let Some(moved) = moved {
        *ended.entry(moved).or_default() += 1;
    }
}

/// Takes a step with one notice, where that is legal.
async fn take_step(
    tx: &mut Transaction<'_>,
    seq: i64,
    step: Step,
    now: Timestamp,
) -> Result<Option<Moved>, LedgerError> {
    for (from, to) in legal(step) {
        let row = sqlx::query(
            "UPDATE notice SET state = $1, next_at = NULL, sent_at = coalesce(sent_at, $2), \
                               ended_at = $3, sealed = CASE WHEN $4 = 1 THEN NULL ELSE sealed END, \
                               job = CASE WHEN $4 = 1 THEN NULL ELSE job END \
             WHERE seq = $5 AND state = $6 RETURNING run_id, rule",
        )
        .bind(to.as_str())
        .bind((!matches!(to, State::Pending | State::Failed)).then(|| to_text(now)))
        .bind((!to.is_under_way()).then(|| to_text(now)))
        .bind(i64::from(to.is_over()))
        .bind(seq)
        .bind(from.as_str())
        .fetch_optional(&mut **tx)
        .await
        .doing("moving a notice on")?;
        if let Some(row) = row {
            return Ok(Some((row.id("run_id")?, row.name("rule")?, to)));
        }
    }
    Ok(None)
}

/// From which states a step leads, and to which.
fn legal(step: Step) -> impl Iterator<Item = (State, State)> {
    State::ALL.into_iter().filter_map(move |from| Some((from, notice::next(from, step)?)))
}

/// Completes notices, and forgets whom they were about.
async fn complete(
    tx: &mut Transaction<'_>,
    notices: &[i64],
    now: Timestamp,
    ended: &mut BTreeMap<Moved, u64>,
) -> Result<(), LedgerError> {
    let places: Vec<_> = (0..notices.len()).map(|place| format!("${}", place + 2)).collect();
    let states: Vec<_> =
        legal(Step::Complete).map(|(from, _)| format!("'{}'", from.as_str())).collect();
    let statement = format!(
        "UPDATE notice SET state = 'completed', sealed = NULL, job = NULL, next_at = NULL, error = NULL, \
                           sent_at = coalesce(sent_at, $1), ended_at = $1 \
         WHERE seq IN ({}) AND state IN ({}) RETURNING run_id, rule",
        places.join(", "),
        states.join(", ")
    );
    let mut query = sqlx::query(AssertSqlSafe(statement)).bind(to_text(now));
    for seq in notices {
        query = query.bind(*seq);
    }
    let rows = query.fetch_all(&mut **tx).await.doing("completing notices")?;
    for row in rows {
        count(ended, Some((row.id("run_id")?, row.name("rule")?, State::Completed)));
    }
    Ok(())
}

async fn note_error(tx: &mut Transaction<'_>, seq: i64, why: &str) -> Result<(), LedgerError> {
    sqlx::query("UPDATE notice SET error = $1 WHERE seq = $2 AND state = 'failed'")
        .bind(why)
        .bind(seq)
        .execute(&mut **tx)
        .await
        .doing("writing an answer down")?;
    Ok(())
}
