//! Looking through a tree, in no order, by several threads.
//!
//! What waits is kept as one packed list of names for each folder that was listed, and the last list is
//! worked on first, so that memory follows the widest folders on one way down, not the tree.

use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use jiff::Timestamp;
use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::super::search::{Search, Verdict};
use super::root::{Purpose, Root, Seen, is_absent, is_elsewhere, look, reason, split};
use super::{Entry, Identity, Unread};
use crate::plan::KeptReason;

/// As many look through one tree at once. More hardly help: they wait for the same file system.
pub(super) const THREADS: usize = 2;

/// So much of a folder's list is read at once.
const BUFFER: usize = 64 * 1024;

/// A file that a search means.
pub(super) struct Found<'a> {
    pub(super) path: &'a [u8],
    pub(super) verdict: Verdict,
    pub(super) modified: Option<Timestamp>,
    pub(super) identity: Identity,
}

impl Found<'_> {
    /// As what it is handed out, where it is due.
    pub(super) fn due(&self) -> Option<Entry> {
        let Verdict::Due(start) = self.verdict else { return None };
        let (path, modified, identity) = (self.path.to_vec(), self.modified, self.identity);
        Some(Entry { path, start, modified, identity })
    }
}

/// Memory for listing folders.
#[derive(Default)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    fn space(&mut self) -> &mut [MaybeUninit<u8>] {
        self.0.reserve(BUFFER);
        self.0.spare_capacity_mut()
    }
}

/// Looks through the tree and hands every file that is meant to `see`, with what is kept for its thread.
/// Gives what each of the threads has kept.
pub(super) fn scan<T: Send + Default>(
    root: &Root,
    search: &Search,
    stop: &AtomicBool,
    see: impl Fn(&mut T, Found<'_>) -> ControlFlow<()> + Sync,
) -> (Vec<T>, Unread) {
    scan_by(THREADS, root, search, stop, see)
}

/// The same by so many threads.
pub(super) fn scan_by<T: Send + Default>(
    threads: usize,
    root: &Root,
    search: &Search,
    stop: &AtomicBool,
    see: impl Fn(&mut T, Found<'_>) -> ControlFlow<()> + Sync,
) -> (Vec<T>, Unread) {
    let scan = Scan { root, search, stop, queue: Mutex::default(), woken: Condvar::new() };
    let starts = starts(search);
    let names = pack(&starts);
    scan.lock().lists.push(List { folder: Vec::new(), names, next: 0, is_start: true });
    let work = || {
        let mut kept = T::default();
        scan.work(&mut kept, &see);
        kept
    };
    let kept = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut kept = vec![work()];
        for other in others {
            // What panicked there goes on here.
            kept.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        kept
    });
    let unread = scan.lock().unread;
    (kept, unread)
}

/// The folders in which all that is meant lies, none within another.
pub(super) fn starts(search: &Search) -> Vec<&[u8]> {
    let mut folders: Vec<&[u8]> =
        search.prefixes().into_iter().map(|prefix| split(prefix).0).collect();
    folders.sort_unstable_by_key(|folder| folder.len());
    let mut apart: Vec<&[u8]> = Vec::new();
    for folder in folders {
        let is_within = |outer: &&[u8]| {
            outer.is_empty()
                || folder
                    .strip_prefix(*outer)
                    .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        };
        if !apart.iter().any(is_within) {
            apart.push(folder);
        }
    }
    apart
}

/// Whether the root has nothing in it, as a mount point has where nothing is mounted. One that cannot be
/// listed is not called empty.
pub(super) fn is_empty(root: &Root) -> bool {
    let Ok(opened) = root.folder(b"", Purpose::Read) else { return false };
    let mut buffer = Buffer::default();
    let mut entries = RawDir::new(&opened, buffer.space());
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
            _ => return false,
        }
    }
    true
}

fn pack(names: &[&[u8]]) -> Vec<u8> {
    names.iter().flat_map(|name| name.iter().chain(&[0])).copied().collect()
}

/// Folders in one folder, which wait to be listed.
struct List {
    folder: Vec<u8>,
    /// Their names, a NUL after each.
    names: Vec<u8>,
    next: usize,
    /// Whether they are where the search begins.
    is_start: bool,
}

impl List {
    fn take(&mut self) -> Option<Folder> {
        let rest = &self.names[self.next..];
        let end = rest.iter().position(|byte| *byte == 0)?;
        let path = join(&self.folder, &rest[..end]);
        self.next += end + 1;
        Some(Folder { path, is_start: self.is_start })
    }
}

/// A folder that is to be listed.
pub(super) struct Folder {
    pub(super) path: Vec<u8>,
    /// Whether a search begins there: its path was written down, and not met on the way.
    pub(super) is_start: bool,
}

