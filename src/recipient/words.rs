//! What others say, in words that can be kept: they may repeat what they were told.

use crate::notice::Message;

/// A reason is no longer, in characters.
const LONGEST: usize = 100;
/// What stands in for a word that may name somebody.
const STAND_IN: &str = "…";

/// A reason without whatever may name somebody: words with an `@`, with four digits or more, and, where it is known
/// what was told, with any of that.
pub(super) fn reason(text: &str, message: Option<&Message>) -> String {
    let told: Vec<String> = message
        .iter()
        .flat_map(|message| &message.about)
        .flat_map(|identities| identities.0.values())
        .map(|value| value.trim().to_lowercase())
        .filter(|value| !value.is_empty())
        .collect();
    let lower = text.to_lowercase();
    // What was told may have spaces in it.
    if told.iter().any(|value| value.contains(char::is_whitespace) && lower.contains(value)) {
        return STAND_IN.to_owned();
    }
    let may_name = |word: &str| {
        let word = word.to_lowercase();
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        word.contains('@')
            || word.chars().filter(char::is_ascii_digit).count() > 3
            || told.iter().any(|value| bare == value || (value.len() > 2 && word.contains(value)))
    };
    let mut words: Vec<&str> = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        match word {
            "" => {}
            word if !may_name(word) => words.push(word),
            _ if words.last() == Some(&STAND_IN) => {}
            _ => words.push(STAND_IN),
        }
    }
    if words.is_empty() {
        return "it gives no reason".to_owned();
    }
    words.join(" ").chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::Identities;

    #[test]
    fn a_reason_names_nobody() {
        let identities = [("id", "u7"), ("name", "Anna Lee"), ("city", "Ulm")];
        let identities = identities.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let message = Message {
            id: uuid::Uuid::nil(),
            rule: "r".parse().unwrap(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            about: vec![Identities(identities.into())],
        };
        for (text, kept) in [
            ("no_match", "no_match"),
            ("the subject  has\nconsented", "the subject has consented"),
            ("anna@example.org has consented", "… has consented"),
            ("user 123456 unknown", "user … unknown"),
            ("user u7, unknown", "user … unknown"),
            ("no Anna Lee here", "…"),
            ("nobody in ulm", "nobody in …"),
            ("  ", "it gives no reason"),
        ] {
            assert_eq!(reason(text, Some(&message)), kept);
        }
        assert_eq!(reason(&"x".repeat(500), None).len(), LONGEST);
    }
}
