//! `expunged recipients`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::clock;
use crate::config::{Config, RecipientConfig};
use crate::ledger::RecipientState;
use crate::recipient::{Recipient, Recipients};
use crate::types::Name;

use super::notices::in_states;
use super::output::{self, DIM, GREEN, RED, RESET, YELLOW};
use super::{CliError, Common, Exit, has_ledger, read_ledger, stores};

/// Look at the recipients of deletions, and test that they can be reached
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    List(List),
    Test(Test),
}

/// Show how each recipient does: what is open and overdue, when it last answered, and what is wrong
///
/// Open are the notices that it has neither completed nor is exempt from: `expunged notices list` shows
/// them. One that has asked to be told nothing any more (410) is told nothing until somebody has looked.
#[derive(clap::Args, Debug)]
pub(crate) struct List {}

/// Send each recipient something harmless, signed as notices are, and say exactly what is wrong
///
/// Nothing is told of anybody, and nothing is written down. What may be wrong is said in a word: its name
/// (DNS), its address, the connection, TLS, the time it takes, the status of its answer, the secret. Run it
/// as the account that the daemon runs as, with the same credentials. Exit code 1 when any fails.
#[derive(clap::Args, Debug)]
pub(crate) struct Test {
    /// Only these; all of them when none is named.
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
}

/// A recipient, as it is configured and as it does.
#[derive(Serialize)]
pub(super) struct Listed {
    recipient: Name,
    /// `None` where it is only in the ledger.
    protocol: Option<&'static str>,
    ack: Option<&'static str>,
    #[serde(flatten)]
    state: RecipientState,
}

pub(crate) async fn main(common: &Common, command: Command) -> Result<Exit, CliError> {
    let config = common.load()?;
    match command {
        Command::List(List {}) => list(common, &config).await,
        Command::Test(args) => test(common, &config, &args).await,
    }
}

async fn list(common: &Common, config: &Config) -> Result<Exit, CliError> {
    // Recipients may be looked at before anything was ever told.
    let states = if has_ledger(config) {
        let ledger = read_ledger(config).await?;
        let states = ledger.recipient_states().await?;
        ledger.close().await;
        states
    } else {
        BTreeMap::new()
    };
    let all = listed(config, states);
    if common.json {
        output::json(&all);
    } else if all.is_empty() {
        println!("There are no recipients: `[recipient.NAME]` in the configuration makes one.");
    } else {
        print(&all);
    }
    Ok(Exit::Fine)
}

/// The recipients that the configuration or the ledger has.
pub(super) fn listed(config: &Config, mut states: BTreeMap<Name, RecipientState>) -> Vec<Listed> {
    let names: BTreeSet<Name> = config.recipients.keys().chain(states.keys()).cloned().collect();
    let one = |recipient: Name| {
        let configured: Option<&RecipientConfig> = config.recipients.get(&recipient);
        Listed {
            protocol: configured.map(|recipient| recipient.protocol.as_str()),
            ack: configured.map(|recipient| recipient.ack.as_str()),
            state: states.remove(&recipient).unwrap_or_default(),
            recipient,
        }
    };
    names.into_iter().map(one).collect()
}

fn print(all: &[Listed]) {
    let headings = [
        "recipient",
        "protocol",
        "ack",
        "open",
        "overdue",
        "oldest open",
        "completed",
        "last answer",
    ];
    let mut table = output::table(&headings);
    let none = || "-".to_owned();
    let moment = |at: Option<Timestamp>| {
        at.map_or_else(none, |at| at.strftime("%Y-%m-%d %H:%M").to_string())
    };
    for Listed { recipient, protocol, ack, state } in all {
        let open = if state.open.is_empty() { "0".to_owned() } else { in_states(&state.open) };
        table.add_row(vec![
            recipient.to_string().into(),
            protocol.map_or("-", |protocol| protocol).into(),
            ack.map_or("-", |ack| ack).into(),
            open.into(),
            output::right(output::number(state.overdue)),
            output::day(state.oldest).into(),
            output::right(output::number(state.completed)),
            moment(state.answered_at).into(),
        ]);
    }
    output::print_table(table, &[2, 6, 1]);
    for Listed { recipient, protocol, state, .. } in all {
        print_trouble(recipient, protocol.is_some(), state);
    }
}

/// Says which recipients have notices open, or are in trouble; nothing where all is well.
pub(super) fn print_open(all: &[Listed]) {
    for Listed { recipient, protocol, state, .. } in all {
        if let (true, Some(oldest)) = (state.waiting() > 0, state.oldest) {
            let text = format!(
                "{recipient}: {} open, {}, the oldest since {}",
                output::notices(state.waiting()),
                in_states(&state.open),
                output::moment(oldest, &TimeZone::UTC)
            );
            anstream::println!("{YELLOW}notices {RESET} {}", output::hanging(&text, 9));
        }
        let is_configured = protocol.is_some();
        if is_configured || state.waiting() > 0 {
            print_trouble(recipient, is_configured, state);
        }
    }
}

