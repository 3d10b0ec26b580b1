//! Legal holds in the ledger, and where they meet intents.
//!
//! Each time that more is held, the *hold epoch* is raised, in the transaction that writes the hold. An
//! intent names the epoch at which its exclusions were read and is refused when that is not the
//! current one any more. Both lock the epoch's row (on SQLite, the one writer there can be), so an
//! intent is either refused or seen by whoever placed the hold, who then waits for its outcome.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::error::Doing;
use super::row::{Columns, to_integer};
use super::steps::standing;
use super::{
    Intended, Ledger, LedgerError, Run, Transaction, audit, commit, intent, restores, to_text,
};
use crate::audit::entry::HoldScope;
use crate::audit::{Entry, Event};
use crate::clock;
use crate::hold::{Hold, Scope};
use crate::keys::Keys;
use crate::types::Name;

const READING: &str = "reading legal holds";
const WRITING: &str = "writing a legal hold";

/// What a person does with a hold, and on what ground.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Ground {
    /// The order's reference.
    #[serde(default)]
    pub reference: Option<String>,
    /// Why, in words.
    #[serde(default)]
    pub reason: Option<String>,
}

/// One act upon a hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HoldAct {
    /// `place`, `extend` or `release`.
    pub act: String,
    /// When.
    pub at: Timestamp,
    /// The account that did it.
    pub by: String,
    /// Until when the hold lasts since then.
    pub until: Option<Timestamp>,
    /// On what ground.
    pub ground: Ground,
}

/// An intended batch that an older epoch let through: what it takes may be held by now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct OlderIntent {
    /// The batch.
    pub batch: Uuid,
    /// Its rule.
    pub rule: Name,
    /// Its store.
    pub store: Name,
}

/// The right to intend one batch while no hold can be placed. Others who place one wait, and on SQLite
/// all who write to the ledger do: to be had for one batch, and given up soon. Dropped, it is given up.
pub struct Gate {
    tx: Transaction<'static>,
    epoch: u64,
}

