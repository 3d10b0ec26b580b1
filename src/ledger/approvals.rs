//! Approvals: runs that stand still before their first record until somebody says that they may go on.
//!
//! ```text
//! waiting -> approved -> used
//!    '----------'------> withdrawn
//! ```
//!
//! Of a rule one at most is open. It becomes a run under the id that it was approved by, unless the
//! rule was changed, much more is due by then, or a week has passed: what was approved is not what would
//! be done.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::error::Doing;
use super::row::{Columns, to_integer};
use super::{Ledger, LedgerError, Request, Start, Transaction, audit, commit, requests, to_text};
use crate::audit::{Entry, Event};
use crate::breaker::{History, Share, Trip, has_drifted};
use crate::clock;
use crate::rule::Rule;
use crate::types::Name;

/// How much more than was approved may be due when the run begins.
const GROWTH: Share = Share::TENTH;
/// How long what was approved may be made use of.
const GOOD_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Runs that are looked back on.
const REMEMBERED: i64 = 20;

/// A run that waits for somebody's approval, or has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Approval {
    /// The id that the run will have.
    pub run: Uuid,
    /// Its rule.
    pub rule: Name,
    /// Which version of the rule.
    pub rule_digest: String,
    /// Its store.
    pub store: Name,
    /// Its table.
    pub table: String,
    /// How many records were due.
    pub due: u64,
    /// Of how many.
    pub total: u64,
    /// Why it waits.
    pub reason: String,
    /// Since when.
    pub asked_at: Timestamp,
    /// When it was approved.
    pub approved_at: Option<Timestamp>,
    /// By which account.
    pub approved_by: Option<String>,
    /// Why.
    pub why: Option<String>,
}

impl Approval {
    /// Whether it lets a run of this version of the rule take so many records now.
    fn covers(&self, rule_digest: &str, due: u64, now: Timestamp) -> bool {
        let Some(since) = self.approved_at else { return false };
        if now.duration_since(since) > GOOD_FOR {
            return false;
        }
        self.rule_digest == rule_digest && !self.is_outgrown_by(due)
    }

    /// Whether clearly more is due than was asked about.
    fn is_outgrown_by(&self, due: u64) -> bool {
        due > self.due && has_drifted(self.due, due, GROWTH)
    }
}

/// Whether a run may begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Permission {
    /// By this right.
    Given(Start),
    /// It waits for approval.
    Waits(Box<Approval>),
}

/// What came of approving.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Approved {
    /// The run may go on.
    Now(Approval),
    /// Somebody had approved it before.
    Before(Approval),
    /// Nothing of that id waits: it was never asked for, has run, or is outdated.
    Unknown,
}

