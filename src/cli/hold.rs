//! `expunged hold`.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::json;
use uuid::Uuid;

use crate::clock;
use crate::config::Config;
use crate::hold::{DAYS, DataKind, Hold, Order, Range, Records, Scope, Terms};
use crate::ledger::{Ground, HoldAct, Ledger};
use crate::rule::{Condition, InvalidCondition, StoreKind};
use crate::run::{Coverage, Extent, InForce};
use crate::types::{Name, TableName};

use super::account;
use super::output::{self, BOLD, DIM, GREEN, RED, RESET, YELLOW};
use super::{CliError, Common, Exit, open_ledger, parse_time, read_ledger, runner};

/// How long `place` and `extend` wait for batches that were under way before.
const WITHIN: Duration = Duration::from_secs(20);

/// Stop deletion for a legal reason: place, extend, release and look at legal holds
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Place(Box<Place>),
    Extend(Extend),
    Release(Release),
    List(List),
    Show(Show),
}

/// Keep records whatever a rule says; once this returns, none of them is deleted
///
/// Say what is to be kept with one of --subject, --rule, --table and --store. A hold lasts 90 days unless
/// told otherwise. One that covers a store, a whole table, a rule without dates or more than a tenth of
/// a table needs --broad with a reason.
#[derive(clap::Args, Debug)]
pub(crate) struct Place {
    /// What is about this person, as the stores name them; may be given more than once.
    #[arg(long = "subject", value_name = "ID")]
    subjects: Vec<String>,
    /// A file with one person in each line; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    subjects_from: Option<PathBuf>,
    /// What this rule would take.
    #[arg(long, value_name = "RULE", conflicts_with_all = ["subjects", "subjects_from", "store", "table"])]
    rule: Option<Name>,
    /// In this store: all of it, or what --table or --subject says.
    #[arg(long, value_name = "STORE")]
    store: Option<Name>,
    /// In this table of the store.
    #[arg(long, value_name = "TABLE", requires = "store")]
    table: Option<TableName>,
    /// Only records of the table for which this SQL condition is not false.
    #[arg(long = "where", value_name = "SQL", requires = "table", conflicts_with_all = ["subjects", "subjects_from"])]
    predicate: Option<String>,
    /// Only records whose starting point is not before this day.
    #[arg(long, value_name = "DATE")]
    from: Option<Date>,
    /// Only records whose starting point is not after this day.
    #[arg(long, value_name = "DATE")]
    to: Option<Date>,
    /// Who asks: a court, an authority, your own counsel.
    #[arg(long)]
    authority: String,
    /// Under which reference.
    #[arg(long)]
    reference: String,
    /// The person who asks, with their badge.
    #[arg(long)]
    agent: Option<String>,
    /// Their official address.
    #[arg(long)]
    contact: Option<String>,
    /// The date of the order.
    #[arg(long, value_name = "DATE")]
    dated: Option<Date>,
    /// When the data is due to whoever asks.
    #[arg(long, value_name = "DATE")]
    due: Option<Date>,
    /// `content` or `non-content`: each needs a legal instrument of its own.
    #[arg(long, value_name = "KIND", value_parser = data_kind)]
    data: Option<DataKind>,
    /// Until the end of this day, whom it is about must not be told.
    #[arg(long, value_name = "DATE")]
    confidential_until: Option<Date>,
    /// Anything else worth keeping.
    #[arg(long)]
    note: Option<String>,
    /// Why it may cover so much.
    #[arg(long, value_name = "REASON")]
    broad: Option<String>,
    #[command(flatten)]
    lasting: Lasting,
}

/// How long a hold lasts.
#[derive(clap::Args, Debug)]
pub(crate) struct Lasting {
    /// So many days.
    #[arg(long, value_name = "N", default_value_t = DAYS, value_parser = clap::value_parser!(i64).range(1..=36_500))]
    days: i64,
    /// Until this moment: a date or an RFC 3339 timestamp.
    #[arg(long, value_name = "TIME", conflicts_with = "days")]
    until: Option<String>,
}

/// Make a hold last longer, by an act of its own with a reference of its own
///
/// Counted from its present end, or from now when that is over.
#[derive(clap::Args, Debug)]
pub(crate) struct Extend {
    /// Its id.
    id: Uuid,
    /// The reference of the extension.
    #[arg(long)]
    reference: String,
    /// Why.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    lasting: Lasting,
}

