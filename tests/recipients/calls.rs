//! Calls over HTTP as the configuration describes them.

use expunged::notice::Answer;
use serde_json::json;

use crate::house::{
    Act, Server, about, anna, json as answer, later, now, person, recipient, secret, shown, status,
    with,
};

fn config(server: &Server, path: &str, more: &str) -> String {
    format!(
        "[recipient.vendor]\nprotocol = \"http\"\nurl = \"{}\"\ninternal = true\ntimeout = \"1 second\"\n{more}",
        server.url(path)
    )
}

#[tokio::test]
async fn a_call_is_filled_with_whom_it_is_about() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_| status(202)).await;
    let key = secret(folder.path(), "key", "hunter2");
    let more = format!(
        "at_once = 10\nbasic = {{ user = {key}, password = {key} }}\n\
         headers = {{ X-Notice = \"{{{{notice}}}}\", X-Api-Key = {key} }}\n\
         query = {{ rule = \"{{{{rule}}}}\", token = {key} }}\n\
         body = '{{\"user_ids\": [\"{{{{id:user_id}}}}\"], \"hashes\": [{{\"sha\": \"{{{{id:email|trim|lower|md5}}}}\"}}],\
                  \"all\": \"{{{{subjects}}}}\", \"n\": 1, \"note\": \"by {{{{rule}}}} at {{{{created_at}}}}\"}}'\n"
    );
    let vendor = recipient(folder.path(), &config(&server, "/secret-path", &more));
    let hostile = "\"}], \"admin\": true, \"x\": [{\"y\": \"\\\n\u{0}\u{2028}é{{rule}}";
    let message = about(vec![
        person(&[("user_id", "u-1001"), ("email", " Anna@Example.org ")]),
        person(&[("user_id", hostile)]),
    ]);
    assert_eq!(vendor.tell(&message, now()).await, Answer::Completed);
    let request = server.last();
    assert_eq!(request.path, "/secret-path?rule=inactive-accounts&token=hunter2");
    let basic =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "hunter2:hunter2");
    assert_eq!(request.header("authorization"), Some(format!("Basic {basic}").as_str()));
    assert_eq!(request.header("x-notice"), Some(format!("msg_{}", message.id).as_str()));
    assert_eq!(request.header("x-api-key"), Some("hunter2"));
    let printed = crate::house::run("md5sum", &["-"], b"anna@example.org");
    let md5 = String::from_utf8(printed).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(
        request.json(),
        json!({
            "user_ids": ["u-1001", hostile],
            "hashes": [{ "sha": md5 }],
            "all": [{ "user_id": "u-1001", "email": " Anna@Example.org " }, { "user_id": hostile }],
            "n": 1,
            "note": "by inactive-accounts at 2026-11-28T12:00:00Z",
        })
    );
}

#[tokio::test]
async fn an_id_in_a_path_stays_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_| status(204)).await;
    let more = "method = \"DELETE\"\nsuccess = { status = [204, 404] }\n";
    let vendor = recipient(folder.path(), &config(&server, "/users/{{id:user_id}}/data", more));
    for (id, path) in [
        ("u-1", "/users/u-1/data"),
        ("a/b?c#d%2e&=+ é", "/users/a%2Fb%3Fc%23d%252e%26%3D%2B%20%C3%A9/data"),
        ("../admin", "/users/..%2Fadmin/data"),
        ("...", "/users/.../data"),
    ] {
        let message = about(vec![person(&[("user_id", id)])]);
        assert_eq!(vendor.tell(&message, now()).await, Answer::Completed);
        assert_eq!((server.last().method.as_str(), server.last().path.as_str()), ("DELETE", path));
    }
    let before = server.seen().len();
    // These would lead elsewhere, or mean everybody.
    for id in ["", " ", ".", ".."] {
        let message = about(vec![person(&[("user_id", id), ("email", "x")])]);
        let answer = vendor.tell(&message, now()).await;
        assert!(matches!(answer, Answer::Failed(_)), "{id:?}: {answer:?}");
    }
    assert!(matches!(
        vendor.tell(&about(vec![person(&[("email", "x")])]), now()).await,
        Answer::Failed(_)
    ));
    assert_eq!(server.seen().len(), before, "nothing was sent");
}

