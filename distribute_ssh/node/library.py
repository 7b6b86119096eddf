"""asyncssh, without what makes it slow to import.

It looks for liboqs and libnettle by `ctypes.util.find_library`, which runs ldconfig, and where it finds nothing gcc and
ld too: seven processes and a quarter of the time of a short command. Neither is needed: what they would add are a key
exchange and a MAC beside others as good, which come with `cryptography`.
"""

from __future__ import annotations

import ctypes.util

_find_library = ctypes.util.find_library
ctypes.util.find_library = lambda name: None  # noqa: ARG005  # as its callers may name it
try:
    import asyncssh
    from asyncssh.known_hosts import SSHKnownHosts
    from asyncssh.sftp import SFTPAttrs, SFTPClientFile
finally:
    ctypes.util.find_library = _find_library

__all__ = ["SFTPAttrs", "SFTPClientFile", "SSHKnownHosts", "asyncssh"]
