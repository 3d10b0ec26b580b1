//! Signed checkpoints leave the machine: to a file, to the journal, to a webhook.
//!
//! A ledger that is put back to an earlier state is whole in itself; only a newer checkpoint that was kept
//! elsewhere shows it (`expunged audit verify --since`). So the daemon hands them out when it starts,
//! at intervals and when it stops. What fails is logged, counted and tried again, and never keeps
//! anything from being deleted.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::audit::Checkpoint;
use crate::audit::review::split_notes;
use crate::config::{AuditConfig, WebhookConfig};
use crate::ledger::Ledger;
use crate::outbound::{self, Reach};

/// How long after a failure it is tried again, at most.
const AGAIN: Duration = Duration::from_mins(1);
/// Where the journal listens.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// More of a file's end than this is not looked at: several checkpoints, in bytes.
const TAIL: u64 = 8 * 1024;

/// Hands out checkpoints until it is stopped. Dropped, it ends at once.
#[derive(Debug)]
pub struct Publishing {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Publishing {
    /// Begins, if there is anywhere to publish to.
    pub fn start(ledger: &Ledger, config: &AuditConfig) -> Option<Publishing> {
        let mut outlets = Vec::new();
        outlets.extend(config.checkpoint_file.clone().map(Outlet::File));
        outlets.extend(config.checkpoint_journal.then_some(Outlet::Journal));
        outlets.extend(config.checkpoint_webhook.clone().map(Outlet::Webhook));
        if outlets.is_empty() {
            return None;
        }
        let outlets = outlets.into_iter().map(|outlet| Desk { outlet, last: None, failures: 0 });
        let (ledger, every) = (ledger.clone(), config.checkpoint_every);
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(ledger, outlets.collect(), every, stop.clone()));
        Some(Publishing { stop, task })
    }

    /// Publishes once more, and ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // A defect in the task has been logged; there is nothing more to be done about it.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(ledger: Ledger, mut desks: Vec<Desk>, every: Duration, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let all_well = round(&ledger, &mut desks).await;
        let wait = if all_well { every } else { every.min(AGAIN) };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
    }
    round(&ledger, &mut desks).await;
}

/// Publishes the newest checkpoint wherever it is not known yet; says whether all went well.
async fn round(ledger: &Ledger, desks: &mut [Desk]) -> bool {
    let checkpoint = match ledger.checkpoint().await {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            tracing::warn!(%error, "no checkpoint can be published");
            return false;
        }
    };
    let mut all_well = true;
    for desk in desks {
        all_well &= desk.hand_out(&checkpoint).await;
    }
    all_well
}

/// Where checkpoints go.
#[derive(Debug)]
enum Outlet {
    File(std::path::PathBuf),
    Journal,
    Webhook(WebhookConfig),
}

/// An outlet, and how it went so far.
#[derive(Debug)]
struct Desk {
    outlet: Outlet,
    last: Option<String>,
    failures: u64,
}

impl Desk {
    async fn hand_out(&mut self, checkpoint: &str) -> bool {
        if self.last.as_deref() == Some(checkpoint) {
            return true;
        }
        let (outlet, sent) = match &self.outlet {
            Outlet::File(path) => {
                ("file", to_file(path, checkpoint).map_err(|error| error.to_string()))
            }
            Outlet::Journal => (
                "journal",
                to_journal(Path::new(JOURNAL), checkpoint).map_err(|error| error.to_string()),
            ),
            Outlet::Webhook(webhook) => ("webhook", to_webhook(webhook, checkpoint).await),
        };
        match sent {
            Ok(()) => {
                let size = Checkpoint::peek(checkpoint).map(|checkpoint| checkpoint.size);
                tracing::debug!(outlet, size, "a checkpoint was published");
                self.last = Some(checkpoint.to_owned());
                true
            }
            Err(error) => {
                self.failures += 1;
                let failures = self.failures;
                tracing::warn!(
                    outlet,
                    failures,
                    error,
                    "a checkpoint could not be published; it is tried again"
                );
                false
            }
        }
    }
}

/// Appends the checkpoint to a file. What was written before stays: were the ledger put back, the newer
/// checkpoints in the file are what shows it.
fn to_file(path: &Path, checkpoint: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).mode(0o644).open(path)?;
    let tail = read_tail(&mut file)?;
    let whole = end_of_notes(&tail);
    let (notes, torn) = tail.split_at(whole);
    let notes = String::from_utf8_lossy(notes);
    if let Some(last) = split_notes(&notes).last() {
        if last == checkpoint {
            return Ok(());
        }
        let size = |note: &str| Checkpoint::peek(note).map(|checkpoint| checkpoint.size);
        if let (Some(before), Some(now)) = (size(last), size(checkpoint))
            && before > now
        {
            tracing::error!(
                before,
                now,
                "the file of checkpoints is ahead of the ledger, which was put back or exchanged: run `expunged audit verify --since` with that file"
            );
        }
    }
    // What a full disk cut short must not spoil the next checkpoint. What is not the beginning of one is
    // somebody else's, and stays.
    let mut newline = "";
    let origin = checkpoint.split_inclusive('\n').next().unwrap_or_default();
    if is_begun(torn, origin) || (whole > 0 && is_begun(torn, "— ")) {
        file.set_len(file.metadata()?.len().saturating_sub(torn.len() as u64))?;
    } else if !torn.ends_with(b"\n") {
        newline = "\n";
    }
    file.write_all(format!("{newline}{checkpoint}").as_bytes())?;
    file.sync_all()
}

