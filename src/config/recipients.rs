//! `[recipient.NAME]`: who is told of deletions, and how.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::diagnostic::Problem;
use super::reader::{Context, Located, Reader, Wrong, length};
use super::rules::Stores;
use super::text::Table;
use super::{Secret, pacing, sharing, stores};
use crate::notice;
use crate::rule::{Rule, Selection};
use crate::types::{Name, TableName};

mod call;
mod opendsr;
mod own;
mod server;
mod webhook;

pub use call::{Call, HttpRecipient, Match, Poll, Success};
pub use opendsr::{IdentityFormat, IdentityShape, OpenDsrRecipient};
pub use own::{CommandRecipient, SqlRecipient};
pub use server::{Authorization, HeaderValue, Server};
pub use template::{Body, Form, InvalidTemplate, Piece, Template};
pub use webhook::{ReceiptKey, WebhookRecipient};

mod template;

const DAY: Duration = Duration::from_hours(24);

/// Who is told of deletions, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct RecipientConfig {
    /// Its name.
    pub name: Name,
    /// What it speaks, and how it is reached.
    pub protocol: Protocol,
    /// When a notice counts as completed.
    pub ack: Ack,
    /// How long it has until it must have completed; 30 days by default.
    pub due: Duration,
    /// How many subjects one message may name; 1 by default, 1,000 for tables.
    pub at_once: usize,
    /// How many messages may be in flight; 4 by default, 1 where a message names several subjects, because lists
    /// go in order.
    pub concurrency: usize,
    /// How many messages it may be sent in a second, at most.
    pub rate: Option<f64>,
    /// How often it is asked how far it is; every 15 minutes by default.
    pub poll_every: Duration,
    /// How long after each attempt in vain the next one comes ([`notice::DELAYS`] by default). The last one repeats
    /// until the notice is overdue.
    pub retries: Vec<Duration>,
}

impl RecipientConfig {
    /// The names of identities that its messages are made of; `None` where it is told whatever there is.
    pub fn identities(&self) -> Option<Vec<&str>> {
        match &self.protocol {
            Protocol::Webhook(_) | Protocol::OpenDsr(_) | Protocol::Command(_) => None,
            Protocol::Http(http) => http.call.identities(),
            Protocol::Sql(sql) => Some(sql.columns.keys().map(String::as_str).collect()),
        }
    }
}

/// What a recipient speaks, and how it is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Standard Webhooks.
    Webhook(WebhookRecipient),
    /// OpenDSR 2.0, or OpenGDPR as it was called.
    OpenDsr(OpenDsrRecipient),
    /// A call over HTTP that is described in the configuration.
    Http(HttpRecipient),
    /// A program of the operator's.
    Command(CommandRecipient),
    /// A table of a registered store, whose rows are removed.
    Sql(SqlRecipient),
}

impl Protocol {
    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Protocol::Webhook(_) => "webhook",
            Protocol::OpenDsr(_) => "opendsr",
            Protocol::Http(_) => "http",
            Protocol::Command(_) => "command",
            Protocol::Sql(_) => "sql",
        }
    }
}

/// When a notice counts as completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ack {
    /// When the recipient has answered that it has received it.
    Response,
    /// When the recipient has said by itself that it is done.
    Callback,
    /// When the recipient, being asked, says that it is done.
    Poll,
}

impl Ack {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Ack::Response => "response",
            Ack::Callback => "callback",
            Ack::Poll => "poll",
        }
    }
}

/// Which protocol, before the rest is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Webhook,
    OpenDsr,
    Http,
    Command,
    Sql,
}

impl Kind {
    const ALL: [(&'static str, Kind); 5] = [
        ("webhook", Kind::Webhook),
        ("opendsr", Kind::OpenDsr),
        ("http", Kind::Http),
        ("command", Kind::Command),
        ("sql", Kind::Sql),
    ];

    /// The keys that it alone, or not every protocol, has.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Kind::Webhook => &webhook::KEYS,
            Kind::OpenDsr => &opendsr::KEYS,
            Kind::Http => &call::KEYS,
            Kind::Command => &own::KEYS_OF_COMMAND,
            Kind::Sql => &own::KEYS_OF_SQL,
        }
    }

    fn as_str(self) -> &'static str {
        Kind::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// Reads one recipient.