/// End a hold before its time; what is overdue then goes at the next slot
#[derive(clap::Args, Debug)]
pub(crate) struct Release {
    /// Its id.
    id: Uuid,
    /// The reference of the release.
    #[arg(long, required_unless_present = "reason")]
    reference: Option<String>,
    /// Why.
    #[arg(long)]
    reason: Option<String>,
}

/// Show the holds in force
#[derive(clap::Args, Debug)]
pub(crate) struct List {
    /// Also those that have ended.
    #[arg(long)]
    all: bool,
}

/// Show all of a hold, and what was done with it
#[derive(clap::Args, Debug)]
pub(crate) struct Show {
    /// Its id.
    id: Uuid,
}

fn data_kind(word: &str) -> Result<DataKind, String> {
    match word {
        "content" => Ok(DataKind::Content),
        "non-content" => Ok(DataKind::NonContent),
        _ => Err("it takes `content` or `non-content`".to_owned()),
    }
}

pub(crate) async fn main(common: &Common, command: Command) -> Result<Exit, CliError> {
    let config = common.load()?;
    match command {
        Command::Place(args) => place(common, &config, *args).await,
        Command::Extend(args) => extend(common, &config, args).await,
        Command::Release(args) => release(common, &config, args).await,
        Command::List(args) => list(common, &config, &args).await,
        Command::Show(args) => show(common, &config, &args).await,
    }
}

async fn place(common: &Common, config: &Config, args: Place) -> Result<Exit, CliError> {
    let now = clock::now();
    let until = args.lasting.end(now, now)?;
    let terms = args.terms(config)?;
    let ledger = open_ledger(config).await?;
    let runner = runner(config, &ledger);
    let placed = runner.place(terms, until, &account::name(), now, WITHIN).await?;
    let coverage = runner.coverage(&placed.hold).await;
    runner.stores.close().await;
    ledger.close().await;
    Ok(report(common, "placed", &placed, &coverage, now))
}

async fn extend(common: &Common, config: &Config, args: Extend) -> Result<Exit, CliError> {
    let now = clock::now();
    let ledger = open_ledger(config).await?;
    let runner = runner(config, &ledger);
    let hold = runner.hold(args.id).await?;
    let from = if hold.is_in_force(now) { hold.until } else { now };
    let until = args.lasting.end(from, now)?;
    if until < hold.until {
        return Err(CliError::Usage("an extension cannot end a hold earlier: release it".into()));
    }
    let ground = Ground { reference: Some(args.reference), reason: args.reason };
    let extended = runner.extend(&hold, until, ground, &account::name(), now, WITHIN).await?;
    let coverage = runner.coverage(&extended.hold).await;
    runner.stores.close().await;
    ledger.close().await;
    Ok(report(common, "extended", &extended, &coverage, now))
}

async fn release(common: &Common, config: &Config, args: Release) -> Result<Exit, CliError> {
    let ledger = open_ledger(config).await?;
    let ground = Ground { reference: args.reference, reason: args.reason };
    ledger.release_hold(args.id, ground, &account::name(), clock::now()).await?;
    ledger.close().await;
    if common.json {
        output::json(&json!({ "id": args.id, "state": "released" }));
    } else {
        anstream::println!("{GREEN}released{RESET}  hold {}", args.id);
        println!("{}", output::hanging(AFTERWARDS, 0));
    }
    Ok(Exit::Fine)
}

const AFTERWARDS: &str =
    "What it alone kept and is overdue goes at the next slot of its rule; see `expunged plan`.";

async fn list(common: &Common, config: &Config, args: &List) -> Result<Exit, CliError> {
    let now = clock::now();
    let ledger = read_ledger(config).await?;
    let mut holds = ledger.all_holds().await?;
    ledger.close().await;
    if !args.all {
        holds.retain(|hold| hold.is_in_force(now));
    }
    if common.json {
        output::json(&holds.iter().map(|hold| as_json(hold, now)).collect::<Vec<_>>());
        return Ok(Exit::Fine);
    }
    if holds.is_empty() {
        println!("No legal hold{}.", if args.all { " was ever placed" } else { " is in force" });
        return Ok(Exit::Fine);
    }
    let mut table = output::table(&["hold", "covers", "authority", "reference", "until", ""]);
    for hold in &holds {
        let order = &hold.terms.order;
        let mark = match (state(hold, now), hold.is_confidential(now)) {
            ("in force", true) => "confidential",
            ("in force", false) => "",
            (state, _) => state,
        };
        table.add_row(vec![
            hold.id.to_string(),
            covers(&hold.terms),
            order.authority.clone(),
            order.reference.clone(),
            output::day(Some(hold.until)),
            mark.to_owned(),
        ]);
    }
    output::print_table(table, &[2, 3]);
    Ok(Exit::Fine)
}

