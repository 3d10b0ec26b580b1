//! Programs of the operator's: started without a shell, watched, and ended with all that they have started.
//!
//! A program runs in a process group of its own, with nothing of our environment but where programs are and what
//! language is spoken, and what it is given on purpose: secrets may be among the rest. Everything that it prints is
//! read, so that it never waits for us, and no more of it is kept than was asked for.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long it is read what a program had printed before it ended.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// What of our environment a program sees.
const SEEN: [&str; 4] = ["PATH", "LANG", "LC_ALL", "TZ"];
/// So much of the end of its complaints is kept, in bytes.
const COMPLAINTS: usize = 4 * 1024;
/// What stands in for a secret.
const STAND_IN: &str = "***";

/// A program, and what it is started with.
#[derive(Debug, Default)]
pub struct Program {
    /// By its absolute path.
    pub path: PathBuf,
    /// What it is started with.
    pub args: Vec<String>,
    /// What it sees of the environment besides where programs are and what language is spoken. A variable that is
    /// here comes before ours.
    pub environment: Vec<(String, SecretString)>,
    /// What it reads on its standard input.
    pub input: Vec<u8>,
    /// So much of what it prints on its standard output is kept, in bytes.
    pub most: usize,
}

/// What came of a program.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// The beginning of what it printed on its standard output: see [`Program::most`].
    pub output: Vec<u8>,
    /// Whether that is all of it.
    pub is_whole: bool,
    /// The end of what it printed on its standard error, without the secrets that it was given.
    pub complaints: String,
    /// How much it printed on both, in bytes.
    pub printed: u64,
}

/// Why there is no end to tell of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProgramError {
    /// There is no such program, or nothing that could interpret it.
    #[error("it is not there")]
    Missing,
    /// It is no program, or may not be executed.
    #[error("it cannot be started: {0}")]
    NotStarted(ErrorKind),
    /// It took too long, and was ended with all that it had started.
    #[error("it was ended after {} s: it was too slow", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The kernel would not say how it ended.
    #[error("how it ended cannot be found out: {0}")]
    Lost(ErrorKind),
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

/// What one stream of a program has printed.
#[derive(Default)]
struct Printed {
    kept: Vec<u8>,
    all: u64,
}

impl Printed {
    /// What is kept, but for a line that is cut: half of a secret would not be known for one.
    fn whole_lines(&self) -> &[u8] {
        if self.all == self.kept.len() as u64 {
            return &self.kept;
        }
        let first = self.kept.iter().position(|byte| *byte == b'\n');
        first.map_or(&[], |first| &self.kept[first + 1..])
    }
}

/// Which part of a stream is kept.
#[derive(Clone, Copy)]
enum Keep {
    Beginning(usize),
    End(usize),
}

impl Program {
    /// Runs it to its end. Dropped before, or over its time, it is killed with all that it has started.
    ///
    /// # Errors
    /// When it cannot be started, or took longer than `limit`. Any exit code is no error here.
    pub async fn run(&self, limit: Duration) -> Result<Ended, ProgramError> {
        timeout(limit, self.run_on()).await.unwrap_or(Err(ProgramError::TimedOut(limit)))
    }

    async fn run_on(&self) -> Result<Ended, ProgramError> {
        let mut command = tokio::process::Command::new(&self.path);
        command.args(&self.args).env_clear().current_dir("/").process_group(0);
        command.envs(SEEN.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(self.environment.iter().map(|(name, value)| (name, value.expose_secret())));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| not_started(&error))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let mut group = Group(pid.and_then(Pid::from_raw));
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut feed = pin!(async {
            if let Some(mut stdin) = stdin {
                // A program need not read to the end.
                let _ = stdin.write_all(&self.input).await;
            }
        });
        let (mut output, mut complaints) = (Printed::default(), Printed::default());
        let status = {
            let mut drains = pin!(async {
                tokio::join!(
                    drain(stdout, &mut output, Keep::Beginning(self.most)),
                    drain(stderr, &mut complaints, Keep::End(COMPLAINTS))
                );
            });
            let (mut is_fed, mut is_drained) = (false, false);
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status,
                    () = &mut feed, if !is_fed => is_fed = true,
                    () = &mut drains, if !is_drained => is_drained = true,
                }
            };
            if !is_drained {
                // What it has left running may hold its output open for good.
                let _ = timeout(LAST_WORDS, drains).await;
            }
            status.map_err(|error| ProgramError::Lost(error.kind()))?
        };
        // Whatever it has left running is its own business now.
        group.0 = None;
        Ok(Ended {
            status,
            is_whole: output.all == output.kept.len() as u64,
            complaints: self.without_secrets(complaints.whole_lines()),
            printed: output.all + complaints.all,
            output: output.kept,
        })
    }

    /// A text in which nothing stands that the program was given as a secret.
    fn without_secrets(&self, text: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(text).into_owned();
        for (_, value) in &self.environment {
            let value = value.expose_secret();
            // What is so short is no secret, and would be found everywhere.
            if value.len() >= 4 {
                text = text.replace(value, STAND_IN);
            }
        }
        text
    }
}

fn not_started(error: &io::Error) -> ProgramError {
    match error.kind() {
        ErrorKind::NotFound => ProgramError::Missing,
        kind => ProgramError::NotStarted(kind),
    }
}

/// Reads to the end, and keeps a part.
async fn drain(from: Option<impl AsyncRead + Unpin>, printed: &mut Printed, keep: Keep) {
    let mut buffer = vec![0; 8 * 1024];
    let Some(mut from) = from else { return };
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        printed.all += length as u64;
        let new = &buffer[..length];
        match keep {
            Keep::Beginning(most) => {
                let room = most.saturating_sub(printed.kept.len()).min(length);
                printed.kept.extend_from_slice(&new[..room]);
            }
            Keep::End(most) => {
                printed.kept.extend_from_slice(new);
                let surplus = printed.kept.len().saturating_sub(most);
                printed.kept.drain(..surplus);
            }
        }
    }
}
