//! Rules that say whom they tell of what they take.

use expunged::config::Config;
use expunged::notice::{Per, Telling};
use expunged::rule::{Rule, Sharing};

use super::{error, good, rule};

const RECIPIENTS: &str = "\n[recipient.analytics]\nprotocol = \"command\"\nprogram = \"/bin/forget\"\n\
    at_once = 100\ndue = \"7 days\"\n[recipient.ads]\nprotocol = \"command\"\nprogram = \"/bin/forget\"\n\
    [recipient.shop]\nprotocol = \"http\"\nurl = \"https://shop.example/users/{{id:user_id}}\"\nmethod = \"DELETE\"\n";
const UPLOADS: &str = "\n[store.uploads]\nkind = \"files\"\nroot = \"/srv/uploads\"\n";

/// A rule on rows with these lines, beside recipients.
fn telling(lines: &str) -> String {
    rule(lines) + RECIPIENTS
}

/// A rule on files with these lines, beside recipients.
fn of_files(path: &str, lines: &str) -> String {
    format!(
        "{UPLOADS}{RECIPIENTS}\n[rule.files]\nstore = \"uploads\"\npath = {path}\nretention = \"2 years\"\n\
         action = \"delete\"\n{lines}\n"
    )
}

fn refused(text: &str) -> String {
    error(&[("expunged.toml", text)], &[]).to_string()
}

fn read(text: &str) -> Config {
    good(&[("expunged.toml", text)], &[])
}

fn only(config: &Config) -> &Rule {
    config.rules.values().next().expect("one rule")
}

type Told = (String, Vec<(String, String)>, Per);

fn told(tellings: &[Telling]) -> Vec<Told> {
    let each = |telling: &Telling| {
        let identify = telling.identify.clone().into_iter().collect();
        (telling.recipient.to_string(), identify, telling.per)
    };
    tellings.iter().map(each).collect()
}

fn tells(recipient: &str, identify: &[(&str, &str)], per: Per) -> Told {
    let owned = |(name, column): &(&str, &str)| ((*name).to_owned(), (*column).to_owned());
    (recipient.to_owned(), identify.iter().map(owned).collect(), per)
}

#[test]
fn recipients_by_name_are_told_the_subject() {
    let config = read(&telling("subject = \"user_id\"\nrecipients = [\"analytics\", \"ads\"]"));
    let rule = only(&config);
    let subject = |name| tells(name, &[("subject", "user_id")], Per::Subject);
    assert_eq!(told(&rule.tellings), [subject("ads"), subject("analytics")]);
    assert_eq!(rule.sharing, Sharing::Possible);
    // How it takes messages is the recipient's own.
    let terms: Vec<_> =
        rule.tellings.iter().map(|telling| (telling.at_once, telling.due_seconds)).collect();
    assert_eq!(terms, [(1, 30 * 86_400), (100, 7 * 86_400)]);
    let one = read(&telling("subject = \"user_id\"\nrecipients = \"ads\""));
    assert_eq!(only(&one).tellings.len(), 1);
}

#[test]
fn a_table_says_by_what_each_knows_a_record() {
    let text = telling("recipients.shop.identify = { user_id = \"id\" }")
        + "[rule.inactive.recipients.analytics]\nidentify = { user_id = \"id\", email = \"email\" }\nper = \"record\"\n";
    let config = read(&text);
    assert_eq!(
        told(&only(&config).tellings),
        [
            tells("analytics", &[("email", "email"), ("user_id", "id")], Per::Record),
            tells("shop", &[("user_id", "id")], Per::Subject)
        ]
    );
    assert_eq!(expunged::notice::told(&only(&config).tellings), ["email", "id"]);
    let variables = [
        ("EXPUNGED__RULE__INACTIVE__RECIPIENTS__ANALYTICS__PER", "subject"),
        ("EXPUNGED__RULE__INACTIVE__RECIPIENTS__ANALYTICS__IDENTIFY__EMAIL", "mail"),
    ];
    let other = good(&[("expunged.toml", &text)], &variables);
    let changed = tells("analytics", &[("email", "mail"), ("user_id", "id")], Per::Subject);
    assert_eq!(told(&only(&other).tellings)[0], changed);
    let subject = read(&telling("subject = \"id\"\nrecipients.ads = { per = \"record\" }"));
    assert_eq!(told(&only(&subject).tellings), [tells("ads", &[("subject", "id")], Per::Record)]);
}

#[test]
fn files_are_told_by_what_stands_in_their_paths() {
    let config = read(&of_files("\"{user}/{key}\"", "subject = \"user\"\nrecipients = [\"ads\"]"));
    assert_eq!(told(&only(&config).tellings), [tells("ads", &[("subject", "user")], Per::Subject)]);
    let by_key = "recipients.ads = { identify = { upload = \"key\" }, per = \"record\" }";
    let config = read(&of_files("[\"{user}/{key}\", \"faces/{key}\"]", by_key));
    assert_eq!(told(&only(&config).tellings), [tells("ads", &[("upload", "key")], Per::Record)]);
}

