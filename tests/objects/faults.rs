//! Servers that are slow, break off, refuse or do not tell the truth; credentials that are wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use expunged::store::objects::{Left, Objects, ObjectsError, Service};
use expunged::store::sql::Access;

use crate::house::{
    Act, BUCKET, Fake, Files, KEY_ID, SECRET, error_answer, named, nobody, older, open, settings,
    walked,
};

fn filled(objects: usize) -> Files {
    let server = Files::serve();
    for number in 0..objects {
        server.put(&format!("faces/{number:05}"), 48);
    }
    server
}

async fn purge(objects: &Objects) -> usize {
    let search = older(&["faces/*"], 24);
    let entries = walked(objects, &search, 8_000).await;
    objects.delete(&search, entries).await.unwrap().gone.len()
}

#[tokio::test]
async fn a_server_that_asks_for_fewer_requests_gets_them_and_everything_goes() {
    let server = filled(2_200);
    let fake = Fake::before(&server.url, |number, _, _| {
        if number % 2 == 0 { Act::Answer(503, error_answer("SlowDown")) } else { Act::Pass }
    });
    assert_eq!(purge(&open(settings(&fake.url, BUCKET))).await, 2_200);
    assert_eq!(
        std::fs::read_dir(server.folder.path().join(BUCKET).join("faces")).unwrap().count(),
        0
    );
    assert!(fake.requests() > 10);
}

#[tokio::test]
async fn connections_that_break_are_made_again_before_and_after_the_deed() {
    let server = filled(1_200);
    let fake = Fake::before(&server.url, |number, method, _| match (number % 3, method) {
        (0, _) => Act::Drop,
        (1, "POST") => Act::DropAnswer,
        _ => Act::Pass,
    });
    assert_eq!(purge(&open(settings(&fake.url, BUCKET))).await, 1_200);
}

