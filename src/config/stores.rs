//! `[store.NAME]`: databases, trees of files, buckets of objects.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::diagnostic::Problem;
use super::reader::{Context, Located, Reader, Wrong, quoted};
use super::secret::PlainUrl;
use super::text::{Place, Table};
use super::{
    FilesConfig, ObjectsConfig, Secret, Service, StoreConfig, System, TablesConfig, pacing, urls,
};
use crate::rule::{Dialect, StoreKind};
use crate::types::{Name, TableName};

/// What expunged keeps for itself, and no store may reach.
pub(super) struct Own {
    /// The ledger's address, where it was written.
    pub(super) ledger: Option<Located<Secret>>,
    /// The folder of a SQLite ledger.
    pub(super) ledger_folder: Option<PathBuf>,
    /// The folder of the keys.
    pub(super) keys: PathBuf,
    /// Where checkpoints of the audit log are kept.
    pub(super) checkpoints: Option<PathBuf>,
}

/// Keys that only some kinds of store have.
const OF_TABLES: [&str; 7] = [
    "url",
    "read_only_url",
    "replica_url",
    "max_replica_lag",
    "marker",
    "connect_timeout",
    "workers",
];
const OF_FILES: [&str; 4] = ["root", "cross_mounts", "remove_empty_folders", "report_open_files"];
const OF_OBJECTS: [&str; 9] = [
    "service",
    "bucket",
    "prefix",
    "endpoint",
    "internal",
    "region",
    "access_key_id",
    "secret_access_key",
    "timeout",
];

/// Reads one store; its kind is told even when the rest is wrong.
pub(super) fn read(
    context: Context<'_>,
    name: &Name,
    table: &Table,
    own: &Own,
) -> (Option<StoreKind>, Option<StoreConfig>) {
    let mut reader = Reader::new(context, format!("store `{name}`"), table).guarded();
    reader.expect(&[("kind", "\"postgres\"")]);
    let words = StoreKind::ALL.map(|kind| (kind.as_str(), kind));
    let meant = [
        ("postgresql", "postgres"),
        ("pg", "postgres"),
        ("psql", "postgres"),
        ("mariadb", "mysql"),
        ("sqlite3", "sqlite"),
        ("file", "files"),
        ("folder", "files"),
        ("directory", "files"),
        ("object", "objects"),
        ("s3", "objects"),
        ("gcs", "objects"),
        ("azure", "objects"),
    ];
    let kind = reader.choice("kind", &words, &meant).map(|kind| kind.value);
    let before = context.problems.count();
    let system = match kind {
        Some(StoreKind::Sql(dialect)) => {
            refuse(&mut reader, &[(&OF_FILES, "files"), (&OF_OBJECTS, "objects")]);
            tables(&mut reader, Some(dialect), own).map(System::Tables)
        }
        Some(StoreKind::Files) => {
            refuse(&mut reader, &[(&OF_TABLES, "postgres"), (&OF_OBJECTS, "objects")]);
            files(&mut reader, own).map(System::Files)
        }
        Some(StoreKind::Objects) => {
            refuse(&mut reader, &[(&OF_TABLES, "postgres"), (&OF_FILES, "files")]);
            objects(&mut reader).map(System::Objects)
        }
        None => unknown(&mut reader, own),
    };
    let pacing = pacing::of_store(&mut reader, kind);
    reader.finish();
    // A default must never stand in for a value that was written and is wrong.
    let system = system.filter(|_| context.problems.count() == before);
    (kind, system.map(|system| StoreConfig { name: name.clone(), system, pacing }))
}

/// Reports keys of other kinds of store, each with a kind that has it.
fn refuse(reader: &mut Reader<'_>, others: &[(&[&'static str], &str)]) {
    for (keys, kind) in others {
        let of = match *kind {
            "files" => "a store of files",
            "objects" => "a store of objects",
            _ => "a database",
        };
        for key in *keys {
            let help = format!("leave it out, or write `kind = \"{kind}\"`");
            reader.refuse(key, &format!("`{key}` is for {of}"), &help);
        }
    }
}

