//! The folder of the keys: made whole or not at all, and read only when nobody else can.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretBox};
use zeroize::{Zeroize, Zeroizing};

use super::{Hand, Keys, Secret};
use crate::audit::note::{self, Signer, Verifier};
use crate::clock;

const SIGNING: &str = "audit-signing.key";
const VERIFIER: &str = "audit-signing.pub";
const COMMITMENT: &str = "commitment.key";
const INTENT: &str = "intent.key";
const PSEUDONYM: &str = "pseudonym.key";
/// A signing key that is about to replace the present one.
const NEXT_SIGNING: &str = "audit-signing.next";
/// A commitment key that replaces the present one when that is destroyed.
const NEXT_COMMITMENT: &str = "commitment.next";
const FILES: [&str; 5] = [SIGNING, VERIFIER, COMMITMENT, INTENT, PSEUDONYM];

/// No file of ours is longer, in bytes.
const MAX_LENGTH: usize = 4096;

/// Why the keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The operating system refused something.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There are no keys at all.
    #[error("there are no keys in `{}`: they are made when the daemon first starts", dir.display())]
    Absent {
        /// The folder.
        dir: PathBuf,
    },
    /// Some are there and some are not.
    #[error(
        "`{}` is missing beside other keys, and a new one will not silently replace it: what is in the \
         ledger could no longer be read or verified; restore it from a backup, or move the whole \
         folder and the ledger away to start anew", path.display()
    )]
    Incomplete {
        /// The missing file.
        path: PathBuf,
    },
    /// The folder is in use for something else.
    #[error(
        "`{}` holds other files and no keys: name a folder that is empty or does not exist yet",
        dir.display()
    )]
    ForeignFolder {
        /// The folder.
        dir: PathBuf,
    },
    /// Others can get at it.
    #[error("others than its owner can get at `{}` (mode {mode:03o}): run `chmod {fix} {}`", path.display(), path.display())]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode that it should have.
        fix: &'static str,
    },
    /// It is no key.
    #[error("`{}` is damaged or not a key of this kind: restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The two halves of the signing key do not fit.
    #[error("`{}` is not the public half of the signing key beside it; it should say: {expected}", path.display())]
    Mismatch {
        /// The public key's file.
        path: PathBuf,
        /// What belongs there.
        expected: String,
    },
}

/// Names what was tried when the operating system refuses.
fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> KeysError + 'a {
    move |source| KeysError::Io { doing, path: path.to_owned(), source }
}

pub(super) fn open_or_create(dir: &Path) -> Result<Keys, KeysError> {
    match open(dir) {
        Err(KeysError::Absent { .. }) => {}
        other => return other,
    }
    match create(dir) {
        // Another process was faster; its keys are the keys.
        Err(KeysError::Io { source, .. })
            if matches!(source.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) =>
        {
            open(dir)
        }
        Err(error) => Err(error),
        Ok(()) => open(dir),
    }
}

pub(super) fn open(dir: &Path) -> Result<Keys, KeysError> {
    let absent = || KeysError::Absent { dir: dir.to_owned() };
    // One listing is of one moment: a folder that another process moves here meanwhile is seen
    // whole or not at all.
    let listing = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>()
    });
    let present = match listing {
        Ok(present) if present.is_empty() => return Err(absent()),
        Ok(present) => present,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(absent()),
        Err(error) => return Err(failed("list the folder", dir)(error)),
    };
    let is_missing = |file: &&str| !present.iter().any(|name| name == file);
    let missing: Vec<_> = FILES.into_iter().filter(is_missing).collect();
    match missing.first() {
        None => {}
        Some(_) if missing.len() == FILES.len() => {
            return Err(KeysError::ForeignFolder { dir: dir.to_owned() });
        }
        Some(file) => return Err(KeysError::Incomplete { path: dir.join(file) }),
    }
    let mode = fs::metadata(dir).map_err(failed("look at", dir))?.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(KeysError::Exposed { path: dir.to_owned(), mode, fix: "700" });
    }
    read_all(dir)
}

