//! `expunged audit prove` and `verify-proof`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use crate::audit::entry::ActionKind;
use crate::audit::proof::Proof;
use crate::audit::record::{RecordProof, ShowError, Shown, show};
use crate::audit::{Entry, Event, Hash};
use crate::keys::{Hand, Keys};
use crate::ledger::audit::AuditFilter;
use crate::ledger::{Ledger, LedgerError};
use crate::types::{Key, KeyValue, Name};

use super::super::output::{self, BOLD, GREEN, RED, RESET};
use super::super::{CliError, Common, Exit, read_ledger};
use super::{log, read_keys, read_text};

/// A key of more columns than this is not searched for in every way that it could be meant.
const MAX_READINGS: usize = 256;

/// Prove that an entry is in the log, or that a record was deleted
///
/// The proof is a text (C2SP tlog-proof) that holds the entry too; it needs only the verifier key to be
/// checked, with `audit verify-proof`. It names the record by its commitment, not by its key.
#[derive(clap::Args, Debug)]
pub(crate) struct ProveArgs {
    /// The entry, as `audit log` numbers it.
    #[arg(value_name = "ENTRY", required_unless_present = "key", conflicts_with_all = ["store", "table", "key"])]
    position: Option<u64>,
    /// The store that the record was in.
    #[arg(long, value_name = "STORE", requires = "key")]
    store: Option<Name>,
    /// The table that the record was in, as the rule names it.
    #[arg(long, value_name = "TABLE", requires = "key")]
    table: Option<String>,
    /// The record's key; several columns with commas between them, in the order of the primary key.
    #[arg(long, value_name = "KEY", requires_all = ["store", "table"])]
    key: Option<String>,
    /// Where to write the proof; it is printed otherwise.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Check a proof, with nothing but the verifier key
///
/// Exit code 0 when it proves what it says, 1 when it does not, 2 when it could not be checked.
#[derive(clap::Args, Debug)]
pub(crate) struct VerifyProofArgs {
    /// The proof; `-` for standard input.
    #[arg(value_name = "FILE")]
    proof: PathBuf,
    /// The verifier key, or a file that holds it; this installation's own by default.
    #[arg(long, value_name = "KEY|FILE")]
    key: Vec<String>,
    /// The entry, where the proof does not hold it; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    entry: Option<PathBuf>,
}

pub(super) async fn main(common: &Common, args: ProveArgs) -> Result<Exit, CliError> {
    let config = common.load()?;
    let ledger = read_ledger(&config).await?;
    let mut record = None;
    let position = match (args.position, &args.store, &args.table, &args.key) {
        (Some(position), ..) => position,
        (None, Some(store), Some(table), Some(key)) => {
            let (position, found) = find(&ledger, store, table, key).await?;
            record = Some(found);
            position
        }
        // clap asks for one of the two.
        _ => {
            return Err(CliError::Usage("name an entry, or a store, a table and a key".to_owned()));
        }
    };
    let proof = ledger.prove(position, record).await?.ok_or_else(|| {
        CliError::Usage(format!("the log has no entry {position}: see `expunged audit log`"))
    })?;
    // What is handed out was checked as its reader will check it.
    let shown = show(&proof, &ledger.keys().verifiers(Hand::Next), None);
    let shown = shown.map_err(|error| CliError::Usage(format!("{error}; verify the log")))?;
    hand_out(common, &args, &proof, &shown)
}

fn hand_out(
    common: &Common,
    args: &ProveArgs,
    proof: &Proof,
    shown: &Shown,
) -> Result<Exit, CliError> {
    let text = proof.to_text();
    if let Some(path) = &args.out {
        let failed = |source| CliError::Io { doing: format!("write {}", path.display()), source };
        std::fs::write(path, &text).map_err(failed)?;
    }
    if common.json {
        output::json(&json!({
            "position": shown.position,
            "entry": shown.entry,
            "commitment": shown.commitment,
            "says": says(shown),
            "proof": text,
        }));
    } else if let Some(path) = &args.out {
        anstream::println!("{GREEN}{BOLD}proven{RESET}  {}", output::hanging(&says(shown), 8));
        println!("        the proof is in {}", path.display());
    } else {
        anstream::eprintln!("{GREEN}{BOLD}proven{RESET}  {}", output::hanging(&says(shown), 8));
        print!("{text}");
    }
    Ok(Exit::Fine)
}

/// The newest batch that took a record.
async fn find(
    ledger: &Ledger,
    store: &Name,
    table: &str,
    key: &str,
) -> Result<(u64, RecordProof), CliError> {
    let taken = ledger.find_record(store, table, &readings(key)).await?;
    if let Some(newest) = taken.into_iter().next() {
        return Ok((newest.position, newest.record));
    }
    Err(CliError::Usage(not_found(ledger, store, table).await?))
}

/// Why no batch is known to have taken a record of a table.
pub(in crate::cli) async fn not_found(
    ledger: &Ledger,
    store: &Name,
    table: &str,
) -> Result<String, LedgerError> {
    let destroyed = AuditFilter {
        kind: Some("commitment_key_destroyed".to_owned()),
        limit: Some(1),
        newest_first: true,
        ..AuditFilter::default()
    };
    let destroyed: Option<(u64, Entry)> = ledger.audit_log(&destroyed).await?.into_iter().next();
    let tables = ledger.tables_of(store).await?;
    Ok(why_not(store, table, &tables, destroyed.map(|(_, entry)| entry.at)))
}

/// Why nothing can be proven of a record.
fn why_not(store: &Name, table: &str, tables: &[String], destroyed: Option<Timestamp>) -> String {
    if !tables.iter().any(|known| known == table) {
        let known = if tables.is_empty() { "none".to_owned() } else { tables.join(", ") };
        return format!(
            "no rule took anything from `{table}` in store `{store}`; tables known there: {known}"
        );
    }
    let mut text = format!("no batch of `{table}` in store `{store}` took a record with this key");
    if let Some(at) = destroyed {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            " since {}; the commitment key was destroyed then, so what was taken before cannot be tied to a \
             record any more, by anybody",
            at.strftime("%Y-%m-%d %H:%M:%S UTC")
        );
    }
    let alike = |known: &&str| *known != table && last_part(known) == last_part(table);
    let alike: Vec<_> = tables.iter().map(String::as_str).filter(alike).collect();
    if !alike.is_empty() {
        let _ = write!(
            text,
            "; a rule has also called a table there {}, which may be the same one: `expunged audit prove --table` looks there",
            alike.join(", ")
        );
    }
    text
}

