//! A rule whose store is covered by a set of backups that a program lists: it prints what a file holds.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use jiff::{SignedDuration, Timestamp};
use regex::Regex;
use serde_json::{Value, json};

use crate::harness;
use crate::support::{TestDatabase, fresh_sqlite};

pub(crate) struct Place {
    pub(crate) inner: harness::Place,
    pub(crate) store: TestDatabase,
}

/// So many hours ago.
pub(crate) fn ago(hours: i64) -> Timestamp {
    expunged::clock::now() - SignedDuration::from_hours(hours)
}

impl Place {
    /// The accounts 1 to 3 are due, and 9 is not.
    pub(crate) async fn new() -> Place {
        let mut inner = harness::Place::new();
        inner.environment.push(("COLUMNS".to_owned(), "100".to_owned()));
        let store = fresh_sqlite().await;
        harness::accounts(&store, 3).await;
        let place = Place { inner, store };
        let program = place.inner.path("list");
        fs::write(&program, "#!/bin/sh\nexec cat \"$1\"\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        place.configure(&place.nightly("35 days"));
        place
    }

    pub(crate) fn nightly(&self, rotation: &str) -> String {
        format!(
            "[backup.nightly]\nkind = \"command\"\nprogram = \"{}\"\nargs = [\"{}\"]\nstores = [\"app\"]\n\
             rotation = \"{rotation}\"\nskew = \"0 s\"\n",
            self.inner.path("list").display(),
            self.inner.path("catalogue.json").display()
        )
    }

    pub(crate) fn configure(&self, backups: &str) {
        let store = self.inner.store("app", &self.store);
        let rule = harness::rule("inactive", "app", "0 3 1 1 *", "");
        self.inner.configure(&format!("{store}{backups}{rule}"));
    }

    /// What the catalogue lists from now on.
    pub(crate) fn lists(&self, backups: &Value) {
        let catalogue = json!({ "backups": backups, "purged": "at_once", "complete": true });
        fs::write(self.inner.path("catalogue.json"), catalogue.to_string()).unwrap();
    }

    /// What a command prints that ends with this exit code, and what it complains about.
    #[track_caller]
    pub(crate) fn ends(&self, arguments: &[&str], code: i32) -> String {
        let output = self.inner.command(arguments).env_remove("SUDO_USER").output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    #[track_caller]
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        self.ends(arguments, 0)
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str], code: i32) -> Value {
        let said = self.ends(&[&["--json"], arguments].concat(), code);
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"))
    }
}

pub(crate) fn backup(id: &str, started_at: Timestamp) -> Value {
    json!({ "id": id, "started_at": started_at.to_string() })
}

/// What people read, without what differs from run to run.
pub(crate) fn settled(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, replacement) in [
        (r"20\d\d-\d\d-\d\d \d\d:\d\d( UTC)?", "MOMENT"),
        (r"20\d\d-\d\d-\d\d", "DAY"),
        (r"\d+ d \d+ h ago", "AGE ago"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, replacement).into_owned();
    }
    text
}
