//! Logs: for people on a terminal, in the journal's own form under systemd, as JSON elsewhere.
//!
//! No log line holds a record's data. What expunged writes itself is made of names and numbers; what
//! others would write in its name is kept out here: the messages of servers and triggers, which quote
//! what they please, and those of panics.

use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::LogFormat;

/// What is logged unless `EXPUNGED_LOG` says otherwise.
const FILTER: &str = "info,sqlx=warn,tokio_cron_scheduler=warn";

/// What is never logged, whatever `EXPUNGED_LOG` says: notices that PostgreSQL passes on from triggers
/// and functions; and the text of statements and conditions, whole or as it is parsed, which spells out
/// held persons and the predicates of legal holds.
const NEVER: [&str; 3] = ["sqlx::postgres::notice", "sqlx::query", "sqlparser"];

/// Begins to log. Called once; what was begun before stays.
///
/// # Errors
/// When the journal was asked for and does not listen.
pub fn init(format: LogFormat) -> io::Result<()> {
    let wanted = std::env::var("EXPUNGED_LOG").unwrap_or_default();
    let (filter, unreadable) = match EnvFilter::builder().parse(&wanted) {
        Ok(filter) if !wanted.is_empty() => (filter, None),
        Ok(_) => (EnvFilter::new(FILTER), None),
        Err(error) => (EnvFilter::new(FILTER), Some(error)),
    };
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match resolve(format, goes_to_journal()) {
        LogFormat::Journald => match journal() {
            Ok(journal) => journal.boxed(),
            // Nobody asked for it by name, and no log at all would be worse.
            Err(_) if format == LogFormat::Auto => json(),
            Err(error) => return Err(error),
        },
        LogFormat::Json => json(),
        LogFormat::Human | LogFormat::Auto => {
            let layer = tracing_subscriber::fmt::layer().with_target(false);
            layer.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).boxed()
        }
    };
    // As a layer of its own: a filter of one layer remembers what it was asked, and drops the next line
    // where nothing follows, as when sqlx only asks whether a statement would be logged.
    let begun = tracing_subscriber::registry().with(layer).with(permitted(filter)).try_init();
    // Somebody logs already, such as a test: theirs stays.
    if begun.is_ok() {
        log_panics();
    }
    if let Some(error) = unreadable {
        tracing::warn!(%error, "EXPUNGED_LOG is not understood and has no effect");
    }
    Ok(())
}

/// The filter, without what is never logged. What is said of the same target replaces what was said before.
fn permitted(filter: EnvFilter) -> EnvFilter {
    let never = NEVER.iter().filter_map(|target| format!("{target}=off").parse().ok());
    never.fold(filter, EnvFilter::add_directive)
}

fn json() -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
    layer.with_writer(io::stderr).boxed()
}

fn journal() -> io::Result<tracing_journald::Layer> {
    let layer = tracing_journald::layer()?;
    Ok(layer.with_field_prefix(None).with_syslog_identifier("expunged".to_owned()))
}

/// A panic becomes a log line that says where it was. What it says may quote a value, so that is left
/// out.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "a defect of expunged: it panicked");
    }));
}

/// Whether standard error goes to the journal. A process that was started by a service inherits the
/// variable, and may well log elsewhere.
fn goes_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(error) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", error.dev(), error.ino())
}

fn resolve(format: LogFormat, to_journal: bool) -> LogFormat {
    match format {
        LogFormat::Auto if to_journal => LogFormat::Journald,
        LogFormat::Auto if io::stderr().is_terminal() => LogFormat::Human,
        LogFormat::Auto => LogFormat::Json,
        chosen => chosen,
    }
}
