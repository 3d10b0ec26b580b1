//! The HTTP interface: events and receipts come in over a Unix socket, and over TCP where that is wanted.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/events` | 202 once the events are durable, all of them; otherwise why not, and none is taken |
//! | `POST /v1/receipts/RECIPIENT` | 200 once what the receipt says is durable, or known already; otherwise why it is not heeded |
//! | `GET /healthz` | 200 while the daemon takes requests |
//!
//! On the socket its permissions say who may; on TCP a token does, but for receipts: those are good by the
//! recipient's own signature, and nothing of them is parsed before it is verified (`receipts`). What several
//! clients send at the same time shares one transaction (`intake`). Nothing that was sent is logged.
//!
//! A door that cannot be opened does not keep the daemon from its work: that is said, and tried again.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::config::ApiConfig;
use crate::ledger::Ledger;
use crate::recipient::Recipients;
use crate::rule::Rule;
use crate::types::Name;

pub mod client;
mod door;
mod intake;
mod receipts;
mod routes;

pub use door::ApiError;

use door::{Door, Place, STOP_WITHIN};
use intake::Intake;
use receipts::Receipts;
use routes::Desk;

/// The rules in force.
type Rules = Arc<BTreeMap<Name, Rule>>;

/// The interface, with its doors to the world.
pub struct Api {
    config: ApiConfig,
    desk: Arc<Desk>,
    rules: watch::Sender<Rules>,
    recipients: watch::Sender<Arc<Recipients>>,
    doors: Vec<Door>,
    /// What was last said to be wrong.
    said: Vec<String>,
}

impl Api {
    /// An interface whose doors are still closed. `wake` is notified when events have come in. Whose receipts are
    /// heeded says [`Api::heed`].
    pub fn new(ledger: Ledger, config: ApiConfig, rules: Rules, wake: Arc<Notify>) -> Api {
        let (rules, current) = watch::channel(rules);
        let (recipients, heeded) = watch::channel(Arc::default());
        let receipts = Receipts::new(ledger.clone(), heeded);
        let desk = Desk { intake: Intake::start(ledger, wake), receipts, rules: current };
        let (doors, said) = (Vec::new(), Vec::new());
        Api { config, desk: Arc::new(desk), rules, recipients, doors, said }
    }

    /// Heeds the receipts of these recipients from now on, and of no others.
    pub fn heed(&self, recipients: Arc<Recipients>) {
        self.recipients.send_replace(recipients);
    }

    /// Opens the doors that are configured and not open; says what is in the way, once.
    pub fn open(&mut self) {
        self.doors.retain(Door::is_open);
        let mut problems = Vec::new();
        for place in Place::all(&self.config) {
            if self.doors.iter().any(|door| door.place == place) {
                continue;
            }
            match Door::open(place, &self.desk) {
                Ok(door) => {
                    tracing::info!(at = %door.place, "events can come in");
                    if door.place.is_for_all_to_hear() {
                        tracing::warn!(at = %door.place, "this is plain HTTP on a network: put a proxy with TLS in front, or whoever listens learns the token");
                    }
                    self.doors.push(door);
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        for problem in problems.iter().filter(|problem| !self.said.contains(problem)) {
            tracing::error!("no events come in there; it is tried again: {problem}");
        }
        self.said = problems;
    }

    /// Goes on with other rules and, where they have changed, other doors.
    pub async fn reconfigure(&mut self, config: &ApiConfig, rules: Rules) {
        self.rules.send_replace(rules);
        self.config = config.clone();
        let places = Place::all(config);
        let stays = |door: &Door| places.contains(&door.place) && door.is_up_to_date();
        let (stay, go) = std::mem::take(&mut self.doors).into_iter().partition(stays);
        self.doors = stay;
        close(go).await;
        self.said.clear();
        self.open();
    }

    /// Closes the doors, and returns when the requests that came in are answered, or have taken too long, and what
    /// was not heeded is written down.
    pub async fn close(&mut self) {
        close(std::mem::take(&mut self.doors)).await;
        self.desk.receipts.settle().await;
    }
}

async fn close(doors: Vec<Door>) {
    for door in &doors {
        door.close();
    }
    let all_closed = async {
        for door in doors {
            door.closed().await;
        }
    };
    timeout(STOP_WITHIN, all_closed).await.ok();
}
