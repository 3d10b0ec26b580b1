//! Propagation: recipients are told of deletions, and asked how far they are, until each notice is over.
//!
//! One *courier* for each recipient, so that none waits for another. It holds the recipient's lock in the ledger, takes
//! notices from the queue in order, has several of them told at a time outside any transaction, and writes what came
//! of them down in groups: one durable write for as many as have come back meanwhile. What was told and not written
//! down when the process dies is told again, under the same id.
//!
//! When a recipient as a whole is in trouble its courier stops bothering it, but for a try now and then
//! ([`pace::Breaker`]); its notices wait and lose none of their attempts by that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::{self, JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::{self, Stopwatch};
use crate::config::{Ack, Protocol, RecipientConfig};
use crate::hold::Holds;
use crate::ledger::{Answered, Ledger, LedgerError, Queued, RecipientLock};
use crate::notice::{self, Answer, Message, Order};
use crate::recipient::{Recipient, Recipients};
use crate::rule::Rule;
use crate::types::Name;
use crate::upkeep::{AGAIN, keep_up};

pub mod pace;

use pace::{Breaker, Bucket, News};

/// How often the queue is looked at although nobody has said that there is anything in it: another process may have
/// left something.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a lock that somebody else holds is tried.
const LOCK_EVERY: Duration = Duration::from_secs(1);
/// How long after a ledger that failed is asked again.
const LEDGER_AGAIN: Duration = Duration::from_secs(5);
/// How often overdue notices are looked for.
const OVERDUE_EVERY: Duration = Duration::from_mins(1);
/// Not more often than this: a moment that has passed already is no reason to do nothing else.
const SHORTEST: Duration = Duration::from_millis(5);
/// Notices that are read at once.
const MOST_AHEAD: usize = 512;
/// Subjects that these name together, as far as one notice names no more.
const MOST_SUBJECTS: usize = 10_000;
/// Notices of one recipient that may be told without that being written down.
const MOST_UNSETTLED: usize = 2_048;
/// Answers that are written down in one transaction.
const GROUP: usize = 512;

/// The rules of a configuration, by name.
type Rules = BTreeMap<Name, Rule>;

/// Couriers at work. Dropped, they end at once; what they have told is told again.
#[derive(Debug)]
pub struct Propagation {
    stop: CancellationToken,
    couriers: JoinSet<()>,
}

impl Propagation {
    /// Sends a courier to each recipient.
    pub fn start(ledger: &Ledger, recipients: &Recipients, rules: &Arc<Rules>) -> Propagation {
        let stop = CancellationToken::new();
        let mut couriers = JoinSet::new();
        for (_, recipient) in recipients.iter() {
            let (ledger, rules) = (ledger.clone(), rules.clone());
            let teller = Teller { recipient: recipient.clone(), ledger, rules };
            let what = format!("telling {}", recipient.config.name);
            let attend = move |stop| attend(teller.clone(), stop);
            couriers.spawn(keep_up(what, AGAIN, stop.clone(), attend));
        }
        let (what, ledger) = ("looking for overdue notices".to_owned(), ledger.clone());
        let watch = move |stop| watch_due_times(ledger.clone(), stop);
        couriers.spawn(keep_up(what, AGAIN, stop.clone(), watch));
        Propagation { stop, couriers }
    }

    /// Lets what is being told come to its end and be written down; for how long is the caller's to say.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.couriers.join_next().await.is_some() {}
    }
}

/// Tells one recipient, or asks it.
#[derive(Clone)]
struct Teller {
    recipient: Arc<Recipient>,
    ledger: Ledger,
    rules: Arc<Rules>,
}

impl Teller {
    async fn run(self, errand: Errand) -> (Errand, Answer) {
        let now = clock::now();
        let is_table = matches!(self.recipient.config.protocol, Protocol::Sql(_));
        let answer = match &errand {
            Errand::Tell(notice) if is_table => self.remove(&notice.message, now).await,
            Errand::Tell(notice) => self.recipient.tell(&notice.message, now).await,
            Errand::Ask(notice) => {
                self.recipient.ask(&notice.message, notice.job.as_deref(), now).await
            }
        };
        (errand, answer)
    }

