//! The table is the truth: whatever becomes of a notification, what it would have told is found.

use crate::harness::{poll, says};
use crate::house::House;
use crate::support::{Pool, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

/// Who listens.
const LISTENERS: &str = "FROM pg_stat_activity WHERE datname = current_database() \
                         AND application_name = 'expunged, listening'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_nobody_is_told_of_is_found() {
    found_by_looking(fresh_postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_found_in_a_table_of_mariadb() {
    found_by_looking(fresh_mysql().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_found_in_a_table_of_sqlite() {
    found_by_looking(fresh_sqlite().await).await;
}

async fn found_by_looking(app: TestDatabase) {
    let house = House::on(app).await;
    for key in ["before", "well", "badly", "running"] {
        house.upload(key).await;
    }
    house.end_silently("before", "finished").await;
    let mut daemon = house.place.start();
    house.gone("before").await;
    house.end_silently("well", "finished").await;
    house.end_silently("badly", "failed").await;
    house.gone("well").await;
    house.gone("badly").await;
    house.assert_there("running").await;
    house.settled(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_while_the_listener_is_cut_off_is_found() {
    let house = House::new().await;
    for n in 0..9 {
        house.upload(&format!("k{n}")).await;
    }
    let mut daemon = house.place.start();
    let listeners = format!("SELECT count(*) {LISTENERS}");
    for round in 0..3 {
        poll(&house.app.pool, &listeners, |there| there > 0).await;
        let [before, between, after] = [0, 1, 2].map(|n| format!("k{}", 3 * round + n));
        house.end(&before, "finished").await;
        house.app.execute(&format!("SELECT pg_terminate_backend(pid) {LISTENERS}")).await;
        house.end(&between, "finished").await;
        house.end(&after, "failed").await;
        for key in [before, between, after] {
            house.gone(&key).await;
        }
    }
    house.settled(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_commits_late_is_found_although_its_moment_has_passed() {
    let house = House::new().await;
    for key in ["late", "quick"] {
        house.upload(key).await;
    }
    let mut daemon = house.place.start();
    // Its moment is a minute before that of others, which are worked off first.
    let other = Pool::connect(&house.app.url).await;
    let Pool::Postgres(pool) = &other else { panic!("it is PostgreSQL") };
    let mut late = pool.begin().await.unwrap();
    let ending = "UPDATE synthesis_jobs SET status = 'finished', \
                  finished_at = now() - interval '1 minute' WHERE upload_key = 'late'";
    sqlx::query(ending).execute(&mut *late).await.unwrap();
    house.end("quick", "finished").await;
    house.gone("quick").await;
    house.assert_there("late").await;
    late.commit().await.unwrap();
    house.gone("late").await;
    house.settled(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_failed_and_was_tried_again_is_taken_again() {
    let house = House::new().await;
    house.upload("k").await;
    let mut daemon = house.place.start();
    for status in ["failed", "failed", "finished"] {
        house.end("k", status).await;
        house.gone("k").await;
        house.app.execute("UPDATE synthesis_jobs SET status = 'running', finished_at = NULL").await;
        // Uploaded once more, under the same key.
        house.upload_files("k");
        let features = "INSERT INTO face_features (upload_key, extracted_at) VALUES ('k', now())";
        house.app.execute(features).await;
    }
    // The folders that the rules name stay, however empty.
    for key in ["k", "k"] {
        house.end(key, "finished").await;
        house.gone(key).await;
    }
    assert!(house.file("faces").exists() && house.file("thumbs").exists());
    house.settled(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_while_no_daemon_ran_is_found_at_its_start() {
    let house = House::new().await;
    for n in 0..6 {
        house.upload(&format!("k{n}")).await;
    }
    for round in 0..3 {
        let (absent, present) = (format!("k{}", 2 * round), format!("k{}", 2 * round + 1));
        house.end(&absent, "finished").await;
        let daemon = house.place.start();
        house.gone(&absent).await;
        house.end(&present, "finished").await;
        house.gone(&present).await;
        daemon.kill();
    }
    house.place.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_posted_does_not_wait_for_a_table_that_is_locked() {
    let house = House::on(fresh_mysql().await).await;
    for key in ["posted", "told"] {
        house.upload(key).await;
    }
    let mut daemon = house.place.start();
    let ledger = house.place.ledger().await;
    poll(&ledger, "SELECT count(*) FROM run WHERE state = 'done'", |runs| runs >= 3).await;
    ledger.close().await;
    let other = Pool::connect(&house.app.url).await;
    let Pool::MySql(pool) = &other else { panic!("it is MariaDB") };
    let mut locks = pool.acquire().await.unwrap();
    sqlx::query("LOCK TABLES synthesis_jobs WRITE").execute(&mut *locks).await.unwrap();
    let value = serde_json::json!({ "upload_key": "posted" });
    assert_eq!(house.post("synthesis.finished", "1", &value), 202);
    house.gone("posted").await;
    house.assert_there("told").await;
    sqlx::query("UNLOCK TABLES").execute(&mut *locks).await.unwrap();
    drop(locks);
    house.end("told", "finished").await;
    house.gone("told").await;
    house.settled(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_names_no_file_is_said_once_and_in_nobodys_way() {
    let house = House::new().await;
    house.upload("good").await;
    let mut daemon = house.place.start();
    for key in ["2026/k1", "..", ""] {
        house.app.execute(&format!("INSERT INTO synthesis_jobs (upload_key, status, finished_at) VALUES ('{key}', 'finished', clock_timestamp())")).await;
    }
    house.end("good", "finished").await;
    house.gone("good").await;
    let message = "a row names nothing that could be deleted; this is said once";
    daemon.wait(message, |line| says(line, message) && line["rule"] == "face-photos");
    house.settled(&mut daemon).await;
    let times = daemon.text().matches("names nothing that could be deleted").count();
    assert!(times <= 2, "once for each rule, not {times} times");
    assert_eq!(daemon.stop().code(), Some(0));
}
