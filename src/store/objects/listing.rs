//! Listings: what there is, in the order of keys, and a look at certain keys only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::super::search::{Search, Verdict};
#[cfg(any(feature = "gcs", feature = "azure"))]
use super::cloud::CloudListing;
#[cfg(feature = "s3")]
use super::s3::{Cursor, Range};
use super::{Backend, Item, Objects, ObjectsError};

/// As many as an answer lists at most.
pub(super) const PAGE: usize = 1_000;
/// As many as are listed around one key that stands alone.
const FEW: usize = 50;
/// So many keys with versions are looked at one by one.
const EACH: usize = 16;

/// A listing on its way.
pub(super) enum Listing {
    #[cfg(feature = "s3")]
    S3 { objects: Objects, range: Range, cursor: Option<Cursor>, had_failed: bool },
    #[cfg(any(feature = "gcs", feature = "azure"))]
    Cloud(CloudListing),
}

impl Listing {
    /// The next page, which may be empty; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Item>>, ObjectsError> {
        match *self {
            #[cfg(feature = "s3")]
            Listing::S3 { ref objects, ref range, ref mut cursor, ref mut had_failed } => {
                let Some(at) = cursor.take() else { return Ok(None) };
                #[allow(irrefutable_let_patterns, reason = "other services may be built in")]
                let Backend::S3(s3) = &objects.inner.backend else { return Ok(None) };
                let page = s3.page(range, &at).await?;
                (*cursor, *had_failed) = (page.next, page.had_failed);
                Ok(Some(page.items))
            }
            #[cfg(any(feature = "gcs", feature = "azure"))]
            Listing::Cloud(ref mut listing) => listing.next().await,
        }
    }

    /// Whether the server failed at the last page before it gave it.
    fn had_failed(&self) -> bool {
        match self {
            #[cfg(feature = "s3")]
            Listing::S3 { had_failed, .. } => *had_failed,
            #[cfg(any(feature = "gcs", feature = "azure"))]
            Listing::Cloud(_) => false,
        }
    }
}

impl Objects {
    /// Lists what begins with a prefix, behind a key.
    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<String>,
        versions: bool,
        most: usize,
    ) -> Listing {
        match self.inner.backend {
            #[cfg(feature = "s3")]
            Backend::S3(_) => Listing::S3 {
                objects: self.clone(),
                range: Range { prefix: prefix.to_owned(), versions, most },
                cursor: Some(Cursor::After(after)),
                had_failed: false,
            },
            #[cfg(any(feature = "gcs", feature = "azure"))]
            Backend::Cloud(ref cloud) => {
                let _ = (versions, most);
                Listing::Cloud(cloud.list(prefix, after.as_deref()))
            }
        }
    }

    /// Looks at these keys, each with its versions and markers. Lists from key to key, and never more than
    /// one page for a key, so that it costs little where they lie close together, and no more than a
    /// request for each where they do not.
    pub(super) async fn look_at(
        &self,
        keys: BTreeSet<String>,
        versions: bool,
    ) -> Result<BTreeMap<String, Vec<Item>>, ObjectsError> {
        let mut found: BTreeMap<String, Vec<Item>> = BTreeMap::new();
        let keys: Vec<String> = keys.into_iter().collect();
        // Without a place to begin at, servers agree about what is listed.
        if versions && keys.len() <= EACH {
            for key in &keys {
                self.read_whole(key, versions, &mut found).await?;
            }
            return Ok(found);
        }
        let (mut next, mut most) = (0, if keys.len() == 1 && !versions { 1 } else { PAGE });
        while let (Some(first), Some(last)) = (keys.get(next), keys.last()) {
            let prefix = common(first, last);
            let after = if prefix == first { None } else { Some(before(first)) };
            let mut listing = self.list(prefix, after, versions, most);
            let mut previous = String::new();
            loop {
                let Some(items) = listing.next().await? else {
                    // Nothing is left, so none of the other keys is there.
                    return Ok(found);
                };
                let (all, begun, mut hits) = (items.len(), next, 0);
                for item in items {
                    self.in_order_after(&mut previous, &item.key)?;
                    while keys.get(next).is_some_and(|key| *key < item.key) {
                        next += 1;
                    }
                    if keys.get(next) == Some(&item.key) {
                        hits += 1;
                        found.entry(item.key.clone()).or_default().push(item);
                        if !versions {
                            next += 1;
                        }
                    }
                }
                if next == keys.len() {
                    return Ok(found);
                }
                // Far from the next key, begin again right before it, with few at once. A server that would
                // not begin where it is told to is read through instead.
                let is_dense = hits * 10 >= all;
                if (!is_dense || most < PAGE) && (hits > 0 || next > begun) {
                    most = if is_dense { PAGE } else { FEW };
                    break;
                }
            }
            // A key with more versions than a page of them is read to its end.
            if found.contains_key(&keys[next]) && previous == keys[next] {
                found.remove(&keys[next]);
                self.read_whole(&keys[next], versions, &mut found).await?;
                next += 1;
            }
        }
        Ok(found)
    }

    async fn read_whole(
        &self,
        key: &String,
        versions: bool,
        found: &mut BTreeMap<String, Vec<Item>>,
    ) -> Result<(), ObjectsError> {
        let mut listing = self.list(key, None, versions, PAGE);
        while let Some(items) = listing.next().await? {
            let all = items.len();
            let mut same: Vec<Item> = items.into_iter().filter(|item| item.key == *key).collect();
            let is_done = same.len() < all;
            if !same.is_empty() {
                found.entry(key.clone()).or_default().append(&mut same);
            }
            if is_done {
                break;
            }
        }
        Ok(())
    }

    /// A server that lists in another order would have keys overlooked.
    fn in_order_after(&self, previous: &mut String, key: &str) -> Result<(), ObjectsError> {
        if key < previous.as_str() {
            return Err(ObjectsError::Unordered { store: self.inner.store.clone() });
        }
        if key != previous {
            key.clone_into(previous);
        }
        Ok(())
    }
}