    /// Has rows removed from the recipient's table, but for those that legal holds cover. A hold that is placed
    /// meanwhile waits for this.
    async fn remove(&self, message: &Message, now: Timestamp) -> Answer {
        let not_now = |why: String| Answer::Later { after: None, why, is_down: false };
        let lock = match self.ledger.lock_removal().await {
            Ok(Some(lock)) => lock,
            Ok(None) => return not_now("a legal hold is being placed".to_owned()),
            Err(error) => return not_now(error.to_string()),
        };
        let holds = match self.ledger.held().await {
            Ok((_, holds)) => Holds::new(&self.rules, holds),
            Err(error) => return not_now(error.to_string()),
        };
        let answer = self.recipient.tell_heeding(message, &holds, now).await;
        drop(lock);
        answer
    }
}

/// Says which notices have become overdue, as they do.
async fn watch_due_times(ledger: Ledger, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match ledger.mark_overdue(clock::now()).await {
            Ok(overdue) => {
                for (recipient, notices) in overdue {
                    tracing::warn!(%recipient, notices, "notices are overdue: see `expunged notices list --overdue`");
                }
            }
            Err(error) => tracing::warn!(%error, "overdue notices cannot be looked for"),
        }
        rest(OVERDUE_EVERY, &stop).await;
    }
}

async fn rest(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stop.cancelled() => {}
    }
}

/// Attends to a recipient until it is stopped: nobody else does at the same time.
async fn attend(teller: Teller, stop: CancellationToken) {
    let (ledger, name) = (teller.ledger.clone(), teller.recipient.config.name.clone());
    let mut waits = false;
    while !stop.is_cancelled() {
        match ledger.lock_recipient(&name).await {
            Ok(Some(lock)) => {
                waits = false;
                let mut courier = Courier::new(&teller, lock, &stop);
                if let Err(error) = courier.work().await {
                    tracing::error!(recipient = %name, %error, "notices wait until the ledger answers again");
                    rest(LEDGER_AGAIN, &stop).await;
                }
            }
            Ok(None) => {
                if !waits {
                    tracing::debug!(recipient = %name, "another process tells this recipient");
                }
                waits = true;
                rest(LOCK_EVERY, &stop).await;
            }
            Err(error) => {
                tracing::error!(recipient = %name, %error, "notices wait until the ledger answers again");
                rest(LEDGER_AGAIN, &stop).await;
            }
        }
    }
}

/// Whoever tells one recipient.
struct Courier<'a> {
    teller: &'a Teller,
    ledger: &'a Ledger,
    config: &'a RecipientConfig,
    name: Name,
    lock: RecipientLock,
    stop: &'a CancellationToken,
    /// Read from the ledger, and neither told nor asked about yet.
    queue: VecDeque<Errand>,
    /// How far the ledger's queue was read.
    reached: i64,
    /// Whether there may be more of it from there on.
    more: bool,
    /// Under way, or come back and not written down: the ledger still has them in its queue.
    unsettled: BTreeSet<i64>,
    under_way: JoinSet<(Errand, Answer)>,
    /// Whom the tasks under way are about, for the one that a defect ends.
    tasks: BTreeMap<task::Id, (i64, Uuid)>,
    /// What has come back and is not being written down yet.
    answers: Vec<Answered>,
    /// The group that is being written down.
    settling: Option<JoinHandle<Result<Vec<i64>, LedgerError>>>,
    breaker: Breaker,
    bucket: Option<Bucket>,
    since_filled: Stopwatch,
    news: Option<News>,
}

/// What is done about a notice.
enum Errand {
    Tell(Queued),
    Ask(Queued),
}

impl Errand {
    fn notice(&self) -> &Queued {
        match self {
            Errand::Tell(notice) | Errand::Ask(notice) => notice,
        }
    }
}

/// What a courier is woken by.
enum Woken {
    Back(Result<(task::Id, (Errand, Answer)), JoinError>),
    Settled(Result<Vec<i64>, LedgerError>),
    Written,
    Time,
    Stop,
}

