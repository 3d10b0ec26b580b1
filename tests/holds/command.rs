//! `expunged hold`, as people use it.

use std::process::{Command, Output};

use crate::house::{configuration, rule, secret};
use crate::support::{TestDatabase, approve_in_advance, fresh_sqlite};
use expunged::config::Config;
use tempfile::TempDir;

struct Desk {
    store: TestDatabase,
    folder: TempDir,
}

impl Desk {
    async fn new() -> Desk {
        let store = fresh_sqlite().await;
        store
            .execute(
                "CREATE TABLE accounts (id integer PRIMARY KEY, at text);
                 WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 40)
                 INSERT INTO accounts SELECT i, '2020-06-15 12:00:00' FROM s;
                 CREATE TABLE photos (id integer PRIMARY KEY, person integer, at text);
                 CREATE TABLE visits (id integer PRIMARY KEY, at text)",
            )
            .await;
        let folder = tempfile::tempdir().unwrap();
        secret(&folder, &store.url);
        let rules = rule("accounts", "accounts", "subject = \"id\"")
            + &rule(
                "photos",
                "photos",
                "subject = \"person\"\nholds = \"not applicable\"\nholds_reason = \"biometric data goes at once\"",
            )
            + &rule("visits", "visits", "");
        let text = configuration(&store, &rules);
        let file = folder.path().join("expunged.toml");
        std::fs::write(&file, text).unwrap();
        let desk = Desk { store, folder };
        // The ledger is made, and says that the rules may act.
        assert_eq!(desk.expunged(&["run"]).status.code(), Some(1));
        let config = Config::load(&file, std::iter::empty()).unwrap();
        let ledger = format!("sqlite://{}", desk.folder.path().join("ledger.db").display());
        approve_in_advance(&ledger, &config).await;
        desk
    }

    fn expunged(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_expunged"));
        command.arg("--config").arg(self.folder.path().join("expunged.toml")).args(arguments);
        command.env("COLUMNS", "100").env_remove("SUDO_USER").output().unwrap()
    }

    /// What a command says when all is well.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.expunged(arguments);
        let (said, wrong) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{said}{wrong}");
        said
    }

    fn place(&self, more: &[&str]) -> serde_json::Value {
        let order = [
            "--json",
            "hold",
            "place",
            "--authority",
            "District court",
            "--reference",
            "12 Js 34/26",
        ];
        serde_json::from_str(&self.says(&[&order, more].concat())).unwrap()
    }
}

fn shown(text: &str) -> String {
    let account =
        String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let mut settings = Vec::new();
    for word in text.split_whitespace() {
        let word = word.trim_matches([',', '.', ':', '`']);
        if word.len() == 36 && word.bytes().filter(|byte| *byte == b'-').count() == 4 {
            settings.push(word.to_owned());
        }
    }
    let mut text = text.replace(&format!("by {}", account.trim()), "by ACCOUNT");
    for id in settings {
        text = text.replace(&id, "00000000-0000-0000-0000-000000000000");
    }
    text
}

#[tokio::test]
async fn a_hold_from_its_placing_to_its_end() {
    let desk = Desk::new().await;
    let arguments = [
        "hold",
        "place",
        "--subject",
        "3",
        "--subject",
        "99",
        "--authority",
        "District court",
        "--reference",
        "12 Js 34/26",
        "--agent",
        "Sgt. Example, badge 4711",
        "--contact",
        "office@court.example",
        "--dated",
        "2026-01-02",
        "--due",
        "2026-02-01",
        "--data",
        "non-content",
        "--confidential-until",
        "2090-01-01",
        "--until",
        "2099-01-01",
    ];
    insta::assert_snapshot!("place", shown(&desk.says(&arguments)));
    let listed: serde_json::Value =
        serde_json::from_str(&desk.says(&["--json", "hold", "list"])).unwrap();
    let id = listed[0]["id"].as_str().unwrap();
    insta::assert_snapshot!("list", shown(&desk.says(&["hold", "list"])));

    let plan = desk.expunged(&["plan", "accounts"]);
    let plan = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.contains("held by a legal hold"), "{plan}");
    let check = desk.says(&["check", "photos"]);
    assert!(check.contains("legal holds do not stop this rule: biometric data"), "{check}");
    desk.says(&["run", "accounts"]);
    assert_eq!(desk.store.count("SELECT count(*) FROM accounts").await, 1);

    let extended =
        desk.says(&["hold", "extend", id, "--reference", "12 Js 34/26-2", "--until", "2099-06-01"]);
    assert!(extended.contains("2099-06-01"), "{extended}");
    let released = desk.says(&["hold", "release", id, "--reason", "the case is closed"]);
    assert!(released.contains("next slot"), "{released}");
    let shown_at_last = shown(&desk.says(&["hold", "show", id]));
    let moments: Vec<_> = shown_at_last
        .lines()
        .map(|line| {
            if line.contains(" by ACCOUNT") {
                format!("  MOMENT{}", &line[22..])
            } else {
                line.into()
            }
        })
        .collect();
    insta::assert_snapshot!("show", moments.join("\n"));
    assert_eq!(desk.says(&["hold", "list"]), "No legal hold is in force.\n");
    assert!(desk.says(&["hold", "list", "--all"]).contains("released"));
    desk.says(&["run", "accounts"]);
    assert_eq!(desk.store.count("SELECT count(*) FROM accounts").await, 0);

    let refused = desk.expunged(&["hold", "release", id, "--reason", "again"]);
    assert_eq!(refused.status.code(), Some(1));
    let log = desk.says(&["--json", "audit", "log"]);
    assert!(!log.contains("court") && !log.contains("4711") && !log.contains("closed"), "{log}");
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_not_placed() {
    let desk = Desk::new().await;
    let order = ["hold", "place", "--authority", "a", "--reference", "b"];
    let wrong: [(&[&str], &str); 8] = [
        (&[], "say what to keep"),
        (&["--store", "app"], "whole store"),
        (&["--rule", "accounts"], "without a range of dates"),
        (&["--rule", "acounts"], "there is no rule `acounts`"),
        (&["--store", "app", "--table", "accounts", "--where", "id <= 20"], "20 of the 40 records"),
        (&["--store", "app", "--table", "accounts", "--where", "id = 1 --"], "comment"),
        (&["--store", "app", "--table", "accounts", "--where", "ident = 1"], "would keep nothing"),
        (&["--subject", "3", "--until", "2020-01-01"], "cannot end in the past"),
    ];
    for (more, why) in wrong {
        let output = desk.expunged(&[&order, more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{more:?}");
        assert!(said.contains(why), "{more:?}: {said}");
    }
    let placed = desk.place(&["--rule", "accounts", "--broad", "the whole company is under audit"]);
    assert_eq!(placed["coverage"][0]["records"], 40);
    let placed = desk.place(&["--store", "app", "--table", "accounts", "--where", "id = 1"]);
    assert_eq!(
        (&placed["coverage"][0]["records"], &placed["unresolved"]),
        (&1.into(), &serde_json::json!([]))
    );
}
