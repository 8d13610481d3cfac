"""Ctrl-C, SIGTERM and SIGHUP at exact moments: a program sends them to itself, and how it ends is looked at."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from zfjax import cli
from zfjax.console.signals import Deferral

if os.name == "nt":
    pytest.skip("signals as POSIX has them", allow_module_level=True)

START = """
import gc, hashlib, os, pathlib, signal, sys, threading, time, warnings
from zfjax.console import command, signals
from zfjax.console.files import draft, write_whole

def send(number, heard=lambda: False):
    os.kill(os.getpid(), number)
    until(heard)  # or until the listening thread ends the process, however slow the machine is

def until(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)

signals.listen()
"""


def ended(code, *words, start=START, **options):
    """Exit code, stdout and stderr of a program."""
    command = [sys.executable, "-c", start + textwrap.dedent(code), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    return done.returncode, done.stdout, done.stderr


SOMEWHERE = {
    "in a call": "send(number)",
    "in C": """
        threading.Timer(0.2, lambda: os.kill(os.getpid(), number)).start()
        hashlib.pbkdf2_hmac("sha1", b"", b"", 10**9)
    """,
    "where any error is lost": """
        class Lost:
            def __del__(self):
                send(number)
        gc.callbacks.append(lambda *_: send(number))
        Lost()
    """,
    "where any error is caught": """
        while True:
            try: send(number)
            except BaseException: pass
    """,
    "while another thread works": """
        threading.Thread(target=lambda: time.sleep(60)).start()
        send(number)
    """,
    "below a command": "command.execute(lambda _: send(number))",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", SOMEWHERE)
def test_a_signal_ends_a_command_at_once_wherever_it_is(where, number):
    code = f"number = {int(number)}\nprint('before')\n{textwrap.dedent(SOMEWHERE[where])}\nprint('after')"
    assert ended(code) == (128 + number, "before\n", "")


@pytest.mark.parametrize("verb", ["", *cli.VERBS])
def test_every_command_listens_before_its_imports(verb, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys, time\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('absl', 'zfjax.console.command'):\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "            time.sleep(30)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    module = f"zfjax.{verb.replace('-', '_')}".rstrip(".")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (143, "")


def test_what_is_held_comes_to_its_end(tmp_path):
    code = """
        signals.SAME = 60
        with signals.at_end(lambda: print("tidied")), signals.stopping("in row 2"):
            with signals.held():
                write_whole(f"{sys.argv[1]}/a", "whole")
                with signals.held():
                    send(signal.SIGTERM, lambda: signals._state.pending)
                    os.kill(os.getpid(), signal.SIGINT)  # the terminal and a parent both send it
                write_whole(f"{sys.argv[1]}/b", "whole")
            print("after")
    """
    line = "zfjax: stopped in row 2; the same command goes on from there\n"
    assert ended(code, tmp_path) == (143, "tidied\n", line)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "whole", "b": "whole"}


@pytest.mark.parametrize("inside", ["signals.held()", "signals.Deferral() as stop"])
def test_a_second_ctrl_c_does_not_wait(inside):
    code = f"""
        signals.SAME = 0.1
        with {inside}:
            "stop" in globals() and stop.begin()
            send(signal.SIGTERM, lambda: signals._state.first_at)
            time.sleep(signals.SAME + 0.1)
            os.kill(os.getpid(), signal.SIGTERM)
            print("still there", flush=True)
            send(signal.SIGINT)
        print("after")
    """
    code, out, err = ended(code)
    assert (code, out) == (130, "still there\n")
    assert err == (
        ""
        if "held" in inside
        else "zfjax: stopping as soon as the current step is saved; Ctrl-C again ends at once, without saving it\n"
    )


DEFERRED = """
    def main(_):
        with signals.Deferral() as stop:
            for step in range(1, 9):
                if step == int(sys.argv[1]):
                    send(int(sys.argv[2]), lambda: stop.number)
                if step == 4:
                    stop.begin()
                if stop.number is not None:
                    break
        if stop.number is not None:
            raise signals.Stopped(f"after step {step}")
    command.execute(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_training_is_asked_to_stop_once_there_is_something_to_save(number):
    assert ended(DEFERRED, 2, int(number)) == (128 + number, "", "")
    code, out, err = ended(DEFERRED, 6, int(number))
    assert (code, out) == (128 + number, "")
    assert err.splitlines()[1:] == ["zfjax: stopped after step 6; the same command goes on from there"]


def test_work_that_hangs_or_fails_at_the_end_keeps_no_command_alive():
    code = """
        def fail(): raise ValueError
        signals.TIDYING = 1.5
        with signals.at_end(lambda: time.sleep(60)), signals.at_end(fail):
            with signals.at_end(lambda: print("tidied", flush=True)):
                send(signal.SIGTERM)
    """
    assert ended(code) == (143, "tidied\n", "")


def test_what_goes_wrong_in_the_main_thread_while_the_process_ends_is_not_its_end(tmp_path):
    """Such as a folder that is tidied away while it is written to."""
    code = """
        def main(_):
            with signals.at_end(lambda: time.sleep(0.5)):
                send(signal.SIGTERM, lambda: signals._state.ending)
                raise OSError(2, "No such file", "draft")
        command.execute(main)
    """
    assert ended(code) == (143, "", "")


def test_a_draft_goes_with_the_process_also_while_it_is_written(tmp_path):
    code = """
        with draft(pathlib.Path(sys.argv[1]) / "draft") as path:
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
            for number in range(10**9):
                (path / str(number)).write_text("half")
    """
    assert ended(code, tmp_path) == (143, "", "")
    assert not list(tmp_path.iterdir())


def test_a_signal_to_a_forked_child_is_not_its_parents(tmp_path):
    code = """
        warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
        child = os.fork()
        if not child:
            write_whole(f"{sys.argv[1]}/a", "of the child")
            time.sleep(60)
        until(lambda: os.path.exists(f"{sys.argv[1]}/a"))
        os.kill(child, signal.SIGTERM)
        print(os.WTERMSIG(os.waitpid(child, 0)[1]))
        time.sleep(0.3)
    """
    assert ended(code, tmp_path) == (0, "15\n", "")
    assert (tmp_path / "a").read_text() == "of the child"


def test_signals_that_are_ignored_stay_ignored():
    """As nohup and a shell's & have it."""
    code = "os.kill(os.getpid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGINT); print('on'); send(signal.SIGTERM)"
    ignoring = "import signal\nfor number in (signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)"
    assert ended(code, start=ignoring + START) == (143, "on\n", "")


def test_a_notebook_defers_ctrl_c_and_gets_its_own_handler_back():
    before = signal.getsignal(signal.SIGINT)
    with Deferral() as stop:
        stop.begin()
        assert stop.number is None
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
