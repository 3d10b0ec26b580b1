//! What each act of a tree does where nobody is hostile.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;

use expunged::config::{Config, InputFile};
use expunged::store::Store;
use expunged::store::files::{FilesError, InUse, Left};
use expunged::store::search::{Age, Search};
use expunged::store::sql::{Access, Bounds};
use jiff::Timestamp;

use crate::tree::{NOW, OLD, Tree, YOUNG, all, limits, paths, purge, search, write};

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp::from_second(seconds).unwrap())
}

#[tokio::test]
async fn a_survey_counts_what_is_due_and_why_others_stay() {
    let tree = Tree::new();
    tree.put("a/old", OLD);
    tree.put("a/older", OLD - 5);
    tree.put("a/b/young", YOUNG);
    tree.put("a/future", NOW + 5);
    tree.put("a/epoch", 0);
    tree.put("other/old", OLD);
    symlink("old", tree.path("a/link")).unwrap();

    let seen = tree.open_for(Access::ReadOnly).survey(&search(&["a/**"])).await.unwrap();

    assert_eq!(seen.unread.folders, 0);
    let survey = seen.survey;
    assert_eq!((survey.total, survey.due), (5, 2), "{survey:?}");
    assert_eq!((survey.future_start, survey.placeholder_start), (1, 1));
    assert_eq!((survey.oldest, survey.newest), (at(OLD - 5), at(OLD)));
}

