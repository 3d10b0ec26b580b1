//! A look at a database: by what it is to be known, and what is there again of what was taken.

use std::time::Duration;

use jiff::Timestamp;

use super::super::error::StoreError;
use super::super::sql::catalogue::Table;
use super::super::sql::{self, Access, Bounds, Fate, Target};
use super::{Tables, failed};
use crate::restore::{Mark, Sight};
use crate::types::{Key, TableName};

impl Tables {
    /// Shows by what it is to be known, and its marker where one is configured. Cannot write.
    ///
    /// # Errors
    /// When the database cannot be asked, or the marker's table is none.
    pub async fn sight(&self, marker: Option<&TableName>) -> Result<Sight, StoreError> {
        let server = sql::server(&self.database).await;
        let (server, timeline) = server.map_err(failed(&self.name, "asking which server it is"))?;
        let mark = match marker {
            None => Mark::NotLooked,
            Some(marker) => {
                let mut tx = self.begin(Access::ReadOnly).await?;
                match self.marker_table(&mut tx, marker).await? {
                    None => Mark::NoTable,
                    Some(table) => sql::mark(&mut tx, &table)
                        .await
                        .map_err(failed(&self.name, "reading the marker"))?,
                }
            }
        };
        Ok(Sight { server, timeline, mark })
    }

    /// How far it lags behind the server that it follows; `None` where it follows none, or that is not known.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn lag(&self) -> Result<Option<Duration>, StoreError> {
        sql::lag(&self.database).await.map_err(failed(&self.name, "asking how far it lags behind"))
    }

    /// Writes the marker, unless a greater one is there.
    ///
    /// # Errors
    /// When there is no table for it, or the database refuses.
    pub async fn write_marker(
        &self,
        marker: &TableName,
        number: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = failed(&self.name, "writing the marker");
        let mut tx = self.begin(Access::ReadWrite).await?;
        let (store, table) = (self.name.clone(), marker.clone());
        let missing = StoreError::NoMarkerTable { store, table };
        let table = self.marker_table(&mut tx, marker).await?.ok_or(missing)?;
        sql::write_mark(&mut tx, &table, number, now).await.map_err(&failed)?;
        tx.commit().await.map_err(&failed)
    }

    async fn marker_table(
        &self,
        tx: &mut sql::Transaction,
        marker: &TableName,
    ) -> Result<Option<Table>, StoreError> {
        let table = tx.table(marker).await;
        let table = table.map_err(failed(&self.name, "reading the catalogue"))?;
        let Some(table) = table else { return Ok(None) };
        match sql::MARKER_COLUMNS.into_iter().find(|column| table.column(column).is_none()) {
            None => Ok(Some(table)),
            Some(column) => {
                let (store, table) = (self.name.clone(), marker.clone());
                Err(StoreError::Marker { store, table, column })
            }
        }
    }

    /// Those of these keys that are there again, with what becomes of each. Cannot write.
    ///
    /// # Errors
    /// As for [`Tables::survey`].
    pub async fn again(
        &self,
        target: &Target,
        bounds: Bounds,
        keys: &[Key],
    ) -> Result<Vec<(Key, Fate)>, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::again(&mut tx, target, bounds, keys)
            .await
            .map_err(failed(&self.name, "looking for what is there again"))
    }

    /// How many rows of a table have one of these keys; none where there is no such table. Cannot write.
    ///
    /// # Errors
    /// As for [`Tables::survey`].
    pub async fn present(&self, table: &TableName, keys: &[Key]) -> Result<u64, StoreError> {
        let failed = failed(&self.name, "looking for what is there again");
        let mut tx = self.begin(Access::ReadOnly).await?;
        let Some(table) = tx.table(table).await.map_err(&failed)? else { return Ok(0) };
        sql::present(&mut tx, &table, keys).await.map_err(failed)
    }
}
