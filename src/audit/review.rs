//! A look at a whole log: what in it is not as it was written, and when nobody was there to write.
//!
//! Whoever holds the entries, in a ledger or in an exported folder, pushes them in order; all else is
//! decided here, from them, the signed checkpoints and the keys.

use std::collections::BTreeMap;

use serde::Serialize;

use super::checkpoint::Checkpoint;
use super::entry::{Entry, Event};
use super::note::Verifier;
use super::tree::{Frontier, Hash};

mod gaps;
mod problem;

pub use gaps::Gap;
pub use problem::Problem;

/// Problems that are told one by one; the rest is counted.
const MAX_PROBLEMS: usize = 1_000;
/// Gaps that are told one by one; the rest is counted.
const MAX_GAPS: usize = 100;

/// What a look at the whole audit log has found.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// How many entries there are.
    pub entries: u64,
    /// The root of the Merkle tree over them.
    pub root: Hash,
    /// The signed checkpoint that goes with them.
    pub checkpoint: Option<String>,
    /// The keys that signed the log, the first one first, as verifier keys.
    pub keys: Vec<String>,
    /// How many checkpoints that were kept elsewhere the log was held against.
    pub held_against: u64,
    /// What is wrong, in the order of the log; the first thousand.
    pub problems: Vec<Problem>,
    /// How many more problems there are.
    pub omitted: u64,
    /// When the daemon was down, and when the clock cannot be believed; the first hundred.
    pub gaps: Vec<Gap>,
    /// How many more gaps there are.
    pub omitted_gaps: u64,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}

impl Verification {
    /// Whether every entry is as it was written, and none is missing.
    pub fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    /// Adds a problem, or counts it where there are too many.
    pub fn report(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.omitted += 1;
        }
    }
}

/// What vouches for a log.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Keys that are trusted from the start. Others follow from these where the log says that its key
    /// changed.
    pub keys: Vec<Verifier>,
    /// The log's newest signed checkpoint.
    pub head: Option<String>,
    /// The checkpoints that the log keeps, by their sizes: one for each change of its key.
    pub bridges: BTreeMap<u64, String>,
    /// Checkpoints of this log that were kept elsewhere.
    pub kept: Vec<String>,
}

/// The log's key was exchanged by the entry at this position.
#[derive(Clone, Debug)]
struct Rotation {
    position: u64,
    previous: String,
    current: String,
}

/// A look at a log that is under way.
#[derive(Debug)]
pub struct Review {
    evidence: Evidence,
    tree: Frontier,
    /// The roots at the sizes that a checkpoint speaks of, once the log has come so far.
    roots: BTreeMap<u64, Option<Hash>>,
    rotations: Vec<Rotation>,
    gaps: gaps::Finder,
    found: Verification,
}

impl Review {
    /// Begins before the first entry.
    pub fn new(evidence: Evidence) -> Review {
        let notes = evidence.head.iter().chain(evidence.kept.iter());
        let sizes = notes.filter_map(|note| Some(Checkpoint::peek(note)?.size));
        let roots = sizes.chain(evidence.bridges.keys().copied()).map(|size| (size, None));
        let mut review = Review {
            roots: roots.collect(),
            tree: Frontier::new(),
            rotations: Vec::new(),
            gaps: gaps::Finder::default(),
            found: Verification {
                entries: 0,
                root: Hash::empty_root(),
                checkpoint: evidence.head.clone(),
                keys: Vec::new(),
                held_against: 0,
                problems: Vec::new(),
                omitted: 0,
                gaps: Vec::new(),
                omitted_gaps: 0,
                unchecked: Vec::new(),
            },
            evidence,
        };
        review.mark();
        review
    }

    /// How many entries have passed by.
    pub fn entries(&self) -> u64 {
        self.tree.size()
    }

    /// Takes the next entry: the hash of its bytes, and what it says, if it can be read.
    pub fn push(&mut self, leaf: Hash, entry: Option<&Entry>) {
        let position = self.tree.size();
        self.tree.push(leaf);
        self.mark();
        let Some(entry) = entry else { return };
        if let Some(gap) = self.gaps.look(position, entry) {
            self.gap(gap);
        }
        if let Event::KeyRotated { previous, current } = &entry.event {
            let (previous, current) = (previous.clone(), current.clone());
            self.rotations.push(Rotation { position, previous, current });
        }
    }

    /// Takes note of something that is wrong.
    pub fn report(&mut self, problem: Problem) {
        self.found.report(problem);
    }

    fn mark(&mut self) {
        if let Some(root @ None) = self.roots.get_mut(&self.tree.size()) {
            *root = Some(self.tree.root());
        }
    }

    fn gap(&mut self, gap: Gap) {
        if self.found.gaps.len() < MAX_GAPS {
            self.found.gaps.push(gap);
        } else {
            self.found.omitted_gaps += 1;
        }
    }

    /// Holds the entries against what was signed; gives the newest checkpoint too, if it is good.
    pub fn finish(mut self) -> (Verification, Option<Checkpoint>) {
        self.found.entries = self.tree.size();
        self.found.root = self.tree.root();
        if let Some(gap) = self.gaps.finish() {
            self.gap(gap);
        }
        let trusted = self.follow_keys();
        let signed = self.check_head(&trusted);
        self.check_kept(&trusted);
        (self.found, signed)
    }

