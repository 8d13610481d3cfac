import concurrent.futures
import multiprocessing
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from tiny_runs import make_folder

from zfjax.console import paths
from zfjax.console.errors import UserError
from zfjax.console.hold import hold
from zfjax.data import cache, together
from zfjax.data import record as records
from zfjax.data.decode import decode_square
from zfjax.data.opening import open_source
from zfjax.data.scan import scan, scan_once
from zfjax.data.source import BrokenImage, Example, Source
from zfjax.data.together import Share, require_shared

SIZE = 16


class Memory:
    """Examples made of arrays; None is a broken one."""

    def __init__(self, pictures, labels, fingerprint="memory"):
        self.pictures, self.labels, self.fingerprint = pictures, labels, fingerprint
        self.reads = 0

    @property
    def stamps(self):
        numbers = np.arange(len(self)) + 1 + 1000 * zlib.crc32(self.fingerprint.encode())
        return np.stack([np.zeros(len(self), np.int64), numbers], axis=1)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        self.reads += 1
        if self.pictures[index] is None:
            raise BrokenImage(f"picture {index}: lost")
        return Example(f"picture {index}", self.pictures[index], self.labels[index])


def drawn(count, *, broken=(), seed=0):
    from io import BytesIO

    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        buffer = BytesIO()
        shape = (int(rng.integers(9, 40)), int(rng.integers(9, 40)), 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
        out.append(None if i in broken else buffer.getvalue())
    return out


def memory_source(*, train=40, val=10, broken=(), fingerprint="memory"):
    return Source(
        "memory",
        ("a", "b"),
        Memory(drawn(train, broken=broken), [i % 2 for i in range(train)], fingerprint),
        Memory(drawn(val, seed=1), [0] * val),
    )


def same(one, two):
    assert len(one.train) == len(two.train)
    for split in ("train", "val"):
        mine, its = getattr(one, split), getattr(two, split)
        for left, right in zip(mine.load(np.arange(len(mine))), its.load(np.arange(len(its))), strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(one.record.mean, two.record.mean)
    assert one.record.messages.tolist() == two.record.messages.tolist()
    assert one.record.equals(two.record)


def by_three(look):
    """What three processes, here threads, get or are told, of which each calls `look` with its share."""
    told, all_are_here = [{}, {}, {}], threading.Barrier(3, timeout=60)

    def of(number):
        def gather(mine):
            told[number] = mine
            all_are_here.wait()
            every = list(told)
            all_are_here.wait()
            return every

        try:
            return look(number, Share(number, 3, gather))
        except UserError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        return list(pool.map(of, range(3)))


def test_processes_together_see_what_one_sees_and_each_reads_its_share(tmp_path):
    sources = [memory_source(broken=[3, 17, 39]) for _ in range(3)]
    expected = scan(memory_source(broken=[3, 17, 39]), SIZE, max_broken=0.1)
    for found in by_three(lambda number, share: scan(sources[number], SIZE, max_broken=0.1, share=share)):
        same(found, expected)
        np.testing.assert_array_equal(found.record.train_prints, expected.record.train_prints)
        np.testing.assert_array_equal(found.record.val_prints, expected.record.val_prints)
    reads = [(source.train.reads, source.val.reads) for source in sources]
    assert np.sum(reads, axis=0).tolist() == [40 + 3 * 37, 10 + 3 * 10]  # and `same` has loaded what is whole
    # A cache needs all squares, and a process alone may have one.
    caches = ["", str(tmp_path / "cache"), ""]
    sources = [memory_source() for _ in range(3)]
    found = by_three(lambda number, share: scan(sources[number], SIZE, cache_dir=caches[number], share=share))
    assert [source.train.reads for source in sources] == [40] * 3
    same(found[0], found[1])


def test_processes_together_are_told_alike_what_is_wrong(tmp_path):
    def told(sources, **options):
        lines = by_three(lambda number, share: scan(sources[number], SIZE, share=share, **options))
        assert len(set(lines)) == 1
        return lines[0]

    few = [memory_source(broken=[0, 20, 39]) for _ in range(3)]
    assert "at least 3 of its 50 images are broken" in told(few, max_broken=0.05)  # each process alone finds 1
    wrong = [memory_source() for _ in range(3)]
    for source in wrong:
        source.train.labels[39] = 7
    assert told(wrong) == "picture 39: expected a label in 0..1, found 7"
    assert "one readable image or more in its val split" in told([memory_source(val=0) for _ in range(3)])
    records.write(scan(memory_source(), SIZE).record, tmp_path)
    folders = [tmp_path, None, tmp_path]  # where no run was begun, there is none
    lines = by_three(lambda number, share: scan_once(folders[number], memory_source(), SIZE, share=share))
    assert (
        lines == ["only some of the processes find scan.npz in the run's folder; expected one that all hosts share"] * 3
    )


@pytest.mark.parametrize("caches", [["", "", ""], ["", "{}/cache", ""]])
def test_a_process_with_other_pictures_than_most_is_named_by_all(tmp_path, caches):
    def told(*sources):
        folders = [cache.format(tmp_path) for cache in caches]
        lines = by_three(lambda i, share: scan(sources[i], SIZE, cache_dir=folders[i], share=share))
        (line,) = {line.partition(": expected the same pictures on all hosts; ")[2] for line in lines}
        return line

    fewer = told(memory_source(train=39), memory_source(), memory_source())
    assert fewer == "process 0 finds 39 train images, process 1 finds 40"
    for host in "abc":
        make_folder(tmp_path / host / "set", per_class=10)
    first = next((tmp_path / "c" / "set").rglob("*.png"))
    content = first.read_bytes()
    first.write_bytes(content + b"\0")
    sources = [open_source(f"folder:{tmp_path / host / 'set'}") for host in "abc"]
    split = "val" if f"{first.parent.name}/{first.name}" in sources[2].val.names else "train"
    assert told(*sources) == f"process 2 finds {split} images of other names or sizes than process 0"
    first.rename(first.with_stem("other"))
    first.with_stem("other").write_bytes(content)
    sources[2] = open_source(f"folder:{tmp_path / 'c' / 'set'}")
    assert "process 2 finds" in told(*sources)


def test_processes_that_do_not_share_a_folder_are_told_alike(tmp_path, monkeypatch):
    folders = [tmp_path / "shared", tmp_path / "own", tmp_path / "shared"]
    with hold(folders[0], "a test"), hold(folders[1], "a test of another host"):
        assert by_three(lambda _, share: require_shared(share, folders[0])) == [None] * 3
        monkeypatch.setattr(together, "SEEN_AFTER", 0.0)
        lines = by_three(lambda number, share: require_shared(share, folders[number]))
        assert set(lines) == {
            f"{folder}: process 1 does not find there what process 0 writes; expected a folder that all hosts share"
            for folder in folders
        }
        folders[1] = tmp_path / "nowhere"
        assert "process 1 does not find there" in by_three(lambda i, share: require_shared(share, folders[i]))[2]


def test_a_folder_is_shared_as_soon_as_a_slow_disk_shows_its_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(together, "SEEN_AFTER", 30.0)
    late = tmp_path / "late"
    with hold(tmp_path / "shared", "a test"):
        threading.Timer(0.5, lambda: late.symlink_to(tmp_path / "shared")).start()
        folders = [tmp_path / "shared", late, tmp_path / "shared"]
        assert by_three(lambda number, share: require_shared(share, folders[number])) == [None] * 3


def test_mean_is_that_of_the_training_squares():
    source = memory_source()
    squares = np.stack([decode_square(data, SIZE) for data in source.train.pictures])
    found = scan(source, SIZE)
    assert found.record.mean.dtype == np.float32
    np.testing.assert_array_equal(found.record.mean, squares.astype(np.float64).mean(0).astype(np.float32))
    images, labels = found.train.load(np.array([3, 3, 0]))
    np.testing.assert_array_equal(images, squares[[3, 3, 0]])
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert labels.tolist() == [1, 1, 0]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_do_not_matter(threads):
    same(scan(memory_source(broken=[3, 17, 39]), SIZE, max_broken=0.1, threads=threads),
         scan(memory_source(broken=[3, 17, 39]), SIZE, max_broken=0.1, threads=3))  # fmt: skip


def test_each_picture_is_read_once():
    source = memory_source()
    scan(source, SIZE)
    assert (source.train.reads, source.val.reads) == (40, 10)


def test_broken_pictures_are_named_skipped_and_counted(caplog):
    found = scan(memory_source(broken=[3, 17]), SIZE, max_broken=0.05)
    broken = found.record.messages.tolist()
    assert broken == ["picture 3: lost", "picture 17: lost"]
    assert [r.getMessage() for r in caplog.records] == [f"skipped broken image {name}" for name in broken]
    assert len(found.train) == 38
    source = memory_source()
    kept = [i for i in range(40) if i not in (3, 17)]
    images, labels = found.train.load(np.arange(38))
    np.testing.assert_array_equal(images, np.stack([source.train[i].square(SIZE) for i in kept]))
    assert labels.tolist() == [i % 2 for i in kept]
    np.testing.assert_array_equal(found.record.mean, images.astype(np.float64).mean(0).astype(np.float32))


def test_more_broken_than_allowed_stops():
    scan(memory_source(broken=[3]), SIZE, max_broken=0.02)  # 1 of 50: not more than 2 %
    with pytest.raises(
        UserError, match=r"1 of its 50 images are broken, more than max_broken=0.01 allows; .* picture 3"
    ):
        scan(memory_source(broken=[3]), SIZE)
    with pytest.raises(UserError, match="max_broken 7: expected a share"):
        scan(memory_source(), SIZE, max_broken=7)


def test_a_split_without_readable_pictures_stops():
    with pytest.raises(UserError, match="expected one readable image or more in its train split"):
        scan(memory_source(train=3, broken=[0, 1, 2]), SIZE, max_broken=1)
    with pytest.raises(UserError, match="in its val split"):
        scan(memory_source(val=0), SIZE)


@pytest.mark.parametrize("label", [-1, 2])
def test_label_out_of_range_stops(label):
    source = memory_source()
    source.train.labels[5] = label
    with pytest.raises(UserError, match=rf"picture 5: expected a label in 0\.\.1, found {label}"):
        scan(source, SIZE)


# What a run keeps


def test_saved_scan_comes_back_without_decoding(tmp_path):
    found = scan(memory_source(broken=[3]), SIZE, max_broken=0.1)
    records.write(found.record, tmp_path)
    source = memory_source(broken=[3])
    back = scan_once(tmp_path, source, SIZE)
    assert source.train.reads == 0
    same(back, found)
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_saved_scan_of_other_pictures(tmp_path):
    records.write(scan(memory_source(), SIZE).record, tmp_path)
    with pytest.raises(UserError, match="memory: expected 40 train images, as when the run began, found 41"):
        scan_once(tmp_path, memory_source(train=41), SIZE)
    (tmp_path / "scan.npz").write_bytes(b"PK\3\4 cut short")
    with pytest.raises(UserError, match=r"scan\.npz is damaged"):
        scan_once(tmp_path, memory_source(), SIZE)


def test_scan_once_scans_once(tmp_path):
    first = scan_once(None, memory_source(), SIZE)
    same(scan_once(tmp_path, memory_source(), SIZE), first)
    assert os.listdir(tmp_path) == []
    records.write(first.record, tmp_path)
    source = memory_source()
    same(scan_once(tmp_path, source, SIZE), first)
    assert source.train.reads == 40  # `same` alone
    with pytest.raises(UserError, match="its mean image is 16 px; expected 20 px"):
        scan_once(tmp_path, source, 20)
    cached = scan_once(tmp_path, memory_source(), SIZE, cache_dir=str(tmp_path / "cache"))
    same(cached, first)
    moved = memory_source(fingerprint="elsewhere")
    same(scan_once(tmp_path, moved, SIZE), first)
    assert moved.train.reads == 40 + 40  # compared, and by `same`
    changed = memory_source(fingerprint="changed")
    changed.train.pictures[0] = drawn(1, seed=9)[0]
    first = r"have changed since the run in .* began; the first that differs is picture 0$"
    for cache_dir in ("", str(tmp_path / "cache")):
        with pytest.raises(UserError, match=first):
            scan_once(tmp_path, changed, SIZE, cache_dir=cache_dir)


def test_picture_that_breaks_after_the_scan(tmp_path):
    source = memory_source()
    found = scan(source, SIZE)
    source.train.pictures[2] = None
    with pytest.raises(UserError, match="picture 2: lost; it could be read when the run began"):
        found.train.load(np.array([1, 2]))


# The cache


def test_cache_equals_decoding_and_then_decodes_nothing(tmp_path):
    plain = scan(memory_source(broken=[3]), SIZE, max_broken=0.1)
    written = scan(memory_source(broken=[3]), SIZE, max_broken=0.1, cache_dir=str(tmp_path))
    same(written, plain)
    source = memory_source(broken=[3])
    same(scan(source, SIZE, max_broken=0.1, cache_dir=str(tmp_path)), plain)
    assert source.train.reads == source.val.reads == 0
    with pytest.raises(UserError, match=r"more than max_broken=0\.01"):
        scan(source, SIZE, cache_dir=str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert sorted(os.listdir(folder)) == ["scan.npz", "train.npy", "val.npy"]
    assert folder.name.startswith("memory-16-")


def test_cache_of_changed_pictures_or_another_size_is_not_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i, data in enumerate(drawn(6, seed=ord(name))):
            (tmp_path / "set" / name / f"{i}.png").write_bytes(data)
    store = str(tmp_path / "cache")
    first = scan(open_source(f"folder:{tmp_path}/set"), SIZE, cache_dir=store)
    path = pathlib.Path(open_source(f"folder:{tmp_path}/set").train[0].name)
    path.write_bytes(drawn(1, seed=5)[0])
    second = scan(open_source(f"folder:{tmp_path}/set"), SIZE, cache_dir=store)
    assert not np.array_equal(second.record.mean, first.record.mean)
    scan(open_source(f"folder:{tmp_path}/set"), SIZE + 1, cache_dir=store)
    assert len(os.listdir(store)) == 3


def test_stopped_while_caching_leaves_nothing(tmp_path):
    source = memory_source(train=200, broken=[150])
    with pytest.raises(UserError, match="broken"):
        scan(source, SIZE, max_broken=0, cache_dir=str(tmp_path))
    assert os.listdir(tmp_path) == []


KILLED = """
import os, sys, signal, numpy as np
sys.path.insert(0, {tests!r})
from test_data_scan import Memory, Source, drawn, scan
class Last(Memory):
    def __getitem__(self, index):
        if index == 150:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)
pictures = drawn(1) * 200
scan(Source("memory", ("a", "b"), Last(pictures, [0] * 200), Memory(pictures[:1], [0])), 16,
     cache_dir={store!r}, threads=1)
"""


def test_killed_while_caching_leaves_nothing_that_is_read(tmp_path):
    tests = str(pathlib.Path(__file__).parent)
    code = KILLED.format(tests=tests, store=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(tests).parent, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.draft"))) == 1
    pictures = drawn(1) * 200
    source = Source("memory", ("a", "b"), Memory(pictures, [0] * 200), Memory(pictures[:1], [0]))
    found = scan(source, SIZE, cache_dir=str(tmp_path))
    assert source.train.reads == 200
    same(found, scan(source, SIZE))
    assert len(os.listdir(tmp_path)) == 1  # the dead one's was swept away


def _scan_into(store, at, out):
    time.sleep(max(0, at - time.time()))
    source = memory_source()
    mean = scan(source, SIZE, cache_dir=store).record.mean.tobytes()
    out.put((mean, source.train.reads))


def test_of_writers_at_once_one_writes_and_the_others_wait(tmp_path):
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    at = time.time() + 1
    writers = [context.Process(target=_scan_into, args=(str(tmp_path), at, out)) for _ in range(3)]
    for writer in writers:
        writer.start()
    means, reads = zip(*(out.get(timeout=60) for _ in writers), strict=True)
    for writer in writers:
        writer.join()
    assert set(means) == {scan(memory_source(), SIZE).record.mean.tobytes()}
    assert sorted(reads) == [0, 0, 40]
    assert len(os.listdir(tmp_path)) == 1


def test_disk_too_small_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: os.statvfs_result([0] * 10) and Usage())
    source = memory_source()
    with pytest.raises(UserError, match=r"^cannot write in .*: expected 38\.4 kB free, found 1\.0 kB$"):
        scan(source, SIZE, cache_dir=str(tmp_path))
    assert source.train.reads == 0


class Usage:
    free = 1000


def test_disk_full_while_caching(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # writing more into a file fails, as on a full disk
    try:
        with pytest.raises(
            UserError, match=r"^cannot write in .*: File too large; expected 38\.4 kB of writable space"
        ):
            scan(memory_source(), SIZE, cache_dir=str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_cache_dirs_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match="gs://bucket/x: expected a path on this disk, since"):
        scan(memory_source(), SIZE, cache_dir="gs://bucket/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write in .*file: it is no folder"):
        scan(memory_source(), SIZE, cache_dir=str(tmp_path / "file"))


def test_damaged_cache_is_said(tmp_path):
    scan(memory_source(), SIZE, cache_dir=str(tmp_path))
    (folder,) = tmp_path.glob("memory-*[0-9a-f]")
    whole = (folder / "train.npy").read_bytes()
    for damage in (
        whole[:-10],
        whole[:7],
        b"",
        b"x" * 99,
        whole.replace(b"|u1", b"<u2"),
        whole.replace(b"(40,", b"(39,"),
    ):
        (folder / "train.npy").write_bytes(damage)
        with pytest.raises(UserError, match=f"cache {folder}: (damaged .*|incomplete); remove this folder"):
            scan(memory_source(), SIZE, cache_dir=str(tmp_path))
    (folder / "train.npy").write_bytes(whole)
    (folder / "scan.npz").write_bytes(b"")
    with pytest.raises(UserError, match=rf"scan\.npz is damaged .*; remove the folder {folder}"):
        scan(memory_source(), SIZE, cache_dir=str(tmp_path))
    (folder / "train.npy").unlink()
    os.mkfifo(folder / "train.npy")  # whose end would never come
    (folder / "scan.npz").unlink()
    with pytest.raises(UserError, match=f"cache {folder}: incomplete; remove this folder"):
        scan(memory_source(), SIZE, cache_dir=str(tmp_path))
    shutil.rmtree(folder)
    folder.write_text("")
    with pytest.raises(UserError, match=f"cache {folder}: it is no folder; remove it"):
        scan(memory_source(), SIZE, cache_dir=str(tmp_path))


# The same pictures, or others


def bitmaps(folder, per_class=4):
    """Class folders of pictures that all have one size, and one time, as an archive's."""
    for label, name in enumerate(("a", "b")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            path = folder / name / f"{i}.bmp"
            Image.fromarray(np.full((8, 8, 3), 5 * i + 120 * label, np.uint8)).save(path)
            os.utime(path, (10**9, 10**9))
    return folder


def swap(one, two):
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    one.with_suffix(".x").rename(two)


CHANGES = {
    "overwritten": lambda folder: Image.new("RGB", (8, 8)).save(folder / "a" / "2.bmp"),
    "another size": lambda folder: Image.new("RGB", (9, 8)).save(folder / "a" / "2.bmp"),
    "swapped": lambda folder: swap(folder / "a" / "1.bmp", folder / "a" / "2.bmp"),
    "swapped between classes": lambda folder: swap(folder / "a" / "1.bmp", folder / "b" / "2.bmp"),
    "in another order": lambda folder: (folder / "a" / "1.bmp").rename(folder / "a" / "9.bmp"),
    "a class more": lambda folder: [(folder / name / "3.bmp").rename(folder / name / "0a.bmp") for name in "ab"],
    "broken": lambda folder: (folder / "a" / "2.bmp").write_bytes(b"BM"),
}


@pytest.mark.parametrize("cached", [False, True], ids=["decoded", "cached"])
@pytest.mark.parametrize("change", CHANGES)
def test_other_pictures_under_the_names_of_a_run_are_refused(tmp_path, change, cached):
    folder, run, cache_dir = bitmaps(tmp_path / "set"), tmp_path / "run", str(tmp_path / "cache") if cached else ""
    first = scan_once(None, open_source(f"folder:{folder}"), SIZE, cache_dir=cache_dir)
    records.write(first.record, run)
    same(scan_once(run, open_source(f"folder:{folder}"), SIZE, cache_dir=cache_dir), first)
    CHANGES[change](folder)
    for path in folder.rglob("*.bmp"):
        os.utime(path, (10**9, 10**9))
    with pytest.raises(
        UserError, match=r"set: its images have changed since the run in .*run began; the first that diff"
    ):
        scan_once(run, open_source(f"folder:{folder}"), SIZE, cache_dir=cache_dir, max_broken=1)


@pytest.mark.parametrize("cached", [False, True], ids=["decoded", "cached"])
def test_the_same_pictures_in_another_place_are_those_of_the_run(tmp_path, cached, monkeypatch):
    folder, run, cache_dir = bitmaps(tmp_path / "set"), tmp_path / "run", str(tmp_path / "cache") if cached else ""
    first = scan_once(None, open_source(f"folder:{folder}"), SIZE, cache_dir=cache_dir)
    records.write(first.record, run)
    squares = first.train.load(np.arange(len(first.train)))[0]
    copied = shutil.copytree(folder, tmp_path / "copied")
    folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for spec in ("folder:moved", "folder:./moved/", f"folder:{tmp_path}/moved", f"folder:{copied}"):
        found = scan_once(run, open_source(spec), SIZE, cache_dir=cache_dir)
        np.testing.assert_array_equal(found.train.load(np.arange(len(squares)))[0], squares)
    if cached:
        names = sorted(path.name.split("-")[0] for path in (tmp_path / "cache").iterdir())
        assert names == ["copied", "moved", "set"]  # however the path was spelled
    Image.new("RGB", (8, 8), (1, 2, 3)).save(copied / "b" / "2.bmp")
    with pytest.raises(UserError, match=r"copied: its images have changed .*first that differs is .*copied/b/2.bmp"):
        scan_once(run, open_source("folder:copied"), SIZE, cache_dir=cache_dir)


def test_of_very_many_copied_pictures_some_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("zfjax.data.prints.MOST_READ", 10)
    records.write(scan(memory_source(), SIZE).record, tmp_path)
    moved = memory_source(fingerprint="elsewhere")
    scan_once(tmp_path, moved, SIZE)
    assert (moved.train.reads, moved.val.reads) == (10, 0)


def test_a_scan_of_an_older_zfjax_is_read_and_knows_nothing_of_the_pictures(tmp_path):
    found = scan(memory_source(), SIZE)
    kept = found.record._asdict()
    for name in ("notes", "train_prints", "val_prints"):
        del kept[name]
    np.savez_compressed(tmp_path / "scan.npz", **kept)
    changed = memory_source()
    changed.train.pictures[0] = drawn(1, seed=9)[0]
    back = scan_once(tmp_path, changed, SIZE)
    assert not back.record.known
    assert changed.train.reads == 0
    same(scan_once(tmp_path, memory_source(), SIZE, cache_dir=str(tmp_path / "cache")), found)
    with pytest.raises(UserError, match=r"have changed since the run in .* began$"):  # by the mean image
        scan_once(
            tmp_path,
            memory_source(train=40, fingerprint="x", broken=[2]),
            SIZE,
            max_broken=1,
            cache_dir=str(tmp_path / "c"),
        )


@pytest.fixture
def bucket(monkeypatch):
    """`gs://` in memory."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")

    class Bucket:
        def __getattr__(self, name):
            return lambda path, *args, **options: getattr(memory, name)(
                os.fspath(path).replace("gs://", "/"), *args, **options
            )

    monkeypatch.setattr("etils.epath.backend._FileSystemSpecBackend.fs", lambda *_: Bucket())
    monkeypatch.setitem(paths._PACKAGES, "gs", "fsspec")  # which is there, and gcsfs need not be
    yield memory
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("cached", [False, True], ids=["decoded", "cached"])
def test_pictures_in_a_bucket(bucket, tmp_path, cached):
    """Read by their names and some by their content, since asking for the times of each would take long."""
    for split, count in (("train", 40), ("valid", 4), ("test", 3)):
        for label, name in enumerate("ab"):
            for i, data in enumerate(drawn(count, seed=label + 2 * count)):
                bucket.pipe(f"/bucket/photos/{split}/{name}/{i:02}", data)
    bucket.pipe("/bucket/photos/train/a/deeper/x.png", b"x")
    source = open_source("folder:gs://bucket/photos")
    assert source.notes[0].endswith(
        "trains on train/ (80 images), validates on valid/ (8); left aside: test/ (6 files)"
    )
    assert source.notes[1].endswith("left out: 1 in deeper folders (a/deeper)")
    cache_dir = str(tmp_path / "cache") if cached else ""
    first = scan_once(None, source, SIZE, cache_dir=cache_dir)
    records.write(first.record, tmp_path)
    same(scan_once(tmp_path, open_source("folder:gs://bucket/photos"), SIZE, cache_dir=cache_dir), first)
    bucket.pipe("/bucket/photos/valid/b/03", drawn(1, seed=99)[0])
    with pytest.raises(UserError, match=r"the first that differs is gs://bucket/photos/valid/b/03"):
        scan_once(tmp_path, open_source("folder:gs://bucket/photos"), SIZE, cache_dir=cache_dir)


def test_pictures_that_are_no_longer_used_are_told(tmp_path):
    folder = bitmaps(tmp_path / "set", per_class=20)
    records.write(scan(open_source(f"folder:{folder}"), SIZE).record, tmp_path)
    for name in "ab":
        for i in (1, 2):
            (folder / name / f"{i}.bmp").rename(folder / name / f"{i}.bmp.part")
    with pytest.raises(
        UserError, match=r"expected 36 train images, as when the run began, found 3\d; left out: 4 .part"
    ):
        scan_once(tmp_path, open_source(f"folder:{folder}"), SIZE)
