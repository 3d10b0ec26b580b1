//! On random trees, what goes is exactly what the pure judge says, and every look tells the same.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use expunged::plan::Survey;
use expunged::store::files::FilesError;
use expunged::store::search::{self, Search, Verdict};
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::tree::{NOW, OLD, Tree, YOUNG, all, paths, search as look_for};

const NAMES: [&str; 9] = ["a", "b", "a.b", "ab", "a b", ".a", "*", "x\n", "{k}"];
const PATTERNS: [&str; 12] =
    ["a", "b", "*", "?", "**", "a*", "*b", "{k}", "{k}.b", ".*", "a/*", "**/a"];

fn path() -> impl Strategy<Value = String> {
    vec(select(&NAMES[..]), 1..5).prop_map(|names| names.join("/"))
}

fn template() -> impl Strategy<Value = String> {
    vec(select(&PATTERNS[..]), 1..5).prop_map(|names| names.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_is_what_the_judge_says(
        files in vec((path(), select(&[OLD, OLD - 7, YOUNG, NOW + 9, 0][..])), 0..40),
        templates in vec(template(), 1..4),
        bounds in vec(path(), 2),
        tidy in any::<bool>(),
    ) {
        let templates: Vec<&str> = templates
            .iter()
            .map(String::as_str)
            .filter(|text| text.parse::<expunged::path::Template>().is_ok())
            .collect();
        prop_assume!(!templates.is_empty());
        let search = look_for(&templates);
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(agree(&files, &search, &bounds, tidy));
    }
}

async fn agree(files: &[(String, i64)], search: &Arc<Search>, bounds: &[String], tidy: bool) {
    let mut tree = Tree::new();
    tree.settings.remove_empty_folders = tidy;
    for (path, modified) in files {
        // What is a folder already is no file, and the other way round.
        let taken = tree.path(path).is_dir()
            || path.match_indices('/').any(|(end, _)| tree.path(&path[..end]).is_file());
        if !taken {
            tree.put(path, *modified);
        }
    }
    let there = tree.files();
    let judged: BTreeMap<&Vec<u8>, Verdict> = there
        .iter()
        .map(|path| {
            let modified = std::fs::symlink_metadata(tree.path(path)).unwrap().mtime();
            (path, search.judge(path, Some(Timestamp::from_second(modified).unwrap())))
        })
        .collect();
    let due: BTreeSet<Vec<u8>> = judged
        .iter()
        .filter(|(_, verdict)| matches!(verdict, Verdict::Due(_)))
        .map(|(path, _)| (*path).clone())
        .collect();
    let mut expected = Survey::default();
    judged.values().for_each(|verdict| search::count(&mut expected, *verdict));
    let starts = |young: bool| {
        let start = |verdict: &Verdict| match verdict {
            Verdict::Young(start) => Some(*start),
            Verdict::Due(start) if !young => *start,
            _ => None,
        };
        judged.values().filter_map(start).min()
    };

    let opened = tree.open();
    assert_eq!(opened.survey(search).await.unwrap().survey, expected);
    let found = opened.starts(search).await.unwrap();
    assert_eq!((found.oldest, found.next), (starts(false), starts(true)));
    let meant: Vec<&[u8]> =
        there.iter().filter(|path| search.means(path)).map(Vec::as_slice).collect();
    let named = Arc::new(Search::named(search.templates.clone()));
    let is_folder = |path: &[u8]| tree.path(path).is_dir();
    let names_a_folder =
        search.templates.iter().any(|template| template.one_path().is_some_and(is_folder));
    match opened.find(&named).await {
        Ok(found) => assert!(!names_a_folder && paths(&found) == meant),
        Err(error) => {
            assert!(names_a_folder && matches!(error, FilesError::NoFile { .. }), "{error}");
        }
    }

    let mut bounds: Vec<&[u8]> = bounds.iter().map(String::as_bytes).collect();
    bounds.sort_unstable();
    let (after, upto) = (bounds[0], bounds[1]);
    for (after, upto) in [(None, None), (Some(after), Some(upto)), (None, Some(after))] {
        let inside = |path: &&Vec<u8>| {
            after.is_none_or(|after| path.as_slice() > after)
                && upto.is_none_or(|upto| path.as_slice() <= upto)
        };
        let mut ordered = Vec::new();
        opened.in_order(search, after, upto, &mut |entry| ordered.push(entry.path)).await.unwrap();
        assert_eq!(ordered, due.iter().filter(inside).cloned().collect::<Vec<_>>());
    }

    let entries = all(opened.walk(search.clone())).await;
    assert_eq!(entries.len(), due.len(), "each is found once");
    let deleted = opened.delete(search, entries).await.unwrap();
    assert_eq!((deleted.gone.len(), deleted.kept.len()), (due.len(), 0));
    let left: BTreeSet<Vec<u8>> = there.difference(&due).cloned().collect();
    assert_eq!(tree.files(), left);
    let after = opened.survey(search).await.unwrap().survey;
    assert_eq!((after.due, after.total), (0, expected.total - expected.due));
}
