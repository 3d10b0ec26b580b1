//! Partitions of which every row is due: detached and dropped whole (PostgreSQL).
//!
//! Nothing here commits. In one transaction the keys of all rows are read, for the intents; then writers are
//! locked out, and it is looked whether these rows, all of them due, are still all that there are; then the
//! partition is detached and dropped. Readers go on until that last step.

use sqlx::error::DatabaseError;

use crate::rule::{AccessPath, Action, Dialect, Rule};
use crate::types::Key;

use super::catalogue::Table;
use super::statement::{Statement, Value};
use super::target::{Bounds, Target};
use super::window::{read_key, select_key};
use super::{Access, Transaction};

/// How often a lock is asked for, for a third of a second each: others wait behind us meanwhile.
const ATTEMPTS: u32 = 3;

/// A partition without partitions of its own.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The schema and the name of the table that it is attached to.
    parent: (String, String),
    /// Its rows, as they were counted.
    pub rows: u64,
    /// Why it is not dropped whole, if it is not.
    pub spared: Option<String>,
}

impl Partition {
    /// The name with its schema, for people.
    pub fn display_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    fn named<'s>(&self, s: &'s mut Statement) -> &'s mut Statement {
        s.qualified(Some(&self.schema), &self.name)
    }

    /// Appends it under the name of the whole table, by which conditions may call it.
    fn as_the_whole<'s>(&self, s: &'s mut Statement, table: &Table) -> &'s mut Statement {
        s.push("ONLY ");
        self.named(s).push(" AS ").name(&table.name)
    }
}

/// Why no partition of a rule's table is ever dropped whole, if so. Whatever a deletion of rows would have
/// brought about, dropping them must not leave out.
pub(super) fn obstacle(rule: &Rule, table: &Table) -> Option<&'static str> {
    if table.dialect != Dialect::Postgres {
        return Some("partitions are dropped in PostgreSQL alone");
    }
    if !table.partitioned {
        return Some("the table is not partitioned");
    }
    if rule.action != Action::Delete {
        return Some("the rule anonymizes, and its rows stay");
    }
    if !rule.attachments().is_empty() {
        return Some("files or objects belong to its rows, and go before each of them");
    }
    if !rule.tellings.is_empty() {
        return Some("recipients are told of its rows, in bounded batches");
    }
    if !table.referenced_by.is_empty() {
        return Some("foreign keys point at the table");
    }
    if table.triggers.iter().any(|trigger| trigger.on_delete) {
        return Some("triggers of the table fire when rows are deleted");
    }
    None
}

impl Target {
    /// Why no partition of its table is dropped whole, if so.
    pub fn keeps_partitions(&self) -> Option<&'static str> {
        match self.pinned {
            Some(AccessPath::Ranges | AccessPath::Index) => Some("the rule pins another path"),
            _ if self.obstacle.is_some() => self.obstacle,
            _ => self.dependents.has_any().then_some("rows of other tables go with its rows"),
        }
    }
}

/// The partitions that may go whole by their bounds, the rows of each counted: those that take nothing any
/// more that is not due, and where the rule pins partitions, also those of other bounds.
///
/// Whoever only reads may be another user than the one that acts: whose the partitions are is asked of that one.
pub(crate) async fn partitions(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    access: Access,
) -> Result<Vec<Partition>, sqlx::Error> {
    if target.keeps_partitions().is_some() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for row in tx.fetch(&candidates(target, bounds, access)).await? {
        let text = |place| row.text(place).unwrap_or_default();
        let mut partition = Partition {
            schema: text(0),
            name: text(1),
            parent: (text(2), text(3)),
            rows: 0,
            spared: row.text(4),
        };
        let mut s = Statement::new(Dialect::Postgres, "SELECT count(*), count(*) FILTER (WHERE ");
        target.due(&mut s, bounds);
        s.push(") FROM ");
        partition.as_the_whole(&mut s, &target.table);
        if !has_due(tx, target, bounds, &partition).await? {
            continue;
        }
        if partition.spared.is_none() {
            let counted = tx.fetch_row(&s).await?;
            let count = |place| counted.int(place).and_then(|count| u64::try_from(count).ok());
            let (all, due) = (count(0).unwrap_or_default(), count(1).unwrap_or_default());
            partition.rows = all;
            if due < all {
                partition.spared = Some(format!("{} of its {all} rows are not due", all - due));
            }
        }
        found.push(partition);
    }
    Ok(found)
}

