//! What a change of policy makes newly due, and what it spares, in records.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::apply::open_part;
use crate::hold::Holds;
use crate::keys::Keys;
use crate::plan::saved::{KeySum, SavedPlan};
use crate::rule::Rule;
use crate::store::sql::{Access, Bounds, SurveyDepth};
use crate::store::{Store, StoreError, Stores, Target};
use crate::types::{Key, Name};

/// One rule before and after.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// The rule.
    pub rule: Name,
    /// Records due before; `None` where there was no such rule.
    pub before: Option<u64>,
    /// Records due now; `None` where there is no such rule any more.
    pub now: Option<u64>,
    /// Due now, and not before.
    pub newly_due: u64,
    /// Due before, and not now.
    pub spared: u64,
    /// Whether the two numbers are what is certain, and there may be more that cancel each other out.
    pub at_least: bool,
    /// What else has changed about it.
    pub notes: Vec<String>,
}

/// Compares two sets of rules at one moment, on the stores of the present one and heeding the same
/// holds.
///
/// # Errors
/// When a store fails.
pub async fn compare(
    before: &BTreeMap<Name, Rule>,
    now: &BTreeMap<Name, Rule>,
    (stores, holds): (&Stores, &Holds),
    at: Timestamp,
) -> Result<Vec<Difference>, StoreError> {
    let names: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let mut differences = Vec::new();
    for name in names {
        differences.push(match (before.get(name), now.get(name)) {
            (Some(before), Some(now)) => compare_rule(before, now, (stores, holds), at).await?,
            (Some(before), None) => {
                let due = count(before, (stores, holds), at).await?;
                gone(name, due)
            }
            (None, now) => {
                let due = match now {
                    Some(rule) => count(rule, (stores, holds), at).await?,
                    None => 0,
                };
                Difference { now: Some(due), newly_due: due, ..nothing(name) }
            }
        });
    }
    Ok(differences)
}

async fn compare_rule(
    before: &Rule,
    now: &Rule,
    (stores, holds): (&Stores, &Holds),
    at: Timestamp,
) -> Result<Difference, StoreError> {
    let mut difference = nothing(&now.name);
    if before.action.as_str() != now.action.as_str() {
        let (before, now) = (before.action.as_str(), now.action.as_str());
        difference.notes.push(format!("action: {before} before, {now} now"));
    }
    if before.mode != now.mode {
        difference.notes.push(format!("mode: {} before, {} now", before.mode, now.mode));
    }
    let (due_before, due_now) =
        (count(before, (stores, holds), at).await?, count(now, (stores, holds), at).await?);
    (difference.before, difference.now) = (Some(due_before), Some(due_now));
    if (&before.store, &before.table) != (&now.store, &now.table) {
        difference.notes.push(format!("table: {}.{} before", before.store, before.table));
        (difference.newly_due, difference.spared) = (due_now, due_before);
        return Ok(difference);
    }
    let store = stores.get(&now.store, Access::ReadOnly)?;
    let old = (target(&store, before, holds).await?, bounds(before, at));
    let new = (target(&store, now, holds).await?, bounds(now, at));
    difference.newly_due = store.count_only_in((&new.0, new.1), (&old.0, old.1)).await?;
    difference.spared = store.count_only_in((&old.0, old.1), (&new.0, new.1)).await?;
    Ok(difference)
}

/// Compares a saved plan with what its rules, and others, would take now.
///
/// Where the plan names each record, the difference is exact; where it names ranges, it is what
/// the numbers alone tell.
///
/// # Errors
/// When a store fails, or the plan cannot be read.
pub async fn compare_with_plan(
    plan: &SavedPlan,
    now: &BTreeMap<Name, Rule>,
    (stores, holds): (&Stores, &Holds),
    keys: &Keys,
    at: Timestamp,
) -> Result<Vec<Difference>, String> {
    let parts: BTreeMap<_, _> = plan.rules.iter().map(|part| (&part.rule, part)).collect();
    let names: BTreeSet<_> = parts.keys().copied().chain(now.keys()).collect();
    let mut differences = Vec::new();
    for name in names {
        let Some(rule) = now.get(name) else {
            differences.push(gone(name, parts.get(name).map_or(0, |part| part.due)));
            continue;
        };
        let due = count(rule, (stores, holds), at).await.map_err(|error| error.to_string())?;
        let Some(part) = parts.get(name) else {
            differences.push(Difference { now: Some(due), newly_due: due, ..nothing(name) });
            continue;
        };
        let mut difference = Difference { before: Some(part.due), now: Some(due), ..nothing(name) };
        if rule.digest() != part.rule_digest {
            difference.notes.push("the rule has changed since".to_owned());
        }
        if part.names_each_record() {
            let ranges = open_part(keys, plan, part).map_err(|refusal| refusal.error)?;
            let planned: BTreeSet<_> = ranges.iter().map(|range| range.sum.to_hex()).collect();
            let due = commitments(rule, (stores, holds), keys, at).await?;
            difference.newly_due = due.difference(&planned).count() as u64;
            difference.spared = planned.difference(&due).count() as u64;
        } else {
            difference.at_least = true;
            difference.newly_due = due.saturating_sub(part.due);
            difference.spared = part.due.saturating_sub(due);
        }
        differences.push(difference);
    }
    Ok(differences)
}

/// What stands for each record that is due.
async fn commitments(
    rule: &Rule,
    (stores, holds): (&Stores, &Holds),
    keys: &Keys,
    at: Timestamp,
) -> Result<BTreeSet<String>, String> {
    let table = rule.table.to_string();
    let mut due = BTreeSet::new();
    let mut each = |key: Key| {
        let mut sum = KeySum::default();
        sum += keys.commitment(&rule.store, &table, &key);
        due.insert(sum.to_hex());
    };
    let read = async {
        let store = stores.get(&rule.store, Access::ReadOnly)?;
        let target = target(&store, rule, holds).await?;
        store.each_key(&target, bounds(rule, at), &mut each).await
    };
    read.await.map_err(|error: StoreError| error.to_string())?;
    Ok(due)
}

async fn target(store: &Store, rule: &Rule, holds: &Holds) -> Result<Target, StoreError> {
    let mut target = store.target(rule).await?;
    store.hold_back(&mut target, rule, holds).await?;
    Ok(target)
}

async fn count(
    rule: &Rule,
    (stores, holds): (&Stores, &Holds),
    at: Timestamp,
) -> Result<u64, StoreError> {
    let store = stores.get(&rule.store, Access::ReadOnly)?;
    let target = target(&store, rule, holds).await?;
    Ok(store.survey(&target, bounds(rule, at), SurveyDepth::Left).await?.due)
}

fn bounds(rule: &Rule, at: Timestamp) -> Bounds {
    Bounds { cutoff: rule.cutoff(at), now: at }
}

fn nothing(rule: &Name) -> Difference {
    Difference {
        rule: rule.clone(),
        before: None,
        now: None,
        newly_due: 0,
        spared: 0,
        at_least: false,
        notes: Vec::new(),
    }
}

fn gone(rule: &Name, due: u64) -> Difference {
    Difference { before: Some(due), spared: due, ..nothing(rule) }
}
