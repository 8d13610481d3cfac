"""One writer a folder, whatever ends the one that holds it."""

import json
import os
import signal
import threading
import time

import pytest
from etils.epath import backend, gpath
from holders import start

from zfjax.console import hold as module
from zfjax.console.errors import UserError
from zfjax.console.hold import FILE, InUse, hold


@pytest.fixture(params=["--locks", "--none"])
def locks(request, monkeypatch):
    """The disk, for children and for this process: with the system's locks or without."""
    if request.param == "--none":
        monkeypatch.setattr(module, "_lock", lambda descriptor: False)
        monkeypatch.setattr(module, "SETTLED_AFTER", 0.05)
    return request.param


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "RENEWED_EVERY", 0.02)
    monkeypatch.setattr(module, "WATCHED_FOR", 0.2)


def until(condition):
    """Waits for what another thread does, however slow the machine is."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_of_many_that_start_at_once_one_wins_and_the_others_name_it(tmp_path, locks):
    at = time.time() + 1.0
    processes = [start(tmp_path / "run", locks, at=at) for _ in range(8)]
    lines = [process.stdout.readline().strip() for process in processes]
    assert lines.count("held") == 1
    winner = processes[lines.index("held")]
    for line in set(lines) - {"held"}:
        assert line.startswith(f"{tmp_path / 'run'} is in use by zfjax train (process {winner.pid} on ")
        assert line.endswith("; let it end first, or write to another folder")
    with pytest.raises(InUse, match=f"process {winner.pid} on .*, since 20"), hold(tmp_path / "run", "zfjax figures"):
        pass
    for process in processes:
        with process:
            process.stdin.close()
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "run"])  # the one that made the folder may have been refused


def test_a_dead_holders_hold_is_taken_over_at_once(tmp_path, locks):
    """Though a child that it forked lives on."""
    process = start(tmp_path, locks, "--fork")
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InUse), hold(tmp_path, "zfjax train"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / FILE).exists()
    started = time.monotonic()
    with hold(tmp_path, "zfjax train"):
        assert time.monotonic() - started < module.WATCHED_FOR / 2
        assert json.loads((tmp_path / FILE).read_bytes())["process"] == os.getpid()
    assert os.listdir(tmp_path) == []
    for pipe in (process.stdin, process.stdout):
        pipe.close()


def test_the_waiting_one_goes_on_when_the_holder_ends(tmp_path, locks, capsys):
    process = start(tmp_path, locks)
    assert process.stdout.readline() == "held\n"
    ended = threading.Event()

    def end():
        ended.set()
        process.stdin.close()

    threading.Timer(0.7, end).start()
    with process, hold(tmp_path, "zfjax probe", wait=True):
        assert ended.is_set()
    assert f"waiting for zfjax train (process {process.pid} on " in capsys.readouterr().err


def left(folder, **changes):
    """The hold that another machine has left in a folder."""
    said = {"command": "zfjax train", "process": 7, "host": "node7", "since": "2026-01-01", "machine": "node7 3 1"}
    (folder / FILE).touch()
    with (folder / FILE).open("r+") as file:
        file.write(json.dumps(said | {"token": "x", "renewed": time.time()} | changes).ljust(600))


def test_another_machines_hold_counts_only_while_it_is_renewed(tmp_path, locks, quick, monkeypatch):
    left(tmp_path)
    with hold(tmp_path, "zfjax train"):  # watched, and found dead
        pass
    monkeypatch.setattr(module, "WATCHED_FOR", 60)  # until it is renewed, however slow the machine is
    ended = threading.Event()

    def renew():
        while not ended.wait(0.02):
            left(tmp_path)

    left(tmp_path)
    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(InUse, match=r"zfjax train \(process 7 on node7, since 2026-01-01\)"), hold(tmp_path, "x"):
        pass
    ended.set()
    thread.join()


def test_a_hold_of_long_ago_is_not_watched(tmp_path, locks):
    left(tmp_path, renewed=time.time() - 2 * module.SURELY_DEAD)
    started = time.monotonic()
    with hold(tmp_path, "zfjax train"):
        assert time.monotonic() - started < module.WATCHED_FOR / 2


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"[1]", b"null", b'{"process": "x"}', b"[" * 100_000, b"x" * 9999])
def test_a_damaged_hold_is_nobodys(tmp_path, quick, content):
    (tmp_path / FILE).write_bytes(content)
    with hold(tmp_path, "zfjax train"), pytest.raises(InUse, match="is in use by"):
        elsewhere(tmp_path)
    assert os.listdir(tmp_path) == []


def elsewhere(folder, **options):
    """Holds in another thread for a moment."""
    failed = []

    def take():
        try:
            with hold(folder, "zfjax train", **options):
                pass
        except UserError as error:
            failed.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def test_the_same_thread_holds_again_and_another_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hold(tmp_path / "run", "zfjax ablate"):
        with hold("run", "zfjax train"):
            (tmp_path / "run" / "x").write_text("")
        assert (tmp_path / "run" / FILE).exists()
        with pytest.raises(InUse, match="another thread of this process"):
            elsewhere(tmp_path / "run")
        elsewhere(tmp_path / "run" / "figures")
    assert os.listdir(tmp_path / "run") == ["x"]
    elsewhere(tmp_path / "run")


def test_beside_what_is_moved_as_a_whole(tmp_path):
    with hold(tmp_path / "site" / "atlas", "zfjax atlas", beside=True):
        assert os.listdir(tmp_path / "site") == [f"{FILE}.atlas"]
        with pytest.raises(InUse, match=f"^{tmp_path / 'site' / 'atlas'} is in use"):
            elsewhere(tmp_path / "site" / "atlas", beside=True)
        elsewhere(tmp_path / "site" / "other", beside=True)
    assert os.listdir(tmp_path) == []


def test_it_is_renewed_and_noticed_when_another_takes_over(tmp_path, quick, locks, capsys):
    """As one that had stood still for long, or whose file was removed by hand."""

    def renewed():
        return json.loads((tmp_path / FILE).read_bytes())["renewed"]

    def work():
        with hold(tmp_path, "zfjax train"):
            first = renewed()
            until(lambda: renewed() > first)
            until(lambda: left(tmp_path))  # never; again and again, since a renewal may be on its way

    with pytest.raises(KeyboardInterrupt):
        work()
    assert f"{tmp_path} was taken over by zfjax train (process 7 on node7" in capsys.readouterr().err
    assert json.loads((tmp_path / FILE).read_text())["process"] == 7


def test_a_command_whose_folder_was_taken_over_ends_at_once(tmp_path):
    """It saves nothing more, as it would after a signal, since the folder is another's."""
    process = start(tmp_path, "--locks", "--command")
    assert process.stdout.readline() == "held\n"

    def ended():
        left(tmp_path)
        return process.poll() is not None

    with process:
        until(ended)
        assert process.returncode == 2
        assert process.stdout.read() == ""
        process.stdin.close()


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for name, why in (("file", "it is no folder"), ("link", "it is a link that leads nowhere")):
        with pytest.raises(UserError, match=f"^cannot write in {tmp_path / name}: {why}$"), hold(tmp_path / name, "x"):
            pass
    with pytest.raises(UserError, match=f"^cannot write in {tmp_path / 'file' / 'run'}: "):
        elsewhere(tmp_path / "file" / "run")
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


