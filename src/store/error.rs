//! What goes wrong with stores, in words that quote no data.

use std::fmt;
use std::time::Duration;

use sqlx::error::{DatabaseError, ErrorKind};
use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::PgDatabaseError;

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
    /// It did not answer in time.
    #[error(
        "store `{store}`: {doing} was given up after {} s: does something lock the table, or does it lack an index?",
        within.as_secs()
    )]
    Slow {
        /// The store.
        store: Name,
        /// What was being done.
        doing: &'static str,
        /// How long was waited for it.
        within: Duration,
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

/// The classes of SQLSTATE whose messages name servers, users, tables and columns, and no values (PostgreSQL, appendix A):
/// features, connections, transactions, passwords, catalogues, names and rights, resources, limits, states, operators,
/// the system, defects.
const NAMING: [&str; 15] =
    ["08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "F0", "XX"];

/// The errors of MySQL and MariaDB whose messages do the same, each with the SQLSTATE that it has unless a trigger has made
/// it up. A statement that does not parse (1064) is not among them: its message quotes it, and with it persons who are held.
const NAMING_NUMBERS: [(u16, &str); 46] = [
    (1016, "HY000"), // ER_CANT_OPEN_FILE
    (1020, "HY000"), // ER_CHECKREAD
    (1021, "HY000"), // ER_DISK_FULL
    (1030, "HY000"), // ER_GET_ERRNO
    (1036, "HY000"), // ER_OPEN_AS_READONLY
    (1037, "HY001"), // ER_OUTOFMEMORY
    (1038, "HY001"), // ER_OUT_OF_SORTMEMORY
    (1040, "08004"), // ER_CON_COUNT_ERROR
    (1041, "HY000"), // ER_OUT_OF_RESOURCES
    (1044, "42000"), // ER_DBACCESS_DENIED_ERROR
    (1045, "28000"), // ER_ACCESS_DENIED_ERROR
    (1046, "3D000"), // ER_NO_DB_ERROR
    (1047, "08S01"), // ER_UNKNOWN_COM_ERROR: a node of a cluster that is not ready
    (1049, "42000"), // ER_BAD_DB_ERROR
    (1052, "23000"), // ER_NON_UNIQ_ERROR
    (1053, "08S01"), // ER_SERVER_SHUTDOWN
    (1054, "42S22"), // ER_BAD_FIELD_ERROR
    (1109, "42S02"), // ER_UNKNOWN_TABLE
    (1114, "HY000"), // ER_RECORD_FILE_FULL
    (1129, "HY000"), // ER_HOST_IS_BLOCKED
    (1130, "HY000"), // ER_HOST_NOT_PRIVILEGED
    (1142, "42000"), // ER_TABLEACCESS_DENIED_ERROR
    (1143, "42000"), // ER_COLUMNACCESS_DENIED_ERROR
    (1146, "42S02"), // ER_NO_SUCH_TABLE
    (1159, "08S01"), // ER_NET_READ_INTERRUPTED
    (1161, "08S01"), // ER_NET_WRITE_INTERRUPTED
    (1194, "HY000"), // ER_CRASHED_ON_USAGE
    (1203, "42000"), // ER_TOO_MANY_USER_CONNECTIONS
    (1205, "HY000"), // ER_LOCK_WAIT_TIMEOUT
    (1206, "HY000"), // ER_LOCK_TABLE_FULL
    (1213, "40001"), // ER_LOCK_DEADLOCK
    (1226, "42000"), // ER_USER_LIMIT_REACHED
    (1227, "42000"), // ER_SPECIFIC_ACCESS_DENIED_ERROR
    (1290, "HY000"), // ER_OPTION_PREVENTS_STATEMENT
    (1305, "42000"), // ER_SP_DOES_NOT_EXIST
    (1317, "70100"), // ER_QUERY_INTERRUPTED
    (1356, "HY000"), // ER_VIEW_INVALID
    (1370, "42000"), // ER_PROCACCESS_DENIED_ERROR
    (1442, "HY000"), // ER_CANT_UPDATE_USED_TABLE_IN_SF_OR_TRG
    (1449, "HY000"), // ER_NO_SUCH_USER
    (1698, "28000"), // ER_ACCESS_DENIED_NO_PASSWORD_ERROR
    (1792, "25006"), // ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
    (1820, "HY000"), // ER_MUST_CHANGE_PASSWORD
    (1836, "HY000"), // ER_READ_ONLY_MODE
    (1969, "70100"), // ER_STATEMENT_TIMEOUT (MariaDB)
    (3024, "HY000"), // ER_QUERY_TIMEOUT (MySQL)
];

/// A database error in words that quote no data.
///
/// Messages about values quote them, those that a trigger raises may, under whatever code its author has given them, and all
/// of them would carry personal data into logs: so a message is shown where it is known to quote none, and otherwise the
/// code alone.
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
    let class = code.get(..2).unwrap_or_default();
    let number = mysql_number(database);
    let is_raised = is_raised(database);
    let names = match (database.try_downcast_ref::<PgDatabaseError>(), number) {
        // Where a function puts a statement together, what stands for a name or a word may be a value.
        (Some(error), _) if error.r#where().is_some() && ["42", "XX"].contains(&class) => false,
        (Some(_), _) => NAMING.contains(&class),
        // What refuses a connection may come without a state.
        (None, Some(number)) => NAMING_NUMBERS
            .iter()
            .any(|(known, state)| *known == number && (code.is_empty() || code == *state)),
        // SQLite's own messages name columns, not values.
        (None, None) => true,
    };
    if names && !is_raised {
        return database.message().to_owned();
    }
    let constraint = database.constraint().map(|name| format!(", constraint {name}"));
    let table = database.table().map(|name| format!(", table {name}"));
    let what = if is_raised {
        "a trigger refuses it, and what it says may quote data"
    } else if database.is_foreign_key_violation() {
        "other rows point at the record"
    } else if database.is_unique_violation() {
        "the value exists already"
    } else if class == "23" {
        "a constraint refuses it"
    } else if class == "22" || number == Some(1366) {
        "a value does not fit"
    } else if number == Some(1064) {
        "the server cannot read the statement: look at the rule's `where` and the predicates of legal holds"
    } else {
        "the database refuses it, and its message may quote data"
    };
    let number = number.map(|number| format!(", error {number}"));
    format!(
        "{what} (SQLSTATE {code}{}{}{})",
        number.unwrap_or_default(),
        table.unwrap_or_default(),
        constraint.unwrap_or_default()
    )
}

/// Whether a trigger raised an error, by what RAISE and SIGNAL say.
fn is_raised(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    match (error.try_downcast_ref::<PgDatabaseError>(), mysql_number(error)) {
        (Some(error), _) => error.routine() == Some("exec_stmt_raise"),
        (None, Some(number)) => number == 1644 || code == "45000",
        // SQLITE_CONSTRAINT_TRIGGER.
        (None, None) => code == "1811",
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