fn read_all(dir: &Path) -> Result<Keys, KeysError> {
    let signer = read_signer(&dir.join(SIGNING))?;
    let path = dir.join(NEXT_SIGNING);
    let next = if is_there(&path)? { Some(read_signer(&path)?) } else { None };
    let retired = read_verifiers(&dir.join(VERIFIER), &signer, next.as_ref())?;
    let secret = |file: &str, place: &str| {
        let path = dir.join(place);
        let text = read_secret(&path)?;
        decode(file, &text).ok_or(KeysError::Damaged { path })
    };
    // A commitment key that cannot be read is damaged, unless another was made to take its place.
    let (commitment, is_forgetting) = match secret(COMMITMENT, COMMITMENT) {
        Err(KeysError::Damaged { .. }) if is_there(&dir.join(NEXT_COMMITMENT))? => {
            (secret(COMMITMENT, NEXT_COMMITMENT)?, true)
        }
        read => (read?, false),
    };
    Ok(Keys {
        signer,
        next,
        retired,
        commitment,
        is_forgetting,
        intent: secret(INTENT, INTENT)?,
        pseudonym: secret(PSEUDONYM, PSEUDONYM)?,
    })
}

fn is_there(path: &Path) -> Result<bool, KeysError> {
    path.try_exists().map_err(failed("look at", path))
}

fn read_signer(path: &Path) -> Result<Signer, KeysError> {
    let text = read_secret(path)?;
    Signer::parse(text.trim_end()).map_err(|_| KeysError::Damaged { path: path.to_owned() })
}

/// The public keys of before. The last lines must be the present key, and the next one if somebody was
/// killed while it took over.
fn read_verifiers(
    path: &Path,
    signer: &Signer,
    next: Option<&Signer>,
) -> Result<Vec<Verifier>, KeysError> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    let mut lines: Vec<&str> = text.trim_end().lines().collect();
    if lines
        .last()
        .is_some_and(|last| next.is_some_and(|next| next.verifier().to_string() == *last))
    {
        lines.pop();
    }
    let expected = signer.verifier().to_string();
    if lines.pop() != Some(&expected) {
        return Err(KeysError::Mismatch { path: path.to_owned(), expected });
    }
    let retired = lines.into_iter().map(Verifier::parse).collect::<Result<Vec<_>, _>>();
    let of_this_log =
        |keys: &Vec<Verifier>| keys.iter().all(|key| key.name() == signer.verifier().name());
    let damaged = || KeysError::Damaged { path: path.to_owned() };
    retired.ok().filter(of_this_log).ok_or_else(damaged)
}

/// Reads a secret from a file that only its owner can read.
fn read_secret(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    let file = File::open(path).map_err(failed("open", path))?;
    // Of the open file, so that it cannot be exchanged between the look and the reading.
    let mode = file.metadata().map_err(failed("look at", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Exposed { path: path.to_owned(), mode, fix: "600" });
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_LENGTH));
    match file.take(MAX_LENGTH as u64).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(KeysError::Damaged { path: path.to_owned() })
        }
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// A secret as its file holds it: the file's name, so that two cannot be confused, then base64.
fn encode(file: &str, secret: &Secret) -> Zeroizing<String> {
    let key = Zeroizing::new(STANDARD.encode(secret.expose_secret()));
    Zeroizing::new(format!("{file}+{}\n", *key))
}

fn decode(file: &str, text: &str) -> Option<Secret> {
    let key = text.trim_end().strip_prefix(file)?.strip_prefix('+')?;
    let bytes = Zeroizing::new(STANDARD.decode(key).ok()?);
    let mut array: [u8; 32] = bytes.as_slice().try_into().ok()?;
    let secret = SecretBox::new(Box::new(array));
    array.zeroize();
    Some(secret)
}

/// Makes the folder with all keys in it: beside its place, then moved there in one step.
fn create(dir: &Path) -> Result<(), KeysError> {
    let dir = &std::path::absolute(dir).map_err(failed("find", dir))?;
    let parent = dir.parent().unwrap_or(dir);
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder.recursive(true).create(parent).map_err(failed("create the folder", parent))?;
    let mut draft = dir.as_os_str().to_owned();
    draft.push(format!(".new-{}", hex::encode(clock::random_bytes::<4>())));
    let draft = PathBuf::from(draft);
    builder.recursive(false).create(&draft).map_err(failed("create the folder", &draft))?;
    let moved = fill(&draft).and_then(|()| {
        // Succeeds when nothing or an empty folder is there.
        fs::rename(&draft, dir).map_err(failed("create the folder", dir))
    });
    if moved.is_err() {
        let _ = fs::remove_dir_all(&draft);
    }
    moved?;
    sync(parent)
}

