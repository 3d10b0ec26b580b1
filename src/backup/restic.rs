//! restic: its snapshots, and whether its repository has anything that none of them needs.
//!
//! `forget` takes a snapshot off the list and leaves its data where it is; `prune` removes data, and by default leaves a
//! twentieth of the repository unused. What is unused is asked for by a prune that only says what it would do. Neither
//! command locks the repository, so that no backup waits for us; where one is at work meanwhile, its data counts as
//! unused until its snapshot is there.
//!
//! The parent of a snapshot is what it was compared with, and is not needed to restore it.

use jiff::Timestamp;
use serde::Deserialize;

use super::{Ask, Fault, Found, failed, json, last_line};
use crate::config::ResticCatalogue;
use crate::program::Ended;
use crate::residue::{Backup, Purge};

const SNAPSHOTS: &str = "`restic snapshots --json`";
const PRUNE: &str = "`restic prune --dry-run`";

/// As restic from 0.8 on prints it.
#[derive(Deserialize)]
struct Snapshot {
    id: String,
    /// When the backup began, unless `--time` had it say something else.
    time: Timestamp,
    /// From 0.17 on.
    summary: Option<Summary>,
}

#[derive(Deserialize)]
struct Summary {
    backup_start: Option<Timestamp>,
}

/// Lists the snapshots.
pub(super) async fn find(restic: &ResticCatalogue, ask: &Ask) -> Result<Found, Fault> {
    let mut args = vec!["snapshots".to_owned(), "--json".to_owned()];
    args.extend(restic.host.iter().map(|host| format!("--host={host}")));
    args.extend(restic.tag.iter().map(|tag| format!("--tag={tag}")));
    let listed = run(restic, ask, args).await?;
    let snapshots: Vec<Snapshot> = json(SNAPSHOTS, &listed.output)?;
    // After the list, so that whatever is forgotten meanwhile is found unused.
    let args = ["prune", "--dry-run", "--max-unused=0"].map(str::to_owned).to_vec();
    let pruned = run(restic, ask, args).await?;
    let purge = purge(&String::from_utf8_lossy(&pruned.output))?;
    let backup = |snapshot: Snapshot| {
        let began = snapshot.summary.and_then(|summary| summary.backup_start);
        Backup {
            id: snapshot.id,
            started_at: began.map_or(snapshot.time, |began| began.min(snapshot.time)),
            parents: Vec::new(),
            permanent: None,
        }
    };
    Ok(Found { backups: snapshots.into_iter().map(backup).collect(), logs: Vec::new(), purge })
}

async fn run(restic: &ResticCatalogue, ask: &Ask, mut args: Vec<String>) -> Result<Ended, Fault> {
    args.extend(["--no-lock".to_owned(), format!("--repo={}", restic.repository)]);
    let set = vec![("RESTIC_PASSWORD", restic.password.read()?)];
    let ended = ask.run(&restic.program, args, set).await?;
    if ended.status.success() {
        return Ok(ended);
    }
    let said = &ended.complaints;
    let says = last_line(said, |line| line.starts_with("Fatal:") || line.contains("exit_error"));
    // Codes of their own since 0.17; before, all of them ended with 1.
    let has = |words: &str| said.contains(words);
    let is_gone = has("no such file") || has("does not exist") || has("not found");
    Err(match ended.status.code() {
        Some(10) => Fault::Absent { says },
        Some(11) => Fault::Locked { says },
        Some(12) => Fault::WrongPassword { says },
        _ if has("wrong password or no key found") => Fault::WrongPassword { says },
        _ if has("is already locked") => Fault::Locked { says },
        _ if has("unable to open config file") && is_gone => Fault::Absent { says },
        _ => failed(&restic.program, &ended, says),
    })
}

/// What a prune would do, had it not been told to do nothing: what it would remove, and what it would leave unused
/// for all that.
fn purge(said: &str) -> Result<Purge, Fault> {
    let line = |name: &'static str| {
        let found = said.lines().find_map(|line| line.trim().strip_prefix(name));
        found.map(str::trim).ok_or_else(|| Fault::NotUnderstood {
            of: PRUNE,
            why: format!("it has no line `{name} …`"),
        })
    };
    let vague = |text: &str| Fault::NotUnderstood {
        of: PRUNE,
        why: format!("`{}` is no amount of data", super::short(text)),
    };
    // "4 blobs / 2.862 MiB"
    let removed = line("total prune:")?;
    let (blobs, size) = removed.split_once(" blobs / ").ok_or_else(|| vague(removed))?;
    let blobs: u64 = blobs.trim().parse().map_err(|_| vague(removed))?;
    // "0 B (0.00% of remaining size)"
    let left = line("unused size after prune:")?;
    let (unused, _) = left.split_once(" (").ok_or_else(|| vague(left))?;
    if bytes(size).ok_or_else(|| vague(removed))? == 0.0
        && bytes(unused).ok_or_else(|| vague(left))? == 0.0
        && blobs == 0
    {
        return Ok(Purge::Seen);
    }
    let size = size.trim();
    Ok(Purge::Owed(format!(
        "the repository still has {size} of data that no snapshot needs: `restic prune --max-unused 0` removes it"
    )))
}

/// "2.862 MiB" in bytes.
fn bytes(text: &str) -> Option<f64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let unit = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        "TiB" => 1_099_511_627_776.0,
        _ => return None,
    };
    number.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(total: &str, unused: &str) -> String {
        format!(
            "loading indexes...\n\nto repack:            0 blobs / 0 B\nthis removes:         0 blobs / 0 B\n\
             to delete:            4 blobs / 2.862 MiB\ntotal prune:          {total}\n\
             remaining:            4 blobs / 2.862 MiB\nunused size after prune: {unused}\n\n"
        )
    }

    #[test]
    fn only_a_repository_with_nothing_unused_counts_as_seen() {
        let seen = |total, unused| purge(&said(total, unused)).unwrap();
        assert_eq!(seen("0 blobs / 0 B", "0 B (0.00% of remaining size)"), Purge::Seen);
        assert_eq!(seen("0 blobs / 0 B", "0 B ( of remaining size)"), Purge::Seen, "an empty one");
        for (total, unused) in [
            ("4 blobs / 2.862 MiB", "0 B (0.00% of remaining size)"),
            ("0 blobs / 1 B", "0 B (0.00% of remaining size)"),
            ("1 blobs / 0 B", "0 B (0.00% of remaining size)"),
            ("0 blobs / 0 B", "12.3 KiB (0.01% of remaining size)"),
        ] {
            assert!(matches!(seen(total, unused), Purge::Owed(_)), "{total}, {unused}");
        }
    }

    #[test]
    fn what_is_not_understood_is_no_proof() {
        let good = said("0 blobs / 0 B", "0 B (0.00% of remaining size)");
        for bad in [
            "",
            "loading indexes...\n",
            &good.replace("total prune:", "total pruned:"),
            &good.replace("unused size after prune:", "unused size:"),
            &said("none", "0 B (0.00% of remaining size)"),
            &said("0 blobs / nothing", "0 B (0.00% of remaining size)"),
            &said("0 blobs / 0 EiB", "0 B (0.00% of remaining size)"),
            &said("-0 blobs / 0 B", "0 B (0.00% of remaining size)"),
            &said("0 blobs / 0 B", "nothing"),
            &said("0 blobs / NaN B", "0 B (0.00% of remaining size)"),
        ] {
            assert!(matches!(purge(bad), Err(Fault::NotUnderstood { .. })), "{bad}");
        }
    }
}
