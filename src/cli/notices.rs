//! `expunged notices`.

use std::collections::BTreeMap;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;
use uuid::Uuid;

use crate::clock;
use crate::config::Config;
use crate::ledger::{Ledger, Notice, NoticeFilter, RecipientState};
use crate::notice::State;
use crate::types::Name;

use super::account;
use super::output::{self, BOLD, DIM, GREEN, RESET, YELLOW};
use super::{CliError, Common, Exit, has_ledger, open_ledger, read_ledger};

/// Follow what recipients are told: list, show, retry and exempt notices
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    List(List),
    Show(Show),
    Retry(Retry),
    Exempt(Exempt),
}

/// Show notices that are not over, the oldest first
///
/// A notice is one message to one recipient about records that a batch took. It is written with the
/// batch, and goes from `pending` (has not reached the recipient) over `sent` (has, and nothing was heard
/// since) and `accepted` (the recipient is at work) to `completed`. A recipient may refuse (`denied`),
/// need not (`exempt`), or be told in vain until nobody tries any more (`failed`). It is overdue when its
/// due time has passed before it was completed or exempt. A deletion is complete when every notice is.
#[derive(clap::Args, Debug)]
pub(crate) struct List {
    /// Only to this recipient.
    #[arg(long, value_name = "NAME")]
    recipient: Option<Name>,
    /// Only of this rule.
    #[arg(long, value_name = "RULE")]
    rule: Option<Name>,
    /// Only of this run.
    #[arg(long, value_name = "ID")]
    run: Option<Uuid>,
    /// Only in this state; may be given more than once.
    #[arg(long = "state", value_name = "STATE", value_parser = states())]
    states: Vec<State>,
    /// Only those whose due time has passed.
    #[arg(long)]
    overdue: bool,
    /// Also those that are over.
    #[arg(long)]
    all: bool,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
}

/// Show all of a notice, the reason that was given included, but never whom it is about
///
/// What identifies persons is sealed in the ledger for the recipient alone, and forgotten once the notice
/// is over. A reason is shown as the recipient, or somebody here, wrote it.
#[derive(clap::Args, Debug)]
pub(crate) struct Show {
    /// Its id, as `expunged notices list` shows it.
    id: Uuid,
}

/// Have notices tried again now, under the same ids
///
/// Of a recipient these are the ones that wait for their next attempt and those that were given up;
/// `--state` names others, such as `denied`. It also ends the silence towards a recipient that had asked
/// to be told nothing any more (410). A recipient that has carried a notice out knows it by its id.
#[derive(clap::Args, Debug)]
pub(crate) struct Retry {
    /// This notice.
    #[arg(required_unless_present = "recipient", conflicts_with_all = ["recipient", "states"])]
    id: Option<Uuid>,
    /// The notices to this recipient.
    #[arg(long, value_name = "NAME")]
    recipient: Option<Name>,
    /// In this state; may be given more than once. By default `pending` and `failed`.
    #[arg(long = "state", value_name = "STATE", value_parser = states())]
    states: Vec<State>,
    /// Only say what would be tried again.
    #[arg(long)]
    dry_run: bool,
}

/// Record that a recipient need not carry a notice out, and why
///
/// GDPR Art. 19 asks to tell each recipient unless that proves impossible or takes disproportionate
/// effort; a recipient may also have the subject's own consent. Your reason is kept sealed in the ledger,
/// your account and the time in the audit log. Whom the notice is about is forgotten, and the deletion no
/// longer waits for it: there is no way back.
#[derive(clap::Args, Debug)]
pub(crate) struct Exempt {
    /// Its id, as `expunged notices list` shows it.
    id: Uuid,
    /// Why the recipient need not.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

fn states() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::ALL.map(State::as_str))
        .try_map(|word| State::from_word(&word).ok_or("this is not a state"))
}

pub(crate) async fn main(common: &Common, command: Command) -> Result<Exit, CliError> {
    let config = common.load()?;
    match command {
        Command::List(args) => list(common, &config, args).await,
        Command::Show(args) => show(common, &config, &args).await,
        Command::Retry(args) => retry(common, &config, args).await,
        Command::Exempt(args) => exempt(common, &config, &args).await,
    }
}

// --- looking --------------------------------------------------------------------------------------

