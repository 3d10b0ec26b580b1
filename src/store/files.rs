//! Trees of files: what is meant is found, and deleted, below one root and nowhere else.
//!
//! A record is a regular file, named by its path below the root. Links, sockets and devices are never
//! touched and never counted, but a folder that holds one is not empty. See `files/root.rs` for how the
//! way below the root is kept from leading elsewhere, and `files/delete.rs` for what may still happen
//! between a look at a file and its end.
//!
//! A folder that cannot be read keeps its files and does not stop the others. Whoever looks is told how
//! many there are ([`Unread`]): where there is one, nobody knows that nothing is left.

mod delete;
mod error;
mod in_use;
mod ordered;
mod root;
mod scan;
mod walk;

use std::collections::BinaryHeap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use rustix::fs::FileType;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::path::Template;
use crate::plan::Survey;
use crate::types::Name;

use super::search::{self, Search, Verdict};
use super::sql::Access;
pub use error::FilesError;
use ordered::Span;
use root::{Purpose, Root, is_absent, is_below, is_elsewhere, look, reason, split};
use scan::{scan, scan_by};
pub use walk::FileWalk;

/// So many files, or paths with placeholders filled, are little.
const LITTLE: usize = 16;

/// A tree of files, and what may be done in it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything lies below it.
    pub root: PathBuf,
    /// Whether what is mounted below the root belongs to the tree.
    pub cross_mounts: bool,
    /// Whether folders go that a deletion has emptied.
    pub remove_empty_folders: bool,
    /// Whether to find out which deleted files are open somewhere.
    pub in_use: InUse,
}

/// Whether to find out which deleted files are open somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum InUse {
    /// Nobody looks.
    #[default]
    Ignore,
    /// After each deletion, the open files of all processes that may be looked at are gone through.
    Count,
}

/// A tree of files, opened for reading or for acting.
#[derive(Clone)]
pub struct Files {
    root: Arc<Root>,
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    /// The file system's number.
    pub device: u64,
    /// The file's number in it. It may be given to another file once this one is gone.
    pub inode: u64,
    /// Since when it has it: when it was made, or last changed where the file system does not keep that.
    pub since: Option<Timestamp>,
}

/// A file that was found.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the root.
    pub path: Vec<u8>,
    /// From when its retention counts, where the search that found it says so; when it was last modified,
    /// where it was looked at by its path.
    pub start: Option<Timestamp>,
    /// When it was last modified, as far as that is known.
    pub modified: Option<Timestamp>,
    /// Which file it is.
    pub identity: Identity,
}

impl Entry {
    /// What tells it from another of the same path, as text that lasts.
    pub fn mark(&self) -> String {
        let Identity { device, inode, since } = self.identity;
        let since = since.map_or(String::new(), |since| since.to_string());
        format!("{device}:{inode}:{since}")
    }

    /// Whether it is the one that bears a mark. Marks of old say no more than device and inode.
    pub fn bears(&self, mark: &str) -> bool {
        let own = self.mark();
        let is_old = mark.matches(':').count() == 1;
        own == mark || is_old && own.strip_prefix(mark).is_some_and(|rest| rest.starts_with(':'))
    }
}

/// Shows no path, which may hold a name.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("start", &self.start).finish_non_exhaustive()
    }
}

/// Folders that could not be read, so that what is in them is not known.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Unread {
    /// How many.
    pub folders: u64,
    /// Why one of them could not be.
    pub why: Option<&'static str>,
}

impl Unread {
    /// Makes sure that nothing was left out.
    ///
    /// # Errors
    /// When something was.
    pub fn none(self, store: &Name) -> Result<(), FilesError> {
        if self.folders == 0 {
            return Ok(());
        }
        Err(FilesError::Unread { store: store.clone(), unread: self })
    }

    fn add(&mut self, why: &'static str) {
        self.folders += 1;
        self.why.get_or_insert(why);
    }
}

/// What a look through the whole tree has counted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Surveyed {
    /// What was seen.
    pub survey: Survey,
    /// What was not: unless it is nothing, there may be more of everything.
    pub unread: Unread,
}

/// The earliest starting points of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Starts {
    /// Among all files that are due or will be.
    pub oldest: Option<Timestamp>,
    /// Among those that are not due yet.
    pub next: Option<Timestamp>,
    /// What was not seen.
    pub unread: Unread,
}

/// What a deletion did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Deleted {
    /// Which of the entries are gone, in order; also those that were so before.
    pub gone: Vec<usize>,
    /// Which are not, in order.
    pub kept: Vec<(usize, Left)>,
    /// Deleted files whose data lives on under other names.
    pub other_links: u64,
    /// Deleted files that some process has open, at least.
    pub open_elsewhere: u64,
    /// Folders that were removed.
    pub folders: u64,
}

