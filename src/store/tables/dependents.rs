//! What depends on the records of a rule: found before they go, and named where it is in their way.

use sqlx::error::DatabaseError;

use super::super::error::StoreError;
use super::super::sql::catalogue::Table;
use super::super::sql::{self, Access, TakeError, Target};
use super::{Tables, failed};
use crate::rule::Rule;

/// Whether the store refused a deletion because rows point at the record.
fn is_pointed_at(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(DatabaseError::is_foreign_key_violation)
}

impl Tables {
    /// Holds a rule against its table, which was looked at, and finds what depends on its records.
    ///
    /// # Errors
    /// As for [`Tables::target`].
    pub async fn target_in(&self, rule: &Rule, table: Table) -> Result<Target, StoreError> {
        let unfit = |mismatches| StoreError::Mismatch { store: self.name.clone(), mismatches };
        let mut target = Target::new(rule, table).map_err(unfit)?;
        let names_some = rule.rows().is_some_and(|rows| !rows.dependents.is_empty());
        if target.change_is_deletion() && (names_some || !target.table.referenced_by.is_empty()) {
            let mut tx = self.begin(Access::ReadOnly).await?;
            let found = sql::Dependents::find(&mut tx, rule, &mut target.table).await;
            let (dependents, mismatches) =
                found.map_err(failed(&self.name, "reading the catalogue"))?;
            if !mismatches.is_empty() {
                return Err(unfit(mismatches));
            }
            target.dependents = dependents;
        }
        Ok(target)
    }

    /// How many rows a table has: by the store's own statistics, or counted where there are none.
    ///
    /// # Errors
    /// When the store cannot be reached, or the user may not read the table.
    pub async fn rows_of(&self, table: &Table) -> Result<u64, StoreError> {
        let may = table.privileges.select != Some(false);
        match table.statistics.rows {
            Some(rows) => Ok(rows),
            None if may => {
                let mut tx = self.begin(Access::ReadOnly).await?;
                let rows = sql::count_rows(&mut tx, table).await;
                rows.map_err(failed(&self.name, "counting rows"))
            }
            None => Ok(0),
        }
    }

    pub(super) fn explain_take(&self, error: TakeError, target: &Target) -> StoreError {
        let doing =
            if target.change_is_deletion() { "deleting records" } else { "anonymizing records" };
        match error {
            TakeError::Moved => StoreError::Moved { store: self.name.clone() },
            TakeError::TooDeep { table } => StoreError::TooDeep { store: self.name.clone(), table },
            TakeError::Nameless { table } => {
                StoreError::Nameless { store: self.name.clone(), table }
            }
            TakeError::Database(source) if is_pointed_at(&source) => {
                let store = self.name.clone();
                match (target.dependents.refusing(&target.table), target.dependents.has_any()) {
                    // Somebody had begun to add a row to a table that goes along when this was begun.
                    (tables, true) if tables.is_empty() => StoreError::Moved { store },
                    (tables, _) if tables.is_empty() => failed(&store, doing)(source),
                    (tables, _) => StoreError::PointedAt { store, tables },
                }
            }
            TakeError::Database(source) => failed(&self.name, doing)(source),
        }
    }
}