async fn list(common: &Common, config: &Config, args: List) -> Result<Exit, CliError> {
    let ledger = read_ledger(config).await?;
    if let Some(recipient) = &args.recipient {
        check_name(config, &ledger, recipient).await?;
    }
    let List { recipient, rule, run, mut states, overdue, all, limit } = args;
    let is_narrowed = recipient.is_some() || rule.is_some() || run.is_some() || overdue;
    let is_all = all || !states.is_empty();
    if !is_all {
        states = State::ALL.into_iter().filter(|state| !state.is_over()).collect();
    }
    let filter = NoticeFilter { id: None, recipient, rule, run, states, overdue };
    let mut notices = ledger.notices(&filter, limit + 1).await?;
    ledger.close().await;
    let is_cut = notices.len() > limit as usize;
    notices.truncate(limit as usize);
    if common.json {
        output::json(&notices.iter().map(in_our_words).collect::<Vec<_>>());
        return Ok(Exit::Fine);
    }
    if notices.is_empty() {
        println!("{}", none(is_narrowed, is_all));
        return Ok(Exit::Fine);
    }
    print_list(&notices);
    if is_cut {
        anstream::println!(
            "{DIM}Only the oldest {limit} are shown; --limit shows more, --recipient and --state other \
             ones.{RESET}"
        );
    }
    Ok(Exit::Fine)
}

fn none(is_narrowed: bool, is_all: bool) -> &'static str {
    match (is_narrowed, is_all) {
        (false, false) => "No notice is open: every recipient has done what it was told.",
        (true, false) => "No such notice is open; --all looks among those that are over, too.",
        (_, true) => "There is no such notice.",
    }
}

fn print_list(notices: &[Notice]) {
    let headings = ["notice", "recipient", "rule", "state", "names", "due"];
    let mut table = output::table(&headings);
    for notice in notices {
        table.add_row(vec![
            notice.id.to_string().into(),
            notice.recipient.to_string().into(),
            notice.rule.to_string().into(),
            stands(notice).into(),
            output::right(output::number(notice.subjects)),
            output::day(Some(notice.due_at)).into(),
        ]);
    }
    output::print_table(table, &[4, 2]);
}

/// Its state, and whether it is late.
fn stands(notice: &Notice) -> String {
    let late = if is_late(notice) { ", overdue" } else { "" };
    format!("{}{late}", notice.state)
}

fn is_late(notice: &Notice) -> bool {
    notice.overdue && !notice.state.is_over()
}

/// A notice without what the recipient wrote.
fn in_our_words(notice: &Notice) -> serde_json::Value {
    let mut json = json!(notice);
    if let Some(fields) = json.as_object_mut() {
        fields.remove("reason");
        fields.remove("job");
    }
    json
}

async fn show(common: &Common, config: &Config, args: &Show) -> Result<Exit, CliError> {
    let ledger = read_ledger(config).await?;
    let notice = find(&ledger, args.id).await?;
    ledger.close().await;
    if common.json {
        let mut json = json!(notice);
        json["about"] = json!(whom(&notice));
        output::json(&json);
        return Ok(Exit::Fine);
    }
    anstream::println!("{BOLD}notice {}{RESET}  {}", notice.id, stands(&notice));
    for (what, text) in lines(&notice) {
        let Some(text) = text else { continue };
        anstream::println!("  {DIM}{what:<13}{RESET}  {}", output::hanging(&text, 17));
    }
    print_advice(config, &notice);
    Ok(Exit::Fine)
}

