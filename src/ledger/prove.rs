//! Proofs from the ledger: that an entry is in the log, that a record was in a batch.

use sqlx::any::AnyRow;
use uuid::Uuid;

use super::error::{Doing, HeadError};
use super::row::{Columns, to_integer};
use super::{Ledger, LedgerError, audit};
use crate::audit::proof::{Collector, Proof, inclusion};
use crate::audit::record::{Attachment, RecordProof};
use crate::audit::{Commitments, Hash};
use crate::types::{Key, Name};

const PROVING: &str = "proving an entry";
const SEARCHING: &str = "searching for a record";
/// Leaf hashes that are in memory at a time.
const PAGE: i64 = 4_000;

/// A batch that took a record.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The batch.
    pub batch: Uuid,
    /// The position of the entry that tells of it.
    pub position: u64,
    /// That the record is in it.
    pub record: RecordProof,
}

impl Ledger {
    /// Proves that the entry at a position is in the log; `None` when there is no such entry. The entry
    /// goes with the proof, and what is to be said of a record in it.
    ///
    /// # Errors
    /// When the database does not answer, or the log is not whole.
    pub async fn prove(
        &self,
        position: u64,
        record: Option<RecordProof>,
    ) -> Result<Option<Proof>, LedgerError> {
        let mut snapshot = self.snapshot().await?;
        let checkpoint = audit::read_head(&mut snapshot).await?;
        let (head, _) = self.keys.open_checkpoint(&checkpoint).map_err(HeadError::from)?;
        let Some(ranges) = inclusion(position, head.size) else { return Ok(None) };
        let mut collector = Collector::new(ranges);
        let mut next = 0;
        while next < head.size {
            let page = sqlx::query(
                "SELECT leaf_hash FROM audit_entry WHERE position >= $1 AND position < $2 \
                 ORDER BY position LIMIT $3",
            )
            .bind(to_integer(next))
            .bind(to_integer(head.size))
            .bind(PAGE)
            .fetch_all(&mut *snapshot)
            .await
            .doing(PROVING)?;
            if page.is_empty() {
                break;
            }
            for row in &page {
                collector.push(leaf(row)?);
            }
            next += page.len() as u64;
        }
        let row = sqlx::query("SELECT entry FROM audit_entry WHERE position = $1");
        let row = row.bind(to_integer(position)).fetch_optional(&mut *snapshot).await;
        let damaged =
            || LedgerError::Damaged { column: "position", found: "a gap: verify the log" };
        let entry = Columns::text(&row.doing(PROVING)?.ok_or_else(damaged)?, "entry")?;
        let path = collector.finish().ok_or_else(damaged)?;
        let extra = Attachment { entry, record }.to_bytes();
        Ok(Some(Proof { extra: Some(extra), index: position, path, checkpoint }))
    }

    /// The batches that took a record of a table, the newest first. A record has a key, which people
    /// may have written in several ways; any of `keys` will do.
    ///
    /// # Errors
    /// When the database does not answer, or the commitments of a batch are damaged.
    pub async fn find_record(
        &self,
        store: &Name,
        table: &str,
        keys: &[Key],
    ) -> Result<Vec<Taken>, LedgerError> {
        let wanted: Vec<[u8; 32]> =
            keys.iter().map(|key| self.keys.commitment(store, table, key)).collect();
        let mut found = Vec::new();
        let mut snapshot = self.snapshot().await?;
        for batch in self.batches_of(store, table).await? {
            let Some(bytes) = audit::read_commitments(&mut snapshot, batch).await? else {
                continue;
            };
            let damaged =
                |_| LedgerError::Damaged { column: "commitments", found: "no sorted commitments" };
            let commitments = Commitments::from_bytes(&bytes).map_err(damaged)?;
            let proven =
                wanted.iter().find_map(|wanted| Some((wanted, commitments.prove(wanted)?)));
            let Some((commitment, (index, path))) = proven else { continue };
            // Among the entries of its run there are few; the batch's own says its id.
            let sql = "SELECT position FROM audit_entry WHERE kind = 'batch_done' AND run_id = \
                       (SELECT run_id FROM batch WHERE id = $1) AND entry LIKE $2";
            let query =
                sqlx::query(sql).bind(batch.to_string()).bind(format!("%\"batch\":\"{batch}\"%"));
            let row = query.fetch_optional(&mut *snapshot).await.doing(SEARCHING)?;
            let Some(row) = row else { continue };
            let record = RecordProof { commitment: Hash(*commitment), index, path };
            found.push(Taken { batch, position: row.count("position")?, record });
        }
        Ok(found)
    }

    /// The batches of a table that are done, and those that took along what may be of any store, the
    /// newest first.
    async fn batches_of(&self, store: &Name, table: &str) -> Result<Vec<Uuid>, LedgerError> {
        let sql = "SELECT batch.id FROM batch JOIN run ON run.id = batch.run_id \
                   WHERE (run.store = $1 AND run.table_name = $2 OR batch.attachments > 0) \
                   AND batch.state = 'done' ORDER BY batch.settled_at DESC";
        let query = sqlx::query(sql).bind(store.as_str()).bind(table);
        let rows = query.fetch_all(&self.pool).await.doing(SEARCHING)?;
        rows.iter().map(|row| row.id("id")).collect()
    }

    /// The tables of a store that batches were taken from.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tables_of(&self, store: &Name) -> Result<Vec<String>, LedgerError> {
        let sql = "SELECT DISTINCT table_name FROM run WHERE store = $1 ORDER BY table_name";
        let rows = sqlx::query(sql).bind(store.as_str()).fetch_all(&self.pool).await;
        rows.doing(SEARCHING)?.iter().map(|row| row.text("table_name")).collect()
    }
}

fn leaf(row: &AnyRow) -> Result<Hash, LedgerError> {
    let hash = row.bytes("leaf_hash")?.try_into().map(Hash);
    hash.map_err(|_| LedgerError::Damaged { column: "leaf_hash", found: "no hash" })
}
