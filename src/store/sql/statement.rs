//! SQL text with its bound values: the only way to build SQL for a target.
//!
//! Text enters a [`Statement`] as a literal of this program, as an identifier or type that came from
//! the live catalogue and is quoted here, as a bound value (in MySQL's long lists as digits alone), or
//! as the operator's own condition, which was parsed as one expression. There is no method that takes
//! any other string.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use jiff::Timestamp;
use jiff::civil;

use crate::rule::{Condition, Dialect};
use crate::types::{Key, KeyValue};

use super::catalogue::{Column, ColumnKind, Table};

/// A bound value.
#[derive(Clone)]
pub(crate) enum Value {
    /// A signed integer.
    Int(i64),
    /// An unsigned integer beyond the signed ones (MySQL).
    UInt(u64),
    /// Text.
    Text(String),
    /// A list of texts, one parameter (PostgreSQL).
    Texts(Vec<String>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// An instant.
    Instant(DateTime<Utc>),
    /// A wall-clock time without a zone.
    Civil(NaiveDateTime),
    /// A day.
    Date(NaiveDate),
    /// No value.
    Null,
}

impl Value {
    /// An instant, to the microsecond.
    pub(crate) fn instant(at: Timestamp) -> Value {
        DateTime::from_timestamp_micros(at.as_microsecond()).map_or(Value::Null, Value::Instant)
    }

    /// A wall-clock time, to the microsecond.
    pub(crate) fn civil(at: civil::DateTime) -> Value {
        let time = at.subsec_nanosecond().unsigned_abs() / 1_000;
        let clock = |part: i8| u32::from(part.unsigned_abs());
        chrono_date(at.date())
            .and_then(|date| {
                date.and_hms_micro_opt(
                    clock(at.hour()),
                    clock(at.minute()),
                    clock(at.second()),
                    time,
                )
            })
            .map_or(Value::Null, Value::Civil)
    }

    /// A day.
    pub(crate) fn date(day: civil::Date) -> Value {
        chrono_date(day).map_or(Value::Null, Value::Date)
    }
}

fn chrono_date(day: civil::Date) -> Option<NaiveDate> {
    let part = |part: i8| u32::from(part.unsigned_abs());
    NaiveDate::from_ymd_opt(i32::from(day.year()), part(day.month()), part(day.day()))
}

/// SQL for one dialect, and the values of its placeholders in order.
pub(crate) struct Statement {
    dialect: Dialect,
    sql: String,
    values: Vec<Value>,
    reusable: bool,
}

impl Statement {
    /// Starts a statement with a literal of this program.
    pub(crate) fn new(dialect: Dialect, sql: &'static str) -> Self {
        Statement { dialect, sql: sql.to_owned(), values: Vec::new(), reusable: true }
    }

    /// Gives values to a literal that spells its placeholders itself.
    pub(crate) fn set_values(&mut self, values: Vec<Value>) {
        self.values = values;
    }

    /// The dialect it is written in.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Its text.
    pub(crate) fn text(&self) -> &str {
        &self.sql
    }

    /// Its bound values.
    pub(crate) fn values(&self) -> &[Value] {
        &self.values
    }

    /// Whether the text comes again, so that preparing it once pays.
    pub(crate) fn is_reusable(&self) -> bool {
        self.reusable
    }

