"""A real Matrix homeserver: Synapse from PyPI in an environment of its own, on loopback, with SQLite."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.wait import wait_for

WANTED = "matrix-synapse>=1.100"
INSTALL_LIMIT = 240  # seconds; half a minute is usual
SECRET = "for tests only"  # it registers people on a server that lives for seconds

CONFIG = """\
server_name: lab.test
report_stats: false
pid_file: {folder}/pid
signing_key_path: {folder}/signing.key
media_store_path: {folder}/media
listeners:
  - {{port: {port}, bind_addresses: [127.0.0.1], type: http, tls: false, resources: [{{names: [client]}}]}}
database: {{name: sqlite3, args: {{database: {folder}/homeserver.db}}}}
registration_shared_secret: "{secret}"
trusted_key_servers: []
suppress_key_server_warning: true
rc_message: {{per_second: 1000, burst_count: 1000}}
"""


_numbers = count(1)


class NotInstalled(Exception):  # noqa: N818  # it is a reason to leave tests out
    """Synapse cannot be installed here."""


def installed() -> Path:
    """The Python of an environment that has Synapse, made once and kept in the cache of who runs the tests."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "distribute-tests" / f"synapse-py{sys.version_info.major}.{sys.version_info.minor}"
    python, done = folder / "bin" / "python", folder / "installed"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one installs
        if not done.exists():
            env = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
            env |= {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
            # Without a pip of its own: Debian's Python cannot give it one, and ours will do.
            make = [sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)]
            fill = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", WANTED]
            for command in (make, fill):
                try:
                    ran = subprocess.run(
                        command, env=env, capture_output=True, text=True, check=False, timeout=INSTALL_LIMIT
                    )
                except subprocess.TimeoutExpired:
                    raise NotInstalled(f"no end within {INSTALL_LIMIT} s: {' '.join(command)}") from None
                if ran.returncode != 0:
                    raise NotInstalled(ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else str(command))
            done.touch()
    return python


@dataclass
class Person:
    """Somebody with an account there."""

    server: Synapse
    id: str
    token: str
    password: str

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """One request of theirs."""
        return self.server.ask(method, f"/_matrix/client/v3{path}", content, self.token)

    def invitations(self) -> list[str]:
        """The rooms they are invited to."""
        # It answers the same question from memory for two minutes: each of ours is another one.
        only = quote(json.dumps({"room": {"timeline": {"limit": next(_numbers)}}}))
        return list(self.ask("GET", f"/sync?filter={only}").get("rooms", {}).get("invite", {}))

    def messages(self, room: str) -> list[dict[str, Any]]:
        """The content of all messages in a room they have joined, oldest first."""
        chunk = self.ask("GET", f"/rooms/{quote(room)}/messages?dir=f&limit=100")["chunk"]
        return [event["content"] for event in chunk if event["type"] == "m.room.message"]


def _start(folder: Path) -> dict[str, Any]:
    """Start one; its address and process group."""
    python = installed()
    home = Path(tempfile.mkdtemp(dir=folder))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config, log = home / "homeserver.yaml", home / "log"
    config.write_text(CONFIG.format(folder=home, port=port, secret=SECRET))
    start = [str(python), "-m", "synapse.app.homeserver", "-c", str(config)]
    subprocess.run([*start, "--generate-keys"], cwd=home, check=True, capture_output=True, timeout=60)
    with log.open("wb") as said:
        # Tests that are killed end nothing: it is not to stay for ever.
        process = subprocess.Popen(
            ["timeout", "1800", *start], cwd=home, stdout=said, stderr=said, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return True
        except OSError:
            return False

    try:
        wait_for(is_up, "Synapse", 60)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    process.returncode = 0  # it may outlive us: whoever is the last ends it
    return {"url": url, "pid": process.pid}


class Synapse:
    """A homeserver that is there."""

    def __init__(self, url: str) -> None:
        self.url = url

    @classmethod
    @contextmanager
    def shared(cls, folder: Path) -> Iterator[Synapse]:
        """The one in `folder`, for all test processes at once: the first one starts it, the last one ends it."""
        folder.mkdir(parents=True, exist_ok=True)
        lock, state = folder / "lock", folder / "state"

        def change(users: int) -> dict[str, Any]:
            found = json.loads(state.read_text()) if state.exists() else {"users": 0}
            if not found["users"]:
                found |= _start(folder)
            found["users"] += users
            if not found["users"]:
                with suppress(ProcessLookupError):
                    os.killpg(found["pid"], signal.SIGKILL)  # nothing of it is needed again
            state.write_text(json.dumps(found))
            return found

        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            made = cls(change(+1)["url"])
        try:
            yield made
        finally:
            with lock.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                change(-1)

    def ask(self, method: str, path: str, content: Any = None, token: str | None = None) -> Any:
        """One request; AssertionError with what it said where it refuses."""
        data = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, data, headers, method=method), timeout=30
            ) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {error.code} {error.read()!r}") from None

    def register(self, name: str) -> Person:
        """Make an account, as its administrator does with the shared secret."""
        path = "/_synapse/admin/v1/register"
        nonce, password = self.ask("GET", path)["nonce"], f"password of {name}"
        told = "\0".join((nonce, name, password, "notadmin"))
        mac = hmac.new(SECRET.encode(), told.encode(), hashlib.sha1).hexdigest()
        asked = {"nonce": nonce, "username": name, "password": password, "admin": False, "mac": mac}
        made = self.ask("POST", path, asked)
        return Person(self, made["user_id"], made["access_token"], password)
