"""The bar on a terminal, and the lines elsewhere."""

import pytest

from zfjax.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told to."""
    now = [0.0]
    monkeypatch.setattr("zfjax.progress.time.monotonic", lambda: now[0])
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


def test_a_process_that_does_not_show_is_silent(capsys, clock):
    with Progress("training", 1000, show=False) as progress:
        clock[0] = 100.0
        progress.advance(10)
        progress.say("epoch 1")
    assert capsys.readouterr().err == ""