#[tokio::test]
async fn where_a_listing_has_failed_nothing_is_listed_while_the_caller_deletes() {
    let server = filled(5_500);
    let listings = AtomicUsize::new(0);
    let fake = Fake::before(&server.url, move |_, _, query| {
        let is_listing = query.contains("list-type");
        if is_listing && listings.fetch_add(1, Ordering::SeqCst) == 1 {
            Act::Answer(500, error_answer("InternalError"))
        } else {
            Act::Pass
        }
    });
    let objects = open(settings(&fake.url, BUCKET));
    let mut walk = objects.walk(older(&["faces/*"], 24));
    assert_eq!(walk.next(1_000).await.unwrap().unwrap().len(), 1_000);
    assert_eq!(walk.next(1_000).await.unwrap().unwrap().len(), 1_000);
    for more in [2_000, 1_500] {
        let before = fake.requests();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(fake.requests(), before, "nothing is listed ahead");
        // As much as was asked for is worth waiting for: then many can be deleted at once.
        assert_eq!(walk.next(2_000).await.unwrap().unwrap().len(), more);
    }
    assert_eq!(walk.next(2_000).await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_answer_does_not_cost_the_object_that_came_after() {
    let server = Arc::new(filled(2));
    let folder = server.clone();
    let done = AtomicUsize::new(0);
    let fake = Fake::before(&server.url, move |_, method, _| {
        if method == "POST" && done.fetch_add(1, Ordering::SeqCst) == 0 {
            // Somebody puts a new one there while the request is under way, and it gets lost.
            folder.put("faces/00001", 0);
            return Act::Drop;
        }
        Act::Pass
    });
    let objects = open(settings(&fake.url, BUCKET));
    let search = older(&["faces/*"], 24);
    let entries = walked(&objects, &search, 10).await;
    let deleted = objects.delete(&search, entries).await.unwrap();
    assert_eq!((deleted.gone, deleted.kept), (vec![0], vec![(1, Left::Changed)]));
    assert!(server.has("faces/00001"));
}

#[tokio::test]
async fn what_the_server_does_not_confirm_is_not_called_gone() {
    for silence in [
        "<DeleteResult></DeleteResult>",
        "<DeleteResult><Deleted><Key>faces/other</Key></Deleted></DeleteResult>",
    ] {
        let server = filled(3);
        let fake = Fake::before(&server.url, move |_, method, _| {
            if method == "POST" { Act::Answer(200, silence.to_owned()) } else { Act::Pass }
        });
        let objects = open(settings(&fake.url, BUCKET));
        let search = older(&["faces/*"], 24);
        let entries = walked(&objects, &search, 10).await;
        let deleted = objects.delete(&search, entries).await.unwrap();
        assert!(deleted.gone.is_empty());
        assert_eq!(deleted.kept.len(), 3);
        assert!(server.has("faces/00000"));
    }
}

#[tokio::test]
async fn a_marker_put_on_top_is_no_deletion() {
    let server = filled(1);
    let fake = Fake::before(&server.url, |_, method, _| {
        let made = "<DeleteResult><Deleted><Key>faces/00000</Key><DeleteMarker>true</DeleteMarker>\
                    <DeleteMarkerVersionId>v</DeleteMarkerVersionId></Deleted></DeleteResult>";
        if method == "POST" { Act::Answer(200, made.to_owned()) } else { Act::Pass }
    });
    let objects = open(settings(&fake.url, BUCKET));
    let search = older(&["faces/*"], 24);
    let entries = walked(&objects, &search, 10).await;
    let deleted = objects.delete(&search, entries).await.unwrap();
    let why = Left::Refused("the bucket has versions by now".to_owned());
    assert_eq!((deleted.gone, deleted.kept), (vec![], vec![(0, why)]));
}

#[tokio::test]
async fn one_key_that_is_refused_is_told_apart_from_the_others() {
    let server = filled(3);
    let fake = Fake::before(&server.url, |_, method, _| {
        let answer = "<DeleteResult><Deleted><Key>faces/00000</Key></Deleted>\
                      <Error><Key>faces/00001</Key><Code>AccessDenied</Code><Message>x</Message></Error>\
                      <Deleted><Key>faces/00002</Key></Deleted></DeleteResult>";
        if method == "POST" { Act::Answer(200, answer.to_owned()) } else { Act::Pass }
    });
    let objects = open(settings(&fake.url, BUCKET));
    let search = older(&["faces/*"], 24);
    let entries = walked(&objects, &search, 10).await;
    let deleted = objects.delete(&search, entries).await.unwrap();
    let denied = Left::Refused("AccessDenied".to_owned());
    assert_eq!((deleted.gone, deleted.kept), (vec![0, 2], vec![(1, denied)]));
}

#[tokio::test]
async fn a_purge_that_fails_half_way_says_what_is_gone() {
    let server = filled(1_500);
    let posts = AtomicUsize::new(0);
    let fake = Fake::before(&server.url, move |_, method, _| {
        let is_second = method == "POST" && posts.fetch_add(1, Ordering::SeqCst) > 0;
        if is_second { Act::Answer(403, error_answer("AccessDenied")) } else { Act::Pass }
    });
    let objects = open(settings(&fake.url, BUCKET));
    let search = older(&["faces/*"], 24);
    let entries = walked(&objects, &search, 8_000).await;
    let deleted = objects.delete(&search, entries).await.unwrap();
    let left = std::fs::read_dir(server.folder.path().join(BUCKET).join("faces")).unwrap().count();
    assert_eq!((deleted.gone.len(), deleted.kept.len()), (1_500 - left, left));
    assert!(deleted.kept.iter().all(|(_, why)| *why == Left::Refused("AccessDenied".to_owned())));
}

#[tokio::test]
async fn wrong_credentials_are_named_and_not_shown() {
    let server = filled(1);
    for (id, secret) in [(KEY_ID, "wrong-secret"), ("AKIDUNKNOWN", SECRET)] {
        let mut settings = settings(&server.url, BUCKET);
        let credentials = settings.credentials.as_mut().unwrap();
        (credentials.id, credentials.secret) = (id.to_owned(), secret.into());
        let error = open(settings).probe().await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(error.to_string().contains("credentials"), "{error}");
        assert!(!text.contains(secret) && !text.contains(id), "{text}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn errors_hold_no_keys() {
    let server = filled(1);
    let fake = Fake::before(&server.url, |_, _, _| {
        Act::Answer(403, error_answer("faces/jane.doe is not yours"))
    });
    let objects = open(settings(&fake.url, BUCKET));
    let error = objects.find(&named(&["faces/jane.doe"])).await.unwrap_err();
    let error = format!("{error} {error:?} {objects:?}");
    assert!(error.contains("403") && !error.contains("jane"), "{error}");
    let objects = open(settings(&nobody(), BUCKET));
    let error = objects.find(&named(&["faces/jane.doe"])).await.unwrap_err();
    assert!(error.is_transient());
    let error = format!("{error} {error:?}");
    assert!(error.contains("cannot be connected to") && !error.contains("jane"), "{error}");
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named_as_the_mistake() {
    let server = filled(1);
    let error = open(settings(&server.url, "no-such")).probe().await.unwrap_err();
    assert!(error.to_string().ends_with(": there is no such bucket"), "{error}");
}

#[tokio::test]
async fn a_store_that_is_open_for_reading_cannot_delete() {
    let server = filled(1);
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = posts.clone();
    let fake = Fake::before(&server.url, move |_, method, _| {
        counted.fetch_add(usize::from(!["GET", "HEAD"].contains(&method)), Ordering::SeqCst);
        Act::Pass
    });
    let objects =
        Objects::open("photos".parse().unwrap(), settings(&fake.url, BUCKET), Access::ReadOnly)
            .unwrap();
    let search = older(&["faces/*"], 24);
    let entries = walked(&objects, &search, 10).await;
    let error = objects.delete(&search, entries).await.unwrap_err();
    assert!(matches!(error, ObjectsError::ReadOnly { .. }));
    assert!(server.has("faces/00000"));
    assert_eq!(posts.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = settings(&format!("http://{}", listener.local_addr().unwrap()), BUCKET);
    settings.timeout = Duration::from_millis(50);
    let error = open(settings).probe().await.unwrap_err();
    assert!(error.is_transient());
    assert!(error.to_string().ends_with("did not answer in time"), "{error}");
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused() {
    let url = nobody();
    let refused = |change: &dyn Fn(&mut expunged::store::objects::Settings)| {
        let mut settings = settings(&url, BUCKET);
        change(&mut settings);
        let opened = Objects::open("photos".parse().unwrap(), settings, Access::ReadOnly);
        opened.unwrap_err().to_string()
    };
    assert!(refused(&|settings| settings.bucket = "a/b".to_owned()).contains("bucket"));
    for prefix in ["/a", "a//b", "../a", "a/..", ".", "/"] {
        let said = refused(&|settings| settings.prefix = Some(prefix.to_owned()));
        assert!(said.contains("prefix"), "{prefix}: {said}");
    }
    let endpoint = refused(&|settings| settings.endpoint = Some("s3.example.org".to_owned()));
    assert!(endpoint.contains("https://"), "{endpoint}");
    if !cfg!(feature = "gcs") {
        let other = refused(&|settings| settings.service = Service::Gcs);
        assert!(other.contains("--features gcs"), "{other}");
    }
}

#[tokio::test]
async fn a_walk_that_failed_does_not_come_to_an_end_when_it_is_asked_again() {
    let server = filled(1_500);
    // The first page of the listing arrives, and what follows it never does.
    let fake = Fake::before(&server.url, |_, _, query| {
        if query.contains("continuation-token") || query.contains("start-after") {
            Act::Answer(403, error_answer("AccessDenied"))
        } else {
            Act::Pass
        }
    });
    let objects = open(settings(&fake.url, BUCKET));
    let mut walk = objects.walk(older(&["faces/*"], 24));
    let first = walk.next(5_000).await.unwrap().unwrap();
    assert_eq!(first.len(), 1_000);
    for _ in 0..2 {
        let again = walk.next(5_000).await;
        assert!(matches!(again, Err(ObjectsError::Refused { .. })), "{again:?}");
    }
}
