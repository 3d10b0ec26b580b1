//! Guards the shape of `src/`: dependencies between modules point one way, nouns stay pure, and no file
//! outgrows its reader. What it reads is the text, so that test code counts as well.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every module, lowest first: each may use those before it and none after it. `src/lib.rs` declares them
/// and `src/main.rs` stands outside, so neither is here.
const MODULES: &[&str] = &[
    "types",
    "path",
    "schedule",
    "pace",
    "anonymize",
    "breaker",
    "notice",
    "rule",
    "residue",
    "restore",
    "hold",
    "config",
    "event",
    "plan",
    "fault",
    "clock",
    "upkeep",
    "audit",
    "transition",
    "keys",
    "outbound",
    "store",
    "program",
    "recipient",
    "backup",
    "ledger",
    "archive",
    "certificate",
    "check",
    "run",
    "propagate",
    "rotate",
    "publish",
    "lifecycle",
    "http",
    "daemon",
    "telemetry",
    "cli",
];

/// Nouns: nothing in them waits, nothing reads a clock.
const PURE: &[&str] = &[
    "types",
    "path",
    "schedule",
    "pace",
    "anonymize",
    "breaker",
    "notice",
    "rule",
    "residue",
    "restore",
    "hold",
    "config",
    "event",
    "plan",
    "transition",
];

/// What the order alone would allow.
const STRANGERS: [(&str, &str); 1] = [("ledger", "store")];

const LONGEST: usize = 700;

#[test]
fn modules_use_only_what_stands_below_them() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        found.extend(violations(&path, &text));
    }
    assert!(found.is_empty(), "arrows that point the wrong way:\n{}", found.join("\n"));
}

#[test]
fn the_list_of_modules_is_true() {
    let listed: BTreeSet<String> = MODULES.iter().map(|&module| module.to_owned()).collect();
    let present: BTreeSet<String> =
        sources().iter().filter_map(|(path, _)| module_path(path).first().cloned()).collect();

    let unlisted: Vec<_> = present.difference(&listed).collect();
    let missing: Vec<_> = listed.difference(&present).collect();

    assert!(unlisted.is_empty(), "in src/, not in MODULES; where do they stand? {unlisted:?}");
    assert!(missing.is_empty(), "in MODULES, not in src/: {missing:?}");
}

#[test]
fn no_file_is_longer_than_its_reader_can_hold() {
    let long: Vec<_> = sources()
        .iter()
        .map(|(path, text)| (path.clone(), text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST} lines, split them by noun: {long:?}");
}

#[test]
fn both_ledger_schemas_have_the_same_migrations() {
    let [sqlite, postgres] = ["sqlite", "postgres"].map(|database| {
        let folder = root().join("migrations").join(database);
        let names: BTreeSet<_> = entries(&folder).iter().map(|path| name(path)).collect();
        assert!(!names.is_empty(), "{} is empty", folder.display());
        names
    });
    assert_eq!(sqlite, postgres);
}

// --- what is checked ------------------------------------------------------------------------------

/// What is wrong with a file, named by its path below `src/`; each as `src/FILE:LINE: why`.
fn violations(path: &str, text: &str) -> Vec<String> {
    let within = module_path(path);
    let Some(module) = within.first() else { return Vec::new() };
    let tokens = tokens(text);

    let mut found: Vec<(usize, String)> = arrows(&within, &tokens)
        .into_iter()
        .filter_map(|(line, target)| Some((line, objection(module, &target)?)))
        .collect();
    if PURE.contains(&module.as_str()) {
        let waits = tokens.iter().filter(|(_, token)| ["async", "await"].contains(&token.as_str()));
        found.extend(waits.map(|(line, token)| (*line, format!("{module} is pure: no `{token}`"))));
    }
    found.sort();
    found.into_iter().map(|(line, why)| format!("src/{path}:{line}: {why}")).collect()
}

fn objection(from: &str, to: &str) -> Option<String> {
    let height = |module: &str| MODULES.iter().position(|listed| *listed == module);
    if from == to {
        return None;
    }
    if PURE.contains(&from) && to == "clock" {
        return Some(format!("{from} -> {to}: {from} is pure, time is an argument"));
    }
    if STRANGERS.contains(&(from, to)) || STRANGERS.contains(&(to, from)) {
        return Some(format!("{from} -> {to}: these two never meet"));
    }
    match (height(from), height(to)) {
        (_, None) => Some(format!("{from} -> {to}: name the module, as in crate::types::Key")),
        (Some(from_height), Some(to_height)) if to_height > from_height => {
            Some(format!("{from} -> {to}: {to} stands above {from}"))
        }
        _ => None,
    }
}

/// `store/sql/mysql.rs` is the module `store::sql::mysql`. `lib.rs` and `main.rs` are none.
fn module_path(path: &str) -> Vec<String> {
    let mut names: Vec<_> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|last| last == "mod") || ["lib.rs", "main.rs"].contains(&path) {
        names.pop();
    }
    names
}

