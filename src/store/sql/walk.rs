//! The way through a table: in the order in which its rows lie, or along the index on the starting point.
//!
//! Measured on PostgreSQL, MariaDB and SQLite: where due rows are a fair share of their pages, physical
//! order wins by up to ten times over the usual loop along the index, which touches each page many
//! times over. Where they are few, the index finds them at once and a walk over the whole table
//! would cost far more than the deletion.

use crate::pace::Pace;
use crate::types::Key;

use super::Transaction;
use super::catalogue::Shape;
use super::statement::{Statement, Value};
use super::target::{Bounds, Target};
use super::window::{Locator, Window, inside, read_ctid, read_key, select_key};

/// Due records that are looked up along an index at once, before they are put into physical order.
const COLLECT: u64 = 20_000;

/// Values in one statement: SQLite takes 32,766, and a window's keys are not all that it holds.
const MOST_VALUES: usize = 30_000;

/// Which way is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkKind {
    /// Windows in physical order over the whole table.
    Ranges,
    /// Windows of due rows found through the index, each sorted into physical order.
    Index,
}

impl WalkKind {
    /// Chooses by what is known: how many records are due, how many pages the table has, and
    /// whether an index serves the starting point.
    ///
    /// A walk in physical order reads every page once; a walk along the index reads at most one
    /// page for each due record, and fewer when they lie together. Without an index, finding due
    /// records is a scan of the whole table for every window, so one walk over it is always better.
    pub fn choose(due: u64, pages: u64, indexed: bool) -> WalkKind {
        if indexed && due < pages / 4 { WalkKind::Index } else { WalkKind::Ranges }
    }
}

/// Where a walk stands.
#[derive(Debug)]
pub struct Walk {
    /// Which way it goes.
    pub kind: WalkKind,
    position: Position,
    /// The window that was given last.
    given: Option<Window>,
}

/// Where a walk stands, in its own terms.
#[derive(Debug)]
enum Position {
    /// At this page of a heap, of so many.
    Page { next: u64, end: u64 },
    /// After this row in key or rowid order; `done` when the last window has been given.
    Row { after: Option<Key>, done: bool },
    /// Windows collected from the index and not yet given out, and how many times it may be looked
    /// into again: without a bound, a change that leaves its records due would never end.
    Index { collected: Vec<Window>, rounds: u64 },
}

impl Walk {
    /// Starts a walk over a table of which `due` records are due.
    pub fn new(target: &Target, due: u64, total: u64) -> Walk {
        let table = &target.table;
        // Where the store does not tell, forty rows to a page is a fair guess.
        let pages = table.statistics.pages.filter(|pages| *pages > 0).unwrap_or(total / 40);
        let kind =
            WalkKind::choose(due, pages, table.index_on(&target.start.column.name).is_some());
        let position = match (kind, table.shape) {
            (WalkKind::Index, _) => {
                Position::Index { collected: Vec::new(), rounds: due / COLLECT + 2 }
            }
            // The last page may have grown since: one more costs nothing.
            (WalkKind::Ranges, Shape::Heap) => Position::Page { next: 0, end: pages + 1 },
            (WalkKind::Ranges, _) => Position::Row { after: None, done: false },
        };
        Walk { kind, position, given: None }
    }

    /// Whether its steps are pages of a heap, not rows.
    pub fn steps_are_pages(&self) -> bool {
        matches!(self.position, Position::Page { .. })
    }

    /// The pace that suits its steps, where nothing else is said.
    pub fn pace(&self) -> Pace {
        Pace::new(self.steps_are_pages())
    }

    /// Moves on past the window that was given last, of which nothing was taken. What is due there is left to another walk.
    /// Says whether there was one.
    pub fn pass_over(&mut self) -> bool {
        let Some(window) = self.given.take() else { return false };
        // Of those found along the index only these stay: the others are at nobody's work.
        if let Position::Index { collected, .. } = &mut self.position {
            collected.pop();
        } else {
            self.advance(&window, 0);
        }
        true
    }

    /// Moves on past a window.
    pub fn advance(&mut self, window: &Window, taken: u64) {
        match (&mut self.position, window) {
            (Position::Page { next, .. }, Window::Pages { to, .. }) => *next = *to,
            (Position::Row { after, done }, Window::Span { upto, .. }) => {
                *done = upto.is_none();
                after.clone_from(upto);
            }
            (Position::Index { collected, rounds }, _) => {
                collected.pop();
                // Rows that were found and then were not there to take: others are at work on
                // them. Looking again at once could go on forever.
                if taken == 0 && collected.is_empty() {
                    *rounds = 0;
                }
            }
            _ => {}
        }
    }
}

/// The next window, or `None` at the end of the walk. Its due records are at most `pace.rows`, or
/// what one step holds.
pub(crate) async fn next_window(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    walk: &mut Walk,
    pace: &mut Pace,
) -> Result<Option<Window>, sqlx::Error> {
    walk.given = None;
    walk.given = find_next(tx, target, bounds, walk, pace).await?;
    Ok(walk.given.clone())
}

