//! The files of a tiled log (C2SP tlog-tiles): what they are named and what is in them.
//!
//! A tile is 256 hashes in a row; the last one of a level may be partial. Tiles of level 0 hold leaf
//! hashes, and each full tile gives one hash to the level above. Beside them stand the entries
//! themselves in bundles of 256, each after its length in two bytes.

use std::fmt::Write as _;

use super::tree::{Frontier, Hash};

/// Hashes in a full tile, entries in a full bundle.
pub const WIDTH: usize = 256;

/// One file of a tiled log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// Its path below the log's folder.
    pub path: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// The path of a tile: `tile/<level>/<index>`, with `.p/<width>` when it is partial.
pub fn tile_path(level: usize, index: u64, width: usize) -> String {
    path(&level.to_string(), index, width)
}

/// The path of a bundle of entries.
pub fn bundle_path(index: u64, width: usize) -> String {
    path("entries", index, width)
}

/// The paths of all that is partial in a log of `size` entries.
pub fn partial_paths(size: u64) -> Vec<String> {
    let width = |size: u64| usize::try_from(size % WIDTH as u64).unwrap_or_default();
    let mut paths = Vec::new();
    if width(size) > 0 {
        paths.push(bundle_path(size / WIDTH as u64, width(size)));
    }
    let (mut level, mut hashes) = (0, size);
    while hashes > 0 {
        if width(hashes) > 0 {
            paths.push(tile_path(level, hashes / WIDTH as u64, width(hashes)));
        }
        (level, hashes) = (level + 1, hashes / WIDTH as u64);
    }
    paths
}

/// Three digits to a folder; all but the last begin with an `x`.
fn path(level: &str, index: u64, width: usize) -> String {
    let mut parts = vec![format!("{:03}", index % 1000)];
    let mut rest = index / 1000;
    while rest > 0 {
        parts.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    parts.reverse();
    let mut path = format!("tile/{level}/{}", parts.join("/"));
    if width < WIDTH {
        // Writing to a text cannot fail.
        let _ = write!(path, ".p/{width}");
    }
    path
}

/// Makes the tiles of a log whose leaves pass by one after the other. It keeps at most one tile of
/// each level in memory.
#[derive(Clone, Debug, Default)]
pub struct Tiler {
    levels: Vec<Level>,
}

#[derive(Clone, Debug, Default)]
struct Level {
    index: u64,
    hashes: Vec<Hash>,
}

impl Tiler {
    /// Begins at leaf 0.
    pub fn new() -> Self {
        Tiler::default()
    }

    /// Takes the next leaf by its hash; gives the tiles that it makes full, lowest level first.
    pub fn push(&mut self, leaf: Hash) -> Vec<File> {
        let mut full = Vec::new();
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Level::default());
            }
            let tile = &mut self.levels[level];
            tile.hashes.push(hash);
            if tile.hashes.len() < WIDTH {
                break;
            }
            hash = tile.hashes.iter().copied().collect::<Frontier>().root();
            full.push(tile.file(level));
            tile.hashes.clear();
            tile.index += 1;
        }
        full
    }

    /// The partial tiles at the log's end.
    pub fn finish(self) -> Vec<File> {
        let levels = self.levels.iter().enumerate();
        let partial = levels.filter(|(_, tile)| !tile.hashes.is_empty());
        partial.map(|(level, tile)| tile.file(level)).collect()
    }
}

impl Level {
    fn file(&self, level: usize) -> File {
        let path = tile_path(level, self.index, self.hashes.len());
        File { path, bytes: self.hashes.iter().flat_map(|hash| hash.0).collect() }
    }
}

/// Appends an entry to a bundle; `false`, and nothing is done, when it is longer than 65,535 bytes.
#[must_use]
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> bool {
    let Ok(length) = u16::try_from(entry.len()) else { return false };
    bundle.extend(length.to_be_bytes());
    bundle.extend_from_slice(entry);
    true
}

/// The entries of a bundle; `None` when it ends within one.
pub fn entries(mut bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_first_chunk()?;
        let (entry, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        entries.push(entry);
        bundle = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(tile_path(0, 1_234_067, WIDTH), "tile/0/x001/x234/067");
        assert_eq!(tile_path(1, 0, 17), "tile/1/000.p/17");
        assert_eq!(bundle_path(1_000, 112), "tile/entries/x001/000.p/112");
        assert_eq!(bundle_path(999, WIDTH), "tile/entries/999");
    }

    fn paths(size: u64) -> Vec<String> {
        let mut tiler = Tiler::new();
        let mut files: Vec<_> =
            (0..size).flat_map(|n| tiler.push(Hash::leaf(&n.to_be_bytes()))).collect();
        files.extend(tiler.finish());
        files.into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn a_log_has_the_tiles_of_the_specification() {
        assert_eq!(paths(0), Vec::<String>::new());
        assert_eq!(paths(256), ["tile/0/000", "tile/1/000.p/1"]);
        assert_eq!(partial_paths(256), ["tile/1/000.p/1"]);
        assert_eq!(partial_paths(0), Vec::<String>::new());
        assert_eq!(
            partial_paths(70_000),
            ["tile/entries/273.p/112", "tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]
        );
        let paths = paths(70_000);
        let of_level = |prefix: &str| paths.iter().filter(|path| path.starts_with(prefix)).count();
        assert_eq!([of_level("tile/0/"), of_level("tile/1/"), of_level("tile/2/")], [274, 2, 1]);
        for partial in ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"] {
            assert!(paths.iter().any(|path| path == partial), "{partial}");
        }
    }

    #[test]
    fn the_hash_of_a_full_tile_is_the_root_over_its_leaves() {
        let leaves = |range: std::ops::Range<u64>| range.map(|n| Hash::leaf(&n.to_be_bytes()));
        let mut tiler = Tiler::new();
        for leaf in leaves(0..600) {
            tiler.push(leaf);
        }
        let level = tiler.finish().into_iter().find(|file| file.path == "tile/1/000.p/2").unwrap();
        let root = |range| leaves(range).collect::<Frontier>().root().0;
        assert_eq!(level.bytes, [root(0..256), root(256..512)].concat());
    }

    proptest! {
        #[test]
        fn bundles_read_back(written in prop::collection::vec(any::<Vec<u8>>(), 0..20)) {
            let mut bundle = Vec::new();
            for entry in &written {
                prop_assert!(push_entry(&mut bundle, entry));
            }
            prop_assert_eq!(entries(&bundle).unwrap(), written);
            if !bundle.is_empty() {
                let cut = &bundle[..bundle.len() - 1];
                prop_assert!(entries(cut).is_none_or(|read| read.len() < entries(&bundle).unwrap().len()));
            }
        }
    }

    #[test]
    fn an_entry_that_is_too_long_is_refused() {
        let mut bundle = Vec::new();
        assert!(push_entry(&mut bundle, &vec![0; 65_535]));
        assert!(!push_entry(&mut bundle, &vec![0; 65_536]));
        assert_eq!(bundle.len(), 65_537);
    }
}
