//! Legal holds meet runs: what a run has to heed, and the acts that wait until no run heeds less.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::Runner;
use crate::breaker::ratio;
use crate::clock::{self, Stopwatch};
use crate::hold::{BROAD_SHARE, Hold, Holds, Place, Scope, Terms};
use crate::ledger::{Ground, LedgerError, OlderIntent};
use crate::rule::{HoldPolicy, Rule};
use crate::store::StoreError;
use crate::store::sql::Access;
use crate::types::Name;

/// How long a count of what a hold covers may take; then it is not known.
const COUNT_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether older intents are settled.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// A batch takes no longer where all is well; after that its process may be dead.
const PATIENCE: Duration = Duration::from_millis(500);

/// The holds as they were read, and the epoch of that moment.
#[derive(Clone, Default, Debug)]
pub struct Held {
    /// Every intent that rests on these holds names it.
    pub epoch: u64,
    /// The holds.
    pub holds: Holds,
}

/// What came of placing or extending a hold.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The hold.
    pub hold: Hold,
    /// Batches that were intended before, and whose outcome could not be found out in time. All others
    /// keep what the hold covers.
    pub unresolved: Vec<OlderIntent>,
    /// Whether rows were being removed from a recipient's table, under the holds of before, when the time was over.
    pub removals_go_on: bool,
    /// Rules that are others, new or gone since a daemon or a command loaded the configuration: whoever
    /// works by those must be told to load it again.
    pub not_loaded: Vec<Name>,
}

/// What a hold covers of what a rule would take.
#[derive(Clone, Debug, Serialize)]
pub struct Coverage {
    /// The rule.
    pub rule: Name,
    /// How far.
    #[serde(flatten)]
    pub extent: Extent,
}

/// How far a hold covers a rule's table.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "extent", rename_all = "snake_case")]
pub enum Extent {
    /// So many of its records, due or not.
    Records {
        /// Records that are held.
        records: u64,
        /// Records that the table has.
        of: u64,
    },
    /// It covers what there is, but that could not be counted.
    Unknown {
        /// Why.
        why: String,
    },
    /// No rule says in which column the table names persons.
    NoSubject,
    /// The rule heeds no holds.
    NotApplicable {
        /// Why not.
        reason: String,
    },
}

/// Why a hold was not placed.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It would cover more than anybody asks for without a word why.
    #[error("this hold is too broad: {why}; narrow it down, or say why with `--broad REASON`")]
    TooBroad {
        /// What it would cover.
        why: String,
    },
    /// The store does not know what it speaks of.
    #[error("this hold was not placed, because it would keep nothing: {0}")]
    Misunderstood(StoreError),
    /// Rules could not heed it.
    #[error("this hold was not placed: {0}")]
    NamesItsTable(StoreError),
}

impl Runner {
    /// What a run has to heed: every hold whose end is not on record, also where its time seems to be
    /// over, because the clock that says so may be wrong.
    ///
    /// # Errors
    /// When the ledger does not answer, or a hold cannot be read: then nothing may be taken.
    pub async fn held(&self) -> Result<Held, LedgerError> {
        let (epoch, holds) = self.ledger.held().await?;
        Ok(Held { epoch, holds: Holds::new(&self.rules, holds) })
    }

    /// Ends the holds whose time is over, on record, and gives what is still to be heeded. For runs that
    /// act, once the clock has been held against the others.
    ///
    /// # Errors
    /// As for [`Runner::held`].
    pub(super) async fn let_expire(&self, held: Held, now: Timestamp) -> Result<Held, LedgerError> {
        match self.ledger.expire_holds(now).await? {
            0 => Ok(held),
            _ => self.held().await,
        }
    }

    /// The holds in force at `now`: what there is to look for, and not what may be taken.
    ///
    /// # Errors
    /// As for [`Runner::held`].
    pub async fn in_force(&self, now: Timestamp) -> Result<Holds, LedgerError> {
        let (_, mut holds) = self.ledger.held().await?;
        holds.retain(|hold| hold.is_in_force(now));
        Ok(Holds::new(&self.rules, holds))
    }

    /// Places a hold, and returns when no batch is under way any more that could take what it covers,
    /// or `within` is over. From the moment at which it is written, no new batch takes any of it.
    ///
    /// # Errors
    /// When it is too broad without a reason, when the store does not understand its predicate, or when
    /// the ledger does not answer. A store that is down is no error.
    pub async fn place(
        &self,
        terms: Terms,
        until: Timestamp,
        by: &str,
        now: Timestamp,
        within: Duration,
    ) -> Result<InForce, HoldError> {
        let mut hold = Hold { id: clock::new_id(), terms, placed_at: now, until, ended_at: None };
        hold.terms.note_columns(&self.rules);
        self.refuse_too_broad(&hold).await?;
        let epoch = self.ledger.place_hold(&hold, by).await?;
        let watch = Stopwatch::start();
        let unresolved = self.settle_older(epoch, &hold, now, within).await?;
        let removals_go_on = self.await_removals(within.saturating_sub(watch.elapsed())).await?;
        let not_loaded = self.not_loaded().await?;
        Ok(InForce { hold, unresolved, removals_go_on, not_loaded })
    }

