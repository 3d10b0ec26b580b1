//! `[api]` in the configuration: what holds by default, what can be said, and what is refused.

use std::path::Path;

use expunged::config::{Config, InputFile};

fn parse(text: &str) -> Result<Config, String> {
    let file = InputFile { path: "/etc/expunged/expunged.toml".into(), bytes: text.into() };
    let parsed = Config::parse(vec![file], Path::new("/etc/expunged"), std::iter::empty());
    parsed.map_err(|error| error.to_string())
}

#[test]
fn by_default_there_is_a_socket_beside_the_keys_and_no_port() {
    let api = parse("").unwrap().api;
    assert_eq!(api.socket, Path::new("/var/lib/expunged/api.sock"));
    assert_eq!((api.enabled, api.mode, api.group, api.tcp), (true, 0o660, None, None));
    let elsewhere = parse("[keys]\ndirectory = \"/srv/expunged/keys\"").unwrap().api;
    assert_eq!(elsewhere.socket, Path::new("/srv/expunged/api.sock"));
}

#[test]
fn everything_can_be_said() {
    let text = "[api]\nsocket = \"run/events.sock\"\nmode = \"0600\"\ngroup = \"app\"\n\
                listen = \"[::1]:7117\"\ntoken = { file = \"token\" }";
    let api = parse(text).unwrap().api;
    assert_eq!(api.socket, Path::new("/etc/expunged/run/events.sock"));
    assert_eq!((api.mode, api.group.as_deref()), (0o600, Some("app")));
    let tcp = api.tcp.unwrap();
    assert_eq!(tcp.listen, "[::1]:7117".parse().unwrap());
    assert_eq!(tcp.token.to_string(), "the file /etc/expunged/token");
    assert!(!parse("[api]\nenabled = false").unwrap().api.enabled);
}

#[test]
fn what_is_unsafe_or_unclear_is_refused() {
    let mut said = String::new();
    for text in [
        "mode = \"0666\"",
        "mode = \"0060\"",
        "mode = \"rw-rw----\"",
        "mode = 660",
        "listen = \"127.0.0.1:7117\"",
        "listen = \"localhost\"\ntoken = { env = \"TOKEN\" }",
        "listen = \"127.0.0.1:7117\"\ntoken = \"typed-in-here-as-it-is\"",
        "token = { env = \"TOKEN\" }",
        "sockett = \"/run/a\"",
    ] {
        let error = parse(&format!("[api]\n{text}\n")).expect_err(text);
        assert!(!error.contains("typed-in-here"), "{error}");
        said += &format!("{error}\n\n");
    }
    insta::assert_snapshot!("settings", said);
}
