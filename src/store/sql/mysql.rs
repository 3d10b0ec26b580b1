//! MySQL and MariaDB: connecting, binding and reading values, and the catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use sqlx::mysql::{
    MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlPoolOptions, MySqlRow,
};
use sqlx::{
    Arguments, AssertSqlSafe, Column as _, Executor, MySql, MySqlPool, Row as _, Transaction,
    TypeInfo,
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

/// Connections that are kept at most: those that delete, eight workers' and that of the batch being committed, and those
/// that look on meanwhile.
const CONNECTIONS: u32 = 16;

/// Prepares a pool; nothing is connected yet.
pub(super) fn pool(
    url: &str,
    access: Access,
    connect_timeout: Duration,
) -> Result<MySqlPool, sqlx::Error> {
    // READ COMMITTED takes no gap locks, so a batch blocks no inserts; a row that matches only since
    // the batch looked makes the counts differ, and the batch is rolled back.
    let session = match access {
        Access::ReadOnly => {
            ["SET SESSION TRANSACTION READ ONLY", "SET SESSION innodb_lock_wait_timeout = 2"]
        }
        Access::ReadWrite => [
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET SESSION innodb_lock_wait_timeout = 2",
        ],
    };
    Ok(MySqlPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(connect_timeout)
        .idle_timeout(Duration::from_mins(1))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for statement in session {
                    connection.execute(statement).await?;
                }
                Ok(())
            })
        })
        // The server's own meaning of `||`, which is the one that an operator's condition was written in.
        .connect_lazy_with(MySqlConnectOptions::from_str(url)?.pipes_as_concat(false)))
}

/// Commits. A backup may keep everybody from that for a while, and what was announced is not given up for it.
pub(super) async fn commit(mut tx: Transaction<'static, MySql>) -> Result<(), sqlx::Error> {
    tx.execute("SET SESSION lock_wait_timeout = 60").await?;
    tx.commit().await
}

run_statements!(MySqlConnection, MySqlArguments, unsigned: |value: u64| value, list: |list: Vec<String>| list.join(","));

fn read(row: &MySqlRow) -> Result<Row, sqlx::Error> {
    let mut cells = Vec::with_capacity(row.columns().len());
    for (index, column) in row.columns().iter().enumerate() {
        let name = column.type_info().name();
        cells.push(if name.contains("UNSIGNED") {
            let value = row.try_get_unchecked::<Option<u64>, _>(index)?;
            value.and_then(|value| i64::try_from(value).ok()).map_or(Cell::Null, Cell::Int)
        } else if name.contains("INT") || name == "BOOLEAN" {
            row.try_get_unchecked::<Option<i64>, _>(index)?.map_or(Cell::Null, Cell::Int)
        } else if name.contains("BINARY") || name.contains("BLOB") {
            row.try_get_unchecked::<Option<Vec<u8>>, _>(index)?.map_or(Cell::Null, Cell::Bytes)
        } else {
            row.try_get_unchecked::<Option<String>, _>(index)?.map_or(Cell::Null, Cell::Text)
        });
    }
    Ok(Row(cells))
}

fn statement(sql: &'static str, schema: &str, table: &str) -> Statement {
    let mut statement = Statement::new(Dialect::Mysql, sql);
    statement.set_values(vec![Value::Text(schema.to_owned()), Value::Text(table.to_owned())]);
    statement
}

/// How many seconds a replica lags behind; the most, where it follows several. `None` where it follows none, or does not
/// get on.
pub(super) async fn seconds_behind(
    connection: &mut MySqlConnection,
) -> Result<Option<i64>, sqlx::Error> {
    // MySQL 8.0.22 and MariaDB 10.5 know the first; the servers before them the second.
    let rows = match connection.fetch_all("SHOW REPLICA STATUS").await {
        Err(sqlx::Error::Database(_)) => connection.fetch_all("SHOW SLAVE STATUS").await?,
        rows => rows?,
    };
    let mut most = Some(0).filter(|_| !rows.is_empty());
    for row in &rows {
        let name = |column: &&str| row.columns().iter().any(|known| known.name() == *column);
        let column = ["Seconds_Behind_Source", "Seconds_Behind_Master"].into_iter().find(name);
        let behind = match column {
            Some(column) => row.try_get_unchecked::<Option<i64>, _>(column)?,
            None => None,
        };
        most = most.zip(behind).map(|(most, behind)| most.max(behind));
    }
    Ok(most)
}

