//! Signed notes (C2SP signed-note) with Ed25519.
//!
//! A note is text that ends in a newline, an empty line, then signature lines
//! `— <name> base64(key id || signature)`. The key id is the first four bytes of
//! `SHA256(name || 0x0A || 0x01 || public key)`. Keys are written as other tools for notes write them:
//! `name+hex(key id)+base64(0x01 || public key)` and `PRIVATE+KEY+name+hex(key id)+base64(0x01 || seed)`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The type byte of Ed25519 keys.
const ED25519: u8 = 1;
/// What a private key's text begins with.
const PRIVATE: &str = "PRIVATE+KEY+";
/// More signatures than this on one note are not looked at.
const MAX_SIGNATURES: usize = 100;

/// Why a note or a key is not good.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoteError {
    /// A key's name that a note could not carry.
    #[error("a key's name must not be empty and must not contain spaces or `+`")]
    Name,
    /// A text that is not a key.
    #[error("this is not an Ed25519 key for signed notes, or it is damaged")]
    Key,
    /// A text that is not a signed note.
    #[error("this is not a signed note: it takes a text, an empty line and signature lines")]
    Syntax,
    /// None of the signatures is by the key.
    #[error("the note is not signed by this key")]
    Unsigned,
    /// A signature names the key, and the key did not make it.
    #[error("the note's signature is wrong: the note or the signature was changed")]
    Signature,
}

/// Checks notes: a name and a public key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verifier {
    name: String,
    id: [u8; 4],
    key: VerifyingKey,
}

impl Verifier {
    fn new(name: &str, key: VerifyingKey) -> Result<Self, NoteError> {
        if name.is_empty() || name.contains(|c: char| c == '+' || c.is_whitespace()) {
            return Err(NoteError::Name);
        }
        let digest = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]);
        let digest: [u8; 32] = digest.chain_update(key.as_bytes()).finalize().into();
        let id = [digest[0], digest[1], digest[2], digest[3]];
        Ok(Verifier { name: name.to_owned(), id, key })
    }

    /// Reads `name+hex(key id)+base64(0x01 || public key)`.
    ///
    /// # Errors
    /// When it is not such a key, or its key id is not the one of its name and public key.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let (name, id, bytes) = split_key(text)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| NoteError::Key)?;
        let verifier = Verifier::new(name, key)?;
        if hex::encode(verifier.id) == id { Ok(verifier) } else { Err(NoteError::Key) }
    }

    /// The key's name; for a log, its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether another key of the same name has signed the note as well, or instead. Whether its
    /// signature is good is not looked at.
    pub fn has_rival(&self, note: &str, known: &[&Verifier]) -> bool {
        let lines = note.lines().rev().map_while(split_signature);
        let own = |id| self.id == id || known.iter().any(|key| key.id == id);
        lines.take(MAX_SIGNATURES).any(|(name, id, _)| name == self.name && !own(id))
    }

    /// Checks the note's signature by this key and gives the text that was signed.
    ///
    /// Signatures by other keys are passed over.
    ///
    /// # Errors
    /// When it is not a note, or this key has not signed it.
    pub fn verify<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        if note.contains(|c: char| c < ' ' && c != '\n') {
            return Err(NoteError::Syntax);
        }
        let split = note.rfind("\n\n").ok_or(NoteError::Syntax)?;
        let (text, signatures) = (&note[..=split], &note[split + 2..]);
        let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Syntax)?;
        let mut signed = false;
        for line in signatures.split('\n').take(MAX_SIGNATURES) {
            let (name, id, signature) = split_signature(line).ok_or(NoteError::Syntax)?;
            if name != self.name || id != self.id {
                continue;
            }
            let signature = Signature::from_slice(&signature).map_err(|_| NoteError::Syntax)?;
            let checked = self.key.verify_strict(text.as_bytes(), &signature);
            checked.map_err(|_| NoteError::Signature)?;
            signed = true;
        }
        if signed { Ok(text) } else { Err(NoteError::Unsigned) }
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = STANDARD.encode([&[ED25519], self.key.as_bytes().as_slice()].concat());
        write!(f, "{}+{}+{key}", self.name, hex::encode(self.id))
    }
}

/// Verifier keys as a text, one to a line.
pub fn key_lines(keys: &[Verifier]) -> String {
    let mut lines = String::new();
    for key in keys {
        lines.extend([key.to_string().as_str(), "\n"]);
    }
    lines
}

/// Signs notes: a name and a private key, which is wiped from memory with it.
pub struct Signer {
    verifier: Verifier,
    key: SigningKey,
}

impl Signer {
    /// The key of this name with this seed.
    ///
    /// # Errors
    /// When a note could not carry the name.
    pub fn new(name: &str, seed: [u8; 32]) -> Result<Self, NoteError> {
        let seed = Zeroizing::new(seed);
        let key = SigningKey::from_bytes(&seed);
        Ok(Signer { verifier: Verifier::new(name, key.verifying_key())?, key })
    }