impl Ledger {
    /// Places a hold and gives the epoch from which it is in force. Once no intent of an older epoch is
    /// open ([`Ledger::older_intents`]), no covered record is deleted any more.
    ///
    /// # Errors
    /// When the database does not answer; then there is no hold.
    pub async fn place_hold(&self, hold: &Hold, by: &str) -> Result<u64, LedgerError> {
        let mut tx = self.begin().await?;
        let epoch = raise(&mut tx).await?;
        let (scope, terms) = (&hold.terms.scope, &hold.terms);
        sqlx::query(
            "INSERT INTO hold (id, scope, store, rule, table_name, broad, sealed, epoch, placed_at, until) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(hold.id.to_string())
        .bind(scope.kind())
        .bind(scope.store().map(Name::as_str))
        .bind(scope.rule().map(Name::as_str))
        .bind(scope.table().map(ToString::to_string))
        .bind(i64::from(terms.broad.is_some()))
        .bind(seal(&self.keys, terms, "hold", hold.id))
        .bind(to_integer(epoch))
        .bind(to_text(hold.placed_at))
        .bind(to_text(hold.until))
        .execute(&mut *tx)
        .await
        .doing(WRITING)?;
        let ground =
            Ground { reference: Some(terms.order.reference.clone()), reason: terms.broad.clone() };
        let act = HoldAct {
            act: "place".to_owned(),
            at: hold.placed_at,
            by: by.to_owned(),
            until: Some(hold.until),
            ground,
        };
        insert_act(&mut tx, &self.keys, hold.id, &act).await?;
        let event = Event::HoldPlaced {
            hold: hold.id,
            scope: match scope {
                Scope::Subjects { .. } => HoldScope::Subjects,
                Scope::Rule { .. } => HoldScope::Rule,
                Scope::Table(_) => HoldScope::Table,
                Scope::Store(_) => HoldScope::Store,
            },
            store: scope.store().cloned(),
            rule: scope.rule().cloned(),
            table: scope.table().map(ToString::to_string),
            until: hold.until,
            broad: terms.broad.is_some(),
        };
        audit::append(&mut tx, &self.keys, &Entry { at: hold.placed_at, event }).await?;
        commit(tx).await?;
        Ok(epoch)
    }

    /// Makes a hold last until the moment that it says now, also one whose time was over, with the terms
    /// that it has now, and gives the epoch from which it is in force again.
    ///
    /// # Errors
    /// When there is no such hold, it was released, or the database does not answer.
    pub async fn extend_hold(
        &self,
        hold: &Hold,
        ground: Ground,
        by: &str,
        now: Timestamp,
    ) -> Result<u64, LedgerError> {
        let Hold { id, until, .. } = *hold;
        let mut tx = self.begin().await?;
        let epoch = raise(&mut tx).await?;
        let extended = sqlx::query(
            "UPDATE hold SET until = $1, epoch = $2, sealed = $3, ended_at = NULL \
             WHERE id = $4 AND NOT EXISTS (SELECT 1 FROM hold_act WHERE hold_id = hold.id AND act = 'release')",
        )
        .bind(to_text(until))
        .bind(to_integer(epoch))
        .bind(seal(&self.keys, &hold.terms, "hold", id))
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .doing(WRITING)?;
        if extended.rows_affected() != 1 {
            return Err(LedgerError::NoHold(id));
        }
        let (act, by) = ("extend".to_owned(), by.to_owned());
        let act = HoldAct { act, at: now, by, until: Some(until), ground };
        insert_act(&mut tx, &self.keys, id, &act).await?;
        let event = Event::HoldExtended { hold: id, until };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await?;
        Ok(epoch)
    }

    /// Ends a hold before its time.
    ///
    /// # Errors
    /// When there is none of that id in force, or the database does not answer.
    pub async fn release_hold(
        &self,
        id: Uuid,
        ground: Ground,
        by: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        if !end(&mut tx, id, now).await? {
            return Err(LedgerError::NoHold(id));
        }
        let (act, by) = ("release".to_owned(), by.to_owned());
        let act = HoldAct { act, at: now, by, until: None, ground };
        insert_act(&mut tx, &self.keys, id, &act).await?;
        let event = Event::HoldReleased { hold: id };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await
    }

    /// Ends the holds whose time is over, each once and with its audit entry, and gives their number.
    /// Until then they keep what they cover, so that no record goes before the log says why it could.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn expire_holds(&self, now: Timestamp) -> Result<usize, LedgerError> {
        let over = sqlx::query("SELECT id FROM hold WHERE ended_at IS NULL AND until <= $1");
        let over = over.bind(to_text(now)).fetch_all(&self.pool).await.doing(READING)?;
        if over.is_empty() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        // In case it was extended in between, the row decides.
        let mut ended = 0;
        for row in &over {
            let id = row.id("id")?;
            let expired = sqlx::query(
                "UPDATE hold SET ended_at = until WHERE id = $1 AND ended_at IS NULL AND until <= $2",
            )
            .bind(id.to_string())
            .bind(to_text(now))
            .execute(&mut *tx)
            .await
            .doing(WRITING)?;
            if expired.rows_affected() == 1 {
                let event = Event::HoldExpired { hold: id };
                audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
                ended += 1;
            }
        }
        commit(tx).await?;
        Ok(ended)
    }

    /// The holds that have not ended, and the epoch at which they were read: one moment's view.
    ///
    /// # Errors
    /// When the database does not answer, or a hold cannot be opened with this installation's keys.
    pub async fn held(&self) -> Result<(u64, Vec<Hold>), LedgerError> {
        let mut tx = self.snapshot().await?;
        let epoch = epoch(&mut tx, Lock::None).await?;
        let holds = holds_since(&mut tx, &self.keys, 0).await?;
        Ok((epoch, holds))
    }

