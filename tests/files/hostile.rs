//! Names, links, mounts and neighbours that try to lead out of the root, or to make something else go.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use expunged::store::files::{Entry, FilesError, Identity, InUse, Left, Settings};
use expunged::store::sql::Access;

use crate::support::tell;
use crate::tree::{OLD, Tree, YOUNG, all, paths, purge, search, touch, write};

#[tokio::test]
async fn names_are_bytes_and_nothing_else() {
    let mut tree = Tree::new();
    tree.settings.remove_empty_folders = true;
    let long = "ü".repeat(127) + "x";
    assert_eq!(long.len(), 255);
    let names: [&[u8]; 14] = [
        b"two\nlines",
        b"-rf",
        b"--",
        b"'; DROP TABLE x; --",
        b"\"$(reboot)\"",
        b"\xff\xfe\x80",
        b"...",
        b" ",
        b"*",
        b"\\",
        b"..jpg",
        b"{key}",
        b"\x01\x1b[31m",
        long.as_bytes(),
    ];
    for name in names {
        let mut file = [b"file ", name].concat();
        file.truncate(255);
        tree.put(file, OLD);
        tree.put([name, b"/", name].concat(), OLD);
        tree.put([name, b"/young"].concat(), YOUNG);
    }
    let files = tree.open();
    let due = search(&["**"]);
    let entries = all(files.walk(due.clone())).await;
    assert_eq!(entries.len(), 2 * names.len());
    let asked = paths(&entries).into_iter().map(<[u8]>::to_vec).collect();
    assert!(files.look(asked).await.unwrap().iter().all(Option::is_some));
    let deleted = files.delete(&due, entries).await.unwrap();
    assert_eq!((deleted.gone.len(), deleted.kept.len()), (2 * names.len(), 0));
    let young: std::collections::BTreeSet<_> =
        names.iter().map(|name| [name, b"/young".as_slice()].concat()).collect();
    assert_eq!(tree.files(), young);
}

#[tokio::test]
async fn a_path_that_is_longer_than_the_kernel_takes_is_reached_and_deleted() {
    let mut tree = Tree::new();
    tree.settings.remove_empty_folders = true;
    let name = "n".repeat(255);
    // Made from inside, one folder after the other: 20 of them make 5,119 bytes.
    let script = format!(
        "for i in $(seq 20); do mkdir {name} && cd -P {name} || exit 1; done; echo x > due && touch -d @{OLD} due"
    );
    let made = Command::new("sh").args(["-c", &script]).current_dir(tree.root()).status().unwrap();
    assert!(made.success());

    let files = tree.open();
    let due = search(&["**/due"]);
    let entries = all(files.walk(due.clone())).await;
    assert_eq!(entries.len(), 1);
    assert!(entries[0].path.len() > 5_000);
    let seen = files.look(vec![entries[0].path.clone()]).await.unwrap();
    assert_eq!(seen[0].as_ref().unwrap().identity, entries[0].identity);
    let deleted = files.delete(&due, entries).await.unwrap();
    assert_eq!((deleted.gone.len(), deleted.folders), (1, 20));
    assert_eq!(fs::read_dir(tree.root()).unwrap().count(), 0);
}