/// Files that were unlinked, and are not known to stay so: see [`Files::make_last`].
pub struct Unlinked {
    search: Arc<Search>,
    inner: delete::Unlinked,
}

impl Unlinked {
    /// Which of the entries are gone.
    pub fn gone(&self) -> &[usize] {
        &self.inner.deleted.gone
    }

    /// Whether any of them is not.
    pub fn left_some(&self) -> bool {
        !self.inner.deleted.kept.is_empty()
    }
}

/// Shows no path.
impl fmt::Debug for Unlinked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unlinked").field("deleted", &self.inner.deleted).finish_non_exhaustive()
    }
}

/// Why a file was left where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// It is another file than the one that was found, or no longer due, or out of reach.
    Changed,
    /// It could not be deleted, for this reason.
    Refused(&'static str),
}

/// Tells the threads of a look to end when whoever waits for it no longer does.
#[derive(Debug)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether a search begins in folders that it names.
fn is_narrow(search: &Search) -> bool {
    scan::starts(search).iter().all(|folder| !folder.is_empty())
}

/// The files that plain paths and patterns mean, and what could not be read.
fn find(
    root: &Root,
    plain: &[Template],
    patterns: &Search,
    stop: &AtomicBool,
) -> Result<(Vec<Entry>, Unread), FilesError> {
    let paths = plain.iter().filter_map(|template| Some(template.one_path()?.to_vec()));
    let found = paths.map(|path| root.at(path)).collect::<Result<Vec<_>, _>>()?;
    let mut found: Vec<Entry> = found.into_iter().flatten().collect();
    if patterns.templates.is_empty() {
        return Ok((found, Unread::default()));
    }
    // Another thread costs more than it helps where little is to be looked through.
    let threads = if is_narrow(patterns) { 1 } else { scan::THREADS };
    let see = |(found, unseen): &mut (Vec<Entry>, u64), seen: scan::Found<'_>| {
        match seen.due() {
            Some(entry) => found.push(entry),
            // Nobody may say that it is not there.
            None => *unseen += 1,
        }
        ControlFlow::Continue(())
    };
    let (parts, mut unread) = scan_by(threads, root, patterns, stop, see);
    for (some, unseen) in parts {
        found.extend(some);
        if unseen > 0 {
            unread.add("a file in it cannot be looked at");
        }
    }
    Ok((found, unread))
}

