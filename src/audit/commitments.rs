//! What a batch's audit entry says about its records without naming them.
//!
//! A commitment is an HMAC of store, table and key under a secret key (`Keys::commitment`). The entry
//! carries the root of a Merkle tree over a batch's commitments in ascending order; the commitments
//! themselves stay in the ledger, so that one record can be shown to have been in the batch.

use super::proof;
use super::tree::{Frontier, Hash};

/// The commitments of one batch, in ascending order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Commitments(Vec<[u8; 32]>);

/// Bytes that are not [`Commitments`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the commitments of the batch are damaged: they are not 32-byte values in ascending order")]
pub struct InvalidCommitments;

impl Commitments {
    /// The commitments as the tree's leaves: sorted, so that their order tells nothing.
    pub fn new(mut commitments: Vec<[u8; 32]>) -> Self {
        commitments.sort_unstable();
        Commitments(commitments)
    }

    /// How many records the batch has.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The root of the Merkle tree over the commitments: what the audit entry says.
    pub fn root(&self) -> Hash {
        self.0.iter().map(|commitment| Hash::leaf(commitment)).collect::<Frontier>().root()
    }

    /// Whether the record with this commitment was in the batch.
    pub fn contains(&self, commitment: &[u8; 32]) -> bool {
        self.0.binary_search(commitment).is_ok()
    }

    /// The place of a record's commitment among them, and the hashes that lead from it to the root.
    pub fn prove(&self, commitment: &[u8; 32]) -> Option<(u64, Vec<Hash>)> {
        let index = self.0.binary_search(commitment).ok()? as u64;
        let leaves = self.0.iter().map(|commitment| Hash::leaf(commitment));
        Some((index, proof::collect(proof::inclusion(index, self.count())?, leaves)?))
    }

    /// The commitments one after another, as the ledger keeps them.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_flattened()
    }

    /// Reads what [`Commitments::into_bytes`] gave.
    ///
    /// # Errors
    /// When the bytes are not whole commitments in ascending order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidCommitments> {
        let (commitments, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || !commitments.is_sorted() {
            return Err(InvalidCommitments);
        }
        Ok(Commitments(commitments.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_records_does_not_matter_and_each_record_does() {
        let (a, b, c) = ([3; 32], [1; 32], [2; 32]);
        let all = Commitments::new(vec![a, b, c]);
        assert_eq!(all, Commitments::new(vec![c, a, b]));
        assert_eq!(all.count(), 3);
        assert!(all.contains(&c) && !all.contains(&[4; 32]));
        assert_ne!(all.root(), Commitments::new(vec![a, b]).root());
        assert_eq!(Commitments::new(vec![]).root(), Hash::empty_root());
    }

    #[test]
    fn they_read_back_from_bytes_and_damage_is_seen() {
        let all = Commitments::new(vec![[9; 32], [7; 32]]);
        let bytes = all.clone().into_bytes();
        assert_eq!(Commitments::from_bytes(&bytes), Ok(all));
        assert_eq!(Commitments::from_bytes(&bytes[1..]), Err(InvalidCommitments));
        assert_eq!(Commitments::from_bytes(&[[9; 32], [7; 32]].concat()), Err(InvalidCommitments));
    }
}
