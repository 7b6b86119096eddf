"""A head with real keys, and laptops that have nothing else: each a home of its own, and one key."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from distribute_ssh.cli.app import App
from distribute_ssh.cli.gateway import site_of
from distribute_ssh.head.frames import Decoder, Frame, encode, hello, pieces
from distribute_ssh.head.gateway import Wire, serve
from distribute_ssh.head.offer import dumped
from distribute_ssh.model.actor import Actor, Role
from distribute_ssh.model.settings import Places
from tests.endtoend.site import Command, Site
from tests.support.lab import Lab
from tests.support.sshd import Sshd, host_block, make_key, public
from tests.support.wait import wait_for


@dataclass
class Head:
    """A head, its sshd, and everybody's laptops. `site` is what one sees who is logged in there."""

    folder: Path
    lab: Lab
    site: Site
    config: tuple[str, ...] = ()  # lines for its sshd
    sshd: Sshd = field(init=False)
    laptops: list[Site] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sshd = self.lab.add("head", self.config).sshd  # the lab's own key is that of whoever owns the account
        self.room = self.site.local("here", slots=2)

    @property
    def authorized_keys(self) -> Path:
        """The file that sshd reads."""
        return self.sshd.folder / "authorized_keys"

    def user(self, name: str, *options: str) -> Path:
        """Let somebody in; the private key."""
        key = self.folder / f"id_{name}"
        if not key.exists():
            make_key(key)
        public = key.with_name(key.name + ".pub")
        self.site.do("users", "add", name, public, *options, "--authorized-keys", self.authorized_keys)
        known = self.lab.known_hosts
        self.lab.block(f"head-{name}", host_block(f"head-{name}", self.sshd.port, key, known))
        return key

    def laptop(self, name: str, alias: str | None = None) -> Site:
        """The laptop of somebody who has been let in; `alias`: another name of ssh for the head."""
        number = len(self.laptops)
        public = self.folder / f"public-{number}"
        public.mkdir()
        made = Site(self.folder / f"laptop-{number}-{name}", self.lab, public)
        made.env.pop("DISTRIBUTE_INVENTORY")
        made.env |= {
            "DISTRIBUTE_HEAD": alias or f"head-{name}",
            "DISTRIBUTE_SSH_CONFIG": str(self.lab.ssh_config),
            "USER": f"{name}-at-home",  # nobody on the head should ever see this
        }
        self.laptops.append(made)
        return made

    def ssh(
        self, name: str, *arguments: str, stdin: bytes = b"", limit: float = 30
    ) -> subprocess.CompletedProcess[bytes]:
        """What OpenSSH's own client gets with somebody's key; `arguments` go before the name of the machine."""
        *options, command = arguments if arguments else ("",)
        words = ["--", command] if command else []
        argv = ["ssh", "-F", str(self.lab.ssh_config), *options, f"head-{name}", *words]
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=limit, check=False)

    def talk(self, name: str, *said: bytes, does: str = "command", hangs_up: bool = False) -> list[Frame]:
        """What the gateway answers to somebody who speaks its language, until it hangs up, or they do."""
        argv = ["ssh", "-F", str(self.lab.ssh_config), f"head-{name}", "distribute gateway"]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            with contextlib.suppress(BrokenPipeError):  # it has heard enough
                process.stdin.write(hello(does=does) + b"".join(said))
                process.stdin.flush()
                if hangs_up:
                    process.stdin.close()
            answered = process.stdout.read()
            assert b"Traceback" not in (printed := process.stderr.read()), printed.decode()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        return answers(answered)

    def run(self, name: str, *argv: str) -> list[Frame]:
        """What the gateway answers to a command."""
        return self.talk(name, run_frame(*argv))

    def close(self) -> None:
        """End what is left."""
        for laptop in self.laptops:
            laptop.close()


def pretend(head: Head, name: str, command: str) -> Site:
    """A laptop whose key starts something else on the head."""
    key = make_key(head.folder / f"id_{name}")
    with head.authorized_keys.open("a") as file:
        file.write(f'restrict,command="{command}" {public(key)} {name}\n')
    head.lab.block(f"head-{name}", host_block(f"head-{name}", head.sshd.port, key, head.lab.known_hosts))
    return head.laptop(name)


def run_frame(*argv: str) -> bytes:
    """A command, as somebody asks for it who has no terminal."""
    return encode("run", argv=list(argv), columns=80, rows=24, term="dumb")


def offer_frames(source: str, files: list[list[object]], *, path: str = "/home/ana/jobs.yaml") -> list[bytes]:
    """A batch, as somebody offers it who says of its files what they like: [path, sha256, size, kind, executable]."""
    said = [encode("offer", path=path, fresh=False, replace=False), *pieces("source", source.encode())]
    return [*said, *pieces("files", dumped(files))]


def answers(data: bytes) -> list[Frame]:
    """The frames in what a gateway printed."""
    _, begin, rest = data.partition(b'{"is": "hello"')
    return list(Decoder().feed(begin + rest))


def output(said: list[Frame], kind: str = "out") -> str:
    """What a command printed."""
    return b"".join(frame.data for frame in said if frame.kind == kind).decode()


def error_of(said: list[Frame]) -> dict[str, str]:
    """The error that ended a conversation."""
    assert said, "it said nothing"
    assert said[-1].kind == "error", said
    found: dict[str, str] = said[-1].fields["error"]
    return found


def cut(command: Command) -> None:
    """Close the lid: the process is gone at once, and so is its line."""
    os.kill(command.pid, signal.SIGKILL)
    command.process.wait()


def inside(head: Head, user: str, *said: bytes, does: str = "command") -> list[Frame]:
    """The same conversation as `Head.talk`, with the gateway in this process: a hundred of them take seconds."""
    to_gateway, from_gateway = os.pipe(), os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), open(to_gateway[1], "wb") as file:
            file.write(hello(does=does) + b"".join(said))

    def answer() -> None:
        app = App()
        try:
            app.actor = Actor(Role.SUBMITTER, user)
            app.places = replace(Places.of(head.site.env, Path(head.site.env["HOME"])), state=head.site.state)
            app.inventory = Path(head.site.env["DISTRIBUTE_INVENTORY"])
            serve(Wire(to_gateway[0], from_gateway[1]), site_of(app, app.actor))
        finally:
            app.close()
            os.close(to_gateway[0])
            os.close(from_gateway[1])

    threads = [threading.Thread(target=each) for each in (feed, answer)]
    for thread in threads:
        thread.start()
    with open(from_gateway[0], "rb") as file:
        told = file.read()
    for thread in threads:
        thread.join()
    return answers(told)


class Screen:
    """A command on a terminal of its own."""

    def __init__(self, laptop: Site, *arguments: str | Path, columns: int = 80) -> None:
        self.fd, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distribute_ssh", *map(str, arguments)],
            env={**laptop.env, "TERM": "xterm-256color", "COLUMNS": str(columns)}, cwd=laptop.folder,
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        os.set_blocking(self.fd, False)
        self.shown = ""

    def read(self) -> str:
        """All that was shown so far."""
        try:
            while data := os.read(self.fd, 1 << 16):
                self.shown += data.decode(errors="replace")
        except OSError:
            pass
        return self.shown

    def wait(self, text: str) -> None:
        """Wait until that is shown."""
        wait_for(lambda: text in self.read(), f"{text!r} on the screen of {self.process.args!r}: {self.shown}")

    def end(self) -> int:
        """Wait for its end; the exit code."""
        wait_for(lambda: self.read() is None or self.process.poll() is not None, "it ends")
        self.read()
        os.close(self.fd)
        return self.process.wait()