/// Reads what can be read where the kind is what is wrong.
fn unknown(reader: &mut Reader<'_>, own: &Own) -> Option<System> {
    if OF_FILES.iter().any(|key| reader.has(key)) {
        files(reader, own);
    } else if OF_OBJECTS.iter().any(|key| reader.has(key)) {
        objects(reader);
    } else {
        tables(reader, None, own);
    }
    None
}

fn tables(reader: &mut Reader<'_>, dialect: Option<Dialect>, own: &Own) -> Option<TablesConfig> {
    reader.expect(&[("url", "{ credential = \"app-db-url\" }")]);
    let all = [Dialect::Postgres, Dialect::Mysql, Dialect::Sqlite];
    let dialects = dialect.as_ref().map_or(all.as_slice(), std::slice::from_ref);
    let url = urls::read(reader, "url", dialects);
    let read_only_url = urls::read(reader, "read_only_url", dialects);
    let replica_url = urls::read(reader, "replica_url", dialects);
    let max_replica_lag = max_replica_lag(reader);
    let marker = reader.parsed("marker", "\"expunged_marker\"", |text| {
        text.parse::<TableName>().map_err(|error| Wrong::new(error.to_string()))
    });
    let connect_timeout = timeout(reader, "connect_timeout", "\"10 seconds\"");
    if let (Some(url), Some(ledger)) = (&url, &own.ledger)
        && url.value == ledger.value
    {
        let message = format!("{} is expunged's own ledger", reader.what);
        let problem = Problem::new(url.place, message).related(ledger.place, "the ledger");
        reader.report(problem.help("give the ledger a database of its own"));
    }
    Some(TablesConfig {
        dialect: dialect?,
        url: url?.value,
        read_only_url: read_only_url.map(|url| url.value),
        replica_url: replica_url.map(|url| url.value),
        max_replica_lag: max_replica_lag.unwrap_or(Duration::from_secs(10)),
        marker: marker.map(|marker| marker.value),
        connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(10)),
    })
}

/// How far the replica may lag behind; only where there is one.
fn max_replica_lag(reader: &mut Reader<'_>) -> Option<Duration> {
    if !reader.has("replica_url") {
        let reason = "`max_replica_lag` is for a store with a replica";
        let help = "add `replica_url = { credential = \"app-db-replica-url\" }`, or leave it out";
        reader.refuse("max_replica_lag", reason, help);
        return None;
    }
    let bounds = Duration::from_secs(1)..=Duration::from_hours(1);
    reader.duration("max_replica_lag", "\"10 seconds\"", &bounds, "1 second to 1 hour")
}

fn timeout(reader: &mut Reader<'_>, key: &'static str, example: &str) -> Option<Duration> {
    let bounds = Duration::from_millis(1)..=Duration::from_hours(1);
    reader.duration(key, example, &bounds, "1 millisecond to 1 hour")
}

// --- files ----------------------------------------------------------------------------------------

fn files(reader: &mut Reader<'_>, own: &Own) -> Option<FilesConfig> {
    reader.expect(&[("root", "\"/srv/app/uploads\"")]);
    let root = root(reader, own);
    let mut flag = |key| reader.boolean(key).is_some_and(|flag| flag.value);
    let (cross_mounts, remove_empty_folders) = (flag("cross_mounts"), flag("remove_empty_folders"));
    let report_open_files = flag("report_open_files");
    Some(FilesConfig { root: root?, cross_mounts, remove_empty_folders, report_open_files })
}

