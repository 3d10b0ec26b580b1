use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::types::KeyValue;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn key(number: i128) -> Key {
    Key(vec![KeyValue::Int(number)])
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A folder with keys, in a temporary one.
fn created() -> (tempfile::TempDir, std::path::PathBuf, Keys) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("state/keys");
    let keys = Keys::open_or_create(&dir).unwrap();
    (temporary, dir, keys)
}

#[test]
fn keys_are_made_once_and_found_again() {
    let (_temporary, dir, keys) = created();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("intent.key")), 0o600);
    assert_eq!(fs::read_dir(dir.parent().unwrap()).unwrap().count(), 1, "no draft is left");
    for again in [Keys::open_or_create(&dir).unwrap(), Keys::open(&dir).unwrap()] {
        assert_eq!(again.origin(), keys.origin());
        assert_eq!(again.verifier(), keys.verifier());
        let (store, record) = (name("app"), key(1));
        assert_eq!(again.commitment(&store, "t", &record), keys.commitment(&store, "t", &record));
        assert_eq!(again.pseudonym("r", b"x"), keys.pseudonym("r", b"x"));
        assert_eq!(again.unseal(&keys.seal(b"x", b"y"), b"y").unwrap(), b"x");
    }
    let public = fs::read_to_string(dir.join("audit-signing.pub")).unwrap();
    assert_eq!(&Verifier::parse(public.trim_end()).unwrap(), keys.verifier());
}

#[test]
fn an_empty_folder_is_taken_and_another_one_is_not() {
    let temporary = tempfile::tempdir().unwrap();
    let absent = Keys::open(&temporary.path().join("none"));
    assert!(matches!(absent, Err(KeysError::Absent { .. })));
    let empty = temporary.path().join("empty");
    fs::create_dir(&empty).unwrap();
    Keys::open_or_create(&empty).unwrap();
    let other = temporary.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("letter"), "dear").unwrap();
    let refused = Keys::open_or_create(&other);
    assert!(matches!(refused, Err(KeysError::ForeignFolder { .. })), "{refused:?}");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn a_missing_key_is_not_silently_replaced() {
    for file in
        ["audit-signing.key", "audit-signing.pub", "commitment.key", "intent.key", "pseudonym.key"]
    {
        let (_temporary, dir, _) = created();
        fs::remove_file(dir.join(file)).unwrap();
        let refused = Keys::open_or_create(&dir).unwrap_err();
        assert!(matches!(&refused, KeysError::Incomplete { path } if path.ends_with(file)));
        assert!(refused.to_string().contains("will not silently replace it"), "{refused}");
        assert!(!dir.join(file).exists());
    }
}

#[test]
fn keys_that_others_can_read_are_refused() {
    for file in ["audit-signing.key", "commitment.key", "intent.key", "pseudonym.key"] {
        let (_temporary, dir, _) = created();
        let path = dir.join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Keys::open(&dir).unwrap_err();
        assert!(refused.to_string().contains("mode 640"), "{refused}");
    }
    let (_temporary, dir, _) = created();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(Keys::open(&dir), Err(KeysError::Exposed { .. })));
}

#[test]
fn damaged_and_exchanged_files_are_refused() {
    for file in ["audit-signing.key", "commitment.key", "intent.key", "pseudonym.key"] {
        for text in ["", "x", "pseudonym.key+AAAA"] {
            let (_temporary, dir, _) = created();
            fs::write(dir.join(file), text).unwrap();
            assert!(matches!(Keys::open(&dir), Err(KeysError::Damaged { .. })), "{file} {text}");
        }
    }
    let (_temporary, dir, _) = created();
    fs::copy(dir.join("intent.key"), dir.join("commitment.key")).unwrap();
    assert!(matches!(Keys::open(&dir), Err(KeysError::Damaged { .. })));
    fs::write(dir.join("audit-signing.pub"), Keys::generate().verifier().to_string()).unwrap();
    assert!(matches!(Keys::open(&dir), Err(KeysError::Mismatch { .. })));
}