/// Everything that is shown of a notice, by topic.
fn lines(notice: &Notice) -> [(&'static str, Option<String>); 15] {
    let moment = |at: Timestamp| output::moment(at, &TimeZone::UTC);
    let (is_denied, is_exempt) = (notice.state == State::Denied, notice.state == State::Exempt);
    let reason = notice.reason.as_deref().map(output::plain);
    let or_none = |is_it: bool| is_it.then(|| reason.clone().unwrap_or("no reason given".into()));
    let attempts = (notice.attempts > 0).then(|| {
        let times = if notice.attempts == 1 { "once" } else { "times" };
        match notice.attempts {
            1 => format!("{times} in vain"),
            attempts => format!("{} {times} in vain", output::number(attempts)),
        }
    });
    let next = match notice.state {
        State::Pending => "told",
        _ => "asked how far it is",
    };
    [
        ("recipient", Some(notice.recipient.to_string())),
        ("rule", Some(notice.rule.to_string())),
        ("run", Some(notice.run.to_string())),
        ("names", Some(output::subjects(notice.subjects))),
        ("whom", Some(whom(notice).to_owned())),
        ("written", Some(moment(notice.created_at))),
        ("due", Some(moment(notice.due_at))),
        ("first told", notice.sent_at.map(moment)),
        ("tried", attempts),
        ("next", notice.next_at.map(|at| format!("{next} at {}", moment(at)))),
        ("last trouble", notice.error.as_deref().map(output::plain)),
        ("its job there", notice.job.as_deref().map(output::plain)),
        ("ended", notice.ended_at.map(moment)),
        ("refused", or_none(is_denied)),
        ("exempt", or_none(is_exempt)),
    ]
}

/// What is said of whom a notice is about.
fn whom(notice: &Notice) -> &'static str {
    if notice.state.is_over() {
        "forgotten: the notice is over, and a keyed commitment is all that is left"
    } else {
        "not shown: it is sealed for the recipient alone, and forgotten once the notice is over"
    }
}

/// Says what somebody can do about a notice that does not go on by itself.
fn print_advice(config: &Config, notice: &Notice) {
    let Notice { id, recipient, state, .. } = notice;
    let is_known = config.recipients.contains_key(recipient);
    let is_stuck = matches!(state, State::Denied | State::Failed) || is_late(notice);
    if state.is_over() || (is_known && !is_stuck) {
        return;
    }
    let text = if is_known {
        format!("It does not go on by itself, or is late: settle it with {recipient}.")
    } else {
        format!(
            "Nothing is told to {recipient} until `[recipient.{recipient}]` is configured again."
        )
    };
    println!();
    println!("{}", output::hanging(&text, 0));
    println!("  try again:     expunged notices retry {id}");
    println!("  it need not:   expunged notices exempt {id} --reason \"…\"");
}

/// The notice of an id.
async fn find(ledger: &Ledger, id: Uuid) -> Result<Notice, CliError> {
    let filter = NoticeFilter { id: Some(id), ..NoticeFilter::default() };
    let found = ledger.notices(&filter, 1).await?.into_iter().next();
    found.ok_or_else(|| {
        let text = "`expunged notices list --all` shows those there are";
        CliError::Usage(format!("there is no notice {id}: {text}"))
    })
}

/// Refuses a name that no recipient has or had; gives how they do.
async fn check_name(
    config: &Config,
    ledger: &Ledger,
    name: &Name,
) -> Result<BTreeMap<Name, RecipientState>, CliError> {
    let states = ledger.recipient_states().await?;
    if config.recipients.contains_key(name) || states.contains_key(name) {
        return Ok(states);
    }
    Err(super::recipients::unknown(config, &states, name))
}

// --- acting ---------------------------------------------------------------------------------------

async fn retry(common: &Common, config: &Config, args: Retry) -> Result<Exit, CliError> {
    let ledger = write_ledger(config, args.dry_run).await?;
    let (recipient, filter, found) = match (args.id, args.recipient) {
        (Some(id), _) => one(&ledger, id).await?,
        (None, Some(recipient)) => of(config, &ledger, recipient, args.states).await?,
        (None, None) => return Err(CliError::Usage("say which: an id, or --recipient".to_owned())),
    };
    let retried = if args.dry_run {
        None
    } else {
        Some(ledger.retry_notices(&filter, &account::name(), clock::now()).await?)
    };
    ledger.close().await;
    if common.json {
        output::json(&json!({ "recipient": recipient, "found": found, "retried": retried }));
        return Ok(Exit::Fine);
    }
    let counts = in_states(&found);
    if let Some(retried) = retried {
        let text = format!("{} to {recipient}: {counts}", output::notices(retried));
        anstream::println!("{GREEN}{BOLD}retried{RESET}  {}", output::hanging(&text, 9));
    } else {
        let all = output::notices(found.values().sum());
        let text = format!("would be {all} to {recipient}: {counts}");
        anstream::println!("{YELLOW}retried{RESET}  {}", output::hanging(&text, 9));
    }
    let then = if retried.is_none() {
        "Nothing was changed: leave --dry-run out to have them tried again.".to_owned()
    } else if config.recipients.contains_key(&recipient) {
        format!(
            "The daemon tells {recipient} within a minute, under the same ids: what it has carried out \
             already it knows by them."
        )
    } else {
        format!("{recipient} is not configured any more: nothing is told to it until it is again.")
    };
    println!("{}", output::hanging(&then, 0));
    Ok(Exit::Fine)
}

