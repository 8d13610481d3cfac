"""The bar on a terminal, and the lines elsewhere."""

import io
import time
import types

import pytest

from zfjax.console.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told to."""
    now = [0.0]
    monkeypatch.setattr("zfjax.console.progress.time.monotonic", lambda: now[0])
    return now


def test_short_work_says_nothing(capsys):
    with Progress("drawing", 10) as progress:
        progress.advance(10)
    assert capsys.readouterr().err == ""


def test_long_work_says_rate_and_time_left_every_ten_seconds(capsys, clock):
    with Progress("training", 1000, initial=200) as progress:
        for seconds in range(1, 21):
            clock[0] = seconds
            progress.advance(10, "loss 1.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training 300/1,000 images, 10 a second, 70 s left, loss 1.5",
        "training 400/1,000 images, 10 a second, 60 s left, loss 1.5",
    ]


def test_the_rate_leaves_out_the_first_piece_which_compiles(capsys, clock):
    with Progress("training", 100) as progress:
        progress.advance(0, "begins")
        for seconds in (60, 61, 71):
            clock[0] = seconds
            progress.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["training 10/100 images", "training 30/100 images, 1.8 a second, 38 s left"]


def test_slow_work_says_how_long_each_piece_takes(capsys, clock):
    with Progress("linear classifiers", 7, unit="layer") as progress:
        for seconds in (200, 400, 615):
            clock[0] = seconds
            progress.advance(1, "SVM")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == [
        "linear classifiers 2/7 layers, 200.0 s each, 1,000 s left, SVM",
        "linear classifiers 3/7 layers, 207.5 s each, 830 s left, SVM",
    ]


def test_a_padded_batch_is_not_more_than_all(capsys, clock):
    with Progress("projections", 36, unit="map") as progress:
        for seconds in (30, 60):
            clock[0] = seconds
            progress.advance(32)
    assert capsys.readouterr().err.splitlines()[-1] == "projections 36/36 maps, 7.5 s each, 0 s left"


def test_a_process_that_does_not_show_is_silent(capsys, clock):
    with Progress("training", 1000, show=False) as progress:
        clock[0] = 100.0
        progress.advance(10)
        progress.say("epoch 1")
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    """A terminal of 80 columns that remembers all that was written to it."""

    def isatty(self):
        return True

    def screen(self):
        """The lines that can be seen at the end."""
        lines, column = [""], 0
        for letter in self.getvalue().replace("\x1b[A", ""):
            if letter == "\n":
                lines.append("")
                column = 0
            elif letter == "\r":
                column = 0
            else:
                lines[-1] = lines[-1][:column].ljust(column) + letter + lines[-1][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]


@pytest.fixture
def terminal(monkeypatch):
    """What is drawn at once and twenty times a second."""
    terminal = Terminal()
    # Not sys.stderr itself, which pytest sets anew before a test begins.
    monkeypatch.setattr("zfjax.console.progress.sys", types.SimpleNamespace(stderr=terminal))
    monkeypatch.setattr(Progress, "SECONDS_BEFORE_BAR", 0.0)
    monkeypatch.setattr("zfjax.console.progress._SCREEN.SECONDS_BETWEEN_DRAWS", 0.05)
    return terminal


def until(terminal, text):
    deadline = time.time() + 60
    while text not in terminal.getvalue():
        assert time.time() < deadline, terminal.getvalue()
        time.sleep(0.01)


def test_a_terminal_sees_a_bar_before_anything_is_done(terminal):
    with Progress("compiling much", 10):
        until(terminal, "compiling much:   0%|")
        seen = len(terminal.getvalue())
        until(terminal, "[00:01")  # the clock goes on
    assert seen < len(terminal.getvalue())
    assert terminal.getvalue().endswith("\n")


def test_work_without_an_end_shows_a_clock_and_leaves_nothing(terminal):
    with Progress("opening the run"):
        until(terminal, "opening the run … 00:0")
    assert terminal.screen() == [""]


def test_one_bar_is_drawn_at_a_time(terminal):
    with Progress("lenses", 4) as outer:
        until(terminal, "lenses:   0%|")
        with Progress("Score-CAM", 10) as inner:
            inner.advance(4)
            until(terminal, "Score-CAM 40%")
        outer.advance(4, "done")
    assert "Score-CAM:" not in terminal.getvalue()
    (line, rest) = terminal.screen()
    assert line.startswith("lenses: 100%|")
    assert rest == ""
    assert "Score-CAM" not in line


def test_work_without_an_end_makes_room_for_a_bar_and_comes_back(terminal):
    with Progress("fig2"):
        until(terminal, "fig2 …")
        with Progress("projections", 2) as inner:
            inner.advance(1)
            until(terminal, "projections:  50%|")
            inner.advance(1)
        before = terminal.getvalue().count("fig2 …")
        while terminal.getvalue().count("fig2 …") == before:
            time.sleep(0.01)
    lines = terminal.screen()
    assert [line[:18] for line in lines] == ["projections: 100%|", ""]


def test_lines_stand_above_the_bar(terminal):
    with Progress("training", 2) as progress:
        until(terminal, "training:   0%|")
        progress.say("epoch 1/2: val 50 %")
        progress.advance(2)
    assert [line.split(":")[0] for line in terminal.screen()] == ["epoch 1/2", "training", ""]


def test_the_screen_is_free_after_an_error(terminal):
    with pytest.raises(ValueError, match="no"), Progress("outer", 3), Progress("inner"):
        raise ValueError("no")
    with Progress("after", 1):
        until(terminal, "after:   0%|")


def test_elsewhere_no_control_characters(capsys):
    with Progress("outer"), Progress("inner", 3) as inner:
        inner.advance(3)
        inner.say("said")
    assert capsys.readouterr().err == "said\n"
