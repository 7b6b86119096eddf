"""Reaching a machine over SSH: host keys, one connection per node, and the only gate for asyncssh's errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from distribute_ssh.errors import HostKeyError, LoginError, NodeError, UnreachableError, UsageError
from distribute_ssh.node import sshconfig
from distribute_ssh.node.library import SSHKnownHosts, asyncssh
from distribute_ssh.node.link import BOOTSTRAP, Finished
from distribute_ssh.node.login import offered
from distribute_ssh.node.session import CLOSE_LIMIT, Session, SshProcess
from distribute_ssh.node.sftp import SftpFiles
from distribute_ssh.node.sshconfig import Target

log = logging.getLogger(__name__)
Keys = list[asyncssh.SSHKey]
T = TypeVar("T")
logging.getLogger("asyncssh").setLevel(logging.ERROR)
# What is written to a line that has just broken is lost, and we find out; asyncio would say so for every packet.
logging.getLogger("asyncio").setLevel(logging.ERROR)

# AES in hardware is 1.5 times as fast as chacha20, which both ends would choose by themselves.
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
)
# OpenSSH allows 10 and frees a session later than we see its end: 8 at once were refused now and then, 5 never.
SESSIONS = 5
# A session that is refused on a live connection is asked for again: the last one is not freed yet, or this sshd's
# MaxSessions is lower than most and one of ours has to end first.
OPEN_LIMIT = 20.0  # seconds
# Bytes that may be under way to us in one session. It bounds what comes in a round trip, and asyncssh asks for more
# only once half of it is used up: of 2 MiB, its default and OpenSSH's, a line of 40 ms has 25 MB/s.
WINDOW = 2 << 20
FAR_WINDOW = 8 << 20  # for a head, of which there is one, and which may be far away
BEGIN_LIMIT = 10.0  # seconds; a profile that waits is told apart from a slow line by the login before it
REFUSED = (asyncssh.OPEN_CONNECT_FAILED, asyncssh.OPEN_RESOURCE_SHORTAGE)
# By its process group, through another session: sshd refuses to pass signals on for root, and older ones for anybody.
END_GROUP = """kill -s TERM -- -{0}; n=0
while kill -s 0 -- -{0} && [ $n -lt 10 ]; do n=$((n + 1)); sleep 0.1 || sleep 1; done
kill -s KILL -- -{0}"""


@contextmanager
def translated(node: str, target: Target | None = None) -> Iterator[None]:
    """Turn what asyncssh and the socket raise into our errors, with the `ssh` command to try by hand."""
    by_hand = f"try by hand: ssh {target.alias}" if target else None
    try:
        yield
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostKeyError(f"{node}: {error.reason}", hint=f"distribute nodes trust {node}") from error
    except (asyncssh.PermissionDenied, asyncssh.KeyExchangeFailed) as error:
        refused = f"{node}: the login was refused: {error.reason}"
        has_agent = target is None or target.agent is not None or os.environ.get("SSH_AUTH_SOCK")
        if isinstance(error, asyncssh.PermissionDenied) and not has_agent:
            # By hand it works then: a terminal has an agent, cron and services have none.
            refused += "; there is no ssh agent here (SSH_AUTH_SOCK is not set, as under cron)"
            by_hand = f"name a key without a passphrase, with `identity:` in the inventory; {by_hand}"
        raise LoginError(refused, hint=by_hand) from error
    except asyncssh.ProtocolError as error:
        if "Too many authentication failures" in str(error):
            raise LoginError(
                f"{node}: too many keys were offered", hint=f"name one key: `identity:` of {node} in the inventory"
            ) from error
        raise UnreachableError(f"{node}: {error.reason or 'the connection broke'}", hint=by_hand) from error
    except (asyncssh.Error, asyncssh.SFTPError) as error:
        raise UnreachableError(f"{node}: {error.reason or type(error).__name__}", hint=by_hand) from error
    except TimeoutError as error:
        raise UnreachableError(f"{node}: no answer in time", hint=by_hand) from error
    except OSError as error:
        # asyncio puts words of its own in place of the system's: "Connect call failed ('10.0.0.1', 22)".
        said = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise UnreachableError(f"{node}: {said}", hint=by_hand) from error
    except ValueError as error:  # asyncssh's word for files it cannot read: keys, known_hosts
        raise NodeError(f"{node}: {error}", hint=by_hand) from error


class KnownHosts:
    """The host keys we trust: the person's and the machine's known_hosts, and our own file by node name."""

    def __init__(self, own: Path) -> None:
        self.own = own

    def lookup(self, target: Target, node: str) -> tuple[Keys, Keys, Keys]:
        """Trusted host keys, trusted authorities, revoked keys. Raises HostKeyError naming a broken file."""
        trusted: list[asyncssh.SSHKey] = []
        authorities: list[asyncssh.SSHKey] = []
        revoked: list[asyncssh.SSHKey] = []
        plain = target.key_name if target.key_name != f"[{target.hostname}]:{target.port}" else target.hostname
        port = target.port if plain == target.hostname and target.port != 22 else None
        for path, name, at in [*((path, plain, port) for path in target.known_hosts), (self.own, node, None)]:
            try:
                lines = SSHKnownHosts(path.read_text(errors="replace"))
            except FileNotFoundError:
                continue  # OpenSSH passes over a missing file too
            except (OSError, ValueError) as error:
                raise HostKeyError(f"{node}: {path} cannot be read: {error}", hint="mend that line") from error
            found = lines.match(name, "", at)
            trusted += found[0]
            authorities += found[1]
            revoked += found[2]
        return trusted, authorities, revoked

    def trust(self, node: str, key: asyncssh.SSHKey) -> None:
        """Put the node's key into our own file, in place of any it had there."""
        old = self.own.read_text() if self.own.exists() else ""
        kept = [line for line in old.splitlines() if line.split(" ", 1)[0] != node]
        public = key.export_public_key("openssh").decode().strip()
        self.own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.own.with_name(self.own.name + ".new")
        fresh.touch(mode=0o600)
        fresh.write_text("\n".join([*kept, f"{node} {public}"]) + "\n")
        fresh.replace(self.own)