#[tokio::test]
async fn links_are_neither_followed_nor_touched() {
    let mut tree = Tree::new();
    tree.settings.remove_empty_folders = true;
    write(&tree.outside("canary/file"), OLD);
    symlink(tree.outside("canary"), tree.path("folder")).unwrap();
    symlink(tree.outside("canary/file"), tree.path("file")).unwrap();
    symlink("..", tree.path("up")).unwrap();
    symlink(".", tree.path("round")).unwrap();
    symlink("/proc/self/root", tree.path("magic")).unwrap();
    let _socket = UnixListener::bind(tree.path("socket")).unwrap();
    tree.put("real/file", OLD);
    symlink("file", tree.path("real/link")).unwrap();
    let before = tree.files();

    let files = tree.open();
    let everything = search(&["**", "folder/*", "up/canary/*", "magic/etc/*"]);
    let seen = files.survey(&everything).await.unwrap();
    assert_eq!((seen.survey.total, seen.survey.due, seen.unread.folders), (1, 1, 0));
    // Asked for by name, nobody may say that it is not there.
    for path in ["folder/file", "up/canary/file", "round/real/file", "magic/etc/passwd"] {
        let unknown = files.look(vec![path.as_bytes().to_vec()]).await;
        assert!(matches!(unknown, Err(FilesError::Elsewhere { .. })), "{path} {unknown:?}");
        let unknown = files.find(&search(&[path])).await;
        assert!(matches!(unknown, Err(FilesError::Elsewhere { .. })), "{path} {unknown:?}");
    }
    for path in ["file", "folder", "socket", "real"] {
        let unknown = files.look(vec![path.as_bytes().to_vec()]).await;
        assert!(matches!(unknown, Err(FilesError::NoFile { .. })), "{path} {unknown:?}");
    }
    for path in ["folder/*", "up/canary/*", "round/real/**"] {
        let behind = search(&[path]);
        let unknown = files.find(&behind).await;
        assert!(matches!(unknown, Err(FilesError::Unread { .. })), "{path} {unknown:?}");
        let seen = files.survey(&behind).await.unwrap();
        assert_eq!((seen.survey.total, seen.unread.folders), (0, 1), "{path}");
        assert_eq!(seen.unread.why, Some("a symbolic link is in the way"));
        let unread = files.in_order(&behind, None, None, &mut |_| ()).await.unwrap();
        assert_eq!(unread.folders, 1, "{path}");
    }
    assert!(files.find(&search(&["none/*", "real/none/*"])).await.unwrap().is_empty());
    // What somebody claims to have found behind a link is not reached either.
    let mut claimed = all(files.walk(everything.clone())).await;
    claimed[0].path = b"folder/file".to_vec();
    let meta = fs::metadata(tree.outside("canary/file")).unwrap();
    claimed[0].identity.inode = meta.ino();
    let deleted = files.delete(&everything, claimed).await.unwrap();
    assert_eq!((deleted.gone, deleted.kept), (vec![], vec![(0, Left::Changed)]));

    let deleted = purge(&files, &everything).await;
    assert_eq!((deleted.gone.len(), deleted.folders), (1, 0));
    let mut expected = before;
    expected.remove(b"real/file".as_slice());
    assert_eq!(tree.files(), expected);
    assert!(tree.outside("canary/file").exists());
}

#[tokio::test]
async fn a_path_with_dots_leads_nowhere() {
    let tree = Tree::new();
    write(&tree.outside("canary"), OLD);
    tree.put("a/b", OLD);
    let files = tree.open();
    let due = search(&["**"]);
    for text in ["../canary", "a/../../canary", "/etc/passwd", "a/./b", "..", "."] {
        assert!(text.parse::<expunged::path::Template>().is_err(), "{text}");
    }
    let template: expunged::path::Template = "a/{key}".parse().unwrap();
    for value in [b"..".as_slice(), b".", b"../x", b"b/c", b"\0", b""] {
        assert!(template.fill(|_| Some(value)).is_err(), "{value:?}");
    }
    let entry = all(files.walk(due.clone())).await.remove(0);
    for path in ["../canary", "a/../../canary", "a/../a/b", "a/..", "a/.", "a/", "", "/a/b", ".."] {
        let mut entry = entry.clone();
        entry.path = path.as_bytes().to_vec();
        let deleted = files.delete(&due, vec![entry]).await.unwrap();
        assert_eq!((deleted.gone.len(), deleted.kept.len()), (0, 1), "{path}");
    }
    assert!(tree.outside("canary").exists() && tree.path("a/b").exists());
}

/// A neighbour puts a link to a canary where a folder of the tree was, and back, thousands of times, while
/// all that is due is found and deleted again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_swapped_for_a_link_leads_nowhere() {
    const SWAPS: u64 = 4_000;
    let mut tree = Tree::new();
    tree.settings.remove_empty_folders = true;
    let canaries: Vec<String> = (0..40).map(|number| format!("file{number}")).collect();
    for name in &canaries {
        write(&tree.outside("canary").join(name), OLD);
    }
    let (folder, aside) = (tree.path("mid/folder"), tree.path("mid/aside"));
    let link = tree.path("mid/link");
    fs::create_dir_all(tree.path("mid")).unwrap();
    symlink("../../canary", &link).unwrap();
    let claims: Vec<Entry> = canaries
        .iter()
        .map(|name| {
            let meta = fs::metadata(tree.outside("canary").join(name)).unwrap();
            let since = jiff::Timestamp::try_from(meta.created().unwrap()).ok();
            let identity = Identity { device: meta.dev(), inode: meta.ino(), since };
            let path = format!("mid/folder/{name}").into_bytes();
            Entry { path, start: None, modified: None, identity }
        })
        .collect();
    let linger = || (0..50).for_each(|_| std::thread::yield_now());
    let over = AtomicBool::new(false);
    let swaps = AtomicU64::new(0);
    let (mut rounds, mut gone, mut kept) = (0_u64, 0, 0);
    let files = tree.open();
    let due = search(&["**"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = fs::create_dir(&folder);
                for name in canaries.iter().take(3) {
                    if let Ok(file) = fs::File::create(folder.join(name)) {
                        touch(&file, OLD);
                    }
                }
                // Each may fail, where the folder went because it was empty.
                if fs::rename(&folder, &aside).is_ok() {
                    fs::rename(&link, &folder).unwrap();
                    linger();
                    fs::rename(&folder, &link).unwrap();
                    let _ = fs::rename(&aside, &folder);
                    let _ = fs::remove_dir_all(&aside);
                    swaps.fetch_add(1, Ordering::Relaxed);
                    linger();
                }
            }
        });
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                while swaps.load(Ordering::Relaxed) < SWAPS {
                    let mut walk = files.walk(due.clone());
                    while let Some(entries) = walk.next(1_000).await.unwrap() {
                        let deleted = files.delete(&due, entries).await.unwrap();
                        gone += deleted.gone.len();
                        kept += deleted.kept.len();
                    }
                    // Somebody claims to have found the canary in the folder, and it may be there by now.
                    for _ in 0..20 {
                        let deleted = files.delete(&due, claims.clone()).await.unwrap();
                        assert!(deleted.folders == 0 && deleted.other_links == 0);
                    }
                    rounds += 1;
                }
            });
        });
        over.store(true, Ordering::Relaxed);
    });
    tell(&format!(
        "{} swaps, {rounds} rounds: {gone} gone, {kept} kept",
        swaps.load(Ordering::Relaxed)
    ));
    assert!(gone > 0, "the test deleted nothing, so it showed nothing");
    assert_eq!(fs::read_dir(tree.outside("canary")).unwrap().count(), canaries.len());
}

