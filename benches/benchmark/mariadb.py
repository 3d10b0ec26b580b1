"""MariaDB: rows that are a fair share of their table, next to one statement, the usual loop and pt-archiver."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from .measure import Failed, Measure, Part, say, timed
from .rounds import Rows, Scale, order, verified
from .server import Process, as_server, own, server_user
from .subject import HELD, House, Options

CUTOFF = "UTC_DATE() - INTERVAL 2 YEAR"
BULK = f"DELETE FROM events WHERE created_at < {CUTOFF}"
BATCH = 10_000
LOOP = f"""DELIMITER //
BEGIN NOT ATOMIC REPEAT
    DELETE FROM events WHERE created_at < {CUTOFF} LIMIT {BATCH};
UNTIL ROW_COUNT() = 0 END REPEAT; END//"""
"""Each statement commits by itself."""


class Server:
    """MariaDB as a production server would write; each turn starts it on a copy of its files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.user = folder / "mariadb", server_user()
        own(self.folder, self.user)
        self.data, self.pristine, self.run = (self.folder / name for name in ("data", "pristine", "run"))
        own(self.run, self.user)
        self.socket = self.run / "socket"
        self.process: Process | None = None
        timed([*as_server(self.user), "mariadb-install-db", "--no-defaults", f"--datadir={self.data}",
               "--skip-test-db", "--auth-root-authentication-method=normal"], cwd="/")

    def start(self) -> None:
        # --no-defaults: the machine's own my.cnf has no say here.
        self.process = Process("mariadb", [
            "mariadbd", "--no-defaults", f"--datadir={self.data}", f"--socket={self.socket}", "--skip-networking",
            f"--pid-file={self.run}/pid", "--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G",
            "--innodb-flush-log-at-trx-commit=1", "--innodb-doublewrite=ON", "--default-time-zone=+00:00",
            # What the one before had in memory would otherwise be read at the start of the next.
            "--innodb-buffer-pool-load-at-startup=OFF", "--innodb-buffer-pool-dump-at-shutdown=OFF",
        ], self.user, self.folder / "log", signal.SIGTERM, self.ready)

    def ready(self) -> bool:
        done = subprocess.run(self.client("mysql", "SELECT 1"), capture_output=True, check=False)
        return done.returncode == 0

    @property
    def pid(self) -> int:
        assert self.process, "it was started"
        return self.process.pid

    def end(self) -> None:
        if self.process:
            self.process.kill()

    def keep(self) -> None:
        """What there is now is what `fresh` brings back."""
        # Everything purged and written: the log is empty, and nobody inherits work.
        self.sql("mysql", "SET GLOBAL innodb_fast_shutdown = 0")
        assert self.process, "it was started"
        self.process.end()
        self.data.rename(self.pristine)

    def fresh(self) -> None:
        self.end()
        shutil.rmtree(self.data, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self.pristine), str(self.data)], check=True)
        subprocess.run(["sync"], check=True)
        self.start()

    def client(self, database: str, statements: str) -> list[str]:
        return ["mariadb", "--no-defaults", f"--socket={self.socket}", "-u", "root", "-N", "-B", "-D", database,
                "-e", statements]

    def sql(self, database: str, statements: str) -> str:
        done = subprocess.run(self.client(database, statements), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"{statements}\n{done.stderr}")
        return done.stdout.strip()

    def log(self) -> int:
        return int(self.sql("mysql", "SHOW GLOBAL STATUS LIKE 'Innodb_lsn_current'").split()[1])

    def archiver(self) -> list[str]:
        """With the options that its manual recommends for many rows."""
        return ["pt-archiver", "--source", f"h=localhost,S={self.socket},D=bench,t=events,u=root,i=PRIMARY",
                "--where", f"created_at < {CUTOFF}", "--purge", "--bulk-delete", "--limit", "1000", "--commit-each",
                "--no-check-charset"]


class MariaDb:
    """The comparison."""

    def __init__(self, folder: Path, options: Options, scale: Scale) -> None:
        self.folder, self.options, self.scale = folder, options, scale
        self.server = Server(folder)

    def end(self) -> None:
        self.server.end()

    def main(self) -> list[Part]:
        """Two fifths of half as many rows as PostgreSQL has are due, scattered."""
        server, rows = self.server, self.scale.rows // 2
        self.build(rows)
        part = Part(f"MariaDB, {rows:,} rows, two fifths due, scattered", "bulk DELETE",
                    {"expunged": "0.9; 2.5 times pt-archiver"})
        house = House(self.folder / "house-mariadb", self.options,
                      {"kind": "mysql", "url": f"mysql://root@localhost/bench?socket={server.socket}"},
                      {"store": "app", "table": "events", "starting_point": "created_at", "retention": "2 years",
                       "subject": "user_id", "action": "delete"})
        server.fresh()
        house.prepare()
        before = self.count()
        contenders = {
            "bulk DELETE": lambda: timed(server.client("bench", BULK), server.pid)[0],
            "usual loop": lambda: timed(server.client("bench", LOOP), server.pid)[0],
            "pt-archiver": lambda: timed(server.archiver(), server.pid)[0],
            "expunged": lambda: house.run(server.pid),
        }
        for number in range(self.scale.rounds):
            for name in order(contenders, number, self.scale.skip):
                server.fresh()
                log = server.log()
                measure = self.measured(contenders[name], log)
                verified(part, name, measure, before, self.count())
        return [part]

    def measured(self, contender, log: int) -> Measure:
        measure = contender()
        measure.log_bytes = self.server.log() - log
        return measure

    def build(self, rows: int) -> None:
        say(f"building {rows:,} rows in MariaDB")
        self.server.start()
        self.server.sql("mysql", "CREATE DATABASE bench CHARACTER SET utf8mb4")
        self.server.sql("bench", f"""
            CREATE TABLE events (id bigint PRIMARY KEY, user_id bigint NOT NULL, created_at datetime NOT NULL,
                email varchar(100), payload varchar(300), INDEX (created_at)) ENGINE = InnoDB;
            INSERT INTO events SELECT seq, 1 + CRC32(CONCAT('user', seq)) % {max(rows // 10, HELD * 10)},
                IF(CRC32(seq) % 5 < 2, UTC_DATE() - INTERVAL 3 YEAR - INTERVAL FLOOR(RAND(1) * 700 * 86400) SECOND,
                   UTC_DATE() - INTERVAL 1 YEAR + INTERVAL FLOOR(RAND(2) * 360 * 86400) SECOND),
                CONCAT('user', seq, '@example.org'), REPEAT(MD5(seq), 6) FROM seq_1_to_{rows};
            ANALYZE TABLE events;""")
        self.server.keep()

    def count(self) -> Rows:
        due, young, held = map(int, self.server.sql("bench", f"""
            SELECT IFNULL(SUM(created_at < {CUTOFF}), 0), IFNULL(SUM(created_at >= {CUTOFF}), 0),
                IFNULL(SUM(created_at < {CUTOFF} AND user_id <= {HELD}), 0) FROM events""").split())
        return Rows(due, young, held)
