"""PostgreSQL: rows that are a fair share of their table, rows that are few, latency meanwhile, partitions, memory."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .measure import Failed, Measure, Part, percentile, say, timed
from .rounds import Rows, Scale, order, verified
from .server import Process, as_server, own, server_user
from .subject import HELD, House, Options

CONF = """
listen_addresses = ''
unix_socket_directories = '{run}'
shared_buffers = 1GB
max_wal_size = 4GB
checkpoint_timeout = 15min
fsync = on
full_page_writes = on
synchronous_commit = on
wal_level = replica
max_connections = 50
timezone = 'UTC'
# One process more that may work at a time it chooses would tell the contenders apart by chance.
autovacuum = off
"""

DUE = "date_trunc('day', now()) - interval '3 years'"
YOUNG = "date_trunc('day', now()) - interval '1 year'"
CUTOFF = "date_trunc('day', now()) - interval '2 years'"
"""What everything that is due is older than; where the line is does not matter, nothing is near it."""

BATCH = 1_000
"""Rows at a time of the usual loop: more of them hold others up for longer than tens of milliseconds."""

BULK = f"DELETE FROM events WHERE created_at < {CUTOFF};"
LOOP = f"""DO $$ BEGIN LOOP
    DELETE FROM events WHERE id IN (
        SELECT id FROM events WHERE created_at < {CUTOFF} ORDER BY created_at LIMIT {BATCH} FOR UPDATE SKIP LOCKED);
    EXIT WHEN NOT FOUND;
    COMMIT;
