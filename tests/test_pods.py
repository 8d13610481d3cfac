"""Commands that look at a run, in several processes, each with its share of the pictures, and on several devices."""

import contextlib
import io
import json
import pathlib
import re
import shutil
import signal
import socket
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shared_pieces
import tiny_runs
from jax.tree_util import Partial

from zfjax import atlas, compare, evaluate, figures, transfer
from zfjax.console import command, processes
from zfjax.console.errors import UserError
from zfjax.experiments import passes
from zfjax.experiments.gallery import top_activations
from zfjax.runs.given import open_run
from zfjax.training import sharding

pytestmark = pytest.mark.slow
PROCESSES = 3
BROKEN = "circles/003.png"  # of OTHER
COMMANDS = {  # with OTHER, a folder of other pictures, and BOXES, a file
    figures: ["--only=fig2", "--layers=relu3", "--maps=2", "--batch_size=2"],
    atlas: ["--layers=relu1", "--batch_size=2"],
    evaluate: ["--batch_size=2"],
    compare: ["--boxes=BOXES", "--only=random", "--count=5", "--rows=1", "--sanity_images=0", "--batch_size=2"],
    transfer: ["--dataset=folder:OTHER", "--per_class=3", "--folds=1", "--layer=5", "--noscratch", "--batch_size=2"],
}
# Joins once for all commands: a process can't join twice.
TOGETHER = """
import importlib, json, os, signal, sys
from zfjax.console import command, signals
signals.listen()
joining, workdir, dies, tests, *words = json.loads(sys.argv[1])
sys.path.append(tests)
import quick
quick.prepare()
def main(_):
    from zfjax.experiments import passes
    passes.ROUNDS, write, done = 1, passes.Parts.write, []
    def written(self, key, tops, images):
        done.append(images)
        print("part", images, file=sys.stderr, flush=True)
        if dies and len(done) == 2:  # the first has been written for sure
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, key, tops, images)
    passes.Parts.write = written
    for name, flags in words:
        importlib.import_module(name).main([name, f"--workdir={workdir}", *flags, *joining])
        joining.clear()
    import shared_pieces
    shared_pieces.write(workdir)
command.execute(main)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("pods")
    tiny_runs.untrained(tiny_runs.make_folder(root / "photos", 60), root / "run", max_broken=0.1)
    # 20 that are whole: of the last 2, the last process gets none.
    (tiny_runs.make_folder(root / "OTHER", 7, seed=1) / BROKEN).write_bytes(b"no picture")
    boxes = {f"{name}/{number:03}.png": [4, 4, 30, 30] for name in tiny_runs.CLASSES for number in range(60)}
    (root / "BOXES").write_text(json.dumps(boxes))
    return root / "run"


def flags_of(module, root):
    return [flag.replace("OTHER", f"{root}/OTHER").replace("BOXES", f"{root}/BOXES") for flag in COMMANDS[module]]


def started(run, workdir, dies=None):
    """What processes on one host say together, and their exit codes; one of them may die in its first pass."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    working = []
    for process in range(PROCESSES):
        joining = [f"--coordinator={address}", f"--processes={PROCESSES}", f"--process={process}"]
        words = ((module.__name__, flags_of(module, run.parent)) for module in COMMANDS)
        asked = [joining, str(workdir), process == dies, str(pathlib.Path(__file__).parent), *words]
        working.append(tiny_runs.start([sys.executable, "-c", TOGETHER, json.dumps(asked)]))
    said = [process.communicate(timeout=400) for process in working]
    return said, [process.returncode for process in working]


@pytest.fixture(scope="module")
def broken_off(run):
    """What three processes say of which one is killed in a pass, and what they leave."""
    workdir = shutil.copytree(run, run.with_name("together") / "run")
    said, codes = started(run, workdir, dies=1)
    return workdir, said, codes, [path.name for path in (workdir / "passes").iterdir()]


@pytest.fixture(scope="module")
def together(run, broken_off):
    """What three processes write together, of which one was killed before, and what they say."""
    said, codes = started(run, broken_off[0])
    assert codes == [0] * PROCESSES, said
    return broken_off[0], said


@pytest.fixture(scope="module")
def alone(run):
    """What one process writes and prints, on eight devices."""
    assert jax.device_count() == 8
    workdir, said = shutil.copytree(run, run.with_name("alone") / "run"), io.StringIO()
    with contextlib.redirect_stdout(said):
        for module in COMMANDS:
            words = [module.__name__, f"--workdir={workdir}", *flags_of(module, run.parent)]
            assert command.run(module.main, words) == 0
    shared_pieces.write(workdir)
    return workdir, said.getvalue()


def written(workdir, folder):
    """The files there and what they hold, but for times."""
    left_out = re.compile(r"(.*\.(pdf|lock)|lenses\.(csv|json|md))")
    files = (path for path in (workdir / folder).rglob("*") if path.is_file() and not left_out.fullmatch(path.name))
    return {str(path.relative_to(workdir)): content(path) for path in files}


def content(path):
    """Bytes; of an .npz, whose bytes have the time in them, those of its arrays."""
    data = path.read_bytes()
    if path.suffix != ".npz":
        return data
    arrays = np.load(io.BytesIO(data)).items()
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays if name != "seconds"}


@pytest.mark.parametrize("folder", ["figures", "atlas", "compare", "features", "transfer", "pieces"])
def test_processes_together_write_what_one_writes_to_the_last_bit(alone, together, folder):
    expected, found = written(alone[0], folder), written(together[0], folder)
    assert expected.keys() == found.keys()
    assert any(path.endswith((".npz", ".webp", ".npy")) for path in expected)
    assert [path for path in expected if found[path] != expected[path]] == []
    assert not (together[0] / "passes").exists()