async fn show(common: &Common, config: &Config, args: &Show) -> Result<Exit, CliError> {
    let now = clock::now();
    let ledger = read_ledger(config).await?;
    let (hold, acts) = find(&ledger, args.id).await?;
    ledger.close().await;
    if common.json {
        let mut json = as_json(&hold, now);
        json["acts"] = acts.iter().map(act_as_json).collect();
        output::json(&json);
        return Ok(Exit::Fine);
    }
    anstream::println!("{BOLD}hold {}{RESET}  {}", hold.id, state(&hold, now));
    let moment = |at| output::moment(at, &TimeZone::UTC);
    let order = &hold.terms.order;
    let day = |day: Option<Date>| day.map(|day| day.to_string());
    let lines = [
        ("covers", Some(covers(&hold.terms))),
        ("dates", dates(hold.terms.range)),
        ("broad because", hold.terms.broad.clone()),
        ("authority", Some(order.authority.clone())),
        ("reference", Some(order.reference.clone())),
        ("agent", order.agent.clone()),
        ("contact", order.contact.clone()),
        ("dated", day(order.dated)),
        ("data due", day(order.due)),
        ("data", order.data.map(|data| data.as_str().to_owned())),
        ("confidential", day(order.confidential_until).map(|day| format!("until {day}"))),
        ("note", order.note.clone()),
        ("until", Some(moment(hold.until))),
    ];
    for (what, text) in lines {
        let Some(text) = text else { continue };
        anstream::println!("  {DIM}{what:<13}{RESET}  {}", output::hanging(&text, 17));
    }
    if let Scope::Subjects { values, .. } = &hold.terms.scope {
        let all = values.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        anstream::println!("  {DIM}{:<13}{RESET}  {}", "persons", output::hanging(&all, 17));
    }
    println!();
    for act in &acts {
        let until = act.until.map(|until| format!(", until {}", moment(until)));
        let ground = [act.ground.reference.as_deref(), act.ground.reason.as_deref()];
        let ground = ground.into_iter().flatten().collect::<Vec<_>>().join("; ");
        let text = format!("{} by {}{}: {ground}", act.act, act.by, until.unwrap_or_default());
        anstream::println!("  {DIM}{}{RESET}  {}", moment(act.at), output::hanging(&text, 24));
    }
    if state(&hold, now) == "expired" {
        let text = format!("expired, until {}", moment(hold.until));
        anstream::println!("  {DIM}{}{RESET}  {text}", moment(hold.until));
    }
    Ok(Exit::Fine)
}

async fn find(ledger: &Ledger, id: Uuid) -> Result<(Hold, Vec<HoldAct>), CliError> {
    let hold = ledger.all_holds().await?.into_iter().find(|hold| hold.id == id);
    let hold = hold.ok_or(crate::ledger::LedgerError::NoHold(id))?;
    Ok((hold, ledger.hold_acts(id).await?))
}

