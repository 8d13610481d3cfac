import itertools
import threading
import time

import numpy as np
import pytest

from zfjax.console.errors import UserError
from zfjax.data.pipeline import eval_batches, train_batches

N, SIZE = 23, 2


class Numbered:
    """Picture i is gray i, of label i."""

    def __init__(self, count=N, delay=0.0):
        self.count, self.delay = count, delay

    def __len__(self):
        return self.count

    def load(self, indices):
        time.sleep(self.delay * float(np.random.default_rng().random()))
        numbers = np.asarray(indices, np.int32)
        return np.tile(numbers.astype(np.uint8)[:, None, None, None], (1, SIZE, SIZE, 3)), numbers


def train_labels(batch_size, steps, **options):
    options = {"seed": 0, "threads": 2, **options}
    batches = train_batches(options.pop("pictures", Numbered()), batch_size, **options)
    found = [batch.label for batch in itertools.islice(batches, steps)]
    batches.close()
    return np.stack(found)


def test_batches_are_uint8_squares_and_int32_labels():
    batch = next(train_batches(Numbered(), 4, seed=0))
    assert batch.image.shape == (4, SIZE, SIZE, 3)
    assert (batch.image.dtype, batch.label.dtype, batch.mask.dtype) == (np.uint8, np.int32, np.float32)
    np.testing.assert_array_equal(batch.image[:, 0, 0, 0], batch.label)
    assert batch.mask.tolist() == [1] * 4


@pytest.mark.parametrize("batch_size", [1, 4, 23, 50])
def test_each_epoch_is_a_permutation_of_its_own(batch_size):
    rows = train_labels(batch_size, -(-3 * N // batch_size)).ravel()[: 3 * N].reshape(3, N)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(N), (3, 1)))
    assert len({tuple(row) for row in rows}) == 3


def test_order_depends_on_the_seed_alone():
    first = train_labels(4, 20, seed=1)
    np.testing.assert_array_equal(first, train_labels(4, 20, seed=1))
    np.testing.assert_array_equal(first.ravel()[:40], train_labels(8, 5, seed=1).ravel())
    seeds = [0, 1, 2, 3, -1, 2**40]
    epochs = {tuple(epoch) for seed in seeds for epoch in train_labels(N, 4, seed=seed)}
    assert len(epochs) == 4 * len(seeds)  # neighboring seeds do not share epochs


@pytest.mark.parametrize("start", [0, 1, 5, 6, 17])
@pytest.mark.parametrize("threads", [1, 3])
def test_resumes_at_any_step(start, threads):
    whole = train_labels(4, 24)
    np.testing.assert_array_equal(whole[start:], train_labels(4, 24 - start, start_step=start, threads=threads))


def test_resumes_far_along():
    far = 10_000_000
    np.testing.assert_array_equal(train_labels(4, 6, start_step=far)[2:], train_labels(4, 4, start_step=far + 2))


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_together_hold_the_batch(processes):
    whole = train_labels(6, 9, start_step=2)
    parts = [train_labels(6, 9, start_step=2, shard=(p, processes)) for p in range(processes)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_threads_do_not_matter(threads):
    slow = Numbered(delay=0.01)
    np.testing.assert_array_equal(train_labels(4, 12, threads=threads, pictures=slow), train_labels(4, 12))


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 23])
def test_validation_sees_each_picture_once(processes, count):
    batches = [list(eval_batches(Numbered(count), 8, shard=(p, processes), threads=2)) for p in range(processes)]
    assert {len(mine) for mine in batches} == {-(-count // 8)}
    for mine in batches:
        for batch in mine:
            assert batch.image.shape == (8 // processes, SIZE, SIZE, 3)
            assert batch.image.dtype == np.uint8
            assert batch.label.dtype == np.int32
            assert batch.mask.dtype == np.float32
            assert not batch.image[batch.mask == 0].any()
    seen = [batch.label[batch.mask == 1] for step in zip(*batches, strict=True) for batch in step]
    assert np.concatenate(seen).tolist() == list(range(count))


@pytest.mark.parametrize(
    "make", [lambda p, **k: train_batches(p, 6, seed=0, **k), lambda p, **k: eval_batches(p, 6, **k)]
)
def test_batch_that_cannot_be_shared(make):
    with pytest.raises(UserError, match="batch_size 6: expected a multiple of the number of processes, 4"):
        make(Numbered(), shard=(0, 4))
    with pytest.raises(ValueError, match="shard"):
        make(Numbered(), shard=(2, 2))
    with pytest.raises(UserError, match="threads -1"):
        make(Numbered(), threads=-1)


def test_error_of_a_reader_arrives():
    class Lost(Numbered):
        def load(self, indices):
            if 11 in indices:
                raise UserError("picture 11 is lost")
            return super().load(indices)

    with pytest.raises(UserError, match="picture 11 is lost"):
        list(eval_batches(Lost(), 4, threads=2))


def test_closed_iterators_leave_no_threads():
    before = threading.active_count()
    for _ in range(3):
        batches = train_batches(Numbered(), 4, seed=0, threads=4)
        next(batches)
        batches.close()
    list(eval_batches(Numbered(), 4, threads=4))
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before
