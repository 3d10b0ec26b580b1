//! What an answer over HTTP means (Standard Webhooks, "Webhook responses"; RFC 9110, 10.2.3 and 15). Pure.

use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::RETRY_AFTER;
use jiff::Timestamp;
use jiff::fmt::rfc2822;

use super::Ailment;
use crate::notice::Answer;
use crate::outbound::Reply;

/// What an answer means, unless it is a success.
pub(super) fn refusal(reply: &Reply, now: Timestamp) -> Option<Answer> {
    let Reply { host, status, headers, .. } = reply;
    if status.is_success() {
        return None;
    }
    let after = retry_after(headers, now);
    let why = format!("{host} answered {}", status.as_u16());
    Some(match status.as_u16() {
        410 => Answer::Gone,
        408 | 425 | 429 => Answer::Later { after, why, is_down: false },
        // What it does not believe of one message it believes of none: a token has run out, a secret was changed.
        401 | 403 | 407 | 500.. => Answer::Later { after, why, is_down: true },
        300..=399 => Answer::Failed(format!("{why}, and redirections are not followed")),
        _ => Answer::Failed(why),
    })
}

/// How long a server asks to be left alone: in seconds, or until a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = rfc2822::parse(text).ok()?.timestamp();
    // A date that is over asks for nothing.
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// What a status that is no success may mean, for people.
pub(super) fn ailment(reply: &Reply) -> Option<Ailment> {
    let status = reply.status;
    if status.is_success() {
        return None;
    }
    let hint = match status.as_u16() {
        300..400 => "redirections are not followed, so write the URL that it leads to",
        400 | 422 => "it does not understand the message",
        401 | 403 => {
            "it does not take the signature or the authorization: are the secrets the same on both sides?"
        }
        404 | 405 => "there is nothing under this URL that takes messages",
        410 => "it does not want to be told anything any more",
        429 => "it is told too much at a time: set a `rate`",
        500.. => "it is in trouble itself",
        _ => "this is no success",
    };
    Some(Ailment::Status { host: reply.host.clone(), status: status.as_u16(), hint })
}

#[cfg(test)]
mod tests {
    use ::http::StatusCode;

    use super::*;

    fn reply(status: u16, after: &str) -> Reply {
        let mut headers = HeaderMap::new();
        if !after.is_empty() {
            headers.insert(RETRY_AFTER, after.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        Reply { host: "h".to_owned(), status, headers, body: None }
    }

    fn now() -> Timestamp {
        "1994-11-06T08:49:00Z".parse().unwrap()
    }

    #[test]
    fn only_a_status_of_success_is_one() {
        for status in 200..300 {
            assert_eq!(refusal(&reply(status, ""), now()), None);
            assert!(ailment(&reply(status, "")).is_none());
        }
        for status in (300..400).chain([400, 404, 409, 422, 451]) {
            let answer = refusal(&reply(status, ""), now());
            assert!(matches!(answer, Some(Answer::Failed(_))), "{status}: {answer:?}");
            assert!(ailment(&reply(status, "")).is_some());
        }
        assert_eq!(refusal(&reply(410, ""), now()), Some(Answer::Gone));
        let down = [401, 403, 407, 500, 502, 503, 504, 599].map(|status| (status, true));
        for (status, down) in [408, 425, 429].map(|status| (status, false)).into_iter().chain(down)
        {
            let answer = refusal(&reply(status, "7"), now());
            let Some(Answer::Later { after, is_down, .. }) = answer else { panic!("{status}") };
            assert_eq!((after, is_down), (Some(Duration::from_secs(7)), down), "{status}");
        }
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("99999999999", Some(99_999_999_999)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
        ] {
            let asked = retry_after(&reply(429, text).headers, now());
            assert_eq!(asked, seconds.map(Duration::from_secs), "{text}");
        }
    }
}