/// The folder of a store, which must be far from everything that is not to be deleted.
fn root(reader: &mut Reader<'_>, own: &Own) -> Option<PathBuf> {
    let written = reader.word("root", "\"/srv/app/uploads\"")?;
    let context = reader.context;
    let root = urls::absolute(context, written.value);
    let wrong = |message: &str, help: &str| {
        let problem = Problem::new(written.place, format!("{}: {message}", reader.what));
        reader.report(problem.help(help));
        None
    };
    if written.value.starts_with('~') {
        return wrong("`~` is not expanded", "write the whole path");
    }
    if root.components().any(|component| component == Component::ParentDir) {
        return wrong("`..` does not say which folder is meant", "write the whole path without it");
    }
    if root.parent().is_none() {
        return wrong(
            "`root` is the whole file system",
            "name the one folder whose files this store has, such as `/srv/app/uploads`",
        );
    }
    let elsewhere = "give the store a folder of its own, such as `/srv/app/uploads`";
    for (folder, what) in [
        (own.ledger_folder.as_deref(), "expunged's own ledger"),
        (Some(own.keys.as_path()), "expunged's own keys"),
        (own.checkpoints.as_deref(), "the audit log's checkpoints"),
        (Some(context.folder), "this configuration"),
    ] {
        if folder.is_some_and(|folder| folder.starts_with(&root)) {
            return wrong(&format!("{what} would be among its files"), elsewhere);
        }
    }
    // Beside a SQLite ledger there may be anything, but only keys are among the keys.
    if root.starts_with(&own.keys) {
        return wrong("`root` lies in the folder of expunged's own keys", elsewhere);
    }
    Some(root)
}

// --- objects --------------------------------------------------------------------------------------

fn objects(reader: &mut Reader<'_>) -> Option<ObjectsConfig> {
    reader.expect(&[("bucket", "\"app-media\"")]);
    let services = [("s3", Service::S3), ("gcs", Service::Gcs), ("azure", Service::Azure)];
    let meant = [
        ("aws", "s3"),
        ("amazon", "s3"),
        ("minio", "s3"),
        ("google", "gcs"),
        ("gs", "gcs"),
        ("azblob", "azure"),
        ("blob", "azure"),
    ];
    let service = reader.choice("service", &services, &meant);
    let service = service.map_or(Service::S3, |service| service.value);
    let bucket = bucket(reader);
    let prefix = prefix(reader);
    let endpoint = endpoint(reader);
    let region = if service == Service::S3 {
        reader.word("region", "\"eu-central-1\"")
    } else {
        reader.refuse("region", "`region` is for S3 alone", "leave it out");
        None
    };
    let (access_key_id, secret_access_key) = credentials(reader, service);
    let timeout = timeout(reader, "timeout", "\"30 seconds\"");
    Some(ObjectsConfig {
        service,
        bucket: bucket?,
        prefix,
        endpoint,
        region: region.map(|region| region.value.to_owned()),
        access_key_id,
        secret_access_key,
        timeout: timeout.unwrap_or(Duration::from_secs(30)),
    })
}

fn bucket(reader: &mut Reader<'_>) -> Option<String> {
    let bucket = reader.word("bucket", "\"app-media\"")?;
    let fitting = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if bucket.value.chars().all(fitting) {
        return Some(bucket.value.to_owned());
    }
    let message = format!("{}: {} is no name of a bucket", reader.what, quoted(bucket.value));
    let help = "write the name alone, such as `app-media`; a part of it goes into `prefix`";
    reader.report(Problem::new(bucket.place, message).help(help));
    None
}

/// The part of a bucket; it ends like a folder, as `up` would also be the beginning of `uploads2/`.
fn prefix(reader: &mut Reader<'_>) -> Option<String> {
    let prefix = reader.word("prefix", "\"uploads/\"")?;
    let text = prefix.value;
    let names = text.strip_suffix('/').unwrap_or(text).split('/');
    let (message, help) = if names.into_iter().any(|name| matches!(name, "" | "." | "..")) {
        ("`prefix` is not a path within a bucket", "write such as `uploads/`".to_owned())
    } else if !text.ends_with('/') {
        ("`prefix` would also be the beginning of other names", format!("write `{text}/`"))
    } else {
        return Some(text.to_owned());
    };
    reader.report(Problem::new(prefix.place, format!("{}: {message}", reader.what)).help(help));
    None
}

