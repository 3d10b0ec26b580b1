//! The configuration: files as people write them, made into types that cannot be wrong.
//!
//! ```text
//! expunged.toml, conf.d/*.toml, EXPUNGED__… -> layers -> reader -> Config
//!                                                 |        |
//!                                                 '-> problems -> ConfigError
//! ```
//!
//! [`Config::load`] reads the files, [`Config::parse`] does the rest and touches nothing outside. A
//! later layer overrides an earlier one key by key. A wrong configuration is refused whole, with
//! everything that is wrong in it, each thing at its place; a default never stands in for a value
//! that was written and is wrong. Raw values go no further than this module.
//!
//! Deliberately absent: passwords. A [`Secret`] says where one is kept and reads it when needed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::breaker::Limits;
use crate::pace::Pacing;
use crate::rule::{Dialect, Rule, StartingPoint, StoreKind};
use crate::schedule::Windows;
use crate::types::{EventName, Name, TableName};

mod anonymizing;
mod api;
mod attachments;
mod audit;
mod backups;
mod columns;
mod dependents;
mod diagnostic;
mod environment;
mod events;
mod layers;
mod mask;
mod pacing;
mod paths;
mod reader;
mod recipients;
mod rows;
mod rules;
mod secret;
mod sharing;
mod sources;
mod stores;
pub(crate) mod suggest;
mod tellings;
mod text;
mod urls;

pub use api::{ApiConfig, TcpConfig};
pub use backups::{
    BackupConfig, BarmanCatalogue, BorgCatalogue, Catalogue, CommandCatalogue, PathsCatalogue,
    PgBackRestCatalogue, Program, ResticCatalogue,
};
pub use diagnostic::{ConfigError, Diagnostic, Related};
pub use environment::process_environment;
pub use layers::InputFile;
pub use recipients::{
    Ack, Authorization, Body, Call, CommandRecipient, Form, HeaderValue, HttpRecipient,
    IdentityFormat, IdentityShape, InvalidTemplate, Match, OpenDsrRecipient, Piece, Poll, Protocol,
    ReceiptKey, RecipientConfig, Server, SqlRecipient, Success, Template, WebhookRecipient,
};
pub use secret::{HasPassword, PlainUrl, Secret, SecretError};

use diagnostic::{Problem, Problems};
use layers::Merged;
use reader::{Context, Reader, quoted};
use text::{Entry, Kind, Table, Texts};

/// The folder of expunged's own state, unless the configuration says otherwise.
const STATE: &str = "/var/lib/expunged";

/// The longest file that is read, in bytes.
const MOST: u64 = 4 * 1024 * 1024;

/// A whole and valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where expunged keeps its own records.
    pub ledger: LedgerConfig,
    /// The folder of expunged's own keys.
    pub keys: PathBuf,
    /// How the daemon behaves.
    pub daemon: DaemonConfig,
    /// Where signed checkpoints of the audit log go.
    pub audit: AuditConfig,
    /// Where events come in.
    pub api: ApiConfig,
    /// The registered stores.
    pub stores: BTreeMap<Name, StoreConfig>,
    /// Sets of backups, and which stores they cover.
    pub backups: BTreeMap<Name, BackupConfig>,
    /// Who is told of deletions.
    pub recipients: BTreeMap<Name, RecipientConfig>,
    /// The rules; each names a store that is in `stores`.
    pub rules: BTreeMap<Name, Rule>,
    /// Where events are found besides those that are sent.
    pub sources: BTreeMap<Name, SourceConfig>,
    /// The files that it was read from, in the order in which they override each other.
    pub files: Vec<PathBuf>,
}

/// Where expunged keeps its own records.
#[derive(Clone, Debug)]
pub struct LedgerConfig {
    /// `sqlite:///absolute/path` or `postgres://…`; `sqlite:///var/lib/expunged/ledger.db` by default.
    pub url: Secret,
}

/// A registered store.
#[derive(Clone, PartialEq, Debug)]
pub struct StoreConfig {
    /// Its name.
    pub name: Name,
    /// What it is, and how it is reached.
    pub system: System,
    /// How its rules are paced where they say nothing of their own; `workers` is two by default, one for SQLite, files and
    /// objects.
    pub pacing: Pacing,
}

