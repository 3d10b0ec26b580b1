//! `[backup.NAME]`: sets of backups, which stores they cover, and how they are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::diagnostic::Problem;
use super::reader::{Context, Reader, quoted};
use super::rules::{self, Stores};
use super::text::Table;
use super::{Secret, StoreConfig, suggest};
use crate::path::Template;
use crate::residue::Terms;
use crate::rule::PathStart;
use crate::types::Name;

mod kinds;

const DAY: Duration = Duration::from_hours(24);

/// A set of backups.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// Its name.
    pub name: Name,
    /// The stores whose records are in it.
    pub stores: BTreeSet<Name>,
    /// What it has promised.
    pub terms: Terms,
    /// By how much older what a backup holds may be than the moment that its catalogue gives: the age of a dump that
    /// is backed up, or how long writing a file takes. Nothing by default, and a day where that moment is the last
    /// modification of a file or object, because then writing it had ended.
    pub lead: Duration,
    /// How often it is listed; every hour by default.
    pub every: Duration,
    /// How long listing it may take; 5 minutes by default.
    pub timeout: Duration,
    /// How it is listed.
    pub catalogue: Catalogue,
}

/// How a set of backups is listed.
#[derive(Clone, Debug)]
pub enum Catalogue {
    /// A repository of restic.
    Restic(ResticCatalogue),
    /// A stanza of pgBackRest.
    PgBackRest(PgBackRestCatalogue),
    /// A repository of Borg 1.
    Borg(BorgCatalogue),
    /// A server of barman.
    Barman(BarmanCatalogue),
    /// Files or objects of a registered store, each of which is a backup.
    Paths(PathsCatalogue),
    /// A program of the operator's, which prints our JSON.
    Command(CommandCatalogue),
    /// None: there is the rotation alone.
    Declared,
}

impl Catalogue {
    /// The word for it in the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Catalogue::Restic(_) => "restic",
            Catalogue::PgBackRest(_) => "pgbackrest",
            Catalogue::Borg(_) => "borg",
            Catalogue::Barman(_) => "barman",
            Catalogue::Paths(_) => "paths",
            Catalogue::Command(_) => "command",
            Catalogue::Declared => "declared",
        }
    }
}

/// A program that lists backups, and what it is given.
#[derive(Clone, Debug)]
pub struct Program {
    /// By its absolute path.
    pub path: PathBuf,
    /// What it sees of the environment besides where programs are and what language is spoken.
    pub environment: BTreeMap<String, Secret>,
}

/// A repository of restic.
#[derive(Clone, Debug)]
pub struct ResticCatalogue {
    /// restic; `/usr/bin/restic` by default.
    pub program: Program,
    /// As restic's `--repo` takes it.
    pub repository: String,
    /// Its password.
    pub password: Secret,
    /// Only snapshots of this host.
    pub host: Option<String>,
    /// Only snapshots with this tag.
    pub tag: Option<String>,
}

/// A stanza of pgBackRest.
#[derive(Clone, Debug)]
pub struct PgBackRestCatalogue {
    /// pgBackRest; `/usr/bin/pgbackrest` by default.
    pub program: Program,
    /// The stanza.
    pub stanza: String,
    /// Its configuration, where it is not the usual one.
    pub config: Option<PathBuf>,
}

/// A repository of Borg 1.
#[derive(Clone, Debug)]
pub struct BorgCatalogue {
    /// Borg; `/usr/bin/borg` by default.
    pub program: Program,
    /// The repository.
    pub repository: String,
    /// Its passphrase, where it has one.
    pub passphrase: Option<Secret>,
    /// Only archives whose names begin so.
    pub prefix: Option<String>,
    /// The file whose modification time is when the last `borg compact` that succeeded began.
    pub compacted: Option<PathBuf>,
}

/// A server of barman.
#[derive(Clone, Debug)]
pub struct BarmanCatalogue {
    /// barman; `/usr/bin/barman` by default.
    pub program: Program,
    /// The server.
    pub server: String,
    /// Its configuration, where it is not the usual one.
    pub config: Option<PathBuf>,
}

