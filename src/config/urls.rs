//! URLs of databases: typed in without a password, or named by where they are kept.

use std::path::{Component, Path, PathBuf};

use super::diagnostic::Problem;
use super::mask;
use super::reader::{Context, Located, Reader, located};
use super::secret::{PlainUrl, Secret, is_credential_name};
use super::text::{Entry, Kind, Place, Table};
use crate::rule::Dialect;

/// The three ways to name a secret.
const WAYS: [&str; 3] = [
    "credential = \"app-db-url\"", // a systemd credential
    "file = \"/etc/expunged/secrets/app-db-url\"",
    "env = \"APP_DB_URL\"",
];

/// Reads the URL of a database of one of `kinds`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    key: &'static str,
    kinds: &[Dialect],
) -> Option<Located<Secret>> {
    let entry = reader.entry(key)?;
    match &entry.kind {
        Kind::Text(text) => {
            literal(reader, key, entry, text, kinds).map(|secret| located(entry, secret))
        }
        Kind::Table(table) => {
            reference(reader.context, of(reader, key), table).map(|secret| located(entry, secret))
        }
        _ => reader.wrong_type(
            entry,
            key,
            "a URL, or a table that names a secret",
            &format!("{{ {} }}", WAYS[0]),
        ),
    }
}

/// Reads what is always secret: only where it is kept can be written.
pub(super) fn secret(reader: &mut Reader<'_>, key: &'static str) -> Option<Secret> {
    let entry = reader.entry(key)?;
    if let (Kind::Text(_), Some(variable)) =
        (&entry.kind, reader.context.texts.variable(entry.place))
    {
        // Already outside of any file: it stays where it is, and is read when needed.
        reader.context.hide(entry.place);
        return Some(Secret::Env(variable.to_owned()));
    }
    let (_, table) = reader.table(key, &format!("{{ {} }}", WAYS[0]))?;
    reference(reader.context, of(reader, key), table)
}

/// Reads what need not be secret, such as the id of a key: as it is, or where it is kept.
pub(super) fn identifier(reader: &mut Reader<'_>, key: &'static str) -> Option<Secret> {
    let entry = reader.entry(key)?;
    if let Kind::Table(table) = &entry.kind {
        return reference(reader.context, of(reader, key), table);
    }
    let text = reader.word(key, &format!("{{ {} }}", WAYS[0]))?;
    PlainUrl::new(text.value).ok().map(Secret::Literal).or_else(|| {
        reader.context.hide(text.place);
        let message = format!("{}: a password does not belong into this file", reader.what);
        let help = format!("write `{key} = {{ {} }}`", WAYS[0]);
        reader.report(Problem::new(text.place, message).help(help));
        None
    })
}

fn of(reader: &Reader<'_>, key: &str) -> String {
    format!("`{key}` of {}", reader.what)
}

/// What a URL of this kind may begin with.
fn schemes(kind: Dialect) -> &'static [&'static str] {
    match kind {
        Dialect::Postgres => &["postgres", "postgresql"],
        Dialect::Mysql => &["mysql", "mariadb"],
        Dialect::Sqlite => &["sqlite"],
    }
}

fn example(kind: Dialect) -> &'static str {
    match kind {
        Dialect::Postgres => "postgres://user@host/database",
        Dialect::Mysql => "mysql://user@host/database",
        Dialect::Sqlite => "sqlite:///absolute/path.db",
    }
}

