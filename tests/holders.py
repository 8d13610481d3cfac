"""Another process that holds a folder, and what a folder holds."""

import contextlib
import subprocess
import sys
from pathlib import Path

# Holds until its stdin ends; without --locks as on a disk that has none.
HOLDER = """
import os, sys, time
from zfjax.console import hold
if "--locks" not in sys.argv:
    hold._lock, hold.SETTLED_AFTER = lambda descriptor: False, 1.0
hold.RENEWED_EVERY = 0.05
if "--command" in sys.argv:
    hold.signals.listen()
time.sleep(max(0, float(sys.argv[2]) - time.time()))
try:
    with hold.hold(sys.argv[1], "zfjax train", beside="--beside" in sys.argv):
        if "--fork" in sys.argv and not os.fork():
            print("held", flush=True)
            time.sleep(20)
            os._exit(0)
        if "--fork" not in sys.argv:
            print("held", flush=True)
        sys.stdin.read()
        print("ended", flush=True)
except hold.InUse as error:
    print(error, flush=True)
"""


def start(folder: Path, *words: str, at: float = 0.0) -> subprocess.Popen[str]:
    """Starts a process that holds `folder` until its stdin ends, and says `held`, or why it cannot."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLDER, str(folder), str(at), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def holding(folder: Path, *words: str):
    """A process that holds `folder` inside the block; its number."""
    with start(folder, "--locks", *words) as process:
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.stdin.close()


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder with its bytes and time of change, and every folder; but for holds."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else (b"", 0)
        for path in folder.rglob("*")
        if not path.name.startswith(".hold")
    }
