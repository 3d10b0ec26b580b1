//! Recipients: who is told that records are gone, each by its own protocol.
//!
//! ```text
//! notice::Message -> tell -> Answer        what came of telling it
//!            job  -> ask  -> Answer        how far it is, where it has to be asked
//! headers, body   -> receipt -> Receipt    what it says by itself: verified, then parsed
//! ```
//!
//! Whatever goes wrong becomes an [`Answer`] in words that hold nothing of what was told, no secret and no path of a
//! URL. What is signed, filled in and judged is made by pure functions; the one effect of each protocol stands apart.
//! Secrets are read when they are used, and kept for a minute.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use jiff::Timestamp;

use crate::clock::Stopwatch;
use crate::config::{Ack, Protocol, RecipientConfig, SecretError};
use crate::hold::Holds;
use crate::notice::{Answer, Message, Receipt};
use crate::outbound::{OutboundError, Trouble};
use crate::store::{StoreError, Stores};
use crate::types::Name;

mod command;
mod fill;
mod http;
mod judge;
mod keep;
mod line;
mod opendsr;
mod sql;
pub mod webhook;
mod words;

/// The recipients of a configuration.
#[derive(Debug, Default)]
pub struct Recipients(BTreeMap<Name, Arc<Recipient>>);

impl Recipients {
    /// Prepares them; nothing is connected to, no secret read.
    pub fn new(configured: &BTreeMap<Name, RecipientConfig>, stores: &Arc<Stores>) -> Recipients {
        let prepare = |config: &RecipientConfig| Arc::new(Recipient::new(config.clone(), stores));
        let prepared = configured.iter().map(|(name, config)| (name.clone(), prepare(config)));
        Recipients(prepared.collect())
    }

    /// The recipient of this name.
    pub fn get(&self, name: &Name) -> Option<&Arc<Recipient>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<Recipient>)> {
        self.0.iter()
    }
}

/// One who is told.
#[derive(Debug)]
pub struct Recipient {
    /// As it is configured.
    pub config: RecipientConfig,
    speaker: Speaker,
}

/// What a recipient speaks.
#[derive(Debug)]
enum Speaker {
    Webhook(webhook::Webhook),
    OpenDsr(opendsr::OpenDsr),
    Http(http::Http),
    Command(command::Command),
    Sql(sql::Sql),
}

/// What came back from a harmless message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pong {
    /// What it shows, for people.
    pub says: String,
    /// How long it took.
    pub took: Duration,
}

/// What is wrong with a recipient. Holds no secret and no path of a URL.
#[derive(Debug, thiserror::Error)]
pub enum Ailment {
    /// DNS does not know its name.
    #[error("DNS: {host} is a name that nobody knows: is it spelled right?")]
    Dns {
        /// The host.
        host: String,
    },
    /// Its address is one's own network's.
    #[error("address: {0}")]
    NotPublic(String),
    /// Nothing listens there, or a firewall is in between.
    #[error(
        "connection: {host} cannot be connected to: does it run, and lets a firewall us through?"
    )]
    Connect {
        /// The host.
        host: String,
    },
    /// Its certificate is not trusted.
    #[error("TLS: the certificate of {host} is not trusted: {reason}")]
    Certificate {
        /// The host.
        host: String,
        /// Why.
        reason: String,
    },
    /// It speaks no TLS that we do.
    #[error("TLS: {host} does not speak TLS as it should")]
    Tls {
        /// The host.
        host: String,
    },
    /// It was too slow.
    #[error("time: {host} did not answer within `timeout`")]
    TimeOut {
        /// The host.
        host: String,
    },
    /// It broke off.
    #[error("connection: {host} broke the connection off")]
    Broken {
        /// The host.
        host: String,
    },
    /// It answered with something else than success.
    #[error("status: {host} answered {status}: {hint}")]
    Status {
        /// The host.
        host: String,
        /// The status.
        status: u16,
        /// What that may mean.
        hint: &'static str,
    },
    /// A secret cannot be read.
    #[error("secret: {0}")]
    Secret(#[from] SecretError),
    /// A secret is there, and no key.
    #[error("secret: {0}")]
    Key(String),
    /// A program cannot be started.
    #[error("program: {0}")]
    Program(String),
    /// A table cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The configuration cannot be used as it is.
    #[error("configuration: {0}")]
    Configuration(String),
}

/// Why what claims to be a receipt is not heeded. Nothing of it is in here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The recipient has not made it, or it was changed on the way.
    #[error("its signature is missing or wrong")]
    Forged,
    /// It was made too long ago, or the clocks differ.
    #[error("it was not made within the last five minutes")]
    Stale,
    /// It is the recipient's, and says nothing that is understood.
    #[error("it does not say what became of which notice")]
    Malformed,
    /// The recipient is not one to send receipts.
    #[error("the recipient is not configured to send receipts")]
    NotExpected,
    /// What verifies it cannot be read.
    #[error("what verifies it cannot be read: {0}")]
    Unverifiable(String),
}