#[tokio::test]
async fn a_subject_whom_the_call_does_not_name_is_never_said_to_be_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_| status(200)).await;
    let more =
        "at_once = 10\nbody = '{\"ids\": [\"{{id:user_id}}\"], \"mails\": [\"{{id:email}}\"]}'\n";
    let vendor = recipient(folder.path(), &config(&server, "/", more));
    let both = about(vec![person(&[("user_id", "1")]), person(&[("email", "a")])]);
    assert_eq!(vendor.tell(&both, now()).await, Answer::Completed);
    assert_eq!(server.last().json(), json!({ "ids": ["1"], "mails": ["a"] }));
    let one = about(vec![person(&[("user_id", "1")]), person(&[("phone", "2"), ("email", "")])]);
    let answer = vendor.tell(&one, now()).await;
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn success_is_what_the_configuration_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = "/{{id:user_id}}";
    let tell = async |act: fn() -> Act, more: &str| {
        let server = Server::new(move |_| act()).await;
        let vendor = recipient(folder.path(), &config(&server, path, more));
        let answer = vendor.tell(&anna(), now()).await;
        shown(&answer);
        answer
    };
    let named =
        "success = { status = [202, 404], at = \"/status\", is = [\"ok\", \"1\", \"true\"] }\n";
    for body in ["{\"status\": \"ok\"}", "{\"status\": 1}", "{\"status\": true}"] {
        let server = Server::new(move |_| Act::Answer(202, Vec::new(), body.to_owned())).await;
        let vendor = recipient(folder.path(), &config(&server, path, named));
        assert_eq!(vendor.tell(&anna(), now()).await, Answer::Completed, "{body}");
    }
    assert_eq!(
        later(&tell(|| answer(200, &json!({ "status": "ok" })), named).await),
        (None, false)
    );
    assert_eq!(
        later(&tell(|| answer(202, &json!({ "status": "anna@example.org" })), named).await),
        (None, false)
    );
    assert_eq!(later(&tell(|| answer(202, &json!([])), named).await), (None, false));
    assert_eq!(later(&tell(|| status(500), named).await), (None, true));
    assert_eq!(tell(|| answer(404, &json!({ "status": "ok" })), named).await, Answer::Completed);
    assert!(matches!(tell(|| status(404), "").await, Answer::Failed(_)));
    assert!(matches!(
        tell(|| with(302, "location", "http://169.254.169.254/"), "").await,
        Answer::Failed(_)
    ));
    // What cannot be read to its end says nothing, in time.
    for head in ["", "content-encoding: gzip\r\n"] {
        let head = format!("HTTP/1.1 202 X\r\n{head}\r\n{{\"status\": \"ok\"").into_bytes();
        let server = Server::new(move |_| Act::Endless(head.clone(), vec![b' '; 8192])).await;
        let vendor = recipient(folder.path(), &config(&server, path, named));
        assert_eq!(later(&vendor.tell(&anna(), now()).await), (None, false));
        server.left.notified().await;
    }
}