/// What both begin with.
fn common<'a>(a: &'a str, b: &str) -> &'a str {
    let same = a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b);
    let end = same.map_or(a.len().min(b.len()), |((at, _), _)| at);
    &a[..end]
}

/// A text right before a key: hardly any key lies in between, and if one does, it is only listed for
/// nothing.
fn before(key: &str) -> String {
    let mut chars = key.chars();
    let last = chars.next_back();
    let mut text = chars.as_str().to_owned();
    if let Some(last) = last.filter(|last| *last > '\0') {
        let code = u32::from(last) - 1;
        // Below the surrogates, which are no characters.
        text.push(char::from_u32(code).unwrap_or('\u{d7ff}'));
        text.push('\u{10ffff}');
    }
    text
}

/// Everything that a search may mean, in the order of keys, judged. Of the entries of one key the versions
/// come first and the markers last, as they must go.
pub(super) struct Reading {
    objects: Objects,
    search: Arc<Search>,
    versions: bool,
    prefixes: VecDeque<String>,
    after: Option<String>,
    listing: Option<Listing>,
    previous: String,
    /// The markers of the key that is being read.
    markers: Vec<Item>,
    /// Whether the server failed at the last page before it gave it.
    pub(super) had_failed: bool,
}

impl Reading {
    /// Begins behind a path.
    pub(super) async fn new(
        objects: &Objects,
        search: &Arc<Search>,
        after: Option<&[u8]>,
    ) -> Result<Reading, ObjectsError> {
        let root = &objects.inner.root;
        // Only whole characters can be asked for; what is listed in excess is judged and left out.
        let text = |bytes: &[u8]| {
            let valid = match std::str::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => {
                    std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
                }
            };
            format!("{root}{valid}")
        };
        let mut prefixes: VecDeque<String> = VecDeque::new();
        for prefix in search.prefixes().into_iter().map(text) {
            if !prefixes.back().is_some_and(|before| prefix.starts_with(before.as_str())) {
                prefixes.push_back(prefix);
            }
        }
        Ok(Reading {
            objects: objects.clone(),
            search: search.clone(),
            versions: objects.is_versioned().await?,
            prefixes,
            after: after.map(text),
            listing: None,
            previous: String::new(),
            markers: Vec::new(),
            had_failed: false,
        })
    }

    /// The next page of what there is; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<(Item, Verdict)>>, ObjectsError> {
        loop {
            if self.listing.is_none() {
                let Some(prefix) = self.prefixes.pop_front() else {
                    return Ok(Some(self.take_markers()).filter(|rest| !rest.is_empty()));
                };
                let after = self.after.clone();
                // All that begins so lies before it.
                if after
                    .as_ref()
                    .is_some_and(|after| *after > prefix && !after.starts_with(&prefix))
                {
                    continue;
                }
                let after = after.filter(|after| *after > prefix);
                self.listing = Some(self.objects.list(&prefix, after, self.versions, PAGE));
            }
            let Some(listing) = &mut self.listing else { continue };
            let Some(items) = listing.next().await? else {
                self.listing = None;
                continue;
            };
            self.had_failed = listing.had_failed();
            let mut judged = Vec::with_capacity(items.len());
            for item in items {
                let is_new = item.key != self.previous;
                self.objects.in_order_after(&mut self.previous, &item.key)?;
                if is_new {
                    judged.append(&mut self.take_markers());
                }
                let is_inside = item.key.starts_with(&self.objects.inner.root);
                if !is_inside || self.after.as_ref().is_some_and(|after| item.key <= *after) {
                    continue;
                }
                if item.is_marker {
                    self.markers.push(item);
                } else {
                    judged.push(self.judge(item));
                }
            }
            return Ok(Some(judged));
        }
    }

    fn take_markers(&mut self) -> Vec<(Item, Verdict)> {
        let markers = std::mem::take(&mut self.markers);
        markers.into_iter().map(|item| self.judge(item)).collect()
    }

    fn judge(&self, item: Item) -> (Item, Verdict) {
        let verdict = self.search.judge(self.objects.path(&item), item.modified);
        (item, verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_right_before_a_key_lies_before_it_and_behind_what_comes_earlier() {
        for (earlier, key) in
            [("a", "b"), ("ab", "ac"), ("a", "a\0"), ("", "\0"), ("az", "b"), ("aÿ", "aā")]
        {
            let before = before(key);
            assert!(earlier <= before.as_str() && before.as_str() < key, "{earlier:?} {key:?}");
        }
        assert!(before("\u{e000}").as_str() < "\u{e000}");
    }

    #[test]
    fn what_two_keys_begin_with_ends_at_a_character() {
        assert_eq!(common("faces/a", "faces/b"), "faces/");
        assert_eq!(common("faces/a", "faces/a"), "faces/a");
        assert_eq!(common("ä", "ö"), "");
        assert_eq!(common("a", "ab"), "a");
    }
}
