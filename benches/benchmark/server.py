"""Throwaway servers: started as an ordinary user, ended in order, killed by the kernel should this process die."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .measure import Failed


def as_server(user: str) -> list[str]:
    """What a command is prefixed with to run as the servers' user: they refuse to run as root."""
    if os.geteuid() != 0:
        return []
    group = pwd.getpwnam(user).pw_gid
    return ["setpriv", "--reuid", user, "--regid", str(group), "--init-groups", "--"]


def server_user() -> str:
    """Whoever runs this, or the user that Debian's PostgreSQL brings along, or nobody."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def own(folder: Path, user: str) -> None:
    """Makes a folder of the servers' user."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    folder.chmod(0o700)


class Process:
    """A server that runs."""

    def __init__(self, name: str, command: list[str], user: str, log: Path, stop: signal.Signals,
                 ready: Callable[[], bool]) -> None:
        self.name, self.stop = name, stop
        with open(log, "ab") as out:
            # In a session of its own: Ctrl-C ends this program first, and that the server.
            prefix = ["setpriv", "--pdeathsig", stop.name.removeprefix("SIG"), *as_server(user)[1:]] \
                if as_server(user) else ["setpriv", "--pdeathsig", stop.name.removeprefix("SIG"), "--"]
            self.process = subprocess.Popen([*prefix, *command], stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                                            start_new_session=True, cwd="/")
        give_up = time.monotonic() + 60
        while not ready():
            if self.process.poll() is not None or time.monotonic() > give_up:
                self.end()
                raise Failed(f"{name} did not start; the end of its log:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> None:
        """In order, or else at once."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop)
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def kill(self) -> None:
        """For data that nobody will want to read again."""
        self.process.kill()
        self.process.wait()