/// The name of a table without its schema.
fn last_part(table: &str) -> String {
    table.rsplit('.').next().unwrap_or(table).to_lowercase()
}

/// The keys that a text may stand for: people do not write whether `7` is a number or a text.
fn readings(text: &str) -> Vec<Key> {
    let mut keys: Vec<Key> = values(text).into_iter().map(|value| Key(vec![value])).collect();
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.len() > 1 {
        let mut rows: Vec<Vec<KeyValue>> = vec![Vec::new()];
        for part in parts {
            let values = values(part);
            rows = rows
                .iter()
                .flat_map(|row| {
                    values
                        .iter()
                        .map(move |value| [row.as_slice(), std::slice::from_ref(value)].concat())
                })
                .take(MAX_READINGS)
                .collect();
        }
        keys.extend(rows.into_iter().map(Key));
    }
    keys
}

fn values(text: &str) -> Vec<KeyValue> {
    let mut values = Vec::new();
    values.extend(text.parse().ok().map(KeyValue::Int));
    values.extend(text.parse().ok().map(KeyValue::Uuid));
    let bytes = text.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
    values.extend(bytes.map(KeyValue::Bytes));
    values.push(KeyValue::Text(text.to_owned()));
    values
}

pub(super) fn verify(common: &Common, args: &VerifyProofArgs) -> Result<Exit, CliError> {
    let keys = if args.key.is_empty() {
        Keys::open(&common.load()?.keys)?.verifiers(Hand::Next)
    } else {
        read_keys(&args.key)?
    };
    let text = read_text(&args.proof)?;
    let entry = args.entry.as_deref().map(read_entry).transpose()?;
    let proof = Proof::parse(&text)
        .map_err(|error| CliError::Usage(format!("{}: {error}", args.proof.display())))?;
    match show(&proof, &keys, entry.as_deref()) {
        Ok(shown) => {
            print_shown(common, &shown);
            Ok(Exit::Fine)
        }
        Err(error) if error.is_tampering() => {
            if common.json {
                output::json(&json!({ "valid": false, "problem": error.to_string() }));
            } else {
                anstream::println!(
                    "{RED}not valid{RESET}  {}",
                    output::hanging(&error.to_string(), 11)
                );
            }
            Ok(Exit::Failed)
        }
        Err(error @ ShowError::Checkpoint(_)) => Err(CliError::Usage(format!(
            "{error}; after a change of the key it takes the newer one: `expunged audit key` prints them all"
        ))),
        Err(error) => Err(CliError::Usage(error.to_string())),
    }
}

