//! The way through a table: in the order in which its rows lie, or along the index on the starting point.
//!
//! Measured on PostgreSQL, MariaDB and SQLite: where due rows are a fair share of their pages, physical
//! order wins by up to ten times over the usual loop along the index, which touches each page many
//! times over. Where they are few, the index finds them at once and a walk over the whole table
//! would cost far more than the deletion.
//!
//! Statistics choose, and what a walk meets corrects them: it goes on along the index where a long stretch
//! held next to nothing, and by ranges where rows that the index named lie close together. What it misses, the
//! look back at the end of the run finds.

use std::fmt;

use crate::pace::Pace;
use crate::rule::{AccessPath, Facts, Why};
use crate::types::{Key, KeyValue};

use super::Transaction;
use super::catalogue::{Shape, Table};
use super::statement::{Statement, Value};
use super::target::{Bounds, Target};
use super::window::{Locator, Window, inside, read_ctid, read_key, select_key};

/// Due records that are looked up along an index at once, before they are put into physical order.
const COLLECT: u64 = 20_000;

/// Values in one statement: SQLite takes 32,766, and a window's keys are not all that it holds.
const MOST_VALUES: usize = 30_000;

/// A window whose rows, due or not, are at most so many times those that a batch takes need not be counted before: that
/// would cost half as much as the deletion. The pace follows what is met, and a page has room for a few hundred rows at most.
const AMPLE: u64 = 4;
/// Pages of a stretch, after which it is asked whether the walk is still worth its way.
const STRETCH: u64 = 2_048;
/// With fewer due rows in a stretch than one in so many pages, the index finds the rest sooner.
const SPARSE: u64 = 8;
/// With as many due rows in each page, they are taken by a range of pages.
const DENSE: u64 = 8;
/// Rows in a page, where the store does not tell: a fair guess.
const ROWS_IN_A_PAGE: u64 = 40;
/// From this correlation on, rows of one age lie together.
const TOGETHER: f64 = 0.9;

/// Which way is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkKind {
    /// Windows in physical order over the whole table.
    Ranges,
    /// Windows of due rows found through the index, each sorted into physical order.
    Index,
}

impl fmt::Display for WalkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            WalkKind::Ranges => AccessPath::Ranges.as_str(),
            WalkKind::Index => AccessPath::Index.as_str(),
        })
    }
}

/// Where a walk stands.
#[derive(Debug)]
pub struct Walk {
    /// Which way it goes.
    pub kind: WalkKind,
    /// Why.
    pub why: Why,
    position: Position,
    /// Whether it may change its way.
    may_switch: bool,
    due: u64,
    /// The window that was given last.
    given: Option<Window>,
    /// Pages passed since it was last asked whether the walk is worth its way, and due rows taken there.
    stretch: (u64, u64),
    /// Whether hardly anything was due in the last window of pages that was taken: nothing is known then of those ahead.
    is_thin: bool,
    /// The widths of the window that was given last and of the one before.
    widths: [u64; 2],
    /// How many records the window held that was noted last, of so many rows at most.
    share: Option<(u64, u64)>,
}

/// Whether the next window is known before the table is looked at.
pub(crate) enum AtHand {
    /// It is this one, or there is no more.
    Known(Option<Window>),
    /// It has to be looked up.
    LookUp,
}

/// Where a walk stands, in its own terms.
#[derive(Debug)]
enum Position {
    /// At this page of a heap, of so many, on each of which lie about so many rows; `narrowed` once it is known where
    /// due rows begin and end.
    Page { next: u64, end: u64, rows: u64, narrowed: bool },
    /// After this row in key or rowid order; `done` when the last window has been given.
    Row { after: Option<Key>, done: bool },
    /// Windows collected from the index and not yet given out, and how many times it may be looked
    /// into again: without a bound, a change that leaves its records due would never end. Rows that were
    /// found and then were not there to take are others' work: looking again at once could go on forever, so
    /// what was found by the last look and taken since is counted.
    Index { collected: Vec<Window>, rounds: u64, found: u64, taken: u64 },
}

impl Position {
    fn on_index(due: u64) -> Position {
        // As if the last look had not found all, and something was taken since.
        Position::Index {
            collected: Vec::new(),
            rounds: due / COLLECT + 2,
            found: COLLECT,
            taken: 1,
        }
    }
}

