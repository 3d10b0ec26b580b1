//! SQLite: connecting, binding and reading values, and the catalogue.

use std::collections::BTreeMap;
use std::future::ready;
use std::str::FromStr;
use std::time::Duration;

use sqlparser::dialect::SQLiteDialect;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, Tokenizer};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqlitePoolOptions, SqliteRow,
};
use sqlx::{
    Arguments, AssertSqlSafe, Connection, Executor, Row as _, SqlitePool, TypeInfo, ValueRef as _,
};
use tokio_stream::StreamExt;

use crate::plan::OnDelete;
use crate::rule::Dialect;
use crate::types::TableName;

use super::catalogue::{
    Column, ColumnKind, Index, Privileges, Reference, Shape, SideEffects, Statistics, Table,
    Trigger,
};
use super::statement::{Statement, Value};
use super::{Access, Cell, Row};

/// Prepares a pool; the file is opened on first use and never created.
pub(super) fn pool(
    url: &str,
    access: Access,
    connect_timeout: Duration,
) -> Result<SqlitePool, sqlx::Error> {
    let mut options = SqliteConnectOptions::from_str(url)?
        .create_if_missing(false)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        // Deleted content is overwritten with zeros (https://sqlite.org/pragma.html#pragma_secure_delete).
        .pragma("secure_delete", "ON");
    if access == Access::ReadOnly {
        options = options.read_only(true).pragma("query_only", "ON");
    }
    Ok(SqlitePoolOptions::new()
        .max_connections(2)
        .acquire_timeout(connect_timeout)
        .idle_timeout(Duration::from_mins(1))
        // sqlx goes on counting as open what SQLite itself has rolled back, for want of room, and never begins
        // another transaction on that connection.
        .before_acquire(|connection, _| Box::pin(ready(Ok(!connection.is_in_transaction()))))
        .connect_lazy_with(options))
}

run_statements!(SqliteConnection, SqliteArguments, unsigned: |value: u64| value.to_string(), list: |list: Vec<String>| list.join(","));

fn read(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    let mut cells = Vec::with_capacity(row.len());
    for index in 0..row.len() {
        let value = row.try_get_raw(index)?;
        // SQLite's type is the value's, not the column's.
        let name =
            if value.is_null() { "NULL".into() } else { value.type_info().name().to_owned() };
        cells.push(match name.as_str() {
            "NULL" => Cell::Null,
            "INTEGER" | "BOOLEAN" => Cell::Int(row.try_get_unchecked(index)?),
            "BLOB" => Cell::Bytes(row.try_get_unchecked(index)?),
            "REAL" => Cell::Float(row.try_get_unchecked(index)?),
            _ => Cell::Text(row.try_get_unchecked(index)?),
        });
    }
    Ok(Row(cells))
}

fn statement(sql: &'static str, value: &str) -> Statement {
    let mut statement = Statement::new(Dialect::Sqlite, sql);
    statement.set_values(vec![Value::Text(value.to_owned())]);
    statement
}

/// Reads everything the schema says about a table; `None` when there is no such table.
pub(super) async fn table(
    connection: &mut SqliteConnection,
    name: &TableName,
) -> Result<Option<Table>, sqlx::Error> {
    if name.schema.as_deref().is_some_and(|schema| schema != "main") {
        return Ok(None);
    }
    let find = statement(
        "SELECT type, name, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?",
        &name.table,
    );
    let rows = fetch(connection, &find).await?;
    let Some(found) = rows.first() else { return Ok(None) };
    let table_name = found.text(1).unwrap_or_default();
    let (columns, primary) = columns(connection, &table_name).await?;
    let rowid_taken = ["rowid", "oid", "_rowid_"]
        .iter()
        .all(|alias| columns.iter().any(|column| column.name.eq_ignore_ascii_case(alias)));
    let triggers = triggers(connection, &table_name).await?;
    let mut table = Table {
        dialect: Dialect::Sqlite,
        schema: None,
        shape: match (found.text(0).as_deref(), found.int(2)) {
            (Some("table"), Some(0)) if !rowid_taken => Shape::Rowid,
            (Some("table"), _) => Shape::Keyed,
            _ => Shape::Unsupported,
        },
        columns,
        family: Vec::new(),
        key: Vec::new(),
        indexes: indexes(connection, &table_name).await?,
        referenced_by: references(connection, &table_name).await?,
        side_effects: SideEffects::possible_if(!triggers.is_empty()),
        triggers,
        privileges: Privileges { select: Some(true), ..Privileges::default() },
        statistics: Statistics::default(),
        partitioned: false,
        correlations: BTreeMap::new(),
        returns_deleted: true,
        // Which columns are generated is not asked.
        returns_unchanged: false,
        name: table_name,
    };
    // A foreign key that names no columns points at the primary key.
    for reference in &mut table.referenced_by {
        for (place, column) in reference.target_columns.iter_mut().enumerate() {
            if column.is_empty() {
                *column = primary.get(place).cloned().unwrap_or_default();
            }
        }
    }
    table.choose_key(&primary);
    Ok(Some(table))
}