/// Reads everything the catalogue knows about a table; `None` when there is no such table.
pub(super) async fn table(
    connection: &mut MySqlConnection,
    name: &TableName,
) -> Result<Option<Table>, sqlx::Error> {
    let schema = if let Some(schema) = &name.schema {
        schema.clone()
    } else {
        let current = Statement::new(Dialect::Mysql, "SELECT CAST(DATABASE() AS CHAR)");
        let rows = fetch(connection, &current).await?;
        rows.first().and_then(|row| row.text(0)).unwrap_or_default()
    };
    let find = statement(
        "SELECT CAST(table_type AS CHAR), CAST(engine AS CHAR), CAST(table_rows AS SIGNED), \
                CAST(data_length DIV 16384 AS SIGNED), CAST(table_schema AS CHAR), CAST(table_name AS CHAR), \
                VERSION() LIKE '%MariaDB%' \
         FROM information_schema.tables WHERE table_schema = ? AND table_name = ?",
        &schema,
        &name.table,
    );
    let rows = fetch(connection, &find).await?;
    let Some(found) = rows.first() else { return Ok(None) };
    let engine = found.text(1).unwrap_or_default();
    let (schema, table_name) =
        (found.text(4).unwrap_or(schema), found.text(5).unwrap_or_else(|| name.table.clone()));
    let (indexes, primary) = indexes(connection, &schema, &table_name).await?;
    let positive = |cell: Option<i64>| cell.and_then(|count| u64::try_from(count).ok());
    let triggers = triggers(connection, &schema, &table_name).await?;
    let mut table = Table {
        dialect: Dialect::Mysql,
        // Only a transactional engine can undo a batch; MyISAM and Aria cannot.
        shape: if found.text(0).as_deref() == Some("BASE TABLE") && engine == "InnoDB" {
            Shape::Keyed
        } else {
            Shape::Unsupported
        },
        columns: columns(connection, &schema, &table_name).await?,
        family: Vec::new(),
        key: Vec::new(),
        indexes,
        referenced_by: references(connection, &schema, &table_name).await?,
        side_effects: SideEffects::possible_if(!triggers.is_empty()),
        triggers,
        privileges: privileges(connection, &schema, &table_name).await?,
        statistics: Statistics { rows: positive(found.int(2)), pages: positive(found.int(3)) },
        // Those that it has are parts of one table, and its keys are unique over all of them.
        partitioned: false,
        correlations: BTreeMap::new(),
        // Every MariaDB that knows the transactions begun here does (10.0); MySQL never does.
        returns_deleted: found.int(6) == Some(1),
        returns_unchanged: false,
        schema: Some(schema),
        name: table_name,
    };
    table.choose_key(&primary);
    Ok(Some(table))
}

async fn columns(
    connection: &mut MySqlConnection,
    schema: &str,
    table: &str,
) -> Result<Vec<Column>, sqlx::Error> {
    let query = statement(
        "SELECT CAST(column_name AS CHAR), CAST(column_type AS CHAR), \
                is_nullable = 'YES', CAST(data_type AS CHAR) \
         FROM information_schema.columns WHERE table_schema = ? AND table_name = ? \
         ORDER BY ordinal_position",
        schema,
        table,
    );
    let column = |row: &Row| Column {
        name: row.text(0).unwrap_or_default(),
        type_name: row.text(1).unwrap_or_default(),
        nullable: row.int(2) == Some(1),
        kind: match row.text(3).unwrap_or_default().to_lowercase().as_str() {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => ColumnKind::Integer,
            "decimal" | "float" | "double" => ColumnKind::Number,
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
                ColumnKind::Text
            }
            "uuid" => ColumnKind::Uuid,
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
                ColumnKind::Bytes
            }
            "timestamp" => ColumnKind::Instant,
            "datetime" => ColumnKind::Civil,
            "date" => ColumnKind::Date,
            "inet4" | "inet6" => ColumnKind::Inet,
            _ => ColumnKind::Other,
        },
    };
    Ok(fetch(connection, &query).await?.iter().map(column).collect())
}