impl Files {
    /// Opens a tree. A root that is empty is warned of: what should be mounted there would count as gone.
    ///
    /// # Errors
    /// When its root cannot be opened, or nothing would keep what is done in it from leading out.
    pub fn open(store: Name, settings: Settings, access: Access) -> Result<Files, FilesError> {
        let root = Root::open(store, settings, access)?;
        if scan::is_empty(&root) {
            tracing::warn!(
                store = %root.store,
                "its root is an empty folder, so all files of it count as gone: if a file system is to be \
                 mounted there, stop expunged and mount it"
            );
        }
        Ok(Files { root: Arc::new(root) })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &Name {
        &self.root.store
    }

    /// Counts what is due and what is kept.
    ///
    /// # Errors
    /// When the root is gone. Folders that cannot be read are counted instead.
    pub async fn survey(&self, search: &Arc<Search>) -> Result<Surveyed, FilesError> {
        self.look_through(search, |root, search, stop| {
            let (parts, unread) = scan(root, search, stop, |survey: &mut Survey, found| {
                search::count(survey, found.verdict);
                ControlFlow::Continue(())
            });
            let mut survey = Survey::default();
            for part in &parts {
                search::add(&mut survey, part);
            }
            Surveyed { survey, unread }
        })
        .await
    }

    /// Some due files, the oldest first.
    ///
    /// # Errors
    /// As for [`Files::survey`].
    pub async fn sample(
        &self,
        search: &Arc<Search>,
        limit: usize,
    ) -> Result<Vec<Entry>, FilesError> {
        type Oldest = BinaryHeap<(Option<Timestamp>, Vec<u8>, Identity, Option<Timestamp>)>;
        self.look_through(search, move |root, search, stop| {
            let (parts, _) = scan(root, search, stop, |oldest: &mut Oldest, found| {
                let Verdict::Due(start) = found.verdict else { return ControlFlow::Continue(()) };
                let is_wanted = oldest.len() < limit
                    || oldest.peek().is_some_and(|(latest, path, ..)| {
                        (start, found.path) < (*latest, path.as_slice())
                    });
                if is_wanted {
                    oldest.push((start, found.path.to_vec(), found.identity, found.modified));
                }
                if oldest.len() > limit {
                    oldest.pop();
                }
                ControlFlow::Continue(())
            });
            let mut all: Vec<_> = parts.into_iter().flatten().collect();
            all.sort_unstable();
            all.truncate(limit);
            let entry =
                |(start, path, identity, modified)| Entry { path, start, modified, identity };
            all.into_iter().map(entry).collect()
        })
        .await
    }

    /// The earliest starting points, of all files that a rule's age means and of those not due yet.
    ///
    /// # Errors
    /// As for [`Files::survey`].
    pub async fn starts(&self, search: &Arc<Search>) -> Result<Starts, FilesError> {
        let earlier = |one: Option<Timestamp>, other: Option<Timestamp>| {
            [one, other].into_iter().flatten().min()
        };
        self.look_through(search, move |root, search, stop| {
            let (parts, unread) = scan(root, search, stop, |starts: &mut Starts, found| {
                match found.verdict {
                    Verdict::Young(start) => {
                        starts.oldest = earlier(starts.oldest, Some(start));
                        starts.next = earlier(starts.next, Some(start));
                    }
                    Verdict::Due(start) => starts.oldest = earlier(starts.oldest, start),
                    Verdict::Other | Verdict::Kept(_) => {}
                }
                ControlFlow::Continue(())
            });
            parts.into_iter().fold(Starts { unread, ..Starts::default() }, |all, part| Starts {
                oldest: earlier(all.oldest, part.oldest),
                next: earlier(all.next, part.next),
                unread,
            })
        })
        .await
    }

    /// Hands over all due files in the byte order of their whole paths: those after `after`, up to `upto`
    /// and with that one, where they are given. Folders that lie outside are not read. Memory follows
    /// the largest folder.
    ///
    /// # Errors
    /// As for [`Files::survey`]. What could not be read is given back.
    pub async fn in_order(
        &self,
        search: &Arc<Search>,
        after: Option<&[u8]>,
        upto: Option<&[u8]>,
        each: &mut (dyn FnMut(Entry) + Send),
    ) -> Result<Unread, FilesError> {
        let span = Span { after: after.map(<[u8]>::to_vec), upto: upto.map(<[u8]>::to_vec) };
        let mut walk = FileWalk::in_order(self.root.clone(), search.clone(), span);
        while let Some(entries) = walk.next(walk::HANDFUL).await? {
            entries.into_iter().for_each(&mut *each);
        }
        Ok(walk.unread())
    }

    /// Starts a look through the tree that hands out due files as it finds them. Dropped, it ends.
    pub fn walk(&self, search: Arc<Search>) -> FileWalk {
        FileWalk::in_any_order(self.root.clone(), search)
    }

    /// Deletes files that were found. Each is judged again at that moment, and goes only if it is still
    /// the file that was found and still due. When this returns, the deletion outlasts a power failure.
    ///
    /// It goes on to its end where nobody waits for it any more: see [`Files::look`] for what came of it.
    ///
    /// # Errors
    /// When the tree was opened for reading or its root is gone: nothing was deleted then. When a folder
    /// could not be synced.
    pub async fn delete(
        &self,
        search: &Arc<Search>,
        entries: Vec<Entry>,
    ) -> Result<Deleted, FilesError> {
        let (root, search) = (self.root.clone(), search.clone());
        self.apart(move || {
            let unlinked = delete::unlink(&root, &search, &entries)?;
            let mut deleted = delete::make_last(&root, vec![(&search, unlinked)])?;
            Ok(deleted.pop().unwrap_or_default())
        })
        .await
    }

    /// As [`Files::delete`], but a power failure may still bring back what was unlinked: until
    /// [`Files::make_last`] has returned, nobody may be told that it is gone.
    ///
    /// # Errors
    /// As for [`Files::delete`].
    pub async fn unlink(
        &self,
        search: &Arc<Search>,
        entries: Vec<Entry>,
    ) -> Result<Unlinked, FilesError> {
        let (root, search) = (self.root.clone(), search.clone());
        let is_little = entries.len() <= LITTLE;
        let work = move || {
            let inner = delete::unlink(&root, &search, &entries)?;
            Ok(Unlinked { search, inner })
        };
        if is_little { self.at_once(work).await } else { self.apart(work).await }
    }

    /// Has several deletions outlast a power failure, by one sync; says of each what it did.
    ///
    /// # Errors
    /// When a folder could not be synced.
    pub async fn make_last(&self, deletions: Vec<Unlinked>) -> Result<Vec<Deleted>, FilesError> {
        let root = self.root.clone();
        self.apart(move || {
            let (searches, unlinked): (Vec<_>, Vec<_>) =
                deletions.into_iter().map(|one| (one.search, one.inner)).unzip();
            delete::make_last(
                &root,
                searches.iter().map(|search| &**search).zip(unlinked).collect(),
            )
        })
        .await
    }

    /// Which of these paths are files now, and that the others are not outlasts a power failure from now
    /// on.
    ///
    /// # Errors
    /// As for [`Files::look`]; when a folder could not be synced.
    pub async fn look_for_good(
        &self,
        paths: Vec<Vec<u8>>,
    ) -> Result<Vec<Option<Entry>>, FilesError> {
        let root = self.root.clone();
        self.apart(move || {
            root.check()?;
            let found: Vec<_> =
                paths.iter().map(|path| root.at(path.clone())).collect::<Result<_, _>>()?;
            let gone = paths.iter().zip(&found).filter(|(_, found)| found.is_none());
            delete::sync_folders(&root, gone.map(|(path, _)| path.as_slice()))?;
            Ok(found)
        })
        .await
    }

    /// Which of these paths are files now.
    ///
    /// # Errors
    /// When that cannot be known of one of them, because a folder cannot be read, or a link, a mount or
    /// something else that is no file is in the way; and when one does not lie below the root.
    pub async fn look(&self, paths: Vec<Vec<u8>>) -> Result<Vec<Option<Entry>>, FilesError> {
        let root = self.root.clone();
        self.apart(move || {
            root.check()?;
            paths.into_iter().map(|path| root.at(path)).collect()
        })
        .await
    }

    /// The files that are meant, whatever their age and whoever holds them. What one path alone can be is
    /// not searched for.
    ///
    /// # Errors
    /// As for [`Files::look`]; when a folder that may hold one cannot be read.
    pub async fn find(&self, search: &Arc<Search>) -> Result<Vec<Entry>, FilesError> {
        let (plain, patterns): (Vec<_>, Vec<_>) =
            search.templates.iter().cloned().partition(|template| template.one_path().is_some());
        let patterns = Search::named(patterns);
        let is_filled = |template: &Template| template.placeholders().next().is_none();
        let is_little = search.templates.len() <= LITTLE
            && search.templates.iter().all(is_filled)
            && is_narrow(&patterns);
        let (mut found, unread) = if is_little {
            let root = self.root.clone();
            let never = AtomicBool::new(false);
            self.at_once(move || {
                root.check()?;
                find(&root, &plain, &patterns, &never)
            })
            .await?
        } else {
            let find = move |root: &Root, _: &Search, stop: &AtomicBool| {
                find(root, &plain, &patterns, stop)
            };
            self.look_through(search, find).await??
        };
        unread.none(self.name())?;
        found.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        found.dedup_by(|one, other| one.path == other.path);
        Ok(found)
    }

    /// Looks through the tree in threads of its own, until it is done or nobody waits any more.
    async fn look_through<T: Send + 'static>(
        &self,
        search: &Arc<Search>,
        look: impl FnOnce(&Root, &Search, &AtomicBool) -> T + Send + 'static,
    ) -> Result<T, FilesError> {
        let (root, search) = (self.root.clone(), search.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let _guard = StopOnDrop(stop.clone());
        self.apart(move || {
            root.check()?;
            Ok(look(&root, &search, &stop))
        })
        .await
    }

    /// Does a little that is waited for by whoever is told of an event: in this thread, because another would have to be
    /// woken twice. Others do not wait for it: what else this thread has to do goes to another.
    async fn at_once<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
    ) -> Result<T, FilesError> {
        match Handle::current().runtime_flavor() {
            RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
            // There is no other.
            _ => self.apart(work).await,
        }
    }

