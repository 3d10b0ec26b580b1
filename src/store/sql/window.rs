//! Where rows lie, and what they are called: windows of a table, and keys read from rows.

use crate::rule::Dialect;
use crate::types::{Key, KeyValue};

use super::catalogue::{Column, ColumnKind, Shape, Table};
use super::statement::{Statement, Value};
use super::target::Target;
use super::{Cell, Row};

/// A part of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Window {
    /// Pages of a heap, from the first up to, not including, the second.
    Pages {
        /// First page.
        from: u64,
        /// The page after the last.
        to: u64,
    },
    /// Rows in key or rowid order, after the first up to and including the second.
    Span {
        /// The row before the first; from the start of the table where `None`.
        after: Option<Key>,
        /// The last row; to the end of the table where `None`.
        upto: Option<Key>,
    },
    /// Rows in the order of their key, after the first up to and including the second.
    Keys {
        /// The key before the first; from the start of the table where `None`.
        after: Option<Key>,
        /// The last key.
        upto: Key,
    },
    /// These rows, by where they lie.
    Rows(Vec<Key>),
    /// Rows that events name, by the values of these columns.
    Matching {
        /// The columns.
        columns: Vec<Column>,
        /// Their values.
        keys: Vec<Key>,
    },
}

/// How a table's rows are named while walking.
pub(super) enum Locator {
    Ctid,
    Columns(Vec<Column>),
}

impl Locator {
    pub(super) fn of(table: &Table) -> Locator {
        match table.shape {
            Shape::Heap => Locator::Ctid,
            Shape::Rowid => {
                let taken = |name: &str| {
                    table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name))
                };
                let free = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !taken(name));
                Locator::Columns(vec![Column {
                    name: free.unwrap_or("rowid").to_owned(),
                    type_name: "INTEGER".to_owned(),
                    kind: ColumnKind::Integer,
                    nullable: false,
                }])
            }
            Shape::Keyed | Shape::Unsupported => Locator::Columns(table.key.clone()),
        }
    }
}

/// Appends that a row lies inside the window.
pub(super) fn inside(s: &mut Statement, target: &Target, window: &Window) {
    let columns = match Locator::of(&target.table) {
        Locator::Ctid => Vec::new(),
        Locator::Columns(columns) => columns,
    };
    match window {
        Window::Pages { from, to } => {
            s.push("ctid >= ").bind(Value::Text(format!("({from},0)"))).push("::text::tid");
            s.push(" AND ctid < ").bind(Value::Text(format!("({to},0)"))).push("::text::tid");
        }
        Window::Span { after, upto } => {
            s.push("1 = 1");
            if let Some(after) = after {
                s.push(" AND ").key_beyond(&columns, after, false);
            }
            if let Some(upto) = upto {
                s.push(" AND ").key_beyond(&columns, upto, true);
            }
        }
        Window::Keys { after, upto } => {
            let key = &target.table.key;
            if let Some(after) = after {
                s.key_beyond(key, after, false).push(" AND ");
            }
            s.key_beyond(key, upto, true);
        }
        Window::Rows(rows) if columns.is_empty() => {
            let texts = rows.iter().map(|row| format!("({row})").replace(' ', "")).collect();
            s.push("ctid = ANY (").bind(Value::Texts(texts)).push("::text[]::tid[])");
        }
        Window::Rows(rows) => {
            s.key_in(&columns, rows);
        }
        Window::Matching { keys, .. } if keys.is_empty() => {
            s.push("1 = 0");
        }
        Window::Matching { columns, keys } => {
            s.key_in(columns, keys).push(" AND ").exactly(columns, keys);
        }
    }
}

/// Appends the key's columns in a form that [`read_key`] reads.
pub(super) fn select_key(s: &mut Statement, columns: &[Column]) {
    s.separated(", ", columns, |s, column| {
        let bytes = column.kind == ColumnKind::Bytes;
        match (s.dialect(), column.kind) {
            (Dialect::Postgres, ColumnKind::Integer) => s.name(&column.name).push("::bigint"),
            (Dialect::Postgres, _) => s.name(&column.name).push("::text"),
            (Dialect::Mysql, _) if !bytes => s.push("CAST(").name(&column.name).push(" AS CHAR)"),
            _ => s.name(&column.name),
        };
    });
}

/// Reads a key from the first columns of a row.
pub(super) fn read_key(
    dialect: Dialect,
    row: &Row,
    columns: &[Column],
) -> Result<Key, sqlx::Error> {
    // Its room is known: millions of keys are kept and passed on.
    let mut values = Vec::with_capacity(columns.len());
    for (place, column) in columns.iter().enumerate() {
        values.push(read_value(dialect, row, place, column).ok_or_else(|| {
            sqlx::Error::Decode(
                format!("a value of the key column `{}` is not readable", column.name).into(),
            )
        })?);
    }
    Ok(Key(values))
}

/// Reads a value by which rows are found again; `None` for NULL, and for what cannot be one.
pub(super) fn read_value(
    dialect: Dialect,
    row: &Row,
    place: usize,
    column: &Column,
) -> Option<KeyValue> {
    match (row.0.get(place)?, column.kind) {
        // SQLite's columns hold any type; the value's own is the one that finds it again.
        (Cell::Text(text), _) if dialect == Dialect::Sqlite => Some(KeyValue::Text(text.clone())),
        (Cell::Int(number), _) => Some(KeyValue::Int(i128::from(*number))),
        (Cell::Text(text), ColumnKind::Integer) => text.parse().ok().map(KeyValue::Int),
        (Cell::Text(text), ColumnKind::Uuid) => text.parse().ok().map(KeyValue::Uuid),
        (Cell::Text(text), ColumnKind::Bytes) => {
            hex::decode(text.strip_prefix("\\x").unwrap_or(text)).ok().map(KeyValue::Bytes)
        }
        (Cell::Text(text), _) => Some(KeyValue::Text(text.clone())),
        (Cell::Bytes(bytes), _) => Some(KeyValue::Bytes(bytes.clone())),
        _ => None,
    }
}

/// A ctid as a key of page and place, so that it sorts by where it lies.
pub(super) fn read_ctid(row: &Row) -> Result<Key, sqlx::Error> {
    let unreadable = || sqlx::Error::Decode("a ctid is not readable".into());
    let text = row.text(0).ok_or_else(unreadable)?;
    let (page, place) = text.trim_matches(['(', ')']).split_once(',').ok_or_else(unreadable)?;
    let number = |text: &str| text.parse().map(KeyValue::Int).map_err(|_| unreadable());
    Ok(Key(vec![number(page)?, number(place)?]))
}