/// Whether any of its rows is due: quick where the index tells that none is, such as where all that were due are
/// gone. One that cannot be looked into may have some.
async fn has_due(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    partition: &Partition,
) -> Result<bool, sqlx::Error> {
    if partition.spared.is_some() {
        return Ok(true);
    }
    let mut s = Statement::new(Dialect::Postgres, "SELECT EXISTS (SELECT 1 FROM ");
    partition.as_the_whole(&mut s, &target.table).push(" WHERE ");
    target.due(&mut s, bounds);
    s.push(")");
    Ok(tx.fetch_row(&s).await?.int(0) == Some(1))
}

/// Whether nothing has come in its way since it was chosen. Once everybody is locked out, nothing does any more.
pub(crate) async fn may_still_go(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    partition: &Partition,
) -> Result<bool, sqlx::Error> {
    let found = tx.fetch(&candidates(target, bounds, Access::ReadWrite)).await?;
    Ok(found.iter().any(|row| {
        let is_it = row.text(0).as_deref() == Some(&*partition.schema)
            && row.text(1).as_deref() == Some(&*partition.name);
        is_it && row.text(4).is_none()
    }))
}

/// Selects those that may go by their bounds: schema and name, those of the table above, and what is in the
/// way apart from rows that are not due.
fn candidates(target: &Target, bounds: Bounds, access: Access) -> Statement {
    let table = &target.table;
    let mut s = Statement::new(
        Dialect::Postgres,
        "WITH RECURSIVE root (id) AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = ",
    );
    s.bind(table.schema.clone().map_or(Value::Null, Value::Text)).push("::text AND c.relname = ");
    s.bind(Value::Text(table.name.clone())).push(
        "::text), \
         chain (leaf, part, whole) AS ( \
           SELECT t.relid::oid, t.relid::oid, t.parentrelid::oid \
           FROM root, pg_partition_tree(root.id::regclass) t WHERE t.isleaf AND t.level > 0 \
           UNION ALL SELECT chain.leaf, i.inhrelid, i.inhparent \
           FROM chain JOIN pg_inherits i ON i.inhrelid = chain.whole WHERE chain.whole <> (SELECT id FROM root)), \
         level AS (SELECT chain.leaf, chain.whole, k.partstrat, k.partnatts, a.attname, \
             pg_get_expr(p.relpartbound, p.oid) AS bound, \
             substring(pg_get_expr(p.relpartbound, p.oid) from ' TO \\(''?([^'',()]+)''?\\)$') AS upto \
           FROM chain JOIN pg_class p ON p.oid = chain.part JOIN pg_partitioned_table k ON k.partrelid = chain.whole \
           LEFT JOIN pg_attribute a ON a.attrelid = chain.whole AND a.attnum = k.partattrs[0]), \
         bounded AS (SELECT leaf, bool_or(bound = 'DEFAULT') AS catches_all, bool_or(partstrat = 'h') AS by_hash, \
             bool_or(CASE WHEN partstrat = 'r' AND partnatts = 1 AND upto NOT IN ('MAXVALUE', 'MINVALUE') AND attname = ",
    );
    s.bind(Value::Text(target.start.column.name.clone())).push("::text THEN ");
    target.start.ends_before_cutoff(&mut s, bounds, "upto");
    s.push(
        " ELSE false END) AS is_over FROM level GROUP BY leaf) \
         SELECT n.nspname::text, c.relname::text, pn.nspname::text, p.relname::text, CASE \
           WHEN b.catches_all THEN 'it is a default partition, which takes what fits in no other' \
           WHEN c.relkind <> 'r' THEN 'it is no ordinary table' \
           WHEN ",
    );
    s.push(match access {
        Access::ReadOnly => {
            "NOT has_table_privilege(c.oid, 'SELECT') THEN 'it cannot be read by itself'"
        }
        Access::ReadWrite => {
            "NOT (pg_has_role(c.relowner, 'USAGE') AND pg_has_role(p.relowner, 'USAGE')) \
             THEN 'the url''s user does not own it and the table above it'"
        }
    });
    s.push(
        " WHEN row_security_active(c.oid) OR row_security_active((SELECT id FROM root)) \
             THEN 'row security may hide rows' \
           WHEN c.relhasrules OR (SELECT r.relhasrules FROM pg_class r, root WHERE r.oid = root.id) \
             THEN 'rules rewrite what is done to it' \
           WHEN EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal \
                        AND t.tgenabled <> 'D' AND (t.tgtype & 8) <> 0) \
             THEN 'triggers fire when its rows are deleted' \
           WHEN EXISTS (SELECT FROM pg_publication_tables pt JOIN pg_namespace sn ON sn.nspname = pt.schemaname \
                        JOIN pg_class sc ON sc.relnamespace = sn.oid AND sc.relname = pt.tablename \
                        WHERE sc.oid IN (SELECT part FROM chain WHERE leaf = c.oid \
                                         UNION SELECT whole FROM chain WHERE leaf = c.oid)) \
             THEN 'it is published, and subscribers would keep its rows' \
         END \
         FROM bounded b JOIN pg_class c ON c.oid = b.leaf JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_inherits i ON i.inhrelid = c.oid JOIN pg_class p ON p.oid = i.inhparent \
         JOIN pg_namespace pn ON pn.oid = p.relnamespace \
         WHERE b.is_over OR NOT b.by_hash AND ",
    );
    // Without bounds that are over, a partition may be wanted for rows to come: then the operator says.
    let is_pinned = target.pinned == Some(AccessPath::Partitions);
    s.push(if is_pinned { "true" } else { "false" }).push(" ORDER BY 1, 2");
    s
}

