from itertools import islice

import pytest

from ddpm_lab.data.splits import hold_out
from ddpm_lab.data.stream import EndlessBatches, OrderedBatches


def stream(count: int, *, n: int = 10, G: int = 4, seed: int = 3, first: int = 0, rank: int = 0, world: int = 1):
    return list(islice(EndlessBatches(n, G, seed, lambda: first, rank, world), count))


def flat(batches: list[list[int]]) -> list[int]:
    return [i for batch in batches for i in batch]


def test_every_item_comes_exactly_once_in_each_pass():
    samples = flat(stream(25))
    passes = [samples[start : start + 10] for start in range(0, 100, 10)]
    assert all(sorted(order) == list(range(10)) for order in passes)
    assert len({tuple(order) for order in passes}) == 10


def test_a_batch_may_be_larger_than_the_set():
    assert flat(stream(2, n=3, G=8)) == flat(stream(16, n=3, G=1))


def test_the_order_is_not_the_order_of_the_files():
    assert sorted(flat(stream(25, n=100))) == list(range(100))
    assert flat(stream(25, n=100)) != list(range(100))


@pytest.mark.parametrize("first", [0, 1, 4, 7, 10, 23, 1_000_003])
def test_the_stream_can_begin_anywhere(first):
    whole = flat(stream(first + 12, G=1)) if first < 100 else flat(stream(12, G=1, first=first))
    assert flat(stream(3, first=first)) == whole[-12:]


def test_the_batch_size_only_cuts_the_stream():
    assert flat(stream(10, G=6)) == flat(stream(30, G=2))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batch_of_one_rank(world):
    ranks = [stream(9, G=4, rank=rank, world=world) for rank in range(world)]
    assert [flat(list(parts)) for parts in zip(*ranks, strict=True)] == stream(9, G=4)


def test_the_seed_decides():
    assert stream(5) == stream(5)
    assert stream(5) != stream(5, seed=4)


def test_the_stream_of_a_seed_never_changes():
    # A checkpoint of today must resume in the same stream in a year: this is a promise, so its numbers stand here.
    assert stream(4, n=6, G=3, seed=0) == [[5, 0, 3], [2, 1, 4], [1, 0, 3], [4, 5, 2]]


def test_impossible_streams_are_refused():
    with pytest.raises(ValueError, match=r"divisible by their number, 3, and is 4\. The next that works: 3\."):
        stream(1, G=4, world=3)
    with pytest.raises(ValueError, match="must be positive"):
        stream(1, G=0)
    with pytest.raises(ValueError, match=r"must be 0 or more and is -1\."):
        stream(1, seed=-1)
    with pytest.raises(ValueError, match="training set is empty"):
        stream(1, n=0)


@pytest.mark.parametrize("n", [1, 7, 8, 9])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_item_once(n, world):
    ranks = [OrderedBatches(range(n), 2, rank, world) for rank in range(world)]
    seen = [flat(list(rank)) for rank in ranks]
    assert sorted(flat(seen)) == list(range(n))
    assert all(items == list(range(rank, n, world)) for rank, items in enumerate(seen))
    assert [len(rank) for rank in ranks] == [len(list(rank)) for rank in ranks]
    assert all(len(batch) <= 2 for rank in ranks for batch in rank)


def test_the_hold_out_takes_every_so_many_th():
    assert hold_out(13, "test", every=6) == [5, 11]
    assert sorted(hold_out(13, "test", every=6) + hold_out(13, "train", every=6)) == list(range(13))
    with pytest.raises(ValueError, match="got 'valid'"):
        hold_out(13, "valid", every=6)
