//! PostgreSQL: connecting, binding and reading values, and the catalogue.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPoolOptions, PgRow};
use sqlx::{
    Arguments, AssertSqlSafe, Column as _, Connection, Executor, PgPool, Row as _, TypeInfo,
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
/// A connection that was in use so short a time ago is not asked whether it is still there: each batch would ask several
/// times, and one that is lost says so at its first statement.
const JUST_USED: Duration = Duration::from_secs(1);

/// Prepares a pool; nothing is connected yet.
pub(super) fn pool(
    url: &str,
    access: Access,
    connect_timeout: Duration,
) -> Result<PgPool, sqlx::Error> {
    let mut options = PgConnectOptions::from_str(url)?.application_name("expunged").options([
        ("TimeZone", "UTC"),
        ("DateStyle", "ISO, YMD"),
        ("IntervalStyle", "iso_8601"),
        ("bytea_output", "hex"),
        ("extra_float_digits", "3"),
        // Others go first: a batch that waits for a lock this long is rolled back and tried again.
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "60s"),
    ]);
    if access == Access::ReadOnly {
        options = options.options([("default_transaction_read_only", "on")]);
    }
    Ok(PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(connect_timeout)
        .idle_timeout(Duration::from_mins(1))
        .test_before_acquire(false)
        .before_acquire(|connection, used| {
            Box::pin(async move {
                if used.idle_for >= JUST_USED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options))
}

run_statements!(PgConnection, PgArguments, unsigned: |value: u64| value.to_string(), list: |list: Vec<String>| list);

fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
    let mut cells = Vec::with_capacity(row.columns().len());
    for (index, column) in row.columns().iter().enumerate() {
        // Unchecked where the type was just looked at: there are millions of them.
        cells.push(match column.type_info().name() {
            "INT8" => row.try_get_unchecked::<Option<i64>, _>(index)?.map_or(Cell::Null, Cell::Int),
            "TEXT" => {
                row.try_get_unchecked::<Option<String>, _>(index)?.map_or(Cell::Null, Cell::Text)
            }
            "INT4" => {
                row.try_get::<Option<i32>, _>(index)?.map_or(Cell::Null, |v| Cell::Int(v.into()))
            }
            "BOOL" => {
                row.try_get::<Option<bool>, _>(index)?.map_or(Cell::Null, |v| Cell::Int(v.into()))
            }
            "TEXT[]" => {
                row.try_get::<Option<Vec<String>>, _>(index)?.map_or(Cell::Null, Cell::Texts)
            }
            _ => row.try_get::<Option<String>, _>(index)?.map_or(Cell::Null, Cell::Text),
        });
    }
    Ok(Row(cells))
}

fn statement(sql: &'static str, values: Vec<Value>) -> Statement {
    let mut statement = Statement::new(Dialect::Postgres, sql);
    statement.set_values(values);
    statement
}

/// Reads everything the catalogue knows about a table; `None` when there is no such table.
pub(super) async fn table(
    connection: &mut PgConnection,
    name: &TableName,
) -> Result<Option<Table>, sqlx::Error> {
    let find = statement(
        "SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, \
                CASE WHEN c.relkind = 'p' \
                     THEN (SELECT CASE WHEN min(l.reltuples) >= 0 THEN sum(l.reltuples)::bigint END \
                           FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf) \
                     ELSE c.reltuples::bigint END, \
                (CASE WHEN c.relkind = 'p' \
                      THEN (SELECT sum(pg_relation_size(t.relid))::bigint FROM pg_partition_tree(c.oid) t WHERE t.isleaf) \
                      ELSE pg_relation_size(c.oid) END) / current_setting('block_size')::bigint, \
                has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'DELETE'), \
                has_table_privilege(c.oid, 'UPDATE') OR has_any_column_privilege(c.oid, 'UPDATE'), \
                am.amname::text, \
                EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = c.oid), \
                c.relhasrules OR EXISTS (SELECT 1 FROM pg_attribute g WHERE g.attrelid = c.oid AND g.attgenerated <> ''), \
                c.relhasrules OR (c.relkind = 'r' AND EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = c.oid)) \
                OR EXISTS (SELECT 1 FROM pg_trigger g WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND (g.tgtype & 24) <> 0 \
                           AND (g.tgrelid = c.oid OR g.tgrelid IN (SELECT t.relid FROM pg_partition_tree(c.oid) t))) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
              LEFT JOIN pg_am am ON am.oid = c.relam \
         WHERE c.relname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
           AND CASE WHEN $2::text IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = $2 END",
        vec![Value::Text(name.table.clone()), name.schema.clone().map_or(Value::Null, Value::Text)],
    );
    let rows = fetch(connection, &find).await?;
    let Some(found) = rows.first() else { return Ok(None) };
    let oid = found.int(0).unwrap_or_default();
    let columns = columns(connection, oid).await?;
    let (indexes, primary) = indexes(connection, oid).await?;
    let mut table = Table {
        dialect: Dialect::Postgres,
        schema: found.text(1),
        name: found.text(2).unwrap_or_default(),
        // A table that others inherit from has more rows than its own pages hold.
        shape: match (found.text(3).as_deref(), found.text(9).as_deref()) {
            (Some("r"), Some("heap")) if found.int(10) == Some(0) => Shape::Heap,
            (Some("r" | "p"), _) => Shape::Keyed,
            _ => Shape::Unsupported,
        },
        partitioned: found.text(3).as_deref() == Some("p"),
        family: family(connection, oid).await?,
        correlations: correlations(connection, found.text(1), found.text(2)).await?,
        returns_deleted: true,
        returns_unchanged: found.int(11) == Some(0),
        columns,
        key: Vec::new(),
        indexes,
        referenced_by: references(connection, oid).await?,
        triggers: triggers(connection, oid).await?,
        side_effects: SideEffects::possible_if(found.int(12) != Some(0)),
        privileges: Privileges {
            select: found.int(6).map(|yes| yes == 1),
            delete: found.int(7).map(|yes| yes == 1),
            update: found.int(8).map(|yes| yes == 1),
        },
        statistics: Statistics {
            rows: found.int(4).and_then(|rows| u64::try_from(rows).ok()),
            pages: found.int(5).and_then(|pages| u64::try_from(pages).ok()),
        },
    };
    table.choose_key(&primary);
    Ok(Some(table))
}

/// What `pg_stats` tells of the table's own rows. Asked by names: by anything else it would unpack the statistics of every
/// column that there is.
async fn correlations(
    connection: &mut PgConnection,
    schema: Option<String>,
    table: Option<String>,
) -> Result<BTreeMap<String, f64>, sqlx::Error> {
    let name = |name: Option<String>| name.map_or(Value::Null, Value::Text);
    let query = statement(
        "SELECT attname::text, correlation::text FROM pg_stats \
         WHERE schemaname = $1::text::name AND tablename = $2::text::name AND NOT inherited AND correlation IS NOT NULL",
        vec![name(schema), name(table)],
    );
    let read = |row: &Row| Some((row.text(0)?, row.text(1)?.parse().ok()?));
    Ok(fetch(connection, &query).await?.iter().filter_map(read).collect())
}

/// The tables that it inherits from, however far up, and those that inherit from it.
async fn family(
    connection: &mut PgConnection,
    oid: i64,
) -> Result<Vec<(Option<String>, String)>, sqlx::Error> {
    let query = statement(
        "WITH RECURSIVE up (id) AS ( \
           SELECT inhparent FROM pg_inherits WHERE inhrelid = $1::bigint::oid \
           UNION SELECT i.inhparent FROM pg_inherits i JOIN up ON i.inhrelid = up.id), \
         down (id) AS ( \
           SELECT inhrelid FROM pg_inherits WHERE inhparent = $1::bigint::oid \
           UNION SELECT i.inhrelid FROM pg_inherits i JOIN down ON i.inhparent = down.id) \
         SELECT n.nspname::text, c.relname::text FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid IN (SELECT id FROM up UNION SELECT id FROM down) ORDER BY 1, 2",
        vec![Value::Int(oid)],
    );
    let named = |row: &Row| (row.text(0), row.text(1).unwrap_or_default());
    Ok(fetch(connection, &query).await?.iter().map(named).collect())
}

async fn columns(connection: &mut PgConnection, oid: i64) -> Result<Vec<Column>, sqlx::Error> {
    let query = statement(
        "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, \
                CASE WHEN t.typtype = 'd' THEN b.typname ELSE t.typname END::text \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
              LEFT JOIN pg_type b ON b.oid = t.typbasetype \
         WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        vec![Value::Int(oid)],
    );
    let column = |row: &Row| Column {
        name: row.text(0).unwrap_or_default(),
        type_name: row.text(1).unwrap_or_default(),
        nullable: row.int(2) == Some(1),
        kind: match row.text(3).as_deref() {
            Some("int2" | "int4" | "int8") => ColumnKind::Integer,
            Some("numeric" | "float4" | "float8") => ColumnKind::Number,
            Some("text" | "varchar" | "bpchar" | "citext") => ColumnKind::Text,
            Some("uuid") => ColumnKind::Uuid,
            Some("bytea") => ColumnKind::Bytes,
            Some("timestamptz") => ColumnKind::Instant,
            Some("timestamp") => ColumnKind::Civil,
            Some("date") => ColumnKind::Date,
            Some("inet" | "cidr") => ColumnKind::Inet,
            _ => ColumnKind::Other,
        },
    };
    Ok(fetch(connection, &query).await?.iter().map(column).collect())
}

/// The indexes, and the primary key's columns.
async fn indexes(
    connection: &mut PgConnection,
    oid: i64,
) -> Result<(Vec<Index>, Vec<String>), sqlx::Error> {
    let query = statement(
        "SELECT ic.relname::text, i.indisunique, i.indisprimary, \
                i.indpred IS NOT NULL OR NOT i.indisvalid OR am.amname <> 'btree', \
                ARRAY(SELECT coalesce(a.attname::text, '') FROM unnest(i.indkey::int2[]) \
                      WITH ORDINALITY AS k (num, place) \
                      LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num AND k.num > 0 \
                      WHERE k.place <= i.indnkeyatts ORDER BY k.place), \
                i.indimmediate \
         FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am am ON am.oid = ic.relam \
         WHERE i.indrelid = $1::bigint::oid ORDER BY ic.relname",
        vec![Value::Int(oid)],
    );
    let mut primary = Vec::new();
    let mut indexes = Vec::new();
    for row in fetch(connection, &query).await? {
        let columns = row.texts(4);
        if row.int(2) == Some(1) {
            primary.clone_from(&columns);
        }
        indexes.push(Index {
            name: row.text(0).unwrap_or_default(),
            unique: row.int(1) == Some(1) && row.int(5) == Some(1),
            partial: row.int(3) == Some(1),
            columns,
        });
    }
    Ok((indexes, primary))
}

/// The foreign keys through which a deletion here is noticed elsewhere. One on a partitioned table is
/// noticed in each partition, and one on a partition where rows go through the whole.
async fn references(
    connection: &mut PgConnection,
    oid: i64,
) -> Result<Vec<Reference>, sqlx::Error> {
    let query = statement(
        // Copies that PostgreSQL makes of a key for each partition have a parent.
        "WITH RECURSIVE up (id) AS ( \
           SELECT $1::bigint::oid \
           UNION SELECT i.inhparent FROM pg_inherits i JOIN up ON i.inhrelid = up.id \
                 JOIN pg_class p ON p.oid = i.inhrelid AND p.relispartition), \
         down (id) AS ( \
           SELECT $1::bigint::oid \
           UNION SELECT i.inhrelid FROM pg_inherits i JOIN down ON i.inhparent = down.id) \
         SELECT c.conname::text, n.nspname::text, r.relname::text, \
                ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k (num, place) \
                      JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.num ORDER BY k.place), \
                ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k (num, place) \
                      JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.num ORDER BY k.place), \
                c.confdeltype::text, \
                EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indisvalid \
                        AND i.indpred IS NULL AND i.indkey[0] = ANY (c.conkey)) \
         FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid \
              JOIN pg_namespace n ON n.oid = r.relnamespace \
         WHERE c.confrelid IN (SELECT id FROM up UNION SELECT id FROM down) \
           AND c.contype = 'f' AND c.conparentid = 0 \
         ORDER BY c.conname, 2, 3",
        vec![Value::Int(oid)],
    );
    let reference = |row: &Row| Reference {
        name: row.text(0).unwrap_or_default(),
        schema: row.text(1),
        table: row.text(2).unwrap_or_default(),
        columns: row.texts(3),
        target_columns: row.texts(4),
        on_delete: match row.text(5).as_deref() {
            Some("c") => OnDelete::Cascade,
            Some("n") => OnDelete::SetNull,
            Some("d") => OnDelete::SetDefault,
            _ => OnDelete::Refuse,
        },
        indexed: row.int(6) == Some(1),
        declared: true,
    };
    let mut references: Vec<Reference> = Vec::new();
    for found in fetch(connection, &query).await?.iter().map(reference) {
        // The same columns may point at several partitions, or at one and at the whole.
        let is_same = |known: &Reference| {
            (&known.schema, &known.table, &known.columns, &known.target_columns)
                == (&found.schema, &found.table, &found.columns, &found.target_columns)
                && known.on_delete == found.on_delete
        };
        if !references.iter().any(is_same) {
            references.push(found);
        }
    }
    Ok(references)
}

async fn triggers(connection: &mut PgConnection, oid: i64) -> Result<Vec<Trigger>, sqlx::Error> {
    let query = statement(
        // Bits 3 and 4 of tgtype are DELETE and UPDATE (src/include/catalog/pg_trigger.h).
        "SELECT tgname::text, (tgtype & 8) <> 0, (tgtype & 16) <> 0 FROM pg_trigger \
         WHERE tgrelid = $1::bigint::oid AND NOT tgisinternal AND tgenabled <> 'D' \
           AND (tgtype & 24) <> 0 ORDER BY tgname",
        vec![Value::Int(oid)],
    );
    let trigger = |row: &Row| Trigger {
        name: row.text(0).unwrap_or_default(),
        on_delete: row.int(1) == Some(1),
        on_update: row.int(2) == Some(1),
    };
    Ok(fetch(connection, &query).await?.iter().map(trigger).collect())
}
