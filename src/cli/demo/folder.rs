//! The demo's folder: made by the demo, or not touched.
//!
//! A rebuild removes files, so it removes only what it knows by name and kind in a folder that has
//! the demo's mark. Anything else in there, a link among them, and it leaves the whole folder alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cli::CliError;

/// The file that tells whose folder it is.
const MARK: &str = ".expunged-demo";
/// The first line of that file.
const MARKED: &str = "made by `expunged demo`, which may remove and rebuild all that it made here";

/// `application_id` in the header of the demo's database: "demo" in ASCII.
pub(super) const APPLICATION: u32 = 0x6465_6d6f;
/// Where a SQLite file keeps it (https://sqlite.org/fileformat.html#application_id).
const APPLICATION_AT: usize = 68;

pub(super) const DATABASE: &str = "app.db";
pub(super) const CONFIG: &str = "expunged.toml";
pub(super) const PLAN: &str = "plan";
/// What messages to the demo's recipient are signed with.
pub(super) const SECRET: &str = "newsletter.secret";
/// The folder of uploads, and what is in it: photos, and a folder of thumbnails for each.
pub(super) const UPLOADS: &str = "uploads";
/// The folder of copies of the database.
pub(super) const BACKUPS: &str = "backups";
const LOCKS: &str = "ledger.db.locks";
const KEYS: &str = "keys";

/// Files in the folder itself.
const FILES: [&str; 12] = [
    MARK,
    CONFIG,
    DATABASE,
    PLAN,
    SECRET,
    "app.db-journal",
    "app.db-wal",
    "app.db-shm",
    "ledger.db",
    "ledger.db-journal",
    "ledger.db-wal",
    "ledger.db-shm",
];
const KEY_FILES: [&str; 5] =
    ["audit-signing.key", "audit-signing.pub", "commitment.key", "intent.key", "pseudonym.key"];

/// A folder in which the demo may work.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder, or empties it when everything in it is the demo's own, and puts the
    /// configuration into it.
    pub(super) fn prepare(path: &Path, config: &str) -> Result<Folder, CliError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(io_error("make the folder", path))?;
            }
            Err(error) => return Err(io_error("look at", path)(error)),
            Ok(found) if !found.is_dir() => {
                return Err(refuse(path, "it is there already, and it is not a plain folder"));
            }
            Ok(_) => {
                let owned = own_files(path)?;
                remove(path, &owned)?;
            }
        }
        let folder = Folder(path.to_owned());
        folder.write(MARK, &format!("{MARKED}\n{CONFIG} {}\n", digest(config.as_bytes())))?;
        folder.write(CONFIG, config)?;
        Ok(folder)
    }

    /// The path of a file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a new file that only its owner can read.
    pub(super) fn keep_secret(&self, name: &str, text: &str) -> Result<(), CliError> {
        self.write_as(name, text, 0o600)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), CliError> {
        self.write_as(name, text, 0o666)
    }

    /// Writes a new file; never into one that is there, nor through a link.
    fn write_as(&self, name: &str, text: &str, mode: u32) -> Result<(), CliError> {
        let path = self.file(name);
        let created = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        created
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(io_error("write", &path))
    }
}

