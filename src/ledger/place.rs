//! Where the ledger is.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::any::AnyConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::LedgerError;

/// Where the ledger is. Shown, it names no password.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A file.
    Sqlite { file: PathBuf },
    /// A database; the URL may contain a password and is not shown.
    Postgres { url: secrecy::SecretString, shown: String },
}

impl Place {
    /// Reads the URL of a ledger.
    pub(super) fn parse(url: &str) -> Result<Self, LedgerError> {
        sqlx::any::install_default_drivers();
        match url.split_once(':') {
            Some(("sqlite", _)) => Self::sqlite(url),
            Some(("postgres" | "postgresql", _)) => {
                let options = PgConnectOptions::from_str(url)
                    .map_err(|_| LedgerError::Url("is not one that PostgreSQL understands"))?;
                let database = options.get_database().unwrap_or(options.get_username());
                let shown =
                    format!("`{database}` on {}:{}", options.get_host(), options.get_port());
                Ok(Place::Postgres { url: url.to_owned().into(), shown })
            }
            _ => Err(LedgerError::Url("begins with neither `sqlite:` nor `postgres:`")),
        }
    }

    fn sqlite(url: &str) -> Result<Self, LedgerError> {
        let options = SqliteConnectOptions::from_str(url)
            .map_err(|_| LedgerError::Url("is not one that SQLite understands"))?;
        let file = options.get_filename();
        let name = file.as_os_str().as_bytes();
        // What lives in memory would forget what was deleted; `file:` is sqlx's name for that.
        if name.is_empty() || name.starts_with(b"file:") || url.contains("mode=memory") {
            return Err(LedgerError::Url("names no file"));
        }
        let file = std::path::absolute(file).map_err(|_| LedgerError::Url("names no file"))?;
        Ok(Place::Sqlite { file })
    }

    /// The file of a SQLite ledger.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Place::Sqlite { file } => Some(file),
            Place::Postgres { .. } => None,
        }
    }

    /// The folder beside a SQLite ledger that its lock files are in.
    pub(super) fn lock_folder(file: &Path) -> PathBuf {
        let mut folder: OsString = file.as_os_str().to_owned();
        folder.push(".locks");
        folder.into()
    }

    /// How to connect.
    pub(super) fn options(&self) -> Result<AnyConnectOptions, LedgerError> {
        use secrecy::ExposeSecret;
        let parsed = match self {
            Place::Sqlite { file } => sqlite_url(file).parse(),
            Place::Postgres { url, .. } => url.expose_secret().parse(),
        };
        parsed.map_err(|_| LedgerError::Url("is not a URL"))
    }
}

/// The URL of a file: sqlx's own leaves `%` as it is, and reads it back as an escape.
fn sqlite_url(file: &Path) -> String {
    let mut url = String::from("sqlite://");
    for byte in file.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            url.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Sqlite { file } => write!(f, "`{}`", file.display()),
            Place::Postgres { shown, .. } => f.write_str(shown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_ledger_is_refused() {
        for bad in
            ["", "ledger.db", "mysql://a/b", "sqlite::memory:", "sqlite:", "sqlite://x?mode=memory"]
        {
            assert!(matches!(Place::parse(bad), Err(LedgerError::Url(_))), "{bad}");
        }
    }

    #[test]
    fn a_file_is_named_in_every_way_that_sqlx_knows() {
        for url in ["sqlite:///var/l.db", "sqlite:/var/l.db", "sqlite:///var/l.db?mode=rwc"] {
            assert_eq!(Place::parse(url).unwrap().to_string(), "`/var/l.db`");
        }
        assert!(Place::parse("sqlite:l.db").unwrap().file().unwrap().is_absolute());
    }

    #[test]
    fn odd_file_names_survive_the_way_into_a_url() {
        let file = Path::new("/tmp/a b%20c?d#ü.db");
        let options = SqliteConnectOptions::from_str(&sqlite_url(file)).unwrap();
        assert_eq!(options.get_filename(), file);
    }

    #[test]
    fn a_password_is_never_shown() {
        let place = Place::parse("postgres://ann:s3cret@db:5433/ledger").unwrap();
        assert_eq!(place.to_string(), "`ledger` on db:5433");
        assert!(!format!("{place:?}").contains("s3cret"));
    }
}
