//! An exported audit log: a folder that anyone can verify without us.
//!
//! ```text
//! checkpoint             the newest signed checkpoint               C2SP tlog-tiles, which other tools read
//! tile/0/000 …           hashes of the Merkle tree
//! tile/entries/000 …     the entries
//! key                    the verifier keys, the first one first     ours, which such tools pass over
//! checkpoints/<size>     where the signing key was changed, by both keys
//! commitments/<batch>    the commitments of a batch, 32 bytes each, ascending
//! ```
//!
//! The key that makes commitments is never in it. Writing it again adds what is new; a folder that does
//! not fit the ledger is left alone and reported, as one of the two was changed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::audit::checkpoint::Checkpoint;
use crate::audit::note::{self, NoteError, Verifier};
use crate::audit::review::{Evidence, Problem, Review, Verification};
use crate::audit::tiles::{self, Tiler, WIDTH};
use crate::audit::{Commitments, Entry, Event, Hash};
use crate::ledger::{Ledger, LedgerError, audit};

mod verify;

pub use verify::verify;

const CHECKPOINT: &str = "checkpoint";
const KEY: &str = "key";
const BRIDGES: &str = "checkpoints";
const COMMITMENTS: &str = "commitments";

/// Why a log cannot be exported, or an export cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The operating system refused something.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The folder is in use for something else.
    #[error(
        "`{}` holds something else than an export of this log, and stays as it is: name a folder that is empty or does not exist yet",
        dir.display()
    )]
    Foreign {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder and the ledger do not tell the same.
    #[error(
        "`{}` was exported earlier and the ledger says otherwise now: one of the two was changed; verify both",
        path.display()
    )]
    Differs {
        /// The file.
        path: PathBuf,
    },
    /// The log's head cannot be believed.
    #[error("the log cannot be exported, because it is not good: {0}; verify it")]
    Log(String),
    /// There is no key to check with.
    #[error("`{}` holds no verifier key: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: NoteError,
    },
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ArchiveError + 'a {
    move |source| ArchiveError::Io { doing, path: path.to_owned(), source }
}

/// What was exported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// How many entries the folder holds.
    pub entries: u64,
    /// How many batches have their commitments in it.
    pub batches: u64,
    /// How many files were written.
    pub written: u64,
    /// The signed checkpoint.
    pub checkpoint: String,
}

/// Writes the log into a folder, or what is new since the last time. The checkpoint comes last, so that
/// a folder is whole at any time; whoever is killed goes on when it is done again.
///
/// # Errors
/// When the folder holds something else, or other entries than the ledger; when a file cannot be
/// written; when the ledger does not answer.
pub async fn export(
    ledger: &Ledger,
    dir: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Exported, ArchiveError> {
    let mut snapshot = ledger.snapshot().await?;
    let head = audit::read_head(&mut snapshot).await?;
    let opened = ledger.keys().open_checkpoint(&head);
    let (signed, hand) = opened.map_err(|error| ArchiveError::Log(error.to_string()))?;
    let keys = ledger.keys().verifiers(hand);
    let mut folder = Folder::take(dir, &keys, &signed)?;
    for (size, note) in audit::read_bridges(&mut snapshot).await? {
        folder.put(&format!("{BRIDGES}/{size}"), note.as_bytes())?;
    }
    let mut writer = Writer::default();
    let mut batches = 0;
    while writer.entries < signed.size {
        let page = audit::read_page(&mut snapshot, writer.entries).await?;
        if page.is_empty() {
            return Err(ArchiveError::Log("entries at its end are missing".to_owned()));
        }
        for json in &page {
            writer.push(&mut folder, json.as_bytes())?;
            if let Ok(Entry { event: Event::BatchDone { batch, .. }, .. }) = Entry::from_json(json)
                && let Some(bytes) = audit::read_commitments(&mut snapshot, batch).await?
            {
                folder.put(&format!("{COMMITMENTS}/{batch}"), &bytes)?;
                batches += 1;
            }
        }
        progress(writer.entries, signed.size);
    }
    let root = writer.tree.root();
    let entries = writer.finish(&mut folder)?;
    if root != signed.root {
        return Err(ArchiveError::Log("its entries are not the signed ones".to_owned()));
    }
    folder.replace(CHECKPOINT, head.as_bytes())?;
    folder.clean(entries)?;
    Ok(Exported { entries, batches, written: folder.written, checkpoint: head })
}

/// Puts entries into tiles and bundles.
#[derive(Default)]
struct Writer {
    tree: crate::audit::tree::Frontier,
    tiler: Tiler,
    bundle: Vec<u8>,
    entries: u64,
}

impl Writer {
    fn push(&mut self, folder: &mut Folder<'_>, entry: &[u8]) -> Result<(), ArchiveError> {
        if !tiles::push_entry(&mut self.bundle, entry) {
            return Err(ArchiveError::Log(format!("entry {} is too long", self.entries)));
        }
        let leaf = Hash::leaf(entry);
        self.tree.push(leaf);
        self.entries += 1;
        if self.entries.is_multiple_of(WIDTH as u64) {
            let path = tiles::bundle_path(self.entries / WIDTH as u64 - 1, WIDTH);
            folder.put(&path, &std::mem::take(&mut self.bundle))?;
        }
        for tile in self.tiler.push(leaf) {
            folder.put(&tile.path, &tile.bytes)?;
        }
        Ok(())
    }

    /// Writes what is partial; gives the number of entries.
    fn finish(self, folder: &mut Folder<'_>) -> Result<u64, ArchiveError> {
        let mut files = self.tiler.finish();
        let width = usize::try_from(self.entries % WIDTH as u64).unwrap_or_default();
        if width > 0 {
            let path = tiles::bundle_path(self.entries / WIDTH as u64, width);
            files.push(tiles::File { path, bytes: self.bundle });
        }
        for file in &files {
            folder.put(&file.path, &file.bytes)?;
        }
        Ok(self.entries)
    }
}

/// A folder that is ours to write to.
struct Folder<'a> {
    dir: &'a Path,
    /// How many entries it held before.
    before: u64,
    written: u64,
}