/// Says what was done and what it means. Exit code 1 when a batch could not be waited for.
fn report(
    common: &Common,
    done: &str,
    in_force: &InForce,
    coverage: &[Coverage],
    now: Timestamp,
) -> Exit {
    let InForce { hold, unresolved, removals_go_on, not_loaded } = in_force;
    let is_settled = unresolved.is_empty() && !removals_go_on;
    let exit = if is_settled { Exit::Fine } else { Exit::Failed };
    if common.json {
        let mut json = as_json(hold, now);
        json["coverage"] = json!(coverage);
        json["unresolved"] = json!(unresolved);
        json["removals_go_on"] = json!(removals_go_on);
        json["not_loaded"] = json!(not_loaded);
        output::json(&json);
        return exit;
    }
    anstream::println!("{GREEN}{done}{RESET}  hold {BOLD}{}{RESET}", hold.id);
    println!("  {}", output::hanging(&covers(&hold.terms), 2));
    println!("  in force until {}", output::moment(hold.until, &TimeZone::UTC));
    println!();
    for Coverage { rule, extent } in coverage {
        let (style, text) = match extent {
            Extent::Records { records, of } => {
                (BOLD, format!("{} of {} held", output::number(*records), output::records(*of)))
            }
            Extent::Unknown { why } => (YELLOW, format!("held, number unknown: {why}")),
            Extent::NoSubject => (
                RED,
                "NOT covered: the rule names no `subject`; hold it by --rule or --table".to_owned(),
            ),
            Extent::NotApplicable { reason } => {
                (RED, format!("NOT covered: holds do not apply to the rule: {reason}"))
            }
        };
        let indent = rule.as_str().len() + 4;
        anstream::println!("  {style}{rule}{RESET}  {}", output::hanging(&text, indent));
    }
    if coverage.is_empty() {
        anstream::println!("  {YELLOW}No rule of the configuration takes anything of it.{RESET}");
    }
    println!();
    if !not_loaded.is_empty() {
        let rules = not_loaded.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
        let text = format!(
            "The configuration was changed since it was last loaded: {rules}. The hold covers what it \
             says already, but a daemon has to be reloaded to work by the new rules."
        );
        anstream::println!("{YELLOW}not loaded{RESET}  {}", output::hanging(&text, 12));
        println!();
    }
    for intent in unresolved {
        let text = format!(
            "The hold is in force for everything from now on, but batch {} of rule {} in store {} was under \
             way before and is not resolved: it may have taken covered records. Make the store reachable \
             and run `expunged run {}` or start the daemon, then look at `expunged audit log --rule {}`.",
            intent.batch, intent.rule, intent.store, intent.rule, intent.rule
        );
        anstream::println!("{RED}unresolved{RESET}  {}", output::hanging(&text, 12));
    }
    if *removals_go_on {
        let text = "The hold is in force for everything from now on, but rows were being removed from the table of \
                    a recipient when it was placed, and still are: some may be covered. See `expunged recipients \
                    list`.";
        anstream::println!("{RED}unresolved{RESET}  {}", output::hanging(text, 12));
    }
    if is_settled {
        let text = format!(
            "No record that it covers is deleted from now on. Extend it before its end with \
             `expunged hold extend {} --reference …`.",
            hold.id
        );
        println!("{}", output::hanging(&text, 0));
    }
    exit
}

impl Lasting {
    fn end(&self, from: Timestamp, now: Timestamp) -> Result<Timestamp, CliError> {
        let until = if let Some(until) = &self.until {
            parse_time(until, now)?
        } else {
            let from = from.to_zoned(TimeZone::UTC);
            let end = from.checked_add(Span::new().days(self.days));
            end.map_or(Timestamp::MAX, |end| end.timestamp())
        };
        if until <= now {
            return Err(CliError::Usage("a hold cannot end in the past".into()));
        }
        Ok(until)
    }
}

impl Place {
    /// What the arguments say, held against the configuration.
    fn terms(self, config: &Config) -> Result<Terms, CliError> {
        let usage = |text: &str| CliError::Usage(text.to_owned());
        let range = Range { from: self.from, to: self.to };
        if let (Some(from), Some(to)) = (range.from, range.to)
            && from > to
        {
            return Err(usage("--from lies after --to"));
        }
        if self.broad.as_deref().is_some_and(|reason| reason.trim().is_empty()) {
            return Err(usage("--broad needs a reason"));
        }
        let scope = self.scope(config)?;
        let Place { authority, reference, agent, contact, dated, due, data, .. } = self;
        let (confidential_until, note, broad) = (self.confidential_until, self.note, self.broad);
        let order = Order {
            authority,
            reference,
            agent,
            contact,
            dated,
            due,
            data,
            confidential_until,
            note,
        };
        Ok(Terms { scope, range, order, broad, columns: BTreeSet::new() })
    }