/// The indexes, and the primary key's columns.
async fn indexes(
    connection: &mut MySqlConnection,
    schema: &str,
    table: &str,
) -> Result<(Vec<Index>, Vec<String>), sqlx::Error> {
    let query = statement(
        "SELECT CAST(index_name AS CHAR), CAST(non_unique AS SIGNED), \
                CAST(COALESCE(column_name, '') AS CHAR), index_type <> 'BTREE', sub_part IS NOT NULL \
         FROM information_schema.statistics WHERE table_schema = ? AND table_name = ? \
         ORDER BY index_name, seq_in_index",
        schema,
        table,
    );
    let mut indexes: BTreeMap<String, Index> = BTreeMap::new();
    for row in fetch(connection, &query).await? {
        let name = row.text(0).unwrap_or_default();
        let index = indexes.entry(name.clone()).or_insert_with(|| Index {
            name,
            columns: Vec::new(),
            unique: row.int(1) == Some(0),
            partial: row.int(3) == Some(1),
        });
        index.columns.push(row.text(2).unwrap_or_default());
        // A prefix of a text is unique by itself only by chance, and orders only roughly.
        index.partial |= row.int(4) == Some(1);
    }
    let primary = indexes.get("PRIMARY").map(|index| index.columns.clone()).unwrap_or_default();
    Ok((indexes.into_values().collect(), primary))
}

async fn references(
    connection: &mut MySqlConnection,
    schema: &str,
    table: &str,
) -> Result<Vec<Reference>, sqlx::Error> {
    // InnoDB demands an index for every foreign key, so the referencing side always has one.
    let query = statement(
        "SELECT CAST(k.constraint_name AS CHAR), CAST(k.table_schema AS CHAR), \
                CAST(k.table_name AS CHAR), CAST(k.column_name AS CHAR), \
                CAST(k.referenced_column_name AS CHAR), CAST(r.delete_rule AS CHAR) \
         FROM information_schema.key_column_usage k \
         LEFT JOIN information_schema.referential_constraints r \
           ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name \
              AND r.table_name = k.table_name \
         WHERE k.referenced_table_schema = ? AND k.referenced_table_name = ? \
         ORDER BY k.constraint_name, k.ordinal_position",
        schema,
        table,
    );
    let mut references: BTreeMap<(String, String), Reference> = BTreeMap::new();
    let mut untold = BTreeSet::new();
    for row in fetch(connection, &query).await? {
        let (name, table) = (row.text(0).unwrap_or_default(), row.text(2).unwrap_or_default());
        if row.text(5).is_none() {
            untold.insert((table.clone(), name.clone()));
        }
        let reference =
            references.entry((table.clone(), name.clone())).or_insert_with(|| Reference {
                name,
                schema: row.text(1),
                table,
                columns: Vec::new(),
                target_columns: Vec::new(),
                on_delete: match row.text(5).as_deref() {
                    Some("CASCADE") => OnDelete::Cascade,
                    Some("SET NULL") => OnDelete::SetNull,
                    Some("SET DEFAULT") => OnDelete::SetDefault,
                    _ => OnDelete::Refuse,
                },
                indexed: true,
                declared: true,
            });
        reference.columns.push(row.text(3).unwrap_or_default());
        reference.target_columns.push(row.text(4).unwrap_or_default());
    }
    for known in untold {
        if let Some(reference) = references.get_mut(&known) {
            reference.on_delete = on_delete(connection, reference).await;
        }
    }
    Ok(references.into_values().collect())
}

