//! Which deleted files some process still has open: their data lives until it closes them.
//!
//! Linux tells of a process only to those who may look at it, and of what is mapped and closed not at
//! all in the list that is read here, so what is counted is the least that there is.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::Identity;

/// How many of these files are open somewhere. Each comes with whether it lives on under another name.
pub(super) fn count(unlinked: &[(Identity, bool)]) -> u64 {
    if unlinked.is_empty() {
        return 0;
    }
    let mut open = BTreeSet::new();
    let number =
        |(identity, lives_on): &(Identity, bool)| ((identity.device, identity.inode), *lives_on);
    let wanted: BTreeSet<_> = unlinked.iter().map(number).collect();
    for process in entries("/proc") {
        let is_process = process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        if !is_process {
            continue;
        }
        for descriptor in entries(process.path().join("fd")) {
            // Follows the descriptor to the open file itself, whatever became of its name.
            let Ok(file) = fs::metadata(descriptor.path()) else { continue };
            let which = (file.dev(), file.ino());
            // A number is given to another file once nobody has it open: that one has a name.
            if wanted.contains(&(which, file.nlink() > 0)) {
                open.insert(which);
            }
        }
    }
    open.len() as u64
}

fn entries(folder: impl AsRef<std::path::Path>) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}