#[tokio::test]
async fn a_job_is_asked_about_by_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|request| match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/jobs") => answer(201, &json!({ "data": { "id": "7/../x" } })),
        ("POST", "/nameless") => answer(201, &json!({ "data": {} })),
        ("GET", "/jobs/7%2F..%2Fx") => answer(200, &json!({ "state": "RUNNING" })),
        ("GET", "/jobs/done") => answer(200, &json!({ "state": "FINISHED" })),
        ("GET", "/jobs/invalid") => answer(200, &json!({ "state": "INVALID" })),
        ("GET", "/jobs/consent") => answer(200, &json!({ "state": "HAS_CONSENT" })),
        ("GET", "/jobs/refused") => answer(200, &json!({ "state": "REFUSED u-1001" })),
        ("GET", "/jobs/mute") => answer(200, &json!({})),
        ("GET", "/jobs/down") => status(503),
        _ => status(404),
    })
    .await;
    let more = format!(
        "ack = \"poll\"\nbody = '[\"{{{{id:user_id}}}}\"]'\njob = \"/data/id\"\n\
         poll = {{ url = \"{}\", at = \"/state\", done = \"FINISHED\", failed = \"INVALID\", exempt = \"HAS_CONSENT\", denied = \"REFUSED u-1001\" }}\n",
        server.url("/jobs/{{job}}")
    );
    let vendor = recipient(folder.path(), &config(&server, "/jobs", &more));
    let message = anna();
    let Answer::Sent { job: Some(job) } = vendor.tell(&message, now()).await else {
        panic!("a job")
    };
    assert_eq!(vendor.ask(&message, Some(&job), now()).await, Answer::Accepted);
    let ask = async |job: &str| {
        let answer = vendor.ask(&message, Some(job), now()).await;
        shown(&answer);
        answer
    };
    assert_eq!(ask("done").await, Answer::Completed);
    assert_eq!(ask("consent").await, Answer::Exempt("HAS_CONSENT".to_owned()));
    assert_eq!(ask("refused").await, Answer::Denied("REFUSED …".to_owned()));
    assert!(matches!(ask("invalid").await, Answer::Failed(_)));
    assert_eq!(later(&ask("mute").await), (None, false));
    assert_eq!(later(&ask("down").await), (None, true));
    assert_eq!(later(&ask("forgotten").await), (None, false));
    assert!(matches!(vendor.ask(&message, None, now()).await, Answer::Failed(_)));
    let nameless = recipient(folder.path(), &config(&server, "/nameless", &more));
    assert_eq!(later(&nameless.tell(&message, now()).await), (None, false));
}

#[tokio::test]
async fn a_status_may_say_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|request| match request.method.as_str() {
        "DELETE" => status(202),
        _ if request.path.ends_with("u-1001") => status(404),
        _ => status(200),
    })
    .await;
    let more = format!(
        "method = \"DELETE\"\nack = \"poll\"\npoll = {{ url = \"{}\", done = \"404\" }}\n",
        server.url("/users/{{id:user_id}}")
    );
    let vendor = recipient(folder.path(), &config(&server, "/users/{{id:user_id}}", &more));
    assert_eq!(vendor.tell(&anna(), now()).await, Answer::Sent { job: None });
    assert_eq!(vendor.ask(&anna(), None, now()).await, Answer::Completed);
    let other = about(vec![person(&[("user_id", "u-2")])]);
    assert_eq!(vendor.ask(&other, None, now()).await, Answer::Accepted);
}

#[tokio::test]
async fn a_test_deletes_nothing_and_reads_the_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_| status(404)).await;
    let key = secret(folder.path(), "key", "hunter2");
    let more = format!("method = \"DELETE\"\nbearer = {key}\n");
    let vendor = recipient(folder.path(), &config(&server, "/secret-path/{{id:user_id}}", &more));
    let pong = vendor.test(now()).await.unwrap();
    assert!(pong.says.contains("answered 404 to OPTIONS"), "{pong:?}");
    let request = server.last();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("OPTIONS", "/"));
    assert_eq!(request.header("authorization"), None);
    std::fs::remove_file(folder.path().join("key")).unwrap();
    let vendor = recipient(folder.path(), &config(&server, "/{{id:user_id}}", &more));
    let ailment = vendor.test(now()).await.unwrap_err().to_string();
    assert!(ailment.starts_with("secret: cannot read the secret in"), "{ailment}");
}