/// An entry is one line; editors like to end it.
fn read_entry(path: &Path) -> Result<String, CliError> {
    Ok(read_text(path)?.trim_end_matches('\n').to_owned())
}

fn print_shown(common: &Common, shown: &Shown) {
    let (origin, size) = (&shown.checkpoint.origin, shown.checkpoint.size);
    if common.json {
        output::json(&json!({
            "valid": true,
            "says": says(shown),
            "position": shown.position,
            "entry": shown.entry,
            "commitment": shown.commitment,
            "origin": origin,
            "size": size,
        }));
        return;
    }
    anstream::println!("{GREEN}{BOLD}valid{RESET}  {}", output::hanging(&says(shown), 7));
    let size = output::number(size);
    println!("       entry {} of {size} in the log signed by {origin}", shown.position);
}

/// What a proof shows, in a sentence.
fn says(shown: &Shown) -> String {
    let Entry { at, event } = &shown.entry;
    let at = at.strftime("%Y-%m-%d %H:%M:%S UTC");
    if let Event::BatchDone { batch, run, rule, store, table, action, records, .. } = event
        && let Some(record) = shown.commitment
    {
        return format!(
            "the record {} of table {table} in store {store} was {} under rule {rule} at {at}, in batch {batch} \
             of {} of run {run}",
            name(record),
            done(*action),
            output::records(*records)
        );
    }
    let rule = event.rule().map(|rule| format!(" of rule {rule}")).unwrap_or_default();
    format!("{}{rule} at {at}: {}", event.kind(), log::describe(event))
}

fn done(action: ActionKind) -> &'static str {
    match action {
        ActionKind::Delete => "deleted",
        ActionKind::Anonymize => "anonymized",
    }
}

/// A record is named by its commitment; the first half of it is enough to tell records apart.
fn name(commitment: Hash) -> String {
    commitment.to_string().chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_in_every_way_that_it_may_be_meant() {
        assert_eq!(values("7"), [KeyValue::Int(7), KeyValue::Text("7".into())]);
        assert_eq!(values("ann"), [KeyValue::Text("ann".into())]);
        assert_eq!(
            values("0x0aff"),
            [KeyValue::Bytes(vec![10, 255]), KeyValue::Text("0x0aff".into())]
        );
        let uuid = "0190163d-8694-739b-aea5-966c26f8ad91";
        assert!(values(uuid).contains(&KeyValue::Uuid(uuid.parse().unwrap())));
        let keys = readings("7, ann");
        assert!(keys.contains(&Key(vec![KeyValue::Text("7, ann".into())])));
        assert!(keys.contains(&Key(vec![KeyValue::Int(7), KeyValue::Text("ann".into())])));
        assert!(readings(&"1,".repeat(40)).len() <= MAX_READINGS + 1);
    }

    #[test]
    fn what_cannot_be_proven_is_said_plainly() {
        let store = "app".parse().unwrap();
        let tables = ["users".to_owned()];
        assert!(why_not(&store, "user", &tables, None).contains("tables known there: users"));
        let destroyed = why_not(&store, "users", &tables, Some(Timestamp::UNIX_EPOCH));
        assert!(destroyed.contains("destroyed then") && destroyed.contains("1970-01-01"));
        // Spelled in two ways over time, and with a key that is gone.
        let tables = ["public.users", "users", "app.user"].map(str::to_owned);
        let both = why_not(&store, "users", &tables, Some(Timestamp::UNIX_EPOCH));
        assert!(
            both.contains("destroyed then") && both.contains("table there public.users,"),
            "{both}"
        );
        assert!(!why_not(&store, "app.user", &tables, None).contains("may be the same"));
    }
}