#[tokio::test]
async fn a_hard_link_outside_stays_and_is_reported() {
    let tree = Tree::new();
    tree.put("a", OLD);
    tree.put("b", OLD);
    fs::hard_link(tree.path("a"), tree.outside("kept")).unwrap();
    let deleted = purge(&tree.open(), &search(&["**"])).await;
    assert_eq!((deleted.gone.len(), deleted.other_links), (2, 1));
    assert!(tree.outside("kept").exists());
}

/// `/proc` is a mount below `/` on every Linux machine, and neither needs rights to be there.
#[tokio::test]
async fn what_is_mounted_below_the_root_is_another_tree() {
    let settings = |cross_mounts| Settings {
        root: "/".into(),
        cross_mounts,
        remove_empty_folders: false,
        in_use: InUse::Ignore,
    };
    let open = |settings| {
        expunged::store::files::Files::open("all".parse().unwrap(), settings, Access::ReadOnly)
    };
    let path = b"proc/version".to_vec();
    let inside = open(settings(false)).unwrap();
    let across = open(settings(true)).unwrap();
    let unknown = inside.look(vec![path.clone()]).await;
    assert!(matches!(unknown, Err(FilesError::Elsewhere { .. })), "{unknown:?}");
    assert!(across.look(vec![path]).await.unwrap()[0].is_some());
    let unknown = inside.find(&search(&["proc/sys/kernel/*"])).await;
    assert!(matches!(unknown, Err(FilesError::Unread { .. })), "{unknown:?}");
    let meant = search(&["proc/version", "*/version"]);
    assert!(inside.find(&search(&["*/version"])).await.unwrap().is_empty());
    assert_eq!(paths(&across.find(&meant).await.unwrap())[..1], [b"proc/version".as_slice()]);
    let seen = inside.survey(&search(&["proc/*"])).await.unwrap();
    assert_eq!((seen.survey.total, seen.unread.folders), (0, 1));
    assert!(across.survey(&search(&["proc/*"])).await.unwrap().survey.total > 0);
}

/// Runs one of the tests above in a namespace of its own, in which it may mount.
fn alone(test: &str, scene: &str) {
    let unshared = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("EXPUNGED_TEST_SCENE", scene)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&unshared.stdout);
    let errors = String::from_utf8_lossy(&unshared.stderr);
    assert!(unshared.status.success(), "{output}{errors}");
    assert!(output.contains("1 passed"), "{output}{errors}");
}

