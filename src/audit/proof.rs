//! Proofs of RFC 6962: that a leaf is in a tree, and that a tree goes on where an earlier one ended.
//!
//! Each hash of a proof is the root over a range of leaves. [`inclusion`] and [`consistency`] say which
//! ranges, [`Collector`] computes their roots while the leaves pass by once, and [`verify_inclusion`]
//! and [`verify_consistency`] need nothing but hashes.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::tree::{Frontier, Hash};

/// The first line of a proof's text.
const VERSION: &str = "c2sp.org/tlog-proof@v1";
/// A tree has fewer levels than this, so no proof has more hashes.
const MAX_HASHES: usize = 64;

/// Why a proof does not prove.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProofError {
    /// Too many or too few hashes, or a leaf beyond the tree's end.
    #[error("the proof does not fit the size of the tree")]
    Shape,
    /// The hashes lead to another root.
    #[error("the proof leads to another root: this is not in the tree")]
    Root,
    /// The tree that should have grown is smaller, or of the same size and another.
    #[error("the later tree does not go on where the earlier one ended")]
    Inconsistent,
    /// A text that is not a proof.
    #[error("this is not a proof: it takes `{VERSION}`, an index, hashes and a checkpoint")]
    Syntax,
}

/// The ranges of leaves whose roots show that the leaf at `index` is in a tree of `size` leaves, from
/// its sibling up; `None` when there is no such leaf.
pub fn inclusion(index: u64, size: u64) -> Option<Vec<Range<u64>>> {
    if index >= size {
        return None;
    }
    let mut ranges = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            ranges.push(middle..end);
            end = middle;
        } else {
            ranges.push(start..middle);
            start = middle;
        }
    }
    ranges.reverse();
    Some(ranges)
}

/// The ranges of leaves whose roots show that a tree of `new` leaves goes on where one of `old`
/// leaves ended; `None` when it is smaller, or the old one is empty and needs no proof.
pub fn consistency(old: u64, new: u64) -> Option<Vec<Range<u64>>> {
    if old == 0 || old > new {
        return None;
    }
    let mut ranges = Vec::new();
    let (mut start, mut end) = (0, new);
    // The old tree is what lies before `old`; it is known whole while it begins at 0.
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            ranges.push(middle..end);
            end = middle;
        } else {
            ranges.push(start..middle);
            start = middle;
        }
    }
    if start > 0 {
        ranges.push(start..end);
    }
    ranges.reverse();
    Some(ranges)
}

/// Where RFC 6962 divides a tree: the largest power of two below its size, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// Computes the roots over ranges of leaves, which pass by one after the other.
#[derive(Clone, Debug)]
pub struct Collector {
    ranges: Vec<(Range<u64>, Frontier)>,
    next: u64,
}

impl Collector {
    /// Begins at leaf 0.
    pub fn new(ranges: Vec<Range<u64>>) -> Self {
        let with_root = |range| (range, Frontier::new());
        Collector { ranges: ranges.into_iter().map(with_root).collect(), next: 0 }
    }

    /// Takes the next leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        if let Some((_, tree)) =
            self.ranges.iter_mut().find(|(range, _)| range.contains(&self.next))
        {
            tree.push(leaf);
        }
        self.next += 1;
    }

    /// The roots in the order of the ranges; `None` when leaves are missing.
    pub fn finish(self) -> Option<Vec<Hash>> {
        let root = |(range, tree): (Range<u64>, Frontier)| {
            (tree.size() == range.end - range.start).then(|| tree.root())
        };
        self.ranges.into_iter().map(root).collect()
    }
}

/// The hashes of a proof from all leaves at once.
pub fn collect(
    ranges: Vec<Range<u64>>,
    leaves: impl IntoIterator<Item = Hash>,
) -> Option<Vec<Hash>> {
    let mut collector = Collector::new(ranges);
    leaves.into_iter().for_each(|leaf| collector.push(leaf));
    collector.finish()
}