fn literal(
    reader: &Reader<'_>,
    key: &str,
    entry: &Entry,
    text: &str,
    kinds: &[Dialect],
) -> Option<Secret> {
    let fault = |message: &str, kinds: &[Dialect]| {
        // Not shown whole, whatever else is wrong with it.
        if PlainUrl::new(text).is_err() {
            reader.context.hide(entry.place);
        }
        let problem = Problem::new(entry.place, format!("{}: {message}", reader.what));
        reader.report(kinds.iter().fold(problem, |problem, kind| {
            problem.help(format!("write `{key} = \"{}\"`", example(*kind)))
        }));
        None
    };
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let Some(kind) = kinds.iter().find(|kind| schemes(**kind).contains(&scheme)) else {
        return fault(&format!("`{key}` is not a URL that can be used here"), kinds);
    };
    if *kind == Dialect::Sqlite {
        return match sqlite(text, reader.context.folder) {
            Ok(url) => Some(Secret::Literal(PlainUrl::new(url).ok()?)),
            Err(message) => fault(message, &[*kind]),
        };
    }
    if !text[scheme.len()..].starts_with("://") {
        return fault(&format!("`{key}` is not a URL"), &[*kind]);
    }
    if let Ok(url) = PlainUrl::new(text) {
        return Some(Secret::Literal(url));
    }
    if let Some(variable) = reader.context.texts.variable(entry.place) {
        // Already outside of any file: it stays where it is, and is read when needed.
        return Some(Secret::Env(variable.to_owned()));
    }
    reader.report(typed_in(reader, key, entry));
    None
}

/// A password stands in a file: refused without showing it.
fn typed_in(reader: &Reader<'_>, key: &str, entry: &Entry) -> Problem {
    let written = reader.context.texts.slice(entry.place);
    let offset = |range: std::ops::Range<usize>| Place {
        start: entry.place.start + range.start,
        end: entry.place.start + range.end,
        ..entry.place
    };
    // Where an escape (`\u0040`) keeps the password from being found as written, all is hidden.
    let password = mask::passwords_in_urls(written).into_iter().next().map(offset);
    if password.is_none() {
        reader.context.hide(entry.place);
    }
    let place = password.unwrap_or(entry.place);
    let message = format!("{}: a password does not belong into this file", reader.what);
    let [credential, file, env] = WAYS;
    Problem::new(place, message)
        .label("hidden here, and still to be changed")
        .help(format!("write `{key} = {{ {credential} }}` for a systemd credential,"))
        .help(format!("or `{key} = {{ {file} }}` for a file that only expunged can read,"))
        .help(format!("or `{key} = {{ {env} }}` for an environment variable"))
}

/// The URL of a SQLite file with an absolute path; a relative one starts at `folder`.
fn sqlite(text: &str, folder: &Path) -> Result<String, &'static str> {
    let rest = text.strip_prefix("sqlite:").unwrap_or(text);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, parameters) = match rest.split_once('?') {
        Some((path, parameters)) => (path, format!("?{parameters}")),
        None => (rest, String::new()),
    };
    if path.is_empty() || path == ":memory:" || parameters.contains("mode=memory") {
        return Err("a SQLite database in memory is empty each time: name a file");
    }
    if path.starts_with('~') {
        return Err("`~` is not expanded: write the whole path");
    }
    if mask::parameters(rest).next().is_some() {
        return Err("a password does not belong into this file");
    }
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        // The URL's path is percent-decoded when it is opened; the folder is not in that form yet.
        let folder = folder.to_str().ok_or("the configuration's folder is not Unicode")?;
        let folder = folder.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
        tidy(&Path::new(&folder).join(path)).to_str().unwrap_or(path).to_owned()
    };
    Ok(format!("sqlite://{path}{parameters}"))
}

/// Without `.` in it; `..` stays, as it depends on links.
fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|component| !matches!(component, Component::CurDir)).collect()
}

/// The folder of a SQLite file's URL, as [`sqlite`] writes it.
pub(super) fn sqlite_folder(secret: &Secret) -> Option<PathBuf> {
    let Secret::Literal(url) = secret else { return None };
    let path = url.as_str().strip_prefix("sqlite://")?.split('?').next()?;
    let path = path.replace("%23", "#").replace("%3F", "?").replace("%25", "%");
    Path::new(&path).parent().map(Path::to_owned)
}

