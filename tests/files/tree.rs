//! A tree of files to delete from, and what surrounds it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expunged::store::files::{Deleted, Entry, FileWalk, Files, InUse, Settings};
use expunged::store::search::{Age, Limits, Search};
use expunged::store::sql::{Access, Bounds};
use jiff::Timestamp;
use tempfile::TempDir;

/// The moment of the decision in all of these tests.
pub(crate) const NOW: i64 = 1_800_000_000;
/// What was modified before it is due.
pub(crate) const CUTOFF: i64 = NOW - 1_000_000;
/// A moment at which what is due may have been modified.
pub(crate) const OLD: i64 = CUTOFF - 1_000;
/// A moment at which what is not due yet may have been modified.
pub(crate) const YOUNG: i64 = CUTOFF + 1_000;

/// A folder with the tree in it, and room outside the tree.
pub(crate) struct Tree {
    folder: TempDir,
    pub(crate) settings: Settings,
}

impl Tree {
    pub(crate) fn new() -> Tree {
        Tree::in_folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn in_folder(folder: TempDir) -> Tree {
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let settings = Settings {
            root,
            cross_mounts: false,
            remove_empty_folders: false,
            in_use: InUse::Ignore,
        };
        Tree { folder, settings }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.settings.root
    }

    /// A path that is not in the tree.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn path(&self, path: impl AsRef<[u8]>) -> PathBuf {
        self.root().join(OsStr::from_bytes(path.as_ref()))
    }

    /// Writes a file, with the folders that it needs.
    pub(crate) fn put(&self, path: impl AsRef<[u8]>, modified: i64) {
        write(&self.path(path), modified);
    }

    pub(crate) fn open(&self) -> Files {
        self.open_for(Access::ReadWrite)
    }

    pub(crate) fn open_for(&self, access: Access) -> Files {
        Files::open("photos".parse().unwrap(), self.settings.clone(), access).unwrap()
    }

    /// All that the tree has, by the standard library: files, links and whatever else, but no folders.
    pub(crate) fn files(&self) -> BTreeSet<Vec<u8>> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![self.root().to_owned()];
        while let Some(folder) = waiting.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    waiting.push(entry.path());
                } else {
                    let path = entry.path().strip_prefix(self.root()).unwrap().to_owned();
                    found.insert(path.into_os_string().into_vec());
                }
            }
        }
        found
    }
}

/// Writes a file that was last modified then, with the folders that it needs.
pub(crate) fn write(path: &Path, modified: i64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = fs::File::create(path).unwrap();
    std::io::Write::write_all(&mut file, b"somebody's face").unwrap();
    touch(&file, modified);
}

pub(crate) fn touch(file: &fs::File, modified: i64) {
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_secs(modified.unsigned_abs());
    file.set_modified(modified).unwrap();
}

pub(crate) fn limits() -> Limits {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    Limits {
        bounds: Bounds { cutoff: at(CUTOFF), now: at(NOW) },
        earliest: jiff::civil::date(1990, 1, 1),
    }
}

/// Looks for what these templates mean and what is old enough.
pub(crate) fn search(templates: &[&str]) -> Arc<Search> {
    let templates = templates.iter().map(|text| text.parse().unwrap()).collect();
    Arc::new(Search { templates, age: Age::Modified(limits()), kept: Vec::new() })
}

/// All that a walk finds.
pub(crate) async fn all(mut walk: FileWalk) -> Vec<Entry> {
    let mut found = Vec::new();
    while let Some(entries) = walk.next(1_000).await.unwrap() {
        assert!(!entries.is_empty() && entries.len() <= 1_000);
        found.extend(entries);
    }
    assert_eq!(walk.unread().folders, 0);
    found
}

/// Finds and deletes all that is due.
pub(crate) async fn purge(files: &Files, search: &Arc<Search>) -> Deleted {
    let entries = all(files.walk(search.clone())).await;
    files.delete(search, entries).await.unwrap()
}

pub(crate) fn paths(entries: &[Entry]) -> Vec<&[u8]> {
    entries.iter().map(|entry| entry.path.as_slice()).collect()
}
