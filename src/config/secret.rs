//! Secrets: named in the configuration, read only when needed, never printed.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::mask;

/// The longest secret that is read, in bytes.
const MOST: u64 = 64 * 1024;

/// A value that may be secret, or where to read it.
///
/// Built from the configuration; it holds no password, so neither a dump of the configuration nor a
/// log line can show one.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A URL without a password, typed into the configuration.
    Literal(PlainUrl),
    /// The name of a systemd credential (`LoadCredential=`), a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// A file, by its absolute path.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

/// A URL in which no password stands.
#[derive(Clone, PartialEq, Eq)]
pub struct PlainUrl(String);

/// The URL has a password in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the URL has a password in it: name a credential, a file or an environment variable instead"
)]
pub struct HasPassword;

impl PlainUrl {
    /// Takes a URL that has no password in it.
    ///
    /// # Errors
    /// When it has one, or might have: `user:…@host`, or a parameter such as `?password=…`.
    pub fn new(url: impl Into<String>) -> Result<Self, HasPassword> {
        let url = url.into();
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let is_file = url.starts_with("sqlite:");
        let secret = !is_file && mask::password(rest).is_some();
        if secret || mask::parameters(rest).next().is_some() {
            return Err(HasPassword);
        }
        Ok(PlainUrl(url))
    }

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PlainUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<url>")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Literal(url) => f.debug_tuple("Literal").field(url).finish(),
            Secret::Credential(name) => f.debug_tuple("Credential").field(name).finish(),
            Secret::File(path) => f.debug_tuple("File").field(path).finish(),
            Secret::Env(name) => f.debug_tuple("Env").field(name).finish(),
        }
    }
}

/// Where it comes from, in words: ``the credential `app-db-url` ``.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Literal(_) => f.write_str("the configuration"),
            Secret::Credential(name) => write!(f, "the credential `{name}`"),
            Secret::File(path) => write!(f, "the file {}", path.display()),
            Secret::Env(name) => write!(f, "the environment variable `{name}`"),
        }
    }
}

/// Why a secret cannot be read. Holds no part of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// systemd has given this process no credentials.
    #[error(
        "the credential `{0}` cannot be read, because $CREDENTIALS_DIRECTORY is not set: under systemd, add `LoadCredential={0}:/path/to/file` to the unit; elsewhere, set CREDENTIALS_DIRECTORY to a folder that holds a file `{0}`"
    )]
    NoCredentials(String),
    /// Not a name that a credential can have.
    #[error("`{0}` is not the name of a credential: it is a file name without `/`")]
    CredentialName(String),
    /// There is no such file, or it may not be read.
    #[error("cannot read the secret in {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        reason: io::Error,
    },
    /// A folder, a pipe or the like.
    #[error("the secret in {} is not in a plain file", .0.display())]
    NotAFile(PathBuf),
    /// Everyone on the machine can read or change it.
    #[error("the secret in {} is open to every user of the machine (mode {mode:03o}): run `chmod o-rwx` on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The environment variable does not exist.
    #[error("the environment variable `{0}`, which should hold a secret, is not set")]
    Unset(String),
    /// There is nothing in it.
    #[error("{0} holds no secret: it is empty")]
    Empty(String),
    /// Longer than any secret should be.
    #[error("{0} holds more than 64 KiB: this is no secret")]
    TooLong(String),
    /// Not UTF-8.
    #[error("{0} holds something that is not text in UTF-8")]
    NotText(String),
}

impl Secret {
    /// Reads the secret. A line break at its end is cut off.
    ///
    /// A file must not be open to users other than its owner and group. That is not asked of systemd
    /// credentials: systemd guards their folder, with access lists that the mode does not show.
    ///
    /// # Errors
    /// When there is none, or it is empty, too long, not text, or open to everyone.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        self.read_with(|name| std::env::var_os(name))
    }

    fn read_with(
        &self,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<SecretString, SecretError> {
        let bytes = match self {
            Secret::Literal(url) => return Ok(url.as_str().into()),
            Secret::Credential(name) => {
                if !is_credential_name(name) {
                    return Err(SecretError::CredentialName(name.clone()));
                }
                let folder = variable("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty());
                let folder = folder.ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                read_file(&Path::new(&folder).join(name), Guard::Systemd)?
            }
            Secret::File(path) => read_file(path, Guard::Mode)?,
            Secret::Env(name) => {
                let value = variable(name).ok_or_else(|| SecretError::Unset(name.clone()))?;
                Zeroizing::new(value.into_encoded_bytes())
            }
        };
        if bytes.len() as u64 > MOST {
            return Err(SecretError::TooLong(self.to_string()));
        }
        let text = str::from_utf8(&bytes).map_err(|_| SecretError::NotText(self.to_string()))?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() { Err(SecretError::Empty(self.to_string())) } else { Ok(text.into()) }
    }
}

/// Who sees to it that a file is not open to everyone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Mode,
    Systemd,
}