#[test]
fn what_a_killed_process_left_behind_does_no_harm() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("keys");
    let draft = temporary.path().join("keys.new-00000000");
    fs::create_dir(&draft).unwrap();
    fs::write(draft.join("intent.key"), "half").unwrap();
    let keys = Keys::open_or_create(&dir).unwrap();
    assert_eq!(Keys::open(&dir).unwrap().origin(), keys.origin());
}

#[test]
fn those_who_make_keys_at_once_get_the_same_ones() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("keys");
    let origins: HashSet<String> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Keys::open_or_create(&dir).unwrap().origin().to_owned()))
            .collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    assert_eq!(origins.len(), 1);
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1, "no draft is left");
}

#[test]
fn two_installations_have_logs_of_different_names() {
    let (a, b) = (Keys::generate(), Keys::generate());
    assert_ne!(a.origin(), b.origin());
    assert!(a.origin().starts_with("expunged/"));
    let note = a.sign_checkpoint(
        &Checkpoint {
            origin: a.origin().to_owned(),
            size: 0,
            root: crate::audit::Hash::empty_root(),
        },
        Hand::Present,
    );
    assert!(a.open_checkpoint(&note).is_ok());
    assert!(b.open_checkpoint(&note).is_err());
}

#[test]
fn commitments_tell_store_table_and_key_apart() {
    let keys = Keys::generate();
    let one = |store: &str, table: &str, key: &Key| keys.commitment(&name(store), table, key);
    let all: HashSet<_> = [
        one("app", "users", &key(1)),
        one("app", "users", &key(2)),
        one("app", "user", &key(1)),
        one("ap", "pusers", &key(1)),
        one("app", "users", &Key(vec![KeyValue::Text("1".into())])),
        one("app", "users", &Key(vec![KeyValue::Int(1), KeyValue::Int(1)])),
        Keys::generate().commitment(&name("app"), "users", &key(1)),
        keys.pseudonym("users", &key(1).encode()),
    ]
    .into();
    assert_eq!(all.len(), 8);
}

#[test]
fn the_commitments_of_a_batch_are_those_of_its_records() {
    let keys = Keys::generate();
    let records: Vec<_> = (0..5_000).map(key).collect();
    let watch = clock::Stopwatch::start();
    let commitments = keys.commitments(&name("app"), "users", &records);
    let root = commitments.root();
    let elapsed = watch.elapsed();
    println!("5000 commitments and their root took {elapsed:?}");
    assert_eq!(commitments.count(), 5_000);
    assert!(commitments.contains(&keys.commitment(&name("app"), "users", &key(17))));
    assert!(!commitments.contains(&keys.commitment(&name("app"), "users", &key(5_000))));
    let single = records.iter().map(|key| keys.commitment(&name("app"), "users", key)).collect();
    assert_eq!(Commitments::new(single).root(), root);
    if !cfg!(debug_assertions) {
        assert!(elapsed < std::time::Duration::from_millis(10), "{elapsed:?}");
    }
}

#[test]
fn pseudonyms_are_stable_in_a_scope_and_unrelated_between_scopes() {
    let keys = Keys::generate();
    assert_eq!(
        keys.pseudonym("app.users.email", b"ann"),
        keys.pseudonym("app.users.email", b"ann")
    );
    assert_ne!(keys.pseudonym("app.users.email", b"ann"), keys.pseudonym("app.users.name", b"ann"));
    assert_ne!(keys.pseudonym("a", b"bc"), keys.pseudonym("ab", b"c"));
}

#[test]
fn sealed_bytes_open_only_where_they_belong() {
    let keys = Keys::generate();
    let sealed = keys.seal(b"ann@example.com", b"batch 1");
    assert_ne!(sealed, keys.seal(b"ann@example.com", b"batch 1"));
    assert!(!sealed.windows(3).any(|window| window == b"ann"));
    assert_eq!(keys.unseal(&sealed, b"batch 1").unwrap(), b"ann@example.com");
    assert_eq!(keys.unseal(&sealed, b"batch 2"), Err(UnsealError));
    assert_eq!(Keys::generate().unseal(&sealed, b"batch 1"), Err(UnsealError));
    for position in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[position] ^= 1;
        assert_eq!(keys.unseal(&changed, b"batch 1"), Err(UnsealError));
        assert_eq!(keys.unseal(&sealed[..position], b"batch 1"), Err(UnsealError));
    }
}

