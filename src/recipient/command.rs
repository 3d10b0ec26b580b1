//! A program of the operator's: it is given the notice on its standard input, and its exit code is the answer.
//!
//! It is started without a shell, in a process group of its own, with nothing of our environment but where programs
//! are and what language is spoken: secrets may be among the rest. What it prints is read and not kept.

use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Ailment;
use super::webhook::deleted;
use crate::config::CommandRecipient;
use crate::notice::{Answer, Message};

/// "Try again later", as sendmail and others have it (`EX_TEMPFAIL` in sysexits.h).
const TEMPORARY: i32 = 75;
/// How long it is read what a program had printed before it ended.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// What of our environment a program sees.
const SEEN: [&str; 4] = ["PATH", "LANG", "LC_ALL", "TZ"];

/// A program.
#[derive(Debug)]
pub(super) struct Command {
    config: CommandRecipient,
}

/// Ends a whole process group, unless it has ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // That it is gone already is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Command {
    pub(super) fn new(config: &CommandRecipient) -> Command {
        Command { config: config.clone() }
    }

    pub(super) async fn tell(&self, message: &Message) -> Answer {
        let later = |why: String, is_down| Answer::Later { after: None, why, is_down };
        let input = format!("{}\n", deleted(message));
        match timeout(self.config.timeout, self.run(input.into_bytes())).await {
            Ok(Ok((status, _))) if status.success() => Answer::Completed,
            Ok(Ok((status, printed))) => judge(status, printed),
            Ok(Err(error)) => {
                later(format!("the program cannot be started: {}", error.kind()), true)
            }
            Err(_) => {
                let seconds = self.config.timeout.as_secs_f64();
                later(format!("the program was ended after {seconds} s: it was too slow"), true)
            }
        }
    }

    /// Runs the program to its end; gives how many bytes it printed.
    async fn run(&self, input: Vec<u8>) -> std::io::Result<(ExitStatus, u64)> {
        let mut command = tokio::process::Command::new(&self.config.program);
        command.args(&self.config.args).env_clear().current_dir("/").process_group(0);
        command.envs(SEEN.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let mut group = Group(pid.and_then(Pid::from_raw));
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut feed = pin!(async {
            if let Some(mut stdin) = stdin {
                // A program need not read to the end.
                let _ = stdin.write_all(&input).await;
            }
        });
        let printed = AtomicU64::new(0);
        let mut drains = pin!(async {
            tokio::join!(drain(stdout, &printed), drain(stderr, &printed));
        });
        let (mut is_fed, mut is_drained) = (false, false);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                () = &mut feed, if !is_fed => is_fed = true,
                () = &mut drains, if !is_drained => is_drained = true,
            }
        };
        if !is_drained {
            // What it has left running may hold its output open for good.
            let _ = timeout(LAST_WORDS, drains).await;
        }
        // Whatever it has left running is its own business now.
        group.0 = None;
        Ok((status, printed.load(Ordering::Relaxed)))
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

/// Reads to the end, and keeps nothing.
async fn drain(from: Option<impl AsyncRead + Unpin>, read: &AtomicU64) {
    let mut buffer = vec![0; 8 * 1024];
    if let Some(mut from) = from {
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            read.fetch_add(length as u64, Ordering::Relaxed);
        }
    }
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
