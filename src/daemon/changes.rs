//! What a new configuration changes, in words for the log.
//!
//! Addresses of stores and conditions of rules are named and not quoted: they may say more than a log
//! is meant to hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use crate::config::{BackupConfig, Config, StoreConfig};
use crate::pace::Pacing;
use crate::rule::{Rows, Rule, Selection};
use crate::types::Name;

/// Everything that differs and that anybody would notice.
pub(super) fn changes(before: &Config, after: &Config) -> Vec<String> {
    let mut found = Vec::new();
    pairs(&before.stores, &after.stores, "store", &mut found, store_changes);
    pairs(&before.rules, &after.rules, "rule", &mut found, rule_changes);
    pairs(&before.backups, &after.backups, "backup", &mut found, backup_changes);
    let (old, new) = (&before.daemon, &after.daemon);
    differs(
        &mut found,
        "daemon: stop_deadline",
        &seconds(old.stop_deadline),
        &seconds(new.stop_deadline),
    );
    if old.log != new.log {
        found.push("daemon: log has changed, which takes effect at the next start".to_owned());
    }
    changed(&mut found, "api: where events come in", before.api != after.api);
    found
}

/// Rules whose runs under way must not go on as they began: what they take, do, or may do has changed,
/// or where they do it.
pub(super) fn overtaken(before: &Config, after: &Config) -> BTreeSet<Name> {
    let same_store = |name: &Name| match (before.stores.get(name), after.stores.get(name)) {
        (Some(old), Some(new)) => store_changes(old, new).is_empty(),
        _ => false,
    };
    let is_overtaken = |old: &&Rule| {
        let Some(new) = after.rules.get(&old.name) else { return true };
        old.digest() != new.digest()
            || old.mode != new.mode
            || old.pacing != new.pacing
            || old.windows != new.windows
            || !same_store(&new.store)
    };
    before.rules.values().filter(is_overtaken).map(|rule| rule.name.clone()).collect()
}

fn pairs<T>(
    before: &BTreeMap<Name, T>,
    after: &BTreeMap<Name, T>,
    noun: &str,
    found: &mut Vec<String>,
    compare: impl Fn(&T, &T) -> Vec<String>,
) {
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        found.push(format!("{noun} {name} is gone"));
    }
    for (name, new) in after {
        match before.get(name) {
            None => found.push(format!("{noun} {name} is new")),
            Some(old) => {
                let changes = compare(old, new);
                found.extend(changes.into_iter().map(|change| format!("{noun} {name}: {change}")));
            }
        }
    }
}

fn store_changes(old: &StoreConfig, new: &StoreConfig) -> Vec<String> {
    let mut found = Vec::new();
    differs(&mut found, "kind", &old.kind().as_str(), &new.kind().as_str());
    pacing_changes(&mut found, old.pacing, new.pacing);
    let (Some(old), Some(new)) = (old.tables(), new.tables()) else {
        // Addresses and buckets say more than a log is meant to hold.
        changed(&mut found, "where or how it is reached", old.system != new.system);
        return found;
    };
    changed(&mut found, "url", old.url != new.url);
    changed(&mut found, "read_only_url", old.read_only_url != new.read_only_url);
    differs(
        &mut found,
        "connect_timeout",
        &seconds(old.connect_timeout),
        &seconds(new.connect_timeout),
    );
    changed(&mut found, "replica_url", old.replica_url != new.replica_url);
    let (was, is) = (seconds(old.max_replica_lag), seconds(new.max_replica_lag));
    differs(&mut found, "max_replica_lag", &was, &is);
    found
}

fn pacing_changes(found: &mut Vec<String>, old: Pacing, new: Pacing) {
    let rate = |pacing: Pacing| match pacing.rate {
        Some(rate) => format!("{} per second", rate.per_second()),
        None => "unlimited".to_owned(),
    };
    differs(found, "pace", &old.tempo, &new.tempo);
    differs(found, "rate", &rate(old), &rate(new));
    differs(found, "workers", &old.workers, &new.workers);
}

fn backup_changes(old: &BackupConfig, new: &BackupConfig) -> Vec<String> {
    let mut found = Vec::new();
    let stores = |set: &BackupConfig| {
        let stores: Vec<_> = set.stores.iter().map(Name::as_str).collect();
        stores.join(", ")
    };
    differs(&mut found, "kind", &old.catalogue.as_str(), &new.catalogue.as_str());
    differs(&mut found, "stores", &stores(old), &stores(new));
    differs(&mut found, "rotation", &old.terms.rotation, &new.terms.rotation);
    found
}

fn rule_changes(old: &Rule, new: &Rule) -> Vec<String> {
    let mut found = Vec::new();
    differs(&mut found, "mode", &old.mode, &new.mode);
    differs(&mut found, "store", &old.store, &new.store);
    differs(&mut found, "table", &old.table, &new.table);
    select_changes(&mut found, old, new);
    differs(&mut found, "retention", &old.retention, &new.retention);
    differs(&mut found, "action", &old.action.as_str(), &new.action.as_str());
    let same_word = old.action.as_str() == new.action.as_str();
    changed(&mut found, "anonymized columns", same_word && old.action != new.action);
    changed(&mut found, "subject", old.subject != new.subject);
    differs(&mut found, "schedule", &old.schedule, &new.schedule);
    let zone = |rule: &Rule| rule.time_zone.iana_name().unwrap_or("UTC").to_owned();
    differs(&mut found, "time_zone", &zone(old), &zone(new));
    let window = |rule: &Rule| {
        if rule.windows.is_always() { "any time".to_owned() } else { rule.windows.to_string() }
    };
    differs(&mut found, "window", &window(old), &window(new));
    pacing_changes(&mut found, old.pacing, new.pacing);
    changed(&mut found, "description", old.description != new.description);
    changed(&mut found, "basis", old.basis != new.basis);
    found
}

fn select_changes(found: &mut Vec<String>, old: &Rule, new: &Rule) {
    differs(found, "starting_point", &old.starts_from(), &new.starts_from());
    match (&old.select, &new.select) {
        (Selection::Rows(old), Selection::Rows(new)) => {
            changed(found, "where", old.condition != new.condition);
            let details = |rows: &Rows| {
                let start = &rows.starting_point;
                (start.encoding, start.time_zone.clone(), start.earliest)
            };
            changed(found, "how the starting point is read", details(old) != details(new));
            changed(found, "attachments", old.attachments != new.attachments);
            changed(found, "match", old.matching != new.matching);
        }
        (Selection::Paths(old), Selection::Paths(new)) => {
            changed(found, "path", old.templates != new.templates);
            changed(found, "earliest", old.earliest != new.earliest);
        }
        _ => {}
    }
    changed(found, "on_event", old.events != new.events);
}

fn differs(found: &mut Vec<String>, what: &str, old: &impl Display, new: &impl Display) {
    let (old, new) = (old.to_string(), new.to_string());
    if old != new {
        found.push(format!("{what} was {old} and is now {new}"));
    }
}

fn changed(found: &mut Vec<String>, what: &str, is_changed: bool) {
    if is_changed {
        found.push(format!("{what} has changed"));
    }
}

fn seconds(duration: std::time::Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
