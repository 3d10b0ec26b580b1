//! expunged's own secrets, in a folder that only it can read.
//!
//! | file | what for | when it is lost |
//! |---|---|---|
//! | `audit-signing.key` | signs the audit log's checkpoints | the log cannot go on under its name |
//! | `audit-signing.pub` | the verifier keys, the first one first, for auditors | the last can be made again |
//! | `commitment.key` | turns a record's key into a commitment | no record can be shown to be in the log |
//! | `intent.key` | encrypts the keys in open intents | interrupted batches cannot be resolved |
//! | `pseudonym.key` | makes pseudonyms | the same value gets a new pseudonym |
//!
//! So they are made once, together, and a missing one is never silently replaced. Destroying
//! `commitment.key` on purpose makes the audit log forget what records it speaks of; nothing else in
//! the log is lost by that.
//!
//! While a key is being changed there is one file more, and whoever is killed in between leaves it: with
//! `audit-signing.next` the log itself tells which key goes on (the one that signed its head), with
//! `commitment.next` the old key is still good, or was overwritten and the new one takes its place.

use std::fmt;
use std::path::Path;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;

use crate::audit::Commitments;
use crate::audit::checkpoint::{Checkpoint, CheckpointError};
use crate::audit::note::{NoteError, Signer, Verifier};
use crate::clock;
use crate::types::{Key, Name};

mod folder;

pub use folder::KeysError;

/// The first byte of what [`Keys::seal`] gives: what follows is a nonce and XChaCha20-Poly1305.
const SEALED: u8 = 1;
const NONCE: usize = 24;

type Secret = SecretBox<[u8; 32]>;

/// Which of the two keys goes on with the log while its key is being changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hand {
    /// The present one.
    Present,
    /// The one that replaces it.
    Next,
}

/// expunged's own secrets. `Debug` shows none of them, and they are wiped from memory on drop.
pub struct Keys {
    signer: Signer,
    /// A signing key that is about to replace the present one, or already has in the log.
    next: Option<Signer>,
    /// Verifier keys of before, the first one first.
    retired: Vec<Verifier>,
    commitment: Secret,
    /// The commitment key was destroyed, and the log does not say so yet.
    is_forgetting: bool,
    intent: Secret,
    pseudonym: Secret,
}

/// Sealed bytes that could not be opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the sealed keys of an intent cannot be opened: they are damaged, belong to something else, or were \
     sealed under another `intent.key`"
)]
pub struct UnsealError;

impl Keys {
    /// Reads the keys from their folder; makes the folder and all of them when none is there yet.
    ///
    /// A process that is killed while it makes them leaves either all of them or none, and of two
    /// processes that make them at the same time both end up with the same ones.
    ///
    /// # Errors
    /// As [`Keys::open`], and when the folder cannot be made or holds other files.
    pub fn open_or_create(dir: &Path) -> Result<Self, KeysError> {
        folder::open_or_create(dir)
    }

    /// Reads the keys from their folder.
    ///
    /// # Errors
    /// When some or all of them are missing, when one is damaged, or when others than the owner may
    /// read a secret or change the folder.
    pub fn open(dir: &Path) -> Result<Self, KeysError> {
        folder::open(dir)
    }

    /// New keys that live only as long as this value: for tests and demonstrations.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    #[expect(clippy::expect_used, reason = "the name is one that notes can carry")]
    pub fn generate() -> Self {
        // Two installations must not have logs of the same name.
        let name = format!("expunged/{}", hex::encode(clock::random_bytes::<8>()));
        let secret = || SecretBox::init_with(clock::random_bytes::<32>);
        let signer = Signer::new(&name, *secret().expose_secret()).expect("a good name");
        Keys {
            signer,
            next: None,
            retired: Vec::new(),
            commitment: secret(),
            is_forgetting: false,
            intent: secret(),
            pseudonym: secret(),
        }
    }

