//! `expunged demo`.

use super::{CliError, Common, Exit};

/// Build a realistic example in a folder and run check, plan, run and the audit log on it.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

pub(crate) async fn main(_common: &Common, _args: Args) -> Result<Exit, CliError> {
    Err(CliError::Usage("not yet".into()))
}
