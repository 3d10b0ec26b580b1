//! `pace`, `rate`, `workers` and `window`: how much may be felt of a run, and when.

use super::diagnostic::Problem;
use super::reader::{Reader, Wrong, quoted};
use crate::pace::{Pacing, Rate, Tempo};
use crate::rule::{Dialect, StoreKind};
use crate::schedule::{Hours, InvalidHours, Windows};

/// Batches side by side in a database, where nothing else is said.
const WORKERS: usize = 2;

/// How the rules of a store are paced, where they say nothing of their own.
pub(super) fn of_store(reader: &mut Reader<'_>, kind: Option<StoreKind>) -> Pacing {
    let workers = workers(reader, kind);
    Pacing { workers, ..of_rule(reader, Pacing::default()) }
}

/// How a rule is paced: what is written, else as its store.
pub(super) fn of_rule(reader: &mut Reader<'_>, store: Pacing) -> Pacing {
    let tempo = tempo(reader).unwrap_or(store.tempo);
    let rate = rate(reader, "\"5000 per second\"").and_then(Rate::new).or(store.rate);
    // What is to be felt as little as possible goes alone.
    let workers = if tempo == Tempo::Gentle { 1 } else { store.workers };
    Pacing { tempo, rate, workers }
}

fn tempo(reader: &mut Reader<'_>) -> Option<Tempo> {
    let words = [Tempo::Gentle, Tempo::Balanced, Tempo::Full].map(|tempo| (tempo.as_str(), tempo));
    let meant = [
        ("slow", "gentle"),
        ("low", "gentle"),
        ("calm", "gentle"),
        ("normal", "balanced"),
        ("medium", "balanced"),
        ("fast", "full"),
        ("high", "full"),
        ("max", "full"),
    ];
    reader.choice("pace", &words, &meant).map(|tempo| tempo.value)
}

/// Batches that may be under way side by side. SQLite has one writer.
fn workers(reader: &mut Reader<'_>, kind: Option<StoreKind>) -> usize {
    match kind {
        Some(StoreKind::Sql(Dialect::Sqlite)) => {
            let reason = "SQLite has one writer at a time, so `workers` would wait for each other";
            reader.refuse("workers", reason, "leave it out");
            1
        }
        // Elsewhere the key is refused by the kind of store.
        Some(StoreKind::Files | StoreKind::Objects) => 1,
        Some(StoreKind::Sql(_)) | None => {
            let workers = reader.number("workers", 1..=8, "2");
            workers.and_then(|workers| usize::try_from(workers.value).ok()).unwrap_or(WORKERS)
        }
    }
}

/// `"100 per second"`, in so many a second.
pub(super) fn rate(reader: &mut Reader<'_>, example: &str) -> Option<f64> {
    let rate = reader.parsed("rate", example, |text| {
        let wrong = || {
            let help = format!("write `rate = {example}`, or `per minute` or `per hour`");
            Wrong::new(format!("{} is not a rate", quoted(text))).help(help)
        };
        let (number, unit) = text.split_once(" per ").ok_or_else(wrong)?;
        let number: u32 = number.trim().parse().map_err(|_| wrong())?;
        let seconds = match unit.trim() {
            "second" => 1.0,
            "minute" => 60.0,
            "hour" => 3600.0,
            _ => return Err(wrong()),
        };
        if (1..=1_000_000).contains(&number) {
            Ok(f64::from(number) / seconds)
        } else {
            let message = "`rate` is out of bounds".to_owned();
            Err(Wrong::new(message).help("write a number from 1 to 1000000"))
        }
    });
    rate.map(|rate| rate.value)
}

/// The hours in which a rule may run by itself: what is written, else what holds in general.
pub(super) fn windows(reader: &mut Reader<'_>, general: &Windows) -> Windows {
    let example = "\"22:00-05:00\"";
    let Some(words) = reader.words("window", example) else { return general.clone() };
    let mut hours = Vec::new();
    for word in &words {
        match word.value.parse::<Hours>() {
            Ok(parsed) => hours.push(parsed),
            Err(error) => {
                let (message, help) = match error {
                    InvalidHours::Syntax(text) => (
                        format!("{} is not a window", quoted(&text)),
                        format!(
                            "write `window = {example}`: from when to when, by the clock of 24 hours"
                        ),
                    ),
                    InvalidHours::Empty(text) => (
                        format!("{} ends as it begins", quoted(&text)),
                        "for the whole day leave `window` out, or write `00:00-24:00`".to_owned(),
                    ),
                };
                let message = format!("{}: {message}", reader.what);
                reader.report(Problem::new(word.place, message).help(help));
            }
        }
    }
    Windows::new(hours)
}
