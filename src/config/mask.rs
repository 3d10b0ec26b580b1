//! Keeps secrets out of error reports: what looks like a password is cut out of every text that is
//! shown, whatever the error is about.

use std::ops::Range;

const STAND_IN: &str = "***";

/// Words in a key that say its value is a secret.
const TELLING: [&str; 7] = ["pass", "pwd", "secret", "token", "api_key", "apikey", "private"];

/// The key's name says that its value is a secret.
pub(super) fn is_telling(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    TELLING.iter().any(|word| key.contains(word))
}

/// A text without its secrets, and where everything else went.
pub(super) struct Masked {
    pub(super) text: String,
    cuts: Vec<Cut>,
}

/// What was cut, in bytes of the original, and how many bytes stand in for it.
struct Cut {
    range: Range<usize>,
    stand_in: usize,
}

impl Masked {
    /// Cuts `secrets` (in bytes, in any order) out of the text.
    pub(super) fn new(original: &str, mut secrets: Vec<Range<usize>>) -> Self {
        secrets.retain(|cut| cut.start < cut.end && original.get(cut.clone()).is_some());
        secrets.sort_by_key(|cut| (cut.start, cut.end));
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for cut in secrets {
            match ranges.last_mut() {
                Some(last) if cut.start <= last.end => last.end = last.end.max(cut.end),
                _ => ranges.push(cut),
            }
        }
        let mut text = String::with_capacity(original.len());
        let mut cuts = Vec::new();
        let mut from = 0;
        for range in ranges {
            text.push_str(&original[from..range.start]);
            let before = text.len();
            text.push_str(STAND_IN);
            // What comes after keeps its line number.
            text.extend(original[range.clone()].chars().filter(|c| *c == '\n'));
            from = range.end;
            cuts.push(Cut { range, stand_in: text.len() - before });
        }
        text.push_str(&original[from..]);
        Masked { text, cuts }
    }

    /// Where a stretch of the original is now; one inside a secret grows to all of its stand-in.
    pub(super) fn moved(&self, range: Range<usize>) -> Range<usize> {
        let start = self.offset(range.start, false);
        let end = self.offset(range.end, true).max(start);
        floor(&self.text, start)..floor(&self.text, end)
    }

    fn offset(&self, at: usize, is_end: bool) -> usize {
        let (mut removed, mut added) = (0, 0);
        for Cut { range, stand_in } in &self.cuts {
            if at <= range.start {
                break;
            }
            if at < range.end {
                return range.start + added - removed + if is_end { *stand_in } else { 0 };
            }
            removed += range.len();
            added += stand_in;
        }
        at + added - removed
    }
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A message without the passwords of the URLs in it.
pub(super) fn scrub(text: &str) -> String {
    Masked::new(text, passwords_in_urls(text)).text
}

/// The passwords in everything that looks like a URL: rather too much than too little.
pub(super) fn passwords_in_urls(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (scheme_end, _) in text.match_indices("://") {
        let start = scheme_end + 3;
        let end = text[start..].find(['"', '\'', '\n']).map_or(text.len(), |at| start + at);
        let rest = &text[start..end];
        found.extend(password(rest).map(|range| start + range.start..start + range.end));
        found.extend(parameters(rest).map(|range| start + range.start..start + range.end));
    }
    found
}

/// The password in `user:password@host…`: from the first `:` to the last `@`, because a password that
/// was typed in without escaping may hold any of `@/?#`.
pub(super) fn password(after_scheme: &str) -> Option<Range<usize>> {
    let colon = after_scheme.find(':')?;
    let at = after_scheme.rfind('@')?;
    let no_user_before = after_scheme[..colon].find('@').is_none();
    (no_user_before && colon + 1 < at).then_some(colon + 1..at)
}

/// The values of parameters such as `?password=…`.
pub(super) fn parameters(after_scheme: &str) -> impl Iterator<Item = Range<usize>> {
    after_scheme.match_indices('=').filter_map(|(equals, _)| {
        let name = after_scheme[..equals].rsplit(['?', '&']).next().unwrap_or("");
        let value = equals + 1;
        let end = after_scheme[value..].find('&').map_or(after_scheme.len(), |at| value + at);
        (is_telling(name) && value < end).then_some(value..end)
    })
}

/// The values in lines such as `password = …`, for a file that could not be parsed.
pub(super) fn assignments(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (equals, _) in text.match_indices('=') {
        let before = text[..equals].trim_end_matches([' ', '\t', '"', '\'']);
        let is_key = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let key = before.rsplit(|c| !is_key(c)).next().unwrap_or("");
        let line_end = text[equals..].find('\n').map_or(text.len(), |at| equals + at);
        if is_telling(key) {
            found.push(equals + 1..line_end);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn passwords_in_urls_are_cut_however_they_are_written() {
        for url in [
            "postgres://app:hunter2@db/app",
            "postgres://app:hunter2@x/hunter2@db/app",
            "mysql://app:hunter2#?/@db/app",
            "postgres://:hunter2@db/app",
            "postgres://db/app?user=a&password=hunter2&x=1",
            "postgres://db/app?sslpassword=hunter2",
        ] {
            let shown = scrub(&format!("see \"{url}\" there"));
            assert!(!shown.contains("hunter2") && shown.contains(STAND_IN), "{shown}");
        }
        for plain in ["postgres://app@db:5432/app", "sqlite:///a@b.db", "postgres://app@[::1]:5/x"]
        {
            assert_eq!(scrub(plain), plain);
        }
    }

    #[test]
    fn places_move_with_the_text_around_a_cut() {
        let text = "url = \"p://u:secret@h\" # x";
        let masked = Masked::new(text, passwords_in_urls(text));
        assert_eq!(masked.text, "url = \"p://u:***@h\" # x");
        let whole = text.find('"').unwrap()..text.rfind('"').unwrap() + 1;
        assert_eq!(&masked.text[masked.moved(whole)], "\"p://u:***@h\"");
        let inside = text.find("cre").unwrap()..text.find("et@").unwrap();
        assert_eq!(&masked.text[masked.moved(inside)], "***");
    }

    proptest! {
        #[test]
        fn masking_takes_any_text_and_any_stretch(
            text in "[a-z:/@é\"\n=&?]{0,40}", start in 0usize..50, length in 0usize..50,
            extra in prop::collection::vec((0usize..50, 0usize..50), 0..4),
        ) {
            let mut cuts = passwords_in_urls(&text);
            cuts.extend(assignments(&text));
            cuts.extend(extra.into_iter().map(|(start, length)| start..start + length));
            let masked = Masked::new(&text, cuts);
            let moved = masked.moved(start..start + length);
            prop_assert!(masked.text.get(moved).is_some());
            prop_assert_eq!(masked.text.matches('\n').count(), text.matches('\n').count());
        }

        #[test]
        fn no_password_survives(password in "[a-z0-9@/?#:]{6,20}", user in "[a-z]{0,5}") {
            let shown = scrub(&format!("postgres://{user}:{password}@host/db"));
            prop_assert!(!shown.contains(&password), "{}", shown);
        }
    }
}
