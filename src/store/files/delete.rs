//! Deleting files that were found.
//!
//! Each is looked at again, by its name in its folder's descriptor, and unlinked by the same name in the
//! same descriptor. Linux has no way to unlink *this* file: whoever puts another in its place between
//! those two calls loses that one instead. It cannot be a file elsewhere: a name without slashes leads
//! nowhere but into the folder that is open, and a link that stands under it is itself unlinked, never
//! followed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, fsync, syncfs, unlinkat};
use rustix::io::Errno;

use super::super::search::{Search, Verdict};
use super::root::{Purpose, Root, identity_of, is_absent, is_elsewhere, look, reason, split};
use super::scan::{Found, THREADS, judge};
use super::{Deleted, Entry, FilesError, Identity, InUse, Left, in_use};
use crate::path::Template;

/// Folders that are open at once.
const OPEN: usize = 512;

/// Folders that are synced one by one.
const FEW: usize = 16;

/// Files of one folder that a thread takes at once.
const HANDFUL: usize = 256;

/// A number of files in one folder.
struct Job<'a> {
    folder: &'a [u8],
    /// Where they stand among the entries.
    files: &'a [usize],
}

/// What became of a number of files.
#[derive(Default)]
struct Done {
    deleted: Deleted,
    /// What was unlinked, with whether it lives on under another name.
    unlinked: Vec<(Identity, bool)>,
    /// The folder in which something was unlinked.
    touched: Option<OwnedFd>,
}

/// Files that were unlinked, which a power failure may still bring back.
#[derive(Default)]
pub(super) struct Unlinked {
    pub(super) deleted: Deleted,
    /// Which they are, where somebody wants to know who has them open.
    identities: Vec<(Identity, bool)>,
    touched: Touched,
    /// Folders that may be empty now.
    emptied: BTreeMap<Vec<u8>, Option<Identity>>,
}

/// Folders that are to be synced.
///
/// Each fsync(2) has the disk empty its cache again, which a busy one takes milliseconds for. So many
/// folders are left to syncfs(2), although that also waits for what others have written.
#[derive(Default)]
struct Touched {
    /// The folders; where they are many, one of each file system.
    folders: BTreeMap<Identity, OwnedFd>,
    are_many: bool,
}

impl Touched {
    fn add(&mut self, folder: OwnedFd) -> Result<(), Errno> {
        self.folders.insert(identity_of(&folder)?, folder);
        self.are_many |= self.folders.len() > FEW;
        if self.are_many {
            let mut devices = BTreeSet::new();
            self.folders.retain(|folder, _| devices.insert(folder.device));
        }
        Ok(())
    }

    fn append(&mut self, other: Touched) -> Result<(), Errno> {
        self.are_many |= other.are_many;
        other.folders.into_values().try_for_each(|folder| self.add(folder))
    }

    /// Those that were removed need no sync; those that they were removed from do.
    fn without(&mut self, removed: &BTreeSet<Identity>) {
        if !self.are_many {
            self.folders.retain(|folder, _| !removed.contains(folder));
        }
    }

    /// Makes what was done in these folders outlast a power failure: after all of it has been done,
    /// because a journal then writes it down at once.
    fn sync(&self) -> Result<(), Errno> {
        let mut folders = self.folders.values();
        if self.are_many { folders.try_for_each(syncfs) } else { folders.try_for_each(fsync) }
    }
}

