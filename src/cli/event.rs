//! `expunged event`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::clock;
use crate::config::Config;
use crate::event::{EventId, Occurrence, Told, Value};
use crate::http::client::{self, Answer};
use crate::ledger::Received;
use crate::rule::Mode;
use crate::types::{EventName, Name};

use super::output::{self, BOLD, DIM, GREEN, RESET, YELLOW};
use super::{CliError, Common, Exit, open_ledger};

/// Say that something is over, for the rules that listen
///
/// As an application says it by `POST /v1/events`: `expunged event synthesis.finished upload_key=k1`.
/// The rules with this event in `on_event` act on the records that the values name. The event is handed
/// to the daemon where one answers at its socket; otherwise it is written to the ledger, and worked off
/// when a daemon looks. Either way it is durable when this returns. An event that no rule listens to, or
/// that lacks a value which a rule asks for, is refused with exit code 1, and nothing is kept of it.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What happened, such as `synthesis.finished`.
    name: EventName,
    /// With what: the values that say which records are meant.
    #[arg(value_name = "KEY=VALUE")]
    values: Vec<String>,
    /// What makes it this event: the same id again is the same event, and is not taken twice while it
    /// waits. At most 200 characters; a new one by default.
    #[arg(long)]
    id: Option<String>,
}

#[derive(Serialize)]
struct Report {
    accepted: u64,
    known: u64,
    id: String,
    rules: Vec<Name>,
    by: By,
}

/// Who has taken an event in.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum By {
    Daemon,
    Ledger,
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    let id = args.id.as_deref().map(str::parse::<EventId>).transpose()?;
    let told = Told { id, name: args.name, values: values(&args.values)? };
    let (event, rules) = told.heard_by(config.rules.values(), || clock::new_id().to_string())?;
    let (received, by) = hand_in(&config, &event, &rules).await?;
    let report = Report { accepted: received.new, known: received.known, id: event.id, rules, by };
    if common.json {
        output::json(&report);
    } else {
        print(&config, &event.name, &report);
    }
    Ok(Exit::Fine)
}

fn values(written: &[String]) -> Result<BTreeMap<String, Value>, CliError> {
    let mut values = BTreeMap::new();
    for one in written {
        let pair = one.split_once('=').filter(|(key, _)| !key.is_empty());
        let Some((key, value)) = pair else {
            let text =
                format!("`{one}` is not a value: write `key=value`, such as `upload_key=k1`");
            return Err(CliError::Usage(text));
        };
        if values.insert(key.to_owned(), Value::Text(value.to_owned())).is_some() {
            return Err(CliError::Usage(format!("the value `{key}` is given twice")));
        }
    }
    Ok(values)
}

/// To the daemon, so that it acts at once; without one, to the ledger.
async fn hand_in(
    config: &Config,
    event: &Occurrence,
    rules: &[Name],
) -> Result<(Received, By), CliError> {
    if config.api.enabled {
        let json =
            serde_json::json!({ "event": event.name, "id": event.id, "values": event.values });
        match client::hand_in(&config.api.socket, json.to_string()).await {
            Answer::Accepted { new, known } => return Ok((Received { new, known }, By::Daemon)),
            Answer::Refused(why) => {
                return Err(CliError::Usage(format!("the daemon has not taken it: {why}")));
            }
            Answer::Unclear => {
                let text = format!(
                    "the daemon did not say whether it has taken it: send it again with `--id {}`",
                    event.id
                );
                return Err(CliError::Usage(text));
            }
            Answer::Nobody => {}
        }
    }
    let ledger = open_ledger(config).await?;
    let events = [(event.clone(), rules.to_vec())];
    let received = ledger.receive(&events, clock::now()).await;
    ledger.close().await;
    Ok((received?, By::Ledger))
}

fn print(config: &Config, name: &EventName, report: &Report) {
    let rules: Vec<_> = report.rules.iter().map(|rule| format!("`{rule}`")).collect();
    let rules = rules.join(", ");
    if report.accepted == 0 {
        let text = format!("{name} with this id waits already, for {rules}: nothing was added");
        anstream::println!("{YELLOW}known{RESET}    {}", output::hanging(&text, 9));
        return;
    }
    let by = match report.by {
        By::Daemon => "the daemon has it and acts at once",
        By::Ledger => {
            "it is in the ledger: no daemon answers at its socket, and the next to look works it off"
        }
    };
    let text = format!("{BOLD}{name}{RESET} for {rules}; {by}");
    anstream::println!("{GREEN}accepted{RESET} {}", output::hanging(&text, 9));
    for rule in report.rules.iter().filter_map(|rule| config.rules.get(rule)) {
        if rule.mode == Mode::Observe {
            anstream::println!("{DIM}{}: it only observes, and deletes nothing{RESET}", rule.name);
        }
    }
}