/// The path of a name in a folder.
pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    path.extend_from_slice(folder);
    if !folder.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[derive(Default)]
struct Queue {
    lists: Vec<List>,
    /// Threads that may still add to it.
    working: usize,
    is_over: bool,
    unread: Unread,
}

struct Scan<'a> {
    root: &'a Root,
    search: &'a Search,
    stop: &'a AtomicBool,
    queue: Mutex<Queue>,
    woken: Condvar,
}

/// A folder that a thread is at. Dropped, also by a panic, the others know that nothing more comes of it.
struct Turn<'a, 'b>(&'a Scan<'b>);

impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.working -= 1;
        queue.is_over |= thread::panicking();
        drop(queue);
        self.0.woken.notify_all();
    }
}

impl<'b> Scan<'b> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<(Folder, Turn<'_, 'b>)> {
        let mut queue = self.lock();
        loop {
            if queue.is_over || self.stop.load(Ordering::Relaxed) {
                return None;
            }
            while let Some(list) = queue.lists.last_mut() {
                if let Some(folder) = list.take() {
                    queue.working += 1;
                    return Some((folder, Turn(self)));
                }
                queue.lists.pop();
            }
            if queue.working == 0 {
                return None;
            }
            queue = self.woken.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work<T>(&self, kept: &mut T, see: &impl Fn(&mut T, Found<'_>) -> ControlFlow<()>) {
        let mut buffer = Buffer::default();
        while let Some((folder, turn)) = self.next() {
            let mut names = Vec::new();
            let mut flow = ControlFlow::Continue(());
            let mut enter = |name: &[u8]| {
                names.extend_from_slice(name);
                names.push(0);
            };
            let listed =
                list(self.root, self.search, &folder, &mut buffer, &mut enter, &mut |found| {
                    flow = if self.stop.load(Ordering::Relaxed) {
                        ControlFlow::Break(())
                    } else {
                        see(kept, found)
                    };
                    flow
                });
            let mut queue = self.lock();
            if let Err(error) = listed {
                queue.unread.add(reason(error));
            }
            queue.is_over |= flow.is_break();
            if !names.is_empty() {
                queue.lists.push(List { folder: folder.path, names, next: 0, is_start: false });
            }
            drop(queue);
            drop(turn);
        }
    }
}

/// Lists one folder: the names of folders that may hold something meant, and the files that are meant.
/// A folder that is no longer there has nothing; one that became a link, or is another file system's, has
/// nothing of this tree. Where the search was to begin there, though, what lies behind is not known.
pub(super) fn list(
    root: &Root,
    search: &Search,
    folder: &Folder,
    buffer: &mut Buffer,
    enter: &mut dyn FnMut(&[u8]),
    see: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
) -> Result<(), Errno> {
    let opened = match root.folder(&folder.path, Purpose::Read) {
        Err(error) if is_absent(error) => return Ok(()),
        Err(error) if is_elsewhere(error) && !folder.is_start => return Ok(()),
        opened => opened?,
    };
    let mut path = folder.path.clone();
    if !path.is_empty() {
        path.push(b'/');
    }
    let start = path.len();
    let mut entries = RawDir::new(&opened, buffer.space());
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // Removed while it was read.
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::INTR) => continue,
            entry => entry?,
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        path.truncate(start);
        path.extend_from_slice(name.to_bytes());
        let kind = match entry.file_type() {
            // Some file systems leave it to whoever wants to know.
            FileType::Unknown => look(&opened, name).map_or(FileType::Unknown, |seen| seen.kind),
            kind => kind,
        };
        match kind {
            FileType::Directory if search.enters(&path) => enter(name.to_bytes()),
            FileType::RegularFile => {
                if let Some(found) = judge(search, &path, || look(&opened, name))
                    && see(found).is_break()
                {
                    return Ok(());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Judges one regular file; `None` for what is not meant, or not there. Looks at it only where it is
/// meant.
pub(super) fn judge<'a>(
    search: &Search,
    path: &'a [u8],
    look: impl FnOnce() -> Result<Seen, Errno>,
) -> Option<Found<'a>> {
    let mut looked = None;
    let verdict = search.judge_by(path, || {
        let seen = *looked.insert(look());
        seen.ok().and_then(|seen| search.age.start(seen.modified, seen.identity.since))
    });
    match looked? {
        Ok(seen) if seen.kind == FileType::RegularFile => {
            let Seen { modified, identity, .. } = seen;
            Some(Found { path, verdict, modified, identity })
        }
        Ok(_) => None,
        Err(error) if is_absent(error) => None,
        // It is there, and no more is known.
        Err(_) => {
            let verdict = Verdict::Kept(KeptReason::UnreadableStartingPoint);
            let identity = Identity { device: 0, inode: 0, since: None };
            Some(Found { path, verdict, modified: None, identity })
        }
    }
}