#[tokio::test]
async fn a_sample_has_the_oldest_first() {
    let tree = Tree::new();
    for number in 0..500 {
        tree.put(format!("{}/{number}", number % 7), OLD - (number * 37) % 500);
    }
    let sample = tree.open().sample(&search(&["**"]), 20).await.unwrap();
    let starts: Vec<_> = sample.iter().map(|entry| entry.start).collect();
    let expected: Vec<_> = (0..20).map(|number| at(OLD - 499 + number)).collect();
    assert_eq!(starts, expected);
    assert!(tree.open().sample(&search(&["**"]), 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_next_to_fall_due_and_the_oldest_are_known() {
    let tree = Tree::new();
    let files = tree.open();
    let empty = files.starts(&search(&["**"])).await.unwrap();
    assert_eq!((empty.oldest, empty.next), (None, None));
    for (path, modified) in
        [("a", YOUNG + 9), ("b/c", YOUNG), ("d", OLD), ("e", NOW + 50), ("f", 0)]
    {
        tree.put(path, modified);
    }
    let starts = files.starts(&search(&["**"])).await.unwrap();
    assert_eq!((starts.oldest, starts.next), (at(OLD), at(YOUNG)));
}

#[tokio::test]
async fn in_order_goes_by_the_bytes_of_whole_paths_and_reads_no_folder_outside() {
    let tree = Tree::new();
    let names = ["a", "a.b", "a-b/x", "ab/x", "b/c/d", "b/c.d", "b/c/e", "b.c", "c/a", "c/z/y"];
    for name in names {
        if name != "a" {
            tree.put(name, OLD);
        }
    }
    tree.put("a/x", OLD);
    tree.put("c/young", YOUNG);
    let mut expected: Vec<&[u8]> =
        names.iter().map(|name| if *name == "a" { b"a/x" } else { name.as_bytes() }).collect();
    expected.sort_unstable();
    let files = tree.open();
    let all = search(&["**"]);
    let mut bounds: Vec<Option<&[u8]>> = expected.iter().map(|path| Some(*path)).collect();
    bounds.extend([None, Some(b"b".as_slice()), Some(b"b/"), Some(b"b0"), Some(b"zz"), Some(b"")]);
    for after in &bounds {
        for upto in &bounds {
            let mut seen = Vec::new();
            let unread =
                files.in_order(&all, *after, *upto, &mut |entry| seen.push(entry)).await.unwrap();
            let inside = |path: &&&[u8]| {
                after.is_none_or(|after| **path > after) && upto.is_none_or(|upto| **path <= upto)
            };
            let wanted: Vec<_> = expected.iter().filter(inside).copied().collect();
            assert_eq!(paths(&seen), wanted, "{after:?} {upto:?}");
            assert_eq!(unread.folders, 0);
        }
    }
}

#[tokio::test]
async fn what_is_due_goes_and_nothing_else() {
    let tree = Tree::new();
    for path in ["faces/a.jpg", "faces/b.jpg", "faces/deep/c.jpg", "other/d.jpg", "top.jpg"] {
        tree.put(path, OLD);
    }
    tree.put("faces/young.jpg", YOUNG);
    let deleted = purge(&tree.open(), &search(&["faces/*.jpg", "top.*"])).await;
    assert_eq!((deleted.gone, deleted.kept.len(), deleted.folders), (vec![0, 1, 2], 0, 0));
    let left: Vec<_> = tree.files().into_iter().collect();
    let expected =
        ["faces/deep/c.jpg", "faces/young.jpg", "other/d.jpg"].map(|path| path.as_bytes().to_vec());
    assert_eq!(left, expected);
}

#[tokio::test]
async fn a_file_that_is_gone_already_counts_as_gone() {
    let tree = Tree::new();
    tree.put("a/x", OLD);
    tree.put("b/x", OLD);
    tree.put("c", OLD);
    let files = tree.open();
    let all_due = search(&["**"]);
    let entries = all(files.walk(all_due.clone())).await;
    fs::remove_file(tree.path("c")).unwrap();
    fs::remove_dir_all(tree.path("a")).unwrap();
    let deleted = files.delete(&all_due, entries.clone()).await.unwrap();
    assert_eq!((deleted.gone.len(), deleted.kept.len()), (3, 0));
    let again = files.delete(&all_due, entries).await.unwrap();
    assert_eq!((again.gone.len(), again.other_links), (3, 0), "a deletion can be repeated");
}

#[tokio::test]
async fn a_tree_that_was_opened_for_reading_deletes_nothing() {
    let tree = Tree::new();
    tree.put("a", OLD);
    let files = tree.open_for(Access::ReadOnly);
    let due = search(&["**"]);
    let entries = all(files.walk(due.clone())).await;
    assert_eq!(entries.len(), 1);
    let refused = files.delete(&due, entries).await;
    assert!(matches!(refused, Err(FilesError::ReadOnly { .. })), "{refused:?}");
    assert!(tree.path("a").exists());
}

#[tokio::test]
async fn a_file_that_is_no_longer_due_or_another_one_stays() {
    let tree = Tree::new();
    for path in ["touched", "replaced", "held", "due"] {
        tree.put(path, OLD);
    }
    let files = tree.open();
    let due = search(&["**"]);
    let entries = all(files.walk(due.clone())).await;
    tree.put("touched", YOUNG);
    write(&tree.outside("new"), OLD);
    fs::rename(tree.outside("new"), tree.path("replaced")).unwrap();

    let deleted = files.delete(&due, entries.clone()).await.unwrap();

    let kept: Vec<_> =
        deleted.kept.iter().map(|(index, left)| (entries[*index].path.as_slice(), *left)).collect();
    let mut expected: Vec<(&[u8], Left)> =
        vec![(b"replaced", Left::Changed), (b"touched", Left::Changed)];
    expected.sort_by_key(|(path, _)| entries.iter().position(|entry| entry.path == *path));
    assert_eq!(kept, expected);
    assert_eq!(deleted.gone.len(), 2);
    assert_eq!(tree.files().len(), 2);
}

#[tokio::test]
async fn folders_that_a_deletion_emptied_go_and_others_stay() {
    let mut tree = Tree::new();
    tree.settings.remove_empty_folders = true;
    for path in ["a/b/c/1", "a/b/c/2", "a/b/d/3", "young/e/4", "link/5", "top"] {
        tree.put(path, OLD);
    }
    tree.put("young/6", YOUNG);
    symlink("nowhere", tree.path("link/dangling")).unwrap();
    fs::create_dir_all(tree.path("empty/before")).unwrap();

    let deleted = purge(&tree.open(), &search(&["**"])).await;

    assert_eq!((deleted.gone.len(), deleted.folders), (6, 5), "a, a/b, a/b/c, a/b/d, young/e");
    assert!(!tree.path("a").exists() && !tree.path("young/e").exists());
    assert!(tree.path("young/6").exists() && tree.path("link").exists());
    assert!(tree.path("empty/before").exists(), "nothing was deleted from it");
    assert!(tree.root().exists());

    tree.put("last", OLD);
    fs::remove_dir_all(tree.path("young")).unwrap();
    fs::remove_dir_all(tree.path("link")).unwrap();
    fs::remove_dir_all(tree.path("empty")).unwrap();
    assert_eq!(purge(&tree.open(), &search(&["**"])).await.folders, 0);
    assert!(tree.root().exists(), "the root never goes");
}

#[tokio::test]
async fn an_empty_folder_from_which_others_took_the_last_file_stays() {
    let mut tree = Tree::new();
    tree.settings.remove_empty_folders = true;
    tree.put("a/x", OLD);
    let files = tree.open();
    let due = search(&["**"]);
    let entries = all(files.walk(due.clone())).await;
    fs::remove_file(tree.path("a/x")).unwrap();
    let deleted = files.delete(&due, entries).await.unwrap();
    assert_eq!((deleted.gone.len(), deleted.folders), (1, 0));
    assert!(tree.path("a").exists());
}

#[tokio::test]
async fn files_that_are_open_or_have_other_names_are_reported() {
    let mut tree = Tree::new();
    tree.settings.in_use = InUse::Count;
    for path in ["open", "linked", "both", "plain"] {
        tree.put(path, OLD);
    }
    fs::hard_link(tree.path("linked"), tree.outside("other name")).unwrap();
    fs::hard_link(tree.path("both"), tree.outside("yet another")).unwrap();
    let open = [fs::File::open(tree.path("open")), fs::File::open(tree.path("both"))];
    let deleted = purge(&tree.open(), &search(&["**"])).await;
    assert_eq!(deleted.gone.len(), 4);
    assert_eq!((deleted.other_links, deleted.open_elsewhere), (2, 2));
    assert_eq!(fs::read(tree.outside("other name")).unwrap(), b"somebody's face");
    drop(open);

    tree.settings.in_use = InUse::Ignore;
    tree.put("open", OLD);
    let _open = fs::File::open(tree.path("open")).unwrap();
    let deleted = purge(&tree.open(), &search(&["**"])).await;
    assert_eq!((deleted.gone.len(), deleted.open_elsewhere), (1, 0), "nobody looked");
}

#[tokio::test]
async fn paths_are_looked_up_without_a_search() {
    let tree = Tree::new();
    tree.put("a/x", OLD);
    tree.put("y", YOUNG);
    symlink("x", tree.path("a/link")).unwrap();
    let files = tree.open_for(Access::ReadOnly);
    let look = async |paths: &[&str]| {
        let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let found = files.look(paths).await?;
        Ok(found.iter().map(Option::is_some).collect::<Vec<_>>())
    };
    let long = "n".repeat(256);
    let asked = ["a/x", "y", "a/none", "none/none", "y/x", &long];
    let seen: Result<_, FilesError> = look(&asked).await;
    assert_eq!(seen.unwrap(), [true, true, false, false, false, false]);
    for path in ["a/link", "a"] {
        let refused = look(&[path]).await;
        assert!(matches!(refused, Err(FilesError::NoFile { .. })), "{path:?} {refused:?}");
    }
    for path in ["", "/", "a/", "../x", "a/../y", "./y", "a//x", "a/x\0"] {
        let refused = look(&[path]).await;
        assert!(matches!(refused, Err(FilesError::Outside { .. })), "{path:?} {refused:?}");
    }
}

#[tokio::test]
async fn find_gives_what_templates_name_whatever_its_age() {
    let tree = Tree::new();
    for path in ["faces/k1.jpg", "faces/k2.jpg", "thumbs/k1/s", "thumbs/k1/d/l", "thumbs/k2/s"] {
        tree.put(path, YOUNG);
    }
    tree.put("thumbs/k1/future", NOW + 500);
    let files = tree.open_for(Access::ReadOnly);
    let find = async |templates: &[&str]| {
        let fill = |text: &&str| {
            let template: expunged::path::Template = text.parse().unwrap();
            template.fill(|name| (name == "key").then_some(b"k1".as_slice())).unwrap()
        };
        let search = Arc::new(Search::named(templates.iter().map(fill).collect()));
        let found = files.find(&search).await.unwrap();
        paths(&found).iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    };
    let found: Vec<String> = find(&["faces/{key}.jpg"]).await;
    assert_eq!(found, ["faces/k1.jpg"]);
    let found: Vec<String> = find(&["thumbs/{key}/**", "faces/{key}.jpg", "faces/*"]).await;
    let expected =
        ["faces/k1.jpg", "faces/k2.jpg", "thumbs/k1/d/l", "thumbs/k1/future", "thumbs/k1/s"];
    assert_eq!(found, expected, "each once");
    let found: Vec<String> = find(&["faces/none-{key}", "none/{key}/*"]).await;
    assert!(found.is_empty());
}

#[tokio::test]
async fn a_day_in_a_path_counts_instead_of_the_age() {
    let tree = Tree::new();
    for path in ["logs/2020-01-01/a", "logs/2027-01-10/a", "logs/2020-13-01/a", "logs/rest/a"] {
        tree.put(path, YOUNG);
    }
    let age = Age::Day(limits(), jiff::tz::TimeZone::UTC);
    let templates = vec!["logs/{date:%Y-%m-%d}/**".parse().unwrap()];
    let search = Arc::new(Search { templates, age, kept: Vec::new() });
    let seen = tree.open().survey(&search).await.unwrap().survey;
    assert_eq!((seen.total, seen.due, seen.unreadable_start), (3, 1, 1));
    assert_eq!(purge(&tree.open(), &search).await.gone.len(), 1);
    assert!(!tree.path("logs/2020-01-01/a").exists());
}

#[tokio::test]
async fn a_root_that_is_missing_or_replaced_is_said_to_be() {
    let tree = Tree::new();
    tree.put("a", OLD);
    let files = tree.open();
    let due = search(&["**"]);
    let entries = all(files.walk(due.clone())).await;
    fs::rename(tree.root(), tree.outside("moved")).unwrap();
    let missing = files.survey(&due).await.unwrap_err();
    assert!(matches!(missing, FilesError::Root { .. }), "{missing}");
    fs::create_dir(tree.root()).unwrap();
    let replaced = files.delete(&due, entries).await.unwrap_err();
    assert!(matches!(replaced, FilesError::Replaced { .. }), "{replaced}");
    let mut walk = files.walk(due.clone());
    assert!(matches!(walk.next(9).await, Err(FilesError::Replaced { .. })));
    assert!(matches!(walk.next(9).await, Err(FilesError::Replaced { .. })), "and again");
    assert!(files.find(&due).await.is_err() && files.look(Vec::new()).await.is_err());
    assert!(tree.outside("moved/a").exists());

    fs::remove_dir(tree.root()).unwrap();
    let open = || {
        let name = "photos".parse().unwrap();
        expunged::store::files::Files::open(name, tree.settings.clone(), Access::ReadOnly)
    };
    assert!(matches!(open(), Err(FilesError::Root { cause: "it is not there", .. })));
    fs::write(tree.root(), "a file").unwrap();
    assert!(matches!(open(), Err(FilesError::Root { cause: "it is no folder", .. })));
    fs::remove_file(tree.root()).unwrap();
    symlink(tree.outside("moved"), tree.root()).unwrap();
    let through = open().unwrap();
    assert_eq!(
        through.survey(&due).await.unwrap().survey.due,
        1,
        "the operator's link is followed"
    );
}

#[tokio::test]
async fn nothing_that_may_be_logged_shows_a_path() {
    let tree = Tree::new();
    tree.put("maria-rossi", OLD);
    let files = tree.open();
    let entries = all(files.walk(search(&["**"]))).await;
    fs::set_permissions(tree.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let error = files.look(vec![b"../maria-rossi".to_vec()]).await.unwrap_err();
    let shown = format!("{files:?} {entries:?} {error} {error:?}");
    assert!(!shown.contains("maria") && !shown.contains("root/"), "{shown}");
    assert!(shown.starts_with("Files(\"photos\") "), "{shown}");
}

#[tokio::test]
async fn a_walk_that_is_dropped_ends_and_one_that_is_slow_stays_small() {
    let tree = Tree::new();
    // More than what waits between the two.
    for number in 0..20_000 {
        let path = tree.path(format!("{:02}", number % 50));
        if number < 50 {
            fs::create_dir(&path).unwrap();
        }
        let file = fs::File::create(path.join(number.to_string())).unwrap();
        crate::tree::touch(&file, OLD);
    }
    let files = tree.open();
    let mut walk = files.walk(search(&["**"]));
    let some = walk.next(100).await.unwrap().unwrap();
    assert!(some.len() <= 100);
    drop(walk);
    // Were its threads still waiting for somebody, this would not come to an end either.
    let entries = all(files.walk(search(&["**"]))).await;
    assert_eq!(entries.len(), 20_000);
}

/// File systems give the number of a file that is gone to the next one at once.
#[tokio::test]
async fn a_file_that_was_made_again_is_another_whatever_its_number() {
    let tree = Tree::new();
    tree.put("faces/k1", OLD);
    let files = tree.open();
    let due = search(&["**"]);
    let found = all(files.walk(due.clone())).await;
    let of_old = found[0].mark();
    assert!(found[0].bears(&of_old) && !found[0].bears("1:2") && !found[0].bears(""));
    let device_and_inode = of_old.splitn(3, ':').take(2).collect::<Vec<_>>().join(":");
    assert!(found[0].bears(&device_and_inode), "as older versions wrote it");
    assert!(!found[0].bears(&device_and_inode[..device_and_inode.len() - 1]));

    // A change of its mode leaves it the file that it is.
    fs::set_permissions(tree.path("faces/k1"), fs::Permissions::from_mode(0o600)).unwrap();
    let look = async || files.look(vec![b"faces/k1".to_vec()]).await.unwrap().remove(0).unwrap();
    let seen = look().await;
    assert!(seen.bears(&of_old) && seen.modified == found[0].modified);

    // Until its clock has moved on: the file system's may stand for some milliseconds.
    let made = |path: &str| fs::metadata(tree.path(path)).unwrap().created().unwrap();
    let first = made("faces/k1");
    while made("faces/k1") == first {
        fs::remove_file(tree.path("faces/k1")).unwrap();
        tree.put("faces/k1", OLD);
    }
    assert!(!look().await.bears(&of_old));
    let deleted = files.delete(&due, found).await.unwrap();
    assert_eq!((deleted.gone, deleted.kept), (vec![], vec![(0, Left::Changed)]));
    assert!(tree.path("faces/k1").exists());
    assert_eq!(purge(&files, &due).await.gone.len(), 1);
}

#[tokio::test]
async fn what_a_rule_makes_of_one_file_goes_by_when_it_was_modified() {
    let tree = Tree::new();
    tree.put("old, or not", OLD);
    tree.put("young", YOUNG);
    let text = "[store.photos]\nkind = \"files\"\nroot = \"root\"\n\n\
                [rule.photos]\nstore = \"photos\"\npath = \"*\"\nretention = \"1 day\"\naction = \"delete\"\n";
    let file = InputFile { path: "expunged.toml".into(), bytes: text.into() };
    let folder = tree.root().parent().unwrap();
    let config = Config::parse(vec![file], folder, std::iter::empty()).unwrap();
    let store = Store::Files(tree.open_for(Access::ReadOnly));
    let target = store.target(&config.rules[&"photos".parse().unwrap()]).await.unwrap();
    let bounds: Bounds = limits().bounds;
    let explain = async |text: &str| {
        let keys = target.keys_from_text(text);
        store.explain(&target, bounds, &keys).await.unwrap()
    };
    let old = explain("old, or not").await.unwrap();
    assert_eq!((old.starting_point, old.is_due, old.kept), (at(OLD), true, None));
    let young = explain("young").await.unwrap();
    assert_eq!((young.starting_point, young.is_due, young.kept), (at(YOUNG), false, None));
    assert!(explain("none").await.is_none() && explain("young, 1").await.is_none());
}
