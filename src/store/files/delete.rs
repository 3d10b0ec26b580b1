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
    /// Folders in which something was unlinked.
    touched: Vec<OwnedFd>,
}

pub(super) fn delete(
    root: &Root,
    search: &Search,
    entries: &[Entry],
) -> Result<Deleted, FilesError> {
    root.for_deleting()?;
    let mut folders: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        folders.entry(split(&entry.path).0).or_default().push(index);
    }
    let jobs: Vec<Job<'_>> = folders
        .iter()
        .flat_map(|(folder, files)| files.chunks(HANDFUL).map(move |files| Job { folder, files }))
        .collect();
    let mut all = Done::default();
    let mut emptied = BTreeMap::new();
    for jobs in jobs.chunks(OPEN) {
        let done = together(jobs, |job| unlink(root, search, entries, job));
        for (job, done) in jobs.iter().zip(done) {
            if let Some(folder) = done.touched.first() {
                emptied.insert(job.folder, identity_of(folder).ok());
            }
            all.add(done);
        }
        // Where few folders are touched, those that go now need not be synced themselves.
        if jobs.len() > FEW || !root.settings.remove_empty_folders {
            sync(&all.touched).map_err(|cause| root.not_durable(cause))?;
            all.touched.clear();
        }
    }
    if root.settings.remove_empty_folders {
        let (removed, above) = remove_empty(root, search, emptied);
        all.deleted.folders = removed.len() as u64;
        let is_there = |folder: &OwnedFd| {
            identity_of(folder).ok().is_none_or(|known| !removed.contains(&known))
        };
        all.touched.retain(is_there);
        let synced: BTreeSet<_> =
            all.touched.iter().filter_map(|folder| identity_of(folder).ok()).collect();
        let above = above.into_iter();
        all.touched.extend(above.filter(|folder| {
            identity_of(folder).ok().is_none_or(|known| !synced.contains(&known))
        }));
        sync(&all.touched).map_err(|cause| root.not_durable(cause))?;
    }
    if root.settings.in_use == InUse::Count {
        all.deleted.open_elsewhere = in_use::count(&all.unlinked);
    }
    all.deleted.gone.sort_unstable();
    all.deleted.kept.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.deleted)
}

/// Makes what was done in these folders outlast a power failure: after all of it has been done, because a
/// journal then writes it down at once.
///
/// Each fsync(2) has the disk empty its cache again, which a busy one takes milliseconds for. So many
/// folders are left to syncfs(2), although that also waits for what others have written.
fn sync(folders: &[OwnedFd]) -> Result<(), Errno> {
    if folders.len() <= FEW {
        return folders.iter().try_for_each(fsync);
    }
    let mut synced = BTreeSet::new();
    for folder in folders {
        if synced.insert(identity_of(folder)?.device) {
            syncfs(folder)?;
        }
    }
    Ok(())
}

/// Does all of these, by several threads where there are many; gives the results in order.
fn together<T: Sync, R: Send>(items: &[T], act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() < 2 {
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
        let others: Vec<_> = (1..THREADS).map(|_| scope.spawn(work)).collect();
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

impl Done {
    fn add(&mut self, other: Done) {
        self.deleted.gone.extend(other.deleted.gone);
        self.deleted.kept.extend(other.deleted.kept);
        self.deleted.other_links += other.deleted.other_links;
        self.unlinked.extend(other.unlinked);
        self.touched.extend(other.touched);
    }
}

fn unlink(root: &Root, search: &Search, entries: &[Entry], job: &Job<'_>) -> Done {
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
        done.touched.push(folder);
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
    emptied: BTreeMap<&[u8], Option<Identity>>,
) -> (BTreeSet<Identity>, Vec<OwnedFd>) {
    // The longest last: a folder is tried when all below it are done, and their paths are longer.
    let mut waiting: BTreeMap<(usize, &[u8]), Option<Identity>> = BTreeMap::new();
    waiting.extend(emptied.into_iter().map(|(path, identity)| ((path.len(), path), identity)));
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