impl<'a> Folder<'a> {
    /// Takes an empty folder, or an export of the same log. It is told by its keys, which are written
    /// first.
    fn take(
        dir: &'a Path,
        keys: &[Verifier],
        head: &Checkpoint,
    ) -> Result<Folder<'a>, ArchiveError> {
        let foreign = || ArchiveError::Foreign { dir: dir.to_owned() };
        let lines = note::key_lines(keys);
        fs::create_dir_all(dir).map_err(failed("create the folder", dir))?;
        let is_empty = fs::read_dir(dir).map_err(failed("list the folder", dir))?.next().is_none();
        let mut folder = Folder { dir, before: 0, written: 0 };
        if !is_empty {
            let there = folder.read(KEY)?.ok_or_else(foreign)?;
            if there.is_empty() || !lines.as_bytes().starts_with(&there) {
                return Err(foreign());
            }
            if let Some(note) = folder.read(CHECKPOINT)? {
                let note = String::from_utf8(note).map_err(|_| foreign())?;
                let opened = keys.iter().find_map(|key| Checkpoint::open(&note, key).ok());
                let earlier = opened.filter(|earlier| earlier.size <= head.size);
                let differs = || ArchiveError::Differs { path: dir.join(CHECKPOINT) };
                folder.before = earlier.ok_or_else(differs)?.size;
            }
        }
        folder.replace(KEY, lines.as_bytes())?;
        Ok(folder)
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let path = self.dir.join(path);
        read(&path).map_err(failed("read", &path))
    }

    /// Writes a file that never changes. What is there must be the same.
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        match self.read(path)? {
            Some(there) if there == bytes => Ok(()),
            Some(_) => Err(ArchiveError::Differs { path: self.dir.join(path) }),
            None => self.replace(path, bytes),
        }
    }

    /// Writes a file in one step, unless it is there already.
    fn replace(&mut self, path: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        if self.read(path)?.is_some_and(|there| there == bytes) {
            return Ok(());
        }
        let path = self.dir.join(path);
        let parent = path.parent().unwrap_or(self.dir);
        fs::create_dir_all(parent).map_err(failed("create the folder", parent))?;
        let mut draft = path.clone().into_os_string();
        draft.push(".new");
        let draft = PathBuf::from(draft);
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(parent)?.sync_all()
        };
        write().map_err(failed("write", &path))?;
        self.written += 1;
        Ok(())
    }

    /// Removes the partial files of the export before, which nothing needs any more.
    fn clean(&self, size: u64) -> Result<(), ArchiveError> {
        let needed = tiles::partial_paths(size);
        for path in tiles::partial_paths(self.before) {
            let path = (!needed.contains(&path)).then(|| self.dir.join(path));
            let Some(path) = path else { continue };
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
            // Its folder goes too, unless another partial form is in it.
            let _ = path.parent().map(fs::remove_dir);
        }
        Ok(())
    }
}

/// No file of an export is longer: a bundle of the longest entries, or the commitments of a huge batch.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Reads a file, if it is there.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_FILE).read_to_end(&mut bytes)?,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(Some(bytes))
}
