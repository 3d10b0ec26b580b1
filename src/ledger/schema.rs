//! Makes the ledger's schema, brings it up to date, and keeps away from what is not a ledger.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use sqlx::error::DatabaseError;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyConnection, AnyPool, ConnectOptions, Connection, SqlSafeStr};

use super::error::Doing;
use super::place::Place;
use super::{Access, LedgerError, audit, dedicated, lock, pool};
use crate::keys::Keys;

/// The table that says which migrations were applied. It has a name of our own because any
/// database that sqlx has migrated would have its usual one.
const VERSIONS: &str = "ledger_version";

/// The version that this program makes and understands.
const KNOWN: i64 = 8;

/// Each migration's name, and its text for SQLite and for PostgreSQL; the first brings version 1.
const MIGRATIONS: [(&str, &str, &str); 8] = [
    (
        "ledger",
        include_str!("../../migrations/sqlite/0001_ledger.sql"),
        include_str!("../../migrations/postgres/0001_ledger.sql"),
    ),
    (
        "trust",
        include_str!("../../migrations/sqlite/0002_trust.sql"),
        include_str!("../../migrations/postgres/0002_trust.sql"),
    ),
    (
        "events",
        include_str!("../../migrations/sqlite/0003_events.sql"),
        include_str!("../../migrations/postgres/0003_events.sql"),
    ),
    (
        "attachments",
        include_str!("../../migrations/sqlite/0004_attachments.sql"),
        include_str!("../../migrations/postgres/0004_attachments.sql"),
    ),
    (
        "notices",
        include_str!("../../migrations/sqlite/0005_notices.sql"),
        include_str!("../../migrations/postgres/0005_notices.sql"),
    ),
    (
        "backups",
        include_str!("../../migrations/sqlite/0006_backups.sql"),
        include_str!("../../migrations/postgres/0006_backups.sql"),
    ),
    (
        "access",
        include_str!("../../migrations/sqlite/0007_access.sql"),
        include_str!("../../migrations/postgres/0007_access.sql"),
    ),
    (
        "residues",
        include_str!("../../migrations/sqlite/0008_residues.sql"),
        include_str!("../../migrations/postgres/0008_residues.sql"),
    ),
];

/// What was found where the ledger should be.
enum Found {
    /// Nothing: a place for a new one.
    Empty,
    /// A ledger of this version, 0 before its first migration; and whether its audit log has begun.
    Ledger { version: i64, has_log: bool },
    /// Something else.
    Foreign(String),
}

impl Found {
    /// Whether nothing is left to be done to it: that is so at almost every start, and seen at a glance.
    fn is_ready(&self) -> bool {
        matches!(self, Found::Ledger { version: KNOWN, has_log: true })
    }
}

fn migrator(place: &Place) -> Migrator {
    let migration = |(version, (name, sqlite, postgres))| {
        let text: &'static str = match place {
            Place::Sqlite { .. } => sqlite,
            Place::Postgres { .. } => postgres,
        };
        let name: &'static str = name;
        Migration::new(version, name.into(), MigrationType::Simple, text.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations((1..).zip(MIGRATIONS).map(migration).collect());
    migrator.dangerous_set_table_name(VERSIONS);
    migrator
}

/// Makes the ledger where there is none, or brings it up to date.
pub(super) async fn prepare(place: &Place, keys: &Keys) -> Result<(), LedgerError> {
    let Some(file) = place.file() else {
        return migrate(place, keys).await;
    };
    // Before anything is made beside it.
    let found = probe_file(file).await?;
    let is_ready = found.is_ready();
    refuse_unfit(place, found)?;
    if is_ready {
        return Ok(());
    }
    make_folder(file.parent().unwrap_or(file))?;
    // sqlx's own lock does nothing on SQLite.
    let _lock = lock::migration(file).await?;
    make_file(file)?;
    refuse_unfit(place, probe_file(file).await?)?;
    migrate(place, keys).await
}

/// Makes sure that there is a ledger of this version, and changes nothing.
pub(super) async fn check(place: &Place) -> Result<(), LedgerError> {
    let found = if let Some(file) = place.file() {
        probe_file(file).await?
    } else {
        let mut connection = dedicated(place).await?;
        let found = probe_postgres(&mut connection).await?;
        close(connection).await?;
        found
    };
    let (known, shown) = (KNOWN, || place.to_string());
    match refuse_unfit(place, found)? {
        None => Err(LedgerError::Absent { place: shown() }),
        Some(found) if found < known => Err(LedgerError::Older { place: shown(), found, known }),
        Some(_) => Ok(()),
    }
}

/// The version of the ledger that was found, if one was.
fn refuse_unfit(place: &Place, found: Found) -> Result<Option<i64>, LedgerError> {
    let place = || place.to_string();
    match found {
        Found::Empty => Ok(None),
        Found::Ledger { version: found, .. } if found > KNOWN => {
            Err(LedgerError::Newer { place: place(), found, known: KNOWN })
        }
        Found::Ledger { version, .. } => Ok(Some(version)),
        Found::Foreign(found) => Err(LedgerError::Foreign { place: place(), found }),
    }
}

async fn migrate(place: &Place, keys: &Keys) -> Result<(), LedgerError> {
    // A connection of its own, whose end frees sqlx's advisory lock also when a migration fails.
    let pool = pool(place, Access::ReadWrite, 1).await?;
    let migrated = migrate_through(&pool, place, keys).await;
    pool.close().await;
    migrated
}

async fn migrate_through(pool: &AnyPool, place: &Place, keys: &Keys) -> Result<(), LedgerError> {
    if place.file().is_none() {
        let mut connection = pool.acquire().await.doing("connecting to it")?;
        let found = probe_postgres(&mut connection).await?;
        let is_ready = found.is_ready();
        refuse_unfit(place, found)?;
        if is_ready {
            return Ok(());
        }
    }
    migrator(place).run(pool).await.map_err(LedgerError::Migrate)?;
    let mut connection = pool.acquire().await.doing("connecting to it")?;
    audit::begin_log(&mut connection, keys).await
}

async fn close(connection: AnyConnection) -> Result<(), LedgerError> {
    connection.close().await.doing("closing a connection")
}

/// Looks into the file through a connection that cannot write.
async fn probe_file(file: &Path) -> Result<Found, LedgerError> {
    match fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Empty),
        Err(source) => {
            return Err(LedgerError::Io { doing: "look at", path: file.to_owned(), source });
        }
        Ok(metadata) if metadata.is_dir() => return Ok(Found::Foreign("it is a folder".into())),
        Ok(metadata) if metadata.len() == 0 => return Ok(Found::Empty),
        Ok(_) => {}
    }
    match read_tables(file, true).await {
        Ok(read) => Ok(classify(&read)),
        Err(error) if has_code(&error, "26") => {
            Ok(Found::Foreign("it is a file of another kind".into()))
        }
        // SQLITE_READONLY_ROLLBACK: somebody was killed while they wrote to it. To roll that back is what
        // anybody who opens it does, and takes the right to write.
        Err(error) if has_code(&error, "776") => {
            let read = read_tables(file, false).await;
            Ok(classify(&read.doing("rolling back what was half written")?))
        }
        Err(source) => Err(LedgerError::Database { doing: "looking what is there", source }),
    }
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|found| found == code)
}

