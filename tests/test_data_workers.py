import concurrent.futures
import importlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from etils import epath
from PIL import Image

from zfjax.console.errors import UserError
from zfjax.data import workers
from zfjax.data.catalog import RecordExamples
from zfjax.data.folder import open_folder
from zfjax.data.images import notes
from zfjax.data.loose import LooseExamples
from zfjax.data.scan import scan

SIZE = 24


def encoded(seed, kind="JPEG", mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.fixture
def source(tmp_path):
    """Pictures of several kinds; of each class's, one is no picture."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(20):
            kinds = [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("JPEG", "CMYK")]
            (tmp_path / name / f"{number}.jpg").write_bytes(encoded(number, *kinds[number % 4]))
        (tmp_path / name / "7.jpg").write_bytes(b"no picture")
    return open_folder(str(tmp_path))


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 16)
    yield
    workers._POOL.end()
    workers._POOL.forget()


def here(source, **options):
    """What threads of this process find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "cores", lambda: 2)
        return scan(source, SIZE, max_broken=0.2, **options)


def pids():
    return [worker.process.pid for worker in workers._POOL._all]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_processes_find_what_threads_do(source, many_cores):
    found, expected = scan(source, SIZE, max_broken=0.2, threads=3), here(source)
    assert 1 <= len(pids()) <= 3
    assert found.record.equals(expected.record)
    assert found.record.messages.tolist() == expected.record.messages.tolist() != []
    numbers = np.arange(len(expected.train))[::-1]
    for mine, its in zip(found.train.load(numbers), expected.train.load(numbers), strict=True):
        np.testing.assert_array_equal(mine, its)


def test_few_pictures_start_no_process(source, many_cores):
    found = here(source)
    images, _ = found.train.load(np.arange(workers.FEW - 1))
    assert images.any()
    assert pids() == []