impl Ledger {
    /// What is remembered of a rule, for its circuit breakers.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn history(&self, rule: &Rule) -> Result<History, LedgerError> {
        let mut tx = self.snapshot().await?;
        let acted = sqlx::query(
            "SELECT count(*) AS acted FROM run WHERE rule = $1 AND rule_digest = $2 \
             AND mode = 'enforce' AND records > 0",
        )
        .bind(rule.name.as_str())
        .bind(rule.digest())
        .fetch_one(&mut *tx)
        .await
        .doing("reading what a rule has done")?;
        let rows = sqlx::query(
            "SELECT records, started_at FROM run WHERE rule = $1 AND mode = 'enforce' \
             AND state IN ('done', 'stopped', 'failed') \
             AND NOT EXISTS (SELECT 1 FROM request WHERE id = request_id AND cause = 'replay') \
             ORDER BY started_at DESC LIMIT $2",
        )
        .bind(rule.name.as_str())
        .bind(REMEMBERED)
        .fetch_all(&mut *tx)
        .await
        .doing("reading what a rule has done")?;
        let runs = rows.iter().map(|row| Ok((row.moment("started_at")?, row.count("records")?)));
        Ok(History {
            has_acted: acted.count("acted")? > 0,
            runs: runs.collect::<Result<_, LedgerError>>()?,
        })
    }

    /// Asks for approval of a run, or finds that it was given. The run's request is closed while it
    /// waits; approving opens it again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn ask_approval(
        &self,
        request: &Request,
        rule: &Rule,
        (due, total): (u64, u64),
        trip: Trip,
        now: Timestamp,
    ) -> Result<Permission, LedgerError> {
        let digest = rule.digest();
        let mut tx = self.begin().await?;
        let open = open(&mut tx, &rule.name).await?;
        if let Some(open) = &open
            && open.covers(&digest, due, now)
        {
            return Ok(Permission::Given(Start::Approved(open.run)));
        }
        let unfinished = unfinished(&mut tx, &rule.name).await?;
        if unfinished.is_some_and(|(approval, taken)| approval.covers(&digest, due + taken, now)) {
            return Ok(Permission::Given(Start::Unasked));
        }
        let note = Some("it waits for approval");
        requests::close(&mut tx, request.id, "abandoned", note, now).await?;
        // Somebody may be looking at it: what was asked about stays what is approved.
        let is_same = |open: &Approval| {
            open.approved_at.is_none() && open.rule_digest == digest && !open.is_outgrown_by(due)
        };
        let approval = Approval {
            run: clock::new_id(),
            rule: rule.name.clone(),
            rule_digest: digest.clone(),
            store: rule.store.clone(),
            table: rule.table.to_string(),
            due,
            total,
            reason: trip.reason(rule.whole()).to_owned(),
            asked_at: now,
            approved_at: None,
            approved_by: None,
            why: None,
        };
        match open {
            Some(open) if is_same(&open) => {
                renew(&mut tx, open.run, request).await?;
                commit(tx).await?;
                return Ok(Permission::Waits(Box::new(open)));
            }
            outdated => {
                if let Some(outdated) = outdated {
                    set_state(&mut tx, outdated.run, "withdrawn").await?;
                }
                insert(&mut tx, &approval, request).await?;
                let event = Event::ApprovalAwaited {
                    run: approval.run,
                    rule: approval.rule.clone(),
                    rule_digest: digest,
                    store: approval.store.clone(),
                    table: approval.table.clone(),
                    due,
                    total,
                    reason: trip.reason(rule.whole()).into(),
                };
                audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
            }
        }
        commit(tx).await?;
        Ok(Permission::Waits(Box::new(approval)))
    }

    /// Approves a run that waits, and opens its request again.
    ///
    /// # Errors
    /// When the database does not answer; nothing is approved then.
    pub async fn approve(
        &self,
        run: Uuid,
        by: &str,
        why: &str,
        now: Timestamp,
    ) -> Result<Approved, LedgerError> {
        let mut tx = self.begin().await?;
        let found = approvals(&mut tx).await?.into_iter().find(|approval| approval.run == run);
        let Some(mut approval) = found else { return Ok(Approved::Unknown) };
        let approved = sqlx::query(
            "UPDATE approval SET state = 'approved', decided_at = $1, decided_by = $2, why = $3 \
             WHERE run_id = $4 AND state = 'waiting'",
        )
        .bind(to_text(now))
        .bind(by)
        .bind(why)
        .bind(run.to_string())
        .execute(&mut *tx)
        .await
        .doing("approving a run")?;
        if approved.rows_affected() != 1 {
            return Ok(Approved::Before(approval));
        }
        sqlx::query(
            // Of pending requests for events there is one at most; a claimed one is picked up as well.
            "UPDATE request SET state = CASE WHEN cause = 'event' THEN 'claimed' ELSE 'pending' END, closed_at = NULL, note = NULL \
             WHERE id = (SELECT request_id FROM approval WHERE run_id = $1) AND state = 'abandoned'",
        )
        .bind(run.to_string())
        .execute(&mut *tx)
        .await
        .doing("opening the request of an approved run")?;
        let event = Event::RunApproved {
            run,
            rule: approval.rule.clone(),
            store: approval.store.clone(),
            by: by.to_owned(),
        };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await?;
        approval.approved_at = Some(now);
        approval.approved_by = Some(by.to_owned());
        approval.why = Some(why.to_owned());
        Ok(Approved::Now(approval))
    }

    /// Ends the wait of a rule that runs within its limits: what was approved was for another day.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn withdraw_approval(&self, rule: &Name) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        let Some(open) = open(&mut tx, rule).await? else { return Ok(()) };
        set_state(&mut tx, open.run, "withdrawn").await?;
        commit(tx).await
    }

    /// Whether somebody was asked about this version of a rule and has not answered yet.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn waits_for_approval(&self, rule: &Rule) -> Result<bool, LedgerError> {
        let mut tx = self.snapshot().await?;
        let open = open(&mut tx, &rule.name).await?;
        let is_first = |open: &Approval| open.reason == Trip::FirstRun.reason(rule.whole());
        Ok(open.is_some_and(|open| {
            open.approved_at.is_none() && open.rule_digest == rule.digest() && is_first(&open)
        }))
    }

    /// The runs that wait, or are approved and have not begun; the oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn approvals(&self) -> Result<Vec<Approval>, LedgerError> {
        let mut tx = self.snapshot().await?;
        approvals(&mut tx).await
    }
}