/// What a deletion does by a foreign key, by the definition of its table: who has rights on tables alone sees no
/// `referential_constraints` in MariaDB. Where that is not told either, the key is taken for one that refuses: the database
/// itself does what it does.
async fn on_delete(connection: &mut MySqlConnection, reference: &Reference) -> OnDelete {
    let mut show = Statement::new(Dialect::Mysql, "SHOW CREATE TABLE ");
    show.qualified(reference.schema.as_deref(), &reference.table);
    let Ok(rows) = fetch(connection, &show).await else { return OnDelete::Refuse };
    let definition = rows.first().and_then(|row| row.text(1)).unwrap_or_default();
    let mut constraint = Statement::new(Dialect::Mysql, "CONSTRAINT ");
    constraint.name(&reference.name).push(" FOREIGN KEY ");
    // Each stands on a line of its own, and what it does at its end.
    let mut lines = definition.lines().map(str::trim_start);
    let line = lines.find(|line| line.starts_with(constraint.text())).unwrap_or_default();
    let after = line.rsplit_once(" ON DELETE ").map_or("", |(_, after)| after);
    [
        ("CASCADE", OnDelete::Cascade),
        ("SET NULL", OnDelete::SetNull),
        ("SET DEFAULT", OnDelete::SetDefault),
    ]
    .into_iter()
    .find_map(|(words, does)| after.starts_with(words).then_some(does))
    .unwrap_or(OnDelete::Refuse)
}

async fn triggers(
    connection: &mut MySqlConnection,
    schema: &str,
    table: &str,
) -> Result<Vec<Trigger>, sqlx::Error> {
    let query = statement(
        "SELECT CAST(trigger_name AS CHAR), event_manipulation = 'DELETE', \
                event_manipulation = 'UPDATE' \
         FROM information_schema.triggers \
         WHERE event_object_schema = ? AND event_object_table = ? \
           AND event_manipulation IN ('DELETE', 'UPDATE') ORDER BY trigger_name",
        schema,
        table,
    );
    let trigger = |row: &Row| Trigger {
        name: row.text(0).unwrap_or_default(),
        on_delete: row.int(1) == Some(1),
        on_update: row.int(2) == Some(1),
    };
    Ok(fetch(connection, &query).await?.iter().map(trigger).collect())
}

/// What the connected user may do, by its own grants at every level. What a role brings is not listed
/// there, so for a user with a role what is not found is unknown, not refused.
async fn privileges(
    connection: &mut MySqlConnection,
    schema: &str,
    table: &str,
) -> Result<Privileges, sqlx::Error> {
    let mut query = Statement::new(
        Dialect::Mysql,
        "SELECT CAST(privilege_type AS CHAR) FROM information_schema.user_privileges \
           WHERE grantee = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''') \
         UNION SELECT CAST(privilege_type AS CHAR) FROM information_schema.schema_privileges \
           WHERE grantee = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''') AND ? LIKE table_schema \
         UNION SELECT CAST(privilege_type AS CHAR) FROM information_schema.table_privileges \
           WHERE grantee = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''') \
             AND table_schema = ? AND table_name = ? \
         UNION SELECT CONCAT(CAST(privilege_type AS CHAR), ' (columns)') FROM information_schema.column_privileges \
           WHERE grantee = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''') \
             AND table_schema = ? AND table_name = ? \
         UNION SELECT 'a role' FROM information_schema.applicable_roles",
    );
    let (schema, table) = (Value::Text(schema.to_owned()), Value::Text(table.to_owned()));
    query.set_values(vec![schema.clone(), schema.clone(), table.clone(), schema, table]);
    let rows = fetch(connection, &query).await?;
    let granted: Vec<_> = rows.iter().filter_map(|row| row.text(0)).collect();
    let has = |wanted: &str| granted.iter().any(|privilege| privilege == wanted);
    let may = |wanted: &str, of_columns: &str| {
        let granted = has(wanted) || has(of_columns);
        (granted || !has("a role")).then_some(granted)
    };
    Ok(Privileges {
        select: may("SELECT", "SELECT (columns)"),
        delete: may("DELETE", ""),
        update: may("UPDATE", "UPDATE (columns)"),
    })
}
