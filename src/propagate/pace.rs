//! How much a recipient is told at a time: decisions over answers and moments, nothing else.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::notice::Answer;

/// So many failures in a row are trouble of the recipient, not of a message.
const TRIPS: u32 = 5;
/// The first pause after that; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(15);
/// The longest that a recipient is left alone because it asked for it (`Retry-After`).
const LONGEST_WISH: Duration = Duration::from_hours(1);

/// Keeps a recipient that is in trouble from being bothered by every notice.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Breaker {
    failures: u32,
    state: State,
    /// Until when the recipient has asked to be left alone.
    wish: Option<Timestamp>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum State {
    /// All is well, as far as is known.
    #[default]
    Closed,
    /// Nothing is sent before this moment, and then one message alone.
    Open { until: Timestamp },
    /// That one is under way.
    Trying,
    /// Nothing is sent until somebody has looked.
    Stopped,
}

/// What an answer says of the recipient as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// It answers again.
    Well,
    /// It is in trouble.
    Down(String),
    /// It wants to be told nothing any more.
    Stopped,
}

impl Breaker {
    /// Whether anything may be sent now.
    pub fn lets_through(&self, now: Timestamp) -> bool {
        let is_left_alone = self.wish.is_some_and(|until| now < until);
        let is_open = match self.state {
            State::Closed => true,
            State::Open { until } => now >= until,
            State::Trying | State::Stopped => false,
        };
        is_open && !is_left_alone
    }

    /// Whether messages go one at a time, because it is not known whether the recipient is well again.
    pub fn is_cautious(&self) -> bool {
        self.state != State::Closed
    }

    /// Whether nothing is sent until somebody has looked.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    /// When something may be sent again, where that is known.
    pub fn until(&self) -> Option<Timestamp> {
        let open = match self.state {
            State::Open { until } => Some(until),
            State::Closed | State::Trying | State::Stopped => None,
        };
        open.max(self.wish)
    }

    /// A message is sent.
    pub fn set_out(&mut self) {
        if matches!(self.state, State::Open { .. }) {
            self.state = State::Trying;
        }
    }

    /// The recipient wants to be told nothing any more.
    pub fn stop(&mut self) {
        self.state = State::Stopped;
    }

    /// Somebody has looked, and it may be tried again.
    pub fn resume(&mut self) {
        *self = Breaker::default();
    }

    /// Takes an answer in; gives what is new about the recipient.
    pub fn heed(&mut self, answer: &Answer, now: Timestamp) -> Option<News> {
        match answer {
            Answer::Gone => {
                let is_news = self.state != State::Stopped;
                self.stop();
                is_news.then_some(News::Stopped)
            }
            Answer::Later { is_down: true, after, why } => {
                self.failures = self.failures.saturating_add(1);
                let trips = self.state == State::Trying
                    || (self.state == State::Closed && self.failures >= TRIPS);
                if !trips {
                    return None;
                }
                let is_news = self.state == State::Closed;
                let pause = pause(self.failures).max(after.unwrap_or_default().min(LONGEST_WISH));
                self.state = State::Open { until: later(now, pause) };
                is_news.then(|| News::Down(why.clone()))
            }
            Answer::Later { is_down: false, after, .. } => {
                if let Some(after) = after {
                    let until = later(now, (*after).min(LONGEST_WISH));
                    self.wish = self.wish.max(Some(until));
                }
                self.recover()
            }
            _ => {
                self.wish = self.wish.filter(|until| now < *until);
                self.recover()
            }
        }
    }

    /// It answers, whatever it says.
    fn recover(&mut self) -> Option<News> {
        self.failures = 0;
        match self.state {
            State::Open { .. } | State::Trying => {
                self.state = State::Closed;
                Some(News::Well)
            }
            State::Closed | State::Stopped => None,
        }
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(TRIPS)).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

fn later(now: Timestamp, pause: Duration) -> Timestamp {
    let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
    now.checked_add(pause).unwrap_or(Timestamp::MAX)
}

/// Bounds how many messages are sent in a second: as many as have dripped in since, and a tenth of a second's at most
/// at once.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bucket {
    rate: f64,
    level: f64,
}

