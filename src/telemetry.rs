//! Logs: for people on a terminal, in the journal's own form under systemd, as JSON elsewhere.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// What is logged unless `EXPUNGED_LOG` says otherwise.
const FILTER: &str = "info,sqlx=warn,tokio_cron_scheduler=warn";

/// Begins to log. Called once; what was begun before stays.
///
/// # Errors
/// When the journal was asked for and does not listen.
pub fn init(format: LogFormat) -> io::Result<()> {
    let filter = EnvFilter::try_from_env("EXPUNGED_LOG").unwrap_or_else(|_| EnvFilter::new(FILTER));
    let registry = tracing_subscriber::registry().with(filter);
    let begun = match resolve(format) {
        LogFormat::Journald => {
            let journal = tracing_journald::layer()?
                .with_field_prefix(None)
                .with_syslog_identifier("expunged".to_owned());
            registry.with(journal).try_init()
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
            registry.with(layer.with_writer(io::stderr)).try_init()
        }
        LogFormat::Human | LogFormat::Auto => {
            let layer = tracing_subscriber::fmt::layer().with_target(false);
            let layer = layer.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
            registry.with(layer).try_init()
        }
    };
    // Somebody logs already, such as a test: theirs stays.
    begun.ok();
    Ok(())
}

fn resolve(format: LogFormat) -> LogFormat {
    match format {
        LogFormat::Auto if std::env::var_os("JOURNAL_STREAM").is_some() => LogFormat::Journald,
        LogFormat::Auto if io::stderr().is_terminal() => LogFormat::Human,
        LogFormat::Auto => LogFormat::Json,
        chosen => chosen,
    }
}