    /// Makes a signing key that is to replace the present one, unless one is there from an earlier
    /// attempt. It signs nothing before the log says that it does.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn prepare_rotation(dir: &Path) -> Result<(), KeysError> {
        folder::prepare_rotation(dir)
    }

    /// Puts the new signing key in the place of the old one, which is overwritten; to be done once
    /// the log goes on under the new one.
    ///
    /// # Errors
    /// When the files cannot be changed.
    pub fn finish_rotation(dir: &Path) -> Result<(), KeysError> {
        folder::finish_rotation(dir)
    }

    /// Overwrites the commitment key after a new one was made, which [`Keys::open`] gives from now on.
    /// [`Keys::finish_forgetting`] is to follow when the log says so.
    ///
    /// # Errors
    /// When the files cannot be changed.
    pub fn forget(dir: &Path) -> Result<(), KeysError> {
        folder::forget(dir)
    }

    /// Whether the commitment key was destroyed by somebody who was killed before the log said so.
    pub fn is_forgetting(&self) -> bool {
        self.is_forgetting
    }

    /// Puts the new commitment key in the place of the destroyed one.
    ///
    /// # Errors
    /// When the files cannot be changed.
    pub fn finish_forgetting(dir: &Path) -> Result<(), KeysError> {
        folder::finish_forgetting(dir)
    }

    /// The name of the audit log: `expunged/` and random digits that came with the signing key.
    pub fn origin(&self) -> &str {
        self.signer.verifier().name()
    }

    /// The public key with which anyone can verify the audit log.
    pub fn verifier(&self) -> &Verifier {
        self.signer.verifier()
    }

    /// All public keys that the log has had up to the one in force, the first one first.
    pub fn verifiers(&self, in_force: Hand) -> Vec<Verifier> {
        let next = self.next_verifier().filter(|_| in_force == Hand::Next);
        self.retired.iter().chain([self.verifier()]).chain(next).cloned().collect()
    }

    /// The public key that is about to follow.
    pub fn next_verifier(&self) -> Option<&Verifier> {
        self.next.as_ref().map(Signer::verifier)
    }

    /// Signs a checkpoint of the audit log.
    pub fn sign_checkpoint(&self, checkpoint: &Checkpoint, hand: Hand) -> String {
        match (&self.next, hand) {
            (Some(next), Hand::Next) => checkpoint.sign(next),
            _ => checkpoint.sign(&self.signer),
        }
    }

    /// Signs a checkpoint with the present key and the next one, so that whoever trusts the one can
    /// trust the other; `None` where there is no next one.
    pub fn sign_rotation(&self, checkpoint: &Checkpoint) -> Option<String> {
        self.next.as_ref()?.cosign(&checkpoint.sign(&self.signer)).ok()
    }

    /// Signs a text, such as a saved plan; other than a checkpoint's, its first line is not the log's
    /// name.
    pub fn sign(&self, text: &str) -> String {
        self.signer.sign(text)
    }

    /// Reads a text that these keys have signed.
    ///
    /// # Errors
    /// When they have not, or it was changed.
    pub fn open_signed<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        self.signer.verifier().verify(note)
    }

    /// Reads the newest checkpoint of this log, and says which key goes on from there: the next one as
    /// soon as it has signed, as then the log says so.
    ///
    /// # Errors
    /// When these keys have not signed it, it was changed, or another key has taken over.
    pub fn open_checkpoint(&self, note: &str) -> Result<(Checkpoint, Hand), CheckpointError> {
        if let Some(next) = self.next_verifier()
            && let Ok(checkpoint) = Checkpoint::open(note, next)
        {
            return Ok((checkpoint, Hand::Next));
        }
        let known: Vec<_> = self.retired.iter().collect();
        if self.verifier().has_rival(note, &known) {
            return Err(CheckpointError::Superseded);
        }
        Ok((Checkpoint::open(note, self.verifier())?, Hand::Present))
    }

    /// The commitment to one record: equal for equal records, and telling nothing without the key.
    pub fn commitment(&self, store: &Name, table: &str, key: &Key) -> [u8; 32] {
        let place = self.place(store, table);
        commit(place, &key.encode())
    }

    /// The commitments to the records of a batch, which all lie in one table.
    pub fn commitments<'a>(
        &self,
        store: &Name,
        table: &str,
        keys: impl IntoIterator<Item = &'a Key>,
    ) -> Commitments {
        self.commitments_to(store, table, keys, Key::encode_to)
    }

    /// The commitments to what `encode` appends the encoding of a key for.
    pub fn commitments_to<T>(
        &self,
        store: &Name,
        table: &str,
        all: impl IntoIterator<Item = T>,
        encode: impl Fn(T, &mut Vec<u8>),
    ) -> Commitments {
        let place = self.place(store, table);
        let mut encoded = Vec::new();
        let commitments = all.into_iter().map(|one| {
            encoded.clear();
            encode(one, &mut encoded);
            commit(place.clone(), &encoded)
        });
        Commitments::new(commitments.collect())
    }

    /// The state of the commitment's HMAC after store and table, which a batch has in common.
    fn place(&self, store: &Name, table: &str) -> Hmac<Sha256> {
        let mut mac = keyed(&self.commitment, "expunged commitment 1");
        update_with_length(&mut mac, store.as_str().as_bytes());
        update_with_length(&mut mac, table.as_bytes());
        mac
    }

    /// The pseudonym of a value: stable within a scope, unrelated between scopes, and not to be
    /// computed or guessed from the value without the key.
    pub fn pseudonym(&self, scope: &str, value: &[u8]) -> [u8; 32] {
        let mut mac = keyed(&self.pseudonym, "expunged pseudonym 1");
        update_with_length(&mut mac, scope.as_bytes());
        commit(mac, value)
    }

    /// Encrypts what only expunged may read, and binds it to where it belongs (`associated_data`,
    /// such as the id of its batch): it cannot be opened anywhere else.
    ///
    /// # Panics
    /// For a plaintext of more than 256 GiB, and when the operating system has no randomness to give.
    #[expect(clippy::expect_used, reason = "it fails only for more than 256 GiB")]
    pub fn seal(&self, plaintext: &[u8], associated_data: &[u8]) -> Vec<u8> {
        // The nonce is random; at 24 bytes none will ever come twice.
        let nonce = clock::random_bytes::<NONCE>();
        let payload = Payload { msg: plaintext, aad: associated_data };
        let sealed = self.cipher().encrypt(&nonce.into(), payload).expect("it is short enough");
        [&[SEALED], nonce.as_slice(), &sealed].concat()
    }

    /// Opens what [`Keys::seal`] made with the same associated data.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn unseal(&self, sealed: &[u8], associated_data: &[u8]) -> Result<Vec<u8>, UnsealError> {
        let sealed = sealed.strip_prefix(&[SEALED]).ok_or(UnsealError)?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>().ok_or(UnsealError)?;
        let payload = Payload { msg: sealed, aad: associated_data };
        self.cipher().decrypt(&(*nonce).into(), payload).map_err(|_| UnsealError)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.intent.expose_secret().into())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("signer", &self.signer).finish_non_exhaustive()
    }
}

/// HMAC-SHA256 for one purpose.
#[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn keyed(secret: &Secret, purpose: &str) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.expose_secret()).expect("any length is good");
    update_with_length(&mut mac, purpose.as_bytes());
    mac
}

/// Takes in a part after its length, so that no two lists of parts look the same.
fn update_with_length(mac: &mut Hmac<Sha256>, part: &[u8]) {
    mac.update(&(part.len() as u64).to_be_bytes());
    mac.update(part);
}

/// Takes in the last part.
fn commit(mut mac: Hmac<Sha256>, part: &[u8]) -> [u8; 32] {
    update_with_length(&mut mac, part);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests;
