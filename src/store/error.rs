//! What goes wrong with stores, in words that quote no data.

use std::fmt;

use sqlx::error::{DatabaseError, ErrorKind};
use sqlx::mysql::MySqlDatabaseError;
use sqlx::sqlite::SqliteError;

use super::files::FilesError;
use super::objects::ObjectsError;
use super::sql::Mismatch;
use crate::config::SecretError;
use crate::types::{Name, TableName};

/// What went wrong with a store.
#[derive(thiserror::Error)]
pub enum StoreError {
    /// The URL is not one.
    #[error("store `{store}`: its url cannot be used ({reason}); write `{example}`")]
    Url {
        /// The store.
        store: Name,
        /// What is wrong with it, without the URL.
        reason: String,
        /// What a good one looks like.
        example: &'static str,
    },
    /// The database refused or failed.
    #[error("store `{store}`: {doing} failed: {}", explain(cause))]
    Database {
        /// The store.
        store: Name,
        /// What was being done.
        doing: &'static str,
        /// The driver's error. It may quote data, so it is no `source` that a chain of errors would
        /// print; [`explain`] quotes none.
        cause: sqlx::Error,
    },
    /// There is no such store.
    #[error("there is no store `{store}`: add a table `[store.{store}]` to the configuration")]
    NoStore {
        /// Its name.
        store: Name,
    },
    /// The URL is kept elsewhere and cannot be read.
    #[error("store `{store}`: {source}")]
    Secret {
        /// The store.
        store: Name,
        /// Why.
        source: SecretError,
    },
    /// What was asked for needs a database.
    #[error("store `{store}` holds no tables, so what was asked for cannot be done there")]
    NoTables {
        /// The store.
        store: Name,
    },
    /// Files failed.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Objects failed.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// There is no such table.
    #[error("store `{store}`: there is no table `{table}` that its user can see")]
    NoTable {
        /// The store.
        store: Name,
        /// The table.
        table: String,
    },
    /// The rule does not fit the table.
    #[error("store `{store}`: the rule does not fit the table: {}", list(mismatches))]
    Mismatch {
        /// The store.
        store: Name,
        /// Every way in which it does not.
        mismatches: Vec<Mismatch>,
    },
    /// A table through which a deletion could reach held rows cannot be looked at.
    #[error(
        "store `{store}`: the table {table} points at the rule's and cannot be looked at, so what legal \
         holds keep there is not known: let the url's user SELECT from it"
    )]
    Unseen {
        /// The store.
        store: Name,
        /// The table.
        table: TableName,
    },
    /// The predicate of a hold is not understood where its table goes by another name.
    #[error(
        "store `{store}`: the predicate names its table: write the column alone, `status` and not \
         `orders.status`"
    )]
    NamesItsTable {
        /// The store.
        store: Name,
    },
    /// A recipient's table is not as it is configured.
    #[error("store `{store}`: the table {table} cannot be a recipient's: {why}")]
    Recipient {
        /// The store.
        store: Name,
        /// The table.
        table: TableName,
        /// Why not.
        why: String,
    },
    /// The table of the marker is not as it has to be.
    #[error(
        "store `{store}`: the table {table} cannot hold the marker: it has no column `{column}`; make it by `CREATE TABLE \
         {table} (id integer PRIMARY KEY, number bigint NOT NULL, written_at text NOT NULL)`"
    )]
    Marker {
        /// The store.
        store: Name,
        /// The table.
        table: TableName,
        /// What it lacks.
        column: &'static str,
    },
    /// There is no table for the marker.
    #[error(
        "store `{store}`: there is no table {table} for the marker that its user can see: make it by `CREATE TABLE {table} \
         (id integer PRIMARY KEY, number bigint NOT NULL, written_at text NOT NULL)` and let the url's user SELECT, INSERT \
         and UPDATE, or take `marker` out of the configuration"
    )]
    NoMarkerTable {
        /// The store.
        store: Name,
        /// The table.
        table: TableName,
    },
    /// Rows of tables that the rule does not name point at a record.
    #[error(
        "store `{store}`: deleting records failed, as rows of {} point at one: to have such rows go as well, add them to the \
         rule's `with = [\"{}\"]`; or end them earlier by a rule of their own", tables.join(", "), tables.join("\", \"")
    )]
    PointedAt {
        /// The store.
        store: Name,
        /// The tables whose rows may be those.
        tables: Vec<String>,
    },
    /// Rows that would go along point at one another further than is followed.
    #[error(
        "store `{store}`: rows of {table} point at one another in more than 50 steps, and would all go with one record: \
         end them by a rule of their own, or empty the references"
    )]
    TooDeep {
        /// The store.
        store: Name,
        /// The table.
        table: String,
    },
    /// A row that would go along cannot be named (SQLite).
    #[error(
        "store `{store}`: a row of {table} would go along and its key is NULL or a fraction: give it a key"
    )]
    Nameless {
        /// The store.
        store: Name,
        /// The table.
        table: String,
    },
    /// Rows changed between looking and acting; try again.
    #[error("store `{store}`: rows changed while a batch was at work")]
    Moved {
        /// The store.
        store: Name,
    },
}