/// Says what is wrong with a recipient, and what to do; nothing where nothing is.
pub(super) fn print_trouble(recipient: &Name, is_configured: bool, state: &RecipientState) {
    let moment = |at: Timestamp| output::moment(at, &TimeZone::UTC);
    let line = |style: anstyle::Style, word: &str, text: &str| {
        anstream::println!("{style}{word:8}{RESET} {}", output::hanging(text, 9));
    };
    if !is_configured {
        let rest = match state.waiting() {
            0 => "nothing is open".to_owned(),
            open => format!(
                "{} wait until it is again, or until `expunged notices exempt` says why it need not",
                output::notices(open)
            ),
        };
        line(DIM, "unknown", &format!("{recipient}: no longer configured; {rest}"));
    }
    let error = state.error.as_deref().map(output::plain);
    match (state.stopped_at, state.failing_since) {
        (Some(since), _) => {
            let text = format!(
                "{recipient}: it has asked to be told nothing any more (410), {}, and nothing is sent since. \
                 Settle that with it; then `expunged notices retry --recipient {recipient}` sends again",
                moment(since)
            );
            line(RED, "stopped", &text);
        }
        (None, Some(since)) => {
            let why = error.map(|error| format!(": {error}")).unwrap_or_default();
            line(RED, "failing", &format!("{recipient}: since {}{why}", moment(since)));
        }
        (None, None) => {}
    }
    if state.overdue > 0 {
        let text = format!(
            "{recipient}: {}; `expunged notices list --overdue --recipient {recipient}` shows them",
            output::notices(state.overdue)
        );
        line(YELLOW, "overdue", &text);
    }
}

// --- testing --------------------------------------------------------------------------------------

/// What came of a test.
#[derive(Serialize)]
struct Tested {
    recipient: Name,
    protocol: &'static str,
    is_well: bool,
    /// What was found, or what is wrong.
    says: String,
    milliseconds: Option<u64>,
}

async fn test(common: &Common, config: &Config, args: &Test) -> Result<Exit, CliError> {
    if config.recipients.is_empty() {
        let text = "there are no recipients: `[recipient.NAME]` in the configuration makes one";
        return Err(CliError::Usage(text.to_owned()));
    }
    if let Some(name) = args.names.iter().find(|name| !config.recipients.contains_key(name)) {
        return Err(unknown(config, &BTreeMap::new(), name));
    }
    let stores = stores(config);
    let recipients = Recipients::new(&config.recipients, &stores);
    let is_meant = |name: &Name| args.names.is_empty() || args.names.contains(name);
    let mut testing = JoinSet::new();
    for (name, recipient) in recipients.iter().filter(|(name, _)| is_meant(name)) {
        let (name, recipient) = (name.clone(), recipient.clone());
        testing.spawn(async move { (name, tested(&recipient).await) });
    }
    let results: BTreeMap<Name, Tested> = testing.join_all().await.into_iter().collect();
    stores.close().await;
    let exit =
        if results.values().all(|tested| tested.is_well) { Exit::Fine } else { Exit::Failed };
    if common.json {
        output::json(&results.values().collect::<Vec<_>>());
        return Ok(exit);
    }
    for Tested { recipient, protocol, is_well, says, milliseconds } in results.values() {
        let (style, word) = if *is_well { (GREEN, "well") } else { (RED, "failed") };
        let took = milliseconds.map(|took| format!(", after {took} ms")).unwrap_or_default();
        let text = format!("{recipient} ({protocol}): {}{took}", output::plain(says));
        anstream::println!("{style}{word:6}{RESET} {}", output::hanging(&text, 7));
    }
    Ok(exit)
}

async fn tested(recipient: &Recipient) -> Tested {
    let result = recipient.test(clock::now()).await;
    let (is_well, says, took) = match result {
        Ok(pong) => (true, pong.says, Some(pong.took)),
        Err(ailment) => (false, ailment.to_string(), None),
    };
    Tested {
        recipient: recipient.config.name.clone(),
        protocol: recipient.config.protocol.as_str(),
        is_well,
        says,
        milliseconds: took.and_then(|took| took.as_millis().try_into().ok()),
    }
}

/// There is no such recipient, and these there are.
pub(super) fn unknown(
    config: &Config,
    states: &BTreeMap<Name, RecipientState>,
    name: &Name,
) -> CliError {
    let known: BTreeSet<_> =
        config.recipients.keys().chain(states.keys()).map(Name::as_str).collect();
    let known = if known.is_empty() {
        "there are none: `[recipient.NAME]` in the configuration makes one".to_owned()
    } else {
        format!("there are {}", known.into_iter().collect::<Vec<_>>().join(", "))
    };
    CliError::Usage(format!("there is no recipient `{name}`; {known}"))
}
