//! `expunged daemon`.

use crate::config::{self, Config};
use crate::daemon::Daemon;
use crate::lifecycle::Signals;
use crate::telemetry;

use super::{CliError, Common, Exit, open_ledger};

/// Stay and carry rules out on their schedules
///
/// SIGTERM finishes the batches in flight and ends, a second one ends at once; SIGHUP reads the
/// configuration again and takes it only if the whole of it is valid. `EXPUNGED_LOG` sets what is
/// logged, such as `debug` or `info,expunged::run=debug`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

pub(crate) async fn main(common: &Common, _args: Args) -> Result<Exit, CliError> {
    let config = common.load()?;
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |source| CliError::Io { doing, source }
    };
    telemetry::init(config.daemon.log).map_err(failed("log to the journal"))?;
    let signals = Signals::listen().map_err(failed("listen for signals"))?;
    let ledger = open_ledger(&config).await?;
    let path = common.config.clone();
    let load = move || Config::load(&path, config::process_environment());
    Daemon::new(config, ledger, Box::new(load)).serve(signals).await?;
    Ok(Exit::Fine)
}
