"""Runs of visitors: each can be stopped by its own visitor alone."""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from uvit_dia.demo.session import Session
from uvit_dia.demo.unfolding import Frame
from uvit_dia.demo.wish import Wish


@dataclass
class Trajectory:
    """A visitor's newest run, as far as it came.

    Attributes:
        wish: what was asked for.
        labels: classes of the images, (N,) int64, or None.
        num_frames: about how many there will be.
        folder: of its files.
        steps: for each step the frames of the models.
    """

    wish: Wish
    labels: Tensor | None
    num_frames: int
    folder: Path
    steps: list[list[Frame]] = field(default_factory=list)

    def forget(self) -> None:
        """Delete its files."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Visits:
    """What visitors do: each run can be stopped by its own visitor alone.

    Args:
        session: the models.
        folder: where files are written.
    """

    def __init__(self, session: Session, folder: Path) -> None:
        self.session = session
        self.folder = folder
        self._stops: dict[str, threading.Event] = {}

    def stop(self, visitor: str) -> None:
        """End a visitor's run at its next call of the network."""
        if visitor in self._stops:
            self._stops[visitor].set()

    def run(self, visitor: str, wish: Wish) -> Iterator[Trajectory]:
        """Sample for a visitor; yield the trajectory each time that it has grown.

        Raises:
            InputError: see `Session.settings`.
            NonFiniteImagesError: if the sampler ends in values that are not finite.
        """
        self.session.settings(wish)
        folder = Path(tempfile.mkdtemp(prefix="run.", dir=self.folder))
        labels, count = self.session.labels(wish), self.session.num_frames(wish)
        trajectory = Trajectory(wish, labels, count, folder)
        self.stop(visitor)  # of another tab's click, or of one that went unnoticed
        stop = self._stops[visitor] = threading.Event()
        try:
            for frames in self.session.unfold(wish, stop):
                trajectory.steps.append(frames)
                yield trajectory
        finally:
            if self._stops.get(visitor) is stop:
                del self._stops[visitor]
