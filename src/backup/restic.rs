//! restic: its snapshots, and whether its repository has anything that none of them needs.
//!
//! `forget` takes a snapshot off the list and leaves its data where it is; `prune` removes data, and by default leaves a
//! twentieth of the repository unused. What `prune` would do cannot be asked for: before 0.17 it locks the repository for
//! that, whatever it is told, so that a backup that begins meanwhile fails, and killed, it leaves the lock behind. So
//! what the snapshots need is counted, and held against what the index and the repository have. No command that is used
//! here locks or writes anything. Where a backup is at work meanwhile, its data counts as unused until its snapshot is
//! there.
//!
//! The parent of a snapshot is what it was compared with, and is not needed to restore it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;

use super::{Ask, Fault, Found, failed, json, last_line, short};
use crate::config::ResticCatalogue;
use crate::program::Ended;
use crate::residue::{Backup, Purge};

const SNAPSHOTS: &str = "`restic snapshots --json`";
const STATS: &str = "`restic stats --mode=raw-data --json`";
const INDEX: &str = "`restic cat index`";
const LIST: &str = "`restic list`";

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

/// What all snapshots of the repository together need.
#[derive(Deserialize)]
struct Stats {
    /// In pieces of data; left out where it is 0.
    #[serde(default)]
    total_blob_count: u64,
    /// In bytes.
    total_size: u64,
}

/// A part of the index, as it is stored: which pack of the repository has which pieces of data.
#[derive(Deserialize)]
struct Index {
    packs: Vec<Pack>,
}

#[derive(Deserialize)]
struct Pack {
    id: String,
    blobs: Vec<Blob>,
}

#[derive(Deserialize)]
struct Blob {
    /// In bytes.
    length: u64,
}

/// Lists the snapshots.
pub(super) async fn find(restic: &ResticCatalogue, ask: &Ask) -> Result<Found, Fault> {
    let mut args = vec!["snapshots".to_owned(), "--json".to_owned()];
    args.extend(restic.host.iter().map(|host| format!("--host={host}")));
    args.extend(restic.tag.iter().map(|tag| format!("--tag={tag}")));
    let listed = run(restic, ask, args).await?;
    let snapshots: Vec<Snapshot> = json(SNAPSHOTS, &listed.output)?;
    let purge = purge(restic, ask).await?;
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

/// Whether the repository has what no snapshot needs.
///
/// The order is what makes it safe. What is needed is counted after the snapshots were listed, so that whatever is
/// forgotten meanwhile is either listed still or not needed any more; and what is there is looked at after that, so
/// that whatever is added meanwhile is too much rather than too little.
async fn purge(restic: &ResticCatalogue, ask: &Ask) -> Result<Purge, Fault> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let counted = run(restic, ask, words(&["stats", "--mode=raw-data", "--json"])).await?;
    let needed: Stats = json(STATS, &counted.output)?;
    let (parts, packs) = tokio::try_join!(
        run(restic, ask, words(&["list", "index"])),
        run(restic, ask, words(&["list", "packs"]))
    )?;
    let mut known = Known::default();
    for part in ids(&parts.output)? {
        let part = run(restic, ask, words(&["cat", "index", part])).await?;
        known.add(json(INDEX, &part.output)?);
    }
    known.against(&needed, ids(&packs.output)?)
}

/// What the index knows of.
#[derive(Default)]
struct Known {
    packs: BTreeSet<String>,
    blobs: u64,
    bytes: u64,
}

impl Known {
    fn add(&mut self, part: Index) {
        for pack in part.packs {
            // Two parts may have the same pack, such as while they are exchanged for one.
            if !self.packs.contains(&pack.id) {
                self.blobs += pack.blobs.len() as u64;
                self.bytes += pack.blobs.iter().map(|blob| blob.length).sum::<u64>();
                self.packs.insert(pack.id);
            }
        }
    }

