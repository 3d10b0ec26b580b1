//! The root of a tree, and the only way below it.
//!
//! A path below the root is never opened by a string that the kernel resolves from anywhere else: each
//! folder is opened with openat2(2), relative to the root's descriptor, in a way that follows no link
//! and never leaves the tree. A file is looked at and unlinked by its name alone, relative to its
//! folder's descriptor, where a link is looked at and unlinked as the link that it is.

use std::fmt;

use jiff::Timestamp;
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, FileType, IFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp,
    fstatfs, ioctl_getflags, makedev, openat, openat2, statx,
};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::types::Name;

use super::super::sql::Access;
use super::{FilesError, Identity, Settings};

/// The kernel takes paths of less than 4,096 bytes; a longer one is opened in steps.
const STEP: usize = 4_000;

/// What is asked of whatever stands under a name.
const ASKED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// The file systems of FAT, exFAT and NTFS (by both of its drivers), as statfs(2) tells them.
const FOLDING: [i64; 4] = [0x4d44, 0x2011_bab0, 0x5346_544e, 0x7366_746e];

/// FS_CASEFOLD_FL of a folder of ext4, f2fs or tmpfs; those made in it have it, too.
const CASEFOLD: IFlags = IFlags::from_bits_retain(0x4000_0000);

/// A tree's root, opened.
pub(super) struct Root {
    pub(super) store: Name,
    pub(super) settings: Settings,
    access: Access,
    top: OwnedFd,
    identity: Identity,
    resolve: ResolveFlags,
}

/// What a folder is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// To look at names that are known, or to go further down.
    Pass,
    /// To list or to sync it.
    Read,
}

/// What stands under a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) kind: FileType,
    pub(super) identity: Identity,
    /// `None` where it is no moment that a calendar has.
    pub(super) modified: Option<Timestamp>,
    pub(super) links: u64,
}

impl Root {
    pub(super) fn open(
        store: Name,
        settings: Settings,
        access: Access,
    ) -> Result<Root, FilesError> {
        let failed = |cause: Errno| FilesError::Root { store: store.clone(), cause: reason(cause) };
        // The root is the operator's word: where that is a link, what it leads to is the root.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat(CWD, &settings.root, flags, Mode::empty()).map_err(failed)?;
        let identity = identity_of(&top).map_err(failed)?;
        let mut resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if !settings.cross_mounts {
            resolve |= ResolveFlags::NO_XDEV;
        }
        let root = Root { store, settings, access, top, identity, resolve };
        match root.folder(b"", Purpose::Pass) {
            Ok(_) if root.folds_case() => Err(FilesError::FoldsCase { store: root.store }),
            Ok(_) => Ok(root),
            // Old kernels do not have it, and old sandboxes do not know it.
            Err(Errno::NOSYS | Errno::PERM) => Err(FilesError::Unconfined { store: root.store }),
            Err(cause) => Err(FilesError::Root { store: root.store, cause: reason(cause) }),
        }
    }

    /// Whether names are found there by other letters than they have, as far as that can be told.
    fn folds_case(&self) -> bool {
        #[allow(clippy::useless_conversion, reason = "narrower on some machines")]
        let kind = fstatfs(&self.top).map_or(0, |told| i64::from(told.f_type));
        let flags = self.folder(b"", Purpose::Read).and_then(ioctl_getflags);
        folds(kind, flags.unwrap_or(IFlags::empty()))
    }

    /// Makes sure that the root is still what was opened: a tree that was moved away, or hidden below a
    /// mount, is not the one that is meant.
    pub(super) fn check(&self) -> Result<(), FilesError> {
        let store = || self.store.clone();
        match statx(CWD, &self.settings.root, AtFlags::NO_AUTOMOUNT, ASKED) {
            Ok(now) if Identity::of(&now) == self.identity => Ok(()),
            Ok(_) => Err(FilesError::Replaced { store: store() }),
            Err(cause) => Err(FilesError::Root { store: store(), cause: reason(cause) }),
        }
    }

    /// The one place that lets anything be deleted.
    pub(super) fn for_deleting(&self) -> Result<(), FilesError> {
        match self.access {
            Access::ReadWrite => self.check(),
            Access::ReadOnly => Err(FilesError::ReadOnly { store: self.store.clone() }),
        }
    }