/// Ends the wait of a rule that runs: what was approved is used up by the run of its id, what waited
/// has no reason to.
pub(super) async fn end_wait(
    tx: &mut Transaction<'_>,
    rule: &Name,
    run: Uuid,
    is_for_events: bool,
) -> Result<(), LedgerError> {
    match open(tx, rule).await? {
        Some(open) if open.run == run => set_state(tx, run, "used").await,
        Some(open) if open.approved_at.is_none() && !is_for_events => {
            set_state(tx, open.run, "withdrawn").await
        }
        _ => Ok(()),
    }
}

async fn open(tx: &mut Transaction<'_>, rule: &Name) -> Result<Option<Approval>, LedgerError> {
    Ok(approvals(tx).await?.into_iter().find(|approval| approval.rule == *rule))
}

async fn approvals(tx: &mut Transaction<'_>) -> Result<Vec<Approval>, LedgerError> {
    let rows = sqlx::query(
        "SELECT * FROM approval WHERE state IN ('waiting', 'approved') ORDER BY asked_at, rule",
    )
    .fetch_all(&mut **tx)
    .await
    .doing("reading approvals")?;
    rows.iter().map(read).collect()
}

/// The latest approval of a rule that was made use of, while no run has gone to its end since, and how
/// many records were taken by it: what was interrupted goes on without being approved again.
async fn unfinished(
    tx: &mut Transaction<'_>,
    rule: &Name,
) -> Result<Option<(Approval, u64)>, LedgerError> {
    let row = sqlx::query(
        "SELECT approval.*, (SELECT CAST(coalesce(sum(records), 0) AS BIGINT) FROM run \
           WHERE run.rule = approval.rule AND run.started_at >= approval.decided_at) AS taken \
         FROM approval WHERE rule = $1 AND state = 'used' AND NOT EXISTS \
         (SELECT 1 FROM run WHERE run.rule = approval.rule AND run.state = 'done' \
          AND run.started_at >= approval.decided_at) ORDER BY decided_at DESC LIMIT 1",
    )
    .bind(rule.as_str())
    .fetch_optional(&mut **tx)
    .await
    .doing("reading approvals")?;
    row.map(|row| Ok((read(&row)?, row.count("taken")?))).transpose()
}

fn read(row: &AnyRow) -> Result<Approval, LedgerError> {
    Ok(Approval {
        run: row.id("run_id")?,
        rule: row.name("rule")?,
        rule_digest: row.text("rule_digest")?,
        store: row.name("store")?,
        table: row.text("table_name")?,
        due: row.count("due")?,
        total: row.count("total")?,
        reason: row.text("reason")?,
        asked_at: row.moment("asked_at")?,
        approved_at: row.optional_moment("decided_at")?,
        approved_by: row.optional_text("decided_by")?,
        why: row.optional_text("why")?,
    })
}

async fn insert(
    tx: &mut Transaction<'_>,
    approval: &Approval,
    request: &Request,
) -> Result<(), LedgerError> {
    sqlx::query(
        "INSERT INTO approval (run_id, request_id, rule, rule_digest, store, table_name, due, total, \
                               reason, state, asked_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'waiting', $10)",
    )
    .bind(approval.run.to_string())
    .bind(request.id.to_string())
    .bind(approval.rule.as_str())
    .bind(&approval.rule_digest)
    .bind(approval.store.as_str())
    .bind(&approval.table)
    .bind(to_integer(approval.due))
    .bind(to_integer(approval.total))
    .bind(&approval.reason)
    .bind(to_text(approval.asked_at))
    .execute(&mut **tx)
    .await
    .doing("asking for approval")?;
    Ok(())
}

/// The latest request is the one that is opened again when the run is approved.
async fn renew(tx: &mut Transaction<'_>, run: Uuid, request: &Request) -> Result<(), LedgerError> {
    sqlx::query("UPDATE approval SET request_id = $1 WHERE run_id = $2 AND state = 'waiting'")
        .bind(request.id.to_string())
        .bind(run.to_string())
        .execute(&mut **tx)
        .await
        .doing("asking for approval again")?;
    Ok(())
}

async fn set_state(
    tx: &mut Transaction<'_>,
    run: Uuid,
    state: &'static str,
) -> Result<(), LedgerError> {
    // What is withdrawn was decided on by nobody; what was approved keeps who approved it.
    sqlx::query("UPDATE approval SET state = $1 WHERE run_id = $2 AND state <> $1")
        .bind(state)
        .bind(run.to_string())
        .execute(&mut **tx)
        .await
        .doing("ending the wait of a run")?;
    Ok(())
}