impl StoreConfig {
    /// What kind of system it is.
    pub fn kind(&self) -> StoreKind {
        match &self.system {
            System::Tables(tables) => StoreKind::Sql(tables.dialect),
            System::Files(_) => StoreKind::Files,
            System::Objects(_) => StoreKind::Objects,
        }
    }

    /// The database, where it is one.
    pub fn tables(&self) -> Option<&TablesConfig> {
        match &self.system {
            System::Tables(tables) => Some(tables),
            System::Files(_) | System::Objects(_) => None,
        }
    }
}

/// What a store is, and how it is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum System {
    /// A database.
    Tables(TablesConfig),
    /// A tree of files.
    Files(FilesConfig),
    /// A bucket of objects.
    Objects(ObjectsConfig),
}

/// A database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TablesConfig {
    /// What it speaks.
    pub dialect: Dialect,
    /// Its URL, with the rights to delete.
    pub url: Secret,
    /// A URL with the right to read only, for plans and rules that observe.
    pub read_only_url: Option<Secret>,
    /// A URL of a replica, which is waited for while it lags behind, and where deletions are looked for again after a run.
    pub replica_url: Option<Secret>,
    /// How far that may lag behind; 10 seconds by default.
    pub max_replica_lag: Duration,
    /// The table in which expunged keeps a number that only grows, so that a restore shows.
    pub marker: Option<TableName>,
    /// How long opening a connection may take; 10 seconds by default.
    pub connect_timeout: Duration,
}

/// A tree of files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilesConfig {
    /// Its folder: an absolute path. Nothing outside is ever touched.
    pub root: PathBuf,
    /// Whether file systems that are mounted below it belong to it; not by default.
    pub cross_mounts: bool,
    /// Whether folders that a deletion emptied go too; not by default.
    pub remove_empty_folders: bool,
    /// Whether to look which deleted files some process has open; not by default.
    pub report_open_files: bool,
}

/// A bucket of objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectsConfig {
    /// Whose.
    pub service: Service,
    /// Its name; of Azure, the container's.
    pub bucket: String,
    /// The part of it that is the store; all of it by default.
    pub prefix: Option<String>,
    /// The server, where it is not the service's own.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// What identifies expunged there: an access key's id, or of Azure the account's name.
    pub access_key_id: Option<Secret>,
    /// The secret that goes with it: an access key's, Azure's account key, Google's credential file.
    pub secret_access_key: Option<Secret>,
    /// How long one request may take; 30 seconds by default.
    pub timeout: Duration,
}

/// Whose object store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

/// Where events are found in an application's own table. The table is the truth: a notification only has
/// it looked at sooner.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Its name.
    pub name: Name,
    /// The store of the table.
    pub store: Name,
    /// The table.
    pub table: TableName,
    /// The column whose words tell what has happened.
    pub status: String,
    /// Which words are which events.
    pub events: BTreeMap<String, EventName>,
    /// The column of the moment since which the status is so; rows are looked for by it.
    pub changed_at: StartingPoint,
    /// The columns whose values the events have, under their names.
    pub values: Vec<String>,
    /// The PostgreSQL channel that tells of changes.
    pub notify: Option<String>,
    /// How often the table is looked at in any case; 10 seconds by default.
    pub poll: Duration,
    /// How long after its moment a row may still come to light, such as by a transaction that took so
    /// long; 15 minutes by default.
    pub overlap: Duration,
}

/// How the daemon behaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DaemonConfig {
    /// How long a batch in flight may take to finish when the daemon is told to stop; 30 seconds by
    /// default.
    pub stop_deadline: Duration,
    /// The form of log lines.
    pub log: LogFormat,
    /// The hours in which rules run by themselves that name none of their own; at any time by default.
    pub window: Windows,
}

impl Default for DaemonConfig {
    fn default() -> Self {
        DaemonConfig {
            stop_deadline: Duration::from_secs(30),
            log: LogFormat::Auto,
            window: Windows::default(),
        }
    }
}

/// Where signed checkpoints of the audit log go. What stays on this machine alone cannot show that the
/// whole ledger was put back to an earlier state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditConfig {
    /// A file that each checkpoint is appended to; best on another machine.
    pub checkpoint_file: Option<PathBuf>,
    /// To the journal, as the field `CHECKPOINT`; not by default.
    pub checkpoint_journal: bool,
    /// To somebody else, by HTTP.
    pub checkpoint_webhook: Option<WebhookConfig>,
    /// How often, besides at start and stop; every hour by default.
    pub checkpoint_every: Duration,
}

