//! Files or objects of a registered store, each of which is a backup.
//!
//! On a bucket with versions each version is one: overwritten or hidden by a marker, it has its data still.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Fault, Found};
use crate::config::PathsCatalogue;
use crate::path::Template;
use crate::residue::Backup;
use crate::rule::PathStart;
use crate::store::search::Search;
use crate::store::{Access, Store, StoreError, Stores};

/// Lists what has these paths.
pub(super) async fn find(paths: &PathsCatalogue, stores: &Stores) -> Result<Found, Fault> {
    let search = Arc::new(Search::named(vec![paths.path.clone()]));
    let mut copies = Vec::new();
    match stores.get(&paths.store, Access::ReadOnly)? {
        Store::Files(files) => {
            for entry in files.find(&search).await.map_err(StoreError::from)? {
                copies.push((entry.path, None, entry.modified));
            }
        }
        Store::Objects(objects) => {
            let found = objects.find(&search).await.map_err(StoreError::from)?;
            // A marker hides data, and has none.
            for entry in found.into_iter().filter(|entry| !entry.is_marker) {
                copies.push((entry.path, entry.version, entry.modified));
            }
        }
        Store::Tables(_) => {
            return Err(StoreError::NoTables { store: paths.store.clone() }.into());
        }
    }
    let mut backups = Vec::new();
    let mut undated = 0;
    for (path, version, modified) in copies {
        let Some(started_at) = start(&paths.path, &paths.start, &path, modified) else {
            undated += 1;
            continue;
        };
        let id = match String::from_utf8(path) {
            Ok(path) => path,
            Err(error) => format!("0x{}", hex::encode(error.as_bytes())),
        };
        let id = version.map_or(id.clone(), |version| format!("{id} version {version}"));
        backups.push(Backup { id, started_at, parents: Vec::new(), permanent: None });
    }
    if undated > 0 {
        let why = match paths.start {
            PathStart::Day(_) => "their paths name no day of the calendar",
            PathStart::Modified => "their store does not tell when they were modified",
        };
        return Err(Fault::Undated { count: undated, why });
    }
    Ok(Found::at_once(backups))
}

/// The earliest moment at which a backup of this path may have started.
fn start(
    template: &Template,
    start: &PathStart,
    path: &[u8],
    modified: Option<Timestamp>,
) -> Option<Timestamp> {
    match start {
        PathStart::Modified => modified,
        PathStart::Day(zone) => {
            let day = template.read(path, None)?.day?;
            Some(day.to_zoned(zone.clone()).ok()?.timestamp())
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    #[test]
    fn a_day_begins_with_its_earliest_moment() {
        let template: Template = "{date:%Y-%m-%d}/app.dump".parse().unwrap();
        let begins = |zone: &str, path: &str| {
            let zone = PathStart::Day(TimeZone::get(zone).unwrap());
            start(&template, &zone, path.as_bytes(), None).map(|at| at.to_string())
        };
        let first = begins("Europe/Berlin", "2026-11-28/app.dump");
        assert_eq!(first.as_deref(), Some("2026-11-27T23:00:00Z"));
        // Midnight comes twice there on this day, and not at all on the other.
        let twice = begins("America/Havana", "2026-11-01/app.dump");
        assert_eq!(twice.as_deref(), Some("2026-11-01T04:00:00Z"));
        let never = begins("America/Havana", "2026-03-08/app.dump");
        assert_eq!(never.as_deref(), Some("2026-03-08T05:00:00Z"));
        assert_eq!(begins("UTC", "2026-02-30/app.dump"), None);
    }
}
