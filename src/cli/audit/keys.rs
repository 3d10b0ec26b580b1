//! `expunged audit key`, `rotate-key` and `destroy-commitment-key`.

use std::sync::Arc;

use secrecy::ExposeSecret;
use serde_json::json;

use crate::clock;
use crate::config::Config;
use crate::keys::{Hand, Keys};
use crate::ledger::Ledger;

use super::super::output::{self, BOLD, GREEN, RESET};
use super::super::{CliError, Common, Exit, open_ledger};

/// What must be said to destroy the commitment key.
const WORDS: &str = "forget-every-record";

/// Destroy the key that ties entries to records, for good
///
/// The log stays as it is and still verifies, but nothing in it can be tied to a person any more, by
/// anybody: `audit prove --key` cannot be done for what was taken before. New batches get a new key.
/// Copies of the keys in backups are not reached: destroy them too. The daemon must be stopped.
#[derive(clap::Args, Debug)]
pub(crate) struct DestroyArgs {
    /// Confirms it; nothing is done without.
    #[arg(long, value_name = "forget-every-record")]
    yes: Option<String>,
}

pub(super) fn print(common: &Common) -> Result<Exit, CliError> {
    let keys = Keys::open(&common.load()?.keys)?;
    let verifiers: Vec<_> = keys.verifiers(Hand::Present).iter().map(ToString::to_string).collect();
    if common.json {
        output::json(&json!({ "origin": keys.origin(), "keys": verifiers }));
    } else {
        for key in verifiers {
            println!("{key}");
        }
    }
    Ok(Exit::Fine)
}

pub(super) async fn rotate(common: &Common) -> Result<Exit, CliError> {
    let config = common.load()?;
    // Whatever an earlier attempt left is finished here.
    let before = open_ledger(&config).await?;
    let _no_daemon = before.lock_out_daemons().await?;
    Keys::prepare_rotation(&config.keys)?;
    let ledger = reopen(&config).await?;
    let position = ledger.rotate_key(clock::now()).await?;
    Keys::finish_rotation(&config.keys)?;
    let key = Keys::open(&config.keys)?.verifier().to_string();
    if common.json {
        output::json(&json!({ "position": position, "key": key }));
    } else {
        anstream::println!(
            "{GREEN}{BOLD}changed{RESET}  the log goes on under a new key (entry {position}):"
        );
        println!("         {key}");
        println!(
            "         Give it to those who verify. Where nodes share the ledger, copy the folder of keys to each."
        );
    }
    Ok(Exit::Fine)
}

pub(super) async fn destroy(common: &Common, args: &DestroyArgs) -> Result<Exit, CliError> {
    if args.yes.as_deref() != Some(WORDS) {
        return Err(CliError::Usage(format!(
            "nothing was done: this cannot be undone, and no entry could be tied to a record any more; \
             if that is meant, add `--yes {WORDS}`"
        )));
    }
    let config = common.load()?;
    let ledger = open_ledger(&config).await?;
    let _no_daemon = ledger.lock_out_daemons().await?;
    // Destroyed first, recorded then: the log must not say what is not so. Killed in between, the next
    // command that writes records it.
    Keys::forget(&config.keys)?;
    ledger.record_forgetting(clock::now()).await?;
    Keys::finish_forgetting(&config.keys)?;
    if common.json {
        output::json(&json!({ "destroyed": true }));
    } else {
        anstream::println!(
            "{GREEN}{BOLD}destroyed{RESET}  nothing in the log can be tied to a record any more"
        );
        println!(
            "           Overwriting reaches the file, not its copies: destroy backups of the folder"
        );
        println!(
            "           of keys too, and on flash or copy-on-write storage trust only encryption below."
        );
    }
    Ok(Exit::Fine)
}

/// Finishes changes of the keys that somebody was killed in the middle of.
pub(crate) async fn settle(config: &Config, ledger: Ledger) -> Result<Ledger, CliError> {
    let mut ledger = ledger;
    // A head that is not good is for `verify` to tell; nothing is built on it here.
    if ledger.keys().next_verifier().is_some() && ledger.is_rotated().await.unwrap_or(false) {
        Keys::finish_rotation(&config.keys)?;
        ledger = reopen(config).await?;
    }
    if ledger.keys().is_forgetting() {
        // Killed between the next two lines, it is recorded once more: better than not at all.
        ledger.record_forgetting(clock::now()).await?;
        Keys::finish_forgetting(&config.keys)?;
        ledger = reopen(config).await?;
    }
    Ok(ledger)
}

async fn reopen(config: &Config) -> Result<Ledger, CliError> {
    let keys = Arc::new(Keys::open(&config.keys)?);
    Ok(Ledger::open(config.ledger.url.read()?.expose_secret(), keys).await?)
}