    /// Opens a folder below the root; the root itself is an empty path.
    pub(super) fn folder(&self, path: &[u8], purpose: Purpose) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return self.enter(&self.top, b".", purpose);
        }
        if !is_below(path) {
            return Err(Errno::XDEV);
        }
        let mut rest = path;
        let mut reached: Option<OwnedFd> = None;
        while rest.len() > STEP {
            let end = rest[..STEP].iter().rposition(|byte| *byte == b'/');
            let end = end.ok_or(Errno::NAMETOOLONG)?;
            let from = reached.as_ref().unwrap_or(&self.top);
            reached = Some(self.enter(from, &rest[..end], Purpose::Pass)?);
            rest = &rest[end + 1..];
        }
        self.enter(reached.as_ref().unwrap_or(&self.top), rest, purpose)
    }

    fn enter(&self, from: &OwnedFd, path: &[u8], purpose: Purpose) -> Result<OwnedFd, Errno> {
        // Without O_NOFOLLOW, with which a link at the end would be called no folder: `self.resolve` has the
        // kernel follow none, and say so.
        let mut flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        flags |= match purpose {
            Purpose::Pass => OFlags::PATH,
            Purpose::Read => OFlags::RDONLY,
        };
        loop {
            match openat2(from, path, flags, Mode::empty(), self.resolve) {
                Err(Errno::INTR) => {}
                opened => return opened,
            }
        }
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<tree of {}>", self.store)
    }
}

/// Whether a folder takes several names for one, by its file system's kind and its own flags.
fn folds(kind: i64, flags: IFlags) -> bool {
    // The kind has 32 bits, in a number whose width and sign depend on the machine.
    FOLDING.contains(&(kind & 0xffff_ffff)) || flags.contains(CASEFOLD)
}

/// Looks at a name in a folder, at a link as such.
pub(super) fn look(folder: &OwnedFd, name: impl Arg) -> Result<Seen, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let seen = statx(folder, name, flags, ASKED)?;
    Ok(Seen {
        kind: FileType::from_raw_mode(seen.stx_mode.into()),
        identity: Identity::of(&seen),
        modified: moment(&seen.stx_mtime),
        links: seen.stx_nlink.into(),
    })
}

/// Which file or folder is open.
pub(super) fn identity_of(opened: &OwnedFd) -> Result<Identity, Errno> {
    statx(opened, c"", AtFlags::EMPTY_PATH, ASKED).map(|seen| Identity::of(&seen))
}

/// `None` where it is no moment that a calendar has.
fn moment(told: &StatxTimestamp) -> Option<Timestamp> {
    Timestamp::new(told.tv_sec, i32::try_from(told.tv_nsec).ok()?).ok()
}

impl Identity {
    fn of(seen: &Statx) -> Identity {
        let since = if StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::BTIME) {
            moment(&seen.stx_btime)
        } else if FileType::from_raw_mode(seen.stx_mode.into()) == FileType::Directory {
            // It changes with each file that is put into it, and is the same folder.
            None
        } else {
            moment(&seen.stx_ctime)
        };
        let device = makedev(seen.stx_dev_major, seen.stx_dev_minor);
        Identity { device, inode: seen.stx_ino, since }
    }
}

/// Whether a path names something below the root, one name after the other.
pub(super) fn is_below(path: &[u8]) -> bool {
    let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    path.split(|byte| *byte == b'/').all(plain)
}

/// A path's folder and its name in it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Whether what was asked for is not there: it is gone, or there is a file where a folder was.
pub(super) fn is_absent(error: Errno) -> bool {
    // No file system has a name that is too long for it.
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG)
}

/// Whether the way leads out of the tree, so that nothing is known of what was asked for: over a link, or
/// to another file system.
pub(super) fn is_elsewhere(error: Errno) -> bool {
    matches!(error, Errno::LOOP | Errno::XDEV)
}

/// An error in words that quote no path.
pub(super) fn reason(error: Errno) -> &'static str {
    match error {
        Errno::ACCESS => "permission denied",
        Errno::PERM => "not permitted: it may be immutable, or somebody else's",
        Errno::NOENT => "it is not there",
        Errno::NOTDIR => "it is no folder",
        Errno::LOOP => "a symbolic link is in the way",
        Errno::XDEV => "another file system begins there, and cross_mounts is off",
        Errno::ROFS => "the file system is read-only",
        Errno::BUSY => "something is mounted there",
        Errno::MFILE | Errno::NFILE => "too many files are open",
        Errno::IO => "the disk failed to read or write",
        Errno::STALE => "the file server no longer knows it",
        Errno::NOSPC | Errno::DQUOT => "there is no space left",
        Errno::NOMEM => "there is no memory left",
        _ => "the file system refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Few machines can mount one of these.
    #[test]
    fn file_systems_that_take_two_names_for_one_are_told_apart() {
        const EXT4: i64 = 0xef53;
        const VFAT: i64 = 0x4d44;
        assert!(!folds(EXT4, IFlags::NOATIME) && !folds(0, IFlags::empty()));
        assert!(folds(VFAT, IFlags::empty()) && folds(0x5346_544e, IFlags::empty()));
        assert!(folds(EXT4, IFlags::from_bits_retain(0x4000_0000) | IFlags::NOATIME));
    }
}
