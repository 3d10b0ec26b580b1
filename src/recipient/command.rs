//! A program of the operator's: it is given the notice on its standard input, and its exit code is the answer.
//!
//! What it prints is read and not kept: see [`crate::program`] for how it is started.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitStatus;

use super::Ailment;
use super::webhook::deleted;
use crate::config::CommandRecipient;
use crate::notice::{Answer, Message};
use crate::program::{Program, ProgramError};

/// "Try again later", as sendmail and others have it (`EX_TEMPFAIL` in sysexits.h).
const TEMPORARY: i32 = 75;

/// A program.
#[derive(Debug)]
pub(super) struct Command {
    config: CommandRecipient,
}

impl Command {
    pub(super) fn new(config: &CommandRecipient) -> Command {
        Command { config: config.clone() }
    }

    pub(super) async fn tell(&self, message: &Message) -> Answer {
        let input = format!("{}\n", deleted(message));
        let program = Program {
            path: self.config.program.clone(),
            args: self.config.args.clone(),
            input: input.into_bytes(),
            ..Program::default()
        };
        let why = match program.run(self.config.timeout).await {
            Ok(ended) if ended.status.success() => return Answer::Completed,
            Ok(ended) => return judge(ended.status, ended.printed),
            Err(ProgramError::TimedOut(after)) => {
                format!("the program was ended after {} s: it was too slow", after.as_secs_f64())
            }
            Err(ProgramError::Missing) => cannot_be_started(ErrorKind::NotFound),
            Err(ProgramError::NotStarted(kind) | ProgramError::Lost(kind)) => {
                cannot_be_started(kind)
            }
        };
        Answer::Later { after: None, why, is_down: true }
    }

    /// Running it could do anything, so it is only looked at.
    pub(super) fn test(&self) -> Result<String, Ailment> {
        let program = &self.config.program;
        let wrong = |why: String| Ailment::Program(format!("{} {why}", program.display()));
        let metadata = std::fs::metadata(program);
        let metadata =
            metadata.map_err(|error| wrong(format!("cannot be found: {}", error.kind())))?;
        if !metadata.is_file() {
            return Err(wrong("is not a file".to_owned()));
        }
        let mode = metadata.permissions().mode();
        if mode & 0o111 == 0 {
            return Err(wrong(format!("cannot be executed (mode {:03o})", mode & 0o777)));
        }
        if mode & 0o002 != 0 {
            return Err(wrong("can be changed by every user of the machine".to_owned()));
        }
        Ok(format!("{} is there and can be executed; it was not started", program.display()))
    }
}

fn cannot_be_started(why: ErrorKind) -> String {
    format!("the program cannot be started: {why}")
}

/// What an end that is no success means.
fn judge(status: ExitStatus, printed: u64) -> Answer {
    match status.code() {
        Some(TEMPORARY) => Answer::Later {
            after: None,
            why: format!("the program ended with {TEMPORARY}: it asks to be started again"),
            is_down: false,
        },
        Some(code) => Answer::Failed(format!(
            "the program ended with {code}, and had printed {printed} bytes"
        )),
        // Somebody else has ended it.
        None => Answer::Later {
            after: None,
            why: "the program was ended by a signal".to_owned(),
            is_down: false,
        },
    }
}
