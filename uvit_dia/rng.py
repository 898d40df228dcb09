"""Randomness addressed by position, so that nothing random ever has to be saved.

Every random number is a function of `(seed, purpose, index)`. During training the index counts
chunks of `CHUNK_IMAGES` images of the *global* batch; while sampling it is the index of the image.
A resumed run, and a run on another number of processes, therefore draws the very same numbers, and
a rank draws only the chunks that overlap its share.

A seed for each step is NVlabs/edm2's idea (`training/training_loop.py`); ours is for chunks of
images.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

CHUNK_IMAGES = 8  # images drawn by one generator; part of what a seed means, so never change it
_GOLDEN_32 = 0x9E3779B1  # odd, hence index -> index * _GOLDEN_32 mod 2**32 is a bijection
_MASK_32 = 0xFFFFFFFF


def position_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Return the 63-bit seed that belongs to a position.

    torch's CPU generator (mt19937) uses only the low 32 bits of a seed. They are a bijection of
    `index`, so that they never repeat within one purpose. The higher bits, which CUDA's Philox also
    uses, are a hash of seed and purpose.

    Args:
        seed: the run's seed, any int.
        purpose: what is drawn, such as `"eps"`.
        index: position in [0, 2**32).

    Raises:
        ValueError: if `index` is outside [0, 2**32).
    """
    if not 0 <= index <= _MASK_32:
        raise ValueError(f"index must be in [0, 2**32), got {index}")
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    base = int.from_bytes(digest, "little")
    low = (base + index * _GOLDEN_32) & _MASK_32
    return ((base >> 33) << 32) | low


def position_generator(
    seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a new generator on `device`, seeded with `position_seed(seed, purpose, index)`."""
    return torch.Generator(device).manual_seed(position_seed(seed, purpose, index))


def _draw(
    seed: int,
    purpose: str,
    step: int,
    rows: range,
    batch_size: int,
    *,
    into: Callable[[int], Tensor],
    fill: Callable[[Tensor, torch.Generator], object],
) -> Tensor:
    """Draw some rows of the global batch of a step.

    Each chunk of rows has a seed of its own; one generator takes them in turn, and fills its part
    of one tensor, which costs less than a generator and a tensor a chunk.

    Args:
        seed: the run's seed.
        purpose: what is drawn.
        step: optimizer step, from 0.
        rows: the rows that are wanted.
        batch_size: global batch size B.
        into: makes an empty tensor of so many rows.
        fill: draws a chunk in place.
    """
    if not (0 <= rows.start <= rows.stop <= batch_size and rows.step == 1):
        raise ValueError(f"rows must be a contiguous part of range({batch_size}), got {rows}")
    chunks_per_batch = -(-batch_size // CHUNK_IMAGES)
    first = rows.start // CHUNK_IMAGES
    last = max(first + 1, -(-rows.stop // CHUNK_IMAGES))  # one at least, for the shape of no rows
    drawn = into((last - first) * CHUNK_IMAGES)
    generator = torch.Generator(drawn.device)
    for index, chunk in enumerate(drawn.split(CHUNK_IMAGES), start=first):
        generator.manual_seed(position_seed(seed, purpose, step * chunks_per_batch + index))
        fill(chunk, generator)
    offset = rows.start - first * CHUNK_IMAGES
    return drawn[offset : offset + len(rows)]


def normal_rows(
    seed: int,
    purpose: str,
    step: int,
    rows: range,
    batch_size: int,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw standard normal numbers for part of a global batch.

    Args:
        seed: the run's seed.
        purpose: what is drawn.
        step: optimizer step, from 0.
        rows: the contiguous positions in the global batch that are wanted.
        batch_size: global batch size B.
        shape: shape of one row.
        device: where to draw; CPU and CUDA generators give different numbers.

    Returns:
        (len(rows), *shape) float32 on `device`.
    """
    return _draw(
        seed,
        purpose,
        step,
        rows,
        batch_size,
        into=lambda count: torch.empty(count, *shape, device=device),
        fill=lambda chunk, generator: chunk.normal_(generator=generator),
    )


def integer_rows(
    seed: int, purpose: str, step: int, rows: range, batch_size: int, high: int
) -> Tensor:
    """Draw integers uniform on [0, high) for part of a global batch, as `normal_rows` does.

    Returns:
        (len(rows),) int64 on the CPU, the same on every kind of device.
    """
    return _draw(
        seed,
        purpose,
        step,
        rows,
        batch_size,
        into=lambda count: torch.empty(count, dtype=torch.int64),
        fill=lambda chunk, generator: chunk.random_(0, high, generator=generator),
    )


def permutation(seed: int, purpose: str, index: int, length: int) -> Tensor:
    """Return the permutation of range(length) of a position, (length,) int64 on the CPU."""
    return torch.randperm(length, generator=position_generator(seed, purpose, index))


def hash_uniform(seeds: Tensor, site: int, num_values: int) -> Tensor:
    """Hash per-row seeds to uniform numbers, elementwise on their device, without a generator.

    Dropout uses it: the mask is a function of the row's seed and the place in the network, whatever
    the micro-batch, the number of processes, or a recomputation under gradient checkpointing. The
    mixer is the 32-bit finaliser `lowbias32` of C. Wellons' hash-prospector (public domain).

    Args:
        seeds: (B,) int64.
        site: which place in the network draws, in [0, 2**16).
        num_values: how many numbers a row gets, at most 2**16.

    Returns:
        (B, num_values) float32, uniform on [0, 1) in steps of 2**-24.
    """
    columns = torch.arange(num_values, device=seeds.device) + (site << 16)  # (V,)
    mixed = _mix32(_mix32(seeds & _MASK_32)[:, None] ^ columns)  # (B, V)
    mixed = _mix32(mixed ^ (seeds >> 32)[:, None])
    return (mixed >> 8).float() * 2.0**-24  # float32 holds 24 bits exactly


def _mix32(x: Tensor) -> Tensor:
    """Mix int64 tensors that hold 32-bit values; the result holds 32-bit values again."""
    x = x & _MASK_32
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK_32
    # This product may exceed int64: it wraps, which leaves the low 32 bits exact.
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK_32
    return x ^ (x >> 16)
