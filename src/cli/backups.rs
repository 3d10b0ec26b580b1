//! `expunged backups`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::json;

use crate::clock;
use crate::config::{BackupConfig, Config};
use crate::ledger::{BackupSet, DeletedDay, Frozen, Ledger, Noted};
use crate::residue::Residue;
use crate::rotate;
use crate::types::Name;

use super::output::{self, BOLD, DIM, GREEN, RED, RESET, YELLOW};
use super::{CliError, Common, Exit, account, apply, has_ledger, open_ledger, read_ledger, stores};

/// How wide the bar of a day is.
const BAR: i64 = 24;

/// Look at the sets of backups: what each still holds of what was deleted, and until when
///
/// A deletion is clear of a set once two successive listings show that every backup which started before it is gone,
/// with what depends on it and its data. The timeline has a line for each day on which something was deleted that is
/// not clear yet: from that day to the one on which the last copy is gone, as far as the rotation can be believed.
/// Exit code 2 where a set cannot be listed, proves nothing, or has outstayed its rotation.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

impl Args {
    /// Lists all sets now.
    pub(super) fn check() -> Args {
        Args { command: Some(Command::Check(Names::default())) }
    }
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Show the sets and their timelines, as `expunged backups` alone does
    List(Names),
    /// List sets now, and write down what that proves
    ///
    /// The daemon does the same at its intervals. Run it as the account that the daemon runs as, with the same
    /// credentials. Exit code 2 where a set cannot be listed, or the listing proves nothing.
    Check(Names),
    Confirm(Confirm),
    Forget(Forget),
}

#[derive(clap::Args, Debug, Default)]
struct Names {
    /// Only these; all of them when none is named.
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
}

/// Say that a set is right as it is listed, however much shorter than before or whatever the clock showed
///
/// A listing in which more than half of the backups vanished at once, or the newest, proves nothing until somebody has
/// looked. The next listing is believed once.
#[derive(clap::Args, Debug)]
struct Confirm {
    /// The set.
    name: Name,
}

/// Say that a set which is no longer configured is no more, with all of its backups
///
/// Until then what was deleted is owed to it. Nothing is after that, and where no other set covers a store the
/// kept keys of its deleted records are destroyed.
#[derive(clap::Args, Debug)]
struct Forget {
    /// The set.
    name: Name,
    /// Why, for the ledger.
    #[arg(long, value_name = "TEXT")]
    why: String,
}

/// A set, as it is configured and as its listings have it.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the names of the JSON")]
pub(super) struct Listed {
    backup: Name,
    /// `None` where it is only in the ledger.
    kind: Option<&'static str>,
    rotation: Option<String>,
    stores: Vec<Name>,
    /// How many backups the last listing that was believed has, from when to when.
    backups: Option<u64>,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
    listed_at: Option<Timestamp>,
    /// What was deleted before it is in no backup of the set.
    clear_before: Option<Timestamp>,
    /// Whether that is only assumed.
    assumed: bool,
    /// Why the last listing failed or proves nothing, and since when.
    doubt: Option<String>,
    doubted_since: Option<Timestamp>,
    /// The backup that has outstayed the rotation, and since when.
    stalled: Option<String>,
    stalled_since: Option<Timestamp>,
    /// The days on which something was deleted that is not clear.
    held: Vec<Day>,
}

impl Listed {
    fn is_troubled(&self) -> bool {
        self.doubt.is_some() || self.stalled_since.is_some() || self.kind.is_none()
    }
}

/// What was deleted on a day, and where that lives on.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the names of the JSON")]
struct Day {
    day: jiff::civil::Date,
    records: u64,
    /// When the last of them was deleted.
    last_at: Timestamp,
    #[serde(flatten)]
    residue: Residue,
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    match args.command.unwrap_or(Command::List(Names::default())) {
        Command::List(names) => list(common, &config, &names.names).await,
        Command::Check(names) => check(common, &config, &names.names).await,
        Command::Confirm(Confirm { name }) => {
            let ledger = open_ledger(&config).await?;
            let is_known = ledger.confirm_backups(&name, &account::name(), clock::now()).await?;
            ledger.close().await;
            known(is_known, &name)?;
            if common.json {
                output::json(&json!({ "backup": name, "state": "confirmed" }));
                return Ok(Exit::Fine);
            }
            println!(
                "The next listing of {name} is believed: `expunged backups check {name}` makes it now."
            );
            Ok(Exit::Fine)
        }
        Command::Forget(Forget { name, why }) => {
            let why = account::reason(Some(&why))?;
            if config.backups.contains_key(&name) {
                let text = format!("`{name}` is configured: take `[backup.{name}]` out first");
                return Err(CliError::Usage(text));
            }
            let ledger = open_ledger(&config).await?;
            apply::load_rules(&config, &ledger).await?;
            let by = account::name();
            let is_known = ledger.forget_backups(&name, &by, why, clock::now()).await?;
            ledger.close().await;
            known(is_known, &name)?;
            if common.json {
                output::json(&json!({ "backup": name, "state": "forgotten" }));
                return Ok(Exit::Fine);
            }
            println!("Nothing is owed to {name} any more.");
            Ok(Exit::Fine)
        }
    }
}