impl Default for AuditConfig {
    fn default() -> Self {
        AuditConfig {
            checkpoint_file: None,
            checkpoint_journal: false,
            checkpoint_webhook: None,
            checkpoint_every: Duration::from_hours(1),
        }
    }
}

/// Somebody else who is told checkpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebhookConfig {
    /// Where to: `https://…`, or `http://…` within one's own network.
    pub url: String,
    /// Whether it may be an address of one's own network.
    pub internal: bool,
    /// The value of the `Authorization` header.
    pub authorization: Option<Secret>,
}

/// The form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LogFormat {
    /// The journal under systemd, lines for people on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Human,
    /// One JSON object per line.
    Json,
    /// The journal's own protocol, with fields.
    Journald,
}

impl Config {
    /// Reads `path` (an `expunged.toml`), `conf.d/*.toml` beside it in byte order of their names,
    /// and the `EXPUNGED__…` variables among `environment` (see [`process_environment`]).
    ///
    /// Relative paths and SQLite URLs start at the folder of `path`, in all files alike, so that a
    /// table means the same wherever it stands and the folder as a whole can be moved.
    ///
    /// # Errors
    /// When a file cannot be read or anything in the configuration is wrong: with all of it.
    pub fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let problems = Problems::default();
        let mut files = Vec::new();
        match read_file(path) {
            Ok(bytes) => files.push(InputFile { path: path.to_owned(), bytes }),
            Err(error) => problems.add(
                unreadable(path, &error).help("name the configuration to use with `--config`"),
            ),
        }
        for path in fragments(path, &problems) {
            match read_file(&path) {
                Ok(bytes) => files.push(InputFile { path, bytes }),
                Err(error) => problems.add(unreadable(&path, &error)),
            }
        }
        let folder = match std::path::absolute(path) {
            Ok(path) => path.parent().unwrap_or(Path::new("/")).to_owned(),
            Err(_) => PathBuf::from("/"),
        };
        build(files, &folder, environment, problems)
    }

    /// Makes a configuration of files that were already read, the later overriding the earlier, and
    /// of the `EXPUNGED__…` variables among `environment`. `folder` is the absolute folder that
    /// relative paths start at.
    ///
    /// # Errors
    /// When anything is wrong: with all of it.
    pub fn parse(
        files: Vec<InputFile>,
        folder: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        build(files, folder, environment, Problems::default())
    }
}

impl Config {
    /// SHA-256 over what the rules take, do, and when. Stores' addresses are not part of it, so that
    /// nothing about them can be guessed from the audit log.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for rule in self.rules.values() {
            let line =
                format!("{}\0{}\0{}\0{}\n", rule.name, rule.digest(), rule.schedule, rule.mode);
            hasher.update(line);
            let limits = rule.limits;
            hasher.update(format!("{}\0{}\n", limits.max_share.fraction(), limits.max_rows));
            if !rule.windows.is_always() {
                hasher.update(format!("{}\n", rule.windows));
            }
        }
        for store in self.stores.values() {
            hasher.update(format!("{}\0{}\n", store.name, store.kind().as_str()));
        }
        for backup in self.backups.values() {
            let (kind, rotation) = (backup.catalogue.as_str(), &backup.terms.rotation);
            hasher.update(format!("{}\0{kind}\0{rotation}\0", backup.name));
            for store in &backup.stores {
                hasher.update(format!("{store}\0"));
            }
            hasher.update("\n");
        }
        for recipient in self.recipients.values() {
            let (protocol, ack) = (recipient.protocol.as_str(), recipient.ack.as_str());
            let (due, at_once) = (recipient.due.as_secs(), recipient.at_once);
            hasher.update(format!("{}\0{protocol}\0{ack}\0{due}\0{at_once}\n", recipient.name));
        }
        for source in self.sources.values() {
            hasher.update(format!("{}\0{}\0{}\n", source.name, source.store, source.table));
            hasher.update(format!("{}\0{:?}\n", source.status, source.events));
        }
        hex::encode(hasher.finalize())
    }

    /// Whether `other` has its ledger and its keys at the same place.
    pub fn keeps_its_place(&self, other: &Config) -> bool {
        self.ledger.url == other.ledger.url && self.keys == other.keys
    }
}

