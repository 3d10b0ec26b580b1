//! What each kind of catalogue takes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::tz::TimeZone;

use super::super::diagnostic::Problem;
use super::super::reader::{Located, Reader, quoted};
use super::super::rules::{self, Stores};
use super::super::text::Kind as Written;
use super::super::{PlainUrl, Secret, Service, StoreConfig, System, mask, urls};
use super::{
    BarmanCatalogue, BorgCatalogue, CommandCatalogue, PathsCatalogue, PgBackRestCatalogue, Program,
    ResticCatalogue,
};
use crate::path::Template;
use crate::rule::{PathStart, StoreKind};
use crate::types::Name;

pub(super) const OF_RESTIC: [&str; 6] =
    ["program", "environment", "repository", "password", "host", "tag"];
pub(super) const OF_PGBACKREST: [&str; 4] = ["program", "environment", "stanza", "config"];
pub(super) const OF_BORG: [&str; 6] =
    ["program", "environment", "repository", "passphrase", "prefix", "compacted"];
pub(super) const OF_BARMAN: [&str; 4] = ["program", "environment", "server", "config"];
pub(super) const OF_PATHS: [&str; 3] = ["store", "path", "start"];
pub(super) const OF_COMMAND: [&str; 3] = ["program", "environment", "args"];

/// Variables that are set by what is read here, so that nothing in `environment` may say otherwise.
const TAKEN: [(&str, &str); 11] = [
    ("RESTIC_PASSWORD", "`password`"),
    ("RESTIC_PASSWORD_FILE", "`password`"),
    ("RESTIC_PASSWORD_COMMAND", "`password`"),
    ("RESTIC_REPOSITORY", "`repository`"),
    ("RESTIC_REPOSITORY_FILE", "`repository`"),
    ("BORG_PASSPHRASE", "`passphrase`"),
    ("BORG_PASSPHRASE_FD", "`passphrase`"),
    ("BORG_PASSCOMMAND", "`passphrase`"),
    ("BORG_REPO", "`repository`"),
    ("PGBACKREST_STANZA", "`stanza`"),
    ("PGBACKREST_CONFIG", "`config`"),
];

pub(super) fn restic(reader: &mut Reader<'_>) -> Option<ResticCatalogue> {
    reader.expect(&[
        ("repository", "\"/srv/backups/restic\""),
        ("password", "{ credential = \"restic-password\" }"),
    ]);
    let program = program(reader, Some("/usr/bin/restic"));
    let help =
        "leave it out, and name it in `environment`: `RESTIC_REST_PASSWORD = { credential = … }`";
    let repository = repository(reader, "\"/srv/backups/restic\"", help);
    let password = urls::secret(reader, "password");
    let host = rules::owned(reader.word("host", "\"db1\""));
    let tag = rules::owned(reader.word("tag", "\"database\""));
    Some(ResticCatalogue {
        program: program?,
        repository: repository?,
        password: password?,
        host,
        tag,
    })
}

pub(super) fn pgbackrest(reader: &mut Reader<'_>) -> Option<PgBackRestCatalogue> {
    reader.expect(&[("stanza", "\"main\"")]);
    let program = program(reader, Some("/usr/bin/pgbackrest"));
    let stanza = reader.word("stanza", "\"main\"");
    let config = file(reader, "config", "\"/etc/pgbackrest.conf\"");
    Some(PgBackRestCatalogue { program: program?, stanza: stanza?.value.to_owned(), config })
}

pub(super) fn borg(reader: &mut Reader<'_>) -> Option<BorgCatalogue> {
    reader.expect(&[("repository", "\"/srv/backups/borg\"")]);
    let program = program(reader, Some("/usr/bin/borg"));
    let help = "leave it out: SSH has keys, and a repository a `passphrase`";
    let repository = repository(reader, "\"/srv/backups/borg\"", help);
    let passphrase = urls::secret(reader, "passphrase");
    let prefix = rules::owned(reader.word("prefix", "\"db1-\""));
    let compacted = file(reader, "compacted", "\"/var/lib/borg/compacted\"");
    Some(BorgCatalogue {
        program: program?,
        repository: repository?,
        passphrase,
        prefix,
        compacted,
    })
}