/// Writes new keys into the folder and makes sure that they are on disk.
fn fill(dir: &Path) -> Result<(), KeysError> {
    let keys = Keys::generate();
    let signing = Zeroizing::new(format!("{}\n", *keys.signer.to_secret_text()));
    write_new(&dir.join(SIGNING), &signing, 0o600)?;
    write_new(&dir.join(VERIFIER), &format!("{}\n", keys.verifier()), 0o644)?;
    for (file, secret) in
        [(COMMITMENT, &keys.commitment), (INTENT, &keys.intent), (PSEUDONYM, &keys.pseudonym)]
    {
        write_new(&dir.join(file), &encode(file, secret), 0o600)?;
    }
    sync(dir)
}

/// Makes the next signing key, of the same name, unless it is there.
pub(super) fn prepare_rotation(dir: &Path) -> Result<(), KeysError> {
    let keys = open(dir)?;
    if keys.next.is_some() {
        return Ok(());
    }
    let seed = Zeroizing::new(clock::random_bytes::<32>());
    // The name is the one that notes already carry.
    let next = Signer::new(keys.origin(), *seed)
        .map_err(|_| KeysError::Damaged { path: dir.join(SIGNING) })?;
    let text = Zeroizing::new(format!("{}\n", *next.to_secret_text()));
    write_whole(dir, NEXT_SIGNING, &text, 0o600)
}

/// Lets the next signing key take over. Killed after any step, it goes on from there when it is done
/// again.
pub(super) fn finish_rotation(dir: &Path) -> Result<(), KeysError> {
    let keys = open(dir)?;
    if keys.next.is_none() {
        return Ok(());
    }
    let lines = note::key_lines(&keys.verifiers(Hand::Next));
    write_whole(dir, VERIFIER, &lines, 0o644)?;
    replace(dir, NEXT_SIGNING, SIGNING)
}

/// Makes a new commitment key, then overwrites the old one.
pub(super) fn forget(dir: &Path) -> Result<(), KeysError> {
    let keys = open(dir)?;
    if keys.is_forgetting {
        return Ok(());
    }
    let secret = SecretBox::init_with(clock::random_bytes::<32>);
    write_whole(dir, NEXT_COMMITMENT, &encode(COMMITMENT, &secret), 0o600)?;
    overwrite(&dir.join(COMMITMENT))
}

pub(super) fn finish_forgetting(dir: &Path) -> Result<(), KeysError> {
    if is_there(&dir.join(NEXT_COMMITMENT))? {
        replace(dir, NEXT_COMMITMENT, COMMITMENT)
    } else {
        Ok(())
    }
}

/// Moves a new file over an old one. The old one was overwritten before, or is kept open meanwhile and
/// overwritten when nobody can need it any more.
fn replace(dir: &Path, from: &str, to: &str) -> Result<(), KeysError> {
    let (from, to) = (dir.join(from), dir.join(to));
    let old = OpenOptions::new().write(true).open(&to).map_err(failed("open", &to))?;
    fs::rename(&from, &to).map_err(failed("replace", &to))?;
    sync(dir)?;
    overwrite_open(&old).map_err(failed("overwrite", &to))
}

fn overwrite(path: &Path) -> Result<(), KeysError> {
    let file = OpenOptions::new().write(true).open(path).map_err(failed("open", path))?;
    overwrite_open(&file).map_err(failed("overwrite", path))
}

/// Where the file system writes in place, nothing is left of what was there.
fn overwrite_open(mut file: &File) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(MAX_LENGTH).min(MAX_LENGTH);
    file.write_all(&vec![b'0'; length])?;
    file.sync_all()
}

/// Writes a file beside its place, then moves it there: it is there whole or not at all.
fn write_whole(dir: &Path, file: &str, text: &str, mode: u32) -> Result<(), KeysError> {
    let draft = dir.join(format!("{file}.new-{}", hex::encode(clock::random_bytes::<4>())));
    let path = dir.join(file);
    let written = write_new(&draft, text, mode)
        .and_then(|()| fs::rename(&draft, &path).map_err(failed("create", &path)));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written?;
    sync(dir)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), KeysError> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed("create", path))?;
    file.set_permissions(Permissions::from_mode(mode)).map_err(failed("protect", path))?;
    file.write_all(text.as_bytes()).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("write", path))
}

fn sync(dir: &Path) -> Result<(), KeysError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("write the folder", dir))
}
