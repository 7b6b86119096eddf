"""What a job printed, on its way to a terminal."""

from __future__ import annotations

import codecs
import re

from distribute_ssh.views.text import stripped

# The beginning of a colour that the next piece goes on with.
_TORN = re.compile(r"\x1b(?:\[[0-9;:]{0,40})?\Z")


class Output:
    """Bytes in pieces, as text that a terminal may be shown: colours stay, what could play tricks goes."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""

    def feed(self, piece: bytes) -> str:
        """Return the text of one more piece; a character or a colour that is torn waits for the rest of it."""
        text = self._held + self._decode(piece)
        torn = _TORN.search(text)
        self._held = torn[0] if torn else ""
        return stripped(text[: len(text) - len(self._held)])
