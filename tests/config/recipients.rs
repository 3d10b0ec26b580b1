//! Recipients: who is told of deletions, by which protocol, and what is refused.

use std::path::Path;
use std::time::Duration;

use expunged::config::{
    Ack, Authorization, CommandRecipient, Config, HeaderValue, IdentityFormat, IdentityShape,
    Protocol, ReceiptKey, RecipientConfig, Secret,
};

use expunged::notice::DELAYS;

use super::{error, good};

fn read(text: &str) -> Config {
    good(&[("expunged.toml", text)], &[])
}

fn one(text: &str) -> RecipientConfig {
    let config = read(text);
    let mut recipients = config.recipients.into_values();
    recipients.next().expect("there is one")
}

fn refused(text: &str) -> String {
    error(&[("expunged.toml", text)], &[]).to_string()
}

const WEBHOOK: &str = "[recipient.ads]\nprotocol = \"webhook\"\nurl = \"https://ads.example/hooks\"\n\
                       secret = { credential = \"ads\" }\n";
const WAREHOUSE: &str =
    "[store.warehouse]\nkind = \"postgres\"\nurl = \"postgres://expunged@dwh/events\"\n";

// --- what can be written --------------------------------------------------------------------------

#[test]
fn a_webhook_needs_little_more_than_its_url_and_secret() {
    let ads = one(WEBHOOK);
    assert_eq!((ads.ack, ads.at_once, ads.concurrency, ads.rate), (Ack::Response, 1, 4, None));
    assert_eq!((ads.due, ads.poll_every), (Duration::from_hours(720), Duration::from_mins(15)));
    assert_eq!(ads.identities(), None);
    let Protocol::Webhook(webhook) = &ads.protocol else { panic!("a webhook") };
    assert_eq!(webhook.secret, Secret::Credential("ads".into()));
    assert_eq!((webhook.server.internal, webhook.server.timeout), (false, Duration::from_secs(20)));
    let all = format!(
        "{WEBHOOK}previous_secret = {{ env = \"OLD\" }}\nreceipt_secret = {{ file = \"keys/ads\" }}\n\
         ack = \"callback\"\ndue = \"12 hours\"\nconcurrency = 64\nrate = \"30 per minute\"\n\
         timeout = \"5 s\"\nca = \"ca.crt\"\ninternal = true\nretries = [\"250 ms\", \"2 days\"]\n"
    );
    assert_eq!(ads.retries, DELAYS);
    let ads = one(&all);
    assert_eq!(ads.retries, [Duration::from_millis(250), Duration::from_hours(48)]);
    assert_eq!((ads.ack, ads.concurrency, ads.rate), (Ack::Callback, 64, Some(0.5)));
    assert_eq!(ads.due, Duration::from_hours(12));
    let Protocol::Webhook(webhook) = &ads.protocol else { panic!("a webhook") };
    assert_eq!(webhook.server.ca.as_deref(), Some(Path::new("/etc/expunged/ca.crt")));
    let file = Secret::File("/etc/expunged/keys/ads".into());
    assert_eq!(webhook.receipt, Some(ReceiptKey::Secret(file)));
}

#[test]
fn lists_go_one_after_the_other() {
    let ads = one(&format!("{WEBHOOK}at_once = 100\n"));
    assert_eq!((ads.at_once, ads.concurrency), (100, 1));
    let shown = refused(&format!("{WEBHOOK}at_once = 100\nconcurrency = 2\n"));
    assert!(shown.contains("go one after the other"), "{shown}");
}

#[test]
fn opendsr_has_its_dialects() {
    let plain = one("[recipient.dsr]\nprotocol = \"opendsr\"\nurl = \"https://dsr.example/v2/\"\n");
    assert_eq!((plain.ack, plain.at_once), (Ack::Poll, 1));
    let Protocol::OpenDsr(dsr) = &plain.protocol else { panic!("opendsr") };
    assert_eq!(
        (dsr.url.as_str(), dsr.path_requests.as_str()),
        ("https://dsr.example/v2", "/requests")
    );
    assert_eq!((dsr.header_prefix.as_str(), dsr.regulation.as_str()), ("OpenDSR", "gdpr"));
    let text = "[recipient.dsr]\nprotocol = \"opendsr\"\nurl = \"https://dsr.example\"\nack = \"callback\"\n\
                path_requests = \"/api/gdpr/v1/opendsr_requests\"\nheader_prefix = \"OpenGDPR\"\n\
                identities = \"map\"\nidentity_format = { email = \"sha256\" }\nregulation = \"ccpa\"\n\
                certificate = \"dsr.pem\"\ncallback_url = \"https://us.example/v1/receipts/dsr\"\n\
                basic = { user = \"key\", password = { env = \"DSR\" } }\n";
    let Protocol::OpenDsr(dsr) = one(text).protocol else { panic!("opendsr") };
    assert_eq!(dsr.identities, IdentityShape::Map);
    assert_eq!(dsr.identity_format["email"], IdentityFormat::Sha256);
    assert!(matches!(dsr.authorization, Some(Authorization::Basic { password: Some(_), .. })));
}

