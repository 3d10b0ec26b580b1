//! The Merkle tree of RFC 6962, section 2.1, over SHA-256.
//!
//! A log only ever grows, so it keeps no tree but a [`Frontier`]: the roots of the perfect subtrees
//! that its leaves form, one per bit of its size. Proofs need the leaf hashes, which the ledger keeps.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 hash; as text, 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The root of a tree without leaves.
    pub fn empty_root() -> Hash {
        Hash(Sha256::digest([]).into())
    }

    /// The hash of a leaf: of 0x00 and its bytes.
    pub fn leaf(bytes: &[u8]) -> Hash {
        Hash(Sha256::new().chain_update([0]).chain_update(bytes).finalize().into())
    }

    /// The hash of an inner node: of 0x01 and its children's hashes.
    pub fn node(left: Hash, right: Hash) -> Hash {
        // In one piece, which takes less time than three.
        let mut bytes = [1; 65];
        bytes[1..33].copy_from_slice(&left.0);
        bytes[33..].copy_from_slice(&right.0);
        Hash(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a [`struct@Hash`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is not a hash: it takes 64 hexadecimal digits")]
pub struct InvalidHash;

impl FromStr for Hash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidHash)?;
        Ok(Hash(bytes))
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// All that is needed of a tree to append to it and to know its root.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frontier {
    size: u64,
    /// Roots of perfect subtrees, largest and oldest first: one for each bit set in `size`.
    roots: Vec<Hash>,
}

/// Bytes that are not a [`Frontier`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the frontier of the Merkle tree is damaged: its length does not fit its size")]
pub struct InvalidFrontier;

impl Frontier {
    /// The frontier of a tree without leaves.
    pub fn new() -> Self {
        Frontier::default()
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf by its hash, in as many steps as the tree has levels at most.
    pub fn push(&mut self, leaf: Hash) {
        let mut root = leaf;
        // Each trailing one of the size is a subtree that the new leaf completes to one twice as large.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                root = Hash::node(left, root);
            }
        }
        self.roots.push(root);
        self.size += 1;
    }

    /// The root of the tree as it is now.
    pub fn root(&self) -> Hash {
        let smallest_first = self.roots.iter().rev().copied();
        smallest_first
            .reduce(|right, left| Hash::node(left, right))
            .unwrap_or_else(Hash::empty_root)
    }

    /// The size, big-endian in eight bytes, then the subtree roots.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.size.to_be_bytes().to_vec();
        bytes.extend(self.roots.iter().flat_map(|root| root.0));
        bytes
    }

    /// Reads what [`Frontier::to_bytes`] wrote.
    ///
    /// # Errors
    /// When the number of subtree roots does not fit the size.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidFrontier> {
        let (size, roots) = bytes.split_first_chunk().ok_or(InvalidFrontier)?;
        let size = u64::from_be_bytes(*size);
        let (roots, rest) = roots.as_chunks::<32>();
        if !rest.is_empty() || roots.len() != size.count_ones() as usize {
            return Err(InvalidFrontier);
        }
        Ok(Frontier { size, roots: roots.iter().copied().map(Hash).collect() })
    }
}

impl FromIterator<Hash> for Frontier {
    fn from_iter<I: IntoIterator<Item = Hash>>(leaves: I) -> Self {
        let mut frontier = Frontier::new();
        leaves.into_iter().for_each(|leaf| frontier.push(leaf));
        frontier
    }
}

#[cfg(test)]
mod tests {
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use proptest::prelude::*;

    use super::*;

    /// The leaves and roots that the implementations of RFC 6962 test each other with.
    const LEAVES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn the_known_vectors_come_out() {
        let mut frontier = Frontier::new();
        assert_eq!(frontier.root().to_string(), ROOTS[0]);
        for (leaf, root) in LEAVES.iter().zip(&ROOTS[1..]) {
            frontier.push(Hash::leaf(&hex::decode(leaf).unwrap()));
            assert_eq!(frontier.root().to_string(), *root);
        }
    }

    #[test]
    fn hashes_are_written_and_read_as_hexadecimal() {
        let hash = Hash::leaf(b"x");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!("abc".parse::<Hash>(), Err(InvalidHash));
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(serde_json::from_str::<Hash>(&json).unwrap(), hash);
    }

    proptest! {
        #[test]
        fn every_root_is_the_one_of_another_implementation(
            leaves in prop::collection::vec(any::<Vec<u8>>(), 0..120),
        ) {
            let mut oracle = MemoryBackedTree::<Sha256, Vec<u8>>::new();
            let mut frontier = Frontier::new();
            for leaf in leaves {
                frontier.push(Hash::leaf(&leaf));
                oracle.push(leaf);
                prop_assert_eq!(frontier.size(), oracle.len());
                let expected: [u8; 32] = (*oracle.root().as_bytes()).into();
                prop_assert_eq!(frontier.root(), Hash(expected));
            }
        }

        #[test]
        fn a_stored_frontier_goes_on_where_it_was(size in 0u64..600, more in 0u64..50) {
            let leaf = |n: u64| Hash::leaf(&n.to_be_bytes());
            let whole: Frontier = (0..size + more).map(leaf).collect();
            let first: Frontier = (0..size).map(leaf).collect();
            let mut read = Frontier::from_bytes(&first.to_bytes()).unwrap();
            (size..size + more).for_each(|n| read.push(leaf(n)));
            prop_assert_eq!(read, whole);
        }

        #[test]
        fn damaged_frontiers_are_refused(bytes in any::<Vec<u8>>()) {
            if let Ok(frontier) = Frontier::from_bytes(&bytes) {
                prop_assert_eq!(frontier.to_bytes(), bytes);
            }
        }
    }
}
