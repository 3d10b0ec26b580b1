//! Verifies an exported log with nothing but the folder and a key: no configuration, no ledger, no
//! network.

use uuid::Uuid;

use super::{
    ArchiveError, BRIDGES, BTreeMap, CHECKPOINT, COMMITMENTS, Commitments, Entry, Event, Evidence,
    Hash, KEY, Path, Problem, Review, Tiler, Verification, Verifier, WIDTH, failed, fs, read,
    tiles,
};

/// Verifies the log in a folder. The keys must come from elsewhere: those in the folder were chosen by
/// whoever made it.
///
/// # Errors
/// When it cannot be checked, because a file cannot be read. What is wrong with the log is
/// not an error.
pub fn verify(
    dir: &Path,
    keys: Vec<Verifier>,
    kept: Vec<String>,
) -> Result<Verification, ArchiveError> {
    // A folder that cannot be listed is not an empty log.
    fs::read_dir(dir).map_err(failed("list the folder", dir))?;
    let mut problems = Vec::new();
    let own = read_keys(dir, &mut problems)?;
    let head = text(dir, CHECKPOINT)?;
    if head.is_none() {
        problems.push(missing(CHECKPOINT));
    }
    let size = head.as_deref().and_then(claimed_size);
    let bridges = read_bridges(dir)?;
    let mut look = Look {
        dir,
        review: Review::new(Evidence { keys, head, bridges, kept }),
        tiler: Tiler::new(),
        batches: Vec::new(),
    };
    for problem in problems {
        look.review.report(problem);
    }
    look.read_entries(size.unwrap_or(0))?;
    for tile in std::mem::take(&mut look.tiler).finish() {
        look.compare(&tile)?;
    }
    look.look_for_stray_commitments()?;
    let (mut found, _) = look.review.finish();
    let has_own = own.is_some();
    let own: Vec<_> = own.iter().flatten().map(ToString::to_string).collect();
    if has_own && (own.is_empty() || !own.starts_with(&found.keys)) {
        let what = "does not hold the keys that signed the log";
        found.report(Problem::File { path: KEY.to_owned(), what });
    }
    Ok(found)
}

struct Look<'a> {
    dir: &'a Path,
    review: Review,
    tiler: Tiler,
    /// The batches that entries told of.
    batches: Vec<Uuid>,
}

impl Look<'_> {
    /// Reads as many entries as the checkpoint says there are.
    fn read_entries(&mut self, size: u64) -> Result<(), ArchiveError> {
        let width = WIDTH as u64;
        for index in 0..size.div_ceil(width) {
            let expected = usize::try_from((size - index * width).min(width)).unwrap_or(WIDTH);
            let path = tiles::bundle_path(index, expected);
            let Some(bundle) = read(&self.dir.join(&path)).map_err(failed("read", self.dir))?
            else {
                self.review.report(missing(&path));
                return Ok(());
            };
            let entries = tiles::entries(&bundle).filter(|entries| entries.len() == expected);
            let Some(entries) = entries else {
                let what = "does not hold as many whole entries as it should";
                self.review.report(Problem::File { path, what });
                return Ok(());
            };
            for entry in entries {
                self.push(entry)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        let position = self.review.entries();
        let leaf = Hash::leaf(bytes);
        let entry = str::from_utf8(bytes).ok().and_then(|json| Entry::from_json(json).ok());
        if entry.is_none() {
            let position = i64::try_from(position).unwrap_or(i64::MAX);
            self.review.report(Problem::Unreadable { position });
        }
        self.review.push(leaf, entry.as_ref());
        if let Some(Entry { event: Event::BatchDone { batch, commitments, .. }, .. }) = entry {
            self.batches.push(batch);
            let path = self.dir.join(COMMITMENTS).join(batch.to_string());
            if let Some(bytes) = read(&path).map_err(failed("read", &path))? {
                let kept = Commitments::from_bytes(&bytes);
                if !kept.is_ok_and(|kept| kept.root() == commitments) {
                    self.review.report(Problem::Commitments { position });
                }
            }
        }
        for tile in self.tiler.push(leaf) {
            self.compare(&tile)?;
        }
        Ok(())
    }

    /// A tile must be what the entries make it.
    fn compare(&mut self, tile: &tiles::File) -> Result<(), ArchiveError> {
        let path = self.dir.join(&tile.path);
        match read(&path).map_err(failed("read", &path))? {
            Some(bytes) if bytes == tile.bytes => {}
            Some(_) => {
                let what = "does not hold the hashes of the entries";
                self.review.report(Problem::File { path: tile.path.clone(), what });
            }
            None => self.review.report(missing(&tile.path)),
        }
        Ok(())
    }

    /// Commitments of a batch that no entry tells of would show what never happened.
    fn look_for_stray_commitments(&mut self) -> Result<(), ArchiveError> {
        self.batches.sort_unstable();
        for name in names(&self.dir.join(COMMITMENTS))? {
            let batch = name.parse::<Uuid>();
            if batch.is_ok_and(|batch| self.batches.binary_search(&batch).is_err()) {
                let what = "belongs to a batch that no entry tells of";
                self.review.report(Problem::File { path: format!("{COMMITMENTS}/{name}"), what });
            }
        }
        Ok(())
    }
}

fn missing(path: &str) -> Problem {
    Problem::File { path: path.to_owned(), what: "is missing" }
}

fn text(dir: &Path, path: &str) -> Result<Option<String>, ArchiveError> {
    let path = dir.join(path);
    let bytes = read(&path).map_err(failed("read", &path))?;
    // What is not text is no signed note either, and is reported as that.
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The size that a checkpoint states, not believed yet.
fn claimed_size(note: &str) -> Option<u64> {
    note.split('\n').nth(1)?.parse().ok()
}

/// The keys in the folder. They must be whole even when the caller has others.
fn read_keys(
    dir: &Path,
    problems: &mut Vec<Problem>,
) -> Result<Option<Vec<Verifier>>, ArchiveError> {
    let path = dir.join(KEY);
    let Some(text) = text(dir, KEY)? else {
        problems.push(missing(KEY));
        return Ok(None);
    };
    let keys = text.lines().map(Verifier::parse).collect::<Result<Vec<_>, _>>();
    keys.map(Some).map_err(|source| ArchiveError::Key { path, source })
}

/// The checkpoints at which the key was changed.
fn read_bridges(dir: &Path) -> Result<BTreeMap<u64, String>, ArchiveError> {
    let mut bridges = BTreeMap::new();
    for name in names(&dir.join(BRIDGES))? {
        let Ok(size) = name.parse() else { continue };
        let note = text(dir, &format!("{BRIDGES}/{name}"))?;
        bridges.extend(note.map(|note| (size, note)));
    }
    Ok(bridges)
}

/// The names in a folder, in order; none where there is no such folder.
fn names(folder: &Path) -> Result<Vec<String>, ArchiveError> {
    let Ok(listing) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(failed("list the folder", folder))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
