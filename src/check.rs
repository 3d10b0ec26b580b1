//! Checks: a rule held against its live store, before anything runs.
//!
//! [`examine`] is pure: it looks at a rule and a table's facts and says what is fine, what deserves a
//! look and what is wrong. [`check`] fetches the facts. A run refuses a rule with an error.

mod dependents;

use jiff::Timestamp;
use serde::Serialize;

use crate::plan::Told;
use crate::rule::{AccessPath, Action, HoldPolicy, Mode, Rule};
use crate::store::objects::Probe;
use crate::store::sql::catalogue::Table;
use crate::store::sql::{Access, Bounds, SurveyDepth, Target, create_index};
use crate::store::{Store, StoreError, Stores};
use crate::types::Name;

/// How grave a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Fine,
    /// It works, and deserves a look.
    Warning,
    /// The rule cannot run.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// What was looked at.
    pub topic: &'static str,
    /// What was found.
    pub message: String,
    /// What to do about it, such as a statement to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Finding {
    fn new(severity: Severity, topic: &'static str, message: impl Into<String>) -> Finding {
        Finding { severity, topic, message: message.into(), help: None }
    }

    fn fine(topic: &'static str, message: impl Into<String>) -> Finding {
        Finding::new(Severity::Fine, topic, message)
    }

    fn warning(topic: &'static str, message: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, topic, message)
    }

    fn error(topic: &'static str, message: impl Into<String>) -> Finding {
        Finding::new(Severity::Error, topic, message)
    }

    fn help(mut self, help: impl Into<String>) -> Finding {
        self.help = Some(help.into());
        self
    }
}

/// What was found about one rule.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The rule.
    pub rule: Name,
    /// Its store.
    pub store: Name,
    /// Its table.
    pub table: String,
    /// Its mode.
    pub mode: Mode,
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The gravest finding.
    pub fn severity(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Fine)
    }

    /// How many findings are this grave.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Connects to a rule's store and examines the rule against its live table.
///
/// Whatever goes wrong is a finding: one store that is down does not keep others from being
/// checked.
pub async fn check(rule: &Rule, stores: &Stores, now: Timestamp) -> Report {
    let mut report = Report {
        rule: rule.name.clone(),
        store: rule.store.clone(),
        table: rule.table.to_string(),
        mode: rule.mode,
        findings: Vec::new(),
    };
    match inspect(rule, stores, now).await {
        Ok(findings) => report.findings = findings,
        Err(error) => report.findings.push(Finding::error("store", error.to_string())),
    }
    report.findings.extend(examine_window(rule));
    report
}

/// When the rule runs by itself, where that is bounded.
fn examine_window(rule: &Rule) -> Option<Finding> {
    let Rule { windows, time_zone, .. } = rule;
    if windows.is_always() {
        return None;
    }
    if !rule.events.is_empty() {
        let message =
            "it holds nothing back: what events name goes at once, and `max_age` is a deadline";
        let finding = Finding::warning("window", message);
        return Some(finding.help("leave `window` out, so that nobody counts on it"));
    }
    let zone = time_zone.iana_name().unwrap_or("UTC");
    Some(Finding::fine("window", format!("it runs by itself at {windows} alone, in {zone}")))
}

async fn inspect(rule: &Rule, stores: &Stores, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
    let store = stores.get(&rule.store, Access::ReadWrite)?;
    let (Store::Tables(tables), Some(rows)) = (&store, rule.rows()) else {
        return inspect_paths(rule, stores, now).await;
    };
    let table = tables.inspect(rule).await?;
    let mut findings = examine(rule, &table);
    let reader = stores.get(&rule.store, Access::ReadOnly)?;
    let config = stores.configuration(&rule.store)?.tables();
    if config.is_some_and(|tables| tables.read_only_url.is_some()) {
        match reader.inspect(rule).await {
            Ok(seen) => findings.push(examine_reader(&seen)),
            Err(error) => findings.push(Finding::error("read_only_url", error.to_string())),
        }
    } else {
        findings.push(Finding::fine(
            "read_only_url",
            "none; plans use the url in sessions that the database keeps from writing",
        ));
    }
    findings.extend(dependents::examine(rule, tables, &table).await?);
    if let Ok(target) = Target::new(rule, table) {
        let bounds = Bounds { cutoff: rule.cutoff(now), now };
        let tried = reader.tables()?.try_condition(&target, bounds).await;
        findings.push(match (tried, &rows.condition) {
            (Ok(()), None) => Finding::fine("where", "none; every record of the table counts"),
            (Ok(()), Some(_)) => Finding::fine("where", "the database understands it"),
            (Err(error), _) => Finding::error("where", error.to_string())
                .help("correct the rule's `where`; it is in the store's own SQL"),
        });
    }
    if let Err(error) = try_told(rule, &store, now).await {
        findings.push(
            Finding::error("recipients", error.to_string())
                .help("let the url's user SELECT the columns that identify records to recipients"),
        );
    }
    for attachment in &rows.attachments {
        findings.push(match stores.get(&attachment.store, Access::ReadWrite) {
            Ok(_) => Finding::fine(
                "attachments",
                format!("{} in store {}", attachment.path, attachment.store),
            ),
            Err(error) => Finding::error("attachments", error.to_string()),
        });
    }
    Ok(findings)
}

