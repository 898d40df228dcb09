"""A sampling run that can be watched: a frame a network call, with the gates of every block.

The sampler's loop is the one that `sample.py` runs, so the last images are the same. It runs in a
thread of its own and hands over one frame at a time, waiting until that is taken.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any

import torch
from torch import Tensor

from uvit_dia.analysis.probe import watched
from uvit_dia.config.schema import DiffusionConfig
from uvit_dia.data.images import to_uint8
from uvit_dia.demo.images_meant import ImagesMeant
from uvit_dia.models import UViT
from uvit_dia.sampling.animation import MAX_FRAMES
from uvit_dia.sampling.chain import Denoiser, SamplingLoop
from uvit_dia.sampling.sampler import ImageSampler

WAIT_SECONDS = 0.1  # between two looks at whether the watcher went away
CALLS_A_STEP = {"heun": 2, "flow_heun": 2}  # the others call the network about once a step


@dataclass(frozen=True)
class Frame:
    """What one call of the network shows.

    Attributes:
        call: its place among the calls of the run, from 1.
        timestep: what the network is told, in [0, T); NaN for the images at the end.
        x_t: (N, C, H, W) uint8, what the network is shown, clipped to the range of images.
        x_0: (N, C, H, W) uint8, the images that its prediction means; of the last frame the images.
        gates: (n,) float32, each block's gate, the mean over images and channels, for the n blocks
            that carry a unit; None for a network without one, and for the images at the end.
    """

    call: int
    timestep: float
    x_t: Tensor
    x_0: Tensor
    gates: Tensor | None


class Stopped(Exception):
    """Nobody watches any more."""


def stride(sampler: str, num_steps: int) -> int:
    """Return k such that every k-th call makes a frame, so that there are `MAX_FRAMES` at most."""
    return -(-expected_calls(sampler, num_steps) // MAX_FRAMES)


def expected_calls(sampler: str, num_steps: int) -> int:
    """Return about how often a sampler calls the network."""
    return num_steps * CALLS_A_STEP.get(sampler, 1)


def unfold(
    sampler: ImageSampler,
    model: UViT,
    *,
    num_images: int,
    diffusion: DiffusionConfig,
    lock: AbstractContextManager[Any],
    stop: threading.Event,
) -> Generator[Frame]:
    """Sample images 0 .. num_images - 1, and yield what is seen on the way.

    Args:
        sampler: of the model, whose block holds all images.
        model: the network, whose units are watched.
        num_images: N.
        diffusion: the process that the network was trained on.
        lock: held while the network computes, so that runs side by side take turns.
        stop: ends the run at the next network call, once it is set.

    Yields:
        Frames, the noisiest first; the images themselves last, unless the run was stopped.

    Raises:
        NonFiniteImagesError: if the sampler ends in values that are not finite.
    """
    hand = _Handover(stop)
    watching = _WatchedLoop(sampler, model, diffusion, lock, hand.give)
    sampler.chain = watching

    def work() -> None:
        ((_, images),) = sampler.sample(range(num_images))
        hand.give(Frame(watching.calls, float("nan"), images, images, None))

    yield from hand.taken_from(work)


class _Handover:
    """Frames on their way from the thread that computes to the one that watches.

    Args:
        stop: set by who wants no more.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._left = threading.Event()
        self._queue: Queue[Frame | BaseException | None] = Queue(maxsize=1)

    def give(self, item: Frame | BaseException | None) -> None:
        """Wait until there is room for a frame, an error, or None for the end.

        Raises:
            Stopped: if nobody will take it.
        """
        while not (self._left.is_set() or self._stop.is_set()):
            try:
                return self._queue.put(item, timeout=WAIT_SECONDS)
            except Full:
                continue
        raise Stopped

    def taken_from(self, work: Callable[[], None]) -> Generator[Frame]:
        """Start what gives frames in a thread, and yield them; raise what it raises."""
        thread = threading.Thread(target=self._work, args=[work], name="unfolding", daemon=True)
        thread.start()
        try:
            while not self._stop.is_set():
                try:
                    item = self._queue.get(timeout=WAIT_SECONDS)
                except Empty:
                    continue
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._left.set()
            thread.join()

    def _work(self, work: Callable[[], None]) -> None:
        end: BaseException | None = None
        try:
            work()
        except BaseException as error:
            end = error
        with suppress(Stopped):
            self.give(end)


class _WatchedLoop:
    """A sampler's loop that hands over a frame at every k-th call of the network."""

    def __init__(
        self,
        sampler: ImageSampler,
        model: UViT,
        diffusion: DiffusionConfig,
        lock: AbstractContextManager[Any],
        hand_over: Callable[[Frame], None],
    ) -> None:
        self._chain: SamplingLoop = sampler.chain
        self.safeguards = self._chain.safeguards
        self.calls = 0
        settings = sampler.settings
        self._every = stride(settings.sampler, settings.num_steps)
        self._model, self._lock, self._hand_over = model, lock, hand_over
        self._x_0_of = ImagesMeant(diffusion)

    def run(
        self, denoiser: Denoiser, noise: Tensor, generators: list[torch.Generator]
    ) -> tuple[Tensor, int]:
        """Run the loop; see `Chain.run`."""

        def shown(x_t: Tensor, timesteps: Tensor) -> Tensor:
            gates: dict[int, Tensor] = {}

            def keep(unit: Any, y: Tensor, block: int, output: Any) -> None:  # noqa: ANN401
                # of a guided call the first half is told the class
                gates[block] = unit.gate(output[1])[: len(x_t)].float().mean()

            with self._lock, watched(self._model, keep):
                prediction = denoiser(x_t, timesteps)
            if self.calls % self._every == 0:
                means = [gates[block] for block in sorted(gates)]
                x_0 = self._x_0_of(prediction.float(), x_t, timesteps[0])
                self._hand_over(
                    Frame(
                        call=self.calls + 1,
                        timestep=float(timesteps[0]),
                        x_t=to_uint8(x_t).cpu(),
                        x_0=to_uint8(x_0).cpu(),
                        gates=torch.stack(means).cpu() if means else None,
                    )
                )
            self.calls += 1
            return prediction

        return self._chain.run(shown, noise, generators)