pub(super) fn barman(reader: &mut Reader<'_>) -> Option<BarmanCatalogue> {
    reader.expect(&[("server", "\"main\"")]);
    let program = program(reader, Some("/usr/bin/barman"));
    let server = reader.word("server", "\"main\"");
    let config = file(reader, "config", "\"/etc/barman.conf\"");
    Some(BarmanCatalogue { program: program?, server: server?.value.to_owned(), config })
}

pub(super) fn command(reader: &mut Reader<'_>) -> Option<CommandCatalogue> {
    reader.expect(&[("program", "\"/usr/local/bin/list-backups\"")]);
    let program = program(reader, None);
    let written = reader.has("args");
    let args = reader.words("args", "[\"--json\"]").or((!written).then(Vec::new));
    let args = args?.iter().map(|word| word.value.to_owned()).collect();
    Some(CommandCatalogue { program: program?, args })
}

// --- files and objects ------------------------------------------------------------------------------

pub(super) fn paths(
    reader: &mut Reader<'_>,
    stores: &Stores,
    known: &BTreeMap<Name, StoreConfig>,
    zone: &TimeZone,
) -> Option<PathsCatalogue> {
    const EXAMPLE: &str = "\"{date:%Y-%m-%d}/app.dump\"";
    reader.expect(&[("store", "\"dumps\""), ("path", EXAMPLE)]);
    let (store, kind) = rules::store(reader, stores);
    let wrong = match (kind, store.as_ref().and_then(|store| known.get(store))) {
        (Some(Located { value: StoreKind::Sql(_), .. }), _) => Some((
            "its store is a database",
            "name a store of files or objects, each of which is a backup",
        )),
        (_, Some(StoreConfig { system: System::Objects(objects), .. }))
            if objects.service != Service::S3 =>
        {
            Some((
                "of this service only S3 shows what versions of an object and what deleted objects it still keeps",
                "write `kind = \"command\"` with a program that lists those as well, or `\"declared\"`",
            ))
        }
        _ => None,
    };
    if let (Some((message, help)), Some(kind)) = (wrong, kind) {
        let message = format!("{}: {message}", reader.what);
        reader.report(Problem::new(kind.place, message).help(help));
    }
    let written = reader.word("path", EXAMPLE);
    let path = written
        .and_then(|written| Some((super::super::paths::template(reader, &written)?, written)));
    let start = start(reader, path.as_ref(), zone);
    let (path, _) = path?;
    Some(PathsCatalogue { store: store?, path, start: start? })
}

/// When each started. A date in the path may have been meant, so it has to be said.
fn start(
    reader: &mut Reader<'_>,
    path: Option<&(Template, Located<&str>)>,
    zone: &TimeZone,
) -> Option<PathStart> {
    let words = [("path date", true), ("modified", false)];
    let meant = [
        ("path_date", "path date"),
        ("path", "path date"),
        ("date", "path date"),
        ("mtime", "modified"),
        ("last_modified", "modified"),
    ];
    let written = reader.choice("start", &words, &meant);
    let has_date = path.map(|(template, _)| template.has_date());
    match (written, path) {
        (Some(Located { value: true, place, .. }), Some((_, at))) if has_date == Some(false) => {
            let message = format!("{}: its path has no date", reader.what);
            let help = "write where it stands, such as `{date:%Y-%m-%d}/app.dump`";
            let problem = Problem::new(at.place, message).related(place, "the start");
            reader.report(problem.help(help));
            None
        }
        (Some(Located { value: true, .. }), _) => Some(PathStart::Day(zone.clone())),
        (None, _) if reader.has("start") => None,
        (None, Some((_, at))) if has_date == Some(true) => {
            let message =
                format!("{}: did a backup start on the day that its path names?", reader.what);
            let help = "add `start = \"path date\"`, or `\"modified\"` for the last modification less `lead`";
            reader.report(Problem::new(at.place, message).help(help).absence());
            None
        }
        (Some(_) | None, _) => Some(PathStart::Modified),
    }
}

// --- programs ---------------------------------------------------------------------------------------