#[test]
fn a_call_is_described_with_placeholders() {
    let text = r#"[recipient.segment]
protocol = "http"
url = "https://api.segment.example/regulations"
bearer = { credential = "segment" }
headers = { X-Trace = "{{notice}}", Idempotency-Key = "{{notice}}", X-Api-Key = { env = "KEY" } }
query = { region = "eu", token = { env = "TOKEN" } }
body = '{"subjectType": "USER_ID", "subjectIds": ["{{id:user_id}}"]}'
success = { status = [200, 202], at = "/ok", is = "true" }
job = "/data/regulateId"
ack = "poll"
at_once = 5000
poll_every = "1 minute"
poll = { url = "https://api.segment.example/regulations/{{job}}", at = "/status", done = "FINISHED", failed = ["FAILED", "INVALID"] }
"#;
    let segment = one(text);
    assert_eq!((segment.ack, segment.at_once, segment.concurrency), (Ack::Poll, 5_000, 1));
    assert_eq!(segment.identities(), Some(vec!["user_id"]));
    let Protocol::Http(http) = &segment.protocol else { panic!("http") };
    assert_eq!(http.call.method, "POST");
    assert!(matches!(http.headers["X-Trace"], HeaderValue::Text(_)));
    assert_eq!(http.headers["X-Api-Key"], HeaderValue::Secret(Secret::Env("KEY".into())));
    assert_eq!(http.success.status, [200, 202]);
    let poll = http.poll.as_ref().expect("it is polled");
    assert_eq!((poll.call.method.as_str(), poll.failed.len()), ("GET", 2));
    let one_by_one = "[recipient.m]\nprotocol = \"http\"\nmethod = \"DELETE\"\n\
                      url = \"https://m.example/members/{{id:email|lower|md5}}\"\nsuccess = { status = [204, 404] }\n";
    assert_eq!(one(one_by_one).identities(), Some(vec!["email"]));
    let all = "[recipient.m]\nprotocol = \"http\"\nurl = \"https://m.example\"\nbody = '\"{{subjects}}\"'\n";
    assert_eq!(one(all).identities(), None);
}

#[test]
fn programs_and_tables_are_of_ones_own() {
    let text = "[recipient.own]\nprotocol = \"command\"\nprogram = \"/usr/local/bin/forget\"\nargs = [\"-q\"]\n";
    let program = CommandRecipient {
        program: "/usr/local/bin/forget".into(),
        args: vec!["-q".to_owned()],
        timeout: Duration::from_secs(20),
    };
    assert_eq!(one(text).protocol, Protocol::Command(program));
    let text = format!(
        "{WAREHOUSE}[recipient.dwh]\nprotocol = \"sql\"\nstore = \"warehouse\"\ntable = \"events\"\n\
         columns = {{ user_id = \"uid\" }}\n"
    );
    let dwh = one(&text);
    assert_eq!((dwh.at_once, dwh.concurrency), (1_000, 1));
    assert_eq!(dwh.identities(), Some(vec!["user_id"]));
    let Protocol::Sql(sql) = dwh.protocol else { panic!("sql") };
    assert_eq!((sql.store.as_str(), sql.columns["user_id"].as_str()), ("warehouse", "uid"));
}