/// What lies in a database.
struct Read {
    tables: Vec<String>,
    /// The version of the ledger in it.
    version: Option<i64>,
    /// Whether its audit log has a head.
    has_log: bool,
}

const VERSION: &str = "SELECT max(version) FROM ledger_version WHERE success";
const HEADS: &str = "SELECT count(*) FROM audit_head WHERE id = 1";

async fn read_tables(file: &Path, read_only: bool) -> Result<Read, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(file).read_only(read_only);
    let mut connection = options.connect().await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' \
         ESCAPE '\\' ORDER BY name",
    )
    .fetch_all(&mut connection)
    .await?;
    let (mut version, mut has_log) = (None, false);
    if tables.iter().any(|table| table == VERSIONS) {
        version = sqlx::query_scalar(VERSION).fetch_one(&mut connection).await?;
    }
    if version == Some(KNOWN) {
        let heads: i64 = sqlx::query_scalar(HEADS).fetch_one(&mut connection).await?;
        has_log = heads == 1;
    }
    connection.close().await?;
    Ok(Read { tables, version, has_log })
}

/// Looks into the first schema of the search path. What belongs to an extension does not count.
async fn probe_postgres(connection: &mut AnyConnection) -> Result<Found, LedgerError> {
    let doing = "looking what is there";
    let schema: Option<String> = sqlx::query_scalar("SELECT current_schema()::text")
        .fetch_one(&mut *connection)
        .await
        .doing(doing)?;
    if schema.is_none() {
        return Ok(Found::Foreign("no schema of its search path exists; create one".into()));
    }
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class c \
         WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'f') \
         AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e') \
         ORDER BY relname",
    )
    .fetch_all(&mut *connection)
    .await
    .doing(doing)?;
    let (mut version, mut has_log) = (None, false);
    if tables.iter().any(|table| table == VERSIONS) {
        version = sqlx::query_scalar(VERSION).fetch_one(&mut *connection).await.doing(doing)?;
    }
    if version == Some(KNOWN) {
        let heads: i64 =
            sqlx::query_scalar(HEADS).fetch_one(&mut *connection).await.doing(doing)?;
        has_log = heads == 1;
    }
    Ok(classify(&Read { tables, version, has_log }))
}

fn classify(Read { tables, version, has_log }: &Read) -> Found {
    match tables.as_slice() {
        [] => Found::Empty,
        tables if tables.iter().any(|table| table == VERSIONS) => {
            Found::Ledger { version: version.unwrap_or(0), has_log: *has_log }
        }
        [first, ..] => {
            let count = tables.len();
            Found::Foreign(format!("it has tables of something else ({count}, such as `{first}`)"))
        }
    }
}

fn make_folder(folder: &Path) -> Result<(), LedgerError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| LedgerError::Io {
        doing: "create the folder",
        path: folder.to_owned(),
        source,
    })
}

/// Makes the file if it is missing, for its owner only; SQLite gives its companions the same mode.
fn make_file(file: &Path) -> Result<(), LedgerError> {
    let io = |doing| move |source| LedgerError::Io { doing, path: file.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Ok(made) => {
            made.sync_all().map_err(io("create"))?;
            let folder = file.parent().unwrap_or(file);
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("create"))
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io("create")(error)),
    }
}