/// `conf.d/*.toml` beside the main file. Hidden files are left to the editors that make them.
fn fragments(main: &Path, problems: &Problems) -> Vec<PathBuf> {
    let folder = main.with_file_name("conf.d");
    let entries = match fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.add(unreadable(&folder, &error));
            return Vec::new();
        }
    };
    let is_hidden =
        |path: &Path| path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
    paths.retain(|path| path.extension() == Some(OsStr::new("toml")) && !is_hidden(path));
    paths.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    paths
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::other("it is longer than 4 MiB"));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::of_file(path.display().to_string(), format!("cannot be read: {error}"))
}

fn build(
    files: Vec<InputFile>,
    folder: &Path,
    environment: impl Iterator<Item = (String, String)>,
    problems: Problems,
) -> Result<Config, ConfigError> {
    let paths = files.iter().map(|file| file.path.clone()).collect();
    let Merged { texts, root } = layers::merge(files, environment, &problems);
    let context = Context { texts: &texts, problems: &problems, folder };
    let config = sections(context, &root, paths);
    finish(config, problems, &texts)
}

/// A configuration, only if nothing at all is wrong.
fn finish(
    config: Option<Config>,
    problems: Problems,
    texts: &Texts,
) -> Result<Config, ConfigError> {
    match (problems.into_error(texts), config) {
        (None, Some(config)) => Ok(config),
        (Some(error), _) => Err(error),
        // Reading gives up only after it has said why.
        (None, None) => Err(ConfigError::unexplained()),
    }
}

fn sections(context: Context<'_>, root: &Table, files: Vec<PathBuf>) -> Option<Config> {
    let mut reader = Reader::new(context, "the configuration", root).guarded();
    let ledger = section(&mut reader, "ledger", |reader| {
        urls::read(reader, "url", &[Dialect::Sqlite, Dialect::Postgres])
    });
    let keys = section(&mut reader, "keys", |reader| {
        let directory = reader.word("directory", "\"/var/lib/expunged/keys\"")?;
        Some(urls::absolute(reader.context, directory.value))
    });
    let daemon = section(&mut reader, "daemon", |reader| Some(daemon(reader)));
    let audit = section(&mut reader, "audit", |reader| Some(audit::read(reader)));
    let api = section(&mut reader, "api", |reader| Some(api::read(reader)));
    let stores = named(&mut reader, "store");
    let backups = named(&mut reader, "backup");
    let recipients = named(&mut reader, "recipient");
    let rules = named(&mut reader, "rule");
    let limits =
        section(&mut reader, "breakers", |reader| Some(rules::limits(reader, Limits::default())));
    let sources = named(&mut reader, "source");
    reader.finish();

    let ledger_url = match &ledger {
        Some(url) => url.value.clone(),
        None => Secret::Literal(PlainUrl::new(format!("sqlite://{STATE}/ledger.db")).ok()?),
    };
    let ledger_folder = urls::sqlite_folder(&ledger_url);
    let beside = || ledger_folder.clone().unwrap_or_else(|| STATE.into()).join("keys");
    let audit = audit.unwrap_or_default();
    let keys = keys.unwrap_or_else(beside);
    let checkpoints = audit.checkpoint_file.clone();
    let own = stores::Own { ledger, ledger_folder, keys, checkpoints };
    let mut kinds = rules::Stores::new();
    let mut known = BTreeMap::new();
    for (name, table) in stores {
        let (kind, store) = stores::read(context, &name, table, &own);
        kinds.insert(name.clone(), kind);
        known.extend(store.map(|store| (name, store)));
    }
    let read = |(name, table): (Name, &Table)| {
        backups::read(context, &name, table, &kinds, &known).map(|backup| (name, backup))
    };
    let backups = backups.into_iter().filter_map(read).collect();
    let recipient_tables = recipients;
    let read = |(name, table): &(Name, &Table)| {
        (name.clone(), recipients::read(context, name, table, &kinds))
    };
    let told: tellings::Recipients = recipient_tables.iter().map(read).collect();
    let general = rules::General {
        limits: limits.unwrap_or_default(),
        windows: daemon.as_ref().map(|daemon| daemon.window.clone()).unwrap_or_default(),
        pacing: known.iter().map(|(name, store)| (name.clone(), store.pacing)).collect(),
    };
    let read = |(name, table): &(Name, &Table)| {
        rules::read(context, name, table, &kinds, &told, &general).map(|rule| (name.clone(), rule))
    };
    let tables = rules;
    let rules: BTreeMap<Name, Rule> = tables.iter().filter_map(read).collect();
    sharing::check(context, &tables, &rules, &known);
    let known_recipients = told.into_iter().filter_map(|(name, read)| Some((name, read?)));
    let recipients: BTreeMap<Name, RecipientConfig> = known_recipients.collect();
    recipients::check(context, &recipient_tables, &recipients, &rules, &known);
    let whole = rules.len() == tables.len();
    let listeners = whole.then_some(&rules);
    let read = |(name, table): (Name, &Table)| {
        sources::read(context, &name, table, &kinds, listeners).map(|source| (name, source))
    };
    let default = ApiConfig::beside(&own.keys);
    Some(Config {
        api: match api {
            Some(written) => written.over(default),
            None => default,
        },
        sources: sources.into_iter().filter_map(read).collect(),
        ledger: LedgerConfig { url: ledger_url },
        keys: own.keys,
        daemon: daemon.unwrap_or_default(),
        audit,
        stores: known,
        backups,
        recipients,
        rules,
        files,
    })
}