impl<'a> Courier<'a> {
    fn new(teller: &'a Teller, lock: RecipientLock, stop: &'a CancellationToken) -> Courier<'a> {
        let config = &teller.recipient.config;
        Courier {
            teller,
            ledger: &teller.ledger,
            config,
            name: config.name.clone(),
            lock,
            stop,
            queue: VecDeque::new(),
            reached: 0,
            more: true,
            unsettled: BTreeSet::new(),
            under_way: JoinSet::new(),
            tasks: BTreeMap::new(),
            answers: Vec::new(),
            settling: None,
            breaker: Breaker::default(),
            bucket: config.rate.map(Bucket::new),
            since_filled: Stopwatch::start(),
            news: None,
        }
    }

    /// Works until it is stopped and all that came back is written down.
    async fn work(&mut self) -> Result<(), LedgerError> {
        if self.ledger.has_stopped(&self.name).await? {
            self.breaker.stop();
        }
        let written = self.ledger.notices_written();
        loop {
            // From here on none is missed, whatever is looked at meanwhile.
            let mut told = pin!(written.notified());
            told.as_mut().enable();
            let stops = self.stop.is_cancelled();
            if stops {
                self.queue.clear();
            } else {
                self.refill().await?;
                self.set_out();
            }
            self.settle();
            self.pass_on().await?;
            let is_idle = self.under_way.is_empty() && self.settling.is_none();
            if stops && is_idle {
                return Ok(());
            }
            let time = if stops { LOOK_EVERY } else { self.until_next_look(is_idle).await? };
            match self.wait(time, told).await {
                Woken::Back(back) => self.came_back(back),
                Woken::Settled(settled) => self.written_down(&settled?),
                Woken::Written => self.more = true,
                Woken::Time => self.look_anew().await?,
                Woken::Stop => {}
            }
            while let Some(back) = self.under_way.try_join_next_with_id() {
                self.came_back(back);
            }
        }
    }

    async fn wait(&mut self, time: Duration, told: impl Future<Output = ()>) -> Woken {
        let stop = async {
            // Once known, it is no news any more.
            if self.stop.is_cancelled() { pending().await } else { self.stop.cancelled().await }
        };
        let settled = async {
            match &mut self.settling {
                Some(settling) => settling.await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some(back) = self.under_way.join_next_with_id() => Woken::Back(back),
            // A defect in it has been logged; what it was to write down is told again, by another courier.
            settled = settled => Woken::Settled(settled.unwrap_or(Err(LedgerError::Unwritten))),
            () = told => Woken::Written,
            () = tokio::time::sleep(time) => Woken::Time,
            () = stop => Woken::Stop,
        }
    }

    /// Lists go one after the other, and the next one only when the last is written down. It does not matter which rows of
    /// a table go first, and one that a legal hold keeps may do so for long.
    fn order(&self) -> Order {
        match self.config.protocol {
            _ if self.config.at_once == 1 => Order::Lanes,
            Protocol::Sql(_) => Order::Free,
            _ => Order::Lists,
        }
    }

    fn goes_in_order(&self) -> bool {
        self.order() == Order::Lists
    }

    fn most_under_way(&self) -> usize {
        let is_careful = self.config.at_once > 1 || self.breaker.is_cautious();
        if is_careful { 1 } else { self.config.concurrency }
    }

    /// Notices that are read at once: memory stays flat however many subjects each names.
    fn ahead(&self) -> u32 {
        let notices = (MOST_SUBJECTS / self.config.at_once).clamp(1, MOST_AHEAD);
        u32::try_from(notices).unwrap_or(1)
    }

    /// Reads on where little is left of what was read.
    async fn refill(&mut self) -> Result<(), LedgerError> {
        let now = clock::now();
        let is_full = self.unsettled.len() >= MOST_UNSETTLED;
        let has_enough = self.queue.len() > self.most_under_way();
        let waits = self.goes_in_order() && !self.unsettled.is_empty();
        if !self.more || is_full || has_enough || waits || !self.breaker.lets_through(now) {
            return Ok(());
        }
        // What this one tells, nobody else may tell meanwhile.
        if !self.lock.is_held().await? {
            return Err(LedgerError::RecipientLockLost(self.name.clone()));
        }
        let ahead = self.ahead();
        if self.config.ack == Ack::Poll && self.reached == 0 {
            let asked = self.ledger.notices_to_ask_about(&self.name, ahead, now).await?;
            self.line_up(asked.into_iter().map(Errand::Ask));
        }
        let after = if self.goes_in_order() { 0 } else { self.reached };
        let told = self.ledger.queued_notices(&self.name, self.order(), after, ahead, now).await?;
        self.more = told.len() == ahead as usize;
        self.reached = told.last().map_or(self.reached, |last| last.seq);
        self.line_up(told.into_iter().map(Errand::Tell));
        Ok(())
    }

    fn line_up(&mut self, errands: impl Iterator<Item = Errand>) {
        let waiting: BTreeSet<i64> = self.queue.iter().map(|errand| errand.notice().seq).collect();
        for errand in errands {
            let seq = errand.notice().seq;
            if !self.unsettled.contains(&seq) && !waiting.contains(&seq) {
                self.queue.push_back(errand);
            }
        }
    }

    /// Begins with the queue anew: what was put off, or stood behind something, may have its turn by now.
    async fn look_anew(&mut self) -> Result<(), LedgerError> {
        (self.reached, self.more) = (0, true);
        if self.breaker.is_stopped() && !self.ledger.has_stopped(&self.name).await? {
            self.breaker.resume();
        }
        Ok(())
    }

    /// Has as many under way as the recipient bears.
    fn set_out(&mut self) {
        let now = clock::now();
        if let Some(bucket) = &mut self.bucket {
            bucket.fill(self.since_filled.elapsed());
            self.since_filled = Stopwatch::start();
        }
        while self.under_way.len() < self.most_under_way()
            && self.unsettled.len() < MOST_UNSETTLED
            && !self.queue.is_empty()
            && self.breaker.lets_through(now)
            && self.bucket.as_mut().is_none_or(Bucket::take)
        {
            let Some(errand) = self.queue.pop_front() else { return };
            let (seq, id) = (errand.notice().seq, errand.notice().message.id);
            self.breaker.set_out();
            self.unsettled.insert(seq);
            let task = self.under_way.spawn(self.teller.clone().run(errand));
            self.tasks.insert(task.id(), (seq, id));
        }
    }

    /// Takes an answer in, and decides when the notice has its next turn.
    fn came_back(&mut self, back: Result<(task::Id, (Errand, Answer)), JoinError>) {
        let now = clock::now();
        let answered = match back {
            Ok((task, (errand, answer))) => {
                self.tasks.remove(&task);
                self.news = self.breaker.heed(&answer, now).or(self.news.take());
                let waits = matches!(answer, Answer::Later { is_down: true, .. } | Answer::Gone);
                if waits && self.goes_in_order() && matches!(errand, Errand::Tell(_)) {
                    // The next one may not overtake it.
                    self.queue.clear();
                }
                judge(self.config, &errand, answer, now, chance())
            }
            Err(error) => {
                let Some((seq, id)) = self.tasks.remove(&error.id()) else { return };
                tracing::error!(recipient = %self.name, %error, "telling a notice came to no end");
                let later = |is_down| {
                    let why = "expunged failed while telling it: see its log".to_owned();
                    Answer::Later { after: None, why, is_down }
                };
                // It may have been the one by which a recipient in trouble is tried; and the others do not wait for it.
                self.news = self.breaker.heed(&later(true), now).or(self.news.take());
                let answer = later(false);
                Answered { seq, id, answer, next_at: Some(now + SignedDuration::from_mins(5)) }
            }
        };
        self.answers.push(answered);
    }

    /// Has what came back written down, unless something is being written down: then all that comes back meanwhile
    /// goes together.
    fn settle(&mut self) {
        if self.settling.is_some() || self.answers.is_empty() {
            return;
        }
        let group: Vec<_> = self.answers.drain(..self.answers.len().min(GROUP)).collect();
        let (ledger, name) = (self.ledger.clone(), self.name.clone());
        self.settling = Some(tokio::spawn(async move {
            ledger.settle_notices(&name, &group, clock::now()).await?;
            Ok(group.iter().map(|answered| answered.seq).collect())
        }));
    }

    fn written_down(&mut self, notices: &[i64]) {
        self.settling = None;
        for seq in notices {
            self.unsettled.remove(seq);
        }
        if self.unsettled.is_empty() {
            // What stood behind them has its turn.
            (self.reached, self.more) = (0, true);
        }
    }

    /// Tells people and the ledger what is new of the recipient as a whole.
    async fn pass_on(&mut self) -> Result<(), LedgerError> {
        let (ledger, name, now) = (self.ledger, &self.name, clock::now());
        match self.news.take() {
            None => Ok(()),
            Some(News::Well) => {
                tracing::info!(recipient = %name, "the recipient answers again");
                ledger.note_recipient(name, None, false, now).await
            }
            Some(News::Down(why)) => {
                tracing::warn!(recipient = %name, why, "the recipient is in trouble: its notices wait, and it is tried now and then");
                ledger.note_recipient(name, Some(&why), false, now).await
            }
            Some(News::Stopped) => {
                tracing::error!(recipient = %name, "the recipient wants to be told nothing any more (410): its notices wait until `expunged notices retry`");
                let why = "it answered 410 Gone";
                ledger.note_recipient(name, Some(why), true, now).await
            }
        }
    }

    /// How long nothing can happen that nobody would say.
    async fn until_next_look(&mut self, is_idle: bool) -> Result<Duration, LedgerError> {
        let now = clock::now();
        let mut next = None;
        if !self.breaker.lets_through(now) {
            next = self.breaker.until();
        } else if !self.queue.is_empty() {
            let limited = self.bucket.map(|bucket| bucket.until_next());
            return Ok(limited.unwrap_or(LOOK_EVERY).clamp(SHORTEST, LOOK_EVERY));
        } else if is_idle {
            next = self.ledger.next_notice_after(&self.name, now).await?;
        }
        let wait = next.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
        Ok(wait.unwrap_or(LOOK_EVERY).clamp(SHORTEST, LOOK_EVERY))
    }
}