class _Client(asyncssh.SSHClient):
    """Remembers the key of a host that was refused, so that the message can show its fingerprint."""

    def __init__(self) -> None:
        self.refused: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002  # asyncssh's signature
        self.refused = key
        return False


class Connector:
    """Opens connections; machines behind one jump host share one connection to it."""

    def __init__(self, known_hosts: KnownHosts, config: Path | None = None) -> None:
        self.known_hosts = known_hosts
        self.config = config
        self._jumps: dict[str, asyncssh.SSHClientConnection] = {}
        self._jump_locks: dict[str, asyncio.Lock] = {}

    async def target(self, host: str, *, user: str | None = None, port: int | None = None) -> Target:
        """How `host` is reached, by OpenSSH's own rules."""
        return await sshconfig.resolve(host, user=user, port=port, config=self.config)

    async def open(
        self, node: str, host: str, *, user: str | None = None, port: int | None = None, identity: Path | None = None
    ) -> SshLink:
        """Connect and log in. Raises UnreachableError, HostKeyError, LoginError."""
        target = sshconfig.with_identity(await self.target(host, user=user, port=port), identity)
        tunnel = await self._tunnel(target)
        return SshLink(node, target, await self._connect(node, target, tunnel))

    async def host_key(self, host: str, *, user: str | None = None, port: int | None = None) -> asyncssh.SSHKey:
        """The key the machine shows now, trusted or not: for `nodes trust`, which shows it to a person."""
        target = await self.target(host, user=user, port=port)
        tunnel = await self._tunnel(target)
        with translated(host, target):
            async with asyncio.timeout(target.connect_timeout):
                key = await asyncssh.get_server_host_key(
                    target.hostname,
                    target.port,
                    config=None,
                    tunnel=tunnel or (),
                    proxy_command=target.proxy_command or (),
                )
        if key is None:
            raise HostKeyError(f"{host} showed no host key")
        return key

    async def close(self) -> None:
        """Close the shared connections to jump hosts."""
        for jump in self._jumps.values():
            jump.close()
        self._jumps.clear()

    async def _tunnel(self, target: Target, above: tuple[str, ...] = ()) -> asyncssh.SSHClientConnection | None:
        tunnel: asyncssh.SSHClientConnection | None = None
        path = ""
        for hop in target.jumps:
            if hop in above:
                raise UsageError(
                    f"the jump hosts of the ssh configuration lead in a circle: {', '.join([*above, hop])}"
                )
            path = f"{path},{hop}"
            async with self._jump_locks.setdefault(path, asyncio.Lock()):
                known = self._jumps.get(path)
                if known is None or known.is_closed():
                    user, host, port = sshconfig.split_host(hop)
                    there = await self.target(host, user=user, port=port)
                    if tunnel is None:  # the first of a chain may need a jump host itself; OpenSSH asks no other
                        tunnel = await self._tunnel(there, (*above, hop))
                    known = await self._connect(host, there, tunnel)
                    self._jumps[path] = known
                tunnel = known
        return tunnel

    async def _connect(
        self, node: str, target: Target, tunnel: asyncssh.SSHClientConnection | None
    ) -> asyncssh.SSHClientConnection:
        trusted = self.known_hosts.lookup(target, node)
        client = _Client()
        options: dict[str, Any] = {
            "username": target.user,
            "known_hosts": trusted,
            "encryption_algs": CIPHERS,
            "keepalive_interval": target.alive_interval,
            "keepalive_count_max": target.alive_count,
            "connect_timeout": target.connect_timeout,
            "login_timeout": target.connect_timeout + 10,
            "utf8_decode_errors": "replace",  # one odd byte in a banner must not end the connection
            "agent_forwarding": False,
            "x11_forwarding": False,
            "compression_algs": None,
            "config": None,
            "client_factory": lambda: client,
        }
        if trusted[0] and not trusted[1]:  # ask for a key type that we can check
            options["server_host_key_algs"] = _algorithms(trusted[0])
        if tunnel is not None:
            options["tunnel"] = tunnel
        elif target.proxy_command:
            options["proxy_command"] = target.proxy_command
        with translated(node, target):
            try:
                async with asyncio.timeout(target.connect_timeout + 15), offered(target) as keys:
                    return await asyncssh.connect(
                        target.hostname, target.port, client_keys=keys or None, agent_path=None, **options
                    )
            except asyncssh.HostKeyNotVerifiable as error:
                if client.refused is None:
                    raise
                raise _host_key_error(node, target, client.refused, trusted[0]) from error