fn read_file(path: &Path, guard: Guard) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let unreadable = |reason| SecretError::Unreadable { path: path.to_owned(), reason };
    // Asked before opening, which would wait on a pipe, and again of what was opened.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SecretError::NotAFile(path.to_owned()));
    }
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o777;
    if guard == Guard::Mode && mode & 0o007 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    // Room for all of it at once, so that no copy is left behind by growing.
    let room = usize::try_from(metadata.len().min(MOST) + 2).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// The names that systemd takes: one component of a path.
pub(super) fn is_credential_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    fn file(folder: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn none(_: &str) -> Option<OsString> {
        None
    }

    #[test]
    fn a_file_gives_its_content_without_the_line_break_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "a", b"postgres://app:hunter2@db/app\n", 0o640);
        let secret = Secret::File(path).read().unwrap();
        assert_eq!(secret.expose_secret(), "postgres://app:hunter2@db/app");
    }

    #[test]
    fn a_file_that_everyone_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o644, 0o604, 0o602, 0o777] {
            let path = file(folder.path(), "a", b"hunter2", mode);
            let error = Secret::File(path).read().unwrap_err();
            assert!(matches!(error, SecretError::Exposed { .. }), "{error}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_credential_is_read_from_the_folder_that_systemd_names() {
        let folder = tempfile::tempdir().unwrap();
        file(folder.path(), "db-url", b"hunter2", 0o444);
        let of_systemd = |name: &str| {
            (name == "CREDENTIALS_DIRECTORY").then(|| folder.path().as_os_str().to_owned())
        };
        let secret = Secret::Credential("db-url".into());
        assert_eq!(secret.read_with(of_systemd).unwrap().expose_secret(), "hunter2");
        let error = secret.read_with(none).unwrap_err().to_string();
        assert!(error.contains("LoadCredential=db-url"), "{error}");
        for outside in ["../db-url", "/etc/passwd", "..", ""] {
            let error = Secret::Credential(outside.into()).read_with(of_systemd).unwrap_err();
            assert!(matches!(error, SecretError::CredentialName(_)), "{outside}");
        }
    }

    #[test]
    fn what_holds_no_secret_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let empty = Secret::File(file(folder.path(), "a", b"\n", 0o600)).read();
        assert!(matches!(empty, Err(SecretError::Empty(_))));
        let binary = Secret::File(file(folder.path(), "b", b"\xff\xfe", 0o600)).read();
        assert!(matches!(binary, Err(SecretError::NotText(_))));
        let long = Secret::File(file(folder.path(), "c", &vec![b'a'; 70_000], 0o600)).read();
        assert!(matches!(long, Err(SecretError::TooLong(_))));
        let dir = Secret::File(folder.path().to_owned()).read();
        assert!(matches!(dir, Err(SecretError::NotAFile(_))));
        let gone = Secret::File(folder.path().join("gone")).read();
        assert!(matches!(gone, Err(SecretError::Unreadable { .. })));
        assert!(matches!(Secret::Env("X".into()).read_with(none), Err(SecretError::Unset(_))));
    }

    #[test]
    fn a_url_with_a_password_never_becomes_a_literal() {
        for url in ["postgres://a:b@h/d", "mysql://h/d?password=x", "postgres://:b@h"] {
            assert_eq!(PlainUrl::new(url), Err(HasPassword), "{url}");
        }
        for url in ["postgres://a@h:5432/d", "postgres:///d?host=/run/postgresql", "sqlite:///a.db"]
        {
            assert_eq!(PlainUrl::new(url).unwrap().as_str(), url);
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let secret = Secret::Literal(PlainUrl::new("postgres://app@db/app").unwrap());
        assert_eq!(format!("{secret:?}"), "Literal(<url>)");
    }
}
