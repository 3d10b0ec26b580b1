//! What the ledger knows of each rule beyond its configuration: when it was first seen, which slot
//! was claimed last, and whether it is armed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::error::Doing;
use super::row::Columns;
use super::{Ledger, LedgerError, audit, commit, requests, to_text};
use crate::audit::{Entry, Event};
use crate::rule::{Mode, Rule};
use crate::types::Name;

/// What is remembered of a rule.
#[derive(Clone, Debug)]
pub struct RuleState {
    /// Which version of the rule was loaded last ([`Rule::digest`]).
    pub digest: String,
    /// Its mode then.
    pub mode: Mode,
    /// Its schedule then, with the zone.
    pub schedule: String,
    /// When it was first loaded with this schedule; slots before that are nobody's.
    pub first_seen: Timestamp,
    /// The slot that was claimed last.
    pub last_slot: Option<Timestamp>,
    /// Since when it has been armed.
    pub armed_at: Option<Timestamp>,
}

impl RuleState {
    /// The moment from which missed slots count.
    pub fn seen_until(&self) -> Timestamp {
        self.last_slot.map_or(self.first_seen, |slot| slot.max(self.first_seen))
    }
}

/// How a rule differs from the one that was loaded before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the variants say it; the field is the rule")]
pub enum RuleChange {
    Added { rule: Name },
    Changed { rule: Name },
    Rescheduled { rule: Name },
    Removed { rule: Name },
    Armed { rule: Name },
    Disarmed { rule: Name },
}

impl std::fmt::Display for RuleChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RuleChange::Added { rule } => write!(f, "rule {rule} is new"),
            RuleChange::Changed { rule } => write!(f, "rule {rule} takes or does something else"),
            RuleChange::Rescheduled { rule } => write!(f, "rule {rule} has another schedule"),
            RuleChange::Removed { rule } => write!(f, "rule {rule} is gone"),
            RuleChange::Armed { rule } => write!(f, "rule {rule} is armed"),
            RuleChange::Disarmed { rule } => write!(f, "rule {rule} only observes"),
        }
    }
}

/// A configuration that takes effect.
#[derive(Clone, Copy, Debug)]
pub struct Loaded<'a> {
    /// Its rules.
    pub rules: &'a BTreeMap<Name, Rule>,
    /// How many stores it has.
    pub stores: usize,
    /// The digest over all of it.
    pub digest: &'a str,
    /// When it took effect.
    pub now: Timestamp,
}

impl Ledger {
    /// Everything that is remembered of the rules.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rule_states(&self) -> Result<BTreeMap<Name, RuleState>, LedgerError> {
        let mut tx = self.snapshot().await?;
        states(&mut tx).await
    }

    /// Takes note of a configuration, and records what it changes, all at once. A configuration
    /// with the digest of the one loaded before leaves no entry.
    ///
    /// # Errors
    /// When the database does not answer; nothing is noted then.
    pub async fn load_rules(&self, loaded: Loaded<'_>) -> Result<Vec<RuleChange>, LedgerError> {
        let mut tx = self.begin().await?;
        let before = states(&mut tx).await?;
        let mut changes = Vec::new();
        let mut events = Vec::new();
        for rule in loaded.rules.values() {
            compare(rule, before.get(&rule.name), &mut changes, &mut events);
            if before.get(&rule.name).is_none_or(|state| !is_known(rule, state)) {
                remember(&mut tx, rule, before.get(&rule.name), loaded.now).await?;
            }
        }
        for (name, state) in before.iter().filter(|(name, _)| !loaded.rules.contains_key(*name)) {
            changes.push(RuleChange::Removed { rule: name.clone() });
            events.push(Event::RuleRemoved { rule: name.clone(), digest: state.digest.clone() });
            sqlx::query("DELETE FROM rule_state WHERE rule = $1")
                .bind(name.as_str())
                .execute(&mut *tx)
                .await
                .doing("forgetting a rule")?;
            requests::abandon_all(&mut tx, name, loaded.now).await?;
        }
        if !changes.is_empty() || last_digest(&mut tx).await?.as_deref() != Some(loaded.digest) {
            let first = Event::ConfigurationLoaded {
                digest: loaded.digest.to_owned(),
                rules: loaded.rules.len() as u64,
                stores: loaded.stores as u64,
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            for event in std::iter::once(first).chain(events) {
                audit::append(&mut tx, &self.keys, &Entry { at: loaded.now, event }).await?;
            }
        }
        commit(tx).await?;
        Ok(changes)
    }

    /// Appends one entry to the audit log by itself.
    ///
    /// # Errors
    /// When the log's head is not as it was left, or the database does not answer.
    pub async fn record(&self, now: Timestamp, event: Event) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await
    }
}

