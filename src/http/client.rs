//! The other side of the socket, for the command line.

use std::path::Path;

use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;

use crate::outbound;

/// What a daemon said to events that were handed to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It has taken them in.
    Accepted {
        /// Those that were new.
        new: u64,
        /// Those that were there already.
        known: u64,
    },
    /// It has not, and says why.
    Refused(String),
    /// No daemon answers at the socket.
    Nobody,
    /// It did not answer, or not in words that this version knows: whether it has taken them is unknown.
    Unclear,
}

/// Hands events to the daemon at a socket, as JSON.
pub async fn hand_in(socket: &Path, events: String) -> Answer {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Accepted { accepted: u64, known: u64 },
        Refused { error: String },
    }

    let Ok(client) = outbound::over_socket(socket) else { return Answer::Nobody };
    let request = client.post("http://expunged/v1/events");
    let request = request.header(CONTENT_TYPE, "application/json").body(events);
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => return Answer::Nobody,
        Err(_) => return Answer::Unclear,
    };
    let status = answer.status();
    let said = answer.bytes().await.ok().and_then(|said| serde_json::from_slice(&said).ok());
    match (status, said) {
        (StatusCode::ACCEPTED, Some(Said::Accepted { accepted, known })) => {
            Answer::Accepted { new: accepted, known }
        }
        (_, Some(Said::Refused { error })) => Answer::Refused(error),
        _ => Answer::Unclear,
    }
}
