use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn template(text: &str) -> Template {
    text.parse().unwrap()
}

#[test]
fn a_template_means_what_it_says() {
    for (text, path, meant) in [
        ("faces/*", "faces/a.jpg", true),
        ("faces/*", "faces/a/b.jpg", false),
        ("faces/*", "faces/", true),
        ("faces/**", "faces/a/b.jpg", true),
        ("faces/**", "faces/a.jpg", true),
        ("faces/**", "faces", false),
        ("**/*.tmp", "a.tmp", true),
        ("**/*.tmp", "x/y/a.tmp", true),
        ("**/*.tmp", "x/y/a.tmpx", false),
        ("a?c", "abc", true),
        ("a?c", "a/c", false),
        ("a.c", "abc", false),
        ("faces/{key}", "faces/k\n1", true),
        ("faces/{key}.jpg", "faces/.jpg", false),
        ("logs/{date:%Y/%m/%d}/**", "logs/2024/02/29/a/b", true),
        ("logs/{date:%Y/%m/%d}/**", "logs/2024/2/29/a", false),
    ] {
        assert_eq!(template(text).means(path.as_bytes()), meant, "{text} {path:?}");
    }
    assert!(template("faces/*").means(b"faces/\xff\xfe"));
}

/// Whether a pattern means a path, in the plainest way: name by name, and each name byte by byte.
fn naive(pattern: &str, path: &[u8]) -> bool {
    fn names(pattern: &[&str], path: &[&[u8]]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["**"], path) => !path.is_empty(),
            (["**", rest @ ..], path) => (0..=path.len()).any(|skip| names(rest, &path[skip..])),
            ([first, rest @ ..], [name, path @ ..]) => {
                one(first.as_bytes(), name) && names(rest, path)
            }
            _ => false,
        }
    }
    fn one(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], name) => (0..=name.len()).any(|skip| one(rest, &name[skip..])),
            ([b'?', rest @ ..], [_, name @ ..]) => one(rest, name),
            ([b'{', rest @ ..], name) => {
                let end = rest.iter().position(|byte| *byte == b'}').unwrap();
                (1..=name.len()).any(|skip| one(&rest[end + 1..], &name[skip..]))
            }
            ([first, rest @ ..], [byte, name @ ..]) => first == byte && one(rest, name),
            _ => false,
        }
    }
    let path: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    names(&pattern.split('/').collect::<Vec<_>>(), &path)
}

const PIECES: [&str; 12] = ["a", "b", ".", "-", "*", "?", "{k}", "{k2}", "ü", "\\", "[a]", "\n"];

