//! How far event rules have come with the tables in which events are found.

use jiff::Timestamp;

use super::error::Doing;
use super::row::Columns;
use super::{Ledger, LedgerError, commit, to_text};
use crate::types::Name;

impl Ledger {
    /// The latest moment of a row that a rule has worked off; `None` where it has not begun.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn source_reached(
        &self,
        rule: &Name,
        source: &Name,
    ) -> Result<Option<Timestamp>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query("SELECT reached FROM event_source WHERE rule = $1 AND source = $2")
            .bind(rule.as_str())
            .bind(source.as_str())
            .fetch_optional(&mut *tx)
            .await
            .doing("reading how far a source was worked off")?;
        row.map(|row| row.moment("reached")).transpose()
    }

    /// Remembers how far a rule has come.
    ///
    /// # Errors
    /// When the database does not answer: then it begins again further back, which does no harm.
    pub async fn set_source_reached(
        &self,
        rule: &Name,
        source: &Name,
        reached: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO event_source (rule, source, reached) VALUES ($1, $2, $3) \
             ON CONFLICT (rule, source) DO UPDATE SET reached = excluded.reached",
        )
        .bind(rule.as_str())
        .bind(source.as_str())
        .bind(to_text(reached))
        .execute(&mut *tx)
        .await
        .doing("remembering how far a source was worked off")?;
        commit(tx).await
    }
}
