//! Whether two rules may take the same records: where one says that they are never given to anybody,
//! every other one has to say so too.
//!
//! Decided from what is written, without looking into the stores: in doubt they may.

use std::collections::BTreeMap;

use super::diagnostic::Problem;
use super::reader::Context;
use super::text::Table;
use super::{StoreConfig, stores, suggest};
use crate::path::Template;
use crate::rule::{Rule, Selection, Sharing};
use crate::types::{Name, TableName};

/// Reports rules that could share what another one says is never shared.
pub(super) fn check(
    context: Context<'_>,
    tables: &[(Name, &Table)],
    rules: &BTreeMap<Name, Rule>,
    stores: &BTreeMap<Name, StoreConfig>,
) {
    let of = |wanted: Sharing| rules.values().filter(move |rule| rule.sharing == wanted);
    for rule in of(Sharing::Possible) {
        let Some(never) = of(Sharing::Never).find(|never| may_meet(rule, never, stores)) else {
            continue;
        };
        let table = |name: &Name| tables.iter().find(|(other, _)| other == name);
        let written = |table: &Table| table.entries.get("recipients").map(|entry| entry.key);
        let Some((_, own)) = table(&rule.name) else { continue };
        let (name, never_name, is_told) = (&rule.name, &never.name, !rule.tellings.is_empty());
        let mut problem = if is_told {
            let told = suggest::list(rule.tellings.iter().map(|told| told.recipient.as_str()));
            let message = format!(
                "rule `{name}` tells {told} of what rule `{never_name}` says is never shared"
            );
            Problem::new(written(own).unwrap_or(own.place), message)
                .help("correct one of the two, or let them take different records")
        } else {
            let message =
                format!("rule `{name}` could share what rule `{never_name}` says is never shared");
            let help = "add `recipients = \"none\"`, or let the two rules take different records";
            Problem::new(own.place, message).help(help).absence()
        };
        if let Some((_, other)) = table(never_name) {
            let place = written(other).filter(|_| is_told).unwrap_or(other.place);
            problem = problem.related(place, "has `recipients = \"none\"`");
        }
        context.problems.add(problem);
    }
}

/// Records that a rule takes.
enum Reach<'a> {
    Rows(&'a Name, &'a TableName),
    Paths(&'a Name, &'a Template),
}

fn reach(rule: &Rule) -> Vec<Reach<'_>> {
    match &rule.select {
        Selection::Rows(rows) => {
            let attached = rows.attachments.iter();
            std::iter::once(Reach::Rows(&rule.store, &rule.table))
                .chain(attached.map(|attached| Reach::Paths(&attached.store, &attached.path)))
                .collect()
        }
        Selection::Paths(paths) => {
            paths.templates.iter().map(|path| Reach::Paths(&rule.store, path)).collect()
        }
    }
}

fn may_meet(one: &Rule, other: &Rule, stores: &BTreeMap<Name, StoreConfig>) -> bool {
    let others = reach(other);
    reach(one).iter().any(|one| others.iter().any(|other| may_be_one(one, other, stores)))
}

fn may_be_one(one: &Reach<'_>, other: &Reach<'_>, stores: &BTreeMap<Name, StoreConfig>) -> bool {
    // Two names may stand for one place; then nothing is known of how the paths in them meet.
    let is_alias = |one: &Name, other: &Name| {
        let known = stores.get(one).zip(stores.get(other));
        known.is_some_and(|(one, other)| stores::may_be_the_same(one, other))
    };
    match (one, other) {
        (Reach::Rows(store, table), Reach::Rows(other_store, other_table)) => {
            (store == other_store || is_alias(store, other_store))
                && is_one_table(table, other_table)
        }
        (Reach::Paths(store, path), Reach::Paths(other_store, other_path)) => {
            if store != other_store {
                return is_alias(store, other_store);
            }
            let (one, other) = (path.prefix(), other_path.prefix());
            one.starts_with(other) || other.starts_with(one)
        }
        _ => false,
    }
}

/// A name without a schema may be of any, and databases do not all care about case.
pub(super) fn is_one_table(one: &TableName, other: &TableName) -> bool {
    let schemas = one.schema.as_ref().zip(other.schema.as_ref());
    one.table.eq_ignore_ascii_case(&other.table)
        && schemas.is_none_or(|(one, other)| one.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meet(one: &str, other: &str) -> bool {
        let (name, other_name) = ("a".parse::<Name>().unwrap(), "b".parse::<Name>().unwrap());
        let none = BTreeMap::new();
        let path = |text: &str| text.parse::<Template>().unwrap();
        let (one, other) = (path(one), path(other));
        let meets = may_be_one(&Reach::Paths(&name, &one), &Reach::Paths(&name, &other), &none);
        let turned = may_be_one(&Reach::Paths(&name, &other), &Reach::Paths(&name, &one), &none);
        assert_eq!(meets, turned);
        let elsewhere = Reach::Paths(&other_name, &other);
        assert!(!may_be_one(&Reach::Paths(&name, &one), &elsewhere, &none));
        meets
    }

    #[test]
    fn paths_meet_unless_their_beginnings_tell_them_apart() {
        assert!(meet("faces/{key}", "faces/*"));
        assert!(meet("faces/{key}", "**"));
        assert!(meet("faces/{key}", "fa*"));
        assert!(meet("{user}/a", "faces/{key}"));
        // One file has one name, but whatever else they may mean is not looked at.
        assert!(meet("faces/{key}.jpg", "faces/{key}.png"));
        assert!(!meet("faces/{key}", "thumbs/{key}"));
        assert!(!meet("faces/{key}", "faces2/*"));
    }

    #[test]
    fn tables_are_one_whatever_their_case_and_without_a_schema_of_any() {
        let one = |a: &str, b: &str| is_one_table(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(one("users", "Users") && one("users", "public.users"));
        assert!(one("App.users", "app.USERS"));
        assert!(!one("a.users", "b.users") && !one("users", "accounts"));
    }
}