def test_a_picture_that_broke_meanwhile_is_named(source, many_cores):
    found, root = here(source), source.root
    for file in root.glob("*/1*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"1\d?\.jpg: .*it could be read when the run began"):
        found.train.load(np.arange(len(found.train)))


def test_records_are_read_here(many_cores):
    class Records(list):
        def __getitem__(self, number):
            if number == 5:
                raise OSError("damaged")
            return super().__getitem__(number)

        def __reduce__(self):
            raise AssertionError("open in one process alone")

    records = Records({"image": encoded(number), "label": number} for number in range(10))
    examples = RecordExamples("set", records, np.arange(10)[::-1], "")
    found = workers.squares_of(examples, range(10), SIZE, 10)
    assert found.broken == [(4, "set example 5: damaged")]
    assert found.labels.tolist() == [9, 8, 7, 6, 0, 4, 3, 2, 1, 0]
    assert len(pids()) == 1
    with pytest.raises(UserError, match=r"set example 9: expected a label in 0\.\.8, found 9"):
        workers.squares_of(examples, range(10), SIZE, 9)
    assert len(pids()) == 1  # which goes on


def test_a_defect_is_told_once_and_here(source, many_cores, caplog, monkeypatch):
    monkeypatch.setattr(notes, "_said", {})
    for file in source.root.glob("*/*.jpg"):
        if file.name != "7.jpg":
            file.write_bytes(encoded(30)[:-20])
    scan(source, SIZE, max_broken=0.2, threads=3)
    assert len([line for line in caplog.messages if "lacks its end" in line]) == 1


def test_a_process_that_was_ended_is_replaced(source, many_cores):
    examples = source.train
    expected = workers.squares_of(examples, range(12), SIZE)
    (pid,) = pids()
    os.kill(pid, signal.SIGKILL)
    found = workers.squares_of(examples, range(12), SIZE)
    np.testing.assert_array_equal(found.images, expected.images)
    assert len(pids()) == 1
    assert pids() != [pid]


def test_files_are_found_from_the_folder_that_one_is_in(source, many_cores, monkeypatch):
    workers.squares_of(source.train, range(12), SIZE)
    monkeypatch.chdir(source.root / "cat")
    files = tuple(epath.Path(f"{number}.jpg") for number in range(8, 20))
    found = workers.squares_of(LooseExamples(files), range(12), SIZE)
    assert found.broken == []


def test_a_signal_to_all_processes_ends_none_that_starts(source, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import os, signal, threading, time
            from zfjax.data import workers
            from zfjax.data.opening import open_source

            workers.cores = lambda: 16
            signal.signal(signal.SIGTERM, lambda *_: None)
            examples = open_source({f"folder:{source.root}"!r}).train
            stop = lambda: [(time.sleep(0.03), os.kill(0, signal.SIGTERM)) for _ in range(10)]
            threading.Thread(target=stop).start()
            print(workers.squares_of(examples, range(12), {SIZE}).images.shape)
        """)
    )
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, start_new_session=True)
    assert done.stdout == f"(12, {SIZE}, {SIZE}, 3)\n"


class Elsewhere(list):
    """Examples that are sent as what `sent` says."""

    sent = list, ()

    def parts(self, numbers):
        yield self

    def __reduce__(self):
        return self.sent


class Deadly(Elsewhere):
    """Examples whose reading kills the process, as too little memory does."""

    sent = signal.raise_signal, (signal.SIGKILL,)


def test_pictures_that_end_a_process_are_named(source, many_cores):
    workers.squares_of(source.train, range(12), SIZE)  # the one that is idle dies first
    with pytest.raises(UserError, match=r"signal 9 while it read .*\.jpg and 9 more; expected them to fit"):
        workers.squares_of(Deadly(source.train[number] for number in (0, 1) * 5), range(10), SIZE)
    assert pids() == []
    workers.squares_of(source.train, range(12), SIZE)


class Unknown(Elsewhere):
    """Examples of a kind that the process does not know, as a notebook's may be."""

    sent = importlib.import_module, ("a module that nobody has",)


def test_what_fails_elsewhere_is_tried_here(source, many_cores, capfd):
    examples = Unknown(source.train[number] for number in (0, 1) * 5)
    found = workers.squares_of(examples, range(10), SIZE)
    np.testing.assert_array_equal(found.images, workers.decoded(examples, range(10), SIZE).images)
    assert capfd.readouterr().err == ""
    assert pids() == []


@pytest.mark.parametrize("executable", ["", "/no/such/python"])
def test_without_another_process_pictures_are_decoded_here(source, many_cores, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    assert workers.squares_of(source.train, range(12), SIZE).images.any()
    assert pids() == []


def test_large_records_are_sent_in_parts(many_cores, monkeypatch):
    monkeypatch.setattr("zfjax.data.squares._PART", 3000)
    records = [{"image": encoded(number) if number != 7 else b"", "label": number} for number in range(12)]
    examples = RecordExamples("set", records, np.arange(12), "")
    assert [len(part) for part in examples.parts(range(12))] != [12]
    found, expected = (fun(examples, range(12), SIZE, 12) for fun in (workers.squares_of, workers.decoded))
    for mine, its in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(its))
    assert [row for row, _ in found.broken] == [7]
    assert len(pids()) == 1


def test_a_forked_child_has_processes_of_its_own(source, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import os
            from zfjax.data import workers
            from zfjax.data.opening import open_source

            workers.cores = lambda: 16
            examples = open_source({f"folder:{source.root}"!r}).train
            first = workers.squares_of(examples, range(12), {SIZE}).images
            child = os.fork()
            for _ in range(20):
                assert (workers.squares_of(examples, range(12), {SIZE}).images == first).all()
            if not child:
                workers._POOL.end()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """)
    )
    subprocess.run([sys.executable, str(script)], timeout=120, check=True)


class Wrong(Elsewhere):
    """Examples that cannot be sent."""

    def __reduce__(self):
        raise ZeroDivisionError


def test_what_cannot_be_sent_leaves_no_process_waiting(source, many_cores):
    with pytest.raises(ZeroDivisionError):
        workers.squares_of(Wrong(source.train[number] for number in (0, 1) * 5), range(10), SIZE)
    assert pids() == []


def test_threads_have_processes_of_their_own(source, many_cores):
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: workers.squares_of(source.train, range(16), SIZE), range(24)))
    for one in found[1:]:
        np.testing.assert_array_equal(one.images, found[0].images)
    assert 1 <= len(pids()) <= 4
    assert sorted(workers._POOL._idle, key=id) == sorted(workers._POOL._all, key=id)


def waiting_process(idle):
    code = f"from zfjax.data import workers; workers.IDLE = {idle}; workers.serve()"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_an_idle_process_ends():
    with waiting_process(0.1) as process:
        assert process.wait(60) == 0


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_processes_end_with_a_script_that_is_killed(source, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(  # not guarded by `if __name__`, as scripts are
        textwrap.dedent(f"""
            import os, signal
            from zfjax.data import workers
            from zfjax.data.opening import open_source

            workers.cores = lambda: 16
            print("once", flush=True)
            examples = open_source({f"folder:{source.root}"!r}).train
            workers.squares_of(examples, range(12), {SIZE})
            print(*(worker.process.pid for worker in workers._POOL._all), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    once, pid = done.stdout.split()
    assert once == "once"
    deadline = time.monotonic() + 30
    while is_alive(int(pid)):
        assert time.monotonic() < deadline, "the process outlives its parent"
        time.sleep(0.05)
