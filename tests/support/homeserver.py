"""A stand-in for a homeserver that misbehaves as it is told: the real one cannot be made to."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Homeserver:
    """Takes every message, unless `answers` holds something else to say to the next ones that send one."""

    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # transaction and content
    tries: int = 0  # messages that came, whatever was answered
    silent: bool = False  # messages get no answer until `close`
    tokens: set[str] = field(default_factory=set)
    room: str = "!made:lab.test"  # the id of each room that it makes

    def __post_init__(self) -> None:
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, code: int, told: Any, headers: dict[str, str] | None = None) -> None:
                data = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(code)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self.take({})

            def do_PUT(self) -> None:
                self.take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            do_POST = do_PUT  # noqa: N815

            def take(self, content: dict[str, Any]) -> None:
                outer.tokens.add(self.headers.get("Authorization", ""))
                if "/send/m.room.message/" in self.path:
                    outer.tries += 1
                    if outer.silent:
                        outer._over.wait()
                        return
                    if outer.answers:
                        code, headers, data = outer.answers.pop(0)
                        self.answer(code, data, headers)
                        return
                    outer.sent.append((self.path.rpartition("/")[2], content))
                    self.answer(200, {"event_id": "$1"})
                elif self.path.endswith("/createRoom"):
                    self.answer(200, {"room_id": outer.room})
                elif self.path.endswith("/m.direct") and self.command == "GET":
                    self.answer(404, {"errcode": "M_NOT_FOUND", "error": "none"})
                else:
                    self.answer(200, {})

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