/// Checks that `leaf` is at `index` of the tree with this size and root (RFC 9162, 2.1.3.2).
///
/// # Errors
/// When the proof does not show it.
pub fn verify_inclusion(
    leaf: Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Shape);
    }
    let (mut node, mut last, mut computed) = (index, size - 1, leaf);
    for hash in path {
        if last == 0 {
            return Err(ProofError::Shape);
        }
        if node & 1 == 1 || node == last {
            computed = Hash::node(*hash, computed);
            // A node without a right sibling goes up until it is one itself.
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            computed = Hash::node(computed, *hash);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::Shape);
    }
    if computed == root { Ok(()) } else { Err(ProofError::Root) }
}

/// Checks that the later of two trees, each a size and a root, goes on where the earlier one ended (RFC 9162,
/// 2.1.4.2). Anything goes on where the empty tree ended, without a proof.
///
/// # Errors
/// When the proof does not show it.
pub fn verify_consistency(
    (old, old_root): (u64, Hash),
    (new, new_root): (u64, Hash),
    path: &[Hash],
) -> Result<(), ProofError> {
    if old > new || (old == new && old_root != new_root) {
        return Err(ProofError::Inconsistent);
    }
    if old == 0 && old_root != Hash::empty_root() {
        return Err(ProofError::Inconsistent);
    }
    if old == 0 || old == new {
        return if path.is_empty() { Ok(()) } else { Err(ProofError::Shape) };
    }
    let own = [old_root];
    let hashes = if old.is_power_of_two() { &own[..] } else { &[] };
    let mut hashes = hashes.iter().chain(path);
    let first = *hashes.next().ok_or(ProofError::Shape)?;
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut of_old, mut of_new) = (first, first);
    for hash in hashes {
        if last == 0 {
            return Err(ProofError::Shape);
        }
        if node & 1 == 1 || node == last {
            of_old = Hash::node(*hash, of_old);
            of_new = Hash::node(*hash, of_new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            of_new = Hash::node(of_new, *hash);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::Shape);
    }
    if of_old == old_root && of_new == new_root { Ok(()) } else { Err(ProofError::Inconsistent) }
}

/// A proof that an entry is in a log, as text (C2SP tlog-proof): it needs only the log's verifier key
/// and the entry to be checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    /// What goes with it. Nothing vouches for it by itself.
    pub extra: Option<Vec<u8>>,
    /// The entry's position.
    pub index: u64,
    /// The hashes from the leaf's sibling up.
    pub path: Vec<Hash>,
    /// The signed checkpoint, as it was published.
    pub checkpoint: String,
}

impl Proof {
    /// The proof as text.
    pub fn to_text(&self) -> String {
        let mut lines = vec![VERSION.to_owned()];
        lines.extend(self.extra.as_ref().map(|extra| format!("extra {}", STANDARD.encode(extra))));
        lines.push(format!("index {}", self.index));
        lines.extend(self.path.iter().map(|hash| STANDARD.encode(hash.0)));
        format!("{}\n\n{}", lines.join("\n"), self.checkpoint)
    }

    /// Reads what [`Proof::to_text`] wrote.
    ///
    /// # Errors
    /// When it is not the text of a proof.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ProofError::Syntax)?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(VERSION) {
            return Err(ProofError::Syntax);
        }
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| ProofError::Syntax);
        let extra = lines.peek().and_then(|line| line.strip_prefix("extra ")).map(decode);
        let extra = extra.transpose()?;
        if extra.is_some() {
            lines.next();
        }
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.ok_or(ProofError::Syntax)?;
        let number: u64 = index.parse().map_err(|_| ProofError::Syntax)?;
        if number.to_string() != index {
            return Err(ProofError::Syntax);
        }
        let hash = |line| decode(line)?.try_into().map(Hash).map_err(|_| ProofError::Syntax);
        let path = lines.map(hash).collect::<Result<Vec<_>, _>>()?;
        if path.len() > MAX_HASHES {
            return Err(ProofError::Syntax);
        }
        Ok(Proof { extra, index: number, path, checkpoint: checkpoint.to_owned() })
    }
}

#[cfg(test)]
mod tests;
