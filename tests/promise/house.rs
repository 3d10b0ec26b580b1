//! An application with uploads, jobs and creations, and a daemon under the configuration that is shipped
//! as a sample.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use expunged::clock::Stopwatch;

use crate::harness::{Daemon, LIMIT, Place, poll};
use crate::support::{Kind, TestDatabase, fresh_postgres};

/// The sample itself, so that what is promised there is what is tested.
const SAMPLE: &str = include_str!("../../config/conf.d/30-face-photos.toml");

pub(crate) struct House {
    pub(crate) place: Place,
    pub(crate) app: TestDatabase,
}

impl House {
    /// On PostgreSQL, with rules that act.
    pub(crate) async fn new() -> House {
        House::on(fresh_postgres().await).await
    }

    pub(crate) async fn on(app: TestDatabase) -> House {
        let house = House::bare(app).await;
        house.configure(|sample| sample);
        house
    }

    /// Not configured yet.
    pub(crate) async fn bare(app: TestDatabase) -> House {
        let (serial, moment) = match app.kind {
            Kind::Postgres => ("bigserial PRIMARY KEY", "timestamptz"),
            Kind::MySql => ("bigint AUTO_INCREMENT PRIMARY KEY", "datetime(6)"),
            Kind::Sqlite => ("integer PRIMARY KEY AUTOINCREMENT", "text"),
        };
        app.execute(&format!(
            "CREATE TABLE face_features (id {serial}, upload_key varchar(99), account_id bigint,
                                         points varchar(99), extracted_at {moment} NOT NULL);
             CREATE INDEX by_upload ON face_features (upload_key);
             CREATE TABLE creations (id {serial}, file_key varchar(99), account_id bigint,
                                     created_at {moment} NOT NULL);
             CREATE TABLE synthesis_jobs (id {serial}, upload_key varchar(99), status varchar(99),
                                          finished_at {moment});
             CREATE INDEX by_finish ON synthesis_jobs (finished_at);"
        ))
        .await;
        let house = House { place: Place::new(), app };
        for folder in ["faces", "thumbs", "creations"] {
            fs::create_dir_all(house.file(folder)).unwrap();
        }
        house
    }

    /// Writes the sample as the configuration: for here, armed, looking each second, and changed as told.
    pub(crate) fn configure(&self, change: impl Fn(String) -> String) {
        let mut sample = SAMPLE
            .replace("/srv/app/uploads", self.file("").to_str().unwrap().trim_end_matches('/'))
            .replace("poll = \"10 seconds\"", "poll = \"1 second\"")
            .replace("action = \"delete\"", "action = \"delete\"\nmode = \"enforce\"");
        if self.app.kind != Kind::Postgres {
            sample = sample.replace("notify = ", "# ");
        }
        let store = self.place.store("app", &self.app);
        self.place.configure(&(store + &change(sample)));
    }

    /// A file of the application.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.place.path("uploads").join(name)
    }

    pub(crate) fn photo(&self, key: &str) -> PathBuf {
        self.file(&format!("faces/{key}"))
    }

    fn now(&self) -> &'static str {
        match self.app.kind {
            Kind::Postgres => "clock_timestamp()",
            Kind::MySql => "utc_timestamp(6)",
            Kind::Sqlite => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
        }
    }

    /// Only a photo and its thumbnails.
    pub(crate) fn upload_files(&self, key: &str) {
        fs::create_dir_all(self.file(&format!("thumbs/{key}"))).unwrap();
        for name in
            [format!("thumbs/{key}/64"), format!("thumbs/{key}/256"), format!("faces/{key}")]
        {
            fs::write(self.file(&name), "a face").unwrap();
        }
    }

    /// A photo, its thumbnails, the features that were found in it, and a job that has begun.
    pub(crate) async fn upload(&self, key: &str) {
        self.upload_files(key);
        let now = self.now();
        self.app
            .execute(&format!(
                "INSERT INTO face_features (upload_key, account_id, points, extracted_at)
                 VALUES ('{key}', 7, '1 2 3', {now});
                 INSERT INTO synthesis_jobs (upload_key, status) VALUES ('{key}', 'running')"
            ))
            .await;
    }

    /// The statement by which a job comes to its end.
    pub(crate) fn ending(&self, key: &str, status: &str) -> String {
        let now = self.now();
        format!(
            "UPDATE synthesis_jobs SET status = '{status}', finished_at = {now} WHERE upload_key = '{key}'"
        )
    }

    /// A job comes to its end, and whoever listens is told upon the commit.
    pub(crate) async fn end(&self, key: &str, status: &str) {
        let ending = self.ending(key, status);
        let notify = if self.app.kind == Kind::Postgres { "; NOTIFY synthesis_jobs" } else { "" };
        self.app.execute(&format!("BEGIN; {ending}{notify}; COMMIT")).await;
    }

    /// A job comes to its end, and nobody is told.
    pub(crate) async fn end_silently(&self, key: &str, status: &str) {
        self.app.execute(&self.ending(key, status)).await;
    }

    pub(crate) async fn create(&self, key: &str) {
        fs::write(self.file(&format!("creations/{key}")), "a picture").unwrap();
        let now = self.now();
        self.app
            .execute(&format!(
                "INSERT INTO creations (file_key, account_id, created_at) VALUES ('{key}', 7, {now})"
            ))
            .await;
    }

    pub(crate) async fn features(&self, key: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM face_features WHERE upload_key = '{key}'");
        self.app.count(&sql).await
    }

    /// Waits until a photo and all that came of it is gone.
    pub(crate) async fn gone(&self, key: &str) {
        let (photo, thumbs) = (self.photo(key), self.file(&format!("thumbs/{key}")));
        until(&format!("photo {key} is gone"), || !photo.exists() && !thumbs.exists()).await;
        let features = format!("SELECT count(*) FROM face_features WHERE upload_key = '{key}'");
        poll(&self.app.pool, &features, |rows| rows == 0).await;
    }

    pub(crate) async fn creation_gone(&self, key: &str) {
        let file = self.file(&format!("creations/{key}"));
        until(&format!("creation {key} is gone"), || !file.exists()).await;
        let row = format!("SELECT count(*) FROM creations WHERE file_key = '{key}'");
        poll(&self.app.pool, &row, |rows| rows == 0).await;
    }

    /// What is whole of a photo.
    pub(crate) async fn assert_there(&self, key: &str) {
        for name in
            [format!("thumbs/{key}/64"), format!("thumbs/{key}/256"), format!("faces/{key}")]
        {
            assert!(self.file(&name).exists(), "{name}");
        }
        assert_eq!(self.features(key).await, 1, "{key}");
    }

    /// Sends an event to the daemon; gives the status of its answer.
    pub(crate) fn post(&self, event: &str, id: &str, values: &serde_json::Value) -> u16 {
        self.try_post(event, id, values).unwrap()
    }

    pub(crate) fn try_post(
        &self,
        event: &str,
        id: &str,
        values: &serde_json::Value,
    ) -> std::io::Result<u16> {
        post(&self.place.path("api.sock"), event, id, values)
    }

    /// Waits until nothing waits to be worked off, nor is under way.
    pub(crate) async fn settled(&self, daemon: &mut Daemon) {
        let ledger = self.place.ledger().await;
        let open = "SELECT (SELECT count(*) FROM event) + \
                    (SELECT count(*) FROM request WHERE state = 'pending' AND cause = 'event') + \
                    (SELECT count(*) FROM batch WHERE state = 'intended')";
        poll(&ledger, open, |open| open == 0).await;
        ledger.close().await;
        daemon.drain();
    }
}

/// One event in a request of its own.
pub(crate) fn post(
    socket: &Path,
    event: &str,
    id: &str,
    values: &serde_json::Value,
) -> std::io::Result<u16> {
    let body = serde_json::json!({ "event": event, "id": id, "values": values }).to_string();
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

/// Sets when a file was last written.
pub(crate) fn set_age(path: &Path, age: Duration) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let now: std::time::SystemTime = expunged::clock::now().into();
    file.set_modified(now - age).unwrap();
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let watch = Stopwatch::start();
    while !is_so() {
        assert!(watch.elapsed() < LIMIT, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