/// The server. Without TLS only on this machine, or where the operator says that the way is their own.
fn endpoint(reader: &mut Reader<'_>) -> Option<String> {
    let internal = reader.boolean("internal");
    let written = reader.word("endpoint", "\"https://s3.example\"");
    let Some(written) = written else {
        if let Some(internal) = internal
            && !reader.has("endpoint")
        {
            needless(reader, internal.key);
        }
        return None;
    };
    let what = reader.what.clone();
    let wrong = |message: &str, help: &str| {
        let problem = Problem::new(written.place, format!("{what}: {message}"));
        reader.report(problem.help(help));
        None
    };
    if PlainUrl::new(written.value).is_err() {
        reader.context.hide(written.place);
        return wrong(
            "a password does not belong into this file",
            "name it with `secret_access_key = { credential = … }`",
        );
    }
    let (scheme, rest) = written.value.split_once("://").unwrap_or(("", ""));
    let host = host(rest);
    let allowed = internal.is_some_and(|internal| internal.value);
    match (scheme, host) {
        ("https" | "http", None) | ("", _) => {
            wrong("`endpoint` is not a URL for HTTP", "write `https://host` or `https://host:port`")
        }
        ("https", Some(_)) => {
            if let Some(internal) = internal.filter(|internal| internal.value) {
                needless(reader, internal.key);
            }
            Some(written.value.trim_end_matches('/').to_owned())
        }
        ("http", Some(host)) if allowed || is_loopback(host) => {
            Some(written.value.trim_end_matches('/').to_owned())
        }
        ("http", _) => wrong(
            "anyone on the way could read and change what is sent by `http:`",
            "write `https://…`, or add `internal = true` for a network of your own",
        ),
        _ => wrong("`endpoint` is not a URL for HTTP", "write `https://host`"),
    }
}

fn needless(reader: &Reader<'_>, key: Place) {
    let message = format!("{}: `internal` is only for an `endpoint` by `http:`", reader.what);
    reader.report(Problem::new(key, message).help("leave it out, so that it cannot hide a slip"));
}

/// The host of what follows `://`; nothing else than a port may come after it.
fn host(rest: &str) -> Option<&str> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(address) => address.split_once(']')?,
        None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
    };
    let good_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    let fitting = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    (good_port && !host.is_empty() && host.chars().all(fitting)).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What expunged shows to the service. An id and its secret belong together; Google has one file for both.
fn credentials(reader: &mut Reader<'_>, service: Service) -> (Option<Secret>, Option<Secret>) {
    let id = if service == Service::Gcs {
        let reason = "Google's credential file names its account itself";
        let help = "leave `access_key_id` out, and name the file with `secret_access_key`";
        reader.refuse("access_key_id", reason, help);
        None
    } else {
        urls::identifier(reader, "access_key_id")
    };
    let secret = urls::secret(reader, "secret_access_key");
    let together = [
        ("access_key_id", "secret_access_key", "{ credential = \"media-secret\" }"),
        ("secret_access_key", "access_key_id", "{ credential = \"media-key-id\" }"),
    ];
    for (there, missing, example) in together {
        if service != Service::Gcs && reader.has(there) {
            reader.expect(&[(missing, example)]);
        }
    }
    (id, secret)
}

/// Whether two stores, under different names, may have the same records.
pub(super) fn may_be_the_same(one: &StoreConfig, other: &StoreConfig) -> bool {
    let nested = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
    match (&one.system, &other.system) {
        (System::Tables(one), System::Tables(other)) => one.url == other.url,
        (System::Files(one), System::Files(other)) => nested(&one.root, &other.root),
        (System::Objects(one), System::Objects(other)) => {
            let prefix = |objects: &ObjectsConfig| objects.prefix.clone().unwrap_or_default();
            let (a, b) = (prefix(one), prefix(other));
            let place = |objects: &ObjectsConfig| {
                (objects.service, objects.bucket.clone(), objects.endpoint.clone())
            };
            place(one) == place(other) && (a.starts_with(&b) || b.starts_with(&a))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_nothing_more() {
        for (rest, found) in [
            ("s3.example", Some("s3.example")),
            ("s3.example:9000/", Some("s3.example")),
            ("[::1]:9000", Some("::1")),
            ("", None),
            (":9000", None),
            ("s3.example:x", None),
            ("s3.example/bucket", None),
            ("a@s3.example", None),
            ("[::1", None),
        ] {
            assert_eq!(host(rest), found, "{rest}");
        }
        assert!(is_loopback("::1") && is_loopback("127.0.0.9") && is_loopback("localhost"));
        assert!(!is_loopback("localhost.example") && !is_loopback("10.0.0.1"));
    }
}
