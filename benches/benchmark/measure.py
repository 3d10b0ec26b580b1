"""One measurement, and tables of them: pure but for `timed`, which runs a command and watches it."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Measure:
    """What one contender took in one round."""

    seconds: float
    """Wall clock of the whole command, its start and end included."""
    cpu: float
    """CPU seconds of the command itself."""
    server_cpu: float = 0.0
    """CPU seconds of the server meanwhile."""
    peak_mib: float = 0.0
    """Largest resident memory of the command."""
    rows: int = 0
    """Records that are gone, or were changed."""
    log_bytes: float = 0.0
    """What the store wrote to its log: WAL, redo."""
    more: dict = field(default_factory=dict)
    """Whatever else a part has to say, by name."""

    @property
    def log_per_row(self) -> float:
        return self.log_bytes / self.rows if self.rows else float("nan")


class Failed(Exception):
    """The benchmark cannot go on: what failed, and what it said."""


def timed(command: list[str], server: int | None = None, **options) -> tuple[Measure, str]:
    """Runs a command to its end; `server` is the process whose family's CPU time counts, too."""
    before = family_cpu(server)
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    # What it prints is short: neither pipe can fill up.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    out, err = process.communicate()
    if process.returncode != 0:
        raise Failed(f"{' '.join(command)[:300]}\nended with {process.returncode}:\n{out[-2000:]}{err[-4000:]}")
    measure = Measure(
        seconds=seconds,
        cpu=usage.ru_utime + usage.ru_stime,
        server_cpu=family_cpu(server) - before,
        peak_mib=usage.ru_maxrss / 1024,
    )
    return measure, out


def family_cpu(process: int | None) -> float:
    """CPU seconds of a process, of its children, and of those that have ended: a server's, over all of its backends."""
    if process is None:
        return 0.0
    total = 0.0
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as stat:
            # The name, in parentheses, may hold blanks; utime, stime, cutime and cstime are fields 14 to 17.
            fields = stat.read().rpartition(")")[2].split()
        total = sum(int(ticks) for ticks in fields[11:15]) / TICKS
        children = []
        for task in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{task}/children", encoding="utf-8") as listed:
                children += listed.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return total
    return total + sum(family_cpu(int(child)) for child in children)


def say(text: str) -> None:
    """To whoever waits; the tables alone go to standard output."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


class Part:
    """The rounds of one comparison: the same rows for every contender, who take turns."""

    def __init__(self, title: str, against: str, goals: dict[str, str] | None = None) -> None:
        self.title = title
        self.against = against
        self.goals = goals or {}
        self.rounds: dict[str, list[Measure]] = {}

    def add(self, contender: str, measure: Measure) -> None:
        self.rounds.setdefault(contender, []).append(measure)
        more = "".join(f", {name} {value:.2f}" for name, value in measure.more.items())
        say(
            f"{self.title}: {contender}: {measure.seconds:.2f} s, {measure.rows:,} records, CPU {measure.cpu:.1f} s "
            f"and the server's {measure.server_cpu:.1f} s, {measure.peak_mib:.0f} MiB, log {measure.log_per_row:.0f} B/row{more}"
        )

    def ratios(self, contender: str, against: str) -> tuple[float, float, float]:
        """How fast one is against another: of medians, and the least and most of any round."""

        def rate(measure: Measure) -> float:
            return measure.rows / measure.seconds

        ours, theirs = self.rounds[contender], self.rounds.get(against, [])
        if not theirs or not ours[0].rows:
            nan = float("nan")
            return nan, nan, nan
        of_medians = statistics.median(map(rate, ours)) / statistics.median(map(rate, theirs))
        each = [rate(one) / rate(other) for one, other in zip(ours, theirs)]
        return of_medians, min(each), max(each)

    def table(self) -> str:
        """As Markdown."""
        extra = list(dict.fromkeys(
            name for rounds in self.rounds.values() for measure in rounds for name in measure.more))
        head = ["contender", "records/s", f"ratio to {self.against}", "from - to", "log B/row", "memory MiB",
                "CPU s", "server's CPU s", *extra, "goal"]
        lines = []
        for contender, rounds in self.rounds.items():
            ratio, least, most = self.ratios(contender, self.against)

            def median(value, rounds=rounds):
                return statistics.median(map(value, rounds))

            lines.append([
                contender,
                number(median(lambda m: m.rows / m.seconds or float("nan")), 0),
                number(ratio),
                f"{number(least)} - {number(most)}".strip(" -"),
                number(median(lambda m: m.log_per_row), 0),
                f"{max(m.peak_mib for m in rounds):.0f}",
                f"{median(lambda m: m.cpu):.1f}",
                f"{median(lambda m: m.server_cpu):.1f}",
                *[number(median(lambda m, name=name: m.more.get(name, float("nan")))) for name in extra],
                self.goals.get(contender, ""),
            ])
        return f"\n### {self.title}\n\n{markdown(head, lines)}\n"

    def summary(self) -> list[list[str]]:
        """What is quoted: expunged against each of the others, a line for each."""
        lines = []
        for ours in (name for name in self.rounds if name.startswith("expunged")):
            others = [name for name in self.rounds if not name.startswith("expunged") and name != "idle"] or [ours]
            for other in others:
                ratio, least, most = self.ratios(ours, other)
                measures = self.rounds[ours]
                p99 = [measure.more["times idle"] for measure in measures if "times idle" in measure.more]
                lines.append([
                    f"{self.title}: {ours}",
                    "" if other == ours else f"{number(ratio)} of {other} ({number(least)} - {number(most)})",
                    number(statistics.median(measure.log_per_row for measure in measures), 0),
                    f"{max(measure.peak_mib for measure in measures):.0f}",
                    number(statistics.median(p99), 1) if p99 else "",
                    self.goals.get(ours, "") if other == others[0] else "",
                ])
        return lines

    def data(self) -> dict:
        """Every measurement."""
        rounds = {name: [asdict(measure) for measure in rounds] for name, rounds in self.rounds.items()}
        return {"title": self.title, "against": self.against, "rounds": rounds}


def summary(parts: list[Part]) -> str:
    """One table of all."""
    head = ["what", "rows a second", "log B/row", "memory MiB", "write p99, times idle", "goal"]
    return f"\n### Summary\n\n{markdown(head, [line for part in parts for line in part.summary()])}\n"


def number(value: float, digits: int = 2) -> str:
    """For a cell; nothing where there is no number."""
    return "" if math.isnan(value) else f"{value:,.{digits}f}"


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table whose columns line up."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def row(cells: list[str]) -> str:
        first, *others = cells
        padded = [first.ljust(widths[0]), *[cell.rjust(width) for cell, width in zip(others, widths[1:])]]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([row(head), rule, *map(row, lines)])
