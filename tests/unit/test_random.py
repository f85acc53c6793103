"""Random streams: Threefry against its published vectors, rows that do not depend on each other, resuming."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from mibench.contracts import Rows
from mibench.keys import stream_seed
from mibench.random import RowStreams, Stream, threefry2x32

ALL_ONES = 0xFFFFFFFF


def _words(*values: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([values[0]]), torch.tensor([values[1]])


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((ALL_ONES, ALL_ONES), (ALL_ONES, ALL_ONES), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_threefry_known_answers(key: tuple[int, int], counter: tuple[int, int], expected: tuple[int, int]) -> None:
    """The vectors of Random123's kat_vectors for threefry2x32 with 20 rounds."""
    found = threefry2x32(_words(*key), _words(*counter))
    assert tuple(int(word) for word in found) == expected


def test_threefry_broadcasts_keys_over_counters() -> None:
    keys = (torch.tensor([[0], [ALL_ONES]]), torch.tensor([[0], [ALL_ONES]]))
    counters = (torch.tensor([[0, ALL_ONES]]), torch.tensor([[0, ALL_ONES]]))
    first, second = threefry2x32(keys, counters)
    assert first.shape == (2, 2)
    assert (int(first[0, 0]), int(second[1, 1])) == (0x6B200159, 0xBB002BE7)


# --- rows --------------------------------------------------------------------------------------------------

NAMES = [(7, label, restart) for label in (3, 0, 12) for restart in range(2)]


def _draws(names: list[tuple[int, ...]], purpose: str = "latent") -> list[torch.Tensor]:
    streams = RowStreams(names, purpose)
    n = len(names)
    return [streams.normal(n, 5), streams.uniform(n), streams.uniform(n, 2, 3), streams.normal(n)]


@pytest.mark.parametrize("order", [[0], [5], [1, 4], [5, 3, 1, 0, 2, 4]], ids=str)
def test_a_row_draws_the_same_alone_together_and_in_any_order(order: list[int]) -> None:
    together = _draws(NAMES)
    apart = _draws([NAMES[i] for i in order])
    for whole, part in zip(together, apart, strict=True):
        assert torch.equal(whole[order], part)


def test_rows_of_an_attack_draw_the_same_in_any_block() -> None:
    whole = Rows([4, 9, 2], restarts=3, seed=11, device="cpu")
    block = Rows([9], restarts=3, seed=11, device="cpu")
    expected = whole.split(whole.streams("latent").normal(9, 4))[1]
    assert torch.equal(block.streams("latent").normal(3, 4), expected)
    assert whole.label.tolist() == [4, 4, 4, 9, 9, 9, 2, 2, 2]


@pytest.mark.parametrize("part", [0, 1, 2], ids=["seed", "label", "restart"])
def test_every_part_of_a_row_name_counts(part: int) -> None:
    changed = list(NAMES[0])
    changed[part] += 1
    both = RowStreams([NAMES[0], tuple(changed)], "latent").normal(2, 1000)
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.15
    assert not torch.isclose(both[0], both[1]).any()


def test_successive_draws_differ_and_fresh_streams_start_again() -> None:
    streams = RowStreams(NAMES, "noise")
    first, second = streams.uniform(6, 4), streams.uniform(6, 4)
    assert not torch.isclose(first, second).any()
    assert torch.equal(RowStreams(NAMES, "noise").uniform(6, 4), first)


def test_purposes_are_independent() -> None:
    a = RowStreams(NAMES[:1], "latent").normal(1, 20_000)[0]
    b = RowStreams(NAMES[:1], "crop").normal(1, 20_000)[0]
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4 / math.sqrt(20_000)


def test_a_wrong_number_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match="5 images were given to 6 row streams"):
        RowStreams(NAMES, "noise").uniform(5)


# --- distributions -----------------------------------------------------------------------------------------


def _sources() -> list[tuple[str, Stream | RowStreams, int]]:
    rows = [(0, label, 0) for label in range(200)]
    return [("stream", Stream(5), 200), ("rows", RowStreams(rows, "latent"), 200)]