/// The top-level modules that a module mentions, each with its line: through `crate::`, through `$crate::`,
/// through `super::` where that leads out of its own, one by one where they stand in braces.
fn arrows(within: &[String], tokens: &[(usize, String)]) -> Vec<(usize, String)> {
    let text = |index: usize| tokens.get(index).map_or("", |(_, token)| token.as_str());
    let mut found = Vec::new();
    let mut inline: Vec<usize> = Vec::new();
    let mut depth = 0;
    for index in 0..tokens.len() {
        match text(index) {
            "{" => {
                depth += 1;
                if index >= 2 && text(index - 2) == "mod" {
                    inline.push(depth);
                }
            }
            "}" => {
                if inline.last() == Some(&depth) {
                    inline.pop();
                }
                depth = depth.saturating_sub(1);
            }
            "crate" | "self" | "super" if index == 0 || text(index - 1) != "::" => {
                let mut level = within.len() + inline.len();
                let mut next = index;
                loop {
                    match text(next) {
                        "crate" => level = 0,
                        "super" => level = level.saturating_sub(1),
                        "self" => {}
                        _ => break,
                    }
                    if text(next + 1) != "::" {
                        level = usize::MAX; // `pub(crate)`, `self.field`: no path to follow
                        break;
                    }
                    next += 2;
                }
                if level == 0 {
                    found.extend(first_names(tokens, next));
                }
            }
            _ => {}
        }
    }
    found
}

