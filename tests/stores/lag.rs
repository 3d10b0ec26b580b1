//! How far a replica lags behind. One that does is in the daemon's tests.

use expunged::store::sql::Access;

use crate::common::*;
use crate::support::TestDatabase;

on_each_database! {
    what_follows_nobody_tells_no_lag,
}

async fn what_follows_nobody_tells_no_lag(database: TestDatabase) {
    let store = open(&database, Access::ReadOnly);
    assert_eq!(store.lag().await.unwrap(), None);
}