/// The program, and what it sees of the environment.
fn program(reader: &mut Reader<'_>, default: Option<&str>) -> Option<Program> {
    let environment = environment(reader);
    let example = "\"/usr/local/bin/list-backups\"";
    let Some(written) = reader.word("program", example) else {
        let path = default.filter(|_| !reader.has("program"))?;
        return Some(Program { path: path.into(), environment });
    };
    let path = PathBuf::from(written.value);
    if path.is_absolute() {
        return Some(Program { path, environment });
    }
    let message = format!("{}: `program` is not an absolute path", reader.what);
    let help = "write the whole path, such as `/usr/bin/restic`: it is not looked for, and no shell starts it";
    reader.report(Problem::new(written.place, message).help(help));
    None
}

fn environment(reader: &mut Reader<'_>) -> BTreeMap<String, Secret> {
    const EXAMPLE: &str = "{ AWS_SECRET_ACCESS_KEY = { credential = \"backups-key\" } }";
    let what = format!("`environment` of {}", reader.what);
    let Some((_, table)) = reader.table("environment", EXAMPLE) else { return BTreeMap::new() };
    let mut variables = BTreeMap::new();
    for (name, entry) in &table.entries {
        let wrong = |message: String, help: String| {
            reader.context.hide_value(entry);
            reader.report(Problem::new(entry.key, format!("{what}: {message}")).help(help));
        };
        let taken = TAKEN.iter().find(|(taken, _)| taken == name);
        if !urls::is_variable_name(name) || name.is_empty() {
            let message = format!("{} is not the name of a variable", quoted(name));
            wrong(message, "write letters, digits and `_`".to_owned());
        } else if let Some((_, key)) = taken {
            let message = format!("`{name}` is not set here");
            wrong(message, format!("leave it out, and write {key}"));
        } else if let Written::Table(inner) = &entry.kind {
            let of = format!("`{name}` of {what}");
            let secret = urls::reference(reader.context, of, inner);
            variables.extend(secret.map(|secret| (name.clone(), secret)));
        } else if let Written::Text(text) = &entry.kind {
            let plain = PlainUrl::new(text.as_str()).ok().filter(|_| !is_telling(name));
            match plain {
                Some(_) if text.contains('\0') => {
                    wrong(
                        format!("`{name}` has a NUL in it"),
                        "write a text without it".to_owned(),
                    );
                }
                Some(plain) => {
                    variables.insert(name.clone(), Secret::Literal(plain));
                }
                None => {
                    let message = format!("the value of `{name}` does not belong into this file");
                    wrong(message, format!("write `{name} = {{ credential = \"backups-key\" }}`"));
                }
            }
        } else {
            let expected = "a text, or a table that names a secret";
            let example = "{ credential = \"backups-key\" }";
            reader.wrong_type::<()>(entry, name, expected, example);
        }
    }
    variables
}

/// Whether a variable's value is a secret, as a rule.
fn is_telling(name: &str) -> bool {
    mask::is_telling(name) || name.to_ascii_lowercase().contains("key")
}

/// A repository: the program is started in `/`, so that a relative path would not say which is meant.
fn repository(reader: &mut Reader<'_>, example: &str, without_password: &str) -> Option<String> {
    let written = reader.word("repository", example)?;
    let text = written.value;
    let (message, help) = if text.contains("://") && PlainUrl::new(text).is_err() {
        reader.context.hide(written.place);
        ("a password does not belong into this file", without_password)
    } else if text.starts_with('~') {
        ("`~` is not expanded", "write the whole path")
    } else if text.starts_with('-') || !text.contains(':') && !text.starts_with('/') {
        ("`repository` is neither an absolute path nor a place elsewhere", "write the whole path")
    } else {
        return Some(text.to_owned());
    };
    let message = format!("{}: {message}", reader.what);
    reader.report(Problem::new(written.place, message).help(help));
    None
}

/// A file, by its absolute path: a relative one starts at the configuration's folder.
fn file(reader: &mut Reader<'_>, key: &'static str, example: &str) -> Option<PathBuf> {
    super::super::recipients::file(reader, key, example)
}
