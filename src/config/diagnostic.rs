//! What is wrong with a configuration: all of it at once, each with its place and what to write
//! instead.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};
use serde::Serialize;

use super::mask::{self, Masked};
use super::text::{Origin, Place, Texts};

/// More than these are counted, not shown.
const SHOWN: usize = 100;

/// One thing that is wrong, as data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Diagnostic {
    /// The file, or the environment variable as `$NAME`.
    pub file: String,
    /// The line, counted from 1; none for a variable, or when the file as a whole is meant.
    pub line: Option<usize>,
    /// The column in characters, counted from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The other places of a contradiction.
    pub related: Vec<Related>,
}

/// Another place that a [`Diagnostic`] is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Related {
    /// The file, or the environment variable as `$NAME`.
    pub file: String,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// The column in characters, counted from 1.
    pub column: Option<usize>,
    /// What this place has to do with it.
    pub message: String,
}

/// Everything that is wrong with a configuration; none of it was taken over.
///
/// Prints as a report with the lines at fault. Secrets never appear in it.
#[derive(Clone)]
pub struct ConfigError {
    diagnostics: Vec<Diagnostic>,
    plain: String,
    coloured: String,
}

impl ConfigError {
    /// A last resort, should reading ever give up without a reason.
    pub(super) fn unexplained() -> Self {
        let text =
            "the configuration cannot be used, and expunged does not know why: please report this";
        ConfigError { diagnostics: Vec::new(), plain: text.to_owned(), coloured: text.to_owned() }
    }

    /// Each thing that is wrong, in the order of files and lines.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// The report with colours (ANSI escape codes), for a terminal.
    pub fn coloured(&self) -> &str {
        &self.coloured
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plain)
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConfigError").field(&self.diagnostics).finish()
    }
}

impl std::error::Error for ConfigError {}

/// A problem while it is being put together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Problem {
    /// `None`: the file as a whole.
    place: Option<Place>,
    file: String,
    message: String,
    label: Option<String>,
    related: Vec<(Place, String)>,
    help: Vec<String>,
    depth: Depth,
}

/// How far a problem can be trusted when a file could not be parsed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Depth {
    /// The text is not TOML, or cannot be read.
    Syntax,
    /// What was read is wrong.
    Meaning,
    /// Something was not found; it may stand where the parser did not get through.
    Absence,
}

impl Problem {
    /// Something wrong at a place.
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Problem {
            place: Some(place),
            file: String::new(),
            message: message.into(),
            label: None,
            related: Vec::new(),
            help: Vec::new(),
            depth: Depth::Meaning,
        }
    }

    /// Something wrong with a file as a whole.
    pub(super) fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        let nowhere = Place { text: 0, start: 0, end: 0 };
        Problem { place: None, file: file.into(), ..Problem::new(nowhere, message).syntax() }
    }

    /// The text is not TOML.
    pub(super) fn syntax(self) -> Self {
        Problem { depth: Depth::Syntax, ..self }
    }

    /// Something is missing.
    pub(super) fn absence(self) -> Self {
        Problem { depth: Depth::Absence, ..self }
    }

    /// Says under the line what is wrong there.
    pub(super) fn label(self, label: impl Into<String>) -> Self {
        Problem { label: Some(label.into()), ..self }
    }

    /// Another place that this is about.
    pub(super) fn related(mut self, place: Place, label: impl Into<String>) -> Self {
        self.related.push((place, label.into()));
        self
    }

    /// What to do or to write instead.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        self.place.into_iter().chain(self.related.iter().map(|(place, _)| *place))
    }
}

/// Where problems gather while the configuration is read.
#[derive(Default)]
pub(super) struct Problems {
    list: RefCell<Vec<Problem>>,
    secrets: RefCell<BTreeMap<usize, Vec<Range<usize>>>>,
}

impl Problems {
    /// Takes one more.
    pub(super) fn add(&self, problem: Problem) {
        self.list.borrow_mut().push(problem);
    }

    /// How many there are so far.
    pub(super) fn count(&self) -> usize {
        self.list.borrow().len()
    }

    /// What stands there is or may be a secret: never shown, whatever line is.
    pub(super) fn hide(&self, place: Place) {
        let mut secrets = self.secrets.borrow_mut();
        secrets.entry(place.text).or_default().push(place.start..place.end);
    }

    /// The error that all of them make, if there are any.
    pub(super) fn into_error(self, texts: &Texts) -> Option<ConfigError> {
        let mut list = self.list.into_inner();
        let unread = texts.any_broken() || list.iter().any(|problem| problem.place.is_none());
        list.retain(|problem| is_certain(problem, texts, unread));
        // Files that cannot be read at all come first; there is nothing to underline in them.
        list.sort();
        list.dedup();
        if list.is_empty() {
            return None;
        }
        let mut report =
            Report { texts, secrets: self.secrets.into_inner(), masked: BTreeMap::new() };
        report.mask(list.iter().flat_map(Problem::places));
        let plain = report.render(&Renderer::plain(), &list);
        let styled = Renderer::styled().decor_style(DecorStyle::Unicode);
        let coloured = report.render(&styled, &list);
        let diagnostics = list.iter().map(|problem| report.diagnostic(problem)).collect();
        Some(ConfigError { diagnostics, plain, coloured })
    }
}

