//! Windows of a walk through a table: the next, smaller ones, and what is taken of one.

use super::super::error::StoreError;
use super::super::sql::{self, Access, Bounds, Database, Pace, Replace, Target, Walk, Window};
use super::{Tables, TakenRows, failed};

impl Tables {
    /// The next window of a walk, which nobody has locked.
    pub(in crate::store) async fn next_window(
        &self,
        target: &Target,
        bounds: Bounds,
        walk: &mut Walk,
        pace: &mut Pace,
    ) -> Result<Option<Window>, StoreError> {
        if let sql::AtHand::Known(window) = walk.at_hand(pace) {
            return Ok(window);
        }
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::next_window(&mut tx, target, bounds, walk, pace)
            .await
            .map_err(failed(&self.name, "finding due records"))
    }

    /// Two halves of a window, in order; itself where it has none.
    pub(in crate::store) async fn halves(
        &self,
        target: &Target,
        window: Window,
    ) -> Result<Vec<Window>, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::halves(&mut tx, target, window)
            .await
            .map_err(failed(&self.name, "looking for a smaller window"))
    }

    /// Whether one transaction at a time may write.
    pub fn has_one_writer(&self) -> bool {
        matches!(self.database, Database::Sqlite(_))
    }

    /// Takes due records of a window, without committing: so many that no more than `most` go or change with what
    /// goes along in other tables, and one at least.
    pub(in crate::store) async fn take_at_most(
        &self,
        target: &Target,
        bounds: Bounds,
        window: Window,
        most: u64,
        replace: Replace<'_>,
    ) -> Result<TakenRows, StoreError> {
        let transaction = self.begin_taking(target).await?;
        self.take_fitting(transaction, target, bounds, window, most, replace).await
    }

    pub(super) async fn take_fitting(
        &self,
        mut transaction: sql::Transaction,
        target: &Target,
        bounds: Bounds,
        window: Window,
        most: u64,
        replace: Replace<'_>,
    ) -> Result<TakenRows, StoreError> {
        if !target.dependents.has_any() {
            return self.take_in(transaction, target, bounds, window, replace).await;
        }
        let taken =
            sql::take_fitting(&mut transaction, target, bounds, &window, most, replace).await;
        let (records, is_part) = taken.map_err(|error| self.explain_take(error, target))?;
        Ok(TakenRows { store: self.name.clone(), transaction, records, window, is_part })
    }
}