fn compare(
    rule: &Rule,
    before: Option<&RuleState>,
    changes: &mut Vec<RuleChange>,
    events: &mut Vec<Event>,
) {
    let (name, digest) = (rule.name.clone(), rule.digest());
    let was_armed = before.is_some_and(|state| state.mode == Mode::Enforce);
    match before {
        None => {
            changes.push(RuleChange::Added { rule: name.clone() });
            events.push(Event::RuleAdded { rule: name.clone(), digest: digest.clone() });
        }
        Some(state) if state.digest != digest => {
            changes.push(RuleChange::Changed { rule: name.clone() });
            events.push(Event::RuleChanged {
                rule: name.clone(),
                digest: digest.clone(),
                previous: state.digest.clone(),
            });
        }
        Some(_) => {}
    }
    if before.is_some_and(|state| state.schedule != schedule(rule)) {
        changes.push(RuleChange::Rescheduled { rule: name.clone() });
    }
    if rule.mode == Mode::Enforce && !was_armed {
        changes.push(RuleChange::Armed { rule: name.clone() });
        events.push(Event::RuleArmed { rule: name, digest, by: None });
    } else if rule.mode == Mode::Observe && was_armed {
        changes.push(RuleChange::Disarmed { rule: name.clone() });
        events.push(Event::RuleDisarmed { rule: name });
    }
}

/// A rule's schedule with its zone.
fn schedule(rule: &Rule) -> String {
    format!("{} {}", rule.schedule, rule.time_zone.iana_name().unwrap_or("UTC"))
}

/// The digest of the configuration that was loaded last.
async fn last_digest(tx: &mut super::Transaction<'_>) -> Result<Option<String>, LedgerError> {
    let row = sqlx::query(
        "SELECT entry FROM audit_entry WHERE kind = 'configuration_loaded' \
         ORDER BY position DESC LIMIT 1",
    )
    .fetch_optional(&mut **tx)
    .await
    .doing("reading the last configuration")?;
    let Some(row) = row else { return Ok(None) };
    match Entry::from_json(&row.text("entry")?)?.event {
        Event::ConfigurationLoaded { digest, .. } => Ok(Some(digest)),
        _ => Ok(None),
    }
}

async fn states(tx: &mut super::Transaction<'_>) -> Result<BTreeMap<Name, RuleState>, LedgerError> {
    let rows = sqlx::query(
        "SELECT rule, digest, mode, schedule, first_seen, last_slot, armed_at FROM rule_state ORDER BY rule",
    )
    .fetch_all(&mut **tx)
    .await
    .doing("reading the state of the rules")?;
    let mode = |word: &str| match word {
        "observe" => Some(Mode::Observe),
        "enforce" => Some(Mode::Enforce),
        _ => None,
    };
    rows.iter()
        .map(|row| {
            let state = RuleState {
                digest: row.text("digest")?,
                mode: row.word("mode", mode)?,
                schedule: row.text("schedule")?,
                first_seen: row.moment("first_seen")?,
                last_slot: row.optional_moment("last_slot")?,
                armed_at: row.optional_moment("armed_at")?,
            };
            Ok((row.name("rule")?, state))
        })
        .collect()
}

/// Whether all that is remembered of a rule is so.
fn is_known(rule: &Rule, state: &RuleState) -> bool {
    let is_armed = rule.mode == Mode::Enforce;
    state.digest == rule.digest()
        && state.mode == rule.mode
        && state.schedule == schedule(rule)
        && state.armed_at.is_some() == is_armed
}

async fn remember(
    tx: &mut super::Transaction<'_>,
    rule: &Rule,
    before: Option<&RuleState>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let armed_at = match (rule.mode, before.and_then(|state| state.armed_at)) {
        (Mode::Observe, _) => None,
        (Mode::Enforce, Some(since)) => Some(since),
        (Mode::Enforce, None) => Some(now),
    };
    sqlx::query(
        "INSERT INTO rule_state (rule, digest, mode, schedule, first_seen, armed_at) \
         VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (rule) DO UPDATE SET digest = excluded.digest, mode = excluded.mode, \
         armed_at = excluded.armed_at, schedule = excluded.schedule, \
         first_seen = CASE WHEN rule_state.schedule = excluded.schedule \
                      THEN rule_state.first_seen ELSE excluded.first_seen END",
    )
    .bind(rule.name.as_str())
    .bind(rule.digest())
    .bind(rule.mode.to_string())
    .bind(schedule(rule))
    .bind(to_text(now))
    .bind(armed_at.map(to_text))
    .execute(&mut **tx)
    .await
    .doing("remembering a rule")?;
    Ok(())
}