/// The name at `index`, or each branch's first where braces open there. A macro lives at the crate's root
/// wherever it was written, so it says nothing about modules.
fn first_names(tokens: &[(usize, String)], index: usize) -> Vec<(usize, String)> {
    let text = |index: usize| tokens.get(index).map_or("", |(_, token)| token.as_str());
    if text(index) != "{" {
        let is_macro = text(index + 1) == "!";
        return tokens.get(index).filter(|_| !is_macro).cloned().into_iter().collect();
    }
    let mut found = Vec::new();
    let mut depth = 0;
    for (position, token) in tokens.iter().enumerate().skip(index) {
        match token.1.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if depth == 1 && ["{", ","].contains(&text(position - 1)) => {
                found.push(token.clone())
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

// --- reading Rust, as far as it takes -------------------------------------------------------------

/// Names, `::` and single marks, each with its line. Comments are left out, and so are literals, except
/// that a string which is a path (`#[serde(with = "crate::types::seconds")]`) counts as one.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            let length = string(rest);
            let inner = rest[..length].trim_matches('"');
            if inner.starts_with("crate::") {
                found.extend(tokens(inner).into_iter().map(|(_, token)| (line, token)));
            }
            length
        } else if first == '\'' {
            character(rest)
        } else if first.is_alphabetic() || first == '_' {
            found.push((line, rest[..name].to_owned()));
            name
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                found.push((line, rest[..length].to_owned()));
            }
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = text[prefix.len()..].find('"')?;
    let start = prefix.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[start..].find(&end).map_or(text.len(), |found| start + found + end.len()))
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A character, or the mark of a lifetime.
fn character(text: &str) -> usize {
    let mut after = text.char_indices().skip(1);
    match (after.next(), after.next()) {
        (Some((_, '\\')), Some((escape, _))) => {
            let end = escape + 1;
            text.get(end..).and_then(|rest| rest.find('\'')).map_or(end, |found| end + found + 1)
        }
        (Some(_), Some((quote, '\''))) => quote + 1,
        _ => 1,
    }
}

// --- the files ------------------------------------------------------------------------------------

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file's path below `src/`, and its text.
fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    let mut waiting = vec![src.clone()];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(entries(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(&src).expect("it was found there");
            let text = fs::read_to_string(&path).expect("source files are UTF-8");
            found.push((below.to_str().expect("file names are UTF-8").to_owned(), text));
        }
    }
    found.sort();
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    listed.map(|entry| entry.expect("a folder can be read to its end").path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().expect("it is an entry").to_string_lossy().into_owned()
}

// --- the guard is guarded -------------------------------------------------------------------------

fn wrong(path: &str, text: &str) -> String {
    violations(path, text).join("; ")
}

#[test]
fn an_arrow_upwards_is_caught_with_its_place() {
    let text = "//! A noun.\n\nuse crate::types::Key;\nuse crate::ledger::Ledger;\n";
    assert_eq!(wrong("plan.rs", text), "src/plan.rs:4: plan -> ledger: ledger stands above plan");
    assert_eq!(wrong("ledger.rs", "use crate::plan::Plan;"), "");
}

#[test]
fn an_arrow_is_caught_wherever_it_hides() {
    for text in [
        "use crate::{types::Key, daemon};",
        "use crate::{\n    types::{self, Key},\n    daemon::Daemon,\n};",
        "fn f() { crate::daemon::start() }",
        "use super::daemon::Daemon;",
        "use super::{types::Key, daemon::Daemon};",
        "use self::super::daemon;",
        "mod inner { use super::super::daemon; }",
        "#[cfg(test)] mod tests { fn f() { crate::daemon::start() } }",
        "macro_rules! m { () => { $crate::daemon::start() } }",
        "#[serde(with = \"crate::daemon\")] struct S;",
        "const QUOTE: char = '\"'; use crate::daemon;",
        "const ESCAPED: char = '\\''; use crate::daemon;",
        "fn f<'a>(a: &'a str) { crate::daemon::start(a) }",
        "const TEXT: &str = r#\"a \" b\"#; use crate::daemon;",
        "/* outer /* inner */ still */ use crate::daemon;",
    ] {
        let found = wrong("run.rs", text);
        assert!(
            found.contains("run -> daemon: daemon stands above run"),
            "{text:?} gave {found:?}"
        );
    }
    let deep = "use super::super::super::daemon;";
    assert!(wrong("store/sql/mysql.rs", deep).contains("store -> daemon"));
}

#[test]
fn what_is_no_arrow_is_let_through() {
    for text in [
        "/// See [`crate::daemon`].\n//! And crate::cli\n// crate::daemon\n/* crate::daemon */",
        "const TEXT: &str = \"use crate::daemon\";",
        "const TEXT: &str = r#\"use \"crate::daemon\"\"#;",
        "mod daemon { pub(crate) fn f() {} } use self::daemon::f;",
        "mod tests { use super::daemon; } ",
        "pub(crate) struct S; pub(in crate::run) struct T; impl S { fn f(self) { self.daemon() } }",
        "use crate::{types::{daemon, Key}, ledger};",
        "fn f() { crate::some_macro!(1) }",
        "use other_crate::daemon; use other::crate_daemon::daemon;",
    ] {
        assert_eq!(wrong("run.rs", text), "", "{text:?}");
    }
    assert_eq!(wrong("store/sql.rs", "use super::daemon;"), "", "a submodule may be named so");
    assert_eq!(wrong("store/sql/mod.rs", "use super::daemon;"), "");
    assert_eq!(wrong("main.rs", "use expunged::cli; use crate::anything;"), "");
}

#[test]
fn the_crate_root_is_no_way_around() {
    for text in ["use crate::Everything;", "use crate::*;", "use super::*;", "use crate::{*};"] {
        assert!(wrong("run.rs", text).contains("name the module"), "{text:?}");
    }
}

#[test]
fn stores_and_ledger_never_meet() {
    assert!(wrong("ledger/holds.rs", "use crate::store::Store;").contains("never meet"));
    assert!(wrong("store/files.rs", "use crate::ledger::Ledger;").contains("never meet"));
}

#[test]
fn nouns_neither_wait_nor_read_the_clock() {
    assert!(wrong("plan.rs", "use crate::clock::Clock;").contains("time is an argument"));
    for text in ["async fn f() {}", "fn f() { g().await; }", "fn f() { async move {} }"] {
        assert!(wrong("config/file.rs", text).contains("is pure"), "{text:?}");
        assert_eq!(wrong("run.rs", text), "");
    }
    assert_eq!(wrong("plan.rs", "// async code awaits this\nconst A: &str = \".await\";"), "");
}
