//! What recipients are to be told, opened: for tests that hold notices against what is gone.

// Each test binary compiles this file for itself and uses only a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use expunged::keys::Keys;
use expunged::ledger::Ledger;
use expunged::notice::{Identities, Order};
use jiff::Timestamp;

/// Every notice that a recipient has not been told, in the order they were written: whom it is about.
pub(crate) async fn messages(ledger: &Ledger, recipient: &str) -> Vec<Vec<Identities>> {
    let recipient = recipient.parse().unwrap();
    let (mut after, mut all) = (0, Vec::new());
    loop {
        // In order, and far ahead: so those are among them that were put off.
        let some = ledger
            .queued_notices(&recipient, Order::Lists, after, 500, Timestamp::MAX)
            .await
            .unwrap();
        let Some(last) = some.last() else { return all };
        after = last.seq;
        all.extend(some.into_iter().map(|queued| queued.message.about));
    }
}

/// How often a recipient is told of each of these, by the value of one identity.
pub(crate) async fn times(ledger: &Ledger, recipient: &str, name: &str) -> BTreeMap<String, u32> {
    let mut times = BTreeMap::new();
    for identities in messages(ledger, recipient).await.into_iter().flatten() {
        *times.entry(identities.0[name].clone()).or_default() += 1;
    }
    times
}

/// The ledger of a process that has ended.
pub(crate) async fn open(url: &str, keys: &Path) -> Ledger {
    Ledger::open(url, Arc::new(Keys::open(keys).unwrap())).await.unwrap()
}