/// Reads what recipients are told, of no record, as the user that deletes.
async fn try_told(rule: &Rule, store: &Store, now: Timestamp) -> Result<(), StoreError> {
    if rule.tellings.is_empty() {
        return Ok(());
    }
    let tables = store.tables()?;
    // What does not fit was found.
    let Ok(target) = tables.target(rule).await else { return Ok(()) };
    tables.try_told(&target, Bounds { cutoff: rule.cutoff(now), now }).await
}

/// What can be said of files and objects; a bucket is not gone through for that.
async fn inspect_paths(
    rule: &Rule,
    stores: &Stores,
    now: Timestamp,
) -> Result<Vec<Finding>, StoreError> {
    let reader = stores.get(&rule.store, Access::ReadOnly)?;
    let target = reader.target(rule).await?;
    let mut findings = vec![Finding::fine("starting point", rule.starts_from())];
    findings.extend(examine_tellings(rule));
    if let Store::Objects(objects) = &reader {
        findings.push(match objects.probe().await? {
            Probe { shows_versions: false, .. } => Finding::warning(
                "versions",
                "the service does not show whether it keeps what was deleted: look at its soft delete and its versions",
            ),
            Probe { versioned: true, .. } => {
                Finding::fine("versions", "kept by the bucket: each goes, and each delete marker")
            }
            Probe { .. } => Finding::fine("versions", "the bucket keeps none"),
        });
        return Ok(findings);
    }
    let bounds = Bounds { cutoff: rule.cutoff(now), now };
    let survey = reader.survey(&target, bounds, SurveyDepth::Full).await?;
    findings.push(match survey.total {
        0 => Finding::warning("path", "it means no file that is there: look for a slip in it"),
        total => Finding::fine(
            "path",
            format!("it means {total} files, of which {} are due", survey.due),
        ),
    });
    if survey.unread > 0 {
        let message = format!("{} folders cannot be read, so what is in them stays", survey.unread);
        let finding = Finding::warning("folders", message);
        findings.push(finding.help("let expunged's user read, and write, them"));
    }
    Ok(findings)
}

/// Examines a rule against the facts of its table, as the writing user sees them.
pub fn examine(rule: &Rule, table: &Table) -> Vec<Finding> {
    let name = table.display_name();
    match Target::new(rule, table.clone()) {
        Err(mismatches) => mismatches
            .iter()
            .map(|mismatch| Finding::error("table", mismatch.to_string()))
            .collect(),
        Ok(target) => {
            let key: Vec<_> = table.key.iter().map(|column| column.name.as_str()).collect();
            let mut findings = vec![
                Finding::fine(
                    "table",
                    format!("{name} is there, with {} columns", table.columns.len()),
                ),
                Finding::fine("key", format!("records are named by {}", key.join(", "))),
                Finding::fine(
                    "starting point",
                    format!(
                        "{} is of type {}",
                        target.start.column.name, target.start.column.type_name
                    ),
                ),
                examine_index(&target, table),
                examine_access(rule, &target, table),
                examine_privileges(rule, table),
            ];
            findings.extend(examine_anonymization(rule, &target));
            findings.extend(examine_triggers(rule, table));
            findings.extend(examine_tellings(rule));
            if let HoldPolicy::NotApplicable { reason } = &rule.holds {
                let message = format!("legal holds do not stop this rule: {reason}");
                findings.push(Finding::warning("holds", message));
            }
            findings
        }
    }
}

/// Whoever is told, and what. That the columns are there and have texts, the target has seen.
fn examine_tellings(rule: &Rule) -> impl Iterator<Item = Finding> {
    rule.tellings.iter().map(|telling| {
        let told = Told::from(telling);
        Finding::fine("recipients", format!("{} is told {}", told.recipient, told.in_words()))
    })
}

