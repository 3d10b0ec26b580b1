"""SQLite, whose deleted content is overwritten (`secure_delete`): one statement, the usual loop, expunged."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from .measure import Measure, Part, say, timed
from .rounds import Rows, Scale, order, verified
from .subject import HELD, House, Options

CUTOFF = "date('now', '-2 years')"
BATCH = 10_000
LOOP = f"""
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("PRAGMA secure_delete = ON")
while file.execute("DELETE FROM events WHERE rowid IN (SELECT rowid FROM events "
                   "WHERE created_at < {CUTOFF} ORDER BY created_at LIMIT {BATCH})").rowcount: pass
"""


def measured(wal: Path, contender: Callable[[], Measure]) -> Measure:
    """With the most that the log held meanwhile: whoever closes last folds it in and removes it."""
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.02):
            if wal.exists():
                try:
                    most = max(most, wal.stat().st_size)
                except FileNotFoundError:
                    pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        measure = contender()
    finally:
        over.set()
        watcher.join()
    measure.log_bytes = most
    return measure


class Sqlite:
    """The comparison."""

    def __init__(self, folder: Path, options: Options, scale: Scale) -> None:
        self.folder, self.options, self.scale = folder / "sqlite", options, scale
        self.folder.mkdir()
        self.file, self.pristine = self.folder / "bench.db", self.folder / "pristine.db"

    def main(self) -> list[Part]:
        """Two fifths of two fifths as many rows as PostgreSQL has are due, scattered."""
        rows = self.scale.rows * 2 // 5
        self.build(rows)
        part = Part(f"SQLite, {rows:,} rows, two fifths due, scattered; log at its largest", "bulk DELETE",
                    {"expunged": "0.9"})
        house = House(self.folder / "house", self.options, {"kind": "sqlite", "url": f"sqlite://{self.file}"},
                      {"store": "app", "table": "events", "starting_point": "created_at", "retention": "2 years",
                       "subject": "user_id", "action": "delete"})
        self.fresh()
        house.prepare()
        before = self.count()
        bulk = f"PRAGMA secure_delete = ON; DELETE FROM events WHERE created_at < {CUTOFF};"
        contenders = {
            "bulk DELETE": lambda: timed(["sqlite3", "-batch", str(self.file), bulk])[0],
            "usual loop": lambda: timed([sys.executable, "-c", LOOP, str(self.file)])[0],
            "expunged": house.run,
        }
        for number in range(self.scale.rounds):
            for name in order(contenders, number, self.scale.skip):
                self.fresh()
                measure = measured(self.folder / "bench.db-wal", contenders[name])
                verified(part, name, measure, before, self.count())
        return [part]

    def build(self, rows: int) -> None:
        say(f"building {rows:,} rows in SQLite")
        with closing(sqlite3.connect(self.pristine)) as file:
            file.executescript(f"""
                PRAGMA journal_mode = WAL;
                CREATE TABLE events (id integer PRIMARY KEY, user_id integer NOT NULL, created_at text NOT NULL, email text,
                    payload text);
                WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {rows})
                INSERT INTO events SELECT i, 1 + i * 2654435761 % 4294967296 % {max(rows // 10, HELD * 10)},
                    CASE WHEN (i * 2654435761 % 4294967296 >> 7) % 5 < 2
                        THEN datetime('now', '-3 years', '-' || abs(random() % 60000000) || ' seconds')
                        ELSE datetime('now', '-1 year', '+' || abs(random() % 31000000) || ' seconds') END,
                    'user' || i || '@example.org', printf('%.200c', 'x') FROM s;
                CREATE INDEX events_created_at ON events (created_at);
                ANALYZE;""")

    def fresh(self) -> None:
        for left in self.folder.glob("bench.db*"):
            left.unlink()
        shutil.copy(self.pristine, self.file)
        subprocess.run(["sync"], check=True)

    def count(self) -> Rows:
        with closing(sqlite3.connect(self.file)) as file:
            return Rows(*file.execute(f"""SELECT count(*) FILTER (WHERE created_at < {CUTOFF}),
                count(*) FILTER (WHERE created_at >= {CUTOFF}),
                count(*) FILTER (WHERE created_at < {CUTOFF} AND user_id <= {HELD}) FROM events""").fetchone())
