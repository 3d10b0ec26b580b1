//! Texts with placeholders, and the bodies of calls that are made of them.
//!
//! `{{id:NAME}}` is the value of a subject's identity, `{{id:NAME|lower|md5}}` what is made of it; `{{notice}}` is the
//! id of the notice, the same for each attempt, `{{rule}}` the rule's name, `{{created_at}}` when the deletion was
//! recorded, `{{job}}` the recipient's own name of what it is asked about.
//!
//! A body is JSON whose texts have placeholders. It is filled as a tree, so a value can be nothing but a text in it,
//! whatever characters it has. A list whose one element names an identity is repeated for each subject, and
//! `"{{subjects}}"` as a whole text is the list of all of them with all of their names.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// A text with placeholders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template(pub Vec<Piece>);

/// A piece of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// As it is written.
    Text(String),
    /// The value of an identity.
    Id {
        /// The name of the identity.
        name: String,
        /// What is made of its value, one after the other.
        forms: Vec<Form>,
    },
    /// The id of the notice.
    Notice,
    /// The name of the rule.
    Rule,
    /// When the deletion was recorded.
    CreatedAt,
    /// The recipient's own name of the job.
    Job,
}

/// What is made of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// In lower case.
    Lower,
    /// Without white space around it.
    Trim,
    /// Its MD5 sum in hexadecimal digits.
    Md5,
    /// Its SHA-1 sum.
    Sha1,
    /// Its SHA-256 sum.
    Sha256,
}

impl Form {
    const ALL: [(&'static str, Form); 5] = [
        ("lower", Form::Lower),
        ("trim", Form::Trim),
        ("md5", Form::Md5),
        ("sha1", Form::Sha1),
        ("sha256", Form::Sha256),
    ];
}

/// What is wrong with a template.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidTemplate {
    /// `{{` without `}}`.
    #[error("a placeholder has no end")]
    Open,
    /// No such placeholder.
    #[error("there is no placeholder `{0}`")]
    Unknown(String),
    /// An identity without a name.
    #[error("a placeholder names no identity")]
    Nameless,
    /// No such form.
    #[error(
        "there is no form `{0}`: a value is made into `lower`, `trim`, `md5`, `sha1` or `sha256`"
    )]
    Form(String),
    /// `{{subjects}}` within a longer text.
    #[error("`{{{{subjects}}}}` is a list, and stands in a body as a text of its own")]
    Subjects,
    /// Not JSON.
    #[error("the body is not JSON: {0}")]
    Json(String),
    /// A list for each subject in a list for each subject.
    #[error("a list for each subject stands within another one")]
    Nested,
}

impl FromStr for Template {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, behind) = after.split_once("}}").ok_or(InvalidTemplate::Open)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(placeholder(inside.trim())?);
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Template(pieces))
    }
}

fn placeholder(text: &str) -> Result<Piece, InvalidTemplate> {
    let Some(rest) = text.strip_prefix("id:") else {
        return match text {
            "notice" => Ok(Piece::Notice),
            "rule" => Ok(Piece::Rule),
            "created_at" => Ok(Piece::CreatedAt),
            "job" => Ok(Piece::Job),
            "subjects" => Err(InvalidTemplate::Subjects),
            other => Err(InvalidTemplate::Unknown(other.chars().take(40).collect())),
        };
    };
    let mut parts = rest.split('|').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty()).ok_or(InvalidTemplate::Nameless)?;
    let form = |word: &str| {
        let found = Form::ALL.iter().find(|(known, _)| *known == word);
        found.map(|(_, form)| *form).ok_or_else(|| InvalidTemplate::Form(word.to_owned()))
    };
    let forms = parts.map(form).collect::<Result<_, _>>()?;
    Ok(Piece::Id { name: name.to_owned(), forms })
}

/// Where a template stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Context {
    /// In what is the same for each subject.
    Fixed,
    /// In a call about one subject.
    One,
    /// In a call about several, outside of lists.
    Many,
    /// In a question about one subject.
    AskOne,
    /// In a question about several.
    AskMany,
}

impl Context {
    /// What can be written there.
    pub(super) fn help(self) -> &'static str {
        match self {
            Context::Fixed | Context::Many => {
                "it takes `{{notice}}`, `{{rule}}` and `{{created_at}}`"
            }
            Context::One => "it takes `{{id:NAME}}`, `{{notice}}`, `{{rule}}` and `{{created_at}}`",
            Context::AskOne => {
                "it takes `{{job}}`, `{{id:NAME}}`, `{{notice}}`, `{{rule}}` and `{{created_at}}`"
            }
            Context::AskMany => "it takes `{{job}}`, `{{notice}}`, `{{rule}}` and `{{created_at}}`",
        }
    }
}

impl Template {
    /// Whether it is one placeholder and nothing else.
    pub fn is_one_placeholder(&self) -> bool {
        matches!(self.0.as_slice(), [piece] if !matches!(piece, Piece::Text(_)))
    }