def _host_key_error(node: str, target: Target, shown: asyncssh.SSHKey, known: Keys) -> HostKeyError:
    fingerprint = shown.get_fingerprint()
    if not known:
        return HostKeyError(
            f"{node}: the host key of {target.key_name} is not known here; it shows {fingerprint}",
            hint="compare it with the machine's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then: "
            f"distribute nodes trust {node}",
        )
    wanted = ", ".join(key.get_fingerprint() for key in known)
    return HostKeyError(
        f"{node}: THE HOST KEY OF {target.key_name} CHANGED: it shows {fingerprint}, we know {wanted}",
        hint="nothing was sent. A reinstalled machine, or somebody in between: ask its administrator. "
        f"If it is right: distribute nodes trust {node} --replace, and remove the old line from known_hosts",
    )


def _algorithms(keys: Keys) -> list[str]:
    names: list[str] = []
    for key in keys:
        for name in key.sig_algorithms:
            text = name.decode("ascii")
            if text not in names and text != "ssh-rsa":  # SHA-1 signatures
                names.append(text)
    return names


class SshLink:
    """A node over SSH; see `link.Link`."""

    def __init__(self, node: str, target: Target, connection: asyncssh.SSHClientConnection) -> None:
        self.node = node
        self.target = target
        self.connection = connection
        self._sessions = asyncio.Semaphore(SESSIONS)
        self._leaks = 0

    @property
    def is_open(self) -> bool:
        """False once the connection was found to be gone."""
        return not self.connection.is_closed()

    def leaked(self) -> None:
        """A session would not end; after three of them a new connection is cheaper than the slots."""
        self._leaks += 1
        if self._leaks > 3:
            log.warning("%s: too many sessions hang; reconnecting", self.node)
            self.connection.abort()

    async def run(self, script: str, *, stdin: bytes = b"", limit: float = 30.0) -> Finished:
        """Run one of our scripts to its end."""
        try:
            async with asyncio.timeout(limit), self.process(script) as process:
                feeding = asyncio.create_task(_feed(process, stdin), name=f"input for {self.node}")
                try:
                    pieces = []
                    while piece := await process.read(1 << 20):
                        pieces.append(piece)
                    ended = await process.wait(limit)
                finally:
                    feeding.cancel()
                    await asyncio.gather(feeding, return_exceptions=True)
        except TimeoutError:
            raise UnreachableError(f"{self.node}: a command did not end within {limit:g} s") from None
        return Finished(ended.status, b"".join(pieces), ended.stderr)

    @asynccontextmanager
    async def process(self, script: str) -> AsyncIterator[SshProcess]:
        """Start one of our scripts and talk to it."""
        async with self._sessions:
            process = SshProcess(await self._open_session(), self)
            try:
                try:
                    async with asyncio.timeout(BEGIN_LIMIT):
                        await process.begin(script)
                except TimeoutError:
                    raise UnreachableError(
                        f"{self.node}: the login works, but /bin/sh did not start within {BEGIN_LIMIT:.0f} s",
                        hint="a start-up file (.bashrc, .profile, config.fish) that waits for something? "
                        "distribute nodes doctor",
                    ) from None
                yield process
            finally:
                await asyncio.shield(process.close())

    @asynccontextmanager
    async def command(self, line: str) -> AsyncIterator[SshProcess]:
        """Start a command by its own line, which a forced command may replace: what a head's gateway is started by."""
        async with self._sessions:
            process = SshProcess(await self._open_session(line, FAR_WINDOW), self)
            try:
                yield process
            finally:
                await asyncio.shield(process.leave())

    @asynccontextmanager
    async def files(self) -> AsyncIterator[SftpFiles]:
        """The node's files over SFTP."""
        async with self._sessions:
            with translated(self.node, self.target):
                try:
                    async with asyncio.timeout(OPEN_LIMIT + BEGIN_LIMIT):
                        client = await self._granted(lambda: self.connection.start_sftp_client(path_encoding=None))
                except (asyncssh.SFTPError, asyncssh.ChannelOpenError, TimeoutError) as error:
                    if not self.is_open:
                        raise
                    raise NodeError(
                        f"{self.node}: sftp does not work there: {getattr(error, 'reason', '') or 'no answer'}",
                        hint="a start-up file (.bashrc) that prints? No start-up file disturbs "
                        "`Subsystem sftp internal-sftp` in its sshd_config",
                    ) from error
            try:
                yield SftpFiles(client, self.node)
            finally:
                client.exit()
                with contextlib.suppress(TimeoutError, asyncssh.Error, OSError):
                    async with asyncio.timeout(CLOSE_LIMIT):
                        await client.wait_closed()

    async def close(self) -> None:
        """Close the connection."""
        self.connection.close()
        with contextlib.suppress(TimeoutError, asyncssh.Error, OSError):
            async with asyncio.timeout(CLOSE_LIMIT):
                await self.connection.wait_closed()

    async def end_group(self, group: int) -> None:
        """End every process of a group on the node."""
        with contextlib.suppress(TimeoutError, NodeError):
            async with asyncio.timeout(2 * CLOSE_LIMIT):
                other = SshProcess(await self._open_session(), self)
                await other.begin(END_GROUP.format(group))
                other.write_eof()
                await other.wait(CLOSE_LIMIT)

    async def _open_session(self, line: str = BOOTSTRAP, window: int = WINDOW) -> Session:
        async def start() -> Session:
            session = Session()
            await self.connection.create_session(
                lambda: session, line, encoding=None, request_pty=False, send_env=(), env={}, window=window
            )
            return session

        with translated(self.node, self.target):
            return await self._granted(start)

    async def _granted(self, start: Callable[[], Awaitable[T]]) -> T:
        """Open a session, in its turn where sshd grants few."""
        end = asyncio.get_running_loop().time() + OPEN_LIMIT
        pause = 0.01
        while True:
            opening = asyncio.ensure_future(start())
            try:
                return await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_close_unwanted)
                raise
            except asyncssh.ChannelOpenError as error:
                if self.connection.is_closed() or error.code not in REFUSED:
                    raise
                if asyncio.get_running_loop().time() + pause > end:
                    raise UnreachableError(
                        f"{self.node}: its sshd grants no further session",
                        hint="MaxSessions in its sshd_config is very low; 10, the default, is plenty",
                    ) from error
                await asyncio.sleep(pause)
                pause = min(2 * pause, 0.25)


def _close_unwanted(opening: asyncio.Future[Any]) -> None:
    """Close a session that was granted after we stopped waiting for it: nobody else knows of it."""
    if opening.cancelled() or opening.exception() is not None:
        return
    granted = opening.result()
    if isinstance(granted, Session) and granted.channel is not None:
        granted.deafen()
        granted.channel.close()  # the shell on the node still waits for its script: it ends with its input
    elif isinstance(granted, asyncssh.SFTPClient):
        granted.exit()


async def _feed(process: SshProcess, data: bytes) -> None:
    """Give a command its input; one that ends without reading all of it is no error of ours."""
    with contextlib.suppress(UnreachableError):
        if data:
            await process.write(data)
        process.write_eof()