class Store(backend._OsPathBackend):
    """gs://bucket as a folder of this disk."""

    def __init__(self, root):
        self.root = str(root)

    def _local(self, path):
        return os.fspath(path).replace("gs://bucket", self.root)

    def open(self, path, mode):
        return super().open(self._local(path), mode)

    def makedirs(self, path, **options):
        super().makedirs(self._local(path), **options)

    def remove(self, path):
        super().remove(self._local(path))


def test_on_an_object_store(tmp_path, monkeypatch, quick):
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", Store(tmp_path))
    monkeypatch.setattr(module, "SETTLED_AFTER", 0.05)
    with hold("gs://bucket/run", "zfjax train"):
        assert json.loads((tmp_path / "run" / FILE).read_bytes())["command"] == "zfjax train"
        with pytest.raises(InUse, match="gs://bucket/run is in use"):
            elsewhere("gs://bucket/run")
    assert os.listdir(tmp_path / "run") == []
    left(tmp_path / "run", machine=module._machine(), process=os.getppid())
    with pytest.raises(InUse, match=f"process {os.getppid()} on"), hold("gs://bucket/run", "zfjax train"):
        pass


class HttpError(Exception):
    """What gcsfs raises is no OSError."""


def test_an_object_store_that_fails_for_a_while_loses_no_hold(tmp_path, monkeypatch, quick):
    class Failing(Store):
        failed: int | None = None  # how often; None while the store answers

        def open(self, path, mode):
            if self.failed is not None:
                self.failed += 1
                raise HttpError("Service Unavailable, 503")
            return super().open(path, mode)

    store = Failing(tmp_path)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", store)
    monkeypatch.setattr(module, "SETTLED_AFTER", 0.05)
    with hold("gs://bucket/run", "zfjax train"):
        store.failed = 0
        until(lambda: store.failed >= 2)
        before, store.failed = (tmp_path / "run" / FILE).read_bytes(), None
        until(lambda: (tmp_path / "run" / FILE).read_bytes() not in (before, b""))
        store.failed = 0
    store.failed = 0  # releasing it failed too, which ends no command
    with pytest.raises(UserError, match=r"^cannot write in gs://bucket/run: Service Unavailable, 503$"):
        elsewhere("gs://bucket/run")


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_lies_in_place_of_a_hold_is_named(tmp_path, kind):
    (tmp_path / FILE).mkdir() if kind == "folder" else (tmp_path / FILE).symlink_to(FILE)
    with pytest.raises(UserError, match=f"^cannot write {tmp_path / FILE}: "), hold(tmp_path, "zfjax train"):
        pass
