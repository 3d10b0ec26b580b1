//! What expunged saw when it looked again after a run.

use jiff::Timestamp;

use super::error::Doing;
use super::{Ledger, LedgerError, Run, audit, commit};
use crate::audit::{Entry, Event};
use crate::plan::Verification;

impl Ledger {
    /// Records what was seen after a run.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn record_verification(
        &self,
        run: &Run,
        seen: &Verification,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        // Plain data with string keys: serializing it cannot fail.
        let json = serde_json::to_string(seen).unwrap_or_default();
        sqlx::query("UPDATE run SET verification = $1 WHERE id = $2")
            .bind(json)
            .bind(run.id.to_string())
            .execute(&mut *tx)
            .await
            .doing("recording what was seen after a run")?;
        let event = Event::RunVerified {
            run: run.id,
            rule: run.rule.clone(),
            store: run.store.clone(),
            checked: seen.checked,
            of: seen.of,
            present: seen.present,
            replica: seen.replica.map(|replica| replica.as_str().into()),
            present_on_replica: seen.present_on_replica,
            state: seen.residue.as_str().into(),
        };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await
    }
}
