//! barman, over a PostgreSQL whose log it archives.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use expunged::backup::Fault;
use expunged::residue::{Doubt, Purge, Residue, Standing};
use jiff::SignedDuration;

use crate::house::{Set, by_id, ids, now, run, script, text, tool, tried};
use crate::server::{Server, bin};

/// A mark that nothing else has.
const MARK: &str = "anna@example.org was here, and nobody else";

struct Barman {
    server: Server,
}

impl Barman {
    fn new() -> Barman {
        tool("barman", "barman");
        let server = Server::start("cp %p {}/home/main/incoming/%f");
        for name in ["home/main/incoming", "lock", "bin"] {
            fs::create_dir_all(server.at(name)).unwrap();
        }
        // The server's account puts its log there.
        let open = |name: &str| {
            fs::set_permissions(server.at(name), fs::Permissions::from_mode(0o777)).unwrap();
        };
        open("home/main/incoming");
        let barman = Barman { server };
        barman.configure(&bin(""));
        barman
    }

    /// `path` is where it finds the programs of PostgreSQL.
    fn configure(&self, path: &std::path::Path) {
        let at = |name: &str| self.server.at(name).display().to_string();
        let user = run(Command::new("id").arg("-un"));
        let conninfo = self.server.conninfo();
        let config = format!(
            "[barman]\nbarman_user={}\nbarman_home={}\nbarman_lock_directory={}\nlog_file={}\npath_prefix={}\n\
             [main]\ndescription=main\nconninfo={conninfo}\nstreaming_conninfo={conninfo}\n\
             backup_method=postgres\narchiver=on\nretention_policy=REDUNDANCY 9\n",
            user.trim(),
            at("home"),
            at("lock"),
            at("barman.log"),
            path.display()
        );
        fs::write(self.config(), config).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.server.at("barman.conf")
    }

    fn barman(&self, args: &[&str]) -> Command {
        let mut command = Command::new(tool("barman", "barman"));
        command.arg("-c").arg(self.config()).args(args);
        command
    }

    /// Whether the mark is anywhere in what barman keeps: in a backup, or in the log.
    fn has_mark(&self) -> bool {
        let mut grep = Command::new("grep");
        let status = grep.args(["-rqaF", MARK]).arg(self.server.at("home")).status().unwrap();
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
        status.success()
    }

    fn set(&self, lines: &str) -> Set {
        Set::new("barman", &format!("config = \"{}\"\n{lines}", self.config().display()))
    }
}

#[tokio::test]
async fn backups_start_when_they_began_and_those_that_are_kept_never_rotate() {
    let barman = Barman::new();
    let set = barman.set("server = \"main\"");
    let empty = set.listing().await;
    assert_eq!(Standing::default().note(empty, Duration::ZERO), Err(Doubt::Empty));

    let insert = format!("INSERT INTO persons VALUES ('{MARK}')");
    barman.server.execute(&["CREATE TABLE persons (name text)", &insert]);
    run(&mut barman.barman(&["switch-wal", "--force", "--archive", "main"]));
    let before = now();
    run(&mut barman.barman(&["backup", "main"]));
    barman.server.execute(&["DELETE FROM persons", "VACUUM persons", "SELECT pg_switch_wal()"]);
    let between = now();
    run(&mut barman.barman(&["backup", "main"]));
    let after = now();
    let listing = set.listing().await;
    let [one, two] = [0, 1].map(|place| listing.backups[place].clone());
    assert!(before <= one.started_at && one.started_at <= between, "{one:?}");
    assert!(between <= two.started_at && two.started_at <= after, "{two:?}");
    assert!(one.parents.is_empty() && one.permanent.is_none() && listing.logs.is_empty());
    assert_eq!(listing.purge, Purge::AtOnce);

    run(&mut barman.barman(&["keep", "main", &one.id, "--target", "standalone"]));
    let mut standing = Standing::default();
    let left = set.note(&mut standing, between).await;
    let Residue::Unbounded { kept } = &left else { panic!("{left:?}") };
    assert_eq!(kept[&one.id], "barman keeps it (KEEP:STANDALONE)");
    // Without a retention policy, barman says nothing of that unless it is asked.
    let config = fs::read_to_string(barman.config()).unwrap();
    fs::write(barman.config(), config.replace("retention_policy=", "# ")).unwrap();
    let listing = set.listing().await;
    let kept = by_id(&listing, &one.id).permanent.as_deref();
    assert_eq!(kept, Some("barman keeps it (KEEP:STANDALONE)"));
    assert_eq!(by_id(&listing, &two.id).permanent, None);
    fs::write(barman.config(), config).unwrap();
    run(&mut barman.barman(&["keep", "main", &one.id, "--release"]));
    assert!(barman.has_mark());
    run(&mut barman.barman(&["delete", "main", &one.id]));
    // The log from before the next backup goes along, which is why none is listed.
    assert!(!barman.has_mark());
    set.clears(&mut standing, between).await;

    what_failed_has_data_too(&barman, &two.id).await;
    a_catalogue_that_cannot_be_asked_says_why(&barman).await;
    an_answer_that_broke_off_is_no_listing(&barman).await;
}