/// Unlinks files; see [`make_last`] for what is left to be done.
pub(super) fn unlink(
    root: &Root,
    search: &Search,
    entries: &[Entry],
) -> Result<Unlinked, FilesError> {
    root.for_deleting()?;
    let mut folders: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        folders.entry(split(&entry.path).0).or_default().push(index);
    }
    let jobs: Vec<Job<'_>> = folders
        .iter()
        .flat_map(|(folder, files)| files.chunks(HANDFUL).map(move |files| Job { folder, files }))
        .collect();
    let mut all = Unlinked::default();
    let threads = if entries.len() <= FEW { 1 } else { THREADS };
    for jobs in jobs.chunks(OPEN) {
        let done = together(threads, jobs, |job| unlink_in(root, search, entries, job));
        for (job, done) in jobs.iter().zip(done) {
            all.deleted.gone.extend(done.deleted.gone);
            all.deleted.kept.extend(done.deleted.kept);
            all.deleted.other_links += done.deleted.other_links;
            all.identities.extend(done.unlinked);
            let Some(folder) = done.touched else { continue };
            if root.settings.remove_empty_folders {
                all.emptied.insert(job.folder.to_vec(), identity_of(&folder).ok());
            }
            all.touched.add(folder).map_err(|cause| root.not_durable(cause))?;
        }
    }
    if root.settings.in_use == InUse::Ignore {
        all.identities = Vec::new();
    }
    all.deleted.gone.sort_unstable();
    all.deleted.kept.sort_unstable_by_key(|(index, _)| *index);
    Ok(all)
}

/// Removes the folders that deletions have emptied, where that is wanted, and has all of it outlast a power
/// failure: what several deletions did by one sync.
pub(super) fn make_last(
    root: &Root,
    deletions: Vec<(&Search, Unlinked)>,
) -> Result<Vec<Deleted>, FilesError> {
    let mut touched = Touched::default();
    let mut all = Vec::with_capacity(deletions.len());
    for (search, Unlinked { mut deleted, identities, touched: own, emptied }) in deletions {
        touched.append(own).map_err(|cause| root.not_durable(cause))?;
        if root.settings.remove_empty_folders {
            let (removed, above) = remove_empty(root, search, &emptied);
            deleted.folders = removed.len() as u64;
            touched.without(&removed);
            above
                .into_iter()
                .try_for_each(|folder| touched.add(folder))
                .map_err(|cause| root.not_durable(cause))?;
        }
        if root.settings.in_use == InUse::Count {
            deleted.open_elsewhere = in_use::count(&identities);
        }
        all.push(deleted);
    }
    touched.sync().map_err(|cause| root.not_durable(cause))?;
    Ok(all)
}

/// Makes it certain that what is gone of these paths stays so: of whoever unlinked it, nobody may know
/// whether it was synced.
pub(super) fn sync_folders<'a>(
    root: &Root,
    paths: impl Iterator<Item = &'a [u8]>,
) -> Result<(), FilesError> {
    let mut touched = Touched::default();
    let mut seen = BTreeSet::new();
    for path in paths {
        let mut folder = split(path).0;
        // A folder that is gone was removed from the one above.
        while seen.insert(folder) {
            match root.folder(folder, Purpose::Read) {
                Ok(opened) => {
                    touched.add(opened).map_err(|cause| root.not_durable(cause))?;
                    break;
                }
                Err(error) if is_absent(error) && !folder.is_empty() => folder = split(folder).0,
                Err(error) if is_elsewhere(error) => break,
                Err(error) => return Err(root.not_durable(error)),
            }
        }
    }
    touched.sync().map_err(|cause| root.not_durable(cause))
}

/// Does all of these, by several threads where there are many; gives the results in order.
fn together<T: Sync, R: Send>(threads: usize, items: &[T], act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() < 2 || threads < 2 {
        return items.iter().map(act).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, act(item)));
        }
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            // What panicked there goes on here.
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn unlink_in(root: &Root, search: &Search, entries: &[Entry], job: &Job<'_>) -> Done {
    let mut done = Done::default();
    let folder = match root.folder(job.folder, Purpose::Read) {
        Ok(folder) => folder,
        // A folder that is gone has taken its files along. Where another file system begins, or a link
        // stands in its place, what was found may be there still, out of reach.
        Err(Errno::NOENT) => {
            done.deleted.gone.extend(job.files);
            return done;
        }
        Err(error) => {
            let left = match error {
                error if is_absent(error) || is_elsewhere(error) => Left::Changed,
                error => Left::Refused(reason(error)),
            };
            done.deleted.kept.extend(job.files.iter().map(|index| (*index, left)));
            return done;
        }
    };
    for &index in job.files {
        match unlink_one(search, &folder, &entries[index]) {
            Ok(Outcome::Missing) => done.deleted.gone.push(index),
            Ok(Outcome::Unlinked { links }) => {
                done.deleted.gone.push(index);
                done.deleted.other_links += u64::from(links > 1);
                done.unlinked.push((entries[index].identity, links > 1));
            }
            Err(left) => done.deleted.kept.push((index, left)),
        }
    }
    if !done.unlinked.is_empty() {
        done.touched = Some(folder);
    }
    done
}

