//! `expunged metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock;
use crate::config::Config;
use crate::ledger::{Ledger, LedgerError};
use crate::notice::State;
use crate::rule::{Mode, Rule};
use crate::store::sql::{Access, Bounds};
use crate::store::{StoreError, Stores};
use crate::types::Name;

use super::{CliError, Common, Exit, backups, read_ledger, status};

/// Print what monitoring needs, in the text format of Prometheus (OpenMetrics)
///
/// For node_exporter's textfile collector, from a timer:
/// `expunged metrics > /var/lib/node_exporter/expunged.prom.new` and then `mv`. Everything but the age of
/// event rules' oldest records is read from the ledger, so it can also be had while the daemon is down;
/// those are left out where their store does not answer within some seconds.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Labels {
    rule: String,
}

/// How long a store may take to say how old its oldest record is.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

type PerRule = Family<Labels, Gauge<f64, AtomicU64>>;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ForRecipient {
    recipient: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct InState {
    recipient: String,
    state: &'static str,
}

type PerRecipient = Family<ForRecipient, Gauge<f64, AtomicU64>>;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfSet {
    backup: String,
}

type PerSet = Family<OfSet, Gauge<f64, AtomicU64>>;

/// The measures of each rule.
#[derive(Default)]
struct Measures {
    armed: PerRule,
    waiting: PerRule,
    overdue: PerRule,
    last_success: PerRule,
    still_due: PerRule,
    records: PerRule,
    events: PerRule,
    oldest_event: PerRule,
    oldest_record: PerRule,
}

pub(crate) async fn main(common: &Common, _: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    let ledger = read_ledger(&config).await?;
    let now = clock::now();
    let mut registry = Registry::with_prefix("expunged");
    let measures = Measures::default();
    measures.register(&mut registry);
    let states = ledger.rule_states().await?;
    let waiting = ledger.approvals().await?;
    let backlogs = ledger.count_events().await?;
    let ages = oldest_records(&config, now).await;
    for rule in config.rules.values() {
        let labels = Labels { rule: rule.name.to_string() };
        let state = status::status(&ledger, rule, states.get(&rule.name), now).await?;
        let waits = waiting
            .iter()
            .find(|approval| approval.rule == rule.name && approval.approved_at.is_none());
        let set = |family: &PerRule, value: f64| {
            family.get_or_create(&labels).set(value);
        };
        set(&measures.armed, flag(rule.mode == Mode::Enforce));
        set(&measures.waiting, flag(waits.is_some()));
        set(&measures.overdue, seconds(state.overdue_seconds.unwrap_or_default()));
        let success = ledger.last_complete_run(&rule.name).await?;
        set(&measures.last_success, success.map_or(0.0, |at| seconds(at.as_second())));
        // What nobody has counted is not known, and is left out.
        if let Some(due) = waits.map(|approval| approval.due).or(state.last_remaining) {
            set(&measures.still_due, count(due));
        }
        let backlog = backlogs.get(&rule.name).copied().unwrap_or_default();
        if !rule.events.is_empty() || backlog.pending > 0 {
            set(&measures.events, count(backlog.pending));
            let age = backlog.oldest.map_or(0, |oldest| now.duration_since(oldest).as_secs());
            set(&measures.oldest_event, seconds(age));
        }
        if let Some(age) = ages.get(&rule.name) {
            set(&measures.oldest_record, seconds(*age));
        }
        set(&measures.records, count(ledger.records_taken(&rule.name).await?));
    }
    recipients(&mut registry, &config, &ledger, now).await?;
    in_backups(&mut registry, &config, &ledger, now).await?;
    whole(&mut registry, &ledger, now).await?;
    ledger.close().await;
    let mut text = String::new();
    // Writing to a string cannot fail.
    encode(&mut text, &registry).unwrap_or_default();
    print!("{text}");
    Ok(Exit::Fine)
}

impl Measures {
    fn register(&self, registry: &mut Registry) {
        let families = [
            ("rule_armed", "Whether the rule acts", &self.armed),
            (
                "rule_waits_for_approval",
                "Whether a circuit breaker stopped the rule and somebody has to look",
                &self.waiting,
            ),
            ("rule_overdue_seconds", "Age of the first slot that was not answered", &self.overdue),
            (
                "rule_last_success_timestamp_seconds",
                "When the last complete run began, in seconds since 1970",
                &self.last_success,
            ),
            (
                "rule_still_due_records",
                "Records still due after the last run, or waiting for approval",
                &self.still_due,
            ),
            ("rule_records_taken", "Records deleted or anonymized so far", &self.records),
            ("events_pending", "Events that wait for the rule to work them off", &self.events),
            ("events_oldest_age_seconds", "Age of the oldest of them", &self.oldest_event),
            (
                "oldest_record_age_seconds",
                "Age of the oldest record that the rule has not taken; 0 where there is none",
                &self.oldest_record,
            ),
        ];
        for (name, help, family) in families {
            registry.register(name, help, family.clone());
        }
    }
}

/// How old the oldest record of each event rule is, in seconds. A rule is left out whose store does not
/// say so in time.
async fn oldest_records(config: &Config, now: Timestamp) -> BTreeMap<Name, i64> {
    let stores = Arc::new(Stores::new(config.stores.clone()));
    let mut asking = JoinSet::new();
    for rule in config.rules.values().filter(|rule| !rule.events.is_empty()) {
        let (rule, stores) = (rule.clone(), stores.clone());
        asking.spawn(async move {
            let start = timeout(ANSWER_WITHIN, oldest_record(&rule, &stores, now)).await;
            let start = start.ok()?.ok()?;
            Some((rule.name, start.map_or(0, |start| now.duration_since(start).as_secs().max(0))))
        });
    }
    let ages = asking.join_all().await.into_iter().flatten().collect();
    timeout(ANSWER_WITHIN, stores.close()).await.ok();
    ages
}

async fn oldest_record(
    rule: &Rule,
    stores: &Stores,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let store = stores.get(&rule.store, Access::ReadOnly)?;
    let target = store.target(rule).await?;
    store.oldest_start(&target, Bounds { cutoff: rule.cutoff(now), now }).await
}

/// The measures of each recipient that is configured, or was ever told anything.
async fn recipients(
    registry: &mut Registry,
    config: &Config,
    ledger: &Ledger,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let mut all = ledger.recipient_states().await?;
    for recipient in config.recipients.keys() {
        all.entry(recipient.clone()).or_default();
    }
    if all.is_empty() {
        return Ok(());
    }
    let notices = Family::<InState, Gauge<f64, AtomicU64>>::default();
    let [overdue, oldest, failing] = std::array::from_fn(|_| PerRecipient::default());
    for (recipient, does) in &all {
        for state in State::ALL {
            let number = match state {
                State::Completed => does.completed,
                // How many are exempt nobody needs to watch.
                State::Exempt => continue,
                open => does.open.get(&open).copied().unwrap_or_default(),
            };
            let labels = InState { recipient: recipient.to_string(), state: state.as_str() };
            notices.get_or_create(&labels).set(count(number));
        }
        let labels = ForRecipient { recipient: recipient.to_string() };
        let set = |family: &PerRecipient, value: f64| {
            family.get_or_create(&labels).set(value);
        };
        let age = does.oldest.map_or(0, |oldest| now.duration_since(oldest).as_secs());
        set(&overdue, count(does.overdue));
        set(&oldest, seconds(age));
        set(&failing, flag(does.failing_since.is_some() || does.stopped_at.is_some()));
    }
    registry.register("notices", "Notices to the recipient, by where they stand", notices);
    let families = [
        ("notices_overdue", "Notices that are not over and whose due time has passed", overdue),
        ("oldest_open_notice_age_seconds", "Age of the oldest notice that is not over", oldest),
        (
            "recipient_failing",
            "Whether the recipient does not answer well, or wants to be told nothing any more",
            failing,
        ),
    ];
    for (name, help, family) in families {
        registry.register(name, help, family);
    }
    Ok(())
}

/// The measures of each set of backups.
async fn in_backups(
    registry: &mut Registry,
    config: &Config,
    ledger: &Ledger,
    now: Timestamp,
) -> Result<(), CliError> {
    let sets = backups::measure(config, ledger, now).await?;
    if sets.is_empty() {
        return Ok(());
    }
    let [listed, doubted, stalled, records, oldest] = std::array::from_fn(|_| PerSet::default());
    for one in sets {
        let labels = OfSet { backup: one.backup.to_string() };
        let set = |family: &PerSet, value: f64| {
            family.get_or_create(&labels).set(value);
        };
        let age = |since: Option<Timestamp>| {
            seconds(since.map_or(0, |since| now.duration_since(since).as_secs().max(0)))
        };
        set(&listed, one.listed_at.map_or(0.0, |at| seconds(at.as_second())));
        set(&doubted, flag(one.is_doubted));
        set(&stalled, age(one.stalled_since));
        set(&records, count(one.records));
        set(&oldest, age(one.oldest));
    }
    let families = [
        (
            "backup_last_listed_timestamp_seconds",
            "When the set was last listed, and believed, in seconds since 1970",
            listed,
        ),
        ("backup_doubted", "Whether the last listing of the set failed or proves nothing", doubted),
        ("backup_stalled_seconds", "For how long a backup has outstayed the rotation", stalled),
        ("backup_held_records", "Deleted records that may still be in the set", records),
        ("backup_oldest_held_age_seconds", "For how long the oldest of them is deleted", oldest),
    ];
    for (name, help, family) in families {
        registry.register(name, help, family);
    }
    Ok(())
}

/// The measures that belong to no rule.
async fn whole(
    registry: &mut Registry,
    ledger: &Ledger,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let (_, holds) = ledger.held().await?;
    let holds = holds.iter().filter(|hold| hold.is_in_force(now)).count() as u64;
    let frozen = ledger.frozen_stores().await?.len() as u64;
    let measures = [
        (
            "frozen_stores",
            "Stores that seem to have been restored, and whose rules do not run",
            frozen,
        ),
        ("holds_in_force", "Legal holds in force", holds),
        ("open_batches", "Batches whose outcome is not known", ledger.open_batch_count().await?),
        ("audit_log_entries", "Entries of the audit log", ledger.audit_size().await?),
    ];
    for (name, help, value) in measures {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(count(value));
        registry.register(name, help, gauge);
    }
    Ok(())
}

fn flag(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn count(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn seconds(number: i64) -> f64 {
    number as f64
}
