//! The demo's face photos: uploaded, made into portraits, and gone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::output::{self, GREEN, RED, RESET};
use super::random::Random;
use crate::cli::{CliError, open_ledger, runner};
use crate::clock::{self, Stopwatch};
use crate::config::Config;
use crate::event::Occurrence;
use crate::ledger::Ledger;
use crate::run::{Call, Runner};
use crate::types::Name;

const FACES: &str = "faces";
const THUMBS: &str = "thumbs";
/// The sizes of thumbnails, in pixels.
const SIZES: [&str; 2] = ["64.jpg", "256.jpg"];
const RULE: &str = "face-photos";
const SEED: u64 = 0xface;

/// Photos that no event ever named, as after a crash of the application.
const FORGOTTEN: usize = 6;
/// Photos that are uploaded while somebody watches.
const UPLOADED: usize = 8;
/// How long a photo may take to go before something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// Uploads photos that somebody forgot, hours and days ago.
pub(super) fn build(uploads: &Path, now: Timestamp) -> io::Result<()> {
    let mut random = Random::new(SEED);
    for forgotten in 0..FORGOTTEN {
        let photo = upload(uploads, &format!("lost-{forgotten}"), &mut random)?;
        let age = SignedDuration::from_hours(3 + 9 * i64::try_from(forgotten).unwrap_or_default());
        for file in photo.files() {
            File::options().write(true).open(file)?.set_modified((now - age).into())?;
        }
    }
    Ok(())
}

/// An uploaded photo.
struct Photo {
    key: String,
    bytes: usize,
    face: PathBuf,
    thumbs: PathBuf,
}

impl Photo {
    fn files(&self) -> impl Iterator<Item = PathBuf> {
        std::iter::once(self.face.clone()).chain(SIZES.map(|size| self.thumbs.join(size)))
    }

    /// Whether the photo or one of its thumbnails is there.
    fn is_there(&self) -> bool {
        self.files().any(|file| fs::symlink_metadata(file).is_ok())
    }
}

fn upload(uploads: &Path, name: &str, random: &mut Random) -> io::Result<Photo> {
    let key = format!("{name}-{}", random.hex(8));
    let photo = Photo {
        face: uploads.join(FACES).join(&key),
        thumbs: uploads.join(THUMBS).join(&key),
        bytes: 40_000 + random.below(400_000),
        key,
    };
    fs::create_dir_all(uploads.join(FACES))?;
    fs::create_dir_all(&photo.thumbs)?;
    for (file, length) in photo.files().zip([photo.bytes, 2_000, 16_000]) {
        // No picture, only its weight.
        File::create_new(file)?.write_all(&vec![0xd8; length])?;
    }
    Ok(photo)
}

/// How many files are in the uploads.
pub(super) fn count(uploads: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(uploads) else { return 0 };
    let each = entries.flatten().map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => count(&entry.path()),
        _ => 1,
    });
    each.sum()
}

/// Uploads photos, says that their synthesis is over, and watches them go. Returns whether all did.
pub(super) async fn show(config: &Config, uploads: &Path) -> Result<bool, CliError> {
    let failed =
        |doing: &'static str| move |source| CliError::Io { doing: doing.to_owned(), source };
    // A name that is one, and a rule of the demo's own configuration.
    let Some(rule) = RULE.parse::<Name>().ok().and_then(|name| config.rules.get(&name)) else {
        return Ok(false);
    };
    let ledger = open_ledger(config).await?;
    let runner = Arc::new(runner(config, &ledger));
    let stop = CancellationToken::new();
    let mut random = Random::new(SEED ^ 1);
    let mut table = output::table(&["photo", "size", "synthesis", "gone after"]);
    let mut standing = None;
    let mut all_gone = true;
    for number in 0..UPLOADED {
        let photo = upload(uploads, &format!("face-{number}"), &mut random)
            .map_err(failed("upload a photo"))?;
        let event = if number == 3 { "synthesis.failed" } else { "synthesis.finished" };
        send(&ledger, &rule.name, event, &photo).await?;
        let since = Stopwatch::start();
        runner.inboxes.call(&rule.name, Call::Received);
        if standing.is_none()
            && let Some(request) = ledger.claim_events(&rule.name).await?
        {
            let (runner, rule, stop) = (runner.clone(), rule.clone(), stop.clone());
            let task =
                async move { runner.work_off(&rule, &request, clock::now(), &stop, &|_| {}).await };
            standing = Some(tokio::spawn(task));
        }
        let gone = watch(&photo, since).await;
        all_gone &= gone.is_some();
        let outcome = event.trim_start_matches("synthesis.");
        table.add_row(vec![
            photo.key.clone().into(),
            output::right(format!("{} kB", output::number(photo.bytes as u64 / 1000))),
            outcome.into(),
            match gone {
                Some(gone) => output::right(format!("{:.1} ms", gone.as_secs_f64() * 1000.0)),
                None => output::right(format!("{RED}still there{RESET}")),
            },
        ]);
    }
    stop.cancel();
    if let Some(standing) = standing {
        // A panic of it would have left photos, which is said.
        standing.await.ok();
    }
    close(&runner, ledger).await;
    output::print_table(table, &[]);
    println!();
    let (style, text) = if all_gone {
        (
            GREEN,
            "Each photo is gone, with its thumbnails. The first event also began the run that took the others.",
        )
    } else {
        (RED, "A photo is still there.")
    };
    anstream::println!("{style}{}{RESET}", output::hanging(text, 0));
    Ok(all_gone)
}

/// What the application does by `POST /v1/events`: when this returns, the event is durable.
async fn send(ledger: &Ledger, rule: &Name, event: &str, photo: &Photo) -> Result<(), CliError> {
    let Ok(name) = event.parse() else { return Ok(()) };
    let values = BTreeMap::from([("upload_key".to_owned(), photo.key.clone())]);
    let occurrence = Occurrence { id: clock::new_id().to_string(), name, values };
    ledger.receive(&[(occurrence, vec![rule.clone()])], clock::now()).await?;
    Ok(())
}

/// How long it took until nothing of a photo was there.
async fn watch(photo: &Photo, since: Stopwatch) -> Option<Duration> {
    while photo.is_there() {
        if since.elapsed() > PATIENCE {
            return None;
        }
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    Some(since.elapsed())
}

async fn close(runner: &Runner, ledger: Ledger) {
    runner.stores.close().await;
    ledger.close().await;
}
