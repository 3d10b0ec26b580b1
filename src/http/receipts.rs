//! Receipts: what recipients say by themselves of what they were told.
//!
//! Nobody needs a token for it: a receipt is good because its recipient has signed it, and it is verified before it is
//! parsed. One that is not heeded changes nothing, and the ledger records it: counted here, and written down at most
//! once a second, so that whoever sends many has no part in how much is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::ledger::{Ledger, ReceiptReceived};
use crate::recipient::{ReceiptError, Recipients};
use crate::types::Name;

/// How long the ledger may take.
const LEDGER_WITHIN: Duration = Duration::from_secs(7);
/// How long after refusals were written down the next are.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of something that claimed to be a receipt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is the recipient's, of a notice that it was told.
    Taken(ReceiptReceived),
    /// It is not heeded.
    Refused(StatusCode, String),
    /// It could not be judged, or not written down: it is to be sent again.
    Again(&'static str),
}

/// Takes receipts in.
pub(super) struct Receipts {
    ledger: Ledger,
    recipients: watch::Receiver<Arc<Recipients>>,
    refusals: Refusals,
}

impl Receipts {
    pub(super) fn new(ledger: Ledger, recipients: watch::Receiver<Arc<Recipients>>) -> Receipts {
        Receipts { refusals: Refusals::start(ledger.clone()), ledger, recipients }
    }

    /// Takes in what claims to be a receipt of the recipient of this name; returns when what it changes is durable.
    pub(super) async fn take(&self, name: &str, headers: &HeaderMap, body: &Bytes) -> Verdict {
        let recipients = self.recipients.borrow().clone();
        let found = name.parse::<Name>().ok().and_then(|name| recipients.get(&name).cloned());
        let Some(recipient) = found else {
            // Of names that anybody can make up nothing is kept.
            return refused(StatusCode::NOT_FOUND, "there is no such recipient");
        };
        let name = &recipient.config.name;
        let receipt = match recipient.receipt(headers, body, clock::now()) {
            Ok(receipt) => receipt,
            Err(ReceiptError::Unverifiable(why)) => {
                self.refusals.note(name, Refusal::Unverifiable(why));
                return Verdict::Again("what verifies it cannot be read here just now");
            }
            Err(error) => {
                let (status, reason) = judge(&error);
                self.refusals.note(name, Refusal::For(reason));
                return refused(status, &error.to_string());
            }
        };
        let receiving = self.ledger.receive_receipt(name, &receipt, clock::now());
        let received = match timeout(LEDGER_WITHIN, receiving).await {
            Ok(Ok(received)) => received,
            Ok(Err(error)) => {
                tracing::error!(recipient = %name, %error, "a receipt could not be taken in");
                return Verdict::Again("the ledger does not answer");
            }
            Err(_) => {
                tracing::error!(recipient = %name, "a receipt could not be taken in: the ledger does not answer in time");
                return Verdict::Again("the ledger does not answer");
            }
        };
        match received {
            ReceiptReceived::Unknown => {
                self.refusals
                    .note(name, Refusal::For("it is of a notice that the recipient was not sent"));
                return refused(StatusCode::NOT_FOUND, "the recipient was never sent this notice");
            }
            ReceiptReceived::Replayed => {
                self.refusals.note(name, Refusal::For("the same receipt was there before"));
            }
            ReceiptReceived::Heeded => {
                tracing::debug!(recipient = %name, notice = %receipt.notice, "a receipt came in");
            }
            ReceiptReceived::Known => {}
        }
        Verdict::Taken(received)
    }

    /// Has what was not heeded written down now.
    pub(super) async fn settle(&self) {
        self.refusals.tally.write(&self.refusals.ledger).await;
    }
}

fn refused(status: StatusCode, why: &str) -> Verdict {
    Verdict::Refused(status, why.to_owned())
}

/// How somebody is answered whose receipt is not heeded, and how the audit log puts it.
fn judge(error: &ReceiptError) -> (StatusCode, &'static str) {
    match error {
        ReceiptError::Forged => (StatusCode::UNAUTHORIZED, "its signature is missing or wrong"),
        ReceiptError::Stale => (StatusCode::UNAUTHORIZED, "it is too old, or from the future"),
        ReceiptError::Malformed => (StatusCode::BAD_REQUEST, "it was not understood"),
        ReceiptError::NotExpected | ReceiptError::Unverifiable(_) => {
            (StatusCode::NOT_FOUND, "the recipient is not configured to send receipts")
        }
    }
}

/// Why a receipt was not heeded.
enum Refusal {
    /// For this reason, which the audit log is told.
    For(&'static str),
    /// Nobody can say whose it is.
    Unverifiable(String),
}

/// Counts what is not heeded, and has it written down.
struct Refusals {
    ledger: Ledger,
    tally: Arc<Tally>,
    end: CancellationToken,
}

/// What is not written down yet. There are as many entries as recipients are configured, times reasons.
#[derive(Default)]
struct Tally {
    refused: Mutex<BTreeMap<(Name, &'static str), u64>>,
    unverifiable: Mutex<BTreeMap<Name, (u64, String)>>,
    news: Notify,
    /// Held while something is written, so that whoever waits for the last of it waits for all.
    writing: tokio::sync::Mutex<()>,
}

impl Refusals {
    fn start(ledger: Ledger) -> Refusals {
        let (tally, end) = (Arc::new(Tally::default()), CancellationToken::new());
        tokio::spawn(end.clone().run_until_cancelled_owned(keep(tally.clone(), ledger.clone())));
        Refusals { ledger, tally, end }
    }

    fn note(&self, recipient: &Name, refusal: Refusal) {
        match refusal {
            Refusal::For(reason) => {
                let mut refused = self.tally.refused.lock().unwrap_or_else(PoisonError::into_inner);
                *refused.entry((recipient.clone(), reason)).or_default() += 1;
            }
            Refusal::Unverifiable(why) => {
                let unverifiable = self.tally.unverifiable.lock();
                let mut unverifiable = unverifiable.unwrap_or_else(PoisonError::into_inner);
                let (count, last) = unverifiable.entry(recipient.clone()).or_default();
                *count += 1;
                *last = why;
            }
        }
        self.tally.news.notify_one();
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn keep(tally: Arc<Tally>, ledger: Ledger) {
    loop {
        tally.news.notified().await;
        tally.write(&ledger).await;
        tokio::time::sleep(PAUSE).await;
    }
}

impl Tally {
    /// Writes down, and says, what has come together. What cannot be written stays for the next time.
    async fn write(&self, ledger: &Ledger) {
        let _turn = self.writing.lock().await;
        let unverifiable = self.unverifiable.lock().map(|mut all| std::mem::take(&mut *all));
        for (recipient, (receipts, why)) in unverifiable.unwrap_or_default() {
            tracing::error!(%recipient, receipts, "receipts could not be verified, and were not heeded: {why}");
        }
        let refused = self.refused.lock().map(|mut all| std::mem::take(&mut *all));
        let refused = refused.unwrap_or_default();
        if refused.is_empty() {
            return;
        }
        for ((recipient, reason), receipts) in &refused {
            tracing::warn!(%recipient, receipts, "receipts were not heeded: {reason}");
        }
        let writing = ledger.refuse_receipts(&refused, clock::now());
        let error = match timeout(LEDGER_WITHIN, writing).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer in time".to_owned(),
        };
        tracing::error!(
            error,
            "the ledger could not record that receipts were not heeded; it is tried again"
        );
        let mut tally = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        for (which, receipts) in refused {
            *tally.entry(which).or_default() += receipts;
        }
        self.news.notify_one();
    }
}
