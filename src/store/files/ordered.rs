//! Looking through a tree in the order of whole paths, byte by byte: a folder stands where its name with
//! a slash at the end would.
//!
//! One folder after the other is listed to its end and sorted, so memory follows the largest folders on
//! one way down.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::search::Search;
use super::root::{Root, reason};
use super::scan::{self, Buffer, join, list, starts};
use super::{Entry, Unread};

/// Which paths are of interest.
#[derive(Clone, Debug, Default)]
pub(super) struct Span {
    /// Those after this one.
    pub(super) after: Option<Vec<u8>>,
    /// Those up to this one, and this one.
    pub(super) upto: Option<Vec<u8>>,
}

impl Span {
    fn has(&self, path: &[u8]) -> bool {
        self.after.as_deref().is_none_or(|after| path > after)
            && self.upto.as_deref().is_none_or(|upto| path <= upto)
    }

    /// Whether it may have anything that begins so.
    fn may_have(&self, prefix: &[u8]) -> bool {
        self.after.as_deref().is_none_or(|after| prefix >= after || after.starts_with(prefix))
            && self.upto.as_deref().is_none_or(|upto| prefix <= upto)
    }
}

/// What was found in one folder, the last first.
enum Step {
    Due(Entry),
    /// A folder's path with a slash at the end, and whether the search begins there.
    Folder(Vec<u8>, bool),
}

impl Step {
    fn path(&self) -> &[u8] {
        match self {
            Step::Due(entry) => &entry.path,
            Step::Folder(path, _) => path,
        }
    }
}

/// Hands over every due file of a span, in order, until `each` breaks off.
pub(super) fn in_order(
    root: &Root,
    search: &Search,
    span: &Span,
    stop: &AtomicBool,
    each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
) -> Unread {
    let mut unread = Unread::default();
    let mut buffer = Buffer::default();
    let as_prefix = |folder: &[u8]| match folder {
        b"" => Vec::new(),
        folder => [folder, b"/"].concat(),
    };
    let mut steps: Vec<Step> =
        starts(search).into_iter().map(|folder| Step::Folder(as_prefix(folder), true)).collect();
    sort(&mut steps, 0);
    while let Some(step) = steps.pop() {
        let (prefix, is_start) = match step {
            Step::Due(entry) => {
                if each(entry).is_break() {
                    break;
                }
                continue;
            }
            Step::Folder(prefix, is_start) => (prefix, is_start),
        };
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if !span.may_have(&prefix) {
            continue;
        }
        let path = prefix.strip_suffix(b"/").unwrap_or(&prefix).to_vec();
        let folder = scan::Folder { path, is_start };
        let first = steps.len();
        let mut folders = Vec::new();
        let mut enter = |name: &[u8]| {
            let below = as_prefix(&join(&folder.path, name));
            if span.may_have(&below) {
                folders.push(Step::Folder(below, false));
            }
        };
        let listed = list(root, search, &folder, &mut buffer, &mut enter, &mut |found| {
            if span.has(found.path) {
                steps.extend(found.due().map(Step::Due));
            }
            if stop.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = listed {
            unread.add(reason(error));
        }
        steps.append(&mut folders);
        sort(&mut steps, first);
    }
    unread
}

fn sort(steps: &mut [Step], from: usize) {
    steps[from..].sort_unstable_by(|one, other| other.path().cmp(one.path()));
}