/// Shows what `Display` shows: a driver's error in full could carry data into a log.
impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn list(mismatches: &[Mismatch]) -> String {
    mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A database error in words that quote no data.
///
/// Messages about values (SQLSTATE classes 22 and 23) quote them, those that a trigger raises
/// (P0001, 45000) may, and all of them would carry personal data into logs; code and constraint say enough.
pub fn explain(error: &sqlx::Error) -> String {
    let Some(database) = error.as_database_error() else {
        return match error {
            sqlx::Error::PoolTimedOut => {
                "no connection within the time allowed: is it running, and reachable from here?"
                    .to_owned()
            }
            other => other.to_string(),
        };
    };
    let code = database.code().unwrap_or_default().into_owned();
    let number = mysql_number(database);
    let is_raised = is_raised(database);
    let class = if has_states(database) { code.get(..2).unwrap_or_default() } else { "" };
    // 1366: a value that a column does not take, which MySQL files under no class.
    if !is_raised && !["22", "23"].contains(&class) && number != Some(1366) {
        return database.message().to_owned();
    }
    let constraint = database.constraint().map(|name| format!(", constraint {name}"));
    let table = database.table().map(|name| format!(", table {name}"));
    let what = if database.is_foreign_key_violation() {
        "other rows point at the record"
    } else if database.is_unique_violation() {
        "the value exists already"
    } else if is_raised {
        "a trigger refuses it"
    } else if class == "23" {
        "a constraint refuses it"
    } else {
        "a value does not fit"
    };
    format!(
        "{what} (SQLSTATE {code}{}{})",
        table.unwrap_or_default(),
        constraint.unwrap_or_default()
    )
}

/// Whether the code of an error is an SQLSTATE. SQLite has numbers of its own, and its messages name columns,
/// not values.
fn has_states(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code.len() == 5)
        && error.try_downcast_ref::<SqliteError>().is_none()
}

/// Whether a trigger raised an error.
fn is_raised(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    if has_states(error) {
        code == "P0001" || code == "45000" || mysql_number(error) == Some(1644)
    } else {
        // SQLITE_CONSTRAINT_TRIGGER.
        code == "1811"
    }
}

impl StoreError {
    /// Whether the same step may succeed when tried again at once: a lock that others held, a
    /// deadlock, a row that moved.
    pub fn is_transient(&self) -> bool {
        let cause = match self {
            StoreError::Database { cause, .. } => cause,
            StoreError::Files(_) => return false,
            StoreError::Objects(error) => return error.is_transient(),
            _ => return matches!(self, StoreError::Moved { .. }),
        };
        let Some(error) = cause.as_database_error() else { return false };
        match (error.code().as_deref(), mysql_number(error)) {
            // MySQL: ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK; MariaDB: ER_CHECKREAD, a row that changed
            // since it was read.
            (_, Some(number)) => [1205, 1213, 1020].contains(&number),
            // PostgreSQL: lock_not_available, deadlock_detected, serialization_failure; SQLite:
            // SQLITE_BUSY, SQLITE_LOCKED and their extended codes.
            (
                Some("55P03" | "40P01" | "40001" | "5" | "261" | "517" | "773" | "6" | "262"),
                None,
            ) => true,
            _ => false,
        }
    }
}

impl StoreError {
    /// Whether it may be about one of the things that were named alone: others may be had without it.
    pub fn is_of_what_was_named(&self) -> bool {
        match self {
            StoreError::Files(error) => error.is_of_what_was_named(),
            StoreError::Database { cause, .. } => {
                let error = cause.as_database_error();
                let is_refusal = |kind| !matches!(kind, ErrorKind::Other);
                error.is_some_and(|error| is_refusal(error.kind()) || is_raised(error))
            }
            StoreError::PointedAt { .. }
            | StoreError::TooDeep { .. }
            | StoreError::Nameless { .. } => true,
            _ => false,
        }
    }

    /// Whether the store answered, and does not know a table, a column or the words of a condition.
    pub fn is_misunderstanding(&self) -> bool {
        let StoreError::Database { cause, .. } = self else {
            return matches!(self, StoreError::NoTable { .. } | StoreError::NoTables { .. });
        };
        let Some(error) = cause.as_database_error() else { return false };
        match (error.code().as_deref(), mysql_number(error)) {
            // ER_BAD_FIELD_ERROR, ER_PARSE_ERROR, ER_NO_SUCH_TABLE, ER_SP_DOES_NOT_EXIST.
            (_, Some(number)) => [1054, 1064, 1146, 1305].contains(&number),
            // PostgreSQL: what is not there or does not parse, but not what is not allowed; SQLite:
            // SQLITE_ERROR.
            (Some(code), None) => code == "1" || code.starts_with("42") && code != "42501",
            _ => false,
        }
    }
}

fn mysql_number(error: &dyn DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}