/// Reads a table with fixed keys, if it is there.
fn section<T>(
    reader: &mut Reader<'_>,
    key: &'static str,
    read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> Option<T> {
    let (_, table) = reader.table(key, "{ … }")?;
    let mut inner = Reader::new(reader.context, format!("`[{key}]`"), table);
    let value = read(&mut inner);
    inner.finish();
    value
}

/// The tables of `[store.NAME]`, `[backup.NAME]`, `[recipient.NAME]`, `[rule.NAME]` or `[source.NAME]`.
fn named<'a>(reader: &mut Reader<'a>, key: &'static str) -> Vec<(Name, &'a Table)> {
    let context = reader.context;
    let Some((_, table)) = reader.table(key, "{ NAME = { … } }") else { return Vec::new() };
    let mut found = Vec::new();
    for (name, Entry { key: place, place: value, kind }) in Reader::new(context, key, table).all() {
        let Kind::Table(table) = kind else {
            context.hide(*value);
            let message = format!("a {key} is a table, and {} is not", quoted(name));
            let help = format!("write `[{key}.NAME]`, and its keys below");
            context.problems.add(Problem::new(*place, message).help(help));
            continue;
        };
        if let Ok(name) = name.parse::<Name>() {
            found.push((name, table));
        } else {
            let message = format!("{} cannot be the name of a {key}", quoted(name));
            let help =
                "use lower-case letters, digits, `-` and `_`, first a letter or digit, at most 63";
            context.problems.add(Problem::new(*place, message).help(help));
            // What is below it is read all the same, so that everything wrong is said at once.
            found.extend(likely_name(name).map(|name| (name, table)));
        }
    }
    found
}

/// The name that somebody most likely meant; only for reading on, never for a configuration.
fn likely_name(text: &str) -> Option<Name> {
    let letters = text.to_lowercase();
    let fitting = letters.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let name: String = fitting.take(63).collect();
    name.trim_start_matches('-').parse().ok()
}

fn daemon(reader: &mut Reader<'_>) -> DaemonConfig {
    let default = DaemonConfig::default();
    let bounds = Duration::from_millis(1)..=Duration::from_hours(1);
    let (example, in_words) = ("\"30 seconds\"", "1 millisecond to 1 hour");
    let stop_deadline = reader.duration("stop_deadline", example, &bounds, in_words);
    let formats = [
        ("auto", LogFormat::Auto),
        ("human", LogFormat::Human),
        ("json", LogFormat::Json),
        ("journald", LogFormat::Journald),
    ];
    let meant = [("text", "human"), ("pretty", "human"), ("journal", "journald")];
    DaemonConfig {
        stop_deadline: stop_deadline.unwrap_or(default.stop_deadline),
        log: reader.choice("log", &formats, &meant).map_or(default.log, |log| log.value),
        window: pacing::windows(reader, &default.window),
    }
}