fn pattern() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => vec(select(&PIECES[..]), 1..4).prop_map(|pieces| pieces.concat()),
        1 => Just("**".to_owned()),
    ];
    vec(name, 1..5).prop_map(|names| names.join("/"))
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let bytes = vec(select(&b"ab.-\\[]\n\xc3\xbc\xff"[..]), 1..5);
    bytes.prop_filter("not a name", |name| !matches!(name.as_slice(), b"." | b".."))
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    vec(name(), 1..6).prop_map(|names| names.join(&b'/'))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_template_means_what_a_naive_reader_takes_it_for(text in pattern(), paths in vec(path(), 20)) {
        let Ok(template) = text.parse::<Template>() else { return Ok(()) };
        for path in paths {
            prop_assert_eq!(template.means(&path), naive(&text, &path), "{} {:?}", text, path);
        }
    }

    #[test]
    fn no_folder_with_something_meant_below_it_is_left_out(text in pattern(), path in path()) {
        let Ok(template) = text.parse::<Template>() else { return Ok(()) };
        if template.means(&path) {
            prop_assert!(path.starts_with(template.prefix()), "{}", text);
            prop_assert!(template.one_path().is_none_or(|one| one == path));
            for (slash, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                prop_assert!(template.enters(&path[..slash]), "{} {:?}", text, &path[..slash]);
            }
        }
    }

    #[test]
    fn a_template_filled_in_means_what_has_that_value(text in pattern(), path in path(), value in name()) {
        let Ok(template) = text.parse::<Template>() else { return Ok(()) };
        let Ok(filled) = template.fill(|_| Some(&value)) else { return Ok(()) };
        prop_assert_eq!(filled.placeholders().count(), 0);
        if filled.means(&path) {
            prop_assert!(template.means(&path), "it means no more than before");
        }
        // Taken as it is, and not as a pattern.
        let escaped: Vec<u8> = filled.one_path().map(<[u8]>::to_vec).unwrap_or_default();
        if !escaped.is_empty() {
            prop_assert!(filled.means(&escaped) && template.means(&escaped));
            prop_assert!(escaped.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..")));
            let names: Vec<String> = template.placeholders().map(str::to_owned).collect();
            if let [name] = names.as_slice() {
                let read = template.read(&escaped, Some(name)).unwrap();
                prop_assert_eq!(read.value, Some(value));
            }
        }
    }

    #[test]
    fn no_value_leads_out_of_its_folder(text in pattern(), value in vec(select(&b"./a\0"[..]), 0..4)) {
        let Ok(template) = text.parse::<Template>() else { return Ok(()) };
        if let Ok(filled) = template.fill(|_| Some(&value))
            && let Some(one) = filled.one_path()
        {
            let depth = |path: &[u8]| path.split(|byte| *byte == b'/').count();
            prop_assert_eq!(depth(one), depth(text.as_bytes()));
            prop_assert!(one.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..")));
        }
    }
}

#[test]
fn a_placeholder_may_have_any_name_beside_a_date() {
    let template = template("{date_y}/{date:%Y-%m-%d}/{k}");
    let read = template.read(b"a/2024-02-29/c", Some("date_y")).unwrap();
    assert_eq!(
        read,
        Captures { day: Some(jiff::civil::date(2024, 2, 29)), value: Some(b"a".into()) }
    );
    assert_eq!(template.read(b"a/2023-02-29/c", Some("k")).unwrap().day, None, "no such day");
    assert!(template.enters(b"a/2023-02-29") && !template.enters(b"a/today"));
}

#[test]
fn what_is_no_template_is_refused() {
    for text in
        ["", "/a", "a/", "a//b", "../a", "a/./b", "a**", "**b/c", "{", "}", "{a", "{1}", "{a-b}"]
    {
        assert!(text.parse::<Template>().is_err(), "{text}");
    }
    for text in ["{a}{b}", "{a}*", "*{a}", "{a}?", "{a}/{a}", "{date:%Y-%m}", "{date:%Y//%m/%d}"] {
        assert!(text.parse::<Template>().is_err(), "{text}");
    }
    // Each could be read in two ways: for another person, or for another day.
    for text in [
        "exports/{user}-*.csv",
        "{a}-{b}",
        "reports/*{date:%Y%m%d}*.csv",
        "**/{date:%Y-%m-%d}/**",
        "**/{user}/x",
        "{user}-{date:%Y-%m-%d}",
    ] {
        assert!(matches!(text.parse::<Template>(), Err(InvalidTemplate::Vague(_))), "{text}");
    }
    for text in ["app-{date:%Y-%m-%d}*.log", "a*/{user}.csv", "{user}/**/*.jpg", "?{a}.?pg"] {
        assert!(text.parse::<Template>().is_ok(), "{text}");
    }
}

#[test]
fn a_filled_template_shows_no_value() {
    let filled = template("faces/{key}").fill(|_| Some(b"maria")).unwrap();
    assert_eq!(format!("{filled} {filled:?}"), "faces/{key} \"faces/{key}\"");
    let unfit = template("faces/{key}").fill(|_| Some(b"maria/..")).unwrap_err();
    assert!(!unfit.to_string().contains("maria"));
}