    /// All holds, those that have ended too, the newest first.
    ///
    /// # Errors
    /// As for [`Ledger::held`].
    pub async fn all_holds(&self) -> Result<Vec<Hold>, LedgerError> {
        let rows = sqlx::query(
            "SELECT id, sealed, placed_at, until, ended_at FROM hold ORDER BY placed_at DESC, id DESC",
        );
        let rows = rows.fetch_all(&self.pool).await.doing(READING)?;
        rows.iter().map(|row| read(&self.keys, row)).collect()
    }

    /// What was done with a hold, in order.
    ///
    /// # Errors
    /// As for [`Ledger::held`].
    pub async fn hold_acts(&self, id: Uuid) -> Result<Vec<HoldAct>, LedgerError> {
        let rows = sqlx::query(
            "SELECT id, act, at, by_whom, until, sealed FROM hold_act WHERE hold_id = $1 ORDER BY at, id",
        );
        let rows = rows.bind(id.to_string()).fetch_all(&self.pool).await.doing(READING)?;
        rows.iter()
            .map(|row| {
                Ok(HoldAct {
                    act: row.text("act")?,
                    at: row.moment("at")?,
                    by: row.text("by_whom")?,
                    until: row.optional_moment("until")?,
                    ground: unseal(&self.keys, &row.bytes("sealed")?, "hold act", row.id("id")?)?,
                })
            })
            .collect()
    }

    /// Batches that are intended and were let through by an older epoch.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn older_intents(&self, epoch: u64) -> Result<Vec<OlderIntent>, LedgerError> {
        let rows = sqlx::query(
            "SELECT batch.id, run.rule, run.store FROM batch JOIN run ON run.id = batch.run_id \
             WHERE batch.state = 'intended' AND batch.hold_epoch < $1 ORDER BY run.rule, batch.seq",
        )
        .bind(to_integer(epoch))
        .fetch_all(&self.pool)
        .await
        .doing("looking for intended batches")?;
        let read = |row: &AnyRow| {
            Ok(OlderIntent {
                batch: row.id("id")?,
                rule: row.name("rule")?,
                store: row.name("store")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Keeps holds from being placed until one batch is intended, so that a run gets on however fast
    /// they come.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn gate(&self) -> Result<Gate, LedgerError> {
        let mut tx = self.begin().await?;
        let epoch = epoch(&mut tx, Lock::Share).await?;
        Ok(Gate { tx, epoch })
    }
}

impl Gate {
    /// The epoch now, and until the gate is given up.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Of some stores one that is frozen, where one is: freezing a store raises the epoch as holds do.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn frozen_of(&mut self, stores: &[&Name]) -> Result<Option<Name>, LedgerError> {
        restores::frozen_of(&mut self.tx, stores).await
    }

    /// The holds that came into force after an epoch and have not ended.
    ///
    /// # Errors
    /// As for [`Ledger::held`].
    pub async fn holds_since(
        &mut self,
        ledger: &Ledger,
        epoch: u64,
    ) -> Result<Vec<Hold>, LedgerError> {
        holds_since(&mut self.tx, &ledger.keys, epoch).await
    }

    /// Writes the intent of a batch, and gives the gate up.
    ///
    /// # Errors
    /// As for [`Ledger::intend`].
    pub async fn intend(
        mut self,
        ledger: &Ledger,
        run: &Run,
        sequence: u64,
        intended: &Intended,
        transaction_id: Option<&str>,
        now: Timestamp,
    ) -> Result<Uuid, LedgerError> {
        let (batch, sealed) = intent::seal(&ledger.keys, run, intended);
        let (records, epoch) = (intended.keys.len() as u64, self.epoch);
        let transaction_id = transaction_id.map(str::to_owned);
        let intent =
            intent::Intent { batch, sequence, records, sealed, transaction_id, epoch, now };
        let at = standing(&mut self.tx, run.id).await?;
        intent::insert_intent(&mut self.tx, run, at.state, &intent).await?;
        commit(self.tx).await?;
        Ok(batch)
    }
}

/// Whether reading the epoch keeps others from raising it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    None,
    Share,
}