/// The keys of a partition's due rows, as they are read, with what their sum is told by.
pub(crate) struct Keys {
    pub(crate) keys: Vec<Key>,
    /// The sum of their hashes.
    pub(crate) sum: i128,
}

/// Begins to read the keys of a partition's due rows, of one moment.
pub(crate) async fn begin_keys(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    partition: &Partition,
) -> Result<(), sqlx::Error> {
    let mut s = Statement::new(Dialect::Postgres, "DECLARE due_keys NO SCROLL CURSOR FOR SELECT ");
    select_key(&mut s, &target.table.key);
    s.push(", ");
    hash(&mut s, target);
    s.push(" FROM ");
    partition.as_the_whole(&mut s, &target.table).push(" WHERE ");
    target.due(&mut s, bounds);
    tx.execute(&s).await.map(drop)
}

/// The next keys; none at the end.
pub(crate) async fn next_keys(
    tx: &mut Transaction,
    target: &Target,
    most: u64,
) -> Result<Keys, sqlx::Error> {
    let columns = &target.table.key;
    let mut s = Statement::new(Dialect::Postgres, "FETCH FORWARD ");
    s.literal(&Value::Int(i64::try_from(most).unwrap_or(i64::MAX))).push(" FROM due_keys");
    let mut read = Keys { keys: Vec::new(), sum: 0 };
    let mut each = |row: super::Row| {
        read.keys.push(read_key(Dialect::Postgres, &row, columns)?);
        read.sum += i128::from(row.int(columns.len()).unwrap_or_default());
        Ok(())
    };
    tx.fetch_each(&s, &mut each).await?;
    Ok(read)
}

/// Appends a hash of a row's key.
fn hash(s: &mut Statement, target: &Target) {
    s.push("(").separated(" # ", (1..).zip(&target.table.key), |s, (seed, column)| {
        s.push("hashtextextended(").name(&column.name).push("::text COLLATE \"C\", ");
        s.literal(&Value::Int(seed)).push(")");
    });
    s.push(")");
}

/// Locks writers out. Whether it could be done: others may be at work on the partition.
pub(crate) async fn lock_writers_out(
    tx: &mut Transaction,
    partition: &Partition,
) -> Result<bool, sqlx::Error> {
    let mut s = Statement::new(Dialect::Postgres, "LOCK TABLE ONLY ");
    partition.named(&mut s).push(" IN SHARE ROW EXCLUSIVE MODE");
    try_to(tx, &[s]).await
}

