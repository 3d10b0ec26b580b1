//! What is deleted is not written down: not in logs at any level, not in the ledger, not in the audit
//! log, not in what commands print.

use crate::harness::{Place, rule};
use crate::support::{Kind, fresh_mysql, fresh_postgres, fresh_sqlite};

/// In every key, and nowhere else.
const MARK: &str = "@secret-person.example";

#[tokio::test]
async fn no_personal_data_is_written_down_anywhere() {
    let stores = [fresh_postgres().await, fresh_mysql().await, fresh_sqlite().await];
    let mut place = Place::new();
    place.environment.clear();
    place.environment.push(("EXPUNGED_LOG".into(), "trace".into()));
    let mut text = String::new();
    for store in &stores {
        let moment = match store.kind {
            Kind::Postgres => "timestamptz",
            Kind::MySql => "datetime(6)",
            Kind::Sqlite => "text",
        };
        // `accounts` goes; of `kept`, nothing can, because other rows point at it, and of `raised`, because a trigger says so.
        let mut sql = String::new();
        for table in ["accounts", "kept", "raised"] {
            sql += &format!(
                "CREATE TABLE {table} (email varchar(99) PRIMARY KEY, name varchar(99), last_seen {moment});
                 INSERT INTO {table} VALUES ('anna{MARK}', 'anna{MARK}', '2001-01-01 00:00:00'),
                 ('ben{MARK}', 'ben{MARK}', '2002-01-01 00:00:00');"
            );
        }
        sql += &format!(
            "CREATE TABLE pointing (email varchar(99), FOREIGN KEY (email) REFERENCES kept (email));
             INSERT INTO pointing VALUES ('anna{MARK}');"
        );
        sql += match store.kind {
            Kind::Postgres => {
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'user % stays', OLD.email USING ERRCODE = 'UE001'; END $$;
                 CREATE TRIGGER refuse BEFORE DELETE ON raised FOR EACH ROW EXECUTE FUNCTION refuse();"
            }
            Kind::MySql => {
                "CREATE TRIGGER refuse BEFORE DELETE ON raised FOR EACH ROW BEGIN
                     DECLARE words varchar(99) DEFAULT CONCAT('user ', OLD.email, ' stays');
                     SIGNAL SQLSTATE 'UE001' SET MYSQL_ERRNO = 5001, MESSAGE_TEXT = words; END;"
            }
            Kind::Sqlite => {
                "CREATE TRIGGER refuse BEFORE DELETE ON raised
                 BEGIN SELECT RAISE(ABORT, 'user ' || OLD.email || ' stays'); END;"
            }
        };
        if store.kind == Kind::Postgres {
            sql += "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN RAISE NOTICE 'deleting %', OLD.email; RETURN OLD; END $$;
                    CREATE TRIGGER shout BEFORE DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION shout();";
        }
        store.execute(&sql).await;
        let name = format!("{:?}", store.kind).to_lowercase();
        text += &place.store(&name, store);
        text += &rule(&format!("{name}-gone"), &name, "continuous", "subject = \"name\"");
        for table in ["kept", "raised"] {
            let rule = rule(&format!("{name}-{table}"), &name, "continuous", "");
            text += &rule.replace("accounts", table);
        }
    }
    place.configure(&text);
    // Persons and predicates of legal holds are spelled out in statements.
    let order = ["hold", "place", "--authority", "a", "--reference", "b", "--broad", "c"];
    let person = format!("zoe{MARK}");
    let predicate = format!("email = '{person}'");
    let mut holds = vec![vec!["--subject", &person]];
    for store in ["postgres", "mysql", "sqlite"] {
        holds.push(vec!["--store", store, "--table", "accounts", "--where", &predicate]);
    }
    for hold in &holds {
        let placed = place.run(&[&order, hold.as_slice()].concat());
        assert!(placed.status.success(), "{placed:?}");
        assert_clean("the log of a placement", &placed.stderr);
    }

    let mut daemon = place.start();
    let mut over = 0;
    while over < 9 {
        daemon.wait("the end of each rule's run", |line| {
            line["message"].as_str().is_some_and(|text| text.starts_with("the run"))
                && line["rule"].is_string()
        });
        over += 1;
    }
    daemon.signal(rustix::process::Signal::TERM);
    daemon.wait_for_end();

    for store in &stores {
        let gone = "SELECT count(*) FROM accounts";
        assert_eq!(store.count(gone).await, 0, "{:?}\n{}", store.kind, daemon.text());
        for table in ["kept", "raised"] {
            let left = format!("SELECT count(*) FROM {table}");
            assert_eq!(store.count(&left).await, 2, "{:?}", store.kind);
        }
    }
    let log = daemon.text();
    assert!(log.contains("DEBUG") && log.contains("a batch is done"), "this is not all of it");
    assert!(!log.contains("DELETE FROM"), "the text of a statement");
    assert_clean("the log", log.as_bytes());
    for file in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        if let Ok(bytes) = std::fs::read(place.path(file)) {
            assert_clean(file, &bytes);
        }
    }
    assert_clean("the audit log", format!("{:?}", place.audit()).as_bytes());
    assert_clean("status", &place.run(&["--json", "status"]).stdout);
}

fn assert_clean(what: &str, bytes: &[u8]) {
    // MySQL is given persons in hexadecimal.
    for name in [MARK, "secret-person", &hex::encode(MARK)] {
        let found = bytes.windows(name.len()).position(|window| window == name.as_bytes());
        if let Some(at) = found {
            let around = &bytes[at.saturating_sub(400)..(at + 200).min(bytes.len())];
            panic!("{what} holds personal data: {}", String::from_utf8_lossy(around));
        }
    }
}
