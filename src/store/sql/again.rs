//! Records that were taken and are there again, by their keys.

use super::Transaction;
use super::statement::Statement;
use super::target::{Bounds, Target};
use super::window::{Window, inside};
use crate::types::Key;

/// Keys that are asked for in one statement.
const CHUNK: usize = 500;

/// What is there again of records that were taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Again {
    /// Records under these keys; of those that were anonymized, the ones that are not any more.
    pub there: u64,
    /// Of these, those that go.
    pub due: u64,
    /// Those that legal holds keep.
    pub held: u64,
    /// Those that are others: their starting point lies after the bound, or cannot be read.
    pub newer: u64,
}

impl Again {
    /// Those that the rule does not mean any more.
    pub fn changed(&self) -> u64 {
        self.there.saturating_sub(self.due + self.held + self.newer)
    }

    /// Adds what is there of others.
    pub fn add(&mut self, other: Again) {
        self.there += other.there;
        self.due += other.due;
        self.held += other.held;
        self.newer += other.newer;
    }
}

impl Target {
    /// The records of these keys, letter by letter.
    pub fn window_of_keys(&self, keys: &[Key]) -> Window {
        Window::Matching { columns: self.table.key.clone(), keys: keys.to_vec() }
    }

    /// Whether a key has as many values as the table's has columns: it may be another table by now.
    pub(crate) fn fits_keys(&self, keys: &[Key]) -> bool {
        keys.iter().all(|key| key.0.len() == self.table.key.len())
    }

    /// Whether a record that was anonymized says so by itself, so that one which does not is as it was before.
    pub(crate) fn tells_when_undone(&self) -> bool {
        self.change.as_ref().is_none_or(|change| change.marker.is_some())
    }
}

/// Counts what is there again of these keys.
pub(crate) async fn again(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    keys: &[Key],
) -> Result<Again, sqlx::Error> {
    let mut all = Again::default();
    for keys in keys.chunks(CHUNK) {
        let mut s = Statement::new(target.dialect(), "SELECT count(*), count(CASE WHEN ");
        target.due(&mut s, bounds);
        s.push(" THEN 1 END), count(CASE WHEN ");
        target.due_but_held(&mut s, bounds);
        s.push(" THEN 1 END), count(CASE WHEN ");
        target.start.is_before_cutoff(&mut s, bounds);
        s.push(" THEN 1 END) FROM ").table(&target.table).push(" WHERE ");
        inside(&mut s, target, &target.window_of_keys(keys));
        target.is_fresh(&mut s);
        let row = tx.fetch_row(&s).await?;
        let count = |place| u64::try_from(row.int(place).unwrap_or_default()).unwrap_or_default();
        let there = count(0);
        let newer = there.saturating_sub(count(3));
        all.add(Again { there, due: count(1), held: count(2), newer });
    }
    Ok(all)
}