/// An absolute path: a relative one starts at the configuration's folder.
pub(super) fn absolute(context: Context<'_>, path: &str) -> PathBuf {
    tidy(&context.folder.join(path))
}

/// `{ credential = … }`, `{ file = … }` or `{ env = … }`.
pub(super) fn reference(context: Context<'_>, what: String, table: &Table) -> Option<Secret> {
    let mut reader = Reader::new(context, what, table).guarded();
    let found = [
        reader.word("credential", "\"app-db-url\""),
        reader.word("file", "\"/etc/expunged/secrets/app-db-url\""),
        reader.word("env", "\"APP_DB_URL\""),
    ];
    let wrong = ["credential", "file", "env"].iter().filter(|key| reader.has(key)).count();
    let place = reader.place();
    let is_new = |secret: &Option<Located<&str>>| secret.map(|secret| secret.place.text);
    let latest = found.iter().filter_map(is_new).max();
    // A later file or a variable may name another way than an earlier file did: it overrides.
    let mut ways =
        found.iter().enumerate().filter(|(_, way)| way.is_some() && is_new(way) == latest);
    let (first, second) = (ways.next(), ways.next());
    let what = reader.what.clone();
    let problems = reader.context.problems;
    let context = reader.context;
    reader.finish();
    match (first, second) {
        (Some((_, Some(first))), Some((_, Some(second)))) => {
            let message = format!("{what} names two secrets");
            let problem = Problem::new(second.key, message).related(first.key, "this is the other");
            problems.add(problem.help("keep one of them"));
            None
        }
        (Some((way, Some(value))), _) => way_to(context, way, value),
        _ if wrong == 0 => {
            let problem = Problem::new(place, format!("{what} names no secret"));
            let [credential, file, env] = WAYS;
            let help = format!("write `{{ {credential} }}`, `{{ {file} }}` or `{{ {env} }}`");
            problems.add(problem.help(help).absence());
            None
        }
        _ => None,
    }
}

fn way_to(context: Context<'_>, way: usize, value: &Located<&str>) -> Option<Secret> {
    let text = value.value;
    match way {
        0 if is_credential_name(text) => Some(Secret::Credential(text.to_owned())),
        1 if !text.starts_with('~') && !text.contains("://") => {
            Some(Secret::File(absolute(context, text)))
        }
        2 if is_variable_name(text) => Some(Secret::Env(text.to_owned())),
        _ => {
            let (message, help) = match way {
                0 => ("this is not the name of a credential", "write a file name without `/`"),
                1 => ("this is not a path", "write the whole path, without `~`"),
                _ => ("this is not the name of a variable", "write the name alone, without `$`"),
            };
            // A secret may have been written where its name belongs.
            context.hide(value.place);
            context.problems.add(Problem::new(value.place, message).help(help));
            None
        }
    }
}

/// A name that shells can set.
pub(super) fn is_variable_name(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars().all(rest) && !text.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_sqlite_files_start_at_the_configuration() {
        let folder = Path::new("/etc/ex%p");
        for (written, read) in [
            ("sqlite:app.db", "sqlite:///etc/ex%25p/app.db"),
            ("sqlite://data/app.db?mode=ro", "sqlite:///etc/ex%25p/data/app.db?mode=ro"),
            ("sqlite:./app.db", "sqlite:///etc/ex%25p/app.db"),
            ("sqlite:///var/app.db", "sqlite:///var/app.db"),
            ("sqlite:/var/app.db", "sqlite:///var/app.db"),
        ] {
            assert_eq!(sqlite(written, folder).as_deref(), Ok(read));
        }
        for bad in ["sqlite:", "sqlite::memory:", "sqlite://x?mode=memory", "sqlite:~/app.db"] {
            assert!(sqlite(bad, folder).is_err(), "{bad}");
        }
        let url = PlainUrl::new("sqlite:///etc/ex%25p/app.db").unwrap();
        assert_eq!(sqlite_folder(&Secret::Literal(url)).as_deref(), Some(folder));
    }
}