/// When a notice has its next turn, and whether it has none any more.
fn judge(
    config: &RecipientConfig,
    errand: &Errand,
    answer: Answer,
    now: Timestamp,
    chance: f64,
) -> Answered {
    let notice = errand.notice();
    let after = |time: Duration| {
        let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        Some(now.checked_add(time).unwrap_or(Timestamp::MAX))
    };
    let attempts = notice.attempts.saturating_add(1);
    let (answer, next_at) = match (errand, answer) {
        (Errand::Tell(_), Answer::Later { why, .. })
            if notice::is_hopeless(&config.retries, attempts, notice.due_at, now) =>
        {
            (Answer::Failed(why), None)
        }
        (Errand::Tell(_), Answer::Later { after: asked, why, is_down }) => {
            let delay = notice::delay(&config.retries, attempts, asked, chance);
            (Answer::Later { after: asked, why, is_down }, after(delay))
        }
        (Errand::Ask(_), Answer::Later { after: asked, why, is_down }) => {
            let delay = config.poll_every.max(asked.unwrap_or_default());
            (Answer::Later { after: asked, why, is_down }, after(delay))
        }
        // It is told when somebody has looked at the recipient.
        (_, Answer::Gone) => (Answer::Gone, Some(now)),
        (_, answer @ (Answer::Sent { .. } | Answer::Accepted)) => {
            let asks = config.ack == Ack::Poll;
            (answer, if asks { after(config.poll_every) } else { None })
        }
        (_, answer) => (answer, None),
    };
    Answered { seq: notice.seq, id: notice.message.id, answer, next_at }
}

/// A number from 0 to 1, any.
fn chance() -> f64 {
    f64::from(u16::from_ne_bytes(clock::random_bytes())) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests;