/// What is known of a table of which `due` records of `total` are due.
pub(crate) fn facts(target: &Target, due: u64, total: u64) -> Facts {
    let (table, column) = (&target.table, &target.start.column.name);
    let pages = table.statistics.pages.filter(|pages| *pages > 0);
    Facts {
        due,
        total,
        pages: pages.unwrap_or(total / ROWS_IN_A_PAGE),
        is_indexed: table.index_on(column).is_some(),
        // Elsewhere rows are sought by their key, and of its order nothing is known.
        correlation: match table.shape {
            Shape::Heap => table.correlations.get(column).copied(),
            _ => None,
        },
        whole_partitions: 0,
        pinned: target.pinned,
    }
}

impl Walk {
    /// Starts a walk over a table of which `due` records are due.
    pub fn new(target: &Target, due: u64, total: u64) -> Walk {
        let facts = facts(target, due, total);
        // What is left beside whole partitions is reached as without them.
        let pinned = facts.pinned.filter(|pinned| *pinned != AccessPath::Partitions);
        let (path, why) = AccessPath::choose(&Facts { pinned, ..facts });
        let kind = match path {
            AccessPath::Index => WalkKind::Index,
            AccessPath::Ranges | AccessPath::Partitions => WalkKind::Ranges,
        };
        let position = match (kind, target.table.shape) {
            (WalkKind::Index, _) => Position::on_index(due),
            // The last page may have grown since: one more costs nothing.
            (WalkKind::Ranges, Shape::Heap) => {
                let rows = total.div_ceil(facts.pages.max(1)).max(1);
                Position::Page { next: 0, end: facts.pages + 1, rows, narrowed: false }
            }
            (WalkKind::Ranges, _) => Position::Row { after: None, done: false },
        };
        let may_switch = facts.is_indexed && pinned.is_none();
        Walk {
            kind,
            why,
            position,
            may_switch,
            due,
            given: None,
            stretch: (0, 0),
            is_thin: false,
            widths: [0; 2],
            share: None,
        }
    }

    /// Whether its steps are pages of a heap, not rows.
    pub fn steps_are_pages(&self) -> bool {
        matches!(self.position, Position::Page { .. })
    }

