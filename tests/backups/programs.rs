//! Programs: those of one's own, which print our JSON, and what may go wrong with any.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use expunged::backup::Fault;
use expunged::clock::Stopwatch;
use expunged::residue::{Doubt, Purge, Standing};

use crate::house::{Set, by_id, folder, ids, now, script, secret};

fn own(folder: &Path, text: &str) -> Set {
    let program = script(folder, "list", text);
    Set::new("command", &format!("program = \"{}\"\n", program.display()))
}

/// What came of a program that prints this.
async fn printed(text: &str) -> Result<expunged::residue::Listing, Fault> {
    let folder = folder();
    let set = own(folder.path(), &format!("cat <<'END'\n{text}\nEND"));
    set.list().await.map_err(|error| error.fault)
}

const WHOLE: &str = r#"{
  "backups": [
    {"id": "incr-8", "started_at": "2026-11-02T01:00:00+01:00", "parents": ["full-7"], "permanent": "locked"},
    {"id": "full-7", "started_at": "2026-11-01T01:00:00Z"}
  ],
  "logs": [{"id": "binlog", "from": "2026-10-31T01:00:00Z"}, {"id": "other", "from": null}],
  "purged": "at_once",
  "complete": true
}"#;

#[tokio::test]
async fn a_program_of_ones_own_lists_all_that_there_can_be() {
    let listing = printed(WHOLE).await.unwrap();
    assert_eq!(ids(&listing), ["full-7", "incr-8"]);
    let increment = by_id(&listing, "incr-8");
    assert_eq!(increment.started_at.to_string(), "2026-11-02T00:00:00Z");
    assert_eq!(increment.parents, ["full-7"]);
    assert_eq!(increment.permanent.as_deref(), Some("locked"));
    let from: Vec<_> = listing.logs.iter().map(|log| log.from.map(|at| at.to_string())).collect();
    assert_eq!(from, [Some("2026-10-31T01:00:00Z".to_owned()), None]);
    assert_eq!(listing.purge, Purge::AtOnce);
    let purge =
        async |text: &str| printed(&WHOLE.replace("\"at_once\"", text)).await.unwrap().purge;
    assert_eq!(purge("\"seen\"").await, Purge::Seen);
    assert_eq!(purge(r#"{"owed": "3 GB: run it"}"#).await, Purge::Owed("3 GB: run it".into()));
    let stamp = "2026-11-03T01:00:00Z".parse().unwrap();
    let stamped = r#"{"stamped": "2026-11-03T01:00:00Z"}"#;
    assert_eq!(purge(stamped).await, Purge::Stamped(Some(stamp)));
    assert_eq!(purge(r#"{"stamped": null}"#).await, Purge::Stamped(None));
}

#[tokio::test]
async fn what_is_not_said_as_it_should_be_is_no_listing() {
    for (from, to) in [
        ("\"complete\": true", "\"complete\": 1"),
        (",\n  \"complete\": true", ""),
        ("\"purged\": \"at_once\",", ""),
        ("\"at_once\"", "\"soon\""),
        ("\"complete\": true", "\"complete\": true, \"more\": 1"),
        ("\"permanent\": \"locked\"", "\"locked\": true"),
        ("\"id\": \"full-7\", ", ""),
        ("\"id\": \"full-7\"", "\"id\": \"incr-8\""),
        ("\"id\": \"full-7\"", "\"id\": \"\""),
        ("2026-11-01T01:00:00Z", "2026-11-01T01:00:00"),
        ("2026-11-01T01:00:00Z", "2026-11-31T01:00:00Z"),
        (", \"from\": null", ""),
        ("\"backups\"", "\"backup\""),
        ("\n}", "\n} {}"),
        ("\n}", "\n"),
    ] {
        let text = WHOLE.replace(from, to);
        assert_ne!(text, WHOLE, "{from}");
        let fault = printed(&text).await.unwrap_err();
        assert!(matches!(&fault, Fault::NotUnderstood { .. }), "{to}: {fault}");
    }
    let incomplete = WHOLE.replace("\"complete\": true", "\"complete\": false");
    assert!(matches!(printed(&incomplete).await, Err(Fault::Reported { .. })));
    let half = &WHOLE[..WHOLE.find("\"permanent\"").unwrap()];
    let fault = printed(half).await.unwrap_err();
    assert!(fault.to_string().contains("broke off"), "{fault}");
    let unknown = WHOLE.replace("\"complete\"", "\"whole\": true, \"complete\"");
    let fault = printed(&unknown).await.unwrap_err().to_string();
    assert!(fault.contains("unknown field `whole`") && fault.contains("line 8"), "{fault}");
}

#[tokio::test]
async fn an_empty_list_is_a_list_that_proves_nothing() {
    let text = r#"{"backups": [], "purged": "at_once", "complete": true}"#;
    let listing = printed(text).await.unwrap();
    let mut standing = Standing::default();
    assert_eq!(standing.note(listing, Duration::ZERO), Err(Doubt::Empty));
    assert_eq!(standing, Standing::default());
}

#[tokio::test]
async fn a_set_that_is_declared_is_not_listed() {
    assert!(matches!(Set::new("declared", "").fault().await, Fault::Declared));
}

#[tokio::test]
async fn a_program_that_cannot_be_started_says_whether_it_is_there() {
    let folder = folder();
    for (kind, lines) in [
        ("restic", format!("repository = \"/x\"\npassword = {}", secret(folder.path(), "hunter2"))),
        ("pgbackrest", "stanza = \"main\"".to_owned()),
        ("borg", "repository = \"/x\"".to_owned()),
        ("barman", "server = \"main\"".to_owned()),
        ("command", String::new()),
    ] {
        let with = |program: &str| Set::new(kind, &format!("program = \"{program}\"\n{lines}"));
        let missing = with("/usr/bin/there-is-no-such-tool").fault().await;
        assert!(matches!(missing, Fault::Missing(_)), "{kind}: {missing}");
        let no_program = folder.path().join("plain");
        fs::write(&no_program, "x").unwrap();
        fs::set_permissions(&no_program, fs::Permissions::from_mode(0o644)).unwrap();
        let fault = with(&no_program.display().to_string()).fault().await;
        assert!(matches!(fault, Fault::NotExecutable { .. }), "{kind}: {fault}");
    }
    let password = "password = { env = \"EXPUNGED_THERE_IS_NO_SUCH_VARIABLE\" }";
    let set = Set::new("restic", &format!("repository = \"/x\"\n{password}"));
    assert!(matches!(set.fault().await, Fault::Secret(_)));
}

#[tokio::test]
async fn a_program_that_hangs_is_ended_with_all_that_it_has_started() {
    let folder = folder();
    let place = folder.path().display();
    let text = format!("sleep 1000 & echo $! > {place}/child; echo $$ > {place}/own; wait");
    let program = script(folder.path(), "hang", &text);
    let lines = format!("program = \"{}\"\ntimeout = \"700 ms\"\n", program.display());
    let password = secret(folder.path(), "hunter2");
    for (kind, rest) in [
        ("command", String::new()),
        ("restic", format!("repository = \"/x\"\npassword = {password}")),
        ("pgbackrest", "stanza = \"main\"".to_owned()),
        ("borg", "repository = \"/x\"".to_owned()),
        ("barman", "server = \"main\"".to_owned()),
    ] {
        let watch = Stopwatch::start();
        let fault = Set::new(kind, &format!("{lines}{rest}")).fault().await;
        assert!(matches!(fault, Fault::TimedOut(_)), "{kind}: {fault}");
        assert!(watch.elapsed() < Duration::from_secs(10), "{kind}");
        for name in ["own", "child"] {
            let pid = fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(is_gone(pid.trim()), "{kind}: {name} {pid} goes on");
        }
    }
}

/// Whether a process has ended: killed, it may be a zombie until whoever it was left to has taken note.
fn is_gone(pid: &str) -> bool {
    let watch = Stopwatch::start();
    while watch.elapsed() < Duration::from_secs(10) {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => return true,
            Ok(stat) if stat.rsplit(')').next().unwrap_or("").trim().starts_with('Z') => {
                return true;
            }
            Ok(_) => std::thread::yield_now(),
        }
    }
    false
}

#[tokio::test]
async fn what_a_program_is_given_and_what_it_says_stays_bounded() {
    let folder = folder();
    let place = folder.path().display();
    let program = script(
        folder.path(),
        "list",
        &format!(
            "env > {place}/env; pwd > {place}/pwd; printf '%s|' \"$@\" > {place}/args; cat > {place}/input; echo \"it is $TOKEN\" >&2; exit 3"
        ),
    );
    let lines = format!(
        "program = \"{}\"\nargs = [\"$HOME; x\", \"--json\"]\nenvironment = {{ PLACE = \"eu\", TOKEN = {} }}\n",
        program.display(),
        secret(folder.path(), "hunter2")
    );
    let Fault::Failed { ended, says, .. } = Set::new("command", &lines).fault().await else {
        panic!("it failed")
    };
    assert_eq!((ended.as_str(), says.as_str()), ("ended with 3", "it is ***"));
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(
        (read("args"), read("pwd"), read("input")),
        ("$HOME; x|--json|".into(), "/\n".into(), String::new())
    );
    let names: Vec<String> =
        read("env").lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    let seen = ["PATH", "LANG", "LC_ALL", "TZ", "PLACE", "TOKEN", "PWD", "SHLVL", "_", "OLDPWD"];
    assert!(names.iter().all(|name| seen.contains(&name.as_str())), "{names:?}");
    // A secret that is cut in half where the end of the complaints begins is not shown either.
    let text = "head -c 20000 /dev/zero | tr '\\0' x >&2; printf hunter2 >&2; head -c 4093 /dev/zero | tr '\\0' y >&2; exit 1";
    let lines = format!("environment = {{ TOKEN = {} }}", secret(folder.path(), "hunter2"));
    let program = script(folder.path(), "long", text);
    let set = Set::new("command", &format!("program = \"{}\"\n{lines}", program.display()));
    let Fault::Failed { says, .. } = set.fault().await else { panic!("it failed") };
    assert!(!says.contains("r2y"), "{says}");
    let set = own(folder.path(), "head -c 70000000 /dev/zero");
    assert!(matches!(set.fault().await, Fault::TooMuch(_)));
    let set = own(folder.path(), "kill -9 $$");
    assert!(matches!(set.fault().await, Fault::Failed { ended, .. } if ended.contains("signal")));
}

#[tokio::test]
async fn the_moment_of_a_listing_is_the_one_that_was_given() {
    let folder = folder();
    let set = own(folder.path(), &format!("cat <<'END'\n{WHOLE}\nEND"));
    let before = now();
    let listing = set.list().await.unwrap();
    assert!(listing.at >= before && listing.at <= now());
}