    /// Does what waits for disks where nobody else waits for it.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
    ) -> Result<T, FilesError> {
        let ended = |_| FilesError::Ended { store: self.name().clone() };
        tokio::task::spawn_blocking(work).await.map_err(ended)?
    }
}

impl Root {
    /// The file at a path, if there is one.
    fn at(&self, path: Vec<u8>) -> Result<Option<Entry>, FilesError> {
        let store = || self.store.clone();
        if !is_below(&path) {
            return Err(FilesError::Outside { store: store() });
        }
        let (folder, name) = split(&path);
        let seen = self.folder(folder, Purpose::Pass).and_then(|folder| look(&folder, name));
        match seen {
            Ok(seen) if seen.kind == FileType::RegularFile => Ok(Some(Entry {
                path,
                start: None,
                modified: seen.modified,
                identity: seen.identity,
            })),
            Ok(_) => Err(FilesError::NoFile { store: store() }),
            Err(error) if is_absent(error) => Ok(None),
            Err(error) if is_elsewhere(error) => {
                Err(FilesError::Elsewhere { store: store(), cause: reason(error) })
            }
            Err(error) => {
                let unread = Unread { folders: 1, why: Some(reason(error)) };
                Err(FilesError::Unread { store: store(), unread })
            }
        }
    }
}

/// Shows the store's name.
impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Files").field(self.name()).finish()
    }
}