/// Files or objects of a registered store, each of which is a backup.
#[derive(Clone, Debug)]
pub struct PathsCatalogue {
    /// The store.
    pub store: Name,
    /// What they are called.
    pub path: Template,
    /// When each started: at the beginning of the day that its path names, or so long before its last modification
    /// as `lead` says.
    pub start: PathStart,
}

/// A program of the operator's.
#[derive(Clone, Debug)]
pub struct CommandCatalogue {
    /// The program.
    pub program: Program,
    /// What it is started with.
    pub args: Vec<String>,
}

/// Which catalogue, before the rest is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Restic,
    PgBackRest,
    Borg,
    Barman,
    Paths,
    Command,
    Declared,
}

impl Kind {
    const ALL: [(&'static str, Kind); 7] = [
        ("restic", Kind::Restic),
        ("pgbackrest", Kind::PgBackRest),
        ("borg", Kind::Borg),
        ("barman", Kind::Barman),
        ("paths", Kind::Paths),
        ("command", Kind::Command),
        ("declared", Kind::Declared),
    ];

    /// The keys that it alone, or not every kind, has.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Kind::Restic => &kinds::OF_RESTIC,
            Kind::PgBackRest => &kinds::OF_PGBACKREST,
            Kind::Borg => &kinds::OF_BORG,
            Kind::Barman => &kinds::OF_BARMAN,
            Kind::Paths => &kinds::OF_PATHS,
            Kind::Command => &kinds::OF_COMMAND,
            Kind::Declared => &[],
        }
    }

    fn as_str(self) -> &'static str {
        Kind::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// The keys of what is listed at all.
const OF_LISTED: [&str; 4] = ["lead", "grace", "every", "timeout"];

/// Reads one set of backups.
pub(super) fn read(
    context: Context<'_>,
    name: &Name,
    table: &Table,
    stores: &Stores,
    known: &BTreeMap<Name, StoreConfig>,
) -> Option<BackupConfig> {
    let mut reader = Reader::new(context, format!("backup `{name}`"), table).guarded();
    reader.expect(&[("kind", "\"restic\""), ("stores", "[\"app\"]"), ("rotation", "\"90 days\"")]);
    let before = context.problems.count();
    let meant = [
        ("pg_backrest", "pgbackrest"),
        ("backrest", "pgbackrest"),
        ("borgbackup", "borg"),
        ("files", "paths"),
        ("objects", "paths"),
        ("path", "paths"),
        ("program", "command"),
        ("script", "command"),
        ("exec", "command"),
        ("none", "declared"),
        ("manual", "declared"),
    ];
    let kind = reader.choice("kind", &Kind::ALL, &meant).map(|kind| kind.value);
    let covered = covered(&mut reader, stores);
    let rotation = rules::period(&mut reader, "rotation", "\"90 days\"");
    let zone = rules::zone(&mut reader, "time_zone");
    let skew = reader.days("skew", "\"10 minutes\"", &(Duration::ZERO..=DAY), "0 seconds to 1 day");
    let Some(kind) = kind else {
        // What is written besides is not judged by a kind that was not meant.
        for key in Kind::ALL.iter().flat_map(|(_, kind)| kind.keys()).chain(&OF_LISTED) {
            reader.entry(key);
        }
        reader.finish();
        return None;
    };
    refuse(&mut reader, kind);
    let times = Times::read(&mut reader, kind);
    let catalogue = match kind {
        Kind::Restic => kinds::restic(&mut reader).map(Catalogue::Restic),
        Kind::PgBackRest => kinds::pgbackrest(&mut reader).map(Catalogue::PgBackRest),
        Kind::Borg => kinds::borg(&mut reader).map(Catalogue::Borg),
        Kind::Barman => kinds::barman(&mut reader).map(Catalogue::Barman),
        Kind::Paths => kinds::paths(&mut reader, stores, known, &zone).map(Catalogue::Paths),
        Kind::Command => kinds::command(&mut reader).map(Catalogue::Command),
        Kind::Declared => Some(Catalogue::Declared),
    };
    reader.finish();
    // A default must never stand in for a value that was written and is wrong.
    if context.problems.count() != before {
        return None;
    }
    let catalogue = catalogue?;
    let is_ended =
        matches!(&catalogue, Catalogue::Paths(paths) if matches!(paths.start, PathStart::Modified));
    Some(BackupConfig {
        name: name.clone(),
        stores: covered?,
        terms: Terms {
            rotation: rotation?.value,
            zone,
            skew: skew.unwrap_or(Duration::from_mins(10)),
            grace: times.grace,
            is_declared: kind == Kind::Declared,
        },
        lead: times.lead.unwrap_or(if is_ended { DAY } else { Duration::ZERO }),
        every: times.every,
        timeout: times.timeout,
        catalogue,
    })
}

