"""What a message goes out through: Matrix, or what the `apprise` library knows (mail, Slack, ntfy, webhooks)."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from distribute_ssh.errors import NotifyError
from distribute_ssh.model.names import is_matrix_id
from distribute_ssh.model.notify import Notify
from distribute_ssh.notices.matrix import Credentials, Matrix, credentials, secret
from distribute_ssh.views.notice import Words


class Channel(Protocol):
    """A way to tell somebody something. Blocking; raises NotifyError where the message was not taken."""

    def send(self, recipient: str, words: Words, key: str) -> None:
        """Tell it. The same `key` again is the same message, where the channel can see to that."""


class Channels:
    """The channels of a head, by recipient, as its config file says. Secrets are read anew for every message."""

    def __init__(self, notify: Notify, config_file: Path, env: Mapping[str, str]) -> None:
        self.notify = notify
        self._config_file = config_file
        self._env = env
        self._matrix: tuple[Credentials, Matrix] | None = None

    def channel(self, recipient: str) -> Channel:
        """Through what a recipient is told. Raises NotifyError where there is nothing of that name."""
        if is_matrix_id(recipient):
            if self.notify.matrix is None:
                raise NotifyError("this head has no Matrix account", hint=f"`notify: matrix:` in {self._config_file}")
            found = credentials(self.notify.matrix, self._env)
            if self._matrix is None or self._matrix[0] != found:
                self._matrix = found, Matrix(found)  # kept otherwise: it may have logged in
            return self._matrix[1]
        if recipient not in self.notify.channels:
            raise NotifyError(
                f"this head has no channel called {recipient}", hint=f"`notify: channels:` in {self._config_file}"
            )
        secret(self._config_file)  # refused where others can read it: most URLs hold a password
        return Apprise(recipient, self.notify.channels[recipient])


class Apprise:
    """A URL that apprise understands. It cannot tell a second try from a second message."""

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._url = url

    def send(self, recipient: str, words: Words, key: str) -> None:  # noqa: ARG002  # as Channel says
        """Hand it to apprise, and make an error of what it logs."""
        try:
            import apprise
        except ImportError:
            hint = "pip install 'distribute-ssh[notify]'"
            raise NotifyError("channels other than Matrix need the apprise library", hint=hint) from None
        # What they log of a request may hold the whole URL.
        for name in ("apprise", "urllib3"):
            logging.getLogger(name).setLevel(logging.WARNING)
            logging.getLogger(name).propagate = False
        to = apprise.Apprise.instantiate(self._url)
        if to is None:
            raise NotifyError(f"apprise does not understand the URL of the channel {self._name}")
        heard = _Heard()
        logging.getLogger("apprise").addHandler(heard)
        try:
            # Its own way to several services at once has threads that are waited for at the end of the program.
            taken = to.notify(body=words.body, title=words.title, body_format=apprise.NotifyFormat.TEXT)
        except Exception as error:  # more than a hundred plugins of others: none of them may stop the coordinator
            raise NotifyError(f"{self._name}: {_hidden(repr(error), self._url)}") from None
        finally:
            logging.getLogger("apprise").removeHandler(heard)
        if not taken:
            said = _hidden("; ".join(heard.lines), self._url) or "it was not taken, and nobody said why"
            raise NotifyError(f"{self._name}: {said}")


class _Heard(logging.Handler):
    """What is logged by the thread that made this."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage()[:200])


def _hidden(text: str, url: str) -> str:
    """The text without any longer part of the URL: which of them is the password, only the service knows."""
    parts = sorted({part for part in re.split(r"[^\w.-]+", url) if len(part) > 5}, key=len, reverse=True)
    for part in parts:
        text = text.replace(part, "***")
    return text
