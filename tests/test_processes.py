"""Processes of one command: they meet, refuse to differ, and end when one of them is lost."""

import contextlib
import re
import socket
import threading
import time

import numpy as np
import pytest
import tiny_runs

from zfjax.console import meeting, peers, processes, relay
from zfjax.console.errors import UserError
from zfjax.console.meeting import Door, Line, attend, words

HOST = socket.gethostname()


def free_port():
    with socket.create_server(("localhost", 0)) as free:
        return free.getsockname()[1]


def met(*others, seconds=20.0, count=3):
    """What process 0 and the others, given by what they say, get out of their meeting: a line, or an error's text."""
    port, results = free_port(), {}

    def attends(number, said):
        try:
            results[number] = attend(f"localhost:{port}", said, seconds)
        except UserError as error:
            results[number] = str(error)

    threads = [threading.Thread(target=attends, args=(i, said)) for i, said in enumerate(others, 1)]
    for thread in threads:  # they come before the door is open
        thread.start()
    door = Door(port, words(0, count, {"--config.lr": 0.1}))
    with socket.create_connection(("localhost", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\n\n")
        try:
            results[0] = door.meet(seconds)
        except UserError as error:
            results[0] = str(error)
        for thread in threads:
            thread.join()
    return [results[i] for i in range(len(others) + 1)]


def said(number, count=3, **changes):
    return words(
        number, count, {"--config.lr": 0.1} | {name.replace("_", " "): value for name, value in changes.items()}
    )


def test_processes_that_agree_meet():
    zeroth, *others = met(said(1), said(2))
    assert sorted(str(line) for line in zeroth) == [f"process 1 on {HOST}", f"process 2 on {HOST}"]
    assert [str(line) for line in others] == [f"process 0 on {HOST}"] * 2
    zeroth[0].send({"done": True})
    line = others[zeroth[0].number - 1]
    assert line.receive() == {"done": True}
    address = f"localhost:{line.connection.getpeername()[1]}"
    with pytest.raises(UserError, match=f"^the processes at {address} have begun without this one; give another"):
        attend(address, said(1), 0.1)
    for line in (*zeroth, *others):
        line.connection.close()


@pytest.mark.parametrize(
    ("second", "difference"),
    [
        (
            said(2, the_version_of_jax="0.0.1"),
            r"the version of jax is [\d.]+ in process 0 on H, and 0.0.1 in process 2 on H",
        ),
        (
            said(2, the_version_of_zfjax="9"),
            r"the version of zfjax is [\d.]\S* in process 0 on H, and 9 in process 2 on H",
        ),
        (words(2, 3, {"--config.lr": 0.2}), "--config.lr is 0.1 in process 0 on H, and 0.2 in process 2 on H"),
        (words(2, 3, {}), "--config.lr is 0.1 in process 0 on H, and not given in process 2 on H"),
        (said(2, count=4), "--processes is 3 in process 0 on H, and 4 in process 2 on H"),
    ],
)
def test_processes_that_differ_are_all_refused(second, difference):
    lines = met(said(1), second)
    assert len(set(lines)) == 1
    expected = f"the processes differ: {difference}; start all with the same".replace("on H", f"on {re.escape(HOST)}")
    assert re.fullmatch(expected, lines[0])


def test_two_processes_with_one_number_are_refused_with_all_others():
    line = f"two processes say --process=1: on {HOST} and on {HOST}; expected each number once"
    assert met(said(1), said(1)) == [line] * 3


def test_what_may_differ_from_host_to_host_does_not_count(monkeypatch):
    from absl import flags

    from zfjax.console import options

    values = flags.FlagValues()
    options.processes(values)
    flags.DEFINE_string("layer", "", "", flag_values=values)
    values(["train", "--coordinator=here:1", "--processes=2", "--process=1", "--layer=relu5"])
    place = processes.place_of(values, {"lr": 0.1, "threads": 3, "cache_dir": "/tmp", "data_dir": ""})
    assert place == (*("here:1", 2, 1), {"--layer": "relu5", "--config.lr": 0.1})


def test_processes_of_a_cluster_meet_too(monkeypatch):
    cluster = {"JOB_ID": "12345", "STEP_NODELIST": "here", "STEP_NUM_TASKS": "3", "NTASKS": "3", "PROCID": "1"}
    for name, value in {**cluster, "LOCALID": "0", "STEP_TASKS_PER_NODE": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    place = processes._completed(processes.Place(agreed={"--layer": "relu5"}))
    assert re.fullmatch(r"here:\d+", place.coordinator)
    assert place[1:] == (3, 1, {"--layer": "relu5"})


def test_processes_whose_others_do_not_come_end_in_one_line():
    zeroth, first = met(said(1), seconds=1.0)
    assert re.match("waited 1 s for all 3 processes to start, without process 2; start the same command on", zeroth)
    assert first == zeroth
    port = free_port()
    with pytest.raises(UserError, match=f"^cannot reach process 0 at localhost:{port} within 0 s: Connection refused$"):
        attend(f"localhost:{port}", said(1), 0.1)
    with socket.create_server(("localhost", port)), pytest.raises(UserError) as refused:
        processes.join(processes.Place(f"localhost:{port}", 2, 0))
    reason = "Address already in use; give another --coordinator"
    assert str(refused.value) == f"process 0 cannot listen on port {port}: {reason}"


@pytest.fixture
def ends(monkeypatch, capsys):
    """Waits until watches would have ended this process; returns the exit codes, and what they printed."""
    monkeypatch.setattr(peers, "LOST", 60.0)
    monkeypatch.setattr(peers, "BEAT", 0.1)
    monkeypatch.setattr(peers, "GRACE", 0.1)
    monkeypatch.setattr(peers._thread, "interrupt_main", lambda: None)
    codes, ended = [], threading.Semaphore(0)

    def end(code):
        codes.append(code)
        ended.release()

    monkeypatch.setattr(peers.signals, "end_command", end)

    def wait(watches=1):
        for _ in range(watches):
            assert ended.acquire(timeout=10)
        return codes, capsys.readouterr().err

    return wait


@pytest.fixture
def pairs():
    """Lines from process 0 to two others, and the other ends."""
    with contextlib.ExitStack() as stack:
        found = []
        for number in (1, 2):
            here, there = socket.socketpair()
            for end in (here, there):
                stack.enter_context(end)
                end.settimeout(10)
            found.append((Line(here, number, f"host{number}"), Line(there, 0, "host0")))
        yield found


AGAIN = "the same command on all hosts goes on from what is saved"


def test_a_process_that_closes_is_lost_at_once_and_the_others_are_told(ends, pairs):
    peers.Watch([here for here, _ in pairs], first=True)
    pairs[1][1].connection.close()
    line = f"lost process 2 on host2: its connection was closed; {AGAIN}"
    assert ends() == ([3], f"zfjax: {line}\n")
    assert pairs[0][1].receive() == {"lost": line}


def test_a_host_that_gives_no_sign_of_life_is_lost(ends, pairs, monkeypatch):
    monkeypatch.setattr(peers, "LOST", 2.0)
    (one, other), (two, _) = pairs
    peers.Watch([other], first=False)  # which gives signs of life
    peers.Watch([one, two], first=True)
    # Process 1 is told the same, and ends too.
    assert ends(watches=2) == (
        [3, 3],
        2 * f"zfjax: lost process 2 on host2: it gave no sign of life for 2 s; {AGAIN}\n",
    )


def test_a_process_that_ends_with_an_error_says_it_to_the_others(ends, pairs):
    (one, other), (two, _) = pairs
    peers.Watch([one, two], first=True)
    peers.Watch([other], first=False).failed("there is no disk", mistake=True)
    assert ends() == ([3], "zfjax: process 1 on host1 ended before the work was done: there is no disk\n")


def test_a_process_that_takes_its_leave_is_not_lost(ends, pairs, capsys):
    (one, other), (two, third) = pairs
    zeroth = peers.Watch([one, two], first=True)
    rest = [peers.Watch([there], first=False) for there in (other, third)]
    leaving = [
        threading.Thread(target=lambda watch=watch: (watch.finish(), watch.leave())) for watch in (zeroth, *rest)
    ]
    for thread in leaving:
        thread.start()
    for thread in leaving:
        thread.join(10)
        assert not thread.is_alive()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("asking", [0, 1, 2])
def test_processes_stop_after_the_same_step_soon_after_one_is_asked_to(ends, pairs, asking):
    """However far each is, also if no step ends before all have begun it, as in training."""
    (one, other), (two, third) = pairs
    watches = [peers.Watch([one, two], first=True), *(peers.Watch([there], first=False) for there in (other, third))]
    together, stopped = threading.Barrier(3), [0, 0, 0]

    def train(number):
        random = np.random.default_rng(number)
        for step in range(1, 300):
            time.sleep(random.uniform(0, 0.002))
            if step % 3 == 0:  # a result that needs all
                together.wait(20)
            if watches[number].stop_together(step, wanted=number == asking and step >= 20):
                stopped[number] = step
                return

    threads = [threading.Thread(target=train, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 20 <= stopped[0] == stopped[1] == stopped[2] <= 30
    for watch in reversed(watches):
        watch.leave()


def test_a_relay_goes_quiet_when_the_other_side_closes():
    with socket.create_server(("localhost", 0)) as server:
        address = relay.start(("localhost", server.getsockname()[1]), b"hello\n")
        with socket.create_connection(meeting.split(address), 10) as client:
            client.sendall(b"question")
            asked, _ = server.accept()
            with asked:
                assert asked.makefile("rb").read(14) == b"hello\nquestion"
                asked.sendall(b"answer")
            assert client.recv(6) == b"answer"
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)


ALONE = """
from zfjax import train
from zfjax.console import command, processes, signals
signals.listen()
processes.WAIT = 1
command.execute(train.main)
"""


def test_a_command_whose_others_do_not_come_ends_in_one_line(tmp_path):
    flags = [f"--coordinator=localhost:{free_port()}", "--processes=2", "--process=0"]
    words = tiny_runs.train_command(tmp_path, tmp_path / "run", *flags)
    done = tiny_runs.run([words[0], "-c", ALONE, *words[3:]])
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    line = "zfjax: waited 1 s for all 2 processes to start, without process 1; start the same [^\n]*\n"
    assert re.fullmatch(line, done.stderr)
    assert not (tmp_path / "run").exists()