def test_a_lost_process_ends_the_others_and_the_same_command_goes_on_where_they_were(broken_off, together):
    _, said, codes, left = broken_off
    assert codes == [3, -signal.SIGKILL, 3], said
    for number in (0, 2):
        lines = [line for line in said[number][1].splitlines() if line.startswith("zfjax: ")]
        assert len(lines) == 1, said
        assert re.match("zfjax: lost process 1 .*; the same command on all hosts goes on from what is saved", lines[0])
    assert len(left) == 1
    assert "part 6\n" in said[0][1]
    assert re.search(r"part (\d+)", together[1][0][1])[1] in ("12", "18")  # of 18 images, 6 in a part


def test_the_first_process_speaks_for_all(alone, together):
    """A table as one process prints it, and what is wrong with a picture that all were given, once."""
    workdir, said = together
    table = re.search(r"net +crops(.*\n)+?.* 10 .*\n", alone[1])[0]
    assert (
        table.replace(str(alone[0]), str(workdir)).split()
        == said[0][0][said[0][0].index("net ") :].split()[: len(table.split())]
    )
    assert said[0][0].count("written to") == 4
    assert not any("written to" in out for out, _ in said[1:])
    assert sum(err.count(f"skipped broken image {workdir.parents[1]}/OTHER/{BROKEN}") for _, err in said) == 1


def test_one_device_finds_what_eight_find(run, monkeypatch):
    subject = figures_subject(run)
    many = passes.strongest(subject, ["relu3", "relu5"], 4, 2)
    monkeypatch.setattr(sharding, "data_mesh", lambda: jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]))
    one = passes.strongest(subject, ["relu3", "relu5"], 4, 2)
    jax.tree.map(np.testing.assert_array_equal, one, many)


def test_a_pass_goes_on_after_the_last_part_that_was_done(run, tmp_path, monkeypatch):
    subject, seen = figures_subject(run), []
    monkeypatch.setattr(passes, "ROUNDS", 1)
    whole = passes.strongest(subject, ["relu4"], 9, 1)
    parts = passes.Parts(tmp_path / "passes")
    monkeypatch.setattr(parts, "write", lambda *args: 1 / 0 if seen else seen.append(passes.Parts.write(parts, *args)))
    with pytest.raises(ZeroDivisionError):
        passes.strongest(subject, ["relu4"], 9, 1, parts)
    numbers, read = [], type(subject).numbered
    monkeypatch.setattr(type(subject), "numbered", lambda *args: numbers.append(args[3]) or read(*args))
    again = passes.Parts(tmp_path / "passes")
    jax.tree.map(np.testing.assert_array_equal, passes.strongest(subject, ["relu4"], 9, 1, again), whole)
    assert numbers == [8, 16]  # of 18 pictures, 8 at a time
    (file,) = (tmp_path / "passes").iterdir()
    assert passes.strongest(subject, ["relu4"], 9, 1, again)["relu4"].values.shape[1] == 9  # all is done
    assert numbers == [8, 16]
    file.write_bytes(file.read_bytes()[:-9])  # a damaged one is as none
    tops = passes.strongest(subject, ["relu4"], 9, 1, again)
    assert numbers == [8, 16, 0, 8, 16]
    # The second pass of an atlas
    expected = passes.responded(subject, tops, 1)
    seen.clear()
    with pytest.raises(ZeroDivisionError):
        passes.responded(subject, tops, 1, parts)
    numbers.clear()
    jax.tree.map(np.testing.assert_array_equal, passes.responded(subject, tops, 1, again), expected)
    assert numbers == [8, 16]
    again.clear()
    assert not (tmp_path / "passes").exists()


@pytest.mark.parametrize("equal", [0.0, -0.0, 5.0])
def test_of_equals_the_earlier_image_wins_on_whichever_device_it_is(equal):
    """Images that are equal, or zeros of both signs, on all devices, and earlier ones from a pass before."""
    rng = np.random.default_rng(0)
    images = np.where(rng.integers(0, 2, (48, 1, 3)) > 0, equal, rng.choice([0.0, -0.0], (48, 1, 3))).astype(np.float32)
    fun, mesh = Partial(lambda x: x), sharding.data_mesh()
    expected = top_activations(fun, [images], 7)

    def of(numbers):
        placed = sharding.place((images[numbers], np.asarray(numbers, np.int32)), mesh)
        return sharding.Numbered(*placed)

    first = top_activations(fun, [of(np.arange(24))], 7, mesh)
    found = top_activations(fun, [of(np.arange(24, 40)), of(np.arange(40, 48))], 7, mesh, before=jax.device_get(first))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jnp.array_equal(jnp.signbit(found.values), jnp.signbit(expected.values))


def figures_subject(run):
    return open_run(run).val


def test_processes_with_unlike_numbers_of_devices_are_named(run, monkeypatch):
    subject = figures_subject(run)
    monkeypatch.setattr(jax, "local_device_count", lambda: 3)
    with pytest.raises(UserError, match="this process has 3 of the 8 devices of 1 processes; expected the same number"):
        passes.strongest(subject, ["relu5"], 1, 2)


def test_a_command_that_looks_has_as_many_threads_for_one_device_as_for_eight(monkeypatch):
    monkeypatch.setenv("PJRT_NPROC", "1")
    monkeypatch.delenv("PJRT_NPROC")
    processes.join_to_look(None)
    assert int(processes.os.environ["PJRT_NPROC"]) >= 8