fn examine_index(target: &Target, table: &Table) -> Finding {
    let column = &target.start.column.name;
    match table.index_on(column) {
        Some(index) => Finding::fine("index", format!("{} serves {column}", index.name)),
        None => Finding::warning(
            "index",
            format!("no index starts with {column}: finding due records reads the whole table"),
        )
        .help(create_index(
            table.dialect,
            table.schema.as_deref(),
            &table.name,
            std::slice::from_ref(column),
        )),
    }
}

/// A path that the rule pins must be there.
fn examine_access(rule: &Rule, target: &Target, table: &Table) -> Finding {
    let column = &target.start.column.name;
    match rule.rows().and_then(|rows| rows.access) {
        Some(AccessPath::Partitions) => match target.keeps_partitions() {
            Some(why) => {
                Finding::error("access", format!("partitions cannot be dropped whole: {why}"))
                    .help("leave `access` out, and each run chooses its way")
            }
            None => Finding::fine("access", "partitions of which every row is due go whole"),
        },
        Some(AccessPath::Index) if table.index_on(column).is_none() => {
            let message = format!("the rule pins the index, and no index starts with {column}");
            Finding::error("access", message).help("make one, or leave `access` out")
        }
        Some(path) => Finding::fine("access", format!("the rule pins {path}")),
        None => Finding::fine("access", "each run chooses its way by the table's statistics"),
    }
}

fn examine_privileges(rule: &Rule, table: &Table) -> Finding {
    let granted = table.privileges;
    let (verb, acting) = match rule.action {
        Action::Delete => ("DELETE", granted.delete),
        Action::Anonymize(_) => ("UPDATE", granted.update),
    };
    let severity = if rule.mode == Mode::Enforce { Severity::Error } else { Severity::Warning };
    let missing = |verb: &str, severity| {
        Finding::new(severity, "privileges", format!("the url's user may not {verb}"))
            .help(format!("grant it: GRANT {verb} ON {} TO …;", table.display_name()))
    };
    match (granted.select, acting) {
        (Some(false), _) => missing("SELECT", Severity::Error),
        (_, Some(false)) => missing(verb, severity),
        (_, None) => Finding::fine(
            "privileges",
            format!("the database does not tell whether the url's user may {verb}"),
        ),
        (_, Some(true)) => {
            Finding::fine("privileges", format!("the url's user may SELECT and {verb}"))
        }
    }
}

fn examine_reader(table: &Table) -> Finding {
    let granted = table.privileges;
    if granted.select == Some(false) {
        return Finding::error("read_only_url", "its user may not SELECT");
    }
    let writes: Vec<_> = [("DELETE", granted.delete), ("UPDATE", granted.update)]
        .into_iter()
        .filter(|(_, may)| *may == Some(true))
        .map(|(verb, _)| verb)
        .collect();
    if writes.is_empty() {
        Finding::fine("read_only_url", "its user may only read")
    } else {
        Finding::warning("read_only_url", format!("its user may {}", writes.join(" and ")))
            .help("give plans a user that has nothing but SELECT; sessions are kept from writing in any case")
    }
}

fn examine_anonymization(rule: &Rule, target: &Target) -> Vec<Finding> {
    let Action::Anonymize(change) = &rule.action else { return Vec::new() };
    let mut findings = Vec::new();
    if let Some(how) = target.anonymized_is_known_by() {
        findings.push(Finding::fine(
            "anonymized",
            format!("a record anonymized before is known by {how}"),
        ));
    }
    let pseudonymized = change.pseudonymized_columns();
    if !pseudonymized.is_empty() {
        findings.push(Finding::warning(
            "anonymized",
            format!(
                "{} only pseudonymized: whoever holds expunged's key can still single a person out (GDPR Art. 4(5))",
                match pseudonymized.as_slice() {
                    [one] => format!("{one} is"),
                    many => format!("{} are", many.join(", ")),
                }
            ),
        ));
    }
    findings
}

fn examine_triggers(rule: &Rule, table: &Table) -> Option<Finding> {
    let deletes = rule.action == Action::Delete;
    let firing: Vec<_> = table
        .triggers
        .iter()
        .filter(|trigger| if deletes { trigger.on_delete } else { trigger.on_update })
        .map(|trigger| trigger.name.as_str())
        .collect();
    (!firing.is_empty()).then(|| {
        Finding::warning(
            "triggers",
            format!(
                "{} will fire for each record: make sure that they keep no copy of it",
                firing.join(", ")
            ),
        )
    })
}
