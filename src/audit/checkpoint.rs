//! Checkpoints: signed statements of the log's size and root (C2SP tlog-checkpoint).
//!
//! The text is `<origin>\n<size>\n<base64(root)>\n` inside a signed [`note`](super::note); the origin
//! is the name of the key that signs it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::note::{NoteError, Signer, Verifier};
use super::tree::Hash;

/// The size and root hash of a log at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Which log: the name of its signing key.
    pub origin: String,
    /// How many entries it has.
    pub size: u64,
    /// The root hash of the Merkle tree over them.
    pub root: Hash,
}

/// Why a text is not a checkpoint of this log.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CheckpointError {
    /// The signed note around it is not good.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The text inside is not a checkpoint.
    #[error("the signed text is not a checkpoint: it takes an origin, a size and a root hash")]
    Syntax,
    /// The log has gone over to another key.
    #[error(
        "the log goes on under a newer signing key than this process has read: restart it, and see that its \
         folder of keys is the one in which the key was changed"
    )]
    Superseded,
    /// It belongs to another log.
    #[error("the checkpoint is one of the log `{found}`, not of `{expected}`")]
    Origin {
        /// The origin that the verifier key names.
        expected: String,
        /// The origin that the checkpoint names.
        found: String,
    },
}

impl Checkpoint {
    /// The text that is signed.
    pub fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    /// Reads the text that was signed; lines after the third are extensions and are passed over.
    ///
    /// # Errors
    /// When it is not a checkpoint.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let body = text.strip_suffix('\n').ok_or(CheckpointError::Syntax)?;
        let mut lines = body.split('\n');
        let mut line = || lines.next().filter(|line| !line.is_empty());
        let (Some(origin), Some(size), Some(root)) = (line(), line(), line()) else {
            return Err(CheckpointError::Syntax);
        };
        if lines.any(str::is_empty) {
            return Err(CheckpointError::Syntax);
        }
        let number: u64 = size.parse().map_err(|_| CheckpointError::Syntax)?;
        let root = STANDARD.decode(root).map_err(|_| CheckpointError::Syntax)?;
        let root = root.try_into().map_err(|_| CheckpointError::Syntax)?;
        if number.to_string() != size {
            return Err(CheckpointError::Syntax);
        }
        Ok(Checkpoint { origin: origin.to_owned(), size: number, root: Hash(root) })
    }

    /// What a signed note says that would be a checkpoint, whoever signed it: not to be believed yet.
    pub fn peek(note: &str) -> Option<Self> {
        let end = note.rfind("\n\n")?;
        Checkpoint::parse(&note[..=end]).ok()
    }

    /// The checkpoint as a signed note.
    pub fn sign(&self, signer: &Signer) -> String {
        signer.sign(&self.to_text())
    }

    /// Reads a signed checkpoint of the log whose key this is.
    ///
    /// # Errors
    /// When the note is malformed or not signed by this key, or is no checkpoint of this log.
    pub fn open(note: &str, verifier: &Verifier) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::parse(verifier.verify(note)?)?;
        if checkpoint.origin != verifier.name() {
            let expected = verifier.name().to_owned();
            return Err(CheckpointError::Origin { expected, found: checkpoint.origin });
        }
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(origin: &str) -> Checkpoint {
        Checkpoint { origin: origin.into(), size: 20_852_163, root: Hash([0xb7; 32]) }
    }

    #[test]
    fn the_text_is_origin_size_and_root() {
        let text = checkpoint("expunged/1").to_text();
        assert_eq!(text, "expunged/1\n20852163\nt7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7c=\n");
        assert_eq!(Checkpoint::parse(&text), Ok(checkpoint("expunged/1")));
        let extended = format!("{text}an extension\n");
        assert_eq!(Checkpoint::parse(&extended), Ok(checkpoint("expunged/1")));
    }

    #[test]
    fn other_texts_are_refused() {
        let root = "t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7c=";
        for bad in [
            String::new(),
            format!("a\n1\n{root}"),
            format!("\n1\n{root}\n"),
            format!("a\n01\n{root}\n"),
            format!("a\n-1\n{root}\n"),
            format!("a\n+1\n{root}\n"),
            "a\n1\nt7e3\n".to_owned(),
            format!("a\n1\n{root}\n\n"),
        ] {
            assert_eq!(Checkpoint::parse(&bad), Err(CheckpointError::Syntax), "{bad}");
        }
    }

    #[test]
    fn a_signed_checkpoint_is_only_good_for_its_own_log() {
        let signer = Signer::new("expunged/1", [7; 32]).unwrap();
        let note = checkpoint("expunged/1").sign(&signer);
        let read = Checkpoint::open(&note, signer.verifier());
        assert_eq!(read, Ok(checkpoint("expunged/1")));
        let other = checkpoint("expunged/2").sign(&signer);
        let read = Checkpoint::open(&other, signer.verifier());
        assert!(matches!(read, Err(CheckpointError::Origin { .. })), "{read:?}");
    }
}