/// What is to be removed, files before the folders that they are in.
#[derive(Default)]
struct Owned {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

/// Everything in the folder, if all of it is the demo's.
fn own_files(path: &Path) -> Result<Owned, CliError> {
    let entries = list(path)?;
    let mut owned = Owned::default();
    if entries.is_empty() {
        return Ok(owned);
    }
    let mark = path.join(MARK);
    if !is_file(&mark) {
        let first = &entries[0];
        return Err(refuse(path, &format!("it holds `{first}`, and the demo did not make it")));
    }
    let mark = fs::read_to_string(&mark).map_err(io_error("read", &mark))?;
    if mark.lines().next() != Some(MARKED) {
        return Err(refuse(path, &format!("`{MARK}` in it is not the demo's")));
    }
    for name in entries {
        let entry = path.join(&name);
        if FILES.contains(&name.as_str()) && is_file(&entry) {
            owned.files.push(entry);
        } else if [KEYS, LOCKS].contains(&name.as_str()) && is_folder(&entry) {
            for inner in list(&entry)? {
                let file = entry.join(&inner);
                let known = if name == KEYS {
                    KEY_FILES.contains(&inner.as_str())
                } else {
                    file.extension().is_some_and(|extension| extension == "lock")
                };
                if !known || !is_file(&file) {
                    return Err(refuse(
                        path,
                        &format!("it holds `{name}/{inner}`, and the demo did not make it"),
                    ));
                }
                owned.files.push(file);
            }
            owned.folders.push(entry);
        } else if name == BACKUPS && is_folder(&entry) {
            for inner in list(&entry)? {
                let file = entry.join(&inner);
                let is_copy = inner.starts_with("app-")
                    && file.extension().is_some_and(|extension| extension == "db");
                if !is_copy || !is_file(&file) {
                    return Err(foreign(path, &file));
                }
                owned.files.push(file);
            }
            owned.folders.push(entry);
        } else if name == UPLOADS && is_folder(&entry) {
            own_uploads(path, &entry, &mut owned)?;
        } else {
            return Err(refuse(path, &format!("it holds `{name}`, and the demo did not make it")));
        }
    }
    check_config(path, &mark)?;
    check_database(path)?;
    // The mark goes last: a rebuild that is interrupted can be done again.
    owned.files.sort_by_key(|file| file.ends_with(MARK));
    Ok(owned)
}

fn foreign(path: &Path, entry: &Path) -> CliError {
    let inside = entry.strip_prefix(path).unwrap_or(entry);
    refuse(path, &format!("it holds `{}`, and the demo did not make it", inside.display()))
}

/// The uploads: `faces/KEY` and `thumbs/KEY/SIZE.jpg`, of names that the demo gives.
fn own_uploads(path: &Path, uploads: &Path, owned: &mut Owned) -> Result<(), CliError> {
    let foreign = |entry: &Path| foreign(path, entry);
    let is_key = |name: &str| name.starts_with("lost-") || name.starts_with("face-");
    for name in list(uploads)? {
        let folder = uploads.join(&name);
        if !["faces", "thumbs"].contains(&name.as_str()) || !is_folder(&folder) {
            return Err(foreign(&folder));
        }
        for key in list(&folder)? {
            let entry = folder.join(&key);
            match (name.as_str(), is_key(&key)) {
                ("faces", true) if is_file(&entry) => owned.files.push(entry),
                ("thumbs", true) if is_folder(&entry) => {
                    for size in list(&entry)? {
                        let file = entry.join(&size);
                        if Path::new(&size).extension().is_none_or(|kind| kind != "jpg")
                            || !is_file(&file)
                        {
                            return Err(foreign(&file));
                        }
                        owned.files.push(file);
                    }
                    owned.folders.push(entry);
                }
                _ => return Err(foreign(&entry)),
            }
        }
        owned.folders.push(folder);
    }
    owned.folders.push(uploads.to_owned());
    Ok(())
}

/// A configuration that somebody worked on is theirs.
fn check_config(path: &Path, mark: &str) -> Result<(), CliError> {
    let config = path.join(CONFIG);
    let written = match fs::read(&config) {
        Ok(written) => written,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("read", &config)(error)),
    };
    let made = format!("{CONFIG} {}", digest(&written));
    if mark.lines().nth(1) == Some(&made) {
        return Ok(());
    }
    Err(refuse(path, &format!("`{CONFIG}` in it was edited since, and would be lost")))
}

/// A database of another making must not go, whatever its name.
fn check_database(path: &Path) -> Result<(), CliError> {
    let database = path.join(DATABASE);
    let mut header = Vec::new();
    match File::open(&database).and_then(|file| file.take(100).read_to_end(&mut header)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("read", &database)(error)),
    }
    // Interrupted before anything was written to it.
    if header.is_empty() {
        return Ok(());
    }
    if header.get(APPLICATION_AT..APPLICATION_AT + 4) == Some(&APPLICATION.to_be_bytes()) {
        return Ok(());
    }
    Err(refuse(path, &format!("`{DATABASE}` in it is not the demo's")))
}

/// Removes files and then folders. Neither call follows a link, and a folder goes only when empty.
fn remove(path: &Path, owned: &Owned) -> Result<(), CliError> {
    for folder in &owned.folders {
        for file in owned.files.iter().filter(|file| file.parent() == Some(folder)) {
            fs::remove_file(file).map_err(io_error("remove", file))?;
        }
        fs::remove_dir(folder).map_err(io_error("remove", folder))?;
    }
    for file in owned.files.iter().filter(|file| file.parent() == Some(path)) {
        fs::remove_file(file).map_err(io_error("remove", file))?;
    }
    Ok(())
}

fn list(path: &Path) -> Result<Vec<String>, CliError> {
    let names = fs::read_dir(path).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()
    });
    let mut names = names.map_err(io_error("list the folder", path))?;
    names.sort();
    Ok(names)
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn refuse(path: &Path, why: &str) -> CliError {
    CliError::Usage(format!(
        "the demo leaves `{}` alone: {why}; nothing was changed. Name another folder with `--dir`, or move this one away",
        path.display()
    ))
}

fn io_error<'a>(doing: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> CliError + 'a {
    move |source| CliError::Io { doing: format!("{doing} `{}`", path.display()), source }
}