enum Outcome {
    Missing,
    Unlinked { links: u64 },
}

fn unlink_one(search: &Search, folder: &OwnedFd, entry: &Entry) -> Result<Outcome, Left> {
    let (_, name) = split(&entry.path);
    if matches!(name, b"" | b"." | b"..") {
        return Err(Left::Refused("its name is none"));
    }
    let mut links = 0;
    let mut failed = None;
    let judged = judge(search, &entry.path, || {
        let seen = look(folder, name);
        links = seen.as_ref().map_or(0, |seen| seen.links);
        failed = seen.err();
        seen
    });
    match (failed, judged) {
        (Some(Errno::NOENT), _) => return Ok(Outcome::Missing),
        (Some(error), _) => return Err(Left::Refused(reason(error))),
        (None, Some(Found { verdict: Verdict::Due(_), identity, .. }))
            if identity == entry.identity => {}
        (None, _) => return Err(Left::Changed),
    }
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => Ok(Outcome::Unlinked { links }),
        Err(Errno::NOENT) => Ok(Outcome::Missing),
        Err(error) => Err(Left::Refused(reason(error))),
    }
}

/// Removes the folders that this deletion has emptied, and those above that it empties so. The kernel
/// removes no folder that has anything in it. Those that a template spells out stay: whoever puts files
/// there made them once. Gives those that went, and the folders that they went from, to be synced.
fn remove_empty(
    root: &Root,
    search: &Search,
    emptied: &BTreeMap<Vec<u8>, Option<Identity>>,
) -> (BTreeSet<Identity>, Vec<OwnedFd>) {
    // The longest last: a folder is tried when all below it are done, and their paths are longer.
    let mut waiting: BTreeMap<(usize, &[u8]), Option<Identity>> = BTreeMap::new();
    let emptied = emptied.iter().map(|(path, identity)| ((path.len(), path.as_slice()), *identity));
    waiting.extend(emptied);
    let mut parents: BTreeSet<&[u8]> = BTreeSet::new();
    let fixed: BTreeSet<&[u8]> = search.templates.iter().map(Template::fixed_folder).collect();
    let is_fixed = |path: &[u8]| {
        let begins = |folder: &&[u8]| {
            folder.strip_prefix(path).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        };
        fixed.iter().any(begins)
    };
    let mut removed = BTreeSet::new();
    while let Some(((_, path), identity)) = waiting.pop_last() {
        let (above, name) = split(path);
        if path.is_empty() || is_fixed(path) {
            continue;
        }
        let Ok(parent) = root.folder(above, Purpose::Read) else { continue };
        // Another folder that took its place was not emptied by this deletion.
        let is_it = look(&parent, name)
            .is_ok_and(|seen| seen.kind == FileType::Directory && Some(seen.identity) == identity);
        if !is_it || unlinkat(&parent, name, AtFlags::REMOVEDIR).is_err() {
            continue;
        }
        removed.extend(identity);
        parents.insert(above);
        waiting.entry((above.len(), above)).or_insert_with(|| identity_of(&parent).ok());
    }
    // Where one was removed itself, the folder above it is among them.
    let above = parents.into_iter().filter_map(|above| root.folder(above, Purpose::Read).ok());
    (removed, above.collect())
}

impl Root {
    fn not_durable(&self, cause: Errno) -> FilesError {
        FilesError::Sync { store: self.store.clone(), cause: reason(cause) }
    }
}