/// The columns, and those of the primary key.
async fn columns(
    connection: &mut SqliteConnection,
    table: &str,
) -> Result<(Vec<Column>, Vec<String>), sqlx::Error> {
    let query = statement(
        // Generated columns (2 and 3) can be starting points; hidden ones (1) are a virtual table's.
        "SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid",
        table,
    );
    let rows = fetch(connection, &query).await?;
    let key_columns = rows.iter().filter(|row| row.int(3).unwrap_or(0) > 0).count();
    let columns = rows.iter().map(|row| {
        let type_name = row.text(1).unwrap_or_default();
        // Only an INTEGER PRIMARY KEY and WITHOUT ROWID tables refuse NULL in a key by themselves.
        let alias =
            key_columns == 1 && row.int(3) == Some(1) && type_name.eq_ignore_ascii_case("integer");
        Column {
            name: row.text(0).unwrap_or_default(),
            kind: affinity(&type_name),
            type_name,
            nullable: row.int(2) != Some(1) && !alias,
        }
    });
    let mut primary: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row.int(3)?, row.text(0)?)))
        .filter(|(place, _)| *place > 0)
        .collect();
    primary.sort();
    Ok((columns.collect(), primary.into_iter().map(|(_, name)| name).collect()))
}

/// The kind of values that a declared type stands for (https://sqlite.org/datatype3.html, 3.1, and
/// the customary names of dates).
fn affinity(type_name: &str) -> ColumnKind {
    let upper = type_name.to_uppercase();
    let has = |part: &str| upper.contains(part);
    if has("INT") {
        ColumnKind::Integer
    } else if has("CHAR") || has("CLOB") || has("TEXT") || has("UUID") {
        ColumnKind::Text
    } else if has("DATE") || has("TIME") {
        ColumnKind::Civil
    } else if has("BLOB") {
        ColumnKind::Bytes
    } else if has("REAL") || has("FLOA") || has("DOUB") || has("NUM") || has("DEC") {
        ColumnKind::Number
    } else {
        ColumnKind::Other
    }
}

async fn indexes(
    connection: &mut SqliteConnection,
    table: &str,
) -> Result<Vec<Index>, sqlx::Error> {
    let list = statement(
        "SELECT name, \"unique\", partial FROM pragma_index_list(?) ORDER BY name",
        table,
    );
    let mut indexes = Vec::new();
    for row in fetch(connection, &list).await? {
        let name = row.text(0).unwrap_or_default();
        let info = statement(
            "SELECT coalesce(name, '') FROM pragma_index_xinfo(?) WHERE key = 1 ORDER BY seqno",
            &name,
        );
        let columns = fetch(connection, &info).await?;
        indexes.push(Index {
            name,
            columns: columns.iter().map(|row| row.text(0).unwrap_or_default()).collect(),
            unique: row.int(1) == Some(1),
            partial: row.int(2) == Some(1),
        });
    }
    Ok(indexes)
}

async fn references(
    connection: &mut SqliteConnection,
    table: &str,
) -> Result<Vec<Reference>, sqlx::Error> {
    let query = statement(
        "SELECT m.name, f.id, f.\"from\", coalesce(f.\"to\", ''), f.on_delete, \
                EXISTS (SELECT 1 FROM pragma_index_list(m.name) l, pragma_index_info(l.name) i \
                        WHERE l.partial = 0 AND i.seqno = 0 AND i.name = f.\"from\") \
                OR EXISTS (SELECT 1 FROM pragma_table_info(m.name) c \
                           WHERE c.name = f.\"from\" AND c.pk = 1 AND upper(c.type) = 'INTEGER') \
         FROM sqlite_schema m, pragma_foreign_key_list(m.name) f \
         WHERE m.type = 'table' AND f.\"table\" = ? COLLATE NOCASE ORDER BY m.name, f.id, f.seq",
        table,
    );
    let mut references: Vec<Reference> = Vec::new();
    for row in fetch(connection, &query).await? {
        let child = row.text(0).unwrap_or_default();
        let name = format!("{child} ({})", row.int(1).unwrap_or_default());
        let (from, to) = (row.text(2).unwrap_or_default(), row.text(3).unwrap_or_default());
        if let Some(last) = references.last_mut().filter(|last| last.name == name) {
            last.columns.push(from);
            last.target_columns.push(to);
            continue;
        }
        references.push(Reference {
            name,
            schema: None,
            table: child,
            columns: vec![from],
            target_columns: vec![to],
            on_delete: match row.text(4).as_deref() {
                Some("CASCADE") => OnDelete::Cascade,
                Some("SET NULL") => OnDelete::SetNull,
                Some("SET DEFAULT") => OnDelete::SetDefault,
                _ => OnDelete::Refuse,
            },
            indexed: row.int(5) == Some(1),
            declared: true,
        });
    }
    Ok(references)
}

async fn triggers(
    connection: &mut SqliteConnection,
    table: &str,
) -> Result<Vec<Trigger>, sqlx::Error> {
    let query = statement(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE ORDER BY name",
        table,
    );
    let trigger = |row: &Row| {
        let event = trigger_event(&row.text(1).unwrap_or_default());
        Trigger {
            name: row.text(0).unwrap_or_default(),
            on_delete: event == Some(Keyword::DELETE),
            on_update: event == Some(Keyword::UPDATE),
        }
    };
    let found = fetch(connection, &query).await?;
    Ok(found.iter().map(trigger).filter(|t| t.on_delete || t.on_update).collect())
}

/// The event that a trigger fires on: the first such word outside of quotes and comments.
fn trigger_event(sql: &str) -> Option<Keyword> {
    let tokens = Tokenizer::new(&SQLiteDialect {}, sql).tokenize().ok()?;
    let events = [Keyword::DELETE, Keyword::UPDATE, Keyword::INSERT];
    tokens.into_iter().find_map(|token| match token {
        Token::Word(word) if word.quote_style.is_none() && events.contains(&word.keyword) => {
            Some(word.keyword)
        }
        _ => None,
    })
}
