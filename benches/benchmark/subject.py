"""The program under test: the release binary with a configuration of its own, as an operator would run it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from .measure import Failed, Measure, timed

HELD = 1_000
"""Persons on the hold list."""


@dataclass
class Options:
    """How expunged is told to work; a key that the binary does not know is left out."""

    binary: Path
    store: dict[str, str] = field(default_factory=dict)
    rule: dict[str, str] = field(default_factory=dict)
    at_once: int = 1000


def toml(value) -> str:
    """One value; what JSON and TOML write alike."""
    return json.dumps(value)


class House:
    """A configuration with its ledger and keys, made ready once, and copied for each turn.

    Ready means: the hold list is in force, and the first run, which always waits, is approved.
    """

    def __init__(self, folder: Path, options: Options, store: dict, rule: dict, columns: dict | None = None) -> None:
        self.folder, self.options = folder, options
        self.ready = folder.with_name(folder.name + ".ready")
        self.store, self.rule, self.columns = store, rule, columns or {}
        self.said: dict[str, list[str]] = {}

    def prepare(self) -> None:
        """Once the store holds what is to be taken."""
        for folder in (self.folder, self.ready):
            shutil.rmtree(folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.settle_configuration()
        held = self.folder / "held"
        held.write_text("".join(f"{subject}\n" for subject in range(1, HELD + 1)), encoding="utf-8")
        self.call("hold", "place", "--subjects-from", str(held), "--authority", "Benchmark", "--reference", "1",
                  "--broad", "a benchmark")
        # The first run of a rule waits.
        waits = subprocess.run(self.command("run", "--json"), capture_output=True, text=True, check=False)
        if '"waiting"' not in waits.stdout:
            raise Failed(f"the first run did not wait: {waits.stdout}{waits.stderr}")
        self.call("approve", "old", "--why", "a benchmark")
        shutil.copytree(self.folder, self.ready)

    def run(self, server: int | None = None) -> Measure:
        """One run from the same beginning each time."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.ready, self.folder)
        measure, out = timed(self.command("run", "--json"), server)
        [result] = json.loads(out)
        if result["state"] != "done":
            raise Failed(f"expunged run: {result}")
        measure.rows = result["records"]
        size = sum(path.stat().st_size for path in self.folder.glob("ledger.db*"))
        measure.more = {
            "in the run s": result["seconds"],
            "batches": result["batches"],
            "ledger B/row": (size - self.size(self.ready)) / max(measure.rows, 1),
        }
        return measure

    @staticmethod
    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.glob("ledger.db*"))

    def settle_configuration(self) -> None:
        """Leaves out the keys that this binary does not know, and says which."""
        store, rule = dict(self.options.store), dict(self.options.rule)
        self.write(store, rule)
        checked = subprocess.run(self.command("check", "--quiet"), capture_output=True, text=True, check=False)
        for keys in (store, rule):
            for key in list(keys):
                # That there is none, or that this kind of store has none.
                if f"`{key}`" in checked.stderr:
                    del keys[key]
        self.write(store, rule)
        self.said = {"store": [f"{key} = {toml(value)}" for key, value in store.items()],
                     "rule": [f"{key} = {toml(value)}" for key, value in rule.items()]}
        self.call("check", "--quiet")

    def write(self, store: dict, rule: dict) -> None:
        lines = ['[ledger]', 'url = "sqlite://ledger.db"', '[api]', 'enabled = false', '[breakers]',
                 'max_share = "100 %"', 'max_rows = 1_000_000_000', '[recipient.partner]', 'protocol = "command"',
                 'program = "/bin/true"', f'at_once = {self.options.at_once}', '[store.app]']
        lines += [f"{key} = {toml(value)}" for key, value in {**self.store, **store}.items()]
        lines += ['[rule.old]', 'mode = "enforce"', 'basis = "a benchmark"']
        whole = {"recipients": ["partner"], **self.rule, **rule}
        lines += [f"{key} = {toml(value)}" for key, value in whole.items()]
        if self.columns:
            lines += ['[rule.old.columns]']
            lines += [f"{key} = {value}" for key, value in self.columns.items()]
        (self.folder / "expunged.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        return [str(self.options.binary), "--config", str(self.folder / "expunged.toml"), *arguments]

    def call(self, *arguments: str) -> str:
        return timed(self.command(*arguments))[1]
