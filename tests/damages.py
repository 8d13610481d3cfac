"""What can become of a file."""

import os
import random
import shutil

from zfjax.console.errors import UserError

CONTENTS = {
    "empty": b"",
    "nothing": b"null",
    "list": b"[1]",
    "number": b"7",
    "text": b'"x"',
    "no object": b"{}",
    "latin": b'{"lr": "\xe9"}',
    "zeros": bytes(64),
    "deep": b"[" * 100_000,
    "huge": b'{"lr": 1' + b"0" * 5000 + b"}",
    "infinite": b'{"lr": 1e999, "step": 1e999, "val_top1": 1e999}',
    "other types": b'{"lr": "fast", "without": 3, "net": 1, "step": "one", "val_top1": [], "custom_metadata": []}',
    "other names": b'["circles", "noise", "stripe"]',
    "fewer names": b'["circles", "noise"]',
    "no names": b'["circles", "noise", 3]',
}
KINDS = (*CONTENTS, "cut", "flipped", "deleted", "folder", "pipe", "device", "loop", "vast")


def damage(path, kind, seed=0):
    """Does to a file what `kind` says."""
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        at = random.Random(seed).randrange(8 * len(content))
        path.write_bytes(content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :])
    elif kind in CONTENTS:
        path.write_bytes(CONTENTS[kind])
    elif kind == "vast":  # takes no space on the disk
        os.truncate(path, 60 * 10**9)
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind in ("device", "loop"):
            path.symlink_to("/dev/zero" if kind == "device" else path)


def mend(path, kind, whole):
    """Undoes what `damage` did to a file of the content `whole`."""
    shutil.rmtree(path) if kind == "folder" else path.unlink(missing_ok=True)
    path.write_bytes(whole)


def attempt(read, workdir):
    """What `read` gives, and an empty line; or None, and the line of its error."""
    try:
        return read(workdir), ""
    except UserError as error:
        return None, str(error)
