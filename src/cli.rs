//! The command line: arguments in, exit code out. One file per subcommand, each of which parses,
//! calls a pass and prints.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod account;
mod apply;
mod approve;
mod audit;
mod backups;
mod certificate;
mod check;
mod daemon;
mod demo;
mod event;
mod hold;
mod metrics;
mod notices;
mod output;
mod plan;
mod recipients;
mod replay;
mod run;
mod status;
mod why;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use jiff::Timestamp;
use secrecy::ExposeSecret;

use crate::config::{self, Config, ConfigError};
use crate::fault;
use crate::hold::Holds;
use crate::keys::{Keys, KeysError};
use crate::ledger::{Ledger, LedgerError};
use crate::rule::Rule;
use crate::run::{Runner, Sources};
use crate::store::Stores;
use crate::types::Name;

/// Where the configuration is looked for.
const CONFIG: &str = "/etc/expunged/expunged.toml";

/// Makes data end on time: finds the records past their retention, deletes or anonymizes them, and
/// proves it.
#[derive(Parser, Debug)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Start with `expunged demo`: it builds a small service with five years of data in a folder of its \
                  own and works on that. On your own data, go in this order: check, plan, then rules in \
                  observe mode under the daemon, then enforce."
)]
pub struct Cli {
    /// The configuration to use; `conf.d/*.toml` beside it is merged in.
    #[arg(long, short, global = true, value_name = "FILE", default_value = CONFIG, env = "EXPUNGED_CONFIG")]
    config: PathBuf,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Demo(demo::Args),
    Check(check::Args),
    Plan(plan::Args),
    Apply(apply::Args),
    Run(run::Args),
    Approve(approve::Args),
    Replay(replay::Args),
    Event(event::Args),
    Daemon(daemon::Args),
    Status(status::Args),
    Metrics(metrics::Args),
    Why(why::Args),
    Certificate(certificate::Args),
    Backups(backups::Args),
    #[command(subcommand)]
    Notices(notices::Command),
    #[command(subcommand)]
    Recipients(recipients::Command),
    #[command(subcommand)]
    Hold(hold::Command),
    #[command(subcommand)]
    Audit(audit::Command),
}

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the ledger's url cannot be read: {0}")]
    Secret(#[from] config::SecretError),
    #[error("there is no rule `{name}`; the configuration has {known}")]
    NoRule { name: Name, known: String },
    #[error(
        "the configuration has no rules yet: add a table `[rule.NAME]`, see the sample in config/expunged.toml"
    )]
    NoRules,
    #[error("`{0}` is not a moment: write `2026-11-21`, `2026-11-21T03:00:00Z` or `now`")]
    Time(String),
    #[error("cannot {doing}: {source}")]
    Io { doing: String, source: std::io::Error },
    #[error(transparent)]
    Archive(#[from] crate::archive::ArchiveError),
    #[error(transparent)]
    Hold(#[from] crate::run::HoldError),
    #[error(transparent)]
    Event(#[from] crate::event::EventError),
    #[error(transparent)]
    Daemon(#[from] crate::daemon::DaemonError),
    #[error(transparent)]
    Apply(#[from] crate::run::ApplyError),
    #[error(transparent)]
    Replay(#[from] crate::run::ReplayError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    Certificate(#[from] crate::certificate::CertificateError),
    #[error("the demo's database failed: {0}")]
    Demo(#[from] sqlx::Error),
    #[error("{0}")]
    Usage(String),
}

/// Exit codes, as `terraform plan -detailed-exitcode` has them where a plan is asked for.
pub(crate) enum Exit {
    /// All is well; nothing is due.
    Fine,
    /// Something is wrong.
    Failed,
    /// Something is due; or, for `audit`, something could not be checked.
    Two,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Fine => 0,
            Exit::Failed => 1,
            Exit::Two => 2,
        })
    }
}

/// Parses the arguments of the process, carries the command out and gives the exit code.
pub async fn main() -> ExitCode {
    end_quietly_with_the_reader();
    fault::read_environment();
    let cli = Cli::parse();
    let json = cli.json;
    // For `audit`, 1 would say that the log was changed.
    let failed = match cli.command {
        Command::Audit(audit::Command::Log(_)) => Exit::Failed,
        Command::Audit(_) => Exit::Two,
        _ => Exit::Failed,
    };
    match cli.dispatch().await {
        Ok(exit) => exit.into(),
        Err(error) => {
            report(&error, json);
            failed.into()
        }
    }
}

/// Says what ended a command: to people on stderr, and with `--json` also as JSON on stdout.
fn report(error: &CliError, json: bool) {
    let diagnostics = match error {
        CliError::Config(error) => {
            anstream::eprintln!("{}", error.coloured());
            error.diagnostics()
        }
        error => {
            anstream::eprintln!("{}error:{} {error}", output::RED, output::RESET);
            &[]
        }
    };
    if json {
        output::json(
            &serde_json::json!({ "error": error.to_string(), "diagnostics": diagnostics }),
        );
    }
}

/// Whoever reads may stop before the end, as `head` does: no panic then, but the exit code of a
/// program that SIGPIPE ended.
fn end_quietly_with_the_reader() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let message = info.payload_as_str().unwrap_or_default();
        if message.starts_with("failed printing to stdout") && message.contains("Broken pipe") {
            std::process::exit(141);
        }
        report(info);
    }));
}