/// It says nothing of when it began but by its id, in the local time of whoever made it.
async fn what_failed_has_data_too(barman: &Barman, other: &str) {
    let bad =
        "case \"$*\" in *--version*) echo 'pg_basebackup (PostgreSQL) 15.0';; *) exit 3;; esac";
    script(&barman.server.at("bin"), "pg_basebackup", bad);
    barman.configure(&barman.server.at("bin"));
    let failed = tried(&mut barman.barman(&["backup", "main"]));
    assert!(!failed.status.success(), "{}", text(&failed));
    barman.configure(&bin(""));
    let listing = barman.set("server = \"main\"").listing().await;
    assert_eq!(listing.backups.len(), 2, "{:?}", ids(&listing));
    let failed = listing.backups.iter().find(|one| one.id != other).unwrap();
    let hours = SignedDuration::from_hours;
    assert!(failed.started_at <= now() && failed.started_at > now() - hours(27), "{failed:?}");
}

async fn a_catalogue_that_cannot_be_asked_says_why(barman: &Barman) {
    let absent = barman.set("server = \"other\"").fault().await;
    assert!(matches!(absent, Fault::Absent { .. }), "{absent}");
    let nowhere = Set::new("barman", "config = \"/nowhere.conf\"\nserver = \"main\"");
    let fault = nowhere.fault().await;
    assert!(matches!(fault, Fault::Failed { .. }), "{fault}");
    // Whoever it insists on being run by is not whoever runs this; root becomes that user, and lacks the rights then.
    let config = fs::read_to_string(barman.config()).unwrap();
    let user = config.lines().find(|line| line.starts_with("barman_user=")).unwrap();
    fs::write(barman.config(), config.replace(user, "barman_user=daemon")).unwrap();
    let fault = barman.set("server = \"main\"").fault().await;
    assert!(matches!(fault, Fault::Failed { .. }), "{fault}");
    fs::write(barman.config(), config).unwrap();
}

async fn an_answer_that_broke_off_is_no_listing(barman: &Barman) {
    let real = tool("barman", "barman").display().to_string();
    let half = |command: &str, length: usize| {
        format!(
            "case \"$*\" in *{command}*) {real} \"$@\" 2>&1 | head -c {length};; *) exec {real} \"$@\";; esac"
        )
    };
    for text in [half("list-backup", 80), half("show-backup", 300)] {
        let program = script(barman.server.folder.path(), "half", &text);
        let lines = format!("server = \"main\"\nprogram = \"{}\"", program.display());
        let fault = barman.set(&lines).fault().await;
        assert!(matches!(fault, Fault::NotUnderstood { .. }), "{text}: {fault}");
    }
}
