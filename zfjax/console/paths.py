"""Paths as users write them. Every flag, key and function that takes a path uses this module."""

import importlib.util
import os
import re
import urllib.parse
import urllib.request

from etils import epath

from zfjax.console.errors import UserError
from zfjax.console.text import readable

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # what epath needs for each scheme, unless TensorFlow is installed


def user_path(path: epath.PathLike, what: str, *, local: str = "") -> epath.Path:
    """Expand `~` and `file://`; gs:// and s3:// stay as they are.

    Args:
        path: the path as the user wrote it.
        what: what to call it in errors, such as `--out`.
        local: if it must be on this disk, why or what to do, for the end of the error.

    Raises:
        UserError: there is no such user, the URL is of another kind or its package is not installed, or it can't be a
            path at all.
    """
    text = os.fspath(path)
    if not text or "\0" in text or not _is_encodable(text):
        raise UserError(f"{what} {text!r}: expected a path")
    # A single letter before the colon is a Windows drive.
    is_url = "://" in text or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text)
    if is_url and not re.match("file:/", text, re.IGNORECASE):
        return _remote(text, what, local)
    expanded = os.path.expanduser(_of_file_url(text, what) if is_url else text)
    if expanded.startswith("~"):
        name = re.split(r"[/\\]", text)[0]
        raise UserError(f"{what} {readable(text)}: there is no user {name[1:]}; a folder called {name} is ./{name}")
    return _on_disk(expanded, what)


def absolute_path(path: epath.PathLike, what: str, *, local: str = "") -> epath.Path:
    """Like `user_path`, but absolute."""
    found = from_here(user_path(path, what, local=local), what)
    return found if "://" in os.fspath(found) else _on_disk(os.path.abspath(found), what)


def from_here(path: epath.Path, what: str) -> epath.Path:
    """The path from the root, which stays true if the program changes its folder; a remote one as it is.

    Raises:
        UserError: the path is relative, and the current folder was removed.
    """
    if "://" in os.fspath(path) or path.is_absolute():
        return path
    try:
        return _on_disk(os.path.join(os.getcwd(), path), what)
    except FileNotFoundError as error:
        raise UserError(f"{what} {path}: the current folder was removed; change to another one") from error


def _remote(url: str, what: str, local: str) -> epath.Path:
    kinds = "" if local else "".join(f", or {scheme}://BUCKET/PATH" for scheme in _PACKAGES)
    found = re.match(r"(\w+)://[^/]", url)
    if local or not found or found[1] not in _PACKAGES:
        raise UserError(f"{what} {readable(url)}: expected a path on this disk{kinds}{local and f', {local}'}")
    package = _PACKAGES[found[1]]
    if not (importlib.util.find_spec(package) or importlib.util.find_spec("tensorflow")):
        raise UserError(f"{what} {readable(url)}: {found[1]}:// needs {package}: pip install {package}")
    return epath.Path(url)


def _of_file_url(url: str, what: str) -> str:
    """The path of file:///PATH or file:/PATH."""
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise UserError(f"{what} {readable(url)}: expected file:///PATH, with three slashes")
    return urllib.request.url2pathname(parts.path)


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # a surrogate that doesn't stand for a byte
        return False
    return True


def _on_disk(path: str, what: str) -> epath.Path:
    if os.sep == "/":
        path = re.sub("^//+", "/", path)  # the same folder, which TensorStore would refuse
    if found := re.match(r"/(gs|s3|az|hf)(/|$)", path):
        raise UserError(
            f"{what} {readable(path)}: etils.epath takes /{found[1]} for {found[1]}://; give a link to it elsewhere"
        )
    return epath.Path(path)