fn known(is_known: bool, name: &Name) -> Result<(), CliError> {
    let text =
        || format!("the ledger has no set `{name}`: `expunged backups` shows those that it has");
    if is_known { Ok(()) } else { Err(CliError::Usage(text())) }
}

/// The configured sets of these names, or all of them.
fn select<'a>(config: &'a Config, names: &[Name]) -> Result<Vec<&'a BackupConfig>, CliError> {
    if names.is_empty() {
        return Ok(config.backups.values().collect());
    }
    let one = |name: &Name| {
        config.backups.get(name).ok_or_else(|| {
            let known: Vec<_> = config.backups.keys().map(Name::as_str).collect();
            CliError::Usage(format!(
                "there is no set `{name}`; the configuration has {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            ))
        })
    };
    names.iter().map(one).collect()
}

async fn list(common: &Common, config: &Config, names: &[Name]) -> Result<Exit, CliError> {
    // Sets may be looked at before anything was ever listed.
    let all = if has_ledger(config) {
        let ledger = read_ledger(config).await?;
        let all = listed(config, &ledger, clock::now()).await?;
        ledger.close().await;
        all
    } else {
        Vec::new()
    };
    let wanted = |set: &Listed| names.is_empty() || names.contains(&set.backup);
    let all: Vec<_> = all.into_iter().filter(wanted).collect();
    if let Some(missing) = names.iter().find(|name| all.iter().all(|set| set.backup != **name)) {
        known(false, missing)?;
    }
    let is_troubled = all.iter().any(Listed::is_troubled);
    if common.json {
        output::json(&all);
    } else if !all.is_empty() {
        print(&all, clock::now());
    } else if config.backups.is_empty() {
        println!(
            "No backups are registered: `[backup.NAME]` in the configuration says which stores a set covers, \
             see config/conf.d/60-backups.toml."
        );
    } else {
        println!("No set was listed yet: the daemon does, or `expunged backups check`.");
    }
    Ok(if is_troubled { Exit::Two } else { Exit::Fine })
}

async fn check(common: &Common, config: &Config, names: &[Name]) -> Result<Exit, CliError> {
    let sets = select(config, names)?;
    let ledger = open_ledger(config).await?;
    apply::load_rules(config, &ledger).await?;
    let stores = stores(config);
    let mut doubted = BTreeMap::new();
    for set in sets {
        if set.terms.is_declared {
            continue;
        }
        ledger.claim_listing(&set.name, std::time::Duration::ZERO, clock::now()).await?;
        if let Noted::Doubted(trouble) = rotate::list(&ledger, &stores, set).await? {
            doubted.insert(set.name.clone(), trouble.words);
        }
    }
    let destroyed = rotate::sweep(&ledger, &config.backups, clock::now()).await?;
    let all = listed(config, &ledger, clock::now()).await?;
    let wanted = |set: &Listed| names.is_empty() || names.contains(&set.backup);
    let all: Vec<_> = all.into_iter().filter(wanted).collect();
    stores.close().await;
    ledger.close().await;
    if common.json {
        output::json(&all);
    } else {
        print(&all, clock::now());
        for (store, records) in destroyed {
            let text = format!(
                "the kept keys of {} of {store} are destroyed: no backup can bring them back",
                output::records(records)
            );
            anstream::println!("{GREEN}keys{RESET}  {}", output::hanging(&text, 6));
        }
    }
    Ok(if doubted.is_empty() { Exit::Fine } else { Exit::Two })
}

/// What monitoring needs to know of a set.
pub(super) struct Measured {
    pub(super) backup: Name,
    /// When it was last listed, and believed.
    pub(super) listed_at: Option<Timestamp>,
    pub(super) is_doubted: bool,
    pub(super) stalled_since: Option<Timestamp>,
    /// When the oldest of what is not clear was deleted, and how many records there are.
    pub(super) oldest: Option<Timestamp>,
    pub(super) records: u64,
}

pub(super) async fn measure(
    config: &Config,
    ledger: &Ledger,
    now: Timestamp,
) -> Result<Vec<Measured>, CliError> {
    let measured = |set: Listed| Measured {
        listed_at: set.listed_at,
        is_doubted: set.doubt.is_some(),
        stalled_since: set.stalled_since,
        oldest: set.held.first().map(|day| day.last_at),
        records: set.held.iter().map(|day| day.records).sum(),
        backup: set.backup,
    };
    Ok(listed(config, ledger, now).await?.into_iter().map(measured).collect())
}

/// The sets that nobody has forgotten, with what each still holds.
pub(super) async fn listed(
    config: &Config,
    ledger: &Ledger,
    now: Timestamp,
) -> Result<Vec<Listed>, CliError> {
    let mut all = Vec::new();
    for set in ledger.backup_sets().await? {
        let configured = config.backups.get(&set.name);
        let terms = configured.map(|config| &config.terms);
        let clear_before = set.clear_until(terms, now);
        let days = ledger.deleted_days(&set.stores, clear_before).await?;
        let held = days
            .into_iter()
            .map(|DeletedDay { day, records, last_at }| Day {
                day,
                records,
                last_at,
                residue: set.residue(terms, last_at, now),
            })
            .filter(|day| !day.residue.is_clear())
            .collect();
        all.push(one(set, configured, clear_before, held, now));
    }
    Ok(all)
}

fn one(
    set: BackupSet,
    config: Option<&BackupConfig>,
    clear_before: Option<Timestamp>,
    held: Vec<Day>,
    now: Timestamp,
) -> Listed {
    let starts = || {
        let listing = set.standing.listing.iter();
        listing.flat_map(|listing| &listing.backups).map(|backup| backup.started_at)
    };
    let stalled = config.and_then(|config| set.standing.stalled(&config.terms, now));
    Listed {
        kind: config.map(|config| config.catalogue.as_str()),
        rotation: config.map(|config| config.terms.rotation.to_string()),
        backups: set.standing.listing.as_ref().map(|listing| listing.backups.len() as u64),
        oldest: starts().min(),
        newest: starts().max(),
        listed_at: set.listed_at,
        clear_before,
        assumed: set.is_declared,
        stalled_since: stalled.as_ref().map(|stalled| stalled.since),
        stalled: stalled.map(|stalled| stalled.backup),
        doubt: set.doubt,
        doubted_since: set.doubted_since,
        held,
        stores: set.stores.into_iter().collect(),
        backup: set.name,
    }
}

fn print(all: &[Listed], now: Timestamp) {
    let minute = |at: Timestamp| output::moment(at, &TimeZone::UTC);
    for (place, set) in all.iter().enumerate() {
        if place > 0 {
            println!();
        }
        let stores: Vec<_> = set.stores.iter().map(Name::as_str).collect();
        let kind = set.kind.unwrap_or("no longer configured");
        let rotation = set.rotation.as_ref().map(|rotation| format!(", rotates after {rotation}"));
        anstream::println!(
            "{BOLD}{}{RESET}  {kind}{}, covers {}",
            set.backup,
            rotation.unwrap_or_default(),
            stores.join(", ")
        );
        let line = |topic: &str, text: &str| println!("  {topic:<8} {}", output::hanging(text, 11));
        match (set.backups, set.oldest, set.newest) {
            (Some(backups), Some(oldest), Some(newest)) => {
                let listed = set.listed_at.map(|at| format!(", listed {}", minute(at)));
                let (oldest, newest) = (minute(oldest), minute(newest));
                let text = match backups {
                    1 => format!("1 backup, from {oldest}"),
                    backups => {
                        format!("{} backups from {oldest} to {newest}", output::number(backups))
                    }
                };
                line("has", &(text + &listed.unwrap_or_default()));
            }
            _ if set.assumed => {
                line("has", "no catalogue: everything here is assumed from its rotation");
            }
            _ => line("has", "never listed well"),
        }
        match set.clear_before {
            Some(before) => {
                let how = if set.assumed { ", as is assumed" } else { "" };
                line("clear", &format!("of what was deleted before {}{how}", minute(before)));
            }
            None => line("clear", "of nothing yet: two listings have to show it"),
        }
        print_timeline(&set.held, now);
        print_trouble(set, now);
    }
}

/// A line for each day: from the deletion to the last copy's end.
fn print_timeline(days: &[Day], now: Timestamp) {
    let Some(first) = days.first().map(|day| day.day) else { return };
    let today = now.to_zoned(TimeZone::UTC).date();
    let end = |day: &Day| match day.residue {
        Residue::Pending { until: Some(until), .. } => until.to_zoned(TimeZone::UTC).date(),
        _ => today,
    };
    let last = days.iter().map(end).max().unwrap_or(today).max(today);
    let span = i64::from((last - first).get_days()).max(1);
    let place = |day: jiff::civil::Date| i64::from((day - first).get_days()) * (BAR - 1) / span;
    for day in days {
        let (from, to, now) = (place(day.day), place(end(day)), place(today));
        let is_endless = matches!(day.residue, Residue::Unbounded { .. });
        let bar: String = (0..BAR)
            .map(|column| match column {
                column if column == now => '|',
                column if column >= from && (column <= to || is_endless) => '=',
                _ => ' ',
            })
            .collect();
        let colour = if is_endless { RED } else { YELLOW };
        let text = in_short(day);
        anstream::println!(
            "  {} {colour}[{bar}]{RESET} {}",
            day.day,
            output::hanging(&text, usize::try_from(BAR).unwrap_or(0) + 16)
        );
    }
    anstream::println!("  {DIM}{:10}  | is today, = is until the last copy is gone{RESET}", "");
}

/// What is left of a day, beside its bar.
fn in_short(day: &Day) -> String {
    let records = output::records(day.records);
    match &day.residue {
        Residue::Pending { until: Some(until), backups, assumed, .. } => {
            let until = until.strftime("%Y-%m-%d");
            match (assumed, backups) {
                (true, _) => format!("{records}, gone by {until} as is assumed"),
                (false, 1) => format!("{records} in 1 backup, until {until}"),
                (false, backups) => format!("{records} in {backups} backups, until {until}"),
            }
        }
        residue => format!("{records}: {}", residue.in_words()),
    }
}

fn print_trouble(set: &Listed, now: Timestamp) {
    let say = |word: &str, text: &str| {
        anstream::println!("  {RED}{word:<8}{RESET} {}", output::hanging(text, 11));
    };
    if let Some(doubt) = &set.doubt {
        let since = set.doubted_since.map(|at| output::moment(at, &TimeZone::UTC));
        let since = since.map(|since| format!("since {since}: ")).unwrap_or_default();
        say("doubted", &format!("{since}{doubt}; what was proven before stands"));
    }
    if let (Some(backup), Some(at)) = (&set.stalled, set.stalled_since) {
        #[expect(clippy::cast_precision_loss, reason = "an age for people")]
        let age = output::duration(now.duration_since(at).as_secs() as f64);
        say(
            "stalled",
            &format!(
                "{backup} should have rotated away {age} ago, {}",
                output::moment(at, &TimeZone::UTC)
            ),
        );
    }
    if set.kind.is_none() {
        let help = format!(
            "what was deleted is owed to it until it is configured again and listed, or `expunged backups forget {} --why …`",
            set.backup
        );
        say("unknown", &help);
    }
    if set.held.is_empty() && !set.is_troubled() && set.clear_before.is_some() {
        anstream::println!(
            "  {GREEN}nothing{RESET}  that was deleted is left in it, as far as expunged has deleted it"
        );
    }
}

/// Says which sets are in trouble, and what is open because of backups; nothing where all is well.
pub(super) fn print_open(frozen: &[Frozen], sets: &[Listed]) {
    for frozen in frozen {
        let text = format!(
            "{}: it seems to have been restored ({}), and its rules do not run: see `expunged replay {} --dry-run`",
            frozen.store, frozen.evidence, frozen.store
        );
        anstream::println!("{RED}frozen {RESET} {}", output::hanging(&text, 8));
    }
    for set in sets {
        let records: u64 = set.held.iter().map(|day| day.records).sum();
        if let Some(day) = set.held.last() {
            let text = format!(
                "{}: {} deleted since {} may still be in it: {}",
                set.backup,
                output::records(records),
                set.held.first().map_or(day.day, |day| day.day),
                day.residue.in_words()
            );
            anstream::println!("{DIM}backups{RESET} {}", output::hanging(&text, 8));
        }
        let say = |text: String| {
            anstream::println!("{RED}backups{RESET} {}", output::hanging(&text, 8));
        };
        if let Some(doubt) = &set.doubt {
            say(format!("{}: {doubt}", set.backup));
        }
        if let Some(stalled) = &set.stalled {
            say(format!("{}: {stalled} should have rotated away", set.backup));
        }
        if set.kind.is_none() {
            say(format!("{}: it is no longer configured, and something is owed to it", set.backup));
        }
    }
}