pub(super) fn read(
    context: Context<'_>,
    name: &Name,
    table: &Table,
    stores: &Stores,
) -> Option<RecipientConfig> {
    let mut reader = Reader::new(context, format!("recipient `{name}`"), table).guarded();
    reader.expect(&[("protocol", "\"webhook\"")]);
    let before = context.problems.count();
    let meant = [
        ("webhooks", "webhook"),
        ("standard-webhooks", "webhook"),
        ("standardwebhooks", "webhook"),
        ("opengdpr", "opendsr"),
        ("https", "http"),
        ("rest", "http"),
        ("api", "http"),
        ("exec", "command"),
        ("program", "command"),
        ("script", "command"),
        ("table", "sql"),
        ("database", "sql"),
    ];
    let kind = reader.choice("protocol", &Kind::ALL, &meant);
    let general = General::read(&mut reader, kind.map(|kind| kind.value));
    let Some(kind) = kind else {
        // What is written besides is not judged by a protocol that was not meant.
        for (_, kind) in Kind::ALL {
            for key in kind.keys() {
                reader.entry(key);
            }
        }
        reader.finish();
        return None;
    };
    refuse(&mut reader, kind.value);
    let protocol = match kind.value {
        Kind::Webhook => webhook::read(&mut reader, general.ack).map(Protocol::Webhook),
        Kind::OpenDsr => opendsr::read(&mut reader, general.ack).map(Protocol::OpenDsr),
        Kind::Http => call::read(&mut reader, general.ack, general.at_once).map(Protocol::Http),
        Kind::Command => own::command(&mut reader).map(Protocol::Command),
        Kind::Sql => own::sql(&mut reader, stores).map(Protocol::Sql),
    };
    reader.finish();
    // A default must never stand in for a value that was written and is wrong.
    if context.problems.count() != before {
        return None;
    }
    Some(RecipientConfig {
        name: name.clone(),
        protocol: protocol?,
        ack: general.ack,
        due: general.due,
        at_once: general.at_once,
        concurrency: general.concurrency,
        rate: general.rate,
        poll_every: general.poll_every,
        retries: general.retries,
    })
}

/// Reports keys that only other protocols have.
fn refuse(reader: &mut Reader<'_>, kind: Kind) {
    let own = kind.keys();
    let mut seen = Vec::new();
    for (word, other) in Kind::ALL {
        for key in other.keys().iter().filter(|key| !own.contains(key)) {
            if !seen.contains(key) {
                seen.push(*key);
                let reason = format!("`{key}` is not for `protocol = \"{}\"`", kind.as_str());
                let help = format!("leave it out, or write `protocol = \"{word}\"`");
                reader.refuse(key, &reason, &help);
            }
        }
    }
}

/// What recipients of every protocol have.
struct General {
    ack: Ack,
    due: Duration,
    at_once: usize,
    concurrency: usize,
    rate: Option<f64>,
    poll_every: Duration,
    retries: Vec<Duration>,
}

impl General {
    fn read(reader: &mut Reader<'_>, kind: Option<Kind>) -> General {
        let ack = ack(reader, kind);
        let bounds = Duration::from_mins(1)..=DAY * 3_653;
        let due = reader.days("due", "\"30 days\"", &bounds, "1 minute to 3653 days");
        let at_once = at_once(reader, kind);
        let bounds = Duration::from_secs(1)..=DAY;
        let example = "\"15 minutes\"";
        let poll_every = reader.days("poll_every", example, &bounds, "1 second to 1 day");
        General {
            ack,
            due: due.unwrap_or(30 * DAY),
            at_once,
            concurrency: concurrency(reader, at_once),
            rate: pacing::rate(reader, "\"100 per second\""),
            poll_every: poll_every.unwrap_or(Duration::from_mins(15)),
            retries: retries(reader),
        }
    }
}

fn ack(reader: &mut Reader<'_>, kind: Option<Kind>) -> Ack {
    let words = [Ack::Response, Ack::Callback, Ack::Poll].map(|ack| (ack.as_str(), ack));
    let meant = [("status", "response"), ("receipt", "callback"), ("polling", "poll")];
    let default = if kind == Some(Kind::OpenDsr) { Ack::Poll } else { Ack::Response };
    let Some(ack) = reader.choice("ack", &words, &meant) else { return default };
    let (reason, help) = match (kind, ack.value) {
        (Some(Kind::Webhook), Ack::Poll) => (
            "Standard Webhooks have no way to ask how far it is",
            "write `ack = \"response\"`, or `\"callback\"` where the recipient sends receipts",
        ),
        (Some(Kind::Http), Ack::Callback) => (
            "what a call over HTTP is about cannot be told by receipts",
            "write `ack = \"poll\"`, with `poll`, or `ack = \"response\"`",
        ),
        (Some(Kind::Command | Kind::Sql), Ack::Callback | Ack::Poll) => {
            ("it is done when it has answered", "leave `ack` out")
        }
        _ => return ack.value,
    };
    let message = format!("{}: {reason}", reader.what);
    reader.report(Problem::new(ack.place, message).help(help));
    ack.value
}