    /// Follows the log from key to key: each change must be covered by a checkpoint that both keys signed.
    fn follow_keys(&mut self) -> Vec<Verifier> {
        let mut trusted = self.evidence.keys.clone();
        let rotations = std::mem::take(&mut self.rotations);
        let mut in_force: Option<String> = None;
        for rotation in &rotations {
            let Rotation { position, previous, current } = rotation;
            if in_force.as_ref().is_some_and(|key| key != previous) {
                let reason = "the key that it replaces was not in force".to_owned();
                self.report(Problem::Rotation { position: *position, reason });
            }
            in_force = Some(current.clone());
            match self.cross(rotation) {
                Ok((previous, current)) => {
                    if trusted.contains(&previous) && !trusted.contains(&current) {
                        trusted.push(current);
                    }
                }
                Err(reason) => self.report(Problem::Rotation { position: *position, reason }),
            }
        }
        let sizes: Vec<u64> = rotations.iter().map(|rotation| rotation.position + 1).collect();
        let strays: Vec<u64> =
            self.evidence.bridges.keys().copied().filter(|size| !sizes.contains(size)).collect();
        for size in strays {
            self.report(Problem::StrayCheckpoint { size });
        }
        self.found.keys = match rotations.first() {
            Some(first) => {
                let later = rotations.iter().map(|rotation| rotation.current.clone());
                std::iter::once(first.previous.clone()).chain(later).collect()
            }
            None => Vec::new(),
        };
        self.rotations = rotations;
        trusted
    }

    /// Checks the checkpoint that covers a change of the key; gives the keys before and after.
    fn cross(&self, rotation: &Rotation) -> Result<(Verifier, Verifier), String> {
        let size = rotation.position + 1;
        let note = self.evidence.bridges.get(&size);
        let note = note.ok_or("the checkpoint that both keys signed is missing")?;
        let key = |text: &str| Verifier::parse(text).map_err(|error| error.to_string());
        let (previous, current) = (key(&rotation.previous)?, key(&rotation.current)?);
        for key in [&previous, &current] {
            let signed = Checkpoint::open(note, key).map_err(|error| error.to_string())?;
            if signed.size != size || self.roots.get(&size) != Some(&Some(signed.root)) {
                return Err("its checkpoint is one of other entries".to_owned());
            }
        }
        Ok((previous, current))
    }

    fn check_head(&mut self, trusted: &[Verifier]) -> Option<Checkpoint> {
        let note = self.evidence.head.clone()?;
        let opened = open(&note, trusted).and_then(|(checkpoint, key)| {
            // After its key was changed, the old one signs no more.
            let size = checkpoint.size;
            let last = self.rotations.iter().rfind(|rotation| rotation.position < size);
            let last = last.map(|rotation| &rotation.current);
            match last {
                Some(current) if *current != key.to_string() => {
                    let key = trusted.iter().find(|key| key.to_string() == *current);
                    let key = key.ok_or("it is signed by a key that no trusted one vouches for")?;
                    Checkpoint::open(&note, key).map_err(|error| error.to_string())
                }
                _ => {
                    if self.found.keys.is_empty() {
                        self.found.keys.push(key.to_string());
                    }
                    Ok(checkpoint)
                }
            }
        });
        let signed = match opened {
            Ok(signed) => signed,
            Err(reason) => {
                self.report(Problem::Checkpoint { reason });
                return None;
            }
        };
        // Whoever has an old key, by then perhaps a stolen one, could make a log that ends before its change.
        let chain = &self.found.keys;
        let same_log = self.evidence.keys.iter().filter(|key| key.name() == signed.origin);
        let known = same_log.map(ToString::to_string);
        for key in known.filter(|key| !chain.contains(key)).collect::<Vec<_>>() {
            self.report(Problem::Key { key });
        }
        let (entries, root) = (self.found.entries, self.found.root);
        if entries < signed.size {
            self.report(Problem::Truncated { signed: signed.size, found: entries });
        }
        if entries > signed.size {
            let (first, count) = (signed.size, entries - signed.size);
            self.report(Problem::Unsigned { first, count });
        }
        let computed = self.roots.get(&signed.size).copied().flatten().unwrap_or(root);
        if computed != signed.root {
            self.report(Problem::Root { signed: signed.root, computed });
        }
        Some(signed)
    }

    /// Holds the log against checkpoints that were kept elsewhere: it must go on where they ended.
    fn check_kept(&mut self, trusted: &[Verifier]) {
        for note in std::mem::take(&mut self.evidence.kept) {
            let kept = match open(&note, trusted) {
                Ok((kept, _)) => kept,
                Err(reason) => {
                    let what =
                        format!("a checkpoint that was kept elsewhere is not usable: {reason}");
                    self.found.unchecked.push(what);
                    continue;
                }
            };
            self.found.held_against += 1;
            let found = self.found.entries;
            if kept.size > found {
                self.report(Problem::RolledBack { kept: kept.size, found });
            } else if self.roots.get(&kept.size) != Some(&Some(kept.root)) {
                self.report(Problem::Forked { size: kept.size });
            }
        }
    }
}

/// Reads a checkpoint that one of the keys signed, and says which.
fn open<'a>(note: &str, keys: &'a [Verifier]) -> Result<(Checkpoint, &'a Verifier), String> {
    let mut reason = "there is no key to check it with".to_owned();
    for key in keys {
        match Checkpoint::open(note, key) {
            Ok(checkpoint) => return Ok((checkpoint, key)),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// The signed notes of a text that holds one or several, one after the other.
pub fn split_notes(text: &str) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    let mut is_over = true;
    for line in text.split_inclusive('\n') {
        let is_signature = line.starts_with("— ");
        if is_over && !is_signature {
            if line.trim().is_empty() {
                continue;
            }
            notes.push(String::new());
        }
        is_over = is_signature;
        if let Some(note) = notes.last_mut() {
            note.push_str(line);
        }
    }
    notes
}

#[cfg(test)]
mod tests;