@pytest.mark.parametrize(("name", "source", "n"), _sources(), ids=lambda value: str(value)[:6])
def test_uniform_and_normal_are_what_they_say(name: str, source: Stream | RowStreams, n: int) -> None:
    uniform = source.uniform(n, 250)
    assert uniform.dtype == torch.float32 and uniform.min() >= 0 and uniform.max() < 1
    assert scipy.stats.kstest(uniform.numpy().ravel(), "uniform").pvalue > 0.001
    normal = source.normal(n, 250)
    assert normal.dtype == torch.float32 and torch.isfinite(normal).all()
    assert scipy.stats.kstest(normal.numpy().ravel(), "norm").pvalue > 0.001
    for values in (uniform, normal):  # neither rows nor columns move together
        across_rows = np.corrcoef(values.numpy())[np.triu_indices(n, 1)]
        assert abs(across_rows).max() < 6.5 / math.sqrt(250)
        assert abs(np.corrcoef(values.numpy().T)[np.triu_indices(250, 1)]).max() < 6.5 / math.sqrt(n)


def test_the_first_draw_of_many_rows_is_uniform() -> None:
    rows = RowStreams([(0, label, restart) for label in range(500) for restart in range(20)], "latent")
    assert scipy.stats.kstest(rows.uniform(10_000).numpy(), "uniform").pvalue > 0.001


# --- one sequence ------------------------------------------------------------------------------------------


def test_a_stream_is_a_function_of_its_seed() -> None:
    a, b, other = Stream(stream_seed(0, "order")), Stream(stream_seed(0, "order")), Stream(stream_seed(1, "order"))
    assert torch.equal(a.permutation(50), b.permutation(50))
    assert torch.equal(a.normal(3, 4), b.normal(3, 4))
    assert not torch.isclose(b.uniform(100), other.uniform(100)).any()


def test_integers_and_permutations_cover_their_range() -> None:
    stream = Stream(1)
    assert set(stream.integers(7, 500).tolist()) == set(range(7))
    assert sorted(stream.permutation(40).tolist()) == list(range(40))


def test_a_stream_resumes_where_its_state_was_taken() -> None:
    stream = Stream(3)
    stream.normal(10)
    state = stream.state_dict()
    expected = [stream.normal(4), stream.uniform(5), stream.permutation(6)]
    resumed = Stream(99)
    resumed.load_state_dict(state)
    for value, again in zip(expected, [resumed.normal(4), resumed.uniform(5), resumed.permutation(6)], strict=True):
        assert torch.equal(value, again)


def test_stream_seeds_depend_on_every_part_and_its_place() -> None:
    parts = [(0, "a", 1), (1, "a", 0), (0, "a", 2), (0, "b", 1), (0, "a1"), ("0", "a", 1), (0, "a", 1, 0)]
    seeds = {stream_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


# --- views -----------------------------------------------------------------------------------------------------------


def test_a_view_draws_what_its_rows_would_have_drawn_and_advances_only_them() -> None:
    whole, parts = (RowStreams([(0, row, 0) for row in range(5)], "view") for _ in range(2))
    first, second = whole.normal(5, 3), whole.normal(5, 3)
    view = parts.take(torch.tensor([3, 1]))
    assert len(view) == 2
    assert torch.equal(view.normal(2, 3), first[[3, 1]])
    assert torch.equal(view.take(torch.tensor([1])).normal(1, 3), second[[1]])  # row 1 of the rows
    rest = parts.normal(5, 3)
    assert torch.equal(rest[[0, 2, 4]], first[[0, 2, 4]]) and torch.equal(rest[3], second[3])
    third = whole.normal(5, 3)
    assert torch.equal(rest[1], third[1])


def test_several_numbers_per_row_are_row_major_and_different() -> None:
    streams, again = (RowStreams([(0, row, 0) for row in range(4)], "each") for _ in range(2))
    drawn = streams.take(torch.tensor([2, 0]), each=3).uniform(6, 5).reshape(2, 3, 5)
    assert len(drawn.flatten().unique()) == 30
    assert torch.equal(drawn.flatten(1), again.uniform(4, 15)[[2, 0]])
    with pytest.raises(ValueError, match="6 row streams"):
        streams.take(torch.tensor([2, 0]), each=3).uniform(2)
    with pytest.raises(ValueError, match="taken from again"):
        streams.take(None, each=3).take(torch.tensor([0]))


def test_asking_about_some_rows_counts_them() -> None:
    rows = Rows([7, 4], 3, 0, "cpu")  # 7, 7, 7, 4, 4, 4
    assert rows.counts == {7: 3, 4: 3}
    view = rows.take(torch.tensor([0, 2, 5]), each=10)
    assert len(view) == 30 and view.label.tolist() == [7] * 20 + [4] * 10
    assert view.counts == {4: 10, 7: 20} and len(view.noise) == 30
    assert rows.take(each=2).counts == {7: 6, 4: 6}