    /// Extends a hold, and returns as [`Runner::place`] does: its time may have been over.
    ///
    /// # Errors
    /// When it was released, or the ledger does not answer.
    pub async fn extend(
        &self,
        hold: &Hold,
        until: Timestamp,
        ground: Ground,
        by: &str,
        now: Timestamp,
        within: Duration,
    ) -> Result<InForce, HoldError> {
        let mut hold = Hold { until, ended_at: None, ..hold.clone() };
        hold.terms.note_columns(&self.rules);
        let epoch = self.ledger.extend_hold(&hold, ground, by, now).await?;
        let watch = Stopwatch::start();
        let unresolved = self.settle_older(epoch, &hold, now, within).await?;
        let removals_go_on = self.await_removals(within.saturating_sub(watch.elapsed())).await?;
        let not_loaded = self.not_loaded().await?;
        Ok(InForce { hold, unresolved, removals_go_on, not_loaded })
    }

    /// Rules that differ from those that were loaded last; none where nothing was ever loaded.
    async fn not_loaded(&self) -> Result<Vec<Name>, LedgerError> {
        let loaded = self.ledger.rule_states().await?;
        if loaded.is_empty() {
            return Ok(Vec::new());
        }
        let differs = |(name, rule): &(&Name, &Rule)| {
            loaded.get(*name).is_none_or(|state| state.digest != rule.digest())
        };
        let changed = self.rules.iter().filter(differs).map(|(name, _)| name);
        let gone = loaded.keys().filter(|name| !self.rules.contains_key(*name));
        Ok(changed.chain(gone).cloned().collect())
    }

