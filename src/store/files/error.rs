//! What goes wrong with trees of files.

use super::Unread;
use crate::types::Name;

/// What went wrong with a tree of files. None quotes a path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilesError {
    /// The root cannot be opened.
    #[error(
        "store `{store}`: its root cannot be opened: {cause}; look at `root` in [store.{store}]"
    )]
    Root {
        /// The store.
        store: Name,
        /// Why.
        cause: &'static str,
    },
    /// Something else stands where the root was.
    #[error(
        "store `{store}`: its root is no longer the folder that was opened (moved, or mounted over): \
         put it back, or reload expunged if the new one is meant"
    )]
    Replaced {
        /// The store.
        store: Name,
    },
    /// The kernel has no way to stay in the tree.
    #[error(
        "store `{store}`: openat2 is missing or forbidden here, and without it nothing keeps a path from \
         leading out of the root: Linux 5.6 has it, a sandbox must allow it"
    )]
    Unconfined {
        /// The store.
        store: Name,
    },
    /// One name there has another's file.
    #[error(
        "store `{store}`: its file system takes `K1` and `k1` for one name, so what is asked for by name \
         may be another's file: move the files to a file system that tells them apart"
    )]
    FoldsCase {
        /// The store.
        store: Name,
    },
    /// It was opened for reading.
    #[error("store `{store}`: it was opened for reading, so nothing is deleted from it")]
    ReadOnly {
        /// The store.
        store: Name,
    },
    /// What was asked for by name lies where it cannot be looked for.
    #[error(
        "store `{store}`: {} of its folders cannot be read ({}), so what is in them is not known: let \
         expunged's user read them",
        unread.folders,
        unread.why.unwrap_or("for no known reason")
    )]
    Unread {
        /// The store.
        store: Name,
        /// What could not be read.
        unread: Unread,
    },
    /// The way to what was asked for by name leads out of the tree.
    #[error(
        "store `{store}`: what was asked for by name cannot be looked for, because {cause}: whether it is \
         there is not known; put a folder of the tree there, or make where it leads a store of its own"
    )]
    Elsewhere {
        /// The store.
        store: Name,
        /// Why.
        cause: &'static str,
    },
    /// What was asked for by name is something else than a file.
    #[error(
        "store `{store}`: a folder, a link or something else that is no file has the name of one that was \
         asked for: whether the file is elsewhere is not known; move it away, or correct the rule's path"
    )]
    NoFile {
        /// The store.
        store: Name,
    },
    /// A path does not lie below the root.
    #[error("store `{store}`: a path that was asked for does not lie below its root")]
    Outside {
        /// The store.
        store: Name,
    },
    /// Files were unlinked, and whether that outlasts a power failure is not known.
    #[error("store `{store}`: a folder could not be synced after a deletion: {cause}")]
    Sync {
        /// The store.
        store: Name,
        /// Why.
        cause: &'static str,
    },
    /// A thread that was at work ended.
    #[error("store `{store}`: the work in its tree ended before its time")]
    Ended {
        /// The store.
        store: Name,
    },
}

impl FilesError {
    /// Whether it is about the one thing that was asked for by name, and nothing is wrong with the others.
    pub fn is_of_what_was_named(&self) -> bool {
        matches!(
            self,
            FilesError::Unread { .. }
                | FilesError::Elsewhere { .. }
                | FilesError::NoFile { .. }
                | FilesError::Outside { .. }
        )
    }
}
