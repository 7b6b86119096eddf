"""A Matrix homeserver, by its client-server API: the token, the room, and one message in it.

Blocking, on the standard library: a message now and then needs no more. Nothing the server says is trusted beyond what
it is asked for, and where it wants us to ask somebody else (a redirect), we do not: the token would go along.
"""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import os
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from distribute_ssh.errors import NotifyError
from distribute_ssh.model.names import is_matrix_id
from distribute_ssh.model.notify import MatrixAccount, homeserver_url
from distribute_ssh.views.notice import Words

TOKEN = "DISTRIBUTE_MATRIX_TOKEN"
"""The variable that may hold the token, in place of a file."""

ANSWER = 20.0  # seconds a homeserver has for each answer
_MOST = 1 << 20  # bytes of an answer that are read
_DEVICE = "distribute"  # always the same, or each login with a password would leave a device behind
_API = "/_matrix/client/v3"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What opens an account: a token, or the password with which one is asked for."""

    homeserver: str
    account: str
    room: str | None = None
    token: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    user: str | None = None  # as who the password logs in


def credentials(account: MatrixAccount | Path, env: Mapping[str, str]) -> Credentials:
    """Find the secret of an account. Raises NotifyError where it is not there, or where others could read it."""
    if isinstance(account, Path):
        return _original(account)
    if token := env.get(TOKEN, "").strip():
        return Credentials(account.homeserver, account.account, account.room, _token(token, f"${TOKEN}"))
    if account.token_file is None:
        raise NotifyError(
            f"there is no token for {account.account}",
            hint=f"name a file that holds it, `token_file:` of mode 600, or set {TOKEN}",
        )
    token = secret(account.token_file).strip()
    return Credentials(account.homeserver, account.account, account.room, _token(token, str(account.token_file)))


def secret(path: Path) -> str:
    """The text of a file that nobody else can read. Raises NotifyError."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            # Asked of the open file: its name may mean another one a moment later.
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise NotifyError(
                    f"others may read {path}, which holds a secret", hint=f"chmod 600 {path}; then change the secret"
                )
            if status.st_uid not in (os.geteuid(), 0):
                raise NotifyError(f"{path} belongs to user id {status.st_uid}, who may change what is in it")
            return file.read(_MOST).decode()
    except OSError as error:
        raise NotifyError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NotifyError(f"{path} is not text") from None


def _token(text: str, place: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise NotifyError(f"what {place} holds is no token", hint="it is one word, without a name before it")
    return text


def _original(path: Path) -> Credentials:
    """Read the JSON file of the original tool, which has the password itself."""
    try:
        told = json.loads(secret(path))
        user, password, homeserver, account = (
            told[key] for key in ("matrix_username", "matrix_password", "homeserver_url", "matrix_id")
        )
        if not all(isinstance(each, str) and each for each in (user, password, homeserver)):
            raise ValueError
        if not (isinstance(account, str) and is_matrix_id(account)):
            raise NotifyError(f"{path}: matrix_id is no Matrix user id")
    except (ValueError, KeyError, TypeError):
        keys = "matrix_username, matrix_password, homeserver_url and matrix_id"
        raise NotifyError(f"{path} is not the JSON that is expected", hint=f"an object with {keys}, all text") from None
    try:
        homeserver = homeserver_url(homeserver)
    except ValueError as error:
        raise NotifyError(f"{path}: homeserver_url {error}") from None
    return Credentials(homeserver, account, password=password, user=user)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)


class _Refused(Exception):  # noqa: N818  # no error yet: some requests expect it
    """An answer of the homeserver that is not what was hoped for."""

    def __init__(self, status: int, code: str, said: str, retry_after: float | None) -> None:
        super().__init__(status)
        self.status, self.code, self.said, self.retry_after = status, code, said, retry_after


