use std::path::Path;

use super::*;
use crate::config::{Config, InputFile};
use crate::keys::Keys;
use crate::store::Stores;

/// A recipient in trouble is tried by one notice alone: a defect in telling that one leaves it to be tried again.
#[tokio::test]
async fn a_trial_that_a_defect_ends_is_not_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[recipient.ads]\nprotocol = \"command\"\nprogram = \"/bin/true\"\n";
    let file = InputFile { path: "expunged.toml".into(), bytes: text.into() };
    let config = Config::parse(vec![file], Path::new("/"), std::iter::empty()).unwrap();
    let url = format!("sqlite://{}/ledger.db", folder.path().display());
    let ledger = Ledger::open(&url, Arc::new(Keys::generate())).await.unwrap();
    let stores = Arc::new(Stores::new(config.stores.clone()));
    let recipients = Recipients::new(&config.recipients, &stores);
    let (name, recipient) = recipients.iter().next().unwrap();
    let (rules, stop) = (Arc::new(Rules::new()), CancellationToken::new());
    let teller = Teller { recipient: recipient.clone(), ledger: ledger.clone(), rules };
    let lock = ledger.lock_recipient(name).await.unwrap().unwrap();
    let mut courier = Courier::new(&teller, lock, &stop);
    let down = Answer::Later { after: None, why: "it answered 500".to_owned(), is_down: true };
    for _ in 0..5 {
        courier.breaker.heed(&down, clock::now());
    }
    courier.breaker.set_out();
    assert_eq!(courier.breaker.until(), None, "one is under way");
    let task = courier.under_way.spawn(async { panic!("a defect") });
    courier.tasks.insert(task.id(), (1, clock::new_id()));
    let back = courier.under_way.join_next_with_id().await.unwrap();
    courier.came_back(back);
    assert!(courier.breaker.until().is_some(), "it is tried again");
    let put_off = &courier.answers[0].answer;
    assert!(matches!(put_off, Answer::Later { is_down: false, .. }), "and the others go on");
}