impl Cli {
    async fn dispatch(self) -> Result<Exit, CliError> {
        let common = Common { config: self.config, json: self.json };
        match self.command {
            Command::Demo(args) => Box::pin(demo::main(&common, args)).await,
            Command::Check(args) => Box::pin(check::main(&common, args)).await,
            Command::Plan(args) => Box::pin(plan::main(&common, args)).await,
            Command::Apply(args) => Box::pin(apply::main(&common, args)).await,
            Command::Run(args) => Box::pin(run::main(&common, args)).await,
            Command::Approve(args) => Box::pin(approve::main(&common, args)).await,
            Command::Replay(args) => Box::pin(replay::main(&common, args)).await,
            Command::Event(args) => Box::pin(event::main(&common, args)).await,
            Command::Daemon(args) => Box::pin(daemon::main(&common, args)).await,
            Command::Status(args) => Box::pin(status::main(&common, args)).await,
            Command::Metrics(args) => Box::pin(metrics::main(&common, args)).await,
            Command::Why(args) => Box::pin(why::main(&common, args)).await,
            Command::Certificate(args) => Box::pin(certificate::main(&common, args)).await,
            Command::Backups(args) => Box::pin(backups::main(&common, args)).await,
            Command::Notices(command) => Box::pin(notices::main(&common, command)).await,
            Command::Recipients(command) => Box::pin(recipients::main(&common, command)).await,
            Command::Hold(command) => Box::pin(hold::main(&common, command)).await,
            Command::Audit(command) => Box::pin(audit::main(&common, command)).await,
        }
    }
}

/// The arguments that every subcommand has.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) config: PathBuf,
    pub(crate) json: bool,
}

impl Common {
    pub(crate) fn load(&self) -> Result<Config, CliError> {
        Ok(Config::load(&self.config, config::process_environment())?)
    }
}

/// Opens the ledger with its keys, making both on the first start.
pub(crate) async fn open_ledger(config: &Config) -> Result<Ledger, CliError> {
    let keys = Arc::new(Keys::open_or_create(&config.keys)?);
    let ledger = Ledger::open(config.ledger.url.read()?.expose_secret(), keys).await?;
    audit::settle(config, ledger).await
}

/// Opens a ledger that exists, for reading alone.
pub(crate) async fn read_ledger(config: &Config) -> Result<Ledger, CliError> {
    let url = config.ledger.url.read()?;
    // Without a ledger, missing keys are not what is wrong.
    let keys = match Keys::open(&config.keys) {
        Ok(keys) => keys,
        Err(error) if has_ledger(config) => return Err(error.into()),
        Err(_) => Keys::generate(),
    };
    Ok(Ledger::open_existing(url.expose_secret(), Arc::new(keys)).await?)
}

/// Whether there is a ledger already. Commands that only look make none: made by the wrong user, it
/// would be in the daemon's way.
pub(crate) fn has_ledger(config: &Config) -> bool {
    let Ok(url) = config.ledger.url.read() else { return false };
    match url.expose_secret().strip_prefix("sqlite://") {
        Some(path) => Path::new(path.split('?').next().unwrap_or(path)).exists(),
        None => config.keys.exists(),
    }
}

pub(crate) fn stores(config: &Config) -> Arc<Stores> {
    Arc::new(Stores::new(config.stores.clone()))
}

/// What runs rules, and places holds that runs heed.
pub(crate) fn runner(config: &Config, ledger: &Ledger) -> Runner {
    let rules = Arc::new(config.rules.clone());
    let sources = Arc::new(Sources::new(config));
    Runner { sources, ..Runner::new(ledger.clone(), stores(config), rules) }
}

/// The holds that are in force at a moment; without a ledger there are none.
pub(crate) async fn holds(
    config: &Config,
    ledger: Option<&Ledger>,
    at: Timestamp,
) -> Result<Holds, CliError> {
    let holds = match ledger {
        Some(ledger) => ledger.held().await?.1,
        None => Vec::new(),
    };
    let in_force = holds.into_iter().filter(|hold| hold.is_in_force(at)).collect();
    Ok(Holds::new(&config.rules, in_force))
}

/// The rules that were asked for by name, or all of them.
pub(crate) fn select<'a>(config: &'a Config, names: &[Name]) -> Result<Vec<&'a Rule>, CliError> {
    if config.rules.is_empty() {
        return Err(CliError::NoRules);
    }
    if names.is_empty() {
        return Ok(config.rules.values().collect());
    }
    let known = || config.rules.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
    names
        .iter()
        .map(|name| {
            let unknown = || CliError::NoRule { name: name.clone(), known: known() };
            config.rules.get(name).ok_or_else(unknown)
        })
        .collect()
}

/// A moment as people write it: `now`, a date (its midnight in UTC) or an RFC 3339 timestamp.
pub(crate) fn parse_time(text: &str, now: Timestamp) -> Result<Timestamp, CliError> {
    if text == "now" {
        return Ok(now);
    }
    let date = text.parse::<jiff::civil::Date>().ok().filter(|_| text.len() == 10);
    let midnight = date.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
    midnight
        .map(|midnight| midnight.timestamp())
        .or_else(|| text.parse().ok())
        .ok_or_else(|| CliError::Time(text.to_owned()))
}
