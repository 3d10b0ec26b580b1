//! What expunged saw when it looked again after a run.

use super::error::Doing;
use super::{LedgerError, Run, Transaction};
use crate::audit::Event;
use crate::plan::Verification;

/// Records what was seen after a run, and gives the entry that tells of it.
pub(super) async fn record(
    tx: &mut Transaction<'_>,
    run: &Run,
    seen: &Verification,
) -> Result<Event, LedgerError> {
    // Plain data with string keys: serializing it cannot fail.
    let json = serde_json::to_string(seen).unwrap_or_default();
    sqlx::query("UPDATE run SET verification = $1 WHERE id = $2")
        .bind(json)
        .bind(run.id.to_string())
        .execute(&mut **tx)
        .await
        .doing("recording what was seen after a run")?;
    Ok(Event::RunVerified {
        run: run.id,
        rule: run.rule.clone(),
        store: run.store.clone(),
        checked: seen.checked,
        of: seen.of,
        present: seen.present,
        replica: seen.replica.map(|replica| replica.as_str().into()),
        present_on_replica: seen.present_on_replica,
        state: seen.residue.as_str().into(),
    })
}
