"""Arguments in, tables out."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .files import Files
from .mariadb import MariaDb
from .measure import Failed, Part, say, summary
from .postgres import Postgres
from .rounds import Scale
from .sqlite import Sqlite
from .subject import Options

OF_POSTGRES = {"scattered": Postgres.scattered, "clustered": Postgres.clustered, "calm": Postgres.calm, "few": Postgres.few, "anonymize": Postgres.anonymize,
               "partitions": Postgres.partitions, "memory": Postgres.memory}
PARTS = [*OF_POSTGRES, "mariadb", "sqlite", "files"]


def main() -> None:
    arguments = parse()
    binary = arguments.binary.resolve()
    if not binary.exists():
        say("building expunged")
        subprocess.run(["cargo", "build", "--release", "--locked"], check=True)
    store = {"workers": arguments.workers, "pace": arguments.pace}
    options = Options(binary, store, dict(pair.split("=", 1) for pair in arguments.set), arguments.at_once)
    # SIGTERM takes the way of Ctrl-C, which takes everything away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="expunged-bench-", dir=arguments.folder))
    folder.chmod(0o711)
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}", flush=True)
    parts: list[Part] = []
    try:
        measure(arguments, options, folder, parts)
        print(summary(parts))
    except KeyboardInterrupt:
        sys.exit(130)
    except Failed as failed:
        sys.exit(f"benches/run: {failed}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if arguments.json:
            arguments.json.write_text(json.dumps([part.data() for part in parts], indent=1), encoding="utf-8")


def measure(arguments: argparse.Namespace, options: Options, folder: Path, parts: list[Part]) -> None:
    """Prints each table as it is there: a whole run takes hours."""

    def show(done: list[Part]) -> None:
        parts.extend(done)
        for part in done:
            print(part.table(), flush=True)

    scale = Scale(arguments.rows, arguments.rounds, arguments.quick, frozenset(arguments.skip))
    wanted = [name for name in OF_POSTGRES if name in arguments.only]
    if wanted:
        postgres = Postgres(folder, options, scale)
        try:
            for name in wanted:
                show(OF_POSTGRES[name](postgres))
        finally:
            postgres.end()
        shutil.rmtree(folder / "postgres")
    if "mariadb" in arguments.only:
        mariadb = MariaDb(folder, options, scale)
        try:
            show(mariadb.main())
        finally:
            mariadb.end()
        shutil.rmtree(folder / "mariadb")
    if "sqlite" in arguments.only:
        show(Sqlite(folder, options, scale).main())
        shutil.rmtree(folder / "sqlite")
    if "files" in arguments.only:
        show(Files(folder, options, scale).main())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/run", description="Measures the main job; see benches/run --help.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS), type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--binary", type=Path, default=Path("target/release/expunged"))
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=1000)
    parser.add_argument("--pace", default="full")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--skip", action="append", default=[], metavar="CONTENDER")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if "postgres" in arguments.only:
        arguments.only += ["scattered", "clustered"]
        arguments.only.remove("postgres")
    for name in arguments.only:
        if name not in PARTS:
            parser.error(f"there is no part {name!r}: the parts are {', '.join(PARTS)}")
    arguments.rows = arguments.rows or (200_000 if arguments.quick else 5_000_000)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    return arguments


def machine() -> str:
    """What ratios are quoted with."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}"


main()
