//! The demo's backups: a copy of the database each night, one that is put back, and nights that go by.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

/// So many nights' copies are kept.
const NIGHTS: i64 = 7;
/// Which night's copy is put back.
const PUT_BACK: i64 = 6;

/// The folder of copies.
pub(super) struct Copies<'a> {
    pub(super) folder: &'a Path,
    pub(super) database: &'a Path,
}

impl Copies<'_> {
    /// Makes the copies of the nights before now: nothing was deleted in them.
    pub(super) fn build(&self, now: Timestamp) -> io::Result<()> {
        fs::create_dir(self.folder)?;
        for night in 1..=NIGHTS {
            self.make(ago(now, night))?;
        }
        Ok(())
    }

    /// Puts the copy of a night in the place of the database; gives the command that would.
    pub(super) fn put_back(&self, now: Timestamp) -> io::Result<String> {
        let copy = self.of(ago(now, PUT_BACK));
        // What SQLite keeps beside a database belongs to that alone.
        for companion in ["-journal", "-wal", "-shm"] {
            let mut name = self.database.as_os_str().to_owned();
            name.push(companion);
            match fs::remove_file(PathBuf::from(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::copy(&copy, self.database)?;
        Ok(format!("cp {} {}", copy.display(), self.database.display()))
    }

    /// The oldest of the copies of before rotates away, where one is left.
    pub(super) fn rotate(&self, now: Timestamp) -> io::Result<bool> {
        let copies = (1..=NIGHTS).rev().map(|night| self.of(ago(now, night)));
        match copies.into_iter().find(|copy| copy.exists()) {
            Some(oldest) => fs::remove_file(oldest).map(|()| true),
            None => Ok(false),
        }
    }

    /// Makes the copy of a night.
    pub(super) fn make(&self, at: Timestamp) -> io::Result<()> {
        let copy = self.of(at);
        fs::copy(self.database, &copy)?;
        File::options().write(true).open(&copy)?.set_modified(at.into())
    }

    fn of(&self, at: Timestamp) -> PathBuf {
        self.folder.join(at.strftime("app-%Y-%m-%d.db").to_string())
    }
}

fn ago(now: Timestamp, nights: i64) -> Timestamp {
    now - SignedDuration::from_hours(24 * nights)
}