    /// Waits for the batches that older epochs let through. One whose process is dead never ends by
    /// itself: the store is asked what became of it.
    async fn settle_older(
        &self,
        epoch: u64,
        hold: &Hold,
        now: Timestamp,
        within: Duration,
    ) -> Result<Vec<OlderIntent>, LedgerError> {
        let watch = Stopwatch::start();
        let mut asked_at = Duration::ZERO;
        loop {
            let mut open = self.ledger.older_intents(epoch).await?;
            open.retain(|intent| self.may_take_from(intent, hold.terms.scope.store()));
            let left = within.saturating_sub(watch.elapsed());
            if open.is_empty() || left.is_zero() {
                return Ok(open);
            }
            if watch.elapsed() >= asked_at + PATIENCE {
                // Does nothing where the rule's lock is held: then the process lives, and settles it.
                tokio::time::timeout(left, self.recover_each(&open, now)).await.ok();
                asked_at = watch.elapsed();
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits for whoever removes rows from a recipient's table under holds that were read before, and says whether
    /// somebody still does.
    async fn await_removals(&self, within: Duration) -> Result<bool, LedgerError> {
        let watch = Stopwatch::start();
        loop {
            let goes_on = self.ledger.removals_go_on().await?;
            if !goes_on || watch.elapsed() >= within {
                return Ok(goes_on);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether a batch may take something from a store, of its own or along with its rows; of a rule that
    /// is gone, nobody knows what belonged to its rows.
    fn may_take_from(&self, intent: &OlderIntent, store: Option<&Name>) -> bool {
        let Some(store) = store else { return true };
        let attached = self.rules.get(&intent.rule).map(Rule::attachments);
        *store == intent.store
            || attached.is_none_or(|all| all.iter().any(|attachment| attachment.store == *store))
    }

    async fn recover_each(&self, open: &[OlderIntent], now: Timestamp) {
        let rules: BTreeSet<_> = open.iter().map(|intent| &intent.rule).collect();
        for rule in rules.into_iter().filter_map(|name| self.rules.get(name)) {
            if let Err(error) = self.recover(rule, now).await {
                tracing::warn!(rule = %rule.name, %error, "an interrupted batch cannot be resolved");
            }
        }
    }

    /// What a hold covers, rule by rule; rules that it has nothing to do with are left out.
    pub async fn coverage(&self, hold: &Hold) -> Vec<Coverage> {
        let holds = Holds::new(&self.rules, vec![hold.clone()]);
        let mut all = Vec::new();
        for rule in self.rules.values() {
            let store = hold.terms.scope.store();
            if store.is_some_and(|store| *store != rule.store) {
                continue;
            }
            if let Some(extent) = self.extent(hold, &holds, rule).await {
                all.push(Coverage { rule: rule.name.clone(), extent });
            }
        }
        all
    }

    async fn extent(&self, hold: &Hold, holds: &Holds, rule: &Rule) -> Option<Extent> {
        let names = [(rule.table.schema.clone(), rule.table.table.clone())];
        let place = Place { store: &rule.store, names: &names };
        let claims = !holds.claims(place, Some(&rule.name)).is_empty();
        match (&rule.holds, &hold.terms.scope) {
            (HoldPolicy::NotApplicable { reason }, _) if claims => {
                return Some(Extent::NotApplicable { reason: reason.clone() });
            }
            (HoldPolicy::Apply, Scope::Subjects { table, .. }) if !claims => {
                let meant = table.as_ref().is_none_or(|table| place.may_be(table));
                return meant.then_some(Extent::NoSubject);
            }
            _ => {}
        }
        match self.count(rule, holds).await {
            // Rows that point at its records may be held although none of its own is.
            Ok((records, of)) if claims || records > 0 => Some(Extent::Records { records, of }),
            Ok(_) => None,
            Err(why) => claims.then(|| Extent::Unknown { why: why.to_string() }),
        }
    }

    async fn count(&self, rule: &Rule, holds: &Holds) -> Result<(u64, u64), CountError> {
        let store = self.stores.get(&rule.store, Access::ReadOnly)?;
        let counted = tokio::time::timeout(COUNT_WITHIN, store.count_held(rule, holds)).await;
        Ok(counted.map_err(|_| CountError::TooLong)??)
    }

    /// Refuses what covers a store, a table, a rule, or more than a tenth of a table as far as that can
    /// be counted, unless a reason is given; and what the store does not understand.
    async fn refuse_too_broad(&self, hold: &Hold) -> Result<(), HoldError> {
        let terms = &hold.terms;
        self.try_predicate(&terms.scope).await?;
        let structural = terms.is_broad().map(str::to_owned);
        let why = match (&terms.scope, structural) {
            (_, Some(why)) => Some(why),
            (Scope::Table(_) | Scope::Rule { .. }, None) => self.measure(hold).await?,
            _ => None,
        };
        match why {
            Some(why) if terms.broad.is_none() => Err(HoldError::TooBroad { why }),
            _ => Ok(()),
        }
    }

    /// Refuses a predicate that the store does not understand; not, where the store cannot be asked.
    async fn try_predicate(&self, scope: &Scope) -> Result<(), HoldError> {
        let (Scope::Table(records) | Scope::Rule { records, .. }) = scope else { return Ok(()) };
        let Ok(store) = self.stores.get(&records.store, Access::ReadOnly) else { return Ok(()) };
        match tokio::time::timeout(COUNT_WITHIN, store.try_held(records)).await {
            Ok(Err(error @ StoreError::NamesItsTable { .. })) => {
                Err(HoldError::NamesItsTable(error))
            }
            Ok(Err(error)) if error.is_misunderstanding() => Err(HoldError::Misunderstood(error)),
            _ => Ok(()),
        }
    }

    /// Whether a hold on a part of a table covers too much of it; not, where it cannot be counted.
    async fn measure(&self, hold: &Hold) -> Result<Option<String>, HoldError> {
        let (Scope::Table(records) | Scope::Rule { records, .. }) = &hold.terms.scope else {
            return Ok(None);
        };
        let holds = Holds::new(&self.rules, vec![hold.clone()]);
        let names = [(records.table.schema.clone(), records.table.table.clone())];
        let place = Place { store: &records.store, names: &names };
        // Dates count by a rule's starting point, so by a rule of the table where there is one.
        let rule = self.rules.values().find(|rule| {
            rule.store == records.store && rule.holds.applies() && place.may_be(&rule.table)
        });
        let counted = match rule {
            Some(rule) => self.count(rule, &holds).await,
            None => match self.stores.get(&records.store, Access::ReadOnly) {
                Ok(store) => {
                    let counting = store.count_held_records(records, &holds);
                    match tokio::time::timeout(COUNT_WITHIN, counting).await {
                        Ok(counted) => counted.map_err(CountError::Store),
                        Err(_) => Err(CountError::TooLong),
                    }
                }
                Err(error) => Err(error.into()),
            },
        };
        match counted {
            Ok((records_held, of)) if ratio(records_held, of) > BROAD_SHARE => Ok(Some(format!(
                "it covers {records_held} of the {of} records of {}, more than {:.0} %",
                records.table,
                BROAD_SHARE * 100.0
            ))),
            Err(CountError::Store(error)) if error.is_misunderstanding() => {
                Err(HoldError::Misunderstood(error))
            }
            _ => Ok(None),
        }
    }

    /// The hold of an id.
    ///
    /// # Errors
    /// When there is none, or the ledger does not answer.
    pub async fn hold(&self, id: Uuid) -> Result<Hold, LedgerError> {
        let all = self.ledger.all_holds().await?;
        all.into_iter().find(|hold| hold.id == id).ok_or(LedgerError::NoHold(id))
    }
}

/// Why it was not counted.
#[derive(Debug, thiserror::Error)]
enum CountError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("counting took too long")]
    TooLong,
}