    /// The identities that it names.
    pub fn identities(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Id { name, .. } => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether it asks for the recipient's own name of the job.
    pub fn needs_job(&self) -> bool {
        self.0.contains(&Piece::Job)
    }

    /// Why it cannot stand where it does.
    pub(super) fn objection(&self, context: Context) -> Option<String> {
        if matches!(context, Context::Fixed | Context::Many | Context::One) && self.needs_job() {
            return Some("`{{job}}` is known only when it is asked how far it is".to_owned());
        }
        let name = self.identities().next()?;
        match context {
            Context::Fixed => Some(format!("`{{{{id:{name}}}}}` cannot stand here")),
            Context::Many | Context::AskMany => Some(format!(
                "`{{{{id:{name}}}}}` is one value, and a message may be about several subjects"
            )),
            Context::One | Context::AskOne => None,
        }
    }
}

/// As it was written, or nearly so.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => f.write_str(text)?,
                Piece::Id { name, forms } => {
                    write!(f, "{{{{id:{name}")?;
                    for form in forms {
                        let word = Form::ALL.iter().find(|(_, known)| known == form);
                        write!(f, "|{}", word.map_or("", |(word, _)| word))?;
                    }
                    f.write_str("}}")?;
                }
                Piece::Notice => f.write_str("{{notice}}")?,
                Piece::Rule => f.write_str("{{rule}}")?,
                Piece::CreatedAt => f.write_str("{{created_at}}")?,
                Piece::Job => f.write_str("{{job}}")?,
            }
        }
        Ok(())
    }
}

/// The body of a call: JSON with placeholders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// The same for all.
    Fixed(Value),
    /// A text.
    Text(Template),
    /// All subjects, each as a table of all of its identities.
    Subjects,
    /// A list with this for each subject.
    Each(Box<Body>),
    /// A list.
    List(Vec<Body>),
    /// A table.
    Table(Vec<(String, Body)>),
}

impl FromStr for Body {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| InvalidTemplate::Json(error.to_string()))?;
        Body::new(value)
    }
}

impl Body {
    fn new(value: Value) -> Result<Body, InvalidTemplate> {
        match value {
            Value::String(text) if text.trim() == "{{subjects}}" => Ok(Body::Subjects),
            Value::String(text) => {
                let template: Template = text.parse()?;
                let is_fixed = template.0.iter().all(|piece| matches!(piece, Piece::Text(_)));
                Ok(if is_fixed { Body::Fixed(text.into()) } else { Body::Text(template) })
            }
            Value::Array(elements) => {
                let mut elements =
                    elements.into_iter().map(Body::new).collect::<Result<Vec<_>, _>>()?;
                match elements.as_slice() {
                    [element] if element.names_one() && element.has_each() => {
                        Err(InvalidTemplate::Nested)
                    }
                    [element] if element.names_one() => {
                        Ok(Body::Each(Box::new(elements.remove(0))))
                    }
                    _ => Ok(Body::List(elements)),
                }
            }
            Value::Object(entries) => {
                let entries = entries.into_iter().map(|(key, value)| Ok((key, Body::new(value)?)));
                Ok(Body::Table(entries.collect::<Result<_, _>>()?))
            }
            other => Ok(Body::Fixed(other)),
        }
    }

    /// Whether there is a list for each subject in it.
    fn has_each(&self) -> bool {
        match self {
            Body::Each(_) | Body::Subjects => true,
            Body::List(elements) => elements.iter().any(Body::has_each),
            Body::Table(entries) => entries.iter().any(|(_, body)| body.has_each()),
            Body::Fixed(_) | Body::Text(_) => false,
        }
    }

    /// Whether it names an identity outside of lists for each subject.
    pub(super) fn names_one(&self) -> bool {
        match self {
            Body::Text(template) => template.identities().next().is_some(),
            Body::List(elements) => elements.iter().any(Body::names_one),
            Body::Table(entries) => entries.iter().any(|(_, body)| body.names_one()),
            Body::Fixed(_) | Body::Subjects | Body::Each(_) => false,
        }
    }

    /// Whether every subject is in it with all of its identities.
    pub(super) fn has_all(&self) -> bool {
        match self {
            Body::Subjects => true,
            Body::Each(inner) => inner.has_all(),
            Body::List(elements) => elements.iter().any(Body::has_all),
            Body::Table(entries) => entries.iter().any(|(_, body)| body.has_all()),
            Body::Fixed(_) | Body::Text(_) => false,
        }
    }

    /// The names of identities in it, where all are not.
    pub fn identities(&self) -> Vec<&str> {
        self.templates().into_iter().flat_map(Template::identities).collect()
    }

    /// The texts in it.
    pub fn templates(&self) -> Vec<&Template> {
        match self {
            Body::Text(template) => vec![template],
            Body::Each(inner) => inner.templates(),
            Body::List(elements) => elements.iter().flat_map(Body::templates).collect(),
            Body::Table(entries) => entries.iter().flat_map(|(_, body)| body.templates()).collect(),
            Body::Fixed(_) | Body::Subjects => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_prints_as_it_was_written() {
        for text in
            ["", "a", "{{notice}}", "a{{id:email|lower|md5}}b{{job}}", "{{rule}} {{created_at}}"]
        {
            assert_eq!(text.parse::<Template>().unwrap().to_string(), text);
        }
        assert_eq!(
            "{{ id: a | lower }}".parse::<Template>().unwrap().to_string(),
            "{{id:a|lower}}"
        );
    }

    #[test]
    fn what_is_no_placeholder_is_an_error() {
        for text in ["{{", "{{notice", "{{email}}", "{{id:}}", "{{id:a|crc}}", "x {{subjects}}"] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_of_one_that_names_an_identity_is_for_each_subject() {
        let body: Body =
            r#"{"ids": ["{{id:a}}"], "n": [1], "all": "{{subjects}}"}"#.parse().unwrap();
        let Body::Table(entries) = &body else { panic!("a table") };
        assert!(matches!(entries[1], (_, Body::Each(_))), "{entries:?}");
        assert!(body.has_all() && !body.names_one());
        assert_eq!(body.templates().len(), 1);
        assert!(r#"[{"a": "{{id:a}}", "b": ["{{id:b}}"]}]"#.parse::<Body>().is_err());
        assert!(matches!(r#"[["{{id:a}}"]]"#.parse(), Ok(Body::List(_))));
        assert!("{".parse::<Body>().is_err());
    }
}