    /// The next window, or the end of the walk, where nothing has to be looked up for it.
    pub(crate) fn at_hand(&mut self, pace: &Pace) -> AtHand {
        let is_known =
            pace.width <= pace.certain_width() || self.is_ample(pace.width, pace.most_rows());
        let next = match &mut self.position {
            Position::Index { collected, rounds, found, taken } => {
                split_last(collected, pace.rows);
                // Where less than could be was found, and all of it taken, the look back finds what is left.
                let looks_again =
                    *rounds > 0 && *taken > 0 && (*found >= COLLECT || *taken < *found);
                match collected.last() {
                    None if looks_again => return AtHand::LookUp,
                    last => last.cloned(),
                }
            }
            Position::Page { narrowed: false, .. } | Position::Row { done: false, .. } => {
                return AtHand::LookUp;
            }
            Position::Page { next, end, .. } if *next < *end => {
                if !is_known {
                    return AtHand::LookUp;
                }
                Some(Window::Pages { from: *next, to: (*next + pace.width).min(*end) })
            }
            Position::Page { .. } | Position::Row { .. } => None,
        };
        self.widths = [self.widths[1], pace.width];
        self.given.clone_from(&next);
        AtHand::Known(next)
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
            // How much is due there is not known.
            self.share = None;
        }
        true
    }

    /// Whether a window of this width most likely holds no more than a batch takes, and hardly ever more than
    /// [`AMPLE`] times as much.
    fn is_ample(&self, width: u64, most: u64) -> bool {
        match self.position {
            // Where pages are empty on average, some may be full.
            Position::Page { rows, .. } => {
                !self.is_thin
                    && width.saturating_mul(rows.max(ROWS_IN_A_PAGE)) <= AMPLE.saturating_mul(most)
            }
            // Half as many again as in the window before; of which little says nothing of the rows ahead.
            Position::Row { .. } | Position::Index { .. } => {
                self.share.is_some_and(|(records, of)| {
                    AMPLE.saturating_mul(records) >= of
                        && 3 * records.saturating_mul(width) <= 2 * of.saturating_mul(most)
                })
            }
        }
    }

    /// Whether the next window has to be looked for among rows that may just be taken.
    pub fn looks_anew(&self) -> bool {
        matches!(&self.position, Position::Index { collected, .. } if collected.is_empty())
    }

    /// Moves on past a window.
    pub fn pass(&mut self, window: &Window) {
        match (&mut self.position, window) {
            (Position::Page { next, .. }, Window::Pages { to, .. }) => *next = *to,
            (Position::Row { after, done }, Window::Span { upto, .. }) => {
                *done = upto.is_none();
                after.clone_from(upto);
            }
            (Position::Index { collected, .. }, _) => {
                collected.pop();
            }
            _ => {}
        }
    }

    /// Takes note of what a window came to.
    pub fn note(&mut self, window: &Window, records: u64) {
        if let Position::Index { taken, .. } = &mut self.position {
            *taken += records;
            return;
        }
        let passed = if let Window::Pages { from, to } = window {
            to - from
        } else {
            // Of those that are under way side by side, it may have been the narrower.
            let width = self.widths[0].min(self.widths[1]);
            self.share = Some((records, width));
            self.widths[1] / ROWS_IN_A_PAGE
        };
        self.is_thin = records * SPARSE < passed;
        self.stretch = (self.stretch.0 + passed, self.stretch.1 + records);
        let (pages, rows) = self.stretch;
        if pages >= STRETCH {
            self.stretch = (0, 0);
            if self.may_switch && rows * SPARSE < pages {
                (self.kind, self.why) = (WalkKind::Index, Why::Sparse(rows, pages));
                self.position = Position::on_index(self.due);
            }
        }
    }

    /// Moves on past a window of which so many records were taken.
    pub fn advance(&mut self, window: &Window, records: u64) {
        self.pass(window);
        self.note(window, records);
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
    if let AtHand::Known(window) = walk.at_hand(pace) {
        return Ok(window);
    }
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
    if let Position::Index { collected, rounds, found, taken } = &mut walk.position {
        (*found, *collected) = collect(tx, target, bounds, pace, walk.may_switch).await?;
        *rounds = if collected.is_empty() { 0 } else { *rounds - 1 };
        *taken = 0;
        return Ok(collected.last().cloned());
    }
    if let Position::Page { next, end, narrowed, .. } = &mut walk.position
        && !*narrowed
    {
        *narrowed = true;
        if walk.may_switch
            && let Some((first, last)) = where_due_rows_lie(tx, target, bounds).await?
        {
            (*next, *end) = (first.max(*next), last.min(*end));
        }
    }
    let mut is_overfull = false;
    loop {
        walk.widths = [walk.widths[1], pace.width];
        let window = match &walk.position {
            Position::Page { next, end, .. } if next < end => {
                Window::Pages { from: *next, to: (next + pace.width).min(*end) }
            }
            Position::Row { after, done: false } => {
                let upto = boundary(tx, target, after.as_ref(), pace.width).await?;
                Window::Span { after: after.clone(), upto }
            }
            _ => return Ok(None),
        };
        // Where a wider one held too much, the rows lie closer together than they are known to on the whole.
        let is_known = !is_overfull && walk.is_ample(pace.width, pace.most_rows());
        if pace.width <= pace.certain_width()
            || is_known
            || !overflows(tx, target, bounds, &window, pace).await?
        {
            return Ok(Some(window));
        }
        is_overfull = true;
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

/// Two halves of a window, in order; itself where it has none.
pub(crate) async fn halves(
    tx: &mut Transaction,
    target: &Target,
    window: Window,
) -> Result<Vec<Window>, sqlx::Error> {
    Ok(match window {
        Window::Pages { from, to } if to - from > 1 => {
            let middle = from + (to - from) / 2;
            vec![Window::Pages { from, to: middle }, Window::Pages { from: middle, to }]
        }
        Window::Rows(mut rows) if rows.len() > 1 => {
            let second = rows.split_off(rows.len() / 2);
            vec![Window::Rows(rows), Window::Rows(second)]
        }
        Window::Span { ref after, ref upto } => {
            let mut s = Statement::new(target.dialect(), "SELECT count(*) FROM ");
            s.table(&target.table).push(" WHERE ");
            inside(&mut s, target, &window);
            let rows = tx.fetch_row(&s).await?.int(0).unwrap_or_default().unsigned_abs();
            let middle = match rows {
                2.. => boundary(tx, target, after.as_ref(), rows / 2).await?,
                _ => None,
            };
            match middle.filter(|middle| upto.as_ref() != Some(middle)) {
                Some(middle) => vec![
                    Window::Span { after: after.clone(), upto: Some(middle.clone()) },
                    Window::Span { after: Some(middle), upto: upto.clone() },
                ],
                None => vec![window],
            }
        }
        whole => vec![whole],
    })
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

/// The pages between which due rows most likely lie, where rows of one age lie together: around those of
/// the oldest and of the newest due row. The index finds both at once.
async fn where_due_rows_lie(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
) -> Result<Option<(u64, u64)>, sqlx::Error> {
    let column = &target.start.column.name;
    let correlation = target.table.correlations.get(column).copied().unwrap_or(0.0);
    if correlation.abs() < TOGETHER {
        return Ok(None);
    }
    let mut ends = [0; 2];
    for (end, order) in ends.iter_mut().zip([" LIMIT 1", " DESC LIMIT 1"]) {
        let mut s = Statement::new(target.dialect(), "SELECT ctid::text FROM ");
        s.table(&target.table).push(" WHERE ");
        target.due(&mut s, bounds);
        s.push(" ORDER BY ").column(&target.table, column).push(order);
        let found = tx.fetch(&s).await?;
        let Some(page) = found.first().map(read_ctid).transpose()?.as_ref().and_then(page_of)
        else {
            return Ok(None);
        };
        *end = page;
    }
    let (first, last) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
    // No order is perfect: a fiftieth more on each side.
    let margin = (last - first) / 50 + 32;
    Ok(Some((first.saturating_sub(margin), last + margin + 1)))
}

fn page_of(ctid: &Key) -> Option<u64> {
    match ctid.0.first() {
        Some(KeyValue::Int(page)) => u64::try_from(*page).ok(),
        _ => None,
    }
}

/// The part of the table in which these rows lie, sorted, where they are about all that lies there.
fn together(target: &Target, rows: &[Key], most: u64) -> Option<Window> {
    let (count, first, last) = (rows.len() as u64, rows.first()?, rows.last()?);
    let Table { shape, statistics, .. } = &target.table;
    if *shape == Shape::Heap {
        let (from, to) = (page_of(first)?, page_of(last)? + 1);
        let (total, pages) = (statistics.rows?, statistics.pages.filter(|pages| *pages > 0)?);
        let held = (to - from).saturating_mul(total / pages + 1);
        let is_dense = count >= (to - from) * DENSE && held <= most;
        return is_dense.then_some(Window::Pages { from, to });
    }
    let ([KeyValue::Int(start @ 1..)], [KeyValue::Int(end)]) = (&*first.0, &*last.0) else {
        return None;
    };
    let span = u64::try_from(end - start + 1).ok()?;
    let after = Some(Key(vec![KeyValue::Int(start - 1)]));
    // Of SQLite's columns any may hold texts, which come after all numbers, and so not in between.
    (span <= most && span <= count.saturating_mul(2))
        .then(|| Window::Span { after, upto: Some(last.clone()) })
}

/// How many due rows were found along the index, and these in physical order, cut into windows; the first window is the
/// last element.
async fn collect(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    pace: &Pace,
    may_switch: bool,
) -> Result<(u64, Vec<Window>), sqlx::Error> {
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
    let size = usize::try_from(pace.rows).unwrap_or(1_000).min(MOST_VALUES / names).max(1);
    let window = |rows: &[Key]| {
        let dense = if may_switch { together(target, rows, pace.most_rows()) } else { None };
        dense.unwrap_or_else(|| Window::Rows(rows.to_vec()))
    };
    Ok((rows_found.len() as u64, rows_found.chunks(size).rev().map(window).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_not_counted_where_the_one_before_shows_that_it_fits() {
        let row = Position::Row { after: None, done: false };
        let mut walk = Walk {
            kind: WalkKind::Ranges,
            why: Why::NoIndex,
            position: row,
            may_switch: false,
            due: 0,
            given: None,
            stretch: (0, 0),
            is_thin: false,
            widths: [8_000, 16_000],
            share: None,
        };
        assert!(!walk.is_ample(16_000, 10_000), "nothing is known yet");
        let window = Window::Span { after: None, upto: None };
        walk.note(&window, 3_200);
        assert!(walk.is_ample(16_000, 10_000), "6,400 are likely");
        assert!(!walk.is_ample(20_000, 10_000), "8,000 are too near");
        walk.note(&window, 8);
        assert!(!walk.is_ample(16_000, 10_000), "what is empty says nothing of what is ahead");
    }

    #[test]
    fn what_was_found_along_an_index_is_cut_as_small_as_a_batch_may_be_by_now() {
        let rows = |rows: std::ops::Range<i128>| {
            Window::Rows(rows.map(|row| Key(vec![KeyValue::Int(row)])).collect())
        };
        let mut collected = vec![rows(10..20), rows(0..10)];
        split_last(&mut collected, 10);
        assert_eq!(collected.len(), 2, "it is small enough");
        split_last(&mut collected, 4);
        assert_eq!(collected, [rows(10..20), rows(4..10), rows(0..4)]);
    }
}
