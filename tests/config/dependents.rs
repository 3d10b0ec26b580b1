//! `with`: tables whose rows go with the rows that they point at.

use expunged::rule::{Dependent, Link};

use crate::{error, good, rule};

fn refused(text: &str) -> String {
    error(&[("expunged.toml", text)], &[]).to_string()
}

fn dependents(text: &str) -> Vec<Dependent> {
    let config = good(&[("expunged.toml", text)], &[]);
    let rule = config.rules.values().next().expect("there is one rule");
    rule.rows().expect("it is of rows").dependents.clone()
}

#[test]
fn tables_are_named_alone_or_with_the_column_that_points() {
    let named = |table: &str| Dependent { table: table.parse().unwrap(), link: None };
    assert_eq!(dependents(&rule("")), []);
    assert_eq!(dependents(&rule("with = \"orders\"")), [named("orders")]);
    let linked = "{ table = \"sessions\", column = \"user_id\", references = \"id\" }";
    let link = Link { column: "user_id".into(), references: "id".into() };
    assert_eq!(
        dependents(&rule(&format!("with = [\"shop.orders\", {linked}]"))),
        [named("shop.orders"), Dependent { link: Some(link), ..named("sessions") }]
    );
}

#[test]
fn which_rows_go_along_is_part_of_what_a_rule_is() {
    let digest = |lines: &str| {
        let config = good(&[("expunged.toml", &rule(lines))], &[]);
        config.rules.values().next().expect("there is one rule").digest()
    };
    assert_ne!(digest(""), digest("with = [\"orders\"]"));
    assert_ne!(digest("with = [\"orders\"]"), digest("with = [\"orders\", \"logins\"]"));
}

#[test]
fn what_does_not_say_which_rows_go_is_refused() {
    let lines = "with = [\"orders\", \"a b;c\", \"orders\", 7, { table = \"x\", column = \"u\" }, \
                 { table = \"x\", column = \"u\", references = \"users.id\" }, \
                 { tabel = \"x\", column = \"u\", references = \"id\" }]";
    insta::assert_snapshot!(refused(&rule(lines)));
}

#[test]
fn an_empty_list_and_another_type_are_refused() {
    insta::assert_snapshot!(refused(&rule("with = []")));
    insta::assert_snapshot!(refused(&rule("with = true")));
}

#[test]
fn rows_go_along_with_deleted_ones_alone() {
    let lines = "action = \"anonymize\"\nwith = [\"orders\"]\n";
    let text = rule(lines) + "[rule.inactive.columns]\nemail = \"null\"\n";
    insta::assert_snapshot!(refused(&text));
}
