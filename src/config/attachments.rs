//! `[[rule.NAME.attachments]]`: files and objects that belong to a row and go with it.

use super::diagnostic::Problem;
use super::paths;
use super::reader::Reader;
use super::rules::{self, Stores};
use super::text::Table;
use crate::path::Template;
use crate::rule::{Attachment, StoreKind};

/// Reads what belongs to the rows of a rule.
pub(super) fn read(reader: &mut Reader<'_>, stores: &Stores) -> Vec<Attachment> {
    let example = "[{ store = \"uploads\", path = \"faces/{upload_key}\" }]";
    let Some(tables) = reader.tables("attachments", example) else { return Vec::new() };
    tables.into_iter().filter_map(|table| attachment(reader, table, stores)).collect()
}

fn attachment(outer: &Reader<'_>, table: &Table, stores: &Stores) -> Option<Attachment> {
    let what = format!("an attachment of {}", outer.what);
    let mut reader = Reader::new(outer.context, what, table);
    reader.expect(&[("store", "\"uploads\""), ("path", "\"faces/{upload_key}\"")]);
    let (store, kind) = rules::store(&mut reader, stores);
    if let Some(kind) = kind
        && matches!(kind.value, StoreKind::Sql(_))
    {
        let message = format!("{}: its store is a database", reader.what);
        let help = "name a store of files or objects; rows go by a rule of their own, or by the database's foreign keys";
        reader.report(Problem::new(kind.place, message).help(help));
    }
    let written = reader.word("path", "\"faces/{upload_key}\"");
    let path = written.as_ref().and_then(|written| paths::template(&reader, written));
    if let (Some(written), Some(path)) = (written, &path)
        && let Some((message, help)) = too_wide(path)
    {
        let message = format!("{}: {message}", reader.what);
        reader.report(Problem::new(written.place, message).help(help));
    }
    reader.finish();
    Some(Attachment { store: store?, path: path? })
}

/// Why a template could mean what belongs to another row.
fn too_wide(path: &Template) -> Option<(&'static str, &'static str)> {
    let example = "write such as `faces/{upload_key}`, with a column of the row";
    let text = path.as_str();
    if path.has_date() {
        return Some(("a row says with its columns what belongs to it, not with a date", example));
    }
    let Some(placeholder) = text.find('{') else {
        return Some(("each row would take the same with it", example));
    };
    // Before it a wildcard would search the whole store for every row, and find other rows' files.
    let wildcard = text.find(['*', '?']).is_some_and(|wildcard| wildcard < placeholder);
    wildcard.then_some((
        "a wildcard before the first placeholder could mean what belongs to others",
        "write the folder out: `faces/{upload_key}/*`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_row_names_belongs_to_it() {
        for (text, good) in [
            ("faces/{key}", true),
            ("{key}", true),
            ("thumbs/{key}/*", true),
            ("{user}/**", true),
            ("faces/{key}.?pg", true),
            ("faces/*", false),
            ("faces/one.jpg", false),
            ("*/{key}", false),
            ("f?/{key}", false),
            ("{date:%Y-%m-%d}/{key}", false),
        ] {
            assert_eq!(too_wide(&text.parse().unwrap()).is_none(), good, "{text}");
        }
    }
}
