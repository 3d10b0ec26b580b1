"""A tree of small files: `find -delete`, `rclone delete` and expunged on the same one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from .measure import Part, say, timed
from .rounds import Rows, Scale, order, verified
from .subject import HELD, House, Options

DAY = 86_400
FOLDERS = 1_024


class Files:
    """The comparison."""

    def __init__(self, folder: Path, options: Options, scale: Scale) -> None:
        self.folder, self.options, self.scale = folder / "files", options, scale
        self.folder.mkdir()
        self.root = self.folder / "root"

    def main(self) -> list[Part]:
        """Two fifths of a tenth as many files as PostgreSQL has rows are due."""
        count = self.scale.rows // 10
        part = Part(f"{count:,} files in {FOLDERS} folders, two fifths due", "find -delete", {"expunged": "1.2"})
        house = House(self.folder / "house", self.options, {"kind": "files", "root": str(self.root)},
                      {"store": "app", "path": "*/{user_id}", "subject": "user_id", "retention": "30 days",
                       "action": "delete"})
        self.fresh(count)
        house.prepare()
        before = self.count()
        contenders = {
            "find -delete": lambda: timed(["find", str(self.root), "-type", "f", "-mtime", "+30", "-delete"])[0],
            "rclone delete": lambda: timed(["rclone", "--config", "/dev/null", "delete", "--min-age", "30d",
                                            str(self.root)])[0],
            "expunged": house.run,
        }
        for number in range(self.scale.rounds):
            for name in order(contenders, number, self.scale.skip):
                self.fresh(count)
                verified(part, name, contenders[name](), before, self.count())
        return [part]

    def fresh(self, count: int) -> None:
        """Built anew in the same order: a copy would lie on the disk otherwise than what it is of."""
        say(f"building {count:,} files")
        shutil.rmtree(self.root, ignore_errors=True)
        now = int(time.time())
        for number in range(FOLDERS):
            os.makedirs(self.root / f"{number:03x}")
        for number in range(1, count + 1):
            # Each is of a person of its own, who is named by its name.
            name = f"{self.root}/{number * 40_503 % FOLDERS:03x}/{number}"
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(file, b"x" * 64)
            age = (60 if number * 2_654_435_761 % 2**32 % 5 < 2 else 1) * DAY
            os.utime(file, (now - age, now - age))
            os.close(file)
        subprocess.run(["sync"], check=True)

    def count(self) -> Rows:
        rows, line = Rows(0, 0, 0), time.time() - 30 * DAY
        for folder in os.scandir(self.root):
            for file in os.scandir(folder):
                if file.stat().st_mtime >= line:
                    rows.young += 1
                    continue
                rows.due += 1
                rows.held += int(file.name) <= HELD
        return rows