/// The current epoch. With a lock it stays so until the transaction ends, and one that is just being
/// raised is waited for; on SQLite a write transaction excludes other writers by itself.
pub(super) async fn epoch(tx: &mut Transaction<'_>, lock: Lock) -> Result<u64, LedgerError> {
    let locked = lock == Lock::Share && tx.backend_name() == "PostgreSQL";
    let query = if locked {
        "SELECT epoch FROM hold_epoch WHERE id = 1 FOR SHARE"
    } else {
        "SELECT epoch FROM hold_epoch WHERE id = 1"
    };
    let row = sqlx::query(query).fetch_optional(&mut **tx).await.doing(READING)?;
    row.ok_or(LedgerError::Damaged { column: "epoch", found: "no row" })?.count("epoch")
}

/// Raises the epoch and locks it. Intents that were being written are waited for.
pub(super) async fn raise(tx: &mut Transaction<'_>) -> Result<u64, LedgerError> {
    let raised = sqlx::query("UPDATE hold_epoch SET epoch = epoch + 1 WHERE id = 1");
    raised.execute(&mut **tx).await.doing(WRITING)?;
    epoch(tx, Lock::None).await
}

async fn end(tx: &mut Transaction<'_>, id: Uuid, now: Timestamp) -> Result<bool, LedgerError> {
    let ended = sqlx::query("UPDATE hold SET ended_at = $1 WHERE id = $2 AND ended_at IS NULL")
        .bind(to_text(now))
        .bind(id.to_string())
        .execute(&mut **tx)
        .await
        .doing(WRITING)?;
    Ok(ended.rows_affected() == 1)
}

async fn holds_since(
    tx: &mut Transaction<'_>,
    keys: &Keys,
    epoch: u64,
) -> Result<Vec<Hold>, LedgerError> {
    let rows = sqlx::query(
        "SELECT id, sealed, placed_at, until, ended_at FROM hold \
         WHERE ended_at IS NULL AND epoch > $1 ORDER BY epoch",
    );
    let rows = rows.bind(to_integer(epoch)).fetch_all(&mut **tx).await.doing(READING)?;
    rows.iter().map(|row| read(keys, row)).collect()
}

fn read(keys: &Keys, row: &AnyRow) -> Result<Hold, LedgerError> {
    let id = row.id("id")?;
    Ok(Hold {
        id,
        terms: unseal(keys, &row.bytes("sealed")?, "hold", id)?,
        placed_at: row.moment("placed_at")?,
        until: row.moment("until")?,
        ended_at: row.optional_moment("ended_at")?,
    })
}

async fn insert_act(
    tx: &mut Transaction<'_>,
    keys: &Keys,
    hold: Uuid,
    act: &HoldAct,
) -> Result<(), LedgerError> {
    let id = clock::new_id();
    sqlx::query(
        "INSERT INTO hold_act (id, hold_id, act, at, by_whom, until, sealed) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id.to_string())
    .bind(hold.to_string())
    .bind(&act.act)
    .bind(to_text(act.at))
    .bind(&act.by)
    .bind(act.until.map(to_text))
    .bind(seal(keys, &act.ground, "hold act", id))
    .execute(&mut **tx)
    .await
    .doing(WRITING)?;
    Ok(())
}

/// Seals a value and binds it to its row.
fn seal(keys: &Keys, value: &impl Serialize, table: &'static str, id: Uuid) -> Vec<u8> {
    // Plain data with string keys: serializing it cannot fail.
    let plain = serde_json::to_vec(value).unwrap_or_default();
    keys.seal(&plain, format!("{table} {id}").as_bytes())
}

fn unseal<T: for<'de> Deserialize<'de>>(
    keys: &Keys,
    sealed: &[u8],
    table: &'static str,
    id: Uuid,
) -> Result<T, LedgerError> {
    let damaged = LedgerError::Damaged { column: "sealed", found: "no legal hold that opens" };
    let plain = keys.unseal(sealed, format!("{table} {id}").as_bytes());
    plain.ok().and_then(|plain| serde_json::from_slice(&plain).ok()).ok_or(damaged)
}
