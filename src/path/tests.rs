use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use expressions::Expressions;

mod expressions;

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

/// Names that say more than those above: dates, and what would mean something to a regular expression.
const MORE_PIECES: [&str; 22] = [
    "a",
    "ab",
    "x2f",
    "\\x2f",
    "^",
    "$",
    "(b|a)+",
    "[^/]*",
    "\n",
    "ü",
    "*",
    "*",
    "?",
    "?",
    "{k}",
    "{k2}",
    "{date_y}",
    "{date:%Y-%m-%d}",
    "{date:%Y/%m/%d}",
    "{date:/%d.%m/%Y_}",
    "{date:%m%d%Y}",
    ".",
];

fn rich_pattern() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        5 => vec(select(&MORE_PIECES[..]), 1..4).prop_map(|pieces| pieces.concat()),
        2 => Just("**".to_owned()),
    ];
    vec(name, 1..6).prop_map(|names| names.join("/"))
}

/// A template, or one with some of its placeholders' values filled in.
fn rich_template() -> impl Strategy<Value = Template> {
    let value = vec(select(&b"a*?{}x2f\\.\n$\xff\xc3"[..]), 1..4);
    let parsed =
        rich_pattern().prop_filter_map("no template", |text| text.parse::<Template>().ok());
    (parsed, prop::option::weighted(0.4, value)).prop_map(|(template, value)| {
        let filled = value.map(|value| template.fill(|_| Some(&value)));
        filled.and_then(Result::ok).unwrap_or(template)
    })
}

/// What a part may stand for, by a number: mostly what it means, and seldom what it hardly does not.
fn bytes_for(part: &Part, is_last: bool, choice: u32) -> Vec<u8> {
    let pick = |from: &[&[u8]]| from[choice as usize % from.len()].to_vec();
    match part {
        Part::Literal(bytes) => bytes.clone(),
        Part::One => pick(&[b"a", b".", b"\n", b"\xff", b"?", b"b", b"\xc3", "ü".as_bytes(), b"/"]),
        Part::Any => pick(&[b"", b"a", b"ab", b"\n\xff", b"", b".", b"a.b-a", b"a/"]),
        Part::Placeholder(_) => pick(&[b"a", b"ab", b"\n\xff", b"{k}", b".b", b"x2f", b"", b"/"]),
        Part::Deep if is_last => pick(&[b"a", b"a/b", b"\xff/\n/a", b"a", b"", b"a//b", b"a/"]),
        Part::Deep => pick(&[b"", b"a/", b"ab/a/", b"", b"x2f/\n/\xff/", b"/", b"a//", b"a"]),
        Part::Date(format) => {
            let days = [["2024", "02", "29"], ["0000", "12", "31"], ["9999", "13", "01"]];
            let near = [["2023", "2", "29"], ["2024", "02", "3a"], ["02024", "02", "28"]];
            let [year, month, day] =
                *days.iter().chain(&days).chain(&near).nth(choice as usize % 9).unwrap();
            format.replace("%Y", year).replace("%m", month).replace("%d", day).into_bytes()
        }
    }
}

/// Paths that a template means, or nearly.
fn near(
    template: &Template,
    choices: &[u32],
    change: Option<(prop::sample::Index, u8)>,
) -> Vec<u8> {
    let last = template.parts.len() - 1;
    let parts = template.parts.iter().zip(choices.iter().cycle()).enumerate();
    let mut path: Vec<u8> =
        parts.flat_map(|(place, (part, choice))| bytes_for(part, place == last, *choice)).collect();
    if let Some((place, byte)) = change
        && !path.is_empty()
    {
        let place = place.index(path.len());
        match byte % 3 {
            0 => path[place] = byte,
            1 => path.insert(place, if byte > 128 { byte } else { b'/' }),
            _ => drop(path.remove(place)),
        }
    }
    path
}

/// For each template some paths that it means, or nearly: what the parts stand for, and a change.
type Near = (Vec<u32>, Option<(prop::sample::Index, u8)>);

fn choices() -> impl Strategy<Value = Vec<Near>> {
    let change = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    vec((vec(any::<u32>(), 1..9), change), 12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_template_means_and_reads_what_its_regular_expression_does(
        template in rich_template(),
        choices in choices(),
        stranger in path(),
    ) {
        let expressions = Expressions::of(&template);
        let near = choices.into_iter().map(|(choices, change)| near(&template, &choices, change));
        let names: Vec<String> = template.placeholders().map(str::to_owned).collect();
        for path in near.chain([stranger, Vec::new()]) {
            let says = || format!("{template:?} {:?} {:?}", template.parts, path.escape_ascii());
            prop_assert_eq!(template.means(&path), expressions.means(&path), "{}", says());
            for name in names.iter().map(|name| Some(name.as_str())).chain([None, Some("other")]) {
                let (read, expected) = (template.read(&path, name), expressions.read(&path, name));
                prop_assert!(read == expected, "{name:?} {}", says());
            }
        }
    }

    #[test]
    fn a_template_enters_the_folders_that_its_regular_expressions_do(
        template in rich_template(),
        choices in choices(),
        stranger in path(),
    ) {
        let expressions = Expressions::of(&template);
        let near = choices.into_iter().map(|(choices, change)| near(&template, &choices, change));
        for path in near.chain([stranger]) {
            let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            let is_meant = template.means(&path);
            for folder in slashes.map(|(slash, _)| &path[..slash]).chain([&path[..], b""]) {
                let says = || format!("{template:?} {:?} {:?}", template.parts, folder.escape_ascii());
                let enters = template.enters(folder);
                prop_assert_eq!(enters, expressions.enters(folder), "{}", says());
                prop_assert!(enters || !is_meant || folder == path, "cut off: {}", says());
            }
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
    for text in [
        "{a}{b}",
        "{a}*",
        "*{a}",
        "{a}?",
        "{a}/{a}",
        "{date:%Y-%m}",
        "{date:%Y//%m/%d}",
        "{date:%%Ym%m%d}",
    ] {
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
