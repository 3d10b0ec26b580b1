//! Sets of backups as they are configured, what came of listing them, and the tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use expunged::backup::{CatalogueError, Fault, list};
use expunged::clock;
use expunged::config::{BackupConfig, Config, InputFile};
use expunged::residue::{Backup, Change, Listing, Residue, Standing};
use expunged::store::Stores;
use jiff::Timestamp;
use tempfile::TempDir;

pub(crate) fn now() -> Timestamp {
    clock::now()
}

/// A tool's path. A test whose tool is missing fails: one that skips itself looks like one that passed.
#[track_caller]
pub(crate) fn tool(name: &str, package: &str) -> PathBuf {
    let path = Path::new("/usr/bin").join(name);
    assert!(
        path.exists(),
        "{} is not there: run the tests through tests/run, or apt-get install {package}",
        path.display()
    );
    path
}

/// Runs a command that has to succeed.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = tried(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{}", text(&output));
    text(&output)
}

#[track_caller]
pub(crate) fn tried(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder that other users can reach.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("expunged-backups.").tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A shell script.
pub(crate) fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file
}

/// A file with a secret.
pub(crate) fn secret(folder: &Path, text: &str) -> String {
    let file = folder.join(format!("secret-{text}"));
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    format!("{{ file = \"{}\" }}", file.display())
}

/// A set of backups, as it is configured.
pub(crate) struct Set {
    pub(crate) config: BackupConfig,
    stores: Stores,
}

impl Set {
    /// Of a kind, with what is written besides, and stores that are written before it. No skew, so that moments which
    /// lie close together are told apart.
    #[track_caller]
    pub(crate) fn with_stores(stores: &str, kind: &str, lines: &str) -> Set {
        let text = format!(
            "[store.app]\nkind = \"sqlite\"\nurl = \"sqlite:///tmp/app.db\"\n{stores}\n\
             [backup.nightly]\nkind = \"{kind}\"\nstores = [\"app\"]\nrotation = \"7 days\"\nskew = \"0 s\"\n{lines}\n"
        );
        let file = InputFile { path: "/nowhere/expunged.toml".into(), bytes: text.into() };
        let config = Config::parse(vec![file], Path::new("/nowhere"), std::iter::empty());
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let set = config.backups.into_values().next().unwrap();
        Set { config: set, stores: Stores::new(config.stores) }
    }

    #[track_caller]
    pub(crate) fn new(kind: &str, lines: &str) -> Set {
        Set::with_stores("", kind, lines)
    }

    pub(crate) async fn list(&self) -> Result<Listing, CatalogueError> {
        list(&self.config, &self.stores, now()).await
    }

    /// The listing, which has to succeed.
    pub(crate) async fn listing(&self) -> Listing {
        let before = now();
        let listing = self.list().await.unwrap_or_else(|error| panic!("{error}"));
        assert!(listing.at >= before && listing.backups.is_sorted_by_key(|one| one.started_at));
        listing
    }

    /// Why there is none. Whatever it is, the audit log has words for it that say nothing of the place.
    pub(crate) async fn fault(&self) -> Fault {
        let error = self.list().await.expect_err("this must not count as a listing");
        let (shown, words) = (error.to_string(), error.in_log_words());
        assert!(shown.starts_with("backup `nightly`: "), "{shown}");
        assert!(shown.len() < 700 && !shown.contains('\n'), "{shown}");
        assert!(!words.is_empty() && words.len() < 60 && !words.contains(['/', '`']), "{words}");
        assert!(!shown.contains("hunter2"), "a secret is shown: {shown}");
        error.fault
    }

    /// Takes note of one more listing, and says what is left then of what was deleted at a moment.
    pub(crate) async fn note(&self, standing: &mut Standing, deleted: Timestamp) -> Residue {
        let listing = self.listing().await;
        let change = standing.note(listing, self.config.terms.skew).unwrap();
        assert!(!matches!(change, Change::Reopened(_)), "{change:?}");
        standing.residue(&self.config.terms, deleted, now())
    }

    /// Notes two listings, one after the other, which may not clear what was deleted.
    pub(crate) async fn stays(&self, standing: &mut Standing, deleted: Timestamp) -> Residue {
        let left = self.note(standing, deleted).await;
        assert!(!left.is_clear(), "{left:?}");
        let left = self.note(standing, deleted).await;
        assert!(!left.is_clear(), "{left:?}");
        left
    }

    /// Notes two listings: the first shows it and the second confirms it.
    pub(crate) async fn clears(&self, standing: &mut Standing, deleted: Timestamp) {
        let left = self.note(standing, deleted).await;
        assert!(awaits(&left).contains("one more listing"), "{left:?}");
        let left = self.note(standing, deleted).await;
        assert_eq!(left, Residue::Clear { assumed: false });
    }
}

/// What a residue waits for, although no listed backup holds it.
#[track_caller]
pub(crate) fn awaits(residue: &Residue) -> &str {
    match residue {
        Residue::Pending { awaits: Some(why), backups: 0, .. } => why,
        other => panic!("it waits for nothing: {other:?}"),
    }
}

/// How many listed backups hold it.
#[track_caller]
pub(crate) fn held_by(residue: &Residue) -> u64 {
    match residue {
        Residue::Pending { backups, .. } => *backups,
        other => panic!("no backup holds it: {other:?}"),
    }
}

pub(crate) fn ids(listing: &Listing) -> Vec<&str> {
    listing.backups.iter().map(|backup| backup.id.as_str()).collect()
}

pub(crate) fn by_id<'a>(listing: &'a Listing, id: &str) -> &'a Backup {
    let found = listing.backups.iter().find(|backup| backup.id == id);
    found.unwrap_or_else(|| panic!("{id} is not in {:?}", ids(listing)))
}