#[test]
fn the_signing_key_changes_and_the_old_public_one_stays_known() {
    let (_temporary, dir, old) = created();
    Keys::finish_rotation(&dir).unwrap();
    assert_eq!(
        Keys::open(&dir).unwrap().verifiers(Hand::Next),
        [old.verifier().clone()],
        "nothing to finish"
    );
    Keys::prepare_rotation(&dir).unwrap();
    let between = Keys::open(&dir).unwrap();
    let next = between.next_verifier().unwrap().clone();
    assert_eq!((between.verifier(), between.origin()), (old.verifier(), old.origin()));
    Keys::prepare_rotation(&dir).unwrap();
    assert_eq!(Keys::open(&dir).unwrap().next_verifier(), Some(&next), "the same one again");
    Keys::finish_rotation(&dir).unwrap();
    let new = Keys::open(&dir).unwrap();
    assert_eq!(new.verifiers(Hand::Present), [old.verifier().clone(), next.clone()]);
    assert_eq!((new.verifier(), new.next_verifier()), (&next, None));
    assert_eq!(mode(&dir.join("audit-signing.key")), 0o600);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 5, "nothing is left over");
    // What the old key signed alone is not built on any more, nor what the new one signed by the old.
    let statement =
        Checkpoint { origin: old.origin().to_owned(), size: 1, root: crate::audit::Hash([1; 32]) };
    let [by_old, by_new] = [&old, &new].map(|keys| keys.sign_checkpoint(&statement, Hand::Present));
    assert!(new.open_checkpoint(&by_old).is_err());
    assert_eq!(old.open_checkpoint(&by_new), Err(CheckpointError::Superseded));
    let by_both = between.sign_rotation(&statement).unwrap();
    assert_eq!(old.open_checkpoint(&by_both), Err(CheckpointError::Superseded));
    assert_eq!(between.open_checkpoint(&by_both).unwrap().1, Hand::Next);
    assert_eq!(new.open_checkpoint(&by_both).unwrap().1, Hand::Present);
    assert!(new.sign_rotation(&statement).is_none());
}

#[test]
fn a_destroyed_commitment_key_is_overwritten_and_replaced() {
    let (_temporary, dir, old) = created();
    let path = dir.join("commitment.key");
    let text = fs::read_to_string(&path).unwrap();
    // Another name for the same bytes on disk, to see what becomes of them.
    let bytes = dir.parent().unwrap().join("bytes");
    fs::hard_link(&path, &bytes).unwrap();
    Keys::forget(&dir).unwrap();
    assert_eq!(fs::read_to_string(&bytes).unwrap(), "0".repeat(text.len()));
    let between = Keys::open(&dir).unwrap();
    assert!(between.is_forgetting() && !old.is_forgetting());
    Keys::finish_forgetting(&dir).unwrap();
    Keys::finish_forgetting(&dir).unwrap();
    let new = Keys::open(&dir).unwrap();
    assert!(!new.is_forgetting());
    let one = |keys: &Keys| keys.commitment(&name("app"), "users", &key(1));
    assert_eq!(one(&new), one(&between));
    assert_ne!(one(&new), one(&old));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 5, "nothing is left over");
    // A key that only got lost is still not replaced.
    fs::remove_file(&path).unwrap();
    assert!(matches!(Keys::open_or_create(&dir), Err(KeysError::Incomplete { .. })));
}

#[test]
fn debug_shows_no_secret() {
    let keys = Keys::generate();
    let shown = format!("{keys:?}");
    assert_eq!(shown, format!("Keys {{ signer: Signer({}), .. }}", keys.origin()));
}