impl Bucket {
    /// For so many a second.
    pub fn new(rate: f64) -> Bucket {
        Bucket { rate, level: 1.0 }
    }

    fn most(self) -> f64 {
        (self.rate / 10.0).max(1.0)
    }

    /// So much time has passed.
    pub fn fill(&mut self, time: Duration) {
        self.level = (self.level + self.rate * time.as_secs_f64()).min(self.most());
    }

    /// Takes one, where there is one.
    pub fn take(&mut self) -> bool {
        let has = self.level >= 1.0;
        if has {
            self.level -= 1.0;
        }
        has
    }

    /// How long until there is one.
    pub fn until_next(&self) -> Duration {
        Duration::from_secs_f64(((1.0 - self.level) / self.rate).clamp(0.0, 3_600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn down() -> Answer {
        Answer::Later { after: None, why: "ads.example answered 500".into(), is_down: true }
    }

    #[test]
    fn a_recipient_in_trouble_is_tried_now_and_then_and_alone() {
        let mut breaker = Breaker::default();
        for _ in 1..TRIPS {
            assert_eq!(breaker.heed(&down(), at(0)), None);
            assert!(breaker.lets_through(at(0)) && !breaker.is_cautious());
        }
        assert!(matches!(breaker.heed(&down(), at(0)), Some(News::Down(_))));
        // Others that were under way change nothing.
        assert_eq!(breaker.heed(&down(), at(1)), None);
        assert!(!breaker.lets_through(at(14)));
        assert!(breaker.lets_through(at(15)) && breaker.is_cautious());
        breaker.set_out();
        assert!(!breaker.lets_through(at(15)), "one is under way");
        assert_eq!(breaker.heed(&down(), at(20)), None);
        let until = breaker.until().unwrap();
        assert!(until > at(35) && until <= at(20 + 60), "{until}");
        breaker.set_out();
        assert_eq!(breaker.heed(&Answer::Completed, until), Some(News::Well));
        assert!(breaker.lets_through(until) && !breaker.is_cautious());
    }

    #[test]
    fn pauses_grow_and_have_an_end() {
        assert_eq!(pause(TRIPS), FIRST_PAUSE);
        assert_eq!(pause(TRIPS + 2), FIRST_PAUSE * 4);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn who_asks_to_be_left_alone_is_and_is_not_in_trouble() {
        let mut breaker = Breaker::default();
        let after = Some(Duration::from_secs(30));
        let busy = Answer::Later { after, why: "too many".into(), is_down: false };
        assert_eq!(breaker.heed(&busy, at(0)), None);
        assert!(!breaker.lets_through(at(29)) && breaker.lets_through(at(30)));
        assert!(!breaker.is_cautious());
        let never = Answer::Later {
            after: Some(Duration::from_hours(1_000)),
            why: String::new(),
            is_down: false,
        };
        breaker.heed(&never, at(0));
        assert_eq!(breaker.until(), Some(at(3_600)));
    }

    #[test]
    fn who_wants_nothing_more_is_sent_nothing_until_somebody_has_looked() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.heed(&Answer::Gone, at(0)), Some(News::Stopped));
        assert_eq!(breaker.heed(&Answer::Gone, at(0)), None);
        assert_eq!(breaker.heed(&Answer::Completed, at(0)), None);
        assert!(!breaker.lets_through(at(1_000_000)));
        breaker.resume();
        assert!(breaker.lets_through(at(0)));
    }

    #[test]
    fn a_rate_is_kept() {
        let mut bucket = Bucket::new(100.0);
        let mut sent = 0;
        for _ in 0..1_000 {
            while bucket.take() {
                sent += 1;
            }
            bucket.fill(Duration::from_millis(5));
        }
        assert!((499..=501).contains(&sent), "{sent}");
        // What was not used does not add up.
        bucket.fill(Duration::from_hours(1));
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 10);
        let mut slow = Bucket::new(0.5);
        assert!(slow.take() && !slow.take());
        assert_eq!(slow.until_next(), Duration::from_secs(2));
    }
}
