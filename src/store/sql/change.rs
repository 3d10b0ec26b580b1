//! Anonymization in SQL: what each strategy sets, and how an anonymized record is told from a fresh
//! one.
//!
//! A strategy whose result a column shows by itself is computed by the database. The others (`hmac`,
//! `random`, `fake`, networks of addresses) are computed in this process, so that the pseudonym key
//! never travels to a database, and leave a marker.

use crate::anonymize::{DateUnit, Strategy};
use crate::rule::Dialect;

use super::catalogue::{Column, ColumnKind};
use super::start::value_of;
use super::statement::{Statement, Value};
use super::target::Change;

impl Change {
    /// Why a strategy does not fit a column, if it does not.
    pub(super) fn refuses(
        dialect: Dialect,
        column: &Column,
        strategy: &Strategy,
    ) -> Option<&'static str> {
        let text = column.kind == ColumnKind::Text
            || (dialect == Dialect::Sqlite && column.kind == ColumnKind::Other);
        let time =
            matches!(column.kind, ColumnKind::Instant | ColumnKind::Civil | ColumnKind::Date);
        let number = matches!(column.kind, ColumnKind::Integer | ColumnKind::Number);
        let fits = match strategy {
            Strategy::Null if !column.nullable => return Some(", which is NOT NULL"),
            Strategy::Null | Strategy::Constant { .. } => true,
            Strategy::TruncateDate { .. } => time || (dialect == Dialect::Sqlite && text),
            Strategy::GeneralizeNumber { .. } => number,
            Strategy::GeneralizeIp { .. } => text || column.kind == ColumnKind::Inet,
            Strategy::Partial { .. } | Strategy::Hmac | Strategy::Fake { .. } => text,
            Strategy::Random => {
                text || matches!(column.kind, ColumnKind::Integer | ColumnKind::Uuid)
            }
        };
        if fits { None } else { Some("") }
    }

    /// The columns whose new values this process computes.
    pub(super) fn computed_here(&self) -> Vec<&(Column, Strategy)> {
        self.columns.iter().filter(|(_, strategy)| !strategy.is_recognizable()).collect()
    }

    /// Whether it gives this column a new value.
    pub(super) fn changes(&self, column: &Column) -> bool {
        let marker = self.marker.iter().map(|(marker, _)| marker);
        let mut changed = self.columns.iter().map(|(column, _)| column).chain(marker);
        changed.any(|changed| changed.name == column.name)
    }

    /// Appends, in parentheses, that the record is not anonymized yet.
    pub(super) fn is_fresh(&self, s: &mut Statement) {
        s.push("(");
        match &self.marker {
            Some((marker, _)) => {
                s.name(&marker.name).push(" IS NULL");
            }
            None => {
                s.separated(" OR ", &self.columns, |s, (column, strategy)| {
                    differs(s, column, strategy);
                });
            }
        }
        s.push(")");
    }

    /// Appends the assignments: the database's own, the marker, and the values computed here (one
    /// for each of [`Change::computed_here`], in order).
    pub(super) fn assignments(
        &self,
        s: &mut Statement,
        now: jiff::Timestamp,
        computed: &[Option<String>],
    ) {
        let mut computed = computed.iter();
        s.separated(", ", &self.columns, |s, (column, strategy)| {
            s.name(&column.name).push(" = ");
            if strategy.is_recognizable() {
                new_value(s, column, strategy);
            } else {
                let value = computed.next().cloned().flatten();
                s.bind(value.map_or(Value::Null, Value::Text));
                cast(s, column);
            }
        });
        if let Some((marker, form)) = &self.marker {
            let at = value_of(*form, now, &jiff::tz::TimeZone::UTC);
            s.push(", ").name(&marker.name).push(" = ").bind(at);
        }
    }
}

/// Appends the cast from a bound text to the column's type, where the dialect wants one.
fn cast(s: &mut Statement, column: &Column) {
    if s.dialect() == Dialect::Postgres {
        s.push("::text::").type_of(column);
    }
}

/// Appends that the column's value is not what the strategy would set.
fn differs(s: &mut Statement, column: &Column, strategy: &Strategy) {
    let name = &column.name;
    let as_text = matches!(column.kind, ColumnKind::Text | ColumnKind::Other);
    match (strategy, s.dialect()) {
        (Strategy::Null, _) => {
            s.name(name).push(" IS NOT NULL");
        }
        (_, Dialect::Postgres) => {
            s.name(name).push("::text IS DISTINCT FROM (");
            new_value(s, column, strategy);
            s.push(")::text");
        }
        // By bytes: a collation would take `ANNA` and `anna` for the same. In one encoding, because
        // the column's may be another than the connection's.
        (_, Dialect::Mysql) if as_text => {
            s.push("NOT (CAST(CONVERT(").name(name).push(" USING utf8mb4) AS BINARY) <=> ");
            s.push("CAST(CONVERT(");
            new_value(s, column, strategy);
            s.push(" USING utf8mb4) AS BINARY))");
        }
        (_, Dialect::Mysql) => {
            s.push("NOT (").name(name).push(" <=> ");
            new_value(s, column, strategy);
            s.push(")");
        }
        (_, Dialect::Sqlite) => {
            s.name(name).push(" IS NOT ");
            new_value(s, column, strategy);
        }
    }
}