/// A text with syntax errors is read as far as it goes; what that leads to is not reported, and
/// while any file is not read whole (`unread`), nor is what seems to be missing.
fn is_certain(problem: &Problem, texts: &Texts, unread: bool) -> bool {
    let broken = |place: Place| texts.get(place).is_some_and(|text| text.broken);
    match problem.depth {
        Depth::Syntax => true,
        Depth::Meaning => !problem.places().any(broken),
        Depth::Absence => !unread,
    }
}

struct Report<'a> {
    texts: &'a Texts,
    secrets: BTreeMap<usize, Vec<Range<usize>>>,
    masked: BTreeMap<usize, Masked>,
}

impl Report<'_> {
    fn mask(&mut self, places: impl Iterator<Item = Place>) {
        for place in places {
            let Some(text) = self.texts.get(place) else { continue };
            let secrets = self.secrets.get(&place.text);
            self.masked.entry(place.text).or_insert_with(|| {
                let mut cuts = mask::passwords_in_urls(&text.content);
                cuts.extend(secrets.into_iter().flatten().cloned());
                if text.broken {
                    cuts.extend(mask::assignments(&text.content));
                }
                Masked::new(&text.content, cuts)
            });
        }
    }

    fn render(&self, renderer: &Renderer, list: &[Problem]) -> String {
        let mut blocks: Vec<String> =
            list.iter().take(SHOWN).map(|problem| self.block(renderer, problem)).collect();
        let count = match list.len() {
            1 => "1 error".to_owned(),
            count => format!("{count} errors"),
        };
        let hidden = list.len().saturating_sub(SHOWN);
        let more = if hidden > 0 { format!(", {hidden} of them not shown") } else { String::new() };
        let total = format!("{count} in the configuration{more}; nothing of it was taken over");
        blocks.push(renderer.render(&[Group::with_title(Level::ERROR.primary_title(total))]));
        blocks.join("\n\n")
    }

    fn block(&self, renderer: &Renderer, problem: &Problem) -> String {
        let mut title = mask::scrub(&problem.message);
        if problem.place.is_none() {
            title = format!("{}: {title}", problem.file);
        }
        let mut group = Group::with_title(Level::ERROR.primary_title(title));
        let mut marks: Vec<(Place, AnnotationKind, Option<&str>)> = Vec::new();
        marks.extend(
            problem.place.map(|place| (place, AnnotationKind::Primary, problem.label.as_deref())),
        );
        for (place, label) in &problem.related {
            marks.push((*place, AnnotationKind::Context, Some(label)));
        }
        let mut is_first = true;
        // One snippet per text, the one with the fault itself first.
        while let Some(&(first, ..)) = marks.first() {
            let here: Vec<_>;
            (here, marks) = marks.into_iter().partition(|(place, ..)| place.text == first.text);
            let Some(masked) = self.masked.get(&first.text) else { continue };
            let mut snippet = Snippet::source(masked.text.as_str());
            snippet = match self.texts.get(first).map(|text| &text.origin) {
                Some(Origin::File(path)) => snippet.path(path.display().to_string()),
                // A variable has a name, which its line shows, and no line number.
                _ if is_first => snippet.line_numbering(false),
                _ => snippet.path("environment").line_numbering(false),
            };
            is_first = false;
            for (place, kind, label) in here {
                let label = label.map(mask::scrub);
                snippet = snippet.annotation(kind.span(self.span(place)).label(label));
            }
            group = group.element(snippet);
        }
        for help in &problem.help {
            let help = normalize_untrusted_str(&mask::scrub(help));
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group])
    }

    /// Where a place is in the masked text; at least one character, so that there is something to
    /// underline.
    fn span(&self, place: Place) -> Range<usize> {
        let Some(masked) = self.masked.get(&place.text) else { return 0..0 };
        let span = masked.moved(place.start..place.end);
        let next = masked.text[span.start..].chars().next().filter(|c| *c != '\n');
        span.start..span.end.max(span.start + next.map_or(0, char::len_utf8))
    }

    fn diagnostic(&self, problem: &Problem) -> Diagnostic {
        let (file, line, column) = match problem.place {
            Some(place) => self.locate(place),
            None => (problem.file.clone(), None, None),
        };
        let mut message = mask::scrub(&problem.message);
        if let Some(label) = &problem.label {
            message = format!("{message} ({})", mask::scrub(label));
        }
        let help = problem.help.iter().map(|help| mask::scrub(help)).collect::<Vec<_>>();
        let related = problem.related.iter().map(|(place, label)| {
            let (file, line, column) = self.locate(*place);
            Related { file, line, column, message: mask::scrub(label) }
        });
        let help = (!help.is_empty()).then(|| help.join("\n"));
        Diagnostic { file, line, column, message, help, related: related.collect() }
    }

    fn locate(&self, place: Place) -> (String, Option<usize>, Option<usize>) {
        let file = match self.texts.get(place).map(|text| &text.origin) {
            Some(Origin::File(path)) => path.display().to_string(),
            Some(Origin::Variable(name)) => return (format!("${name}"), None, None),
            None => String::new(),
        };
        let text = self.masked.get(&place.text).map_or("", |masked| &masked.text);
        let before = &text[..self.span(place).start];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (file, Some(line), Some(column))
    }
}