/// Which notices are meant: their recipient, what to look for, and how many are in which state.
type Meant = (Name, NoticeFilter, BTreeMap<State, u64>);

async fn one(ledger: &Ledger, id: Uuid) -> Result<Meant, CliError> {
    let notice = find(ledger, id).await?;
    if notice.state.is_over() {
        let text = format!("notice {id} is {}: there is nothing to try again", notice.state);
        return Err(CliError::Usage(text));
    }
    let filter = NoticeFilter { id: Some(id), ..NoticeFilter::default() };
    Ok((notice.recipient, filter, [(notice.state, 1)].into()))
}

async fn of(
    config: &Config,
    ledger: &Ledger,
    recipient: Name,
    mut states: Vec<State>,
) -> Result<Meant, CliError> {
    if states.is_empty() {
        states = vec![State::Pending, State::Failed];
    }
    if let Some(over) = states.iter().find(|state| state.is_over()) {
        let text = format!("what is {over} is over: there is nothing to try again");
        return Err(CliError::Usage(text));
    }
    let mut known = check_name(config, ledger, &recipient).await?;
    let open = known.remove(&recipient).unwrap_or_default().open;
    let (found, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        open.into_iter().partition(|(state, _)| states.contains(state));
    if found.is_empty() {
        let words: Vec<_> = states.iter().map(|state| state.as_str()).collect();
        let rest = if others.is_empty() {
            "none is open".to_owned()
        } else {
            format!("there are {}, which `--state` names", in_states(&others))
        };
        let text = format!("no notice to {recipient} is {}: {rest}", words.join(" or "));
        return Err(CliError::Usage(text));
    }
    let filter =
        NoticeFilter { recipient: Some(recipient.clone()), states, ..NoticeFilter::default() };
    Ok((recipient, filter, found))
}

/// `3 pending, 1 failed`.
pub(super) fn in_states(counts: &BTreeMap<State, u64>) -> String {
    let words =
        counts.iter().map(|(state, notices)| format!("{} {state}", output::number(*notices)));
    words.collect::<Vec<_>>().join(", ")
}

async fn exempt(common: &Common, config: &Config, args: &Exempt) -> Result<Exit, CliError> {
    let reason = args.reason.trim();
    if reason.is_empty() {
        let text = "say why the recipient need not: `--reason \"…\"` is empty";
        return Err(CliError::Usage(text.to_owned()));
    }
    let ledger = write_ledger(config, false).await?;
    let notice = find(&ledger, args.id).await?;
    let by = account::name();
    let exempted = ledger.exempt_notice(args.id, reason, &by, clock::now()).await?;
    let stands = find(&ledger, args.id).await?.state;
    ledger.close().await;
    if exempted != Some(true) {
        let text = format!("notice {} is {stands} already, and nothing was changed", args.id);
        return Err(CliError::Usage(text));
    }
    if common.json {
        output::json(&json!({ "id": args.id, "state": stands, "by": by }));
        return Ok(Exit::Fine);
    }
    let text = format!("{} need not carry out notice {}, says {by}", notice.recipient, args.id);
    anstream::println!("{GREEN}{BOLD}exempt{RESET}  {}", output::hanging(&text, 8));
    println!(
        "{}",
        output::hanging(
            "The reason is kept in the ledger, whom it is about is forgotten. The deletion no longer waits for \
             it, and the certificate says that it was exempt.",
            0
        )
    );
    Ok(Exit::Fine)
}

/// The ledger, to be written to; it is not made for that.
async fn write_ledger(config: &Config, only_look: bool) -> Result<Ledger, CliError> {
    if only_look || !has_ledger(config) {
        return read_ledger(config).await;
    }
    open_ledger(config).await
}