/// Where the last whole note ends: behind the newline of a signature.
fn end_of_notes(tail: &[u8]) -> usize {
    let mut end = 0;
    let mut at = 0;
    for line in tail.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        if line.starts_with("— ".as_bytes()) && line.ends_with(b"\n") {
            end = at;
        }
    }
    end
}

/// Whether this is what is left of a line that was cut short, or of it and more.
fn is_begun(torn: &[u8], line: &str) -> bool {
    torn.starts_with(line.as_bytes()) || line.as_bytes().starts_with(torn)
}

fn read_tail(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Sends the checkpoint to the journal by its own protocol, whatever the form of the log is.
fn to_journal(socket: &Path, checkpoint: &str) -> io::Result<()> {
    let size = Checkpoint::peek(checkpoint).map_or(0, |checkpoint| checkpoint.size);
    let mut message = format!(
        "MESSAGE=a signed checkpoint of the audit log: {size} entries\nPRIORITY=6\n\
         SYSLOG_IDENTIFIER=expunged\nCHECKPOINT_SIZE={size}\nCHECKPOINT\n"
    )
    .into_bytes();
    // A value of several lines goes with its length.
    message.extend((checkpoint.len() as u64).to_le_bytes());
    message.extend_from_slice(checkpoint.as_bytes());
    message.push(b'\n');
    UnixDatagram::unbound()?.send_to(&message, socket)?;
    Ok(())
}

async fn to_webhook(webhook: &WebhookConfig, checkpoint: &str) -> Result<(), String> {
    let secret = webhook.authorization.as_ref().map(crate::config::Secret::read).transpose();
    let secret = secret.map_err(|error| error.to_string())?;
    let reach = if webhook.internal { Reach::Internal } else { Reach::Public };
    let body = checkpoint.to_owned();
    let posted =
        outbound::post(&webhook.url, reach, secret.as_ref(), "text/plain; charset=utf-8", body)
            .await;
    posted.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Hash;
    use crate::keys::{Hand, Keys};

    fn note(keys: &Keys, size: u64) -> String {
        let root = Hash::empty_root();
        let checkpoint = Checkpoint { origin: keys.origin().to_owned(), size, root };
        keys.sign_checkpoint(&checkpoint, Hand::Present)
    }

    #[test]
    fn a_file_keeps_all_checkpoints_and_none_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints");
        let keys = Keys::generate();
        for size in [1, 1, 2, 9] {
            to_file(&path, &note(&keys, size)).unwrap();
        }
        assert_eq!(sizes(&path), [Some(1), Some(2), Some(9)]);
    }

    /// As `audit verify --since` reads them.
    fn sizes(path: &Path) -> Vec<Option<u64>> {
        let notes = split_notes(&std::fs::read_to_string(path).unwrap());
        notes.iter().map(|note| Some(Checkpoint::peek(note)?.size)).collect()
    }

    #[test]
    fn a_checkpoint_that_was_cut_short_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints");
        let keys = Keys::generate();
        let (whole, torn) = (note(&keys, 1) + &note(&keys, 2), note(&keys, 3));
        for before in ["", &whole] {
            for length in 0..torn.len() {
                let cut = [before.as_bytes(), &torn.as_bytes()[..length]].concat();
                std::fs::write(&path, cut).unwrap();
                to_file(&path, &note(&keys, 4)).unwrap();
                let text = std::fs::read_to_string(&path).unwrap();
                assert_eq!(text, before.to_owned() + &note(&keys, 4), "cut at {length}");
            }
        }
        assert_eq!(sizes(&path), [Some(1), Some(2), Some(4)]);
    }

    #[test]
    fn what_others_have_written_into_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints");
        let keys = Keys::generate();
        std::fs::write(&path, "a letter").unwrap();
        to_file(&path, &note(&keys, 1)).unwrap();
        to_file(&path, &note(&keys, 2)).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("a letter\n"));
        assert_eq!(sizes(&path)[1..], [Some(2)]);
    }

    #[test]
    fn the_journal_is_told_in_its_own_protocol() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let journal = UnixDatagram::bind(&socket).unwrap();
        let note = note(&Keys::generate(), 7);
        to_journal(&socket, &note).unwrap();
        let mut buffer = [0; 4096];
        let length = journal.recv(&mut buffer).unwrap();
        let said = &buffer[..length];
        assert!(said.starts_with(b"MESSAGE=a signed checkpoint of the audit log: 7 entries\n"));
        let value = [&(note.len() as u64).to_le_bytes(), note.as_bytes(), b"\n"].concat();
        assert!(said.ends_with(&[b"CHECKPOINT\n".as_slice(), &value].concat()));
    }
}
