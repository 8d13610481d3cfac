"""Starts the page: on this machine alone unless told otherwise, with nothing sent to or fetched from elsewhere."""

import logging
import os
import secrets
from typing import Any, NamedTuple

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import, which asks for it
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Else each answer makes a table of the times of the last 10,000, for a page that is closed here.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))

import gradio as gr
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from zfjax.console.errors import UserError
from zfjax.experiments.exploring.explorer import Explorer
from zfjax.explore import page, server
from zfjax.explore.saving import Origin

HERE = "127.0.0.1"
_SESSIONS = 100  # whose last answers Gradio keeps; each reload is one more. The page of one that is forgotten goes on
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Served(NamedTuple):
    """A page that is being served."""

    blocks: gr.Blocks
    address: str  # with the token, where there is one

    def close(self) -> None:
        """End it."""
        self.blocks.close(verbose=False)


def _is_no_left_tab(record: logging.LogRecord) -> bool:
    """False for what Gradio raises when a tab is closed while it waits for an answer."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, RuntimeError) and "response already started" in str(error))


def serve(
    explorer: Explorer,
    title: str,
    *,
    host: str = HERE,
    port: int = 0,
    megabytes: int = 32,
    origin: Origin | None = None,
    atlas: str = "",
    inbrowser: bool = False,
    inline: bool | None = False,
) -> Served:
    """Serve the page of an explorer, in threads of this process.

    Args:
        explorer: ready to be asked.
        title: what is looked at.
        host: the address to listen at; any but this machine's own wants a token, which the printed address has.
        port: 0 for the first free one from 7860.
        megabytes: the most that an uploaded file may have.
        origin: how saved Python gets at what is looked at.
        atlas: the folder of the run's atlas; empty for none.
        inbrowser: whether to open a browser.
        inline: whether to show it in the notebook that this runs in; None: if there is one.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    is_here = host in _LOOPBACK
    token = "" if is_here else secrets.token_urlsafe(24)
    names = _LOOPBACK if is_here and inline is False else ()  # a notebook's proxy has a name of its own
    has_atlas = bool(atlas) and os.path.isfile(os.path.join(atlas, "index.html"))
    made = page.Page(explorer, title, "atlas" if has_atlas else "")
    made.blocks.queue(default_concurrency_limit=page.AT_ONCE, api_open=False)
    routes: list[BaseRoute] = server.routes(explorer, origin or Origin(), megabytes, page.AT_ONCE)
    if has_atlas:
        routes.append(Mount("/atlas", StaticFiles(directory=atlas, html=True)))
    kwargs: dict[str, Any] = {
        "routes": routes,
        "middleware": [server.guard(token, names)],
        "docs_url": None,
        "redoc_url": None,
    }
    try:
        _, address, _ = made.blocks.launch(
            server_name=host,
            server_port=port or None,
            app_kwargs=kwargs,
            theme=page.theme(),
            css=page.static("page.css"),
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
            inbrowser=inbrowser and not token,
            inline=inline,
            share=False,
            ssr_mode=False,
            show_error=False,
            max_file_size=1,
            pwa=False,
            enable_monitoring=False,
            run_history=False,
            state_session_capacity=_SESSIONS,
        )
    except OSError as error:
        raise UserError(f"cannot listen at {host}{f':{port}' if port else ''}: {error}") from error
    logging.getLogger("uvicorn.error").addFilter(_is_no_left_tab)
    return Served(made.blocks, f"{address}?token={token}" if token else address)
