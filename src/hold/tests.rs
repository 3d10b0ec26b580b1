use super::*;
use crate::rule::Dialect;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn hold(scope: Scope) -> Hold {
    let (range, order) = (Range::default(), Order::default());
    let terms = Terms { scope, range, order, broad: None, columns: BTreeSet::new() };
    let (placed_at, until) = (at("2026-01-01T00:00:00Z"), at("2026-04-01T00:00:00Z"));
    Hold { id: Uuid::from_u128(1), terms, placed_at, until, ended_at: None }
}

fn persons(values: &[&str], store: Option<&str>) -> Scope {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    Scope::Subjects { values, store: store.map(name), table: None }
}

fn records(table: &str, predicate: Option<&str>) -> Records {
    let dialect = Dialect::Postgres;
    let predicate = predicate.map(|text| Condition::parse(dialect, text).unwrap());
    let kind = StoreKind::Sql(dialect);
    Records {
        store: name("app"),
        kind,
        table: table.parse().unwrap(),
        predicate,
        paths: Vec::new(),
    }
}

fn names(table: &str) -> Vec<(Option<String>, String)> {
    vec![(Some("public".to_owned()), table.to_owned())]
}

/// Of holds where `accounts.id` in store `app` names persons.
fn holds(holds: Vec<Hold>) -> Holds {
    let table = "accounts".parse().unwrap();
    let subjects =
        vec![SubjectColumn { store: name("app"), table, column: "id".into(), paths: Vec::new() }];
    Holds { holds, subjects }
}

#[test]
fn a_hold_keeps_until_its_end_and_not_at_it() {
    let hold = hold(Scope::Store(name("app")));
    assert!(hold.is_in_force(at("2026-03-31T23:59:59Z")));
    assert!(!hold.is_in_force(at("2026-04-01T00:00:00Z")));
    let released = Hold { ended_at: Some(at("2026-02-01T00:00:00Z")), ..hold };
    assert!(!released.is_in_force(at("2026-02-02T00:00:00Z")));
}

#[test]
fn persons_of_many_holds_are_claimed_as_one() {
    let all =
        holds(vec![hold(persons(&["1", "2"], None)), hold(persons(&["2", "3"], Some("app")))]);
    let (store, names) = (name("app"), names("accounts"));
    let claims = all.claims(Place { store: &store, names: &names }, None);
    assert_eq!(claims.len(), 1);
    let Claimed::Subjects { column, values, .. } = &claims[0].what else { panic!("persons") };
    assert_eq!((*column, values.len()), ("id", 3));

    let elsewhere = name("crm");
    assert!(all.claims(Place { store: &elsewhere, names: &names }, None).is_empty());
}

#[test]
fn a_hold_on_persons_knows_where_they_are_named_whatever_rules_are_loaded() {
    let mut hold = hold(persons(&["1"], None));
    let table = "accounts".parse().unwrap();
    hold.terms.columns.insert(SubjectColumn {
        store: name("app"),
        table,
        column: "mail".into(),
        paths: Vec::new(),
    });
    let (store, names) = (name("app"), names("accounts"));
    let place = Place { store: &store, names: &names };
    let columns = |all: Holds| {
        let claims = all.claims(place, None).into_iter().map(|claim| match claim.what {
            Claimed::Subjects { column, .. } => column.to_owned(),
            _ => panic!("persons"),
        });
        claims.collect::<Vec<_>>()
    };
    assert_eq!(columns(Holds::new(&BTreeMap::new(), vec![hold.clone()])), ["mail"]);
    assert_eq!(columns(holds(vec![hold.clone()])), ["id", "mail"]);
    // What was sealed before holds knew of columns opens as well.
    let mut json = serde_json::to_value(&hold.terms).unwrap();
    json.as_object_mut().unwrap().remove("columns");
    assert!(serde_json::from_value::<Terms>(json).unwrap().columns.is_empty());
}

#[test]
fn a_table_without_its_schema_may_be_any_and_one_with_another_is_not() {
    let (store, names) = (name("app"), names("accounts"));
    let claimed = |table: &str| {
        let all = holds(vec![hold(Scope::Table(records(table, None)))]);
        all.claims(Place { store: &store, names: &names }, None).len()
    };
    assert_eq!((claimed("accounts"), claimed("Public.Accounts")), (1, 1));
    assert_eq!((claimed("archive.accounts"), claimed("orders")), (0, 0));
}

#[test]
fn a_held_rule_takes_nothing_and_its_records_stay_from_others_too() {
    let scope = Scope::Rule { name: name("old"), records: records("accounts", Some("a = 1")) };
    let all = holds(vec![hold(scope)]);
    let (store, names) = (name("app"), names("accounts"));
    let place = Place { store: &store, names: &names };
    let (own, other) = (name("old"), name("other"));
    assert!(all.claims(place, Some(&own))[0].what == Claimed::Everything);
    assert!(matches!(all.claims(place, Some(&other))[0].what, Claimed::Predicate(_)));
}

#[test]
fn what_covers_too_much_is_told_without_counting() {
    let broad = |scope, range| Terms { range, ..hold(scope).terms }.is_broad().is_some();
    let year = Range { from: Some(jiff::civil::date(2024, 1, 1)), to: None };
    let rule = || Scope::Rule { name: name("old"), records: records("accounts", None) };
    assert!(broad(Scope::Store(name("app")), year));
    assert!(broad(rule(), Range::default()) && !broad(rule(), year));
    assert!(broad(Scope::Table(records("accounts", None)), Range::default()));
    assert!(!broad(Scope::Table(records("accounts", Some("a = 1"))), Range::default()));
    assert!(!broad(persons(&["1"], None), Range::default()));
}

#[test]
fn a_range_is_a_day_wider_on_both_sides() {
    let day = jiff::civil::date(2024, 5, 1);
    let range = Range { from: Some(day), to: Some(day) };
    assert_eq!(range.begins(), Some(at("2024-04-30T00:00:00Z")));
    assert_eq!(range.ends(), Some(at("2024-05-03T00:00:00Z")));
}

#[test]
fn terms_are_read_back_as_they_were_and_never_shown() {
    let mut terms = hold(Scope::Table(records("public.accounts", Some("email = 'ann'")))).terms;
    terms.order.confidential_until = Some(jiff::civil::date(2027, 1, 1));
    let json = serde_json::to_string(&terms).unwrap();
    assert!(serde_json::from_str::<Terms>(&json).unwrap() == terms);
    assert!(!format!("{terms:?}").contains("ann"));
    let spoilt = json.replace("email = 'ann'", "1 = 1) OR (1 = 1");
    assert!(serde_json::from_str::<Terms>(&spoilt).is_err());
}