    fn scope(&self, config: &Config) -> Result<Scope, CliError> {
        let mut values: BTreeSet<String> =
            self.subjects.iter().map(|subject| subject.trim().to_owned()).collect();
        if let Some(file) = &self.subjects_from {
            values.extend(read_lines(file)?);
        }
        values.retain(|value| !value.is_empty());
        let asked = !self.subjects.is_empty() || self.subjects_from.is_some();
        let kind = |store: &Name| {
            let known = config.stores.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
            let unknown =
                || CliError::Usage(format!("there is no store `{store}`; there are {known}"));
            Ok::<_, CliError>(config.stores.get(store).ok_or_else(unknown)?.kind())
        };
        if let Some(store) = &self.store {
            kind(store)?;
        }
        match (asked, &self.rule, &self.store, &self.table) {
            (true, _, store, table) if !values.is_empty() => {
                Ok(Scope::Subjects { values, store: store.clone(), table: table.clone() })
            }
            (true, ..) => Err(CliError::Usage("no person is named".into())),
            (false, Some(name), ..) => {
                let rule = super::select(config, std::slice::from_ref(name))?[0];
                let records = Records {
                    store: rule.store.clone(),
                    kind: kind(&rule.store)?,
                    table: rule.table.clone(),
                    predicate: rule.rows().and_then(|rows| rows.condition.clone()),
                    paths: rule.paths().map(|paths| paths.templates.clone()).unwrap_or_default(),
                };
                Ok(Scope::Rule { name: name.clone(), records })
            }
            (false, None, Some(store), Some(table)) => {
                let kind = kind(store)?;
                let parse = |text: &String| {
                    let parsed = match kind {
                        StoreKind::Sql(dialect) => Condition::parse(dialect, text),
                        StoreKind::Files | StoreKind::Objects => Err(InvalidCondition::NoTable),
                    };
                    parsed.map_err(|error| CliError::Usage(format!("--where: {error}")))
                };
                let predicate = self.predicate.as_ref().map(parse).transpose()?;
                let (store, table) = (store.clone(), table.clone());
                Ok(Scope::Table(Records { store, kind, table, predicate, paths: Vec::new() }))
            }
            (false, None, Some(store), None) => Ok(Scope::Store(store.clone())),
            (false, None, None, _) => Err(CliError::Usage(
                "say what to keep: --subject, --rule, --table with --store, or --store".into(),
            )),
        }
    }
}

fn read_lines(file: &PathBuf) -> Result<Vec<String>, CliError> {
    let read = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let doing = || format!("read `{}`", file.display());
    let text = read.map_err(|source| CliError::Io { doing: doing(), source })?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// Whether it is in force, and if not, why.
fn state(hold: &Hold, now: Timestamp) -> &'static str {
    if hold.is_in_force(now) {
        "in force"
    } else if hold.ended_at.is_some_and(|ended| ended < hold.until) {
        "released"
    } else {
        "expired"
    }
}

/// What it covers, in a line; how many persons, not which.
fn covers(terms: &Terms) -> String {
    let what = match &terms.scope {
        Scope::Subjects { values, store, table } => {
            let place = match (store, table) {
                (Some(store), Some(table)) => format!(" in {store}.{table}"),
                (Some(store), None) => format!(" in store {store}"),
                (None, _) => String::new(),
            };
            let persons = if values.len() == 1 { "person" } else { "persons" };
            format!("what is about {} {persons}{place}", output::number(values.len() as u64))
        }
        Scope::Rule { name, .. } => format!("what rule {name} would take"),
        Scope::Table(Records { store, table, predicate, .. }) => match predicate {
            Some(predicate) => format!("records of {store}.{table} where {}", predicate.as_str()),
            None => format!("all records of {store}.{table}"),
        },
        Scope::Store(store) => format!("everything in store {store}"),
    };
    match dates(terms.range) {
        Some(dates) => format!("{what}, {dates}"),
        None => what,
    }
}

fn dates(range: Range) -> Option<String> {
    match (range.from, range.to) {
        (None, None) => None,
        (Some(from), None) => Some(format!("from {from} on")),
        (None, Some(to)) => Some(format!("up to {to}")),
        (Some(from), Some(to)) => Some(format!("from {from} to {to}")),
    }
}

fn as_json(hold: &Hold, now: Timestamp) -> serde_json::Value {
    json!({
        "id": hold.id,
        "state": state(hold, now),
        "covers": covers(&hold.terms),
        "terms": hold.terms,
        "placed_at": hold.placed_at,
        "until": hold.until,
        "ended_at": hold.ended_at,
        "confidential": hold.is_confidential(now),
    })
}

fn act_as_json(act: &HoldAct) -> serde_json::Value {
    json!({
        "act": act.act,
        "at": act.at,
        "by": act.by,
        "until": act.until,
        "reference": act.ground.reference,
        "reason": act.ground.reason,
    })
}