/// The stores whose records are in it.
fn covered(reader: &mut Reader<'_>, stores: &Stores) -> Option<BTreeSet<Name>> {
    let words = reader.words("stores", "[\"app\"]")?;
    let mut covered = BTreeSet::new();
    for word in &words {
        let known = word.value.parse::<Name>().ok().filter(|name| stores.contains_key(name));
        if let Some(name) = known {
            covered.insert(name);
            continue;
        }
        let message = format!("{}: there is no store {}", reader.what, quoted(word.value));
        let names = || stores.keys().map(Name::as_str);
        let help = match suggest::nearest(word.value, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if stores.is_empty() => "add a table `[store.NAME]`".to_owned(),
            None => format!("the stores are {}", suggest::list(names())),
        };
        reader.report(Problem::new(word.place, message).help(help).absence());
    }
    (!covered.is_empty()).then_some(covered)
}

/// Reports keys that only other kinds have.
fn refuse(reader: &mut Reader<'_>, kind: Kind) {
    let own = kind.keys();
    let mut seen = Vec::new();
    for (word, other) in Kind::ALL {
        for key in other.keys().iter().filter(|key| !own.contains(key)) {
            if !seen.contains(key) {
                seen.push(*key);
                let reason = format!("`{key}` is not for `kind = \"{}\"`", kind.as_str());
                reader.refuse(key, &reason, &format!("leave it out, or write `kind = \"{word}\"`"));
            }
        }
    }
    if kind == Kind::Declared {
        for key in OF_LISTED {
            let reason = format!("`{key}` is for what is listed, and nothing lists this set");
            reader.refuse(key, &reason, "leave it out");
        }
    }
}

/// Lengths of time of what is listed.
struct Times {
    lead: Option<Duration>,
    grace: Duration,
    every: Duration,
    timeout: Duration,
}

impl Times {
    fn read(reader: &mut Reader<'_>, kind: Kind) -> Times {
        let mut time = |key, example, least, most, in_words| {
            let is_listed = kind != Kind::Declared;
            is_listed.then(|| reader.days(key, example, &(least..=most), in_words)).flatten()
        };
        let (none, second) = (Duration::ZERO, Duration::from_secs(1));
        let lead = time("lead", "\"1 day\"", none, DAY * 366, "0 seconds to 366 days");
        let grace = time("grace", "\"1 day\"", none, DAY * 366, "0 seconds to 366 days");
        let every = time("every", "\"1 hour\"", second, DAY * 31, "1 second to 31 days");
        let (least, most) = (Duration::from_millis(1), Duration::from_hours(24));
        let timeout = time("timeout", "\"5 minutes\"", least, most, "1 millisecond to 1 day");
        Times {
            lead,
            grace: grace.unwrap_or(DAY),
            every: every.unwrap_or(Duration::from_hours(1)),
            timeout: timeout.unwrap_or(Duration::from_mins(5)),
        }
    }
}