    /// What is there, held against what is needed. A pack that the index does not know, as a prune that was broken off
    /// leaves it, has data as well.
    fn against(&self, needed: &Stats, packs: Vec<&str>) -> Result<Purge, Fault> {
        let packs: BTreeSet<&str> = packs.into_iter().collect();
        let unknown = packs.iter().filter(|id| !self.packs.contains(**id)).count();
        let missing = self.packs.iter().filter(|id| !packs.contains(id.as_str())).count();
        let surplus = self.blobs.checked_sub(needed.total_blob_count);
        let (Some(surplus), Some(bytes)) = (surplus, self.bytes.checked_sub(needed.total_size))
        else {
            let why = format!(
                "the index has {} pieces of data, and the snapshots need {}",
                self.blobs, needed.total_blob_count
            );
            return Err(Fault::NotUnderstood { of: INDEX, why });
        };
        let what = if surplus > 0 || bytes > 0 {
            format!("{surplus} pieces of data ({bytes} bytes) that no snapshot needs")
        } else if unknown > 0 {
            format!("{unknown} packs that its index does not know")
        } else if missing > 0 {
            format!("an index of {missing} packs that are not there")
        } else {
            return Ok(Purge::Seen);
        };
        Ok(Purge::Owed(format!(
            "the repository has {what}: `restic prune --max-unused 0` removes it"
        )))
    }
}

/// One id a line.
fn ids(output: &[u8]) -> Result<Vec<&str>, Fault> {
    let is_id = |line: &&str| line.len() == 64 && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    let text = str::from_utf8(output).ok().filter(|text| text.is_empty() || text.ends_with('\n'));
    let lines: Option<Vec<&str>> =
        text.and_then(|text| text.lines().map(|line| Some(line).filter(is_id)).collect());
    lines.ok_or_else(|| {
        let last = String::from_utf8_lossy(output);
        let last = short(last.lines().last().unwrap_or_default());
        Fault::NotUnderstood { of: LIST, why: format!("`{last}` is no id") }
    })
}

async fn run(restic: &ResticCatalogue, ask: &Ask, mut args: Vec<String>) -> Result<Ended, Fault> {
    args.extend(["--no-lock", "--quiet"].map(str::to_owned));
    args.push(format!("--repo={}", restic.repository));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn part(packs: &[(&str, &[u64])]) -> Index {
        let blobs = |lengths: &[u64]| lengths.iter().map(|&length| Blob { length }).collect();
        let pack =
            |(id, lengths): &(&str, &[u64])| Pack { id: (*id).to_owned(), blobs: blobs(lengths) };
        Index { packs: packs.iter().map(pack).collect() }
    }

    fn purge(parts: Vec<Index>, needed: (u64, u64), packs: &[&str]) -> Result<Purge, Fault> {
        let mut known = Known::default();
        for part in parts {
            known.add(part);
        }
        let needed = Stats { total_blob_count: needed.0, total_size: needed.1 };
        known.against(&needed, packs.to_vec())
    }

    #[test]
    fn only_a_repository_with_nothing_unneeded_counts_as_seen() {
        let whole = || vec![part(&[("a", &[5, 6])]), part(&[("b", &[7])])];
        assert_eq!(purge(whole(), (3, 18), &["a", "b"]).unwrap(), Purge::Seen);
        assert_eq!(purge(vec![], (0, 0), &[]).unwrap(), Purge::Seen, "an empty one");
        let twice = vec![part(&[("a", &[5, 6])]), part(&[("a", &[5, 6]), ("b", &[7])])];
        assert_eq!(purge(twice, (3, 18), &["a", "b"]).unwrap(), Purge::Seen);
        for (needed, packs) in [
            ((2, 13), &["a", "b"][..]),
            ((3, 17), &["a", "b"]),
            ((2, 18), &["a", "b"]),
            ((3, 18), &["a", "b", "c"]),
            ((3, 18), &["a"]),
        ] {
            let owed = purge(whole(), needed, packs).unwrap();
            assert!(matches!(owed, Purge::Owed(_)), "{needed:?}, {packs:?}");
        }
        for needed in [(4, 18), (3, 19)] {
            let fault = purge(whole(), needed, &["a", "b"]).unwrap_err();
            assert!(matches!(fault, Fault::NotUnderstood { .. }), "{needed:?}");
        }
    }

    #[test]
    fn a_list_that_broke_off_is_no_list() {
        let (one, other) = ("ab".repeat(32), "cd".repeat(32));
        let text = format!("{one}\n{other}\n");
        assert_eq!(ids(text.as_bytes()).unwrap(), [one.as_str(), other.as_str()]);
        assert!(ids(b"").unwrap().is_empty());
        for length in [1, 64, 100, 129] {
            assert!(ids(&text.as_bytes()[..length]).is_err(), "{length}");
        }
        assert!(ids(b"repository opened\n").is_err() && ids(b"\xff\n").is_err());
    }
}
