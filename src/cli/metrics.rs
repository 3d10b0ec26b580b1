//! `expunged metrics`.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::clock;
use crate::ledger::{Ledger, LedgerError};
use crate::rule::Mode;

use super::{CliError, Common, Exit, read_ledger, status};

/// Print what monitoring needs, in the text format of Prometheus (OpenMetrics)
///
/// For node_exporter's textfile collector, from a timer:
/// `expunged metrics > /var/lib/node_exporter/expunged.prom.new` and then `mv`. Everything is read from
/// the ledger, so it can also be had while the daemon is down.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Labels {
    rule: String,
}

type PerRule = Family<Labels, Gauge<f64, AtomicU64>>;

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
        set(&measures.records, count(ledger.records_taken(&rule.name).await?));
    }
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
        ];
        for (name, help, family) in families {
            registry.register(name, help, family.clone());
        }
    }
}

/// The measures that belong to no rule.
async fn whole(
    registry: &mut Registry,
    ledger: &Ledger,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let (_, holds) = ledger.held().await?;
    let holds = holds.iter().filter(|hold| hold.is_in_force(now)).count() as u64;
    let measures = [
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
