//! An exported folder, read by another implementation of tiled logs (a port of Go's, as its checksum
//! database uses it).

use std::fs;
use std::path::PathBuf;

use expunged::archive;
use expunged::audit::proof::{Proof, collect, consistency, verify_inclusion};
use expunged::audit::{Hash, tiles};
use tlog_tiles::{Checkpoint, Error, Tile, TileHashReader, TileReader};

use super::{Place, fill};

/// The tiles in a folder.
struct Folder(PathBuf);

impl TileReader for Folder {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        // Its paths name the height too, which tlog-tiles fixes.
        let path = |tile: &Tile| self.0.join(tile.path().replacen("tile/8/", "tile/", 1));
        Ok(tiles.iter().map(|tile| fs::read(path(tile)).unwrap()).collect())
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

#[tokio::test]
async fn another_implementation_reads_what_was_exported() {
    let place = Place::sqlite();
    let ledger = fill(&place, 60).await;
    let dir = place.temporary.path().join("exported");
    archive::export(&ledger, &dir, |_, _| ()).await.unwrap();
    let note = fs::read_to_string(dir.join("checkpoint")).unwrap();
    let text = &note[..=note.rfind("\n\n").unwrap()];
    let checkpoint = Checkpoint::from_bytes(text.as_bytes()).unwrap();
    assert_eq!((checkpoint.origin(), checkpoint.size()), (ledger.keys().origin(), 301));

    // What it reads it proves against the root first, tile by tile.
    let folder = Folder(dir.clone());
    let (size, root) = (checkpoint.size(), *checkpoint.hash());
    let reader = TileHashReader::new(size, root, &folder);
    assert_eq!(tlog_tiles::tree_hash(size, &reader).unwrap(), root);

    let bundles =
        ["tile/entries/000", "tile/entries/001.p/45"].map(|path| fs::read(dir.join(path)).unwrap());
    let entries: Vec<_> =
        bundles.iter().flat_map(|bundle| tiles::entries(bundle).unwrap()).collect();
    let leaves: Vec<_> = entries.iter().map(|entry| Hash::leaf(entry)).collect();
    for (index, entry) in (0..).zip(&entries).step_by(7) {
        let theirs = tlog_tiles::prove_record(size, index, &reader).unwrap();
        let hash = tlog_tiles::record_hash(entry);
        tlog_tiles::check_record(&theirs, size, root, index, hash).unwrap();
        let path: Vec<_> = theirs.iter().map(|hash| Hash(hash.0)).collect();
        verify_inclusion(Hash(hash.0), index, size, &path, Hash(root.0)).unwrap();
        let ours = ledger.prove(index, None).await.unwrap().unwrap();
        assert_eq!(ours.path, path);
        assert_eq!(Proof::parse(&ours.to_text()).unwrap(), ours);
    }
    for old in [1, 5, 128, 200, 256, 257, 300] {
        let theirs = tlog_tiles::prove_tree(size, old, &reader).unwrap();
        let before = tlog_tiles::tree_hash(old, &reader).unwrap();
        tlog_tiles::check_tree(&theirs, size, root, old, before).unwrap();
        let ours = collect(consistency(old, size).unwrap(), leaves.iter().copied()).unwrap();
        assert_eq!(ours, theirs.iter().map(|hash| Hash(hash.0)).collect::<Vec<_>>(), "{old}");
    }
}
