//! Tables, numbers and moments for people.

use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};
use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets,
};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

pub(crate) const RED: anstyle::Style = AnsiColor::Red.on_default().bold();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const RESET: anstyle::Reset = anstyle::Reset;

/// Wider lines than this are hard to read.
const WIDEST: usize = 100;

/// Columns of the terminal, or of what stands for one.
fn columns() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || {
        let table = Table::new();
        table.is_tty().then(|| table.width().map(usize::from)).flatten()
    };
    said.or_else(terminal).unwrap_or(WIDEST).max(40)
}

/// Whether there is no room to spare.
pub(crate) fn is_narrow() -> bool {
    columns() < 90
}

/// An empty table with these headings.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(columns()).unwrap_or(u16::MAX))
        .set_header(
            headings.iter().map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)),
        );
    table
}

/// Prints a table without the spaces that fill its lines. Where it is too wide, it does without the
/// columns that are named, the first of them first.
pub(crate) fn print_table(mut table: Table, dispensable: &[usize]) {
    let mut dispensable = dispensable.iter();
    while needed_width(&table) > columns()
        && let Some(column) = dispensable.next()
    {
        if let Some(column) = table.column_mut(*column) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for line in table.lines() {
        anstream::println!("{}", line.trim_end());
    }
}

/// The width of a table in which nothing is wrapped.
fn needed_width(table: &Table) -> usize {
    let widths = table.column_max_content_widths();
    let shown = table.column_iter().zip(widths).filter(|(column, _)| !column.is_hidden());
    shown.map(|(_, width)| usize::from(width) + 2).sum()
}

/// Breaks a text into lines that leave `indent` columns free.
pub(crate) fn wrap(text: &str, indent: usize) -> Vec<String> {
    wrap_to(text, columns().min(WIDEST).saturating_sub(indent).max(24))
}

fn wrap_to(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Breaks a text into lines, all but the first indented, to be printed after `indent` columns.
pub(crate) fn hanging(text: &str, indent: usize) -> String {
    wrap(text, indent).join(&format!("\n{:indent$}", ""))
}

/// A progress bar on standard error, where somebody looks at one.
pub(crate) fn bar(wanted: bool, message: String, unit: &str) -> ProgressBar {
    if !wanted || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(&format!(
        "{{msg:20}} [{{bar:20}}] {{human_pos:>7}} of {{human_len}} {unit}, {{eta}} left"
    ));
    let bar = ProgressBar::new(0).with_message(message);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

/// A cell aligned to the right, for numbers.
pub(crate) fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// `1234567` as `1,234,567`.
pub(crate) fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 notice`, `2 notices`.
pub(crate) fn notices(count: u64) -> String {
    format!("{} notice{}", number(count), if count == 1 { "" } else { "s" })
}

/// `1 subject or record`, `2 subjects or records`.
pub(crate) fn subjects(count: u64) -> String {
    let plural = if count == 1 { "subject or record" } else { "subjects or records" };
    format!("{} {plural}", number(count))
}

/// What somebody else wrote, without what would steer a terminal or turn the order of its letters round.
pub(crate) fn plain(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) && !c.is_whitespace() { '\u{fffd}' } else { c }).collect()
}

/// `1 record`, `2 records`.
pub(crate) fn records(count: u64) -> String {
    format!("{} record{}", number(count), if count == 1 { "" } else { "s" })
}

/// `1 event`, `2 events`.
pub(crate) fn events(count: u64) -> String {
    format!("{} event{}", number(count), if count == 1 { "" } else { "s" })
}

/// A moment to the minute, in a rule's zone.
pub(crate) fn moment(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string()
}

/// A day in UTC.
pub(crate) fn day(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
}

/// A number of seconds, to two units at most.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{:.0} ms", (seconds * 1000.0).ceil());
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^63")]
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A share of the whole, as a percentage.
pub(crate) fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.001 {
        "<0.1 %".to_owned()
    } else {
        format!("{:.1} %", share * 100.0)
    }
}

/// Prints a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) {
    // The values are plain data with string keys: serializing them cannot fail.
    println!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_000), "1,000");
        assert_eq!(number(12_345_678), "12,345,678");
    }

    #[test]
    fn lines_break_between_words_and_never_within() {
        assert_eq!(wrap_to("in doubt a record is kept", 12), ["in doubt a", "record is", "kept"]);
        assert_eq!(wrap_to("incomprehensibilities", 5), ["incomprehensibilities"]);
        assert!(wrap_to("", 5).is_empty());
    }

    #[test]
    fn what_others_wrote_steers_no_terminal() {
        assert_eq!(plain("no\u{1b}[31m way\u{202e}"), "no\u{fffd}[31m way\u{fffd}");
        assert_eq!(plain("über den Wolken"), "über den Wolken");
    }

    #[test]
    fn durations_have_two_units_at_most() {
        assert_eq!(duration(0.0123), "13 ms");
        assert_eq!(duration(59.94), "59.9 s");
        assert_eq!(duration(61.0), "1 min 1 s");
        assert_eq!(duration(3_700.0), "1 h 1 min");
        assert_eq!(duration(200_000.0), "2 d 7 h");
    }

    #[test]
    fn a_small_share_is_not_nothing() {
        assert_eq!(percent(0.0), "0.0 %");
        assert_eq!(percent(0.000_01), "<0.1 %");
        assert_eq!(percent(0.123_4), "12.3 %");
    }
}