END LOOP; END $$;"""
BULK_UPDATE = f"UPDATE events SET email = NULL, payload = '', anonymized_at = now() WHERE created_at < {CUTOFF};"

RULE = {"store": "app", "table": "public.events", "starting_point": "created_at", "retention": "2 years",
        "subject": "user_id"}


class Server:
    """PostgreSQL as a production server would write, with nothing that others could disturb."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.user = folder / "postgres", server_user()
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        self.bin = versions[-1]
        own(self.folder, self.user)
        data, self.run = self.folder / "data", self.folder / "run"
        own(self.run, self.user)
        timed([*as_server(self.user), str(self.bin / "initdb"), f"--pgdata={data}", "--username=postgres",
               "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"], cwd="/")
        with open(data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(CONF.format(run=self.run))
        # As root, expunged connects from another account; the folder of the socket lets nobody else in.
        self.process = Process("postgres", [str(self.bin / "postgres"), "-D", str(data)], self.user,
                               self.folder / "log", signal.SIGINT, self.ready)

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready(self) -> bool:
        command = [str(self.bin / "pg_isready"), "-q", "-h", str(self.run)]
        return subprocess.run(command, check=False).returncode == 0

    def end(self) -> None:
        self.process.end()

    def psql(self, database: str, *arguments: str) -> list[str]:
        return [str(self.bin / "psql"), "-h", str(self.run), "-U", "postgres", "-d", database, "-X", "-q", "-A", "-t",
                "-v", "ON_ERROR_STOP=1", *arguments]

    def sql(self, database: str, statements: str) -> str:
        done = subprocess.run(self.psql(database), input=statements, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"{statements}\n{done.stderr}")
        return done.stdout.strip()

    def number(self, database: str, query: str) -> int:
        return int(self.sql(database, query))

    def url(self, database: str) -> str:
        return f"postgres://postgres@localhost/{database}?host={self.run}"

    def fresh(self, template: str) -> None:
        """The database `bench` as an identical copy, all of it on disk."""
        self.sql("postgres", f"DROP DATABASE IF EXISTS bench;\n"
                             f"CREATE DATABASE bench TEMPLATE {template} STRATEGY = FILE_COPY;\nCHECKPOINT;")
        subprocess.run(["sync"], check=True)

    def wal(self) -> int:
        return self.number("postgres", "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")

    def measured(self, measure: Callable[[], Measure]) -> Measure:
        """With what was written to the log meanwhile."""
        before = self.wal()
        measured = measure()
        measured.log_bytes = self.wal() - before
        return measured

    def statement(self, statements: str) -> Measure:
        """One client, one connection."""
        return timed(self.psql("bench", "-c", statements), self.pid)[0]


class Postgres:
    """The comparisons, each a method that yields finished parts."""

    def __init__(self, folder: Path, options: Options, scale: Scale) -> None:
        self.folder, self.options, self.scale = folder, options, scale
        self.rows, self.rounds = scale.rows, scale.rounds
        self.server = Server(folder)

    def end(self) -> None:
        self.server.end()

    # --- a fair share is due ----------------------------------------------------------------------

    def scattered(self) -> list[Part]:
        """Two fifths of the table are due, and lie all over it."""
        return self.share("scattered")

    def clustered(self) -> list[Part]:
        """Two fifths of the table are due, and are its beginning."""
        return self.share("clustered")

    def share(self, order: str) -> list[Part]:
        template = self.table(order, self.rows)
        part = Part(f"PostgreSQL, {self.rows:,} rows, two fifths due, {order}", "bulk DELETE",
                    {"expunged": "1.0; 850 B"})
        house = self.house("main", template)
        for number in range(self.rounds):
            self.turns(part, number, template, {
                "bulk DELETE": lambda: self.server.statement(BULK),
                "usual loop": lambda: self.server.statement(LOOP),
                "expunged": lambda: house.run(self.server.pid),
            })
        self.drop(template)
        return [part]

    def anonymize(self) -> list[Part]:
        """Two columns of the same rows are emptied, and a third says when."""
        template = self.table("scattered", self.rows)
        self.server.sql(template, "ALTER TABLE events ADD COLUMN anonymized_at timestamptz;")
        part = Part(f"PostgreSQL, {self.rows:,} rows, two fifths to be anonymized, scattered", "bulk UPDATE",
                    {"expunged": "1.0"})
        house = self.house("anonymize", template, {"action": "anonymize", "marker": "anonymized_at"},
                           {"email": '"null"', "payload": '{ strategy = "constant", value = "" }'})
        for number in range(self.rounds):
            self.turns(part, number, template, {
                "bulk UPDATE": lambda: self.server.statement(BULK_UPDATE),
                "expunged": lambda: house.run(self.server.pid),
            }, changed="anonymized_at IS NULL")
        self.drop(template)
        return [part]

    # --- latency meanwhile ------------------------------------------------------------------------

    def calm(self) -> list[Part]:
        """What others wait for a write meanwhile: 200 transactions a second, at times that do not depend on answers."""
        template = self.table("scattered", self.rows)
        part = Part(f"PostgreSQL, {self.rows:,} rows, scattered, with 200 foreground writes a second", "bulk DELETE",
                    {"expunged, gentle": "at 0.2 or more, p99 at most 2.5 times idle"})
        contenders = {
            "idle": lambda: self.rest(15 if self.scale.quick else 60),
            "bulk DELETE": lambda: self.server.statement(BULK),
        }
        paces = ("gentle", "balanced", "full")
        known = []
        for pace in paces:
            options = Options(self.options.binary, {**self.options.store, "pace": pace}, self.options.rule)
            house = self.house(f"calm-{pace}", template, options=options)
            if any(line.startswith("pace") for line in house.said["store"]):
                known.append(pace)
                contenders[f"expunged, {pace}"] = lambda house=house: house.run(self.server.pid)
        if not known:
            say("the binary knows no `pace`: it is measured as it is")
            contenders["expunged"] = lambda house=house: house.run(self.server.pid)
        for number in range(self.rounds):
            self.turns(part, number, template, {
                name: lambda name=name, run=run: self.disturbed(run, name) for name, run in contenders.items()
            })
        idle = [measure.more["write p99 ms"] for measure in part.rounds["idle"]]
        for rounds in part.rounds.values():
            for measure, undisturbed in zip(rounds, idle):
                measure.more["times idle"] = measure.more["write p99 ms"] / undisturbed
        self.drop(template)
        return [part]

    @staticmethod
    def rest(seconds: float) -> Measure:
        time.sleep(seconds)
        return Measure(seconds=seconds, cpu=0)

    def disturbed(self, run: Callable[[], Measure], name: str) -> Measure:
        """`run` while others write; pgbench counts from when each transaction should have begun."""
        script = self.server.folder / "foreground.sql"
        script.write_text(
            f"\\set id random(1, {self.rows})\n"
            "BEGIN;\n"
            f"INSERT INTO events SELECT nextval('foreground'), :id, now(), 'new@example.org', repeat('x', 200);\n"
            f"UPDATE events SET email = 'changed@example.org' WHERE id = :id AND created_at >= {YOUNG};\n"
            "COMMIT;\n", encoding="utf-8")
        # The sequence goes on where the copy's keys end.
        self.server.sql("bench", f"CREATE SEQUENCE foreground START {self.rows + 1};\nCHECKPOINT;")
        logs = self.server.folder / "foreground"
        for old in self.server.folder.glob("foreground.[0-9]*"):
            old.unlink()
        bench = subprocess.Popen(
            [str(self.server.bin / "pgbench"), "-h", str(self.server.run), "-U", "postgres", "-n", "-f", str(script),
             "-R", "200", "-c", "8", "-T", "86400", "-l", f"--log-prefix={logs}", "bench"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(3)
            begun = time.time()
            measure = run()
            ended = time.time()
            # It writes its log out in order only when its connections end.
            self.server.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                                        "WHERE application_name = 'pgbench'")
            bench.wait(60)
        finally:
            bench.kill()
            bench.wait()
        waits = []
        for log in self.server.folder.glob("foreground.[0-9]*"):
            for line in log.read_text(encoding="utf-8").splitlines():
                fields = line.split()
                # client, transaction, latency in us, script, seconds, us, lag behind the schedule
                if len(fields) == 7 and fields[2].isdigit() and begun <= int(fields[4]) + int(fields[5]) / 1e6 <= ended:
                    waits.append(int(fields[2]) / 1000)
        if len(waits) < 200 * (ended - begun) * 0.5:
            raise Failed(f"the foreground of {name} did {len(waits)} transactions in {ended - begun:.0f} s")
        measure.more["write p50 ms"] = percentile(waits, 0.5)
        measure.more["write p99 ms"] = percentile(waits, 0.99)
        return measure

    # --- few are due ------------------------------------------------------------------------------

    def few(self) -> list[Part]:
        """Five thousand due rows, scattered over the table and over one ten times larger.

        Each turn has due rows of its own, each older than those of the turns after it, so that one table serves all.
        """
        due = self.rows // 1000
        parts, alone = [], []
        for times in (1, 10):
            rows = self.rows * times
            template = f"few_{times}"
            turns = [(number, name) for number in range(self.rounds) for name in ("usual loop", "expunged")]
            self.few_rows(template, rows, due, len(turns))
            part = Part(f"PostgreSQL, {rows:,} rows, {due:,} due, scattered", "usual loop", {"expunged": "3.0"})
            for turn, (_, name) in enumerate(turns):
                # Turn 0 takes what is older than 40 years, turn 1 what is older than 39.
                years = 40 - turn
                if name == "expunged":
                    house = self.house(f"few-{times}", None, {"retention": f"{years} years"}, database=template)
                    run = lambda house=house: house.run(self.server.pid)
                else:
                    loop = LOOP.replace(CUTOFF, f"now() - interval '{years} years'")
                    run = lambda loop=loop: timed(self.server.psql(template, "-c", loop), self.server.pid)[0]
                cutoff = f"now() - interval '{years} years'"
                before = self.count(template, cutoff=cutoff)
                self.server.sql(template, "CHECKPOINT;")
                measure = self.server.measured(run)
                verified(part, name, measure, before, self.count(template, cutoff=cutoff))
            parts.append(part)
            alone.append(part.rounds["expunged"])
            self.drop(template)
        both = Part(f"PostgreSQL, {due:,} due, a table ten times larger", f"{self.rows:,} rows",
                    {f"{self.rows * 10:,} rows": "0.67 or more: at most 1.5 times as long"})
        both.rounds = {f"{self.rows:,} rows": alone[0], f"{self.rows * 10:,} rows": alone[1]}
        return [*parts, both]

    def few_rows(self, database: str, rows: int, due: int, turns: int) -> None:
        """Due rows of each turn one year younger than those of the one before; all others are young."""
        self.create(database, rows, f"""CASE
            WHEN abs(hashint8extended(i, 1)) % {rows} < {due * turns}
            THEN now() - interval '40 years 6 months' + abs(hashint8extended(i, 2)) % {turns} * interval '1 year'
            ELSE {YOUNG} + random() * interval '360 days' END""")

    # --- partitions -------------------------------------------------------------------------------

    def partitions(self) -> list[Part]:
        """Whole months are due, and a peer drops them."""
        template = "partitioned"
        rows = self.rows
        say(f"building {template}")
        self.server.sql("postgres", f"DROP DATABASE IF EXISTS {template};\nCREATE DATABASE {template};")
        self.server.sql(template, f"""
            CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman;
            CREATE TABLE events (id bigint NOT NULL, user_id bigint NOT NULL, created_at timestamptz NOT NULL,
                email text, payload text) PARTITION BY RANGE (created_at);
            CREATE UNIQUE INDEX ON events (id, created_at);
            CREATE INDEX ON events (created_at);
            SELECT partman.create_parent('public.events', 'created_at', 'native', 'monthly', p_premake := 1,
                p_start_partition := (now() - interval '40 months')::text);
            INSERT INTO events SELECT i, {HELD} + 1 + abs(hashint8(i)::bigint) % {self.users(rows)},
                -- Nothing is in the month in which two years ago lies: a part of it would be due.
                date_trunc('month', now()) - interval '39 months' + i * 38 / {rows} * interval '1 month'
                    + CASE WHEN i * 38 / {rows} = 15 THEN interval '1 month' ELSE '0' END + random() * interval '27 days',
                'user' || i || '@example.org', repeat(md5(i::text), 6) FROM generate_series(1, {rows}) i;
            UPDATE partman.part_config SET retention = '24 months', retention_keep_table = false,
                retention_keep_index = false;""")
        self.server.sql(template, "VACUUM (FREEZE, ANALYZE);")
        part = Part(f"PostgreSQL, {rows:,} rows in months, older than two years go, without a recipient", "pg_partman",
                    {"expunged": "0.9"})
        # Nobody on the hold list has a row, and nobody is told: such a partition cannot go as a whole.
        house = self.house("partitions", template, {"recipients": "none"})
        for number in range(self.rounds):
            self.turns(part, number, template, {
                "pg_partman": lambda: self.server.statement("CALL partman.run_maintenance_proc();"),
                "expunged": lambda: house.run(self.server.pid),
            })
        self.drop(template)
        return [part]

    # --- memory -----------------------------------------------------------------------------------

    def memory(self) -> list[Part]:
        """Twice as many rows, all of them due."""
        rows = self.rows * 2
        template = self.table("all", rows)
        part = Part(f"PostgreSQL, {rows:,} rows, all due", "expunged", {"expunged": "64 MiB"})
        house = self.house("memory", template)
        self.turns(part, 0, template, {"expunged": lambda: house.run(self.server.pid)})
        self.drop(template)
        return [part]

    # --- what they have in common -----------------------------------------------------------------

    @staticmethod
    def users(rows: int) -> int:
        return max(rows // 10, HELD * 10)

    def table(self, order: str, rows: int) -> str:
        """A database to copy, with the table `events`; due rows are scattered over it, lie at its beginning, or are all."""
        name = f"{order}_{rows}"
        due = f"{DUE} - random() * interval '700 days'"
        young = f"{YOUNG} + random() * interval '360 days'"
        self.create(name, rows, {
            "scattered": f"CASE WHEN abs(hashint8extended(i, 1)) % 5 < 2 THEN {due} ELSE {young} END",
            "clustered": f"CASE WHEN i <= {rows} * 2 / 5 THEN {DUE} - interval '700 days' * (1 - i / ({rows} * 0.4)) "
                         f"ELSE {YOUNG} + interval '360 days' * (i - {rows} * 0.4) / ({rows} * 0.6) END",
            "all": due,
        }[order])
        return name

    def create(self, name: str, rows: int, created_at: str) -> None:
        say(f"building {name}")
        self.server.sql("postgres", f"DROP DATABASE IF EXISTS {name};\nCREATE DATABASE {name};")
        self.server.sql(name, f"""
            CREATE TABLE events (id bigint NOT NULL, user_id bigint NOT NULL, created_at timestamptz NOT NULL, email text,
                payload text);
            SELECT setseed(0.5);
            INSERT INTO events SELECT i, 1 + abs(hashint8(i)::bigint) % {self.users(rows)}, {created_at},
                'user' || i || '@example.org', repeat(md5(i::text), 6) FROM generate_series(1, {rows}) i;
            ALTER TABLE events ADD PRIMARY KEY (id);
            CREATE INDEX ON events (created_at);""")
        # Whoever comes first would otherwise pay for what building the table has left to do.
        self.server.sql(name, "VACUUM (FREEZE, ANALYZE);")

    def drop(self, template: str) -> None:
        self.server.sql("postgres", f"DROP DATABASE IF EXISTS bench;\nDROP DATABASE {template};")

    def house(self, name: str, template: str | None, rule: dict | None = None, columns: dict | None = None,
              database: str = "bench", options: Options | None = None) -> House:
        if template:
            self.server.fresh(template)
        house = House(self.folder / f"house-{name}", options or self.options,
                      {"kind": "postgres", "url": self.server.url(database)},
                      {**RULE, "action": "delete", **(rule or {})}, columns)
        house.prepare()
        return house

    def turns(self, part: Part, number: int, template: str, contenders: dict[str, Callable[[], Measure]],
              changed: str = "true") -> None:
        """One round: each contender on a copy of its own; then what is left is counted."""
        for name in order(contenders, number, self.scale.skip):
            self.server.fresh(template)
            before = self.count(template, changed)
            measure = self.server.measured(contenders[name])
            if name == "idle":
                part.add(name, measure)
            else:
                verified(part, name, measure, before, self.count("bench", changed))

    def count(self, database: str, condition: str = "true", cutoff: str = CUTOFF) -> Rows:
        """Rows that are due, not counting those which the condition says are done; what the foreground wrote is none."""
        counted = self.server.sql(database, f"""
            SELECT count(*) FILTER (WHERE due), count(*) FILTER (WHERE NOT due), count(*) FILTER (WHERE due AND user_id <= {HELD})
            FROM (SELECT user_id, created_at < {cutoff} AS due FROM events
                  WHERE email IS DISTINCT FROM 'new@example.org' AND (created_at >= {cutoff} OR {condition})) AS all_rows""")
        return Rows(*map(int, counted.split("|")))
