"""Sampling as a sequence of moments: what the network is shown at each call, and its gates.

A sampler's loop calls the network; a page wants to be called back by nobody, and to ask for the
next moment when it is ready. So the loop runs in a thread of its own, which puts its moments into a
queue. They are few (see `MAX_FRAMES`), so that the loop never waits for who reads them.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uvit_dia.analysis.probe import Output, watched
from uvit_dia.config.schema import DiffusionConfig, SampleConfig
from uvit_dia.data.images import to_uint8
from uvit_dia.models import UViT
from uvit_dia.sampling.animation import MAX_FRAMES
from uvit_dia.sampling.chain import Denoiser, SamplingLoop
from uvit_dia.sampling.sampler import ImageSampler, SeededNoise, make_chain


@dataclass(frozen=True)
class Moment:
    """One moment of a sampling.

    Attributes:
        images: (N, C, H, W) uint8: x_t at the scale that the network knows, clipped to the range of
            images; in the last moment the images themselves.
        gates: (n, calls) float32, the mean gate of each block with a unit at each network call so
            far, over images and channels; None of a network without a unit.
        calls: network calls so far; a step with guidance counts as one.
        num_calls: how many there will be.
        is_last: whether these are the images.
    """

    images: Tensor
    gates: Tensor | None
    calls: int
    num_calls: int
    is_last: bool


class Stopped(Exception):
    """Whoever watched a sampling has asked for its end."""


def count_calls(settings: SampleConfig, diffusion: DiffusionConfig) -> int:
    """Return how often a sampler calls the network, by letting it run on one pixel."""
    noise, generators = SeededNoise(0, (1, 1, 1)).of([0])
    _, calls = make_chain(settings, diffusion).run(
        lambda x, _: torch.zeros_like(x), noise, generators
    )
    return calls


@contextmanager
def mean_gates_of_call(model: UViT, num_images: int) -> Iterator[dict[int, Tensor]]:
    """Collect the mean gate of each block, () each, during one call of the network.

    Args:
        model: the network.
        num_images: how many rows of the batch count, the first ones: with guidance the second half
            has no class.

    Yields:
        block index -> mean gate, filled during the call.
    """
    gates: dict[int, Tensor] = {}

    def keep(unit: Any, y: Tensor, block_index: int, output: Output) -> None:  # noqa: ANN401
        gates[block_index] = unit.gate(output[1])[:num_images].float().mean()

    with watched(model, keep):
        yield gates


class ReportingChain:
    """A sampling loop that reports each call of the network; its images stay as they are.

    Args:
        chain: the loop.
        model: the network that the loop's denoiser calls.
        lock: held during each call, so that samplings of several visitors take turns call by call,
            and none of them sees another's gates.
        report: called with x_t and the gates, see `mean_gates_of_call`, after each call; what it
            raises ends the loop.
    """

    def __init__(
        self, chain: SamplingLoop, model: UViT, lock: threading.Lock, report: "Report"
    ) -> None:
        self._chain, self._model, self._lock, self._report = chain, model, lock, report
        self.safeguards = chain.safeguards

    def run(
        self, denoiser: Denoiser, noise: Tensor, generators: list[torch.Generator]
    ) -> tuple[Tensor, int]:
        """Run the loop; see `Chain.run`."""

        def reported(x_t: Tensor, timesteps: Tensor) -> Tensor:
            with self._lock, mean_gates_of_call(self._model, len(x_t)) as gates:
                prediction = denoiser(x_t, timesteps)
            self._report(x_t, gates)
            return prediction

        return self._chain.run(reported, noise, generators)


class Report:
    """Makes moments of what a loop reports, and puts those that are shown into a queue.

    Args:
        num_calls: of the network, in the whole sampling.
        stop: set by whoever wants no more.

    Attributes:
        moments: the queue; None or an error ends it.
    """

    def __init__(self, num_calls: int, stop: threading.Event) -> None:
        self.moments: queue.SimpleQueue[Moment | Exception | None] = queue.SimpleQueue()
        self._num_calls, self._stop = num_calls, stop
        self._every = -(-num_calls // MAX_FRAMES)
        self._gates: list[Tensor] = []
        self._calls = 0

    def __call__(self, x_t: Tensor, gates: dict[int, Tensor]) -> None:
        """Take one call of the network.

        Raises:
            Stopped: if the sampling is to end.
        """
        if self._stop.is_set():
            raise Stopped
        if gates:
            self._gates.append(torch.stack([gates[block] for block in sorted(gates)]).cpu())
        self._calls += 1
        if (self._calls - 1) % self._every == 0:
            self._put(to_uint8(x_t).cpu(), is_last=False)

    def finish(self, images: Tensor) -> None:
        """Take the images, (N, C, H, W) uint8."""
        self._put(images, is_last=True)

    def _put(self, images: Tensor, *, is_last: bool) -> None:
        gates = torch.stack(self._gates, dim=1) if self._gates else None
        self.moments.put(Moment(images, gates, self._calls, self._num_calls, is_last))


def unfold(
    sampler: ImageSampler,
    model: UViT,
    *,
    num_calls: int,
    lock: threading.Lock,
    stop: threading.Event,
) -> Iterator[Moment]:
    """Sample the first block of images of a sampler, moment by moment.

    Args:
        sampler: of the network; its loop is wrapped.
        model: the network.
        num_calls: how often it will be called, see `count_calls`.
        lock: see `ReportingChain`.
        stop: set by anybody, it ends the sampling at its next call; set also when who reads the
            moments goes away.

    Yields:
        The moments: every call's, or of many calls every second, third ..., and the images.

    Raises:
        NonFiniteImagesError: if the images have values that are not finite.
    """
    report = Report(num_calls, stop)
    sampler.chain = ReportingChain(sampler.chain, model, lock, report)

    def work() -> None:
        try:
            _, images = next(sampler.sample(range(sampler.batch_size)))
            report.finish(images)
            report.moments.put(None)
        except Stopped:
            report.moments.put(None)
        except Exception as error:  # handed to who reads the moments, and raised there
            report.moments.put(error)

    threading.Thread(target=work, daemon=True, name="unfolding").start()
    try:
        while (moment := report.moments.get()) is not None:
            if isinstance(moment, Exception):
                raise moment
            yield moment
    finally:
        stop.set()
