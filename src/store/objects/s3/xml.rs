//! The XML of the S3 protocol: what is asked, and what is answered. Pure.
//!
//! A key is taken exactly as it stands: nothing is trimmed and no line end converted, because a key that
//! is one space off is another object.

use std::fmt::Write as _;

use quick_xml::Reader;
use quick_xml::events::Event;

/// Answers are flat: whoever nests deeper does not speak the protocol.
const DEEPEST: usize = 16;

/// One element of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// Its name, without a prefix.
    pub(super) name: String,
    /// Its text, exactly.
    pub(super) text: String,
    /// What is in it.
    pub(super) inner: Vec<Element>,
}

impl Element {
    /// The text of the element of this name that is in it.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.inner.iter().find(|inner| inner.name == name).map(|inner| inner.text.as_str())
    }
}

/// Reads an answer; none where it is not whole.
pub(super) fn parse(answer: &[u8]) -> Option<Element> {
    let mut reader = Reader::from_str(std::str::from_utf8(answer).ok()?);
    let mut open: Vec<Element> = Vec::new();
    loop {
        let done = match reader.read_event().ok()? {
            Event::Start(start) => {
                if open.len() == DEEPEST {
                    return None;
                }
                open.push(named(start.local_name().as_ref()));
                continue;
            }
            Event::Empty(empty) => named(empty.local_name().as_ref()),
            Event::End(_) => open.pop()?,
            Event::Text(text) => {
                if let Some(last) = open.last_mut() {
                    last.text.push_str(&text);
                }
                continue;
            }
            Event::CData(text) => {
                open.last_mut()?.text.push_str(&text);
                continue;
            }
            Event::GeneralRef(reference) => {
                let c = match reference.resolve_char_ref().ok()? {
                    Some(c) => c,
                    None => match &*reference {
                        "amp" => '&',
                        "lt" => '<',
                        "gt" => '>',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return None,
                    },
                };
                open.last_mut()?.text.push(c);
                continue;
            }
            // No answer has a document type, and what it could define is not wanted.
            Event::DocType(_) | Event::Eof => return None,
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => continue,
        };
        match open.last_mut() {
            Some(outer) => outer.inner.push(done),
            None => return Some(done),
        }
    }
}

fn named(name: &str) -> Element {
    Element { name: name.to_owned(), ..Element::default() }
}

/// Whether a key can stand in XML 1.0, by a number if need be.
pub(super) fn can_hold(key: &str) -> bool {
    key.chars().all(|c| match c {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        c => c >= ' ',
    })
}

/// The request that deletes these, each a key and the version that is meant.
pub(super) fn delete_request<'a>(
    objects: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> String {
    // Not quiet: what is gone is named in the answer, not concluded from silence.
    let mut text = String::from("<Delete><Quiet>false</Quiet>");
    for (key, version) in objects {
        text.push_str("<Object><Key>");
        escape(key, &mut text);
        text.push_str("</Key>");
        if let Some(version) = version {
            text.push_str("<VersionId>");
            escape(version, &mut text);
            text.push_str("</VersionId>");
        }
        text.push_str("</Object>");
    }
    text.push_str("</Delete>");
    text
}

fn escape(value: &str, text: &mut String) {
    for c in value.chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&apos;"),
            // White space as it is would be normalized away by who reads it; `&#32;` is not.
            '\t' | '\n' | '\r' => {
                // Writing to a string does not fail.
                let _ = write!(text, "&#{};", u32::from(c));
            }
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_exactly_as_it_was_written() {
        for key in [" a ", "a  b", "a&b<c>\"'", "a\r\nb\tc", "größe/日本", "a+b%20c", "//a//", "."]
        {
            let asked = delete_request([(key, Some("v 1"))].into_iter());
            let read = parse(asked.as_bytes()).unwrap();
            let object = &read.inner[1];
            assert_eq!((object.get("Key"), object.get("VersionId")), (Some(key), Some("v 1")));
            assert!(can_hold(key));
        }
        assert!(!can_hold("a\u{1}b") && !can_hold("a\u{ffff}"));
    }

    #[test]
    fn an_answer_that_is_not_whole_is_none() {
        for answer in [
            "",
            "<a>",
            "<a><b></a>",
            "<a>&unknown;</a>",
            "no xml",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a/>",
            &"<a>".repeat(99),
        ] {
            assert_eq!(parse(answer.as_bytes()), None, "{answer}");
        }
    }

    #[test]
    fn elements_keep_their_order_and_lose_their_prefix() {
        let answer = "<?xml version='1.0'?>\n<x:List xmlns:x='urn:y'><Version><Key>a</Key></Version>\n\
                      <DeleteMarker><Key><![CDATA[b]]></Key></DeleteMarker><Empty/></x:List>";
        let list = parse(answer.as_bytes()).unwrap();
        assert_eq!(list.name, "List");
        let names: Vec<_> = list.inner.iter().map(|inner| inner.name.as_str()).collect();
        assert_eq!(names, ["Version", "DeleteMarker", "Empty"]);
        assert_eq!(list.inner[1].get("Key"), Some("b"));
    }
}