/// Appends the value that a strategy sets, computed by the database from the old one.
fn new_value(s: &mut Statement, column: &Column, strategy: &Strategy) {
    match strategy {
        Strategy::Constant { value } => {
            s.bind(Value::Text(value.clone()));
            cast(s, column);
        }
        Strategy::TruncateDate { to } => truncated_date(s, column, *to),
        Strategy::GeneralizeNumber { step } => rounded_down(s, column, *step),
        Strategy::Partial { keep_first, keep_last, mask } => {
            masked(s, column, *keep_first, *keep_last, *mask);
        }
        Strategy::Null
        | Strategy::GeneralizeIp { .. }
        | Strategy::Hmac
        | Strategy::Random
        | Strategy::Fake { .. } => {
            s.push("NULL");
        }
    }
}

fn truncated_date(s: &mut Statement, column: &Column, to: DateUnit) {
    let name = &column.name;
    match s.dialect() {
        Dialect::Postgres => {
            s.push(match to {
                DateUnit::Year => "date_trunc('year', ",
                DateUnit::Month => "date_trunc('month', ",
                DateUnit::Day => "date_trunc('day', ",
            });
            s.name(name).push(")::").type_of(column);
        }
        Dialect::Mysql => {
            s.push("CAST(DATE_FORMAT(").name(name).push(match to {
                DateUnit::Year => ", '%Y-01-01') AS ",
                DateUnit::Month => ", '%Y-%m-01') AS ",
                DateUnit::Day => ", '%Y-%m-%d') AS ",
            });
            s.push(if column.kind == ColumnKind::Date { "DATE)" } else { "DATETIME)" });
        }
        // What does not start with a day cannot be cut down, so nothing of it stays.
        Dialect::Sqlite => {
            s.push("CASE WHEN ").name(name);
            s.push(" GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*' THEN substr(").name(name);
            s.push(match to {
                DateUnit::Year => ", 1, 4) || '-01-01' END",
                DateUnit::Month => ", 1, 7) || '-01' END",
                DateUnit::Day => ", 1, 10) END",
            });
        }
    }
}

fn rounded_down(s: &mut Statement, column: &Column, step: u64) {
    let name = &column.name;
    let step = || Value::Int(i64::try_from(step).unwrap_or(i64::MAX));
    let bound = |s: &mut Statement| {
        s.bind(step()).by_dialect("::bigint", "", "");
    };
    s.push("(");
    if column.kind == ColumnKind::Integer {
        // Down also below zero: the remainder is made positive first.
        s.name(name).push(" - ((").name(name).push(" % ");
        bound(s);
        s.push(") + ");
        bound(s);
        s.push(") % ");
        bound(s);
    } else {
        // SQLite has no `floor`: cut towards zero, and one less where that went up.
        let quotient = |s: &mut Statement| {
            s.by_dialect("", "", "1.0 * ").name(name).push(" / ");
            bound(s);
        };
        if s.dialect() == Dialect::Sqlite {
            s.push("(CAST(");
            quotient(s);
            s.push(" AS INTEGER) - (");
            quotient(s);
            s.push(" < CAST(");
            quotient(s);
            s.push(" AS INTEGER)))");
        } else {
            s.push("floor(");
            quotient(s);
            s.push(")");
        }
        s.push(" * ");
        bound(s);
    }
    s.push(")");
    if s.dialect() == Dialect::Postgres {
        s.push("::").type_of(column);
    }
}

fn masked(s: &mut Statement, column: &Column, first: u32, last: u32, mask: char) {
    let name = &column.name;
    // No text is longer than this, and the databases count in 32 bits.
    let number = |count: u32| Value::Int(i64::from(count.min(0x3fff_ffff)));
    let length = |s: &mut Statement| {
        s.by_dialect("length(", "CHAR_LENGTH(", "length(").name(name).push(")");
    };
    // `repeat` of the mask; SQLite has none and replaces the digits of so many zero bytes.
    let masks = |s: &mut Statement, hidden: &dyn Fn(&mut Statement)| {
        if s.dialect() == Dialect::Sqlite {
            s.push("replace(hex(zeroblob(");
            hidden(s);
            s.push(")), '00', ").bind(Value::Text(mask.to_string())).push(")");
        } else {
            s.push("repeat(").bind(Value::Text(mask.to_string())).by_dialect("::text", "", "");
            s.push(", ");
            hidden(s);
            s.push(")");
        }
    };
    let int = |s: &mut Statement, count: u32| {
        s.bind(number(count)).by_dialect("::int", "", "");
    };
    // Said aloud, because SQLite makes nothing of NULL bytes, not NULL.
    s.push("CASE WHEN ").name(name).push(" IS NULL THEN NULL WHEN ");
    length(s);
    s.push(" <= ");
    int(s, first.saturating_add(last));
    s.push(" THEN ");
    masks(s, &length);
    s.push(" ELSE ").by_dialect("", "CONCAT(", "");
    if first > 0 {
        s.by_dialect("left(", "LEFT(", "substr(").name(name).by_dialect(", ", ", ", ", 1, ");
        int(s, first);
        s.push(")").by_dialect(" || ", ", ", " || ");
    }
    masks(s, &|s| {
        length(s);
        s.push(" - ");
        int(s, first.saturating_add(last));
    });
    if last > 0 {
        s.by_dialect(" || right(", ", RIGHT(", " || substr(")
            .name(name)
            .by_dialect(", ", ", ", ", -");
        int(s, last);
        s.push(")");
    }
    s.by_dialect("", ")", "").push(" END");
}
