//! Conditions: what a record must meet besides its age, in the store's own SQL.

use serde::Serialize;
use sqlparser::dialect::{self, MySqlDialect, PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer, Whitespace};

use super::Dialect;

/// A condition written by the operator in the store's own SQL: exactly one expression.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Condition(String);

/// Why a text is not a [`Condition`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidCondition {
    /// It is not SQL.
    #[error("this is not a condition in SQL: {0}")]
    Syntax(String),
    /// It is an expression followed by something else, which could change what is deleted.
    #[error("a condition is one expression, and this goes on with `{0}`")]
    Trailing(String),
    /// It has a parameter, which would take the value of another: expunged binds its own.
    #[error("a condition cannot have parameters, and this has `{0}`: write the value itself")]
    Parameter(String),
    /// It holds a comment, which could swallow what the statement puts after it.
    #[error("a condition must not hold a comment")]
    Comment,
    /// Files and objects have no columns.
    #[error("a condition is about a table, and this store has none")]
    NoTable,
}

impl Condition {
    /// Parses the text as one expression of the store's dialect, to the very end.
    ///
    /// The text is later put in parentheses into each statement; an unbalanced `a) OR (b` or a
    /// comment must not be able to change what surrounds it.
    ///
    /// # Errors
    /// When it does not parse, more follows the expression, or it holds a comment.
    pub fn parse(kind: Dialect, text: &str) -> Result<Self, InvalidCondition> {
        let dialect: &dyn dialect::Dialect = match kind {
            Dialect::Postgres => &PostgreSqlDialect {},
            Dialect::Mysql => &MySqlDialect {},
            Dialect::Sqlite => &SQLiteDialect {},
        };
        let syntax = |error: sqlparser::parser::ParserError| {
            let text = error.to_string();
            InvalidCondition::Syntax(text.trim_start_matches("sql parser error: ").to_owned())
        };
        let tokens =
            Tokenizer::new(dialect, text).tokenize().map_err(|error| syntax(error.into()))?;
        // MySQL runs what stands in `/*! … */`; the tokenizer shows its content and not the comment.
        if tokens.iter().any(is_comment) || kind == Dialect::Mysql && text.contains("/*!") {
            return Err(InvalidCondition::Comment);
        }
        let is_parameter = |token: &&Token| match token {
            Token::Placeholder(_) => true,
            // SQLite's parameters also have names: `:a` and `@a`.
            Token::Colon | Token::AtSign => kind == Dialect::Sqlite,
            Token::Word(word) => kind == Dialect::Sqlite && word.value.starts_with('@'),
            _ => false,
        };
        if let Some(token) = tokens.iter().find(is_parameter) {
            return Err(InvalidCondition::Parameter(token.to_string()));
        }
        let mut parser = Parser::new(dialect).with_tokens(tokens);
        parser.parse_expr().map_err(syntax)?;
        match parser.next_token().token {
            Token::EOF => Ok(Condition(text.trim().to_owned())),
            token => Err(InvalidCondition::Trailing(token.to_string())),
        }
    }

    /// The expression as the operator wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_comment(token: &Token) -> bool {
    use Whitespace::{MultiLineComment, SingleLineComment};
    matches!(token, Token::Whitespace(SingleLineComment { .. } | MultiLineComment(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_one_expression_and_nothing_more() {
        let parse = |text: &str| Condition::parse(Dialect::Postgres, text);
        assert_eq!(parse(" status <> 'staff' ").unwrap().as_str(), "status <> 'staff'");
        assert!(parse("plan = 'free' AND (a OR b)").is_ok());
        for bad in
            ["a) OR (b", "a = 1; DROP TABLE x", "", "a = 'open", "a = 1 ORDER BY 1", "a = 1 b"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_condition_holds_no_comment_that_could_swallow_the_rest_of_a_statement() {
        let cases = [
            (Dialect::Postgres, "a = 1 -- all of them"),
            (Dialect::Postgres, "a = 1 /* free */ AND b = 2"),
            (Dialect::Sqlite, "a = 1 --"),
            (Dialect::Mysql, "a = 1 # all"),
            (Dialect::Mysql, "a = 1 /*!50000 OR 1 = 1 */"),
        ];
        for (kind, text) in cases {
            assert_eq!(Condition::parse(kind, text), Err(InvalidCondition::Comment), "{text}");
        }
        assert!(Condition::parse(Dialect::Postgres, "note <> '-- none /* */'").is_ok());
        assert!(Condition::parse(Dialect::Postgres, "data #> '{a}' IS NULL").is_ok());
    }
}