async fn find_next(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    walk: &mut Walk,
    pace: &mut Pace,
) -> Result<Option<Window>, sqlx::Error> {
    if let Position::Index { collected, rounds } = &mut walk.position {
        if collected.is_empty() && *rounds > 0 {
            *collected = collect(tx, target, bounds, pace.rows).await?;
            *rounds = if collected.is_empty() { 0 } else { *rounds - 1 };
        }
        split_last(collected, pace.rows);
        return Ok(collected.last().cloned());
    }
    loop {
        let window = match &walk.position {
            Position::Page { next, end } if next < end => {
                Window::Pages { from: *next, to: (next + pace.width).min(*end) }
            }
            Position::Row { after, done: false } => {
                let upto = boundary(tx, target, after.as_ref(), pace.width).await?;
                Window::Span { after: after.clone(), upto }
            }
            _ => return Ok(None),
        };
        if pace.width <= pace.certain_width()
            || !overflows(tx, target, bounds, &window, pace).await?
        {
            return Ok(Some(window));
        }
        pace.width = (pace.width / 4).max(pace.certain_width());
    }
}

/// Has the next of some windows hold no more rows than a batch may take by now.
fn split_last(collected: &mut Vec<Window>, rows: u64) {
    let rows = usize::try_from(rows).unwrap_or(usize::MAX).max(1);
    if let Some(Window::Rows(last)) = collected.last_mut()
        && last.len() > rows
    {
        let first = last.drain(..rows).collect();
        collected.push(Window::Rows(first));
    }
}

/// Whether a wide window holds more due records than a batch may take.
async fn overflows(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    window: &Window,
    pace: &Pace,
) -> Result<bool, sqlx::Error> {
    let most = i64::try_from(pace.most_rows()).unwrap_or(i64::MAX);
    let mut s = Statement::new(target.dialect(), "SELECT count(*) FROM (SELECT 1 AS due FROM ");
    s.table(&target.table).push(" WHERE ");
    inside(&mut s, target, window);
    s.push(" AND ");
    // Held records count too: more than can be taken only makes the window narrower.
    target.due_or_held(&mut s, bounds);
    s.push(" LIMIT ").bind(Value::Int(most + 1)).push(") AS counted");
    Ok(tx.fetch_row(&s).await?.int(0).unwrap_or_default() > most)
}

/// The row that ends a window of `width` rows after `after`; `None` when fewer are left.
async fn boundary(
    tx: &mut Transaction,
    target: &Target,
    after: Option<&Key>,
    width: u64,
) -> Result<Option<Key>, sqlx::Error> {
    let Locator::Columns(columns) = Locator::of(&target.table) else { return Ok(None) };
    let mut s = Statement::new(target.dialect(), "SELECT ");
    select_key(&mut s, &columns);
    s.push(" FROM ").table(&target.table);
    if let Some(after) = after {
        s.push(" WHERE ").key_beyond(&columns, after, false);
    }
    let offset = i64::try_from(width.saturating_sub(1)).unwrap_or(i64::MAX);
    s.push(" ORDER BY ").separated(", ", &columns, |s, column| {
        s.column(&target.table, &column.name);
    });
    s.push(" LIMIT 1 OFFSET ").bind(Value::Int(offset));
    tx.fetch(&s).await?.first().map(|row| read_key(target.dialect(), row, &columns)).transpose()
}

/// Due rows found along the index, in physical order, cut into windows of `rows`; the first window
/// is the last element.
async fn collect(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    rows: u64,
) -> Result<Vec<Window>, sqlx::Error> {
    let locator = Locator::of(&target.table);
    let mut s = Statement::new(target.dialect(), "SELECT ");
    match &locator {
        Locator::Ctid => {
            s.push("ctid::text");
        }
        Locator::Columns(columns) => select_key(&mut s, columns),
    }
    s.push(" FROM ").table(&target.table).push(" WHERE ");
    target.due(&mut s, bounds);
    s.push(" ORDER BY ").column(&target.table, &target.start.column.name).push(" LIMIT ");
    s.bind(Value::Int(i64::try_from(COLLECT).unwrap_or(i64::MAX)));
    let found = tx.fetch(&s).await?;
    let mut rows_found = found
        .iter()
        .map(|row| match &locator {
            Locator::Ctid => read_ctid(row),
            Locator::Columns(columns) => read_key(target.dialect(), row, columns),
        })
        .collect::<Result<Vec<_>, _>>()?;
    rows_found.sort_unstable();
    let names = match &locator {
        Locator::Ctid => 1,
        Locator::Columns(columns) => columns.len(),
    };
    let size = usize::try_from(rows).unwrap_or(1_000).min(MOST_VALUES / names).max(1);
    Ok(rows_found.chunks(size).rev().map(|chunk| Window::Rows(chunk.to_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_along_an_index_is_cut_as_small_as_a_batch_may_be_by_now() {
        let rows = |rows: std::ops::Range<i128>| {
            Window::Rows(rows.map(|row| Key(vec![crate::types::KeyValue::Int(row)])).collect())
        };
        let mut collected = vec![rows(10..20), rows(0..10)];
        split_last(&mut collected, 10);
        assert_eq!(collected.len(), 2, "it is small enough");
        split_last(&mut collected, 4);
        assert_eq!(collected, [rows(10..20), rows(4..10), rows(0..4)]);
    }

    #[test]
    fn few_due_rows_are_found_by_the_index_and_many_by_walking_the_table() {
        assert_eq!(WalkKind::choose(100, 10_000, true), WalkKind::Index);
        assert_eq!(WalkKind::choose(400_000, 20_000, true), WalkKind::Ranges);
        assert_eq!(WalkKind::choose(100, 10_000, false), WalkKind::Ranges, "no index, no choice");
    }
}
