//! Reading columns: what the ledger holds as integers, text and bytes, as the types it stands for.
//!
//! A value that expunged would never have written is an error that names its column, never a panic
//! and never a guess.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::error::Doing;
use super::{LedgerError, Transaction};
use crate::audit::entry::moment;
use crate::types::Name;

const READING: &str = "reading a row";

/// A count as the database holds it.
pub(crate) fn to_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The placeholders of so many rows of so many values, for `VALUES`.
///
/// SQLite gets them without numbers: it looks each numbered one up among all of a statement's when it is bound, which
/// makes a statement of hundreds of values slow by the square of them.
pub(crate) fn placeholders(tx: &Transaction<'_>, rows: usize, columns: usize) -> String {
    let is_numbered = tx.backend_name() == "PostgreSQL";
    let place = |place: usize| if is_numbered { format!("${place}") } else { "?".to_owned() };
    let row = |row: usize| {
        let places: Vec<_> = (1..=columns).map(|column| place(row * columns + column)).collect();
        format!("({})", places.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

/// The moment that a text of the ledger names.
pub(crate) fn from_text(text: &str, column: &'static str) -> Result<Timestamp, LedgerError> {
    moment::from_text(text).map_err(|_| LedgerError::Damaged { column, found: "no moment" })
}

/// Typed columns of a row.
pub(crate) trait Columns {
    /// Text that must be there.
    fn text(&self, column: &'static str) -> Result<String, LedgerError>;
    /// Text that may be NULL.
    fn optional_text(&self, column: &'static str) -> Result<Option<String>, LedgerError>;
    /// Bytes that must be there.
    fn bytes(&self, column: &'static str) -> Result<Vec<u8>, LedgerError>;
    /// Bytes that may be NULL.
    fn optional_bytes(&self, column: &'static str) -> Result<Option<Vec<u8>>, LedgerError>;
    /// A whole number that may be NULL.
    fn optional_integer(&self, column: &'static str) -> Result<Option<i64>, LedgerError>;

    /// A count that may be NULL.
    fn optional_count(&self, column: &'static str) -> Result<Option<u64>, LedgerError> {
        let count = self.optional_integer(column)?.map(u64::try_from).transpose();
        count.map_err(|_| LedgerError::Damaged { column, found: "a negative number" })
    }

    /// A count.
    fn count(&self, column: &'static str) -> Result<u64, LedgerError> {
        self.optional_count(column)?.ok_or(LedgerError::Damaged { column, found: "nothing" })
    }

    /// A moment.
    fn moment(&self, column: &'static str) -> Result<Timestamp, LedgerError> {
        from_text(&self.text(column)?, column)
    }

    /// A moment that may be NULL.
    fn optional_moment(&self, column: &'static str) -> Result<Option<Timestamp>, LedgerError> {
        self.optional_text(column)?.map(|text| from_text(&text, column)).transpose()
    }

    /// An id.
    fn id(&self, column: &'static str) -> Result<Uuid, LedgerError> {
        let id = self.text(column)?.parse();
        id.map_err(|_| LedgerError::Damaged { column, found: "no id" })
    }

    /// A name.
    fn name(&self, column: &'static str) -> Result<Name, LedgerError> {
        let name = self.text(column)?.parse();
        name.map_err(|_| LedgerError::Damaged { column, found: "no name" })
    }

    /// One word of a closed set, such as a state.
    fn word<T>(
        &self,
        column: &'static str,
        from_word: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, LedgerError> {
        let word = self.text(column)?;
        from_word(&word).ok_or(LedgerError::Damaged { column, found: "an unknown word" })
    }
}

impl Columns for AnyRow {
    fn text(&self, column: &'static str) -> Result<String, LedgerError> {
        self.try_get(column).doing(READING)
    }

    fn optional_text(&self, column: &'static str) -> Result<Option<String>, LedgerError> {
        self.try_get(column).doing(READING)
    }

    fn bytes(&self, column: &'static str) -> Result<Vec<u8>, LedgerError> {
        self.try_get(column).doing(READING)
    }

    fn optional_bytes(&self, column: &'static str) -> Result<Option<Vec<u8>>, LedgerError> {
        self.try_get(column).doing(READING)
    }

    fn optional_integer(&self, column: &'static str) -> Result<Option<i64>, LedgerError> {
        self.try_get(column).doing(READING)
    }
}
