"""JAX's connections to process 0, passed on through connections of zfjax, which stay open when process 0 is lost.

JAX's client ends its process with a stack trace of C++ as soon as its connection closes. So the client is given the
address of a relay in its own process, which goes quiet instead; whoever watches process 0 says what happened.
"""

import contextlib
import socket
import threading

_kept: list[socket.socket] = []  # Python would close what nobody refers to any more


def start(target: tuple[str, int], greeting: bytes) -> str:
    """Pass on what connects to the returned HOST:PORT, on this machine, to `target`, each time after `greeting`."""
    server = socket.create_server(("127.0.0.1", 0))
    _kept.append(server)
    threading.Thread(target=_serve, args=(server, target, greeting), daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def _serve(server: socket.socket, target: tuple[str, int], greeting: bytes) -> None:
    while True:
        client, _ = server.accept()
        _kept.append(client)
        with contextlib.suppress(OSError):  # the client waits: who watches process 0 sees the same
            upstream = socket.create_connection(target)
            upstream.sendall(greeting)
            _kept.append(upstream)
            join(client, upstream, hidden=True)


def join(client: socket.socket, server: socket.socket, *, hidden: bool = False) -> None:
    """Pass on bytes between two connections, from now on and in both directions.

    Args:
        client: the one that asked.
        server: the one that answers.
        hidden: don't let `client` see that `server` has closed.
    """
    for connection in (client, server):
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=_pass_on, args=(client, server, hidden), daemon=True).start()


def _pass_on(client: socket.socket, server: socket.socket, hidden: bool) -> None:
    questions = threading.Thread(target=_copy, args=(client, server), daemon=True)
    questions.start()
    _copy(server, client, hidden)
    questions.join()
    if not hidden:
        client.close()
        server.close()


def _copy(source: socket.socket, target: socket.socket, hidden: bool = False) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    if not hidden:
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