fn at_once(reader: &mut Reader<'_>, kind: Option<Kind>) -> usize {
    if kind == Some(Kind::OpenDsr) {
        let reason = "a request of OpenDSR is about one subject";
        reader.refuse("at_once", reason, "leave `at_once` out");
        return 1;
    }
    let default = if kind == Some(Kind::Sql) { 1_000 } else { 1 };
    let at_once = reader.number("at_once", 1..=10_000, "100");
    at_once.and_then(|number| usize::try_from(number.value).ok()).unwrap_or(default)
}

fn concurrency(reader: &mut Reader<'_>, at_once: usize) -> usize {
    let concurrency = reader.number("concurrency", 1..=256, "4");
    let Some(concurrency) = concurrency else { return if at_once > 1 { 1 } else { 4 } };
    if at_once > 1 && concurrency.value > 1 {
        let message =
            format!("{}: messages that name several subjects go one after the other", reader.what);
        let help = "leave `concurrency` out, or write `at_once = 1`";
        reader.report(Problem::new(concurrency.place, message).help(help));
    }
    usize::try_from(concurrency.value).unwrap_or(1)
}

/// How long after each attempt the next one comes.
fn retries(reader: &mut Reader<'_>) -> Vec<Duration> {
    let example = "[\"5 seconds\", \"5 minutes\", \"1 day\"]";
    let bounds = Duration::from_millis(10)..=DAY * 7;
    let Some(words) = reader.words("retries", example) else { return notice::DELAYS.to_vec() };
    let mut delays = Vec::new();
    for word in words {
        match length(word.value, ("retries", example), &bounds, "10 milliseconds to 7 days") {
            Ok(delay) => delays.push(delay),
            Err(Wrong { message, help }) => {
                let message = format!("{}: {message}", reader.what);
                let help = help.unwrap_or_else(|| format!("write `retries = {example}`"));
                reader.report(Problem::new(word.place, message).help(help));
            }
        }
    }
    delays
}

/// Reports recipients that are tables which a rule works on: what goes there goes by the rule, with its holds, its
/// plan and its batches.
pub(super) fn check(
    context: Context<'_>,
    tables: &[(Name, &Table)],
    recipients: &BTreeMap<Name, RecipientConfig>,
    rules: &BTreeMap<Name, Rule>,
    known: &BTreeMap<Name, super::StoreConfig>,
) {
    for recipient in recipients.values() {
        let Protocol::Sql(sql) = &recipient.protocol else { continue };
        let is_store = |other: &Name| {
            let both = known.get(&sql.store).zip(known.get(other));
            sql.store == *other
                || both.is_some_and(|(one, other)| stores::may_be_the_same(one, other))
        };
        let is_table = |rule: &&Rule| {
            matches!(rule.select, Selection::Rows(_))
                && is_store(&rule.store)
                && sharing::is_one_table(&rule.table, &sql.table)
        };
        let Some(rule) = rules.values().find(is_table) else { continue };
        let Some((_, table)) = tables.iter().find(|(name, _)| *name == recipient.name) else {
            continue;
        };
        let place = table.entries.get("table").map_or(table.place, |entry| entry.place);
        let message = format!(
            "recipient `{}`: rule `{}` works on the table {}",
            recipient.name, rule.name, sql.table
        );
        let help = "a table is either a rule's or a recipient's: name another one";
        context.problems.add(Problem::new(place, message).help(help));
    }
}

// --- what several protocols read --------------------------------------------------------------------

/// A file of the configuration's, by its absolute path.
pub(super) fn file(reader: &mut Reader<'_>, key: &'static str, example: &str) -> Option<PathBuf> {
    let file = reader.word(key, example)?;
    if file.value.starts_with('~') {
        let message = format!("{}: `~` is not expanded", reader.what);
        reader.report(Problem::new(file.place, message).help("write the whole path"));
        return None;
    }
    Some(super::urls::absolute(reader.context, file.value))
}

/// How long one answer may take.
fn timeout(reader: &mut Reader<'_>) -> Duration {
    let bounds = Duration::from_millis(1)..=Duration::from_hours(1);
    let example = "\"20 seconds\"";
    let timeout = reader.duration("timeout", example, &bounds, "1 millisecond to 1 hour");
    timeout.unwrap_or(Duration::from_secs(20))
}

/// A secret whose text must not be typed in.
fn secret(reader: &mut Reader<'_>, key: &'static str) -> Option<Secret> {
    if let Some(entry) = reader.entry(key)
        && !matches!(entry.kind, super::Kind::Table(_))
    {
        reader.context.hide_value(entry);
    }
    super::urls::secret(reader, key)
}

/// The table of a recipient's database.
fn table_name(reader: &mut Reader<'_>) -> Option<Located<TableName>> {
    reader.parsed("table", "\"events\"", |text| {
        text.parse::<TableName>().map_err(|error| Wrong::new(error.to_string()))
    })
}