    /// Appends a literal of this program.
    pub(crate) fn push(&mut self, sql: &'static str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    /// Appends the dialect's own way to say something.
    pub(crate) fn by_dialect(
        &mut self,
        postgres: &'static str,
        mysql: &'static str,
        sqlite: &'static str,
    ) -> &mut Self {
        self.push(match self.dialect {
            Dialect::Postgres => postgres,
            Dialect::Mysql => mysql,
            Dialect::Sqlite => sqlite,
        })
    }

    /// Appends a name from the catalogue, quoted. The one place where identifiers are quoted.
    pub(crate) fn name(&mut self, name: &str) -> &mut Self {
        let quote = if self.dialect == Dialect::Mysql { '`' } else { '"' };
        self.sql.push(quote);
        for character in name.chars() {
            if character == quote {
                self.sql.push(quote);
            }
            self.sql.push(character);
        }
        self.sql.push(quote);
        self
    }

    /// Appends a table with its schema.
    pub(crate) fn table(&mut self, table: &Table) -> &mut Self {
        self.qualified(table.schema.as_deref(), &table.name)
    }

    /// Appends a table name with its schema, where it has one.
    pub(crate) fn qualified(&mut self, schema: Option<&str>, table: &str) -> &mut Self {
        if let Some(schema) = schema {
            self.name(schema).push(".");
        }
        self.name(table)
    }

    /// Appends a column with its table, for `ORDER BY`: there a bare name means a selected
    /// expression first, and the key `id` is selected as text.
    pub(crate) fn column(&mut self, table: &Table, name: &str) -> &mut Self {
        self.name(&table.name).push(".").name(name)
    }

    /// Appends names, separated by commas.
    pub(crate) fn names<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> &mut Self {
        self.separated(", ", names, |s, name| {
            s.name(name);
        })
    }

    /// Appends a column's type as the catalogue spells it (PostgreSQL's `format_type` quotes).
    pub(crate) fn type_of(&mut self, column: &Column) -> &mut Self {
        self.sql.push_str(&column.type_name);
        self
    }

    /// Appends the operator's condition in parentheses, on lines of its own.
    pub(crate) fn condition(&mut self, condition: &Condition) -> &mut Self {
        self.sql.push_str("(\n");
        self.sql.push_str(condition.as_str());
        self.sql.push_str("\n)");
        self
    }

    /// Appends a placeholder and keeps its value.
    pub(crate) fn bind(&mut self, value: Value) -> &mut Self {
        self.values.push(value);
        if self.dialect == Dialect::Postgres {
            self.sql.push('$');
            self.sql.push_str(&self.values.len().to_string());
        } else {
            self.sql.push('?');
        }
        self
    }

    /// Appends a value as a literal that can be nothing else: digits, or hexadecimal digits. For lists of
    /// thousands that come again: a server keeps them with the prepared statement, where bound values
    /// would travel each time, and in MySQL each placeholder would be described to the client and back.
    pub(crate) fn literal(&mut self, value: &Value) -> &mut Self {
        let text = match (value, self.dialect) {
            (Value::Int(number), _) => number.to_string(),
            (Value::UInt(number), _) => number.to_string(),
            (Value::Text(text), Dialect::Mysql) => format!("_utf8mb4 X'{}'", hex::encode(text)),
            (Value::Bytes(bytes), Dialect::Mysql) => format!("X'{}'", hex::encode(bytes)),
            (Value::Text(text), Dialect::Postgres) => {
                format!("convert_from(decode('{}', 'hex'), 'UTF8')", hex::encode(text))
            }
            _ => return self.bind(value.clone()),
        };
        self.sql.push_str(&text);
        self
    }

    /// Appends each item, with a literal between two.
    pub(crate) fn separated<T>(
        &mut self,
        separator: &'static str,
        items: impl IntoIterator<Item = T>,
        mut push: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        for (position, item) in items.into_iter().enumerate() {
            if position > 0 {
                self.push(separator);
            }
            push(self, item);
        }
        self
    }

    /// Appends one value of a key for comparison with its column.
    pub(crate) fn key_value(&mut self, column: &Column, value: &KeyValue) -> &mut Self {
        if self.dialect == Dialect::Postgres {
            // Text and the column's own input function carry every type without loss.
            return self.bind(Value::Text(postgres_text(value))).push("::text::").type_of(column);
        }
        self.bind(match value {
            KeyValue::Int(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => Value::Int(number),
                (_, Ok(number)) => Value::UInt(number),
                _ => Value::Text(number.to_string()),
            },
            KeyValue::Text(text) => Value::Text(text.clone()),
            KeyValue::Uuid(uuid) => Value::Text(uuid.to_string()),
            KeyValue::Bytes(bytes) => Value::Bytes(bytes.clone()),
        })
    }

    /// Appends `(columns) IN (keys)`. Never called without keys.
    pub(crate) fn key_in(&mut self, columns: &[Column], keys: &[Key]) -> &mut Self {
        let names = || columns.iter().map(|column| column.name.as_str());
        if self.dialect == Dialect::Postgres {
            self.push("(").names(names()).push(") IN (SELECT ");
            let letters = ["a", "b", "c", "d", "e", "f", "g", "h"];
            self.separated(", ", columns.iter().zip(letters), |s, (column, letter)| {
                s.push(letter).push("::").type_of(column);
            });
            self.push(" FROM unnest(");
            self.separated(", ", 0..columns.len(), |s, position| {
                let texts = keys.iter().map(|key| postgres_text(&key.0[position])).collect();
                s.bind(Value::Texts(texts)).push("::text[]");
            });
            self.push(") AS wanted (").separated(
                ", ",
                letters.into_iter().take(columns.len()),
                |s, l| {
                    s.push(l);
                },
            );
            return self.push("))");
        }
        self.reusable = false;
        let row = |s: &mut Self, key: &Key| {
            s.push("(").separated(", ", columns.iter().zip(&key.0), |s, (column, value)| {
                s.key_value(column, value);
            });
            s.push(")");
        };
        self.push("(").names(names()).push(") IN (").by_dialect("", "", "VALUES ");
        self.separated(", ", keys, row).push(")")
    }

    /// Appends `(columns) IN (keys)`, for a statement that comes again with others, about as many. In MySQL the last is
    /// repeated up to one of a few lengths, so that what was prepared is used again: it is described to the client and back,
    /// and closing one makes the next wait for the network.
    pub(crate) fn some_keys_in(&mut self, columns: &[Column], keys: &[Key]) -> &mut Self {
        if self.dialect != Dialect::Mysql {
            return self.key_in(columns, keys);
        }
        let lengths = [1, 8, 40, 150];
        let length = lengths.into_iter().find(|length| *length >= keys.len());
        let missing = length.unwrap_or_default().saturating_sub(keys.len());
        let padding = keys.last().into_iter().cycle().take(missing);
        let padded: Vec<Key> = keys.iter().chain(padding).cloned().collect();
        self.key_in(columns, &padded);
        self.reusable = length.is_some();
        self
    }

    /// Appends that the texts among the columns are, letter by letter, one of the keys'. By their collation or
    /// their type's own comparison (`citext`, `char(n)`) `K1` may be taken for `k1`, and a cast to a shorter
    /// `varchar(n)` cuts a value off: so an event would name another's row.
    pub(crate) fn exactly(&mut self, columns: &[Column], keys: &[Key]) -> &mut Self {
        let is_text = |column: &Column| matches!(column.kind, ColumnKind::Text | ColumnKind::Other);
        let texts: Vec<usize> =
            (0..columns.len()).filter(|place| is_text(&columns[*place])).collect();
        if texts.is_empty() {
            return self.push("1 = 1");
        }
        self.push("(").separated(", ", &texts, |s, place| {
            let name = &columns[*place].name;
            s.by_dialect("", "BINARY CONVERT(", "").name(name);
            s.by_dialect("::text COLLATE \"C\"", " USING utf8mb4)", " COLLATE BINARY");
        });
        if self.dialect == Dialect::Postgres {
            let letters = ["a", "b", "c", "d", "e", "f", "g", "h"];
            self.push(") IN (SELECT ").separated(", ", texts.iter().zip(letters), |s, (_, l)| {
                s.push(l);
            });
            self.push(" FROM unnest(").separated(", ", &texts, |s, place| {
                let values = keys.iter().map(|key| postgres_text(&key.0[*place])).collect();
                s.bind(Value::Texts(values)).push("::text[]");
            });
            self.push(") AS exact (").separated(", ", texts.iter().zip(letters), |s, (_, l)| {
                s.push(l);
            });
            return self.push("))");
        }
        self.push(") IN (").by_dialect("", "", "VALUES ");
        self.separated(", ", keys, |s: &mut Self, key: &Key| {
            s.push("(").separated(", ", &texts, |s, place| {
                s.key_value(&columns[*place], &key.0[*place]);
            });
            s.push(")");
        });
        self.push(")")
    }

    /// Appends `columns > key` in the key's order (or `<=` when `upper`).
    ///
    /// MySQL finds no index range for a row comparison of several columns, so it is written out.
    pub(crate) fn key_beyond(&mut self, columns: &[Column], key: &Key, upper: bool) -> &mut Self {
        let pairs: Vec<_> = columns.iter().zip(&key.0).collect();
        if self.dialect == Dialect::Mysql && pairs.len() > 1 {
            let strict = if upper { " < " } else { " > " };
            self.push("(");
            self.separated(" OR ", 0..pairs.len(), |s, last| {
                s.push("(").separated(" AND ", 0..=last, |s, position| {
                    let (column, value) = pairs[position];
                    let whole = upper && position + 1 == pairs.len();
                    s.name(&column.name);
                    s.push(match (position == last, whole) {
                        (false, _) => " = ",
                        (true, true) => " <= ",
                        (true, false) => strict,
                    });
                    s.key_value(column, value);
                });
                s.push(")");
            });
            return self.push(")");
        }
        self.push("(").names(columns.iter().map(|column| column.name.as_str()));
        self.push(if upper { ") <= (" } else { ") > (" });
        self.separated(", ", pairs, |s, (column, value)| {
            s.key_value(column, value);
        });
        self.push(")")
    }
}

/// A key's value as PostgreSQL's own output functions write it.
fn postgres_text(value: &KeyValue) -> String {
    match value {
        KeyValue::Bytes(bytes) => format!("\\x{}", hex::encode(bytes)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::ColumnKind;
    use super::*;

    fn column(name: &str, type_name: &str) -> Column {
        Column {
            name: name.into(),
            type_name: type_name.into(),
            kind: ColumnKind::Integer,
            nullable: false,
        }
    }

    #[test]
    fn a_hostile_name_stays_one_name() {
        let mut statement = Statement::new(Dialect::Postgres, "SELECT ");
        statement.name("a\"; DROP TABLE b; --");
        assert_eq!(statement.text(), "SELECT \"a\"\"; DROP TABLE b; --\"");
        let mut statement = Statement::new(Dialect::Mysql, "SELECT ");
        statement.name("a`b\"c");
        assert_eq!(statement.text(), "SELECT `a``b\"c`");
    }

    #[test]
    fn values_are_bound_in_order() {
        let mut statement = Statement::new(Dialect::Postgres, "WHERE a = ");
        statement.bind(Value::Int(1)).push(" AND b = ").bind(Value::Text("x' OR 1".into()));
        assert_eq!(statement.text(), "WHERE a = $1 AND b = $2");
        assert_eq!(statement.values().len(), 2);
    }

    #[test]
    fn a_literal_holds_nothing_but_digits() {
        let mut statement = Statement::new(Dialect::Mysql, "x IN (");
        statement.literal(&Value::Int(-7)).push(", ").literal(&Value::Text("a'); --".into()));
        assert_eq!(statement.text(), "x IN (-7, _utf8mb4 X'6127293b202d2d'");
        assert!(statement.values().is_empty() && statement.is_reusable());
        let mut statement = Statement::new(Dialect::Postgres, "");
        statement.literal(&Value::Text("a'".into()));
        assert_eq!(statement.text(), "convert_from(decode('6127', 'hex'), 'UTF8')");
    }

    #[test]
    fn composite_keys_compare_in_key_order_in_every_dialect() {
        let columns = [column("a", "bigint"), column("b", "uuid")];
        let key = Key(vec![KeyValue::Int(7), KeyValue::Text("x".into())]);
        let text = |dialect, upper| {
            let mut statement = Statement::new(dialect, "");
            statement.key_beyond(&columns, &key, upper);
            (statement.text().to_owned(), statement.values().len())
        };
        assert_eq!(
            text(Dialect::Postgres, false),
            ("(\"a\", \"b\") > ($1::text::bigint, $2::text::uuid)".into(), 2)
        );
        assert_eq!(text(Dialect::Sqlite, true), ("(\"a\", \"b\") <= (?, ?)".into(), 2));
        assert_eq!(text(Dialect::Mysql, false), ("((`a` > ?) OR (`a` = ? AND `b` > ?))".into(), 3));
        assert_eq!(text(Dialect::Mysql, true), ("((`a` < ?) OR (`a` = ? AND `b` <= ?))".into(), 3));
    }

    #[test]
    fn a_list_of_keys_is_an_array_in_postgres_and_rows_elsewhere() {
        let columns = [column("id", "bigint")];
        let keys = [Key(vec![KeyValue::Int(1)]), Key(vec![KeyValue::Int(2)])];
        let mut statement = Statement::new(Dialect::Postgres, "");
        statement.key_in(&columns, &keys);
        assert_eq!(
            statement.text(),
            "(\"id\") IN (SELECT a::bigint FROM unnest($1::text[]) AS wanted (a))"
        );
        let mut statement = Statement::new(Dialect::Sqlite, "");
        statement.key_in(&columns, &keys);
        assert_eq!(statement.text(), "(\"id\") IN (VALUES (?), (?))");
        assert!(!statement.is_reusable());
    }
}
