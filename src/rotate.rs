//! Rotation: sets of backups are listed at their intervals, what that proves is written down, and the keys of deleted
//! records are destroyed once no backup can bring the records back.
//!
//! One task for each set, so that a repository that hangs keeps no other waiting. A set is claimed in the ledger before it
//! is listed: of several daemons one does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backup::{self, CatalogueError};
use crate::clock;
use crate::config::BackupConfig;
use crate::ledger::{BackupSet, Ledger, LedgerError, Noted, Trouble};
use crate::residue::Change;
use crate::run::Runner;
use crate::store::Stores;
use crate::types::Name;
use crate::upkeep::{AGAIN, keep_up};

/// How long after a ledger that failed is asked again.
const LEDGER_AGAIN: Duration = Duration::from_secs(5);
/// A set is looked at as often in any case: the clock may be set, another process may have listed it.
const AT_MOST: Duration = Duration::from_mins(1);
/// How often restored stores are looked for, and keys that nobody needs any more.
const SWEEP_EVERY: Duration = Duration::from_mins(5);

/// The sets of a configuration, by name.
type Sets = BTreeMap<Name, BackupConfig>;

/// Those who list sets. Dropped, they end at once.
#[derive(Debug)]
pub struct Rotation {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Rotation {
    /// Has each set of a configuration listed from now on, and stores looked at.
    pub fn start(runner: &Runner, sets: &Sets) -> Rotation {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for set in sets.values().filter(|set| !set.terms.is_declared) {
            let what = format!("listing {}", set.name);
            let (runner, set) = (runner.clone(), set.clone());
            let attend = move |stop| attend(runner.clone(), set.clone(), stop);
            tasks.spawn(keep_up(what, AGAIN, stop.clone(), attend));
        }
        let (runner, sets) = (runner.clone(), sets.clone());
        let watch = move |stop| watch(runner.clone(), sets.clone(), stop);
        tasks.spawn(keep_up("looking for restores".to_owned(), AGAIN, stop.clone(), watch));
        Rotation { stop, tasks }
    }

