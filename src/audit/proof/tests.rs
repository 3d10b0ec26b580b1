use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use proptest::prelude::*;
use sha2::Sha256;

use super::*;

type Oracle = MemoryBackedTree<Sha256, Vec<u8>>;

fn bytes(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn leaves(size: u64) -> impl Iterator<Item = Hash> {
    (0..size).map(|number| Hash::leaf(&bytes(number)))
}

fn root(size: u64) -> Hash {
    leaves(size).collect::<Frontier>().root()
}

fn oracle(size: u64) -> Oracle {
    let mut oracle = Oracle::new();
    (0..size).for_each(|number| oracle.push(bytes(number)));
    oracle
}

fn oracle_root(size: u64) -> RootHash<Sha256> {
    RootHash::new(root(size).0.into(), size)
}

fn to_bytes(path: &[Hash]) -> Vec<u8> {
    path.iter().flat_map(|hash| hash.0).collect()
}

fn from_bytes(bytes: &[u8]) -> Vec<Hash> {
    bytes.as_chunks::<32>().0.iter().copied().map(Hash).collect()
}

#[test]
fn every_leaf_of_every_small_tree_is_proven_as_another_implementation_does() {
    for size in 1..70 {
        let oracle = oracle(size);
        for index in 0..size {
            let path = collect(inclusion(index, size).unwrap(), leaves(size)).unwrap();
            let leaf = Hash::leaf(&bytes(index));
            assert_eq!(verify_inclusion(leaf, index, size, &path, root(size)), Ok(()));
            let theirs = oracle.prove_inclusion(usize::try_from(index).unwrap());
            assert_eq!(to_bytes(&path), theirs.as_bytes(), "{index} of {size}");
            let ours = InclusionProof::<Sha256>::try_from_bytes(to_bytes(&path)).unwrap();
            oracle_root(size).verify_inclusion(&bytes(index), index, &ours).unwrap();
        }
        assert_eq!(inclusion(size, size), None);
    }
}

#[test]
fn every_pair_of_small_trees_is_proven_as_another_implementation_does() {
    for new in 1..70 {
        let oracle = oracle(new);
        for old in 1..new {
            let path = collect(consistency(old, new).unwrap(), leaves(new)).unwrap();
            let (earlier, later) = ((old, root(old)), (new, root(new)));
            assert_eq!(verify_consistency(earlier, later, &path), Ok(()), "{old} {new}");
            let theirs = oracle.prove_consistency(usize::try_from(new - old).unwrap());
            assert_eq!(to_bytes(&path), theirs.as_bytes(), "{old} {new}");
            let ours = ConsistencyProof::<Sha256>::try_from_bytes(to_bytes(&path)).unwrap();
            oracle_root(new).verify_consistency(&oracle_root(old), &ours).unwrap();
        }
    }
    assert_eq!(consistency(0, 5), None);
    assert_eq!(consistency(6, 5), None);
    assert_eq!(consistency(5, 5), Some(vec![]));
    let (five, six) = ((5, root(5)), (6, root(6)));
    assert_eq!(verify_consistency(five, five, &[]), Ok(()));
    assert_eq!(verify_consistency((0, Hash::empty_root()), five, &[]), Ok(()));
    assert_eq!(verify_consistency((0, root(1)), five, &[]), Err(ProofError::Inconsistent));
    assert_eq!(verify_consistency(six, five, &[]), Err(ProofError::Inconsistent));
    assert_eq!(verify_consistency(five, (5, root(6)), &[]), Err(ProofError::Inconsistent));
}

#[test]
fn missing_leaves_give_no_proof() {
    assert_eq!(collect(inclusion(1, 9).unwrap(), leaves(8)), None);
}

fn text_of(extra: Option<Vec<u8>>, index: u64, path: Vec<Hash>) -> Proof {
    Proof { extra, index, path, checkpoint: "log\n1\nx\n\n— log c2ln\n".into() }
}

#[test]
fn the_text_is_version_extra_index_hashes_and_checkpoint() {
    let proof = text_of(Some(b"more".to_vec()), 7, vec![Hash([0xb7; 32])]);
    assert_eq!(
        proof.to_text(),
        "c2sp.org/tlog-proof@v1\nextra bW9yZQ==\nindex 7\n\
         t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7c=\n\nlog\n1\nx\n\n— log c2ln\n"
    );
    assert_eq!(Proof::parse(&proof.to_text()), Ok(proof));
    let bare = text_of(None, 0, vec![]);
    assert_eq!(Proof::parse(&bare.to_text()), Ok(bare));
}

#[test]
fn other_texts_are_refused() {
    for bad in [
        "",
        "c2sp.org/tlog-proof@v1\nindex 0",
        "c2sp.org/tlog-proof@v2\nindex 0\n\nx",
        "c2sp.org/tlog-proof@v1\nindex 01\n\nx",
        "c2sp.org/tlog-proof@v1\nindex -1\n\nx",
        "c2sp.org/tlog-proof@v1\nindex +1\n\nx",
        "c2sp.org/tlog-proof@v1\nextra !\nindex 0\n\nx",
        "c2sp.org/tlog-proof@v1\nindex 0\nAAAA\n\nx",
        "c2sp.org/tlog-proof@v1\nindex 0\nextra AAAA\n\nx",
    ] {
        assert_eq!(Proof::parse(bad), Err(ProofError::Syntax), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn large_trees_are_proven_alike(size in 1u64..3_000, index: prop::sample::Index) {
        let index = index.index(usize::try_from(size).unwrap());
        let path = collect(inclusion(index as u64, size).unwrap(), leaves(size)).unwrap();
        let theirs = oracle(size).prove_inclusion(index);
        prop_assert_eq!(from_bytes(theirs.as_bytes()), path);
    }

    /// Another leaf, place, size, root or hash: no proof of one thing proves another.
    #[test]
    fn a_changed_inclusion_proof_proves_nothing(
        size in 2u64..200, index: prop::sample::Index, bit in 0usize..256, at: prop::sample::Index,
    ) {
        let index = index.index(usize::try_from(size).unwrap()) as u64;
        let path = collect(inclusion(index, size).unwrap(), leaves(size)).unwrap();
        let leaf = Hash::leaf(&bytes(index));
        let flip = |hash: Hash| { let mut hash = hash; hash.0[bit / 8] ^= 1 << (bit % 8); hash };
        prop_assert!(verify_inclusion(flip(leaf), index, size, &path, root(size)).is_err());
        prop_assert!(verify_inclusion(leaf, index, size, &path, flip(root(size))).is_err());
        let other = (index + 1) % size;
        prop_assert!(verify_inclusion(leaf, other, size, &path, root(size)).is_err());
        prop_assert!(verify_inclusion(leaf, size, size, &path, root(size)).is_err());
        let mut changed = path.clone();
        let place = at.index(changed.len());
        changed[place] = flip(changed[place]);
        prop_assert!(verify_inclusion(leaf, index, size, &changed, root(size)).is_err());
        prop_assert!(verify_inclusion(leaf, index, size, &path[1..], root(size)).is_err());
        changed = [path.as_slice(), &[leaf]].concat();
        prop_assert!(verify_inclusion(leaf, index, size, &changed, root(size)).is_err());
    }

    #[test]
    fn a_changed_consistency_proof_proves_nothing(
        old in 1u64..150, more in 1u64..50, bit in 0usize..256, at: prop::sample::Index,
    ) {
        let new = old + more;
        let path = collect(consistency(old, new).unwrap(), leaves(new)).unwrap();
        let flip = |hash: Hash| { let mut hash = hash; hash.0[bit / 8] ^= 1 << (bit % 8); hash };
        let (earlier, later) = ((old, root(old)), (new, root(new)));
        prop_assert!(verify_consistency((old, flip(root(old))), later, &path).is_err());
        prop_assert!(verify_consistency(earlier, (new, flip(root(new))), &path).is_err());
        let mut changed = path.clone();
        let place = at.index(changed.len());
        changed[place] = flip(changed[place]);
        prop_assert!(verify_consistency(earlier, later, &changed).is_err());
        prop_assert!(verify_consistency(earlier, later, &path[1..]).is_err());
        changed = [path.as_slice(), &[later.1]].concat();
        prop_assert!(verify_consistency(earlier, later, &changed).is_err());
    }

    #[test]
    fn a_proof_reads_back(
        extra in any::<Option<Vec<u8>>>(), index in any::<u64>(),
        path in prop::collection::vec(any::<[u8; 32]>(), 0..64),
    ) {
        let proof = text_of(extra, index, path.into_iter().map(Hash).collect());
        prop_assert_eq!(Proof::parse(&proof.to_text()), Ok(proof));
    }
}
