"""The processes of a command meet at process 0's port before JAX starts, and go on only if they agree.

JAX itself compares nothing: processes with different versions of it wait for each other without end, and those with
different configurations compute something that nobody asked for. After the meeting its connections go through the same
port, so that hosts need no other one open.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from zfjax.console import relay
from zfjax.console.errors import UserError
from zfjax.console.text import brief, reason
from zfjax.version import __version__

PATIENCE = 10.0  # seconds for a connection to be made, and for its first line
RETRY = 0.2  # seconds between attempts to reach process 0
_MOST = 1 << 20  # bytes of a message
_RUNTIME = b'{"runtime": true}\n'  # the first line of a connection that is passed on to JAX


class Line:
    """A connection to another process, which carries JSON objects, one a line, and empty lines as signs of life."""

    def __init__(self, connection: socket.socket, number: int = 0, host: str = "") -> None:
        """`number` and `host` are those of the process at the other end."""
        self.connection, self.number, self.host = connection, number, host
        self.rest = b""  # what came, but was not read yet
        self._sending = threading.Lock()

    def __str__(self) -> str:
        return f"process {self.number} on {self.host}"

    def send(self, message: Mapping[str, Any] | None = None) -> None:
        """Send a message, or a sign of life. Raises an OSError if the other end is gone."""
        line = b"\n" if message is None else json.dumps(message).encode() + b"\n"
        with self._sending:
            self.connection.sendall(line)

    def receive(self) -> dict[str, Any] | None:
        """Wait for a message; None if the other end has closed.

        Raises:
            TimeoutError: there was no sign of life for as long as the connection's timeout.
            OSError: the connection broke, or what came is not of zfjax.
        """
        while True:
            line, found, rest = self.rest.partition(b"\n")
            if found:
                self.rest = rest
                if not line.strip():
                    continue
                try:
                    message = json.loads(line)
                except ValueError as error:
                    raise OSError("no answer of zfjax") from error
                return message if isinstance(message, dict) else {}
            if len(self.rest) > _MOST:
                raise OSError("no answer of zfjax")
            came = self.connection.recv(1 << 16)
            if not came:
                return None
            self.rest += came

    def is_closed(self) -> bool:
        """Whether the other end has closed, as far as this one knows."""
        self.connection.settimeout(0)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.connection.settimeout(PATIENCE)


def words(process: int, processes: int, agreed: Mapping[str, Any]) -> dict[str, Any]:
    """What this process says of itself; all but its number and host must be the same in all processes."""
    versions = {f"the version of {name}": _version(name) for name in ("jax", "jaxlib", "flax")}
    same: dict[str, Any] = {"the version of zfjax": __version__, **versions, "--processes": processes, **agreed}
    return {"process": process, "host": socket.gethostname(), "same": json.loads(json.dumps(same, default=str))}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


class Door:
    """Process 0's port: there the others meet, and JAX's connections come in."""

    def __init__(self, port: int, mine: Mapping[str, Any]) -> None:
        """Open the port. `mine` are this process's `words`. Raises a UserError if the port cannot be had."""
        try:
            self._server = _listen(port)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else reason(error)  # Python adds words of its own
            raise UserError(f"process 0 cannot listen on port {port}: {why}; give another --coordinator") from error
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.runtime = f"127.0.0.1:{free.getsockname()[1]}"  # for JAX's own service
        self._said = {0: dict(mine)}
        self._lines: dict[int, Line] = {}
        self._twice = ""
        self._over = False
        self._came = threading.Condition()
        threading.Thread(target=self._serve, daemon=True).start()

    def meet(self, seconds: float) -> list[Line]:
        """Wait for all processes and let them go on; returns a line to each.

        Raises:
            UserError: they don't agree, or not all came in time; the others are told the same.
        """
        with self._came:
            self._came.wait_for(lambda: not self._missing() or self._twice, seconds)
            self._over = True
            missing = self._missing()
            why = self._twice or difference(list(self._said.values()))
            if not why and missing:
                why = late(seconds, len(self._lines) + 1 + len(missing), missing)
            for line in self._lines.values():
                with contextlib.suppress(OSError):  # lost since, which is noticed by who watches it
                    line.send({"refused": why} if why else {"host": self._said[0]["host"]})
            if not why:
                return list(self._lines.values())
            for connection in (self._server, *(line.connection for line in self._lines.values())):
                connection.close()
            raise UserError(why)

    def _missing(self) -> list[int]:
        return [number for number in range(self._said[0]["same"]["--processes"]) if number not in self._said]

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()

    def _welcome(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        line = Line(connection)
        with contextlib.suppress(OSError):
            said = line.receive() or {}
            match said:
                case {"runtime": True}:
                    host, _, port = self.runtime.rpartition(":")
                    service = socket.create_connection((host, int(port)), PATIENCE)
                    service.sendall(line.rest)
                    relay.join(connection, service)
                    return
                case {"process": int(number), "host": str(host), "same": {"--processes": int()}}:
                    line.number, line.host = number, host
                    if self._enter(line, said):
                        return
                    line.send({"busy": True})
        connection.close()  # a stranger, or one too many

    def _enter(self, line: Line, said: dict[str, Any]) -> bool:
        with self._came:
            if self._over:
                return False
            before = self._lines.get(line.number)
            if line.number == 0 or (before and not before.is_closed()):
                hosts = f"{self._said[line.number]['host']} and on {line.host}"
                # Its line stays, under a number that no process has, so that it is told too.
                self._twice = f"two processes say --process={line.number}: on {hosts}; expected each number once"
                line.number = -len(self._lines) - 1
            self._lines[line.number], self._said[line.number] = line, said
            self._came.notify_all()
            return True


def attend(coordinator: str, mine: Mapping[str, Any], seconds: float) -> Line:
    """Meet the others at process 0; returns a line to it.

    Raises:
        UserError: the processes don't agree, or process 0 cannot be reached in time, or not all others came.
    """
    deadline = time.monotonic() + seconds
    why: str | None = None
    while True:
        try:
            connection = socket.create_connection(split(coordinator), PATIENCE)
        except OSError as error:
            why = f"cannot reach process 0 at {coordinator} within {seconds:.0f} s: {reason(error)}"
        else:
            line = Line(connection)
            why = f"process 0 at {coordinator} does not answer as zfjax {__version__} does; expected one version on all"
            with contextlib.suppress(OSError):
                line.send(mine)
                connection.settimeout(max(0.0, deadline - time.monotonic()) + PATIENCE)
                match line.receive():
                    case {"refused": str(refused)}:
                        connection.close()
                        raise UserError(refused)
                    case {"busy": True}:  # perhaps not for long, if this one was lost and is started again
                        why = f"the processes at {coordinator} have begun without this one; give another --coordinator"
                    case {"host": str(host)}:
                        line.host = host
                        return line
            connection.close()
        if time.monotonic() > deadline:
            raise UserError(why)
        time.sleep(RETRY)


def runtime_at(coordinator: str) -> str:
    """The address, on this machine, that JAX's client is given for process 0's service."""
    return relay.start(split(coordinator), _RUNTIME)


def late(seconds: float, processes: int, missing: list[int]) -> str:
    """Why the processes that came cannot go on without those that didn't."""
    numbers = f"{'process' if len(missing) == 1 else 'processes'} {', '.join(map(str, missing))}"
    return (
        f"waited {seconds:.0f} s for all {processes} processes to start, without {numbers}; start the same"
        " command on each host, with --process=0, 1, … where --coordinator is given"
    )


def difference(said: list[dict[str, Any]]) -> str:
    """The first thing that is not the same in all processes, and what it is in two of them; empty if all agree."""
    first, *others = said
    for other in others:
        for name in [*first["same"], *other["same"]]:
            one, two = (who["same"].get(name) for who in (first, other))
            if one != two:
                return (
                    f"the processes differ: {name} is {brief(_shown(one))} in process {first['process']} on"
                    f" {first['host']}, and {brief(_shown(two))} in process {other['process']} on {other['host']};"
                    " start all with the same"
                )
    return ""


def _shown(value: object) -> str:
    return "not given" if value is None else value if isinstance(value, str) else json.dumps(value)


def split(address: str) -> tuple[str, int]:
    """HOST:PORT in two parts."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