/// Whether nobody has the partition locked just now who writes to it. What it takes to see that is let go.
pub(crate) async fn is_free(
    tx: &mut Transaction,
    partition: &Partition,
) -> Result<bool, sqlx::Error> {
    let is_free = lock_writers_out(tx, partition).await?;
    if is_free {
        tx.execute(&Statement::new(Dialect::Postgres, "ROLLBACK TO undisturbed")).await?;
    }
    Ok(is_free)
}

/// Whether its rows are still all that there are, and all of them due: as many as were read, and their keys
/// of the same sum.
pub(crate) async fn is_unchanged(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    partition: &Partition,
    (rows, sum): (u64, i128),
) -> Result<bool, sqlx::Error> {
    let mut s = Statement::new(Dialect::Postgres, "SELECT count(*), count(*) FILTER (WHERE ");
    target.due(&mut s, bounds);
    s.push("), coalesce(sum(");
    hash(&mut s, target);
    s.push("), 0)::text FROM ");
    partition.as_the_whole(&mut s, &target.table);
    let row = tx.fetch_row(&s).await?;
    let expected = i64::try_from(rows).ok();
    let is_same = row.text(2).and_then(|text| text.parse().ok()) == Some(sum);
    Ok(expected.is_some() && row.int(0) == expected && row.int(1) == expected && is_same)
}

/// Locks everybody out of the table that it is attached to, which detaching it takes. Whether it could be done:
/// others may be at work there.
pub(crate) async fn lock_everybody_out(
    tx: &mut Transaction,
    partition: &Partition,
) -> Result<bool, sqlx::Error> {
    let (schema, parent) = &partition.parent;
    let mut s = Statement::new(Dialect::Postgres, "LOCK TABLE ONLY ");
    s.qualified(Some(schema), parent).push(" IN ACCESS EXCLUSIVE MODE");
    try_to(tx, &[s]).await
}

/// Detaches and drops it. Whether it could be done: others may read it, or something else depends on it.
pub(crate) async fn detach_and_drop(
    tx: &mut Transaction,
    partition: &Partition,
) -> Result<bool, sqlx::Error> {
    // A table that a cursor reads cannot be dropped.
    tx.execute(&Statement::new(Dialect::Postgres, "CLOSE due_keys")).await?;
    let (schema, parent) = &partition.parent;
    let mut detach = Statement::new(Dialect::Postgres, "ALTER TABLE ");
    detach.qualified(Some(schema), parent).push(" DETACH PARTITION ");
    partition.named(&mut detach);
    let mut drop = Statement::new(Dialect::Postgres, "DROP TABLE ");
    partition.named(&mut drop);
    try_to(tx, &[detach, drop]).await
}

/// Runs statements of which each takes a lock, trying again a few times while others have it; what they did is
/// undone where one fails. Whether all was done.
async fn try_to(tx: &mut Transaction, statements: &[Statement]) -> Result<bool, sqlx::Error> {
    let say = |sql| Statement::new(Dialect::Postgres, sql);
    // Shorter than PostgreSQL takes to look for a deadlock, so that nobody else is ended for one of ours.
    tx.execute(&say("SET LOCAL lock_timeout = '300ms'")).await?;
    for _ in 0..ATTEMPTS {
        tx.execute(&say("SAVEPOINT undisturbed")).await?;
        let mut done = Ok(());
        for statement in statements {
            done = tx.execute(statement).await.map(drop);
            if done.is_err() {
                break;
            }
        }
        let Err(error) = done else { return Ok(true) };
        match error.as_database_error().and_then(DatabaseError::code).as_deref() {
            // lock_not_available, deadlock_detected
            Some("55P03" | "40P01") => {}
            // dependent_objects_still_exist, foreign_key_violation, object_in_use, object_not_in_prerequisite_state,
            // insufficient_privilege, undefined_table: someone else was quicker.
            Some("2BP01" | "23503" | "55006" | "55000" | "42501" | "42P01") => {
                tx.execute(&say("ROLLBACK TO undisturbed")).await?;
                return Ok(false);
            }
            _ => return Err(error),
        }
        tx.execute(&say("ROLLBACK TO undisturbed")).await?;
    }
    Ok(false)
}