    /// Ends them. A listing that is under way is given up: the next one starts from what was known.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Lists a set whenever that is due.
async fn attend(runner: Runner, set: BackupConfig, stop: CancellationToken) {
    let mut said = None;
    loop {
        let listed = tokio::select! {
            listed = list_if_due(&runner, &set) => listed,
            () = stop.cancelled() => return,
        };
        let wait = match listed {
            Ok((noted, wait)) => {
                say(&set.name, noted, &mut said);
                wait
            }
            Err(error) => {
                tracing::error!(backup = %set.name, %error, "the set cannot be listed until the ledger answers again");
                LEDGER_AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Says what became of a listing; of trouble, once until it is something else.
fn say(backup: &Name, noted: Option<Noted>, said: &mut Option<String>) {
    match noted {
        Some(Noted::Doubted(Trouble { words, .. })) => {
            if said.as_ref() != Some(&words) {
                tracing::warn!(%backup, "proves nothing: {words}; see `expunged backups`");
                *said = Some(words);
            }
        }
        Some(Noted::Changed(change)) => {
            if said.take().is_some() {
                tracing::info!(%backup, "it is listed again");
            }
            match change {
                Change::Nothing => tracing::debug!(%backup, "listed, and nothing has changed"),
                Change::Cleared(before) => {
                    tracing::info!(%backup, %before, "it is free of what was deleted before");
                }
                Change::Reopened(before) => {
                    tracing::error!(%backup, %before, "an older backup came to light: what was deleted from then on may be in it");
                }
            }
        }
        Some(Noted::Overtaken) | None => {}
    }
}

/// Lists a set if that is due, and says how long nothing needs to be looked at.
async fn list_if_due(
    runner: &Runner,
    set: &BackupConfig,
) -> Result<(Option<Noted>, Duration), LedgerError> {
    // At a moment in doubt nothing would be proven.
    if runner.clock.look().is_err() {
        return Ok((None, AT_MOST));
    }
    let ledger = &runner.ledger;
    let now = clock::now();
    let sets = ledger.backup_sets().await?;
    let tried = sets.into_iter().find(|known| known.name == set.name).and_then(|set| set.tried_at);
    let due = tried.and_then(|tried| tried.checked_add(set.every).ok());
    let left = due.map_or(SignedDuration::ZERO, |due| due.duration_since(now));
    let is_later = left.is_positive() && tried.is_some_and(|tried| tried <= now);
    if is_later {
        let left = Duration::try_from(left).unwrap_or_default();
        return Ok((None, left.clamp(Duration::from_millis(1), AT_MOST)));
    }
    if !ledger.claim_listing(&set.name, set.every, now).await? {
        return Ok((None, AT_MOST));
    }
    let noted = list(ledger, &runner.stores, set).await?;
    Ok((Some(noted), set.every.min(AT_MOST)))
}

/// Lists a set now, and writes down what that proves.
///
/// # Errors
/// When the ledger does not answer. What is wrong with the set is in what is given.
pub async fn list(
    ledger: &Ledger,
    stores: &Stores,
    set: &BackupConfig,
) -> Result<Noted, LedgerError> {
    match backup::list(set, stores, clock::now()).await {
        Ok(listing) => ledger.note_listing(set, listing, clock::now()).await,
        Err(error) => {
            let trouble = trouble(&error);
            ledger.note_trouble(&set.name, &trouble, clock::now()).await?;
            Ok(Noted::Doubted(trouble))
        }
    }
}

fn trouble(error: &CatalogueError) -> Trouble {
    Trouble { words: error.fault.to_string(), in_log_words: error.in_log_words() }
}

/// Looks for restored stores, and for keys that nobody needs any more.
async fn watch(runner: Runner, sets: Sets, stop: CancellationToken) {
    loop {
        let round = async {
            runner.look_for_restores(clock::now()).await?;
            sweep(&runner.ledger, &sets, clock::now()).await.map(drop)
        };
        let done = tokio::select! {
            done = round => done,
            () = stop.cancelled() => return,
        };
        if let Err(error) = done {
            tracing::error!(%error, "restored stores are not looked for until the ledger answers again");
        }
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Destroys the kept keys of deleted records that no backup can bring back, but for those of frozen stores, where a replay
/// needs them yet; gives of how many records of each store.
///
/// # Errors
/// When the ledger does not answer.
pub async fn sweep(
    ledger: &Ledger,
    sets: &Sets,
    now: Timestamp,
) -> Result<BTreeMap<Name, u64>, LedgerError> {
    let mut destroyed = BTreeMap::new();
    let known = ledger.backup_sets().await?;
    for store in &ledger.tombstoned_stores().await? {
        let Some(before) = clear_until(store, &known, sets, now) else { continue };
        loop {
            let records = ledger.destroy_tombstones(store, before, now).await?;
            if records == 0 {
                break;
            }
            *destroyed.entry(store.clone()).or_default() += records;
            tracing::info!(%store, records, %before, "kept keys are destroyed: no backup can bring their records back");
        }
    }
    Ok(destroyed)
}

/// The moment before which deletions from a store are clear of every set that covers it; all of them are where none
/// does any more. `None` where of one set nothing is known.
fn clear_until(
    store: &Name,
    known: &[BackupSet],
    sets: &Sets,
    now: Timestamp,
) -> Option<Timestamp> {
    let covering = known.iter().filter(|set| set.stores.contains(store));
    let clear = covering.map(|set| {
        let terms = sets.get(&set.name).map(|config| &config.terms);
        set.clear_until(terms, now)
    });
    let clear: BTreeSet<Timestamp> = clear.collect::<Option<_>>()?;
    Some(clear.into_iter().next().unwrap_or(now))
}