class Matrix:
    """One account on its homeserver. Every method raises NotifyError."""

    def __init__(self, account: Credentials, answer: float = ANSWER) -> None:
        self._account = account
        self._answer = answer
        self._token = account.token
        # One message at a time: logins at once would end each other's token, rooms made at once forget each other.
        self._turn = threading.Lock()

    def send(self, person: str, words: Words, key: str) -> None:
        """Tell a person; the same `key` again is the same message, which the homeserver shows once."""
        if not self._turn.acquire(timeout=self._answer):
            raise NotifyError(f"{self._account.homeserver} is still busy with another message")
        try:
            room = self._common_room(self._account.room) if self._account.room else self._direct_room(person)
            self._ask("PUT", f"/rooms/{_quoted(room)}/send/m.room.message/{_quoted(key)}", self._content(person, words))
        except _Refused as refused:
            raise self._error(refused) from None
        finally:
            self._turn.release()

    def _content(self, person: str, words: Words) -> dict[str, Any]:
        """Name the person: in a room of many, only those who are mentioned are pinged."""
        mention = f'<a href="https://matrix.to/#/{html.escape(person)}">{html.escape(person)}</a>: '
        title, body = html.escape(words.title), html.escape(words.body).replace("\n", "<br/>")
        content = {
            "msgtype": "m.text",
            "body": words.text,
            "format": "org.matrix.custom.html",
            "formatted_body": f"<strong>{title}</strong><br/>{body}",
            "m.mentions": {"user_ids": [person]},
        }
        if self._account.room:
            content["body"] = f"{person}: {content['body']}"
            content["formatted_body"] = f"{mention}{content['formatted_body']}"
        return content

    def _common_room(self, room: str) -> str:
        """The room everybody is told in. To join again changes nothing, and resolves an alias."""
        joined = self._ask("POST", f"/join/{_quoted(room)}", {}).get("room_id")
        return joined if isinstance(joined, str) else room

    def _direct_room(self, person: str) -> str:
        """A room with that person alone; made, with an invitation, where there is none they have not left."""
        place = f"/user/{_quoted(self._account.account)}/account_data/m.direct"
        try:
            direct = self._ask("GET", place)
        except _Refused as refused:
            if refused.status != 404:
                raise
            direct = {}
        rooms = direct.get(person)
        known = [room for room in rooms if isinstance(room, str)] if isinstance(rooms, list) else []
        for room in reversed(known):
            if self._is_in(room, person):
                return room
        asked = {"is_direct": True, "invite": [person], "preset": "trusted_private_chat", "name": "distribute"}
        made = self._ask("POST", "/createRoom", asked).get("room_id")
        if not isinstance(made, str):
            raise NotifyError(f"{self._account.homeserver} made a room without an id")
        self._ask("PUT", place, direct | {person: [*known, made]})
        return made

    def _is_in(self, room: str, person: str) -> bool:
        try:
            state = self._ask("GET", f"/rooms/{_quoted(room)}/state/m.room.member/{_quoted(person)}")
        except _Refused as refused:
            if refused.status in (403, 404):  # we are not in it any more, or they never were
                return False
            raise
        return state.get("membership") in ("join", "invite")

    def _log_in(self) -> str:
        asked = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self._account.user},
            "password": self._account.password,
            "device_id": _DEVICE,
            "initial_device_display_name": _DEVICE,
        }
        told = self._request("POST", "/login", asked, None).get("access_token")
        if not isinstance(told, str):
            raise NotifyError(f"{self._account.homeserver} let us in without a token")
        return told

    def _ask(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if self._token is None:
            self._token = self._log_in()
        try:
            return self._request(method, path, content, self._token)
        except _Refused as refused:
            if refused.status == 401 and self._account.password:
                self._token = None  # it has run out: the next try asks for another one
            raise

    def _request(self, method: str, path: str, content: Mapping[str, Any] | None, token: str | None) -> dict[str, Any]:
        url = f"{self._account.homeserver}{_API}{path}"
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        if token is not None:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        try:
            with _OPENER.open(request, timeout=self._answer) as response:
                told = json.loads(response.read(_MOST))
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error) from None
        except TimeoutError:
            raise NotifyError(f"{self._account.homeserver} gave no answer within {self._answer:g} s") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise NotifyError(f"{self._account.homeserver} did not answer within {self._answer:g} s") from None
            raise NotifyError(f"{self._account.homeserver} cannot be reached: {error.reason}") from None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            what = f"{type(error).__name__}: {error}"
            raise NotifyError(f"{self._account.homeserver} does not answer as a homeserver does: {what}") from None
        if not isinstance(told, dict):
            raise NotifyError(f"{self._account.homeserver} does not answer as a homeserver does")
        return told

    def _error(self, refused: _Refused) -> NotifyError:
        said = f"{self._account.homeserver} refused: {refused.status} {refused.code} {refused.said}".rstrip()
        hint = None
        if refused.status == 401:
            hint = f"the token (or password) of {self._account.account} does not hold any more: put in a new one"
        elif refused.status == 403:
            room = self._account.room or "the room"
            hint = f"may {self._account.account} write in {room}? invite it there, or look at `account:`"
        return NotifyError(said, hint=hint, retry_after=refused.retry_after)


def _refused(error: urllib.error.HTTPError) -> _Refused:
    try:
        told = json.loads(error.read(_MOST))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        told = None  # a proxy before it answers in HTML, or the line broke
    told = told if isinstance(told, dict) else {}
    after: Any = told.get("retry_after_ms")
    wait = None
    with contextlib.suppress(ValueError, OverflowError):  # a date, or a number that is none
        wait = float(after) / 1000 if isinstance(after, int | float) else float(error.headers.get("Retry-After", ""))
    return _Refused(error.code, str(told.get("errcode", ""))[:60], str(told.get("error", ""))[:200], wait)


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="replace")  # the id of a room may be anything that JSON can say
