//! What is made of a secret, kept for a little while: a file need not be read for each message, and one that was
//! exchanged is soon in use.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

use super::Obstacle;
use crate::config::Secret;

const FOR: SignedDuration = SignedDuration::from_mins(1);

/// A secret, and what was made of it.
pub(super) struct Kept<T> {
    secret: Secret,
    kept: Mutex<Option<(Timestamp, Arc<T>)>>,
}

/// Shows where the secret is, and nothing of it.
impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.secret).finish()
    }
}

impl<T> Kept<T> {
    pub(super) fn new(secret: Secret) -> Kept<T> {
        Kept { secret, kept: Mutex::default() }
    }

    /// What `read` makes of it. What `read` complains of is said with where the secret is.
    pub(super) fn get(
        &self,
        now: Timestamp,
        read: impl FnOnce(&SecretString) -> Result<T, String>,
    ) -> Result<Arc<T>, Obstacle> {
        // A panic elsewhere leaves a whole pair.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, made)) = &*kept {
            let age = now.duration_since(*at);
            if !age.is_negative() && age < FOR {
                return Ok(made.clone());
            }
        }
        let made = read(&self.secret.read()?);
        let made = made.map_err(|why| Obstacle::Key(format!("{} {why}", self.secret)))?;
        let made = Arc::new(made);
        *kept = Some((now, made.clone()));
        Ok(made)
    }
}