/// Mounting needs a namespace, so the test runs itself in one.
#[tokio::test]
async fn what_was_mounted_between_finding_and_deleting_stays() {
    if std::env::var_os("EXPUNGED_TEST_SCENE").is_none() {
        let name = "hostile::what_was_mounted_between_finding_and_deleting_stays";
        return tokio::task::spawn_blocking(move || alone(name, "mount")).await.unwrap();
    }
    let mut tree = Tree::new();
    tree.settings.remove_empty_folders = true;
    tree.put("bound/file", OLD);
    tree.put("tmpfs/file", OLD);
    tree.put("single", OLD);
    tree.put("free", OLD);
    write(&tree.outside("canary/file"), OLD);
    let files = tree.open();
    let due = search(&["**"]);
    let entries = all(files.walk(due.clone())).await;
    assert_eq!(entries.len(), 4);
    let mount = |args: &[&OsStr]| {
        assert!(Command::new("mount").args(args).status().unwrap().success());
    };
    let word = OsStr::from_bytes;
    mount(&[word(b"--bind"), tree.outside("canary").as_os_str(), tree.path("bound").as_os_str()]);
    mount(&[word(b"-t"), word(b"tmpfs"), word(b"none"), tree.path("tmpfs").as_os_str()]);
    let (single, canary) = (tree.path("single"), tree.outside("canary/file"));
    mount(&[word(b"--bind"), canary.as_os_str(), single.as_os_str()]);
    write(&tree.path("tmpfs/file"), OLD);

    let deleted = files.delete(&due, entries.clone()).await.unwrap();
    let gone: Vec<_> = deleted.gone.iter().map(|index| entries[*index].path.clone()).collect();
    assert_eq!(gone, [b"free"]);
    assert_eq!(deleted.kept.len(), 3);
    let found = all(files.walk(due.clone())).await;
    assert_eq!(paths(&found), [b"single"], "a mounted file is met, not a mounted folder");
    let deleted = files.delete(&due, found).await.unwrap();
    assert_eq!(deleted.kept, [(0, Left::Refused("something is mounted there"))]);

    tree.settings.cross_mounts = true;
    let crossing = tree.open();
    let mut deleted = purge(&crossing, &due).await;
    deleted.kept.clear();
    assert_eq!(deleted.gone.len(), 2, "told to, it goes across");
    assert!(!tree.outside("canary/file").exists() && tree.path("bound").exists());
}

/// Root reads everything, so the test runs itself as somebody else where root runs it.
#[tokio::test]
async fn a_folder_that_cannot_be_read_is_told_of_and_stops_no_other() {
    const NAME: &str = "hostile::a_folder_that_cannot_be_read_is_told_of_and_stops_no_other";
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        let program = tempfile::Builder::new().prefix("expunged-files").tempdir().unwrap();
        let copy = program.path().join("test");
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        fs::set_permissions(program.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let run = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .args(["--exact", NAME, "--nocapture"])
            .env("TMPDIR", "/tmp")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&run.stdout);
        let errors = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success() && output.contains("1 passed"), "{output}{errors}");
        return;
    }
    let tree = Tree::new();
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(tree.path(path), PermissionsExt::from_mode(mode)).unwrap();
    };
    for path in ["good/1", "shut/2", "listed/3", "kept/4", "hidden/5/6"] {
        tree.put(path, OLD);
    }
    mode("shut", 0o000);
    mode("listed", 0o400);
    mode("kept", 0o500);
    mode("hidden", 0o100);
    let files = tree.open();
    let due = search(&["**"]);

    let seen = files.survey(&due).await.unwrap();
    assert_eq!((seen.unread.folders, seen.unread.why), (2, Some("permission denied")));
    assert_eq!((seen.survey.due, seen.survey.unreadable_start), (2, 1), "{seen:?}");
    assert_eq!(files.starts(&due).await.unwrap().unread.folders, 2);
    let unread = files.in_order(&due, None, None, &mut |_| ()).await.unwrap();
    assert_eq!(unread.folders, 2);

    let mut walk = files.walk(due.clone());
    let mut found = Vec::new();
    while let Some(entries) = walk.next(99).await.unwrap() {
        found.extend(entries);
    }
    assert_eq!(walk.unread().folders, 2);
    let deleted = files.delete(&due, found).await.unwrap();
    assert_eq!(deleted.gone.len(), 1);
    assert_eq!(deleted.kept.len(), 1);
    assert_eq!(deleted.kept[0].1, Left::Refused("permission denied"));
    assert!(!tree.path("good/1").exists() && tree.path("kept/4").exists());

    // Asked for by name, nobody may say that it is not there.
    for path in ["shut/2", "listed/3"] {
        let unknown = files.look(vec![path.as_bytes().to_vec()]).await;
        assert!(matches!(unknown, Err(FilesError::Unread { .. })), "{path} {unknown:?}");
    }
    let unknown = files.find(&search(&["shut/*"])).await;
    assert!(matches!(unknown, Err(FilesError::Unread { .. })), "{unknown:?}");
    let found = files.find(&search(&["hidden/5/*"])).await.unwrap();
    assert_eq!(paths(&found), [b"hidden/5/6"], "what is above it need not be listed");
    for path in ["shut", "listed", "kept", "hidden"] {
        mode(path, 0o700);
    }
}