    /// Reads `PRIVATE+KEY+name+hex(key id)+base64(0x01 || seed)`.
    ///
    /// # Errors
    /// When it is not such a key, or its key id is not the one of its name and public key.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let (name, id, seed) = split_key(text.strip_prefix(PRIVATE).ok_or(NoteError::Key)?)?;
        let signer = Signer::new(name, *seed)?;
        if hex::encode(signer.verifier.id) == id { Ok(signer) } else { Err(NoteError::Key) }
    }

    /// The text that [`Signer::parse`] reads: the secret itself.
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new([&[ED25519], self.key.as_bytes().as_slice()].concat());
        let key = Zeroizing::new(STANDARD.encode(&*bytes));
        let id = hex::encode(self.verifier.id);
        Zeroizing::new(format!("{PRIVATE}{}+{id}+{}", self.verifier.name, *key))
    }

    /// The public half.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The note with one more signature, by this key.
    ///
    /// # Errors
    /// When it is not a note.
    pub fn cosign(&self, note: &str) -> Result<String, NoteError> {
        let end = note.rfind("\n\n").ok_or(NoteError::Syntax)?;
        Ok(format!("{note}{}", self.signature_line(&note[..=end])))
    }

    fn signature_line(&self, text: &str) -> String {
        let signature = self.key.sign(text.as_bytes()).to_bytes();
        let signature = STANDARD.encode([&self.verifier.id, signature.as_slice()].concat());
        format!("— {} {signature}\n", self.verifier.name)
    }

    /// The note: `text` and a signature. A text without a newline at its end gets one, as notes must.
    pub fn sign(&self, text: &str) -> String {
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        let text = format!("{text}{newline}");
        format!("{text}\n{}", self.signature_line(&text))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.verifier.name)
    }
}

/// Name, key id and the 32 bytes of a key's text.
fn split_key(text: &str) -> Result<(&str, &str, Zeroizing<[u8; 32]>), NoteError> {
    // Base64 has a `+` of its own, so the key is all that follows the second one.
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(NoteError::Key);
    };
    let bytes = Zeroizing::new(STANDARD.decode(key).map_err(|_| NoteError::Key)?);
    match bytes.split_first() {
        Some((&ED25519, key)) => {
            let key = key.try_into().map_err(|_| NoteError::Key)?;
            Ok((name, id, Zeroizing::new(key)))
        }
        _ => Err(NoteError::Key),
    }
}

/// Name, key id and signature of a signature line.
fn split_signature(line: &str) -> Option<(&str, [u8; 4], Vec<u8>)> {
    let (name, signature) = line.strip_prefix("— ")?.split_once(' ')?;
    let bytes = STANDARD.decode(signature).ok()?;
    let (id, signature) = bytes.split_first_chunk::<4>()?;
    let whole = !name.is_empty() && !signature.is_empty();
    whole.then(|| (name, *id, signature.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and note with which Go's implementation documents itself.
    const SIGNER: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const VERIFIER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                        then you don't know what your problem is.\n";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
                        then you don't know what your problem is.\n\
                        \n\
                        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn a_note_of_another_implementation_is_signed_and_verified_alike() {
        let signer = Signer::parse(SIGNER).unwrap();
        assert_eq!(signer.to_secret_text().as_str(), SIGNER);
        assert_eq!(signer.verifier().to_string(), VERIFIER);
        assert_eq!(signer.sign(TEXT), NOTE);
        assert_eq!(Verifier::parse(VERIFIER).unwrap().verify(NOTE), Ok(TEXT));
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let verifier = Verifier::parse(VERIFIER).unwrap();
        for position in 0..NOTE.len() {
            let mut changed = NOTE.as_bytes().to_vec();
            changed[position] ^= 1;
            if let Ok(changed) = String::from_utf8(changed) {
                assert!(verifier.verify(&changed).is_err(), "byte {position}");
            }
        }
    }

    #[test]
    fn signatures_of_others_are_passed_over_but_do_not_count() {
        let other = Signer::new("witness", [3; 32]).unwrap();
        let verifier = Verifier::parse(VERIFIER).unwrap();
        let line = other.sign(TEXT).lines().last().unwrap().to_owned();
        assert_eq!(verifier.verify(&format!("{NOTE}{line}\n")), Ok(TEXT));
        assert_eq!(verifier.verify(&other.sign(TEXT)), Err(NoteError::Unsigned));
    }

    #[test]
    fn damaged_keys_and_names_are_refused() {
        assert_eq!(Verifier::parse(&VERIFIER.replace("c74f", "c74e")), Err(NoteError::Key));
        assert_eq!(Verifier::parse(&VERIFIER.replace("Peter", "Paul")), Err(NoteError::Key));
        assert_eq!(Verifier::parse("expunged"), Err(NoteError::Key));
        assert!(Signer::parse(VERIFIER).is_err());
        for name in ["", "a b", "a+b", "a\n"] {
            assert_eq!(Signer::new(name, [0; 32]).err(), Some(NoteError::Name), "{name:?}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let debug = format!("{:?}", Signer::parse(SIGNER).unwrap());
        assert_eq!(debug, "Signer(PeterNeumann)");
    }
}
