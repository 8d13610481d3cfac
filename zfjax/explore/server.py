"""What the page's server does besides Gradio: takes pictures, gives what is saved, and lets in who may come in."""

import hmac
import os
from collections.abc import Callable, Collection
from http.cookies import SimpleCookie
from typing import Any

import anyio
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from zfjax.console.errors import UserError
from zfjax.console.text import brief, readable
from zfjax.experiments.exploring.explorer import Explorer
from zfjax.experiments.exploring.view import read
from zfjax.explore import saving

COOKIE = "zfjax_token"
# Gradio's own ways for files in and out, which this page does not use, and which answer with paths.
_CLOSED = ("upload", "file=", "file/", "proxy=", "stream/", "component_server", "deep_link", "monitoring")

_STARTS = "startup-events"  # Gradio asks itself for it, and nothing is in the answer
_KINDS = {"png": "image/png", "npz": "application/zip", "py": "text/x-python"}


def routes(explorer: Explorer, origin: saving.Origin, megabytes: int, at_once: int) -> list[BaseRoute]:
    """Where pictures are sent to, and what is saved comes from.

    Args:
        explorer: takes the pictures.
        origin: how a script gets at what is looked at.
        megabytes: the most that a picture's file may have.
        at_once: pictures that are decoded, or views that are saved, at the same time.
    """
    room = anyio.CapacityLimiter(at_once)

    async def take(request: Request) -> Response:
        name = brief(readable(os.path.basename(request.query_params.get("name", "") or "picture")))
        try:
            data = await _body(request, megabytes, name)
            key = await anyio.to_thread.run_sync(explorer.add, data, name, limiter=room)
        except UserError as error:
            return JSONResponse({"error": str(error)}, status_code=422)
        except ClientDisconnect:
            return Response(status_code=400)
        return JSONResponse({"picture": key})

    def saved(kind: str, link: str) -> bytes:
        view = explorer.settled(read(link))
        if kind == "py":
            return saving.python(explorer, view, origin).encode()
        return saving.png(explorer, view) if kind == "png" else saving.npz(explorer, view)

    async def save(request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in _KINDS:
            return Response(status_code=404)
        try:
            content = await anyio.to_thread.run_sync(saved, kind, str(request.query_params), limiter=room)
        except UserError as error:
            return PlainTextResponse(str(error), status_code=422)
        there = {"Content-Disposition": f'attachment; filename="view.{kind}"'}
        return Response(content, media_type=_KINDS[kind], headers=there)

    return [Route("/picture", take, methods=["POST"]), Route("/save.{kind}", save)]


async def _body(request: Request, megabytes: int, name: str) -> bytes:
    """A request's content. Raises a UserError as soon as there is too much of it."""
    content, most = bytearray(), megabytes * 1_000_000
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise UserError(f"cannot read the image {name}: it has more than {megabytes} MB")
    return bytes(content)


class Guard:
    """ASGI middleware: closes what the page does not use and, with a token, asks everybody for it once.

    With `names`, it answers under no others: else a page from elsewhere that is open in a browser here could read this
    one, once its own name is made to point here (DNS rebinding).
    """

    def __init__(self, app: Callable, token: str, names: Collection[str]):
        self._app, self._token, self._names = app, token, names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope)
        path = request.url.path.removeprefix("/gradio_api").lstrip("/")
        if path.startswith(_CLOSED):
            await PlainTextResponse("zfjax explore has no such page", status_code=404)(scope, receive, send)
        elif self._names and request.url.hostname not in self._names:
            line = f"zfjax explore is for this machine: open it at {' or '.join(self._names)}"
            await PlainTextResponse(line, status_code=403)(scope, receive, send)
        elif not self._token or path == _STARTS or self._is(request.cookies.get(COOKIE, "")):
            await self._app(scope, receive, send)
        elif self._is(request.query_params.get("token", "")):
            await self._app(scope, receive, self._with_cookie(send))
        else:
            line = "zfjax explore: open the address that it printed, which ends in ?token=…"
            await PlainTextResponse(line, status_code=401)(scope, receive, send)

    def _is(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _with_cookie(self, send: Any) -> Any:
        cookie = SimpleCookie({COOKIE: self._token})
        cookie[COOKIE]["httponly"], cookie[COOKIE]["samesite"], cookie[COOKIE]["path"] = True, "Strict", "/"

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"set-cookie", cookie[COOKIE].OutputString().encode())]
            await send(message)

        return sending


def guard(token: str, names: Collection[str] = ()) -> Middleware:
    """The middleware that lets in who has the token and asks for one of the names; empty: everybody, for any."""
    return Middleware(Guard, token=token, names=names)
