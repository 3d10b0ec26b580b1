//! Programs of the operator's.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use expunged::clock::Stopwatch;
use expunged::notice::Answer;
use expunged::recipient::Ailment;
use serde_json::json;

use crate::house::{about, anna, later, now, path, person, recipient, shown};

/// A shell script as the program.
fn script(folder: &Path, text: &str) -> String {
    let file = folder.join("forget");
    std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!(
        "[recipient.own]\nprotocol = \"command\"\nprogram = \"{}\"\nargs = [\"{}\", \"$HOME; touch x\"]\ntimeout = \"2 seconds\"\n",
        path(&file),
        path(folder)
    )
}

async fn tell(text: &str) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    let own = recipient(folder.path(), &script(folder.path(), text));
    let answer = own.tell(&anna(), now()).await;
    shown(&answer);
    answer
}

#[tokio::test]
async fn a_program_is_given_the_notice_and_little_else() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "cat > \"$1/input\"; env > \"$1/env\"; pwd > \"$1/pwd\"; printf %s \"$2\" > \"$1/second\"";
    let own = recipient(folder.path(), &script(folder.path(), text));
    let message = anna();
    assert_eq!(own.tell(&message, now()).await, Answer::Completed);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let input: serde_json::Value = serde_json::from_str(&read("input")).unwrap();
    assert_eq!(input["data"]["notice"], format!("msg_{}", message.id));
    assert_eq!(
        input["data"]["subjects"],
        json!([{ "email": "anna@example.org", "user_id": "u-1001" }])
    );
    assert!(read("input").ends_with('\n'));
    assert_eq!((read("pwd").as_str(), read("second").as_str()), ("/\n", "$HOME; touch x"));
    let names: Vec<String> =
        read("env").lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    let own = ["PATH", "LANG", "LC_ALL", "TZ", "PWD", "SHLVL", "_", "OLDPWD"];
    assert!(names.iter().all(|name| own.contains(&name.as_str())), "{names:?}");
}

#[tokio::test]
async fn the_exit_code_is_the_answer() {
    assert_eq!(tell("exit 0").await, Answer::Completed);
    assert_eq!(later(&tell("exit 75").await), (None, false));
    for code in [1, 2, 64, 74, 76, 127, 255] {
        let answer = tell(&format!("echo anna@example.org; exit {code}")).await;
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
        assert!(
            shown(&answer).contains(&format!("ended with {code}, and had printed 17 bytes")),
            "{answer:?}"
        );
    }
    assert_eq!(later(&tell("kill -9 $$").await), (None, false));
}

#[tokio::test]
async fn what_is_too_slow_ends_with_all_it_has_started() {
    let folder = tempfile::tempdir().unwrap();
    let text = "sleep 1000 & echo $! > \"$1/child\"; echo $$ > \"$1/own\"; trap '' TERM; wait";
    let own = recipient(folder.path(), &script(folder.path(), text).replace("2 seconds", "500 ms"));
    let watch = Stopwatch::start();
    let answer = own.tell(&anna(), now()).await;
    assert_eq!(later(&answer), (None, true));
    assert!(watch.elapsed() < Duration::from_secs(5));
    for name in ["own", "child"] {
        let pid = std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(is_gone(pid.trim()), "{name} {pid} goes on");
    }
}

/// Whether a process has ended: killed, it may be a zombie until whoever it was left to has taken note.
fn is_gone(pid: &str) -> bool {
    let watch = Stopwatch::start();
    while watch.elapsed() < Duration::from_secs(10) {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
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
async fn what_prints_without_an_end_or_reads_nothing_is_borne() {
    let answer = tell("head -c 50000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 3").await;
    assert!(shown(&answer).contains("printed 53000000 bytes"), "{answer:?}");
    assert_eq!(later(&tell("cat /dev/zero").await), (None, true));
    // More than a pipe holds, and nobody who reads it.
    let folder = tempfile::tempdir().unwrap();
    let many = about((0..10_000).map(|id| person(&[("id", &id.to_string())])).collect());
    let own = recipient(folder.path(), &script(folder.path(), "exit 0"));
    assert_eq!(own.tell(&many, now()).await, Answer::Completed);
    let own = recipient(folder.path(), &script(folder.path(), "exec <&-; exit 0"));
    assert_eq!(own.tell(&many, now()).await, Answer::Completed);
    // What it leaves running in the background keeps nobody waiting.
    let watch = Stopwatch::start();
    let own = recipient(folder.path(), &script(folder.path(), "sleep 3 & exit 0"));
    assert_eq!(own.tell(&anna(), now()).await, Answer::Completed);
    assert!(watch.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_later() {
    let folder = tempfile::tempdir().unwrap();
    let config = script(folder.path(), "exit 0");
    let own = recipient(folder.path(), &config);
    assert!(own.test(now()).await.unwrap().says.contains("was not started"));
    let file = folder.path().join("forget");
    let test = async || own.test(now()).await.unwrap_err();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(test().await, Ailment::Program(why) if why.contains("cannot be executed")));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(test().await, Ailment::Program(why) if why.contains("every user")));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(test().await, Ailment::Program(why) if why.contains("cannot be found")));
    assert_eq!(later(&own.tell(&anna(), now()).await), (None, true));
}