#[test]
fn the_digest_tells_who_is_told_what_and_of_others_stays_as_it_was() {
    let digest = |text: &str| only(&read(text)).digest();
    let plain = telling("subject = \"user_id\"");
    assert_eq!(digest(&plain), digest(&rule("subject = \"user_id\"")));
    let told = telling("subject = \"user_id\"\nrecipients = [\"ads\"]");
    let all = [
        digest(&plain),
        digest(&told),
        digest(&told.replace("[\"ads\"]", "[\"analytics\"]")),
        digest(&told.replace("[\"ads\"]", "{ ads = { per = \"record\" } }")),
        digest(&told.replace("[\"ads\"]", "{ ads = { identify = { subject = \"id\" } } }")),
        digest(&told.replace("[\"ads\"]", "{ ads = { identify = { user = \"user_id\" } } }")),
    ];
    for (place, one) in all.iter().enumerate() {
        assert!(!all[..place].contains(one), "{place}");
    }
    let slow =
        told.replace("program = \"/bin/forget\"\n[", "program = \"/bin/x\"\ndue = \"1 day\"\n[");
    assert_eq!(digest(&told), digest(&slow), "how it is told is no part of the rule");
    let config = read(&told);
    let tellings = &only(&config).tellings;
    assert_eq!(only(&read(&plain)).digest_if_told(tellings), digest(&told));
}

// --- what is refused ------------------------------------------------------------------------------

#[test]
fn recipients_that_are_not_there_come_with_the_one_that_was_meant() {
    insta::assert_snapshot!(refused(&telling(
        "subject = \"id\"\nrecipients = [\"analitics\", \"mailer\", \"none\", \"ads\", \"ads\"]"
    )));
}

#[test]
fn without_any_recipient_it_is_said_how_to_add_one() {
    insta::assert_snapshot!(refused(&rule("recipients = \"nobody\"")));
}

#[test]
fn something_identifies_a_record() {
    insta::assert_snapshot!(refused(
        &(telling("recipients = [\"ads\"]")
            + &of_files("\"faces/{key}\"", "recipients = { ads = {} }").replace(RECIPIENTS, ""))
    ));
}

#[test]
fn a_table_of_recipients_has_whole_tables() {
    let table = "ads = { identify = { \"e mail\" = \"a\", b = \"\", c = 1 } }, analytics = \"id\", shop = { identify = {}, pre = \"record\" }";
    insta::assert_snapshot!(refused(&telling(&format!("recipients = {{ {table} }}"))));
}

#[test]
fn what_a_recipients_messages_are_made_of_is_named() {
    let text = telling("subject = \"id\"\nrecipients = [\"shop\"]");
    insta::assert_snapshot!(refused(&text));
    let more =
        text.replace("[\"shop\"]", "{ shop.identify = { user_id = \"id\", email = \"mail\" } }");
    let shown = refused(&more);
    assert!(shown.contains("the messages to `shop` have no place for `email`"), "{shown}");
}

#[test]
fn a_path_has_what_is_told() {
    let paths = "[\"faces/{user}\", \"tmp/*\"]";
    let lines = "recipients = { ads = { identify = { user = \"user\" } }, analytics = { identify = { user = \"usr\" } } }";
    insta::assert_snapshot!(refused(&of_files(paths, lines)));
}

#[test]
fn what_is_always_empty_identifies_nobody() {
    let lines = "action = \"anonymize\"\nmarker = \"gone_at\"\ncolumns = { email = \"hmac\" }\n\
                 recipients.ads.identify = { email = \"email\", at = \"gone_at\" }";
    insta::assert_snapshot!(refused(&telling(lines)));
}

#[test]
fn other_types_and_empty_ones_are_refused() {
    for (value, said) in [
        ("true", "takes the names of recipients"),
        ("[]", "is an empty list"),
        ("{}", "names nobody"),
        ("[1]", "takes a text or a list of texts"),
        ("\"\"", "is empty or has control characters"),
        ("{ ads = { identify = \"id\" } }", "`identify` takes a table"),
        ("{ ads = { per = \"rows\" } }", "it takes `subject` and `record`"),
    ] {
        let shown = refused(&telling(&format!("subject = \"id\"\nrecipients = {value}")));
        assert!(shown.contains(said), "{value}: {shown}");
    }
}

#[test]
fn nobody_is_told_of_what_is_never_shared() {
    let second = "\n[rule.other]\nstore = \"app\"\ntable = \"public.users\"\nstarting_point = \"at\"\n\
                  retention = \"1 year\"\naction = \"delete\"\nrecipients = \"none\"\n";
    let text = telling("subject = \"id\"\nrecipients = [\"ads\", \"analytics\"]") + second;
    insta::assert_snapshot!(refused(&text));
    let apart = text.replace("public.users", "public.orders");
    assert_eq!(read(&apart).rules.len(), 2);
}

#[test]
fn a_recipient_that_is_wrong_is_not_said_to_be_missing_too() {
    let text = telling("subject = \"id\"\nrecipients = [\"analytics\"]")
        .replace("due = \"7 days\"", "due = \"7 dayz\"");
    let error = error(&[("expunged.toml", &text)], &[]);
    assert_eq!(error.diagnostics().len(), 1, "{error}");
}