#[test]
fn variables_override_a_recipient_too() {
    let call = "[recipient.ads]\nprotocol = \"http\"\nurl = \"https://a.example/{{id:user}}\"\n\
                headers = { X-Team = \"a\" }\n";
    let variables = [
        ("EXPUNGED__RECIPIENT__ADS__DUE", "10 days"),
        ("EXPUNGED__RECIPIENT__ADS__HEADERS__X_TEAM", "b"),
        ("EXPUNGED__RECIPIENT__ADS__BEARER", "hunter2"),
    ];
    let config = good(&[("expunged.toml", call)], &variables);
    let ads = config.recipients.values().next().expect("one");
    assert_eq!(ads.due, Duration::from_hours(240));
    let Protocol::Http(http) = &ads.protocol else { panic!("http") };
    assert!(matches!(&http.headers["X-Team"], HeaderValue::Text(text) if text.to_string() == "b"));
    let named = Secret::Env("EXPUNGED__RECIPIENT__ADS__BEARER".into());
    assert_eq!(http.authorization, Some(Authorization::Bearer(named)));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_digest_names_recipients_and_their_protocols() {
    let digest = |text: &str| read(text).digest();
    let other = "[recipient.ads]\nprotocol = \"command\"\nprogram = \"/bin/true\"\n";
    let digests = [
        digest(""),
        digest(WEBHOOK),
        digest(other),
        digest(&format!("{WEBHOOK}due = \"1 day\"\n")),
    ];
    for (place, one) in digests.iter().enumerate() {
        assert!(!digests[place + 1..].contains(one), "{digests:?}");
    }
}

// --- what is refused ------------------------------------------------------------------------------

#[test]
fn a_recipient_that_lacks_everything_says_so_at_once() {
    insta::assert_snapshot!(refused(
        "[recipient.a]\n[recipient.b]\nprotocol = \"webhook\"\n[recipient.c]\nprotocol = \"opendsr\"\n\
         [recipient.d]\nprotocol = \"http\"\n[recipient.e]\nprotocol = \"command\"\n[recipient.f]\nprotocol = \"sql\"\n\
         [recipient.g]\nprotocol = \"soap\"\nurl = \"x\"\n"
    ));
}

#[test]
fn keys_of_other_protocols_are_named_with_theirs() {
    insta::assert_snapshot!(refused(&format!(
        "{WEBHOOK}program = \"/bin/true\"\nbearer = {{ env = \"X\" }}\nstore = \"s\"\nurll = \"x\"\npath_requests = \"/x\"\n"
    )));
}

#[test]
fn numbers_and_times_are_within_bounds() {
    insta::assert_snapshot!(refused(&format!(
        "{WEBHOOK}due = \"11 years\"\nat_once = 0\nconcurrency = 257\nrate = \"many\"\npoll_every = \"2 days\"\ntimeout = \"0 s\"\n"
    )));
    for rate in ["0 per second", "1 per day", "5/s", "-1 per hour", "1000001 per second"] {
        let shown = refused(&format!("{WEBHOOK}rate = \"{rate}\"\n"));
        assert!(shown.contains("rate"), "{shown}");
    }
    for retries in ["[]", "[\"soon\"]", "[\"1 ms\"]", "[\"8 days\"]", "7"] {
        let shown = refused(&format!("{WEBHOOK}retries = {retries}\n"));
        assert!(shown.contains("retries"), "{shown}");
    }
    for due in ["1 s", "1 month", "soon", "4000 days"] {
        assert!(refused(&format!("{WEBHOOK}due = \"{due}\"\n")).contains("due"), "{due}");
    }
}

#[test]
fn an_ack_that_cannot_come_is_refused() {
    insta::assert_snapshot!(refused(&format!(
        "{}ack = \"callback\"\n{}ack = \"poll\"\n[recipient.dsr]\nprotocol = \"opendsr\"\nurl = \"https://dsr.example\"\nack = \"callback\"\n\
         [recipient.http]\nprotocol = \"http\"\nurl = \"https://h.example/{{{{id:a}}}}\"\nack = \"callback\"\n\
         [recipient.poll]\nprotocol = \"http\"\nurl = \"https://h.example/{{{{id:a}}}}\"\nack = \"poll\"\n\
         [recipient.command]\nprotocol = \"command\"\nprogram = \"/bin/true\"\nack = \"poll\"\n",
        WEBHOOK.replace("ads", "one"),
        WEBHOOK.replace("ads", "two"),
    )));
}

#[test]
fn a_url_leads_where_nobody_listens_in() {
    let urls = [
        ("http://ads.example/x", "anyone on the way"),
        ("https://user:hunter2@ads.example/x", "a password or token does not belong"),
        ("https://hunter2@ads.example/x", "a password or token does not belong"),
        ("https://ads.example/x?token=hunter2", "a password or token does not belong"),
        ("ftp://ads.example/x", "not a URL for HTTP"),
        ("https://", "not a URL for HTTP"),
        ("https://ads.example/x#y", "never sent"),
        ("ads.example", "not a URL for HTTP"),
    ];
    for (url, said) in urls {
        let shown = refused(&WEBHOOK.replace("https://ads.example/hooks", url));
        assert!(shown.contains(said) && !shown.contains("hunter2"), "{url}: {shown}");
    }
    one(&(WEBHOOK.replace("https://ads.example", "http://10.0.0.7") + "internal = true\n"));
}

#[test]
fn a_typed_in_secret_is_refused_and_not_shown() {
    let call = "[recipient.a]\nprotocol = \"http\"\nurl = \"https://a.example/{{id:user}}\"\n";
    for text in [
        WEBHOOK.replace("{ credential = \"ads\" }", "\"whsec_hunter2hunter2\""),
        format!("{WEBHOOK}previous_secret = \"hunter2\"\n"),
        format!("{WEBHOOK}receipt_secret = \"hunter2\"\n"),
        format!("{WEBHOOK}receipt_key = \"whsec_hunter2\"\n"),
        format!("{call}bearer = \"hunter2\"\n"),
        format!("{call}basic = \"hunter2\"\n"),
        format!("{call}basic = {{ user = \"u\", password = \"hunter2\" }}\n"),
        format!("{call}headers = {{ Authorization = \"Bearer hunter2\" }}\n"),
        format!("{call}headers = {{ X-Api-Key = \"hunter2{{{{notice}}}}\" }}\n"),
        format!("{call}query = {{ token = \"hunter2\" }}\n"),
    ] {
        let shown = refused(&text);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    insta::assert_snapshot!(refused(&format!("{WEBHOOK}receipt_key = \"whsec_hunter2\"\n")));
}

#[test]
fn a_call_that_cannot_be_filled_is_refused() {
    insta::assert_snapshot!(refused(
        r#"[recipient.a]
protocol = "http"
url = "https://{{id:user}}.example/"
body = '{"id": "{{id:user}}"'
method = "BREW"
headers = { Content-Length = "3", X-Who = "{{id:user}}" }
success = { status = [200, 500], at = "status" }
job = "id"
[recipient.b]
protocol = "http"
url = "https://b.example/{{id:user}}"
body = '{"ids": ["{{id:user|crc}}"], "who": "{{who}}"}'
at_once = 10
[recipient.c]
protocol = "http"
url = "https://c.example/x"
body = '{"id": "{{id:user}}"}'
at_once = 10
poll = { url = "https://c.example/{{job}}" }
[recipient.d]
protocol = "http"
url = "https://d.example/{{job}}"
"#
    ));
}

#[test]
fn a_recipients_table_is_no_rules() {
    let rule = "[rule.old]\nstore = \"warehouse\"\ntable = \"public.Events\"\nstarting_point = \"at\"\n\
                retention = \"1 year\"\naction = \"delete\"\n";
    let sql = "[recipient.dwh]\nprotocol = \"sql\"\nstore = \"warehouse\"\ntable = \"events\"\n\
               columns = { user_id = \"uid\" }\n";
    insta::assert_snapshot!(refused(&format!("{WAREHOUSE}{rule}{sql}")));
    read(&format!("{WAREHOUSE}{}{sql}", rule.replace("public.Events", "sessions")));
    let same = WAREHOUSE.replace("[store.warehouse]", "[store.other]");
    let shown = refused(&format!(
        "{WAREHOUSE}{same}{}{sql}",
        rule.replace("store = \"warehouse\"", "store = \"other\"")
    ));
    assert!(shown.contains("works on the table"), "{shown}");
    let files = sql.replace("\"warehouse\"", "\"uploads\"").replace("{ user_id = \"uid\" }", "{}");
    insta::assert_snapshot!(refused(&format!(
        "{WAREHOUSE}[store.uploads]\nkind = \"files\"\nroot = \"/srv/up\"\n{files}\
         [recipient.gone]\nprotocol = \"sql\"\nstore = \"warehuose\"\ntable = \"a.b.c\"\ncolumns = {{ a = 1 }}\n\
         [recipient.cmd]\nprotocol = \"command\"\nprogram = \"forget\"\n"
    )));
}
