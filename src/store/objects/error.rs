//! What can go wrong with an object store. No text here holds a key, a credential or what a server wrote.

use crate::types::Name;

use super::Service;

/// What went wrong with an object store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObjectsError {
    /// The settings cannot be used.
    #[error("store `{store}`: {reason}")]
    Settings {
        /// The store.
        store: Name,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// This binary was built without the service.
    #[error(
        "store `{store}`: this binary was built without {}: build it with `--features {}`",
        service.in_words(),
        service.feature()
    )]
    NotBuilt {
        /// The store.
        store: Name,
        /// What it would be.
        service: Service,
    },
    /// It was opened for reading.
    #[error("store `{store}`: it is open for reading, nothing is deleted")]
    ReadOnly {
        /// The store.
        store: Name,
    },
    /// There are no credentials, or those that there are have run out.
    #[error(
        "store `{store}`: no credentials were found: name a key, or run where the environment or the machine has its own"
    )]
    Credentials {
        /// The store.
        store: Name,
    },
    /// The server said no.
    #[error("store `{store}`: {doing} failed: the server answered {status} {code}{}", advice(code, *status))]
    Refused {
        /// The store.
        store: Name,
        /// What was being done.
        doing: &'static str,
        /// The status of its answer.
        status: u16,
        /// The error's code, as the protocol has it.
        code: String,
    },
    /// The server was too busy each time it was asked.
    #[error("store `{store}`: {doing} failed: the server asks for fewer requests, and went on so")]
    Busy {
        /// The store.
        store: Name,
        /// What was being done.
        doing: &'static str,
    },
    /// No answer came, or only a part of it.
    #[error("store `{store}`: {doing} failed: the server {how}")]
    Unreachable {
        /// The store.
        store: Name,
        /// What was being done.
        doing: &'static str,
        /// In which way.
        how: &'static str,
    },
    /// The answer is not one of the protocol.
    #[error("store `{store}`: {doing} failed: the answer is not one that the protocol has")]
    Answer {
        /// The store.
        store: Name,
        /// What was being done.
        doing: &'static str,
    },
    /// The listing is in no order, so that nothing that rests on the order of keys holds.
    #[error("store `{store}`: the server does not list objects in the order of their keys")]
    Unordered {
        /// The store.
        store: Name,
    },
    /// Whether older versions stay behind cannot be found out.
    #[error(
        "store `{store}`: whether the bucket keeps versions cannot be seen: allow s3:GetBucketVersioning and s3:ListBucketVersions"
    )]
    VersionsHidden {
        /// The store.
        store: Name,
    },
}

impl ObjectsError {
    /// Whether the same step may succeed when it is tried again later.
    pub fn is_transient(&self) -> bool {
        match self {
            ObjectsError::Busy { .. } | ObjectsError::Unreachable { .. } => true,
            ObjectsError::Refused { status, .. } => *status >= 500 && *status != 501,
            _ => false,
        }
    }
}

fn advice(code: &str, status: u16) -> &'static str {
    match code {
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp" | "AuthenticationFailed" => {
            ": the credentials are not the store's"
        }
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => {
            ": the credentials have run out"
        }
        "NoSuchBucket" | "ContainerNotFound" => ": there is no such bucket",
        "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => ": is it another region's?",
        "RequestTimeTooSkewed" => ": this machine's clock is wrong, or the server's",
        _ if status == 403 || status == 401 => ": its credentials do not allow it",
        _ => "",
    }
}

/// A code that an answer gives, if it is one: nothing that could hold a key is quoted.
pub(super) fn plain_code(code: &str) -> String {
    let is_plain =
        (1..=64).contains(&code.len()) && code.chars().all(|c| c.is_ascii_alphanumeric());
    if is_plain { code.to_owned() } else { "without a code".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_code_is_quoted() {
        assert_eq!(plain_code("AccessDenied"), "AccessDenied");
        for other in ["", "users/jane.doe", "a b", &"x".repeat(65)] {
            assert_eq!(plain_code(other), "without a code", "{other}");
        }
    }

    #[test]
    fn a_server_that_is_down_may_be_up_later_and_one_that_says_no_says_it_again() {
        let store: Name = "photos".parse().unwrap();
        let refused = |status| ObjectsError::Refused {
            store: store.clone(),
            doing: "listing",
            status,
            code: "X".to_owned(),
        };
        assert!(refused(500).is_transient());
        assert!(!refused(403).is_transient() && !refused(501).is_transient());
        assert!(ObjectsError::Busy { store: store.clone(), doing: "listing" }.is_transient());
        assert!(!ObjectsError::ReadOnly { store }.is_transient());
    }
}
