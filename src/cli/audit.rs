//! `expunged audit`.

use std::path::Path;

use crate::audit::note::Verifier;

use super::{CliError, Common, Exit};

mod export;
mod keys;
mod log;
pub(super) mod prove;
mod verify;

pub(crate) use keys::settle;
pub(crate) use log::LogArgs;
pub(crate) use verify::VerifyArgs;

/// Read, verify, prove and export the audit log.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Log(LogArgs),
    Verify(VerifyArgs),
    Prove(prove::ProveArgs),
    VerifyProof(prove::VerifyProofArgs),
    Export(export::ExportArgs),
    /// Print the verifier key with which anyone can verify the log; after changes, all of them in order
    Key,
    /// Have the log go on under a new signing key
    ///
    /// The old key vouches for the new one in the log itself, so whoever has the first key can verify on.
    /// The daemon must be stopped: it would go on with the key that it has read.
    RotateKey,
    DestroyCommitmentKey(keys::DestroyArgs),
}

pub(crate) async fn main(common: &Common, command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Log(args) => log::main(common, args).await,
        Command::Verify(args) => verify::main(common, args).await,
        Command::Prove(args) => prove::main(common, args).await,
        Command::VerifyProof(args) => prove::verify(common, &args),
        Command::Export(args) => export::main(common, &args).await,
        Command::Key => keys::print(common),
        Command::RotateKey => keys::rotate(common).await,
        Command::DestroyCommitmentKey(args) => keys::destroy(common, &args).await,
    }
}

/// The verifier keys that `--key` names: each a key, or a file of them, one per line.
fn read_keys(named: &[String]) -> Result<Vec<Verifier>, CliError> {
    let mut keys = Vec::new();
    for name in named {
        if let Ok(key) = Verifier::parse(name.trim()) {
            keys.push(key);
            continue;
        }
        let text = read_text(Path::new(name))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let key = Verifier::parse(line.trim());
            keys.push(key.map_err(|error| CliError::Usage(format!("{name}: {error}")))?);
        }
    }
    Ok(keys)
}

/// What a file holds, or standard input for `-`.
fn read_text(path: &Path) -> Result<String, CliError> {
    let read = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|source| CliError::Io { doing: format!("read {}", path.display()), source })
}