impl Recipient {
    /// Prepares a recipient; nothing is connected to, no secret read.
    pub fn new(config: RecipientConfig, stores: &Arc<Stores>) -> Recipient {
        let ack = config.ack;
        let speaker = match &config.protocol {
            Protocol::Webhook(webhook) => Speaker::Webhook(webhook::Webhook::new(webhook, ack)),
            Protocol::OpenDsr(dsr) => Speaker::OpenDsr(opendsr::OpenDsr::new(dsr, ack)),
            Protocol::Http(call) => Speaker::Http(http::Http::new(call, ack)),
            Protocol::Command(command) => Speaker::Command(command::Command::new(command)),
            Protocol::Sql(table) => Speaker::Sql(sql::Sql::new(table, stores)),
        };
        Recipient { config, speaker }
    }

    /// Tells it. Never fails: whatever happens is an answer. A table of rows is not touched here, because it is not
    /// known what legal holds keep in it: see [`Recipient::tell_heeding`].
    pub async fn tell(&self, message: &Message, now: Timestamp) -> Answer {
        self.tell_within(message, None, now).await
    }

    /// Tells it as [`Recipient::tell`] does; rows that these holds cover stay in its table.
    pub async fn tell_heeding(&self, message: &Message, holds: &Holds, now: Timestamp) -> Answer {
        self.tell_within(message, Some(holds), now).await
    }

    async fn tell_within(
        &self,
        message: &Message,
        holds: Option<&Holds>,
        now: Timestamp,
    ) -> Answer {
        match &self.speaker {
            Speaker::Webhook(webhook) => webhook.tell(message, now).await,
            Speaker::OpenDsr(dsr) => dsr.tell(message, now).await,
            Speaker::Http(call) => call.tell(message, now).await,
            Speaker::Command(command) => command.tell(message).await,
            Speaker::Sql(table) => table.tell(message, holds).await,
        }
    }

    /// Asks it how far it is; `job` is its own name of it, where it has given one.
    pub async fn ask(&self, message: &Message, job: Option<&str>, now: Timestamp) -> Answer {
        match &self.speaker {
            Speaker::OpenDsr(dsr) => dsr.ask(message, now).await,
            Speaker::Http(call) => call.ask(message, job, now).await,
            Speaker::Webhook(_) | Speaker::Command(_) | Speaker::Sql(_) => {
                Answer::Failed("it cannot be asked how far it is".to_owned())
            }
        }
    }

    /// Reads what it says by itself. Nothing is parsed before it is verified.
    ///
    /// # Errors
    /// When it is not the recipient's, too old, or not understood.
    pub fn receipt(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Receipt, ReceiptError> {
        match &self.speaker {
            Speaker::Webhook(webhook) => webhook.receipt(headers, body, now),
            Speaker::OpenDsr(dsr) => dsr.receipt(headers, body),
            Speaker::Http(_) | Speaker::Command(_) | Speaker::Sql(_) => {
                Err(ReceiptError::NotExpected)
            }
        }
    }

    /// Sends it something harmless, or looks at it.
    ///
    /// # Errors
    /// With what exactly is wrong.
    pub async fn test(&self, now: Timestamp) -> Result<Pong, Ailment> {
        let watch = Stopwatch::start();
        let says = match &self.speaker {
            Speaker::Webhook(webhook) => webhook.test(now).await?,
            Speaker::OpenDsr(dsr) => dsr.test(now).await?,
            Speaker::Http(call) => call.test(now).await?,
            Speaker::Command(command) => command.test()?,
            Speaker::Sql(table) => table.test().await?,
        };
        Ok(Pong { says, took: watch.elapsed() })
    }
}

impl From<OutboundError> for Ailment {
    fn from(error: OutboundError) -> Ailment {
        match error {
            OutboundError::Failed { host, trouble } => match trouble {
                Trouble::Unknown => Ailment::Dns { host },
                Trouble::NotPublic => Ailment::NotPublic(format!("{host} {trouble}")),
                Trouble::Unreachable => Ailment::Connect { host },
                Trouble::Certificate(reason) => Ailment::Certificate { host, reason },
                Trouble::Tls => Ailment::Tls { host },
                Trouble::Slow => Ailment::TimeOut { host },
                Trouble::Broken => Ailment::Broken { host },
            },
            OutboundError::NotPublic(_) => Ailment::NotPublic(error.to_string()),
            other => Ailment::Configuration(other.to_string()),
        }
    }
}

/// What is in the way of a message before anything has answered.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    /// The way out.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What is kept where a key should be.
    #[error("{0}")]
    Key(String),
    /// The message itself cannot be told.
    #[error("{0}")]
    Message(String),
}

impl From<Obstacle> for Answer {
    fn from(obstacle: Obstacle) -> Answer {
        match obstacle {
            Obstacle::Message(why) => Answer::Failed(why),
            other => Answer::Later { after: None, why: other.to_string(), is_down: true },
        }
    }
}

impl From<Obstacle> for Ailment {
    fn from(obstacle: Obstacle) -> Ailment {
        match obstacle {
            Obstacle::Outbound(error) => error.into(),
            Obstacle::Secret(error) => error.into(),
            Obstacle::Key(why) => Ailment::Key(why),
            Obstacle::Message(why) => Ailment::Configuration(why),
        }
    }
}

/// What a recipient's good answer means.
fn received(ack: Ack, job: Option<String>) -> Answer {
    match ack {
        Ack::Response => Answer::Completed,
        Ack::Callback | Ack::Poll => Answer::Sent { job },
    }
}
