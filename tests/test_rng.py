"""Randomness by position: any slice of a batch draws the same numbers, and no seed repeats."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from uvit_dia.rng import (
    CHUNK_IMAGES,
    hash_uniform,
    integer_rows,
    normal_rows,
    permutation,
    position_seed,
)

Draw = Callable[[range, int], Tensor]


def normals(rows: range, batch_size: int) -> Tensor:
    return normal_rows(3, "eps", 17, rows, batch_size, (2, 5))


def integers(rows: range, batch_size: int) -> Tensor:
    return integer_rows(3, "timesteps", 17, rows, batch_size, 1000)


def slices(batch_size: int, length: int) -> Iterator[range]:
    for start in range(0, batch_size, length):
        yield range(start, min(start + length, batch_size))


# ---------------------------------------------------------------- rows of a batch


@pytest.mark.parametrize("draw", [normals, integers])
@pytest.mark.parametrize("length", [1, 3, 5, 8, 12, 16])
@pytest.mark.parametrize("batch_size", [1, 8, 20, 33])
def test_slices_together_are_the_whole_batch(draw: Draw, batch_size: int, length: int) -> None:
    whole = draw(range(batch_size), batch_size)
    parts = [draw(rows, batch_size) for rows in slices(batch_size, length)]
    assert len(whole) == batch_size
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)


@pytest.mark.parametrize("draw", [normals, integers])
@pytest.mark.parametrize("position", [0, 3, 8, 20])
def test_no_rows_are_an_empty_tensor(draw: Draw, position: int) -> None:
    assert draw(range(position, position), 20).shape[0] == 0


def test_a_rank_draws_only_the_chunks_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def spy(seed: int, purpose: str, index: int) -> int:
        drawn.append(index)
        return position_seed(seed, purpose, index)

    monkeypatch.setattr("uvit_dia.rng.position_seed", spy)
    integer_rows(0, "timesteps", 2, range(10, 17), 1024, 1000)
    chunks_per_batch = 1024 // CHUNK_IMAGES
    assert drawn == [2 * chunks_per_batch + 1, 2 * chunks_per_batch + 2]


def test_rows_of_a_batch_and_of_the_steps_differ() -> None:
    """No chunk is drawn twice, not even where the batch is no multiple of a chunk."""
    draws = [normal_rows(0, "eps", step, range(12), 12, (4,)) for step in range(50)]
    rows = torch.cat(draws)
    assert len(rows.unique(dim=0)) == 50 * 12


@pytest.mark.parametrize(
    ("seed", "purpose", "step"), [(4, "eps", 17), (3, "x", 17), (3, "eps", 18)]
)
def test_numbers_differ_by_seed_purpose_and_step(seed: int, purpose: str, step: int) -> None:
    other = normal_rows(seed, purpose, step, range(16), 16, (2, 5))
    assert not torch.isclose(normals(range(16), 16), other).any()


def test_numbers_are_pinned() -> None:
    """A change of these would silently change every run that is resumed."""
    assert position_seed(0, "eps", 0) == 2176392019966313487
    assert position_seed(7, "batch order", 123456) == 6538614109882019254
    assert integer_rows(0, "timesteps", 5, range(6, 11), 64, 1000).tolist() == [
        41,
        320,
        631,
        114,
        648,
    ]


def test_normals_are_standard_normal() -> None:
    draws = normal_rows(0, "eps", 0, range(4096), 4096, (64,)).double()
    count = draws.numel()
    assert abs(draws.mean()) < 5 / count**0.5
    assert abs(draws.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs(draws.pow(4).mean() - 3) < 5 * (96 / count) ** 0.5


def test_integers_are_uniform_below_the_bound() -> None:
    draws = integer_rows(0, "timesteps", 0, range(100_000), 100_000, 10)
    counts = draws.bincount(minlength=10)
    assert draws.dtype == torch.int64
    assert len(counts) == 10
    assert (counts - 10_000).abs().max() < 5 * (100_000 * 0.1 * 0.9) ** 0.5


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    normals(range(9), 9)
    integers(range(9), 9)
    permutation(0, "batch order", 0, 10)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "rows", [range(-1, 4), range(0, 9), range(0, 8, 2), range(5, 4), range(9, 9)]
)
def test_rows_outside_the_batch_are_refused(rows: range) -> None:
    with pytest.raises(ValueError, match=r"part of range\(8\)"):
        integers(rows, 8)


# ---------------------------------------------------------------- positions and permutations


def test_low_32_bits_never_repeat_within_a_purpose() -> None:
    """The CPU generator of torch uses no others."""
    seeds = [position_seed(5, "eps", index) for index in range(200_000)]
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_spread_over_their_range() -> None:
    """Neither half of a seed is constant over seeds, purposes and indices."""
    seeds = [position_seed(s, p, i) for s in range(20) for p in "abc" for i in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) > 2**62
    assert len({seed >> 32 for seed in seeds}) == 60  # one for each seed and purpose


@pytest.mark.parametrize("index", [-1, 2**32, 2**64])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=rf"2\*\*32.*{index}"):
        position_seed(0, "eps", index)


def test_the_last_index_is_allowed() -> None:
    assert position_seed(0, "eps", 2**32 - 1) != position_seed(0, "eps", 0)


def test_permutation_is_one_of_all_images_and_differs_by_index() -> None:
    first, second = permutation(0, "batch order", 0, 500), permutation(0, "batch order", 1, 500)
    assert first.sort().values.tolist() == list(range(500))
    assert (first == second).sum() < 20
    torch.testing.assert_close(permutation(0, "batch order", 0, 500), first, rtol=0, atol=0)


# ---------------------------------------------------------------- hashed dropout numbers


def row_seeds(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2**62, (count,), generator=generator)


def test_hash_has_the_moments_of_a_uniform_distribution() -> None:
    values = hash_uniform(row_seeds(4096), 3, 128).double()
    count = values.numel()
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 1 / 2) < 5 * (1 / 12 / count) ** 0.5
    assert abs(values.var() - 1 / 12) < 5 * (1 / 180 / count) ** 0.5


@pytest.mark.parametrize("num_bins", [2, 10, 64])
def test_hash_fills_all_bins_alike(num_bins: int) -> None:
    values = hash_uniform(row_seeds(2048), 0, 256)
    counts = torch.histc(values, num_bins, 0, 1)
    expected = values.numel() / num_bins
    chi_squared = ((counts - expected).square() / expected).sum()
    assert chi_squared < num_bins + 6 * (2 * num_bins) ** 0.5


@pytest.mark.parametrize("seeds", [torch.arange(4096), torch.arange(4096) << 32, row_seeds(4096)])
def test_hash_is_uniform_in_every_column_and_at_every_site(seeds: Tensor) -> None:
    """Also for seeds that count up in their low or in their high half."""
    for site in (0, 1, 2, 100, 2**16 - 1):
        values = hash_uniform(seeds, site, 32).double()
        assert (values.mean(dim=0) - 0.5).abs().max() < 5 * (1 / 12 / len(seeds)) ** 0.5
        assert (values.mean(dim=1) - 0.5).abs().max() < 6 * (1 / 12 / 32) ** 0.5


def test_hash_of_rows_columns_and_sites_are_uncorrelated() -> None:
    seeds = torch.arange(4096)
    first, second = hash_uniform(seeds, 0, 32), hash_uniform(seeds, 1, 32)
    columns = torch.corrcoef(torch.cat([first, second], dim=1).T)
    columns.fill_diagonal_(0)
    assert columns.abs().max() < 6 / len(seeds) ** 0.5
    next_row = torch.corrcoef(torch.stack([first[:-1].flatten(), first[1:].flatten()]))[0, 1]
    assert next_row.abs() < 5 / first.numel() ** 0.5


def test_hash_of_a_row_depends_on_its_seed_alone() -> None:
    seeds = row_seeds(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    whole = hash_uniform(seeds, 7, 16)
    torch.testing.assert_close(hash_uniform(seeds[order], 7, 16), whole[order], rtol=0, atol=0)
    torch.testing.assert_close(hash_uniform(seeds[4:5], 7, 16), whole[4:5], rtol=0, atol=0)


def test_hash_uses_both_halves_of_a_seed() -> None:
    seeds = torch.tensor([5, 6, 5 + (1 << 32)])
    values = hash_uniform(seeds, 0, 64)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (values[a] == values[b]).sum() == 0


def test_hash_agrees_with_integers_of_any_size() -> None:
    """The int64 arithmetic wraps; Python's does not."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    seeds = [0, 1, 2**32 - 1, 2**32, 2**62 + 12345, 2**63 - 1]
    expected = [
        [
            (mix(mix(mix(seed % 2**32) ^ ((9 << 16) + v)) ^ (seed >> 32)) >> 8) / 2**24
            for v in range(6)
        ]
        for seed in seeds
    ]
    found = hash_uniform(torch.tensor(seeds), 9, 6)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=0)
