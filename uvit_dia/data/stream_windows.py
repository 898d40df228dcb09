"""Training on a whole stream: epoch k sees its k-th window, the images k N to (k + 1) N.

The first window is the set that `hf_stream.py` keeps, so evaluations, previews and the run's record
know N images that stay. Later windows are fetched while the one before is trained on, decoded into
memory, and forgotten; behind the end of the stream its beginning follows. Which image stands where
is a function of seed, step and stream alone, as for any set, so a resume reads on to its window.

What is not exact: images are shuffled within their window only, and a stream that changes between
start and resume is not noticed. Every process reads the whole stream.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from uvit_dia.config.schema import Config
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.data.decoded_set import decode_all
from uvit_dia.data.decoding import ImageFormat
from uvit_dia.data.images import ImageSet
from uvit_dia.data.labels import check_labels
from uvit_dia.data.listed_set import image_set
from uvit_dia.data.listing import EncodedImage, Listing, UnreadableImageError

if TYPE_CHECKING:
    from uvit_dia.data.hf_stream import RowsOfStream


class WindowReader:
    """Reads windows of the stream that a config names; each behind the one before, reading on.

    Args:
        config: of the run.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._stream: RowsOfStream | None = None
        self._next = 0  # window at which the stream stands

    def __call__(self, window: int) -> ImageSet:
        """Return the images of a window behind the first, fewer than N where some are unreadable.

        Raises:
            InputError: if the stream breaks, or an image or label is not what the config asks for.
        """
        from uvit_dia.data.hf_stream import IMAGE, LABEL, rows_from

        data, model = self.config.data, self.config.model
        count = data.stream_images
        found, self._stream = self._stream, None  # it is kept once it was read to the window's end
        if found is None or self._next != window:
            found = rows_from(data.path, window * count)
        labels: list[int] = []

        def encoded() -> Iterator[EncodedImage]:
            for place, row in enumerate(islice(found.rows, count), start=window * count):
                label = row.get(LABEL)
                labels.append(-1 if label is None else int(label))
                origin = f"{data.path}, row {place} of its stream"
                yield EncodedImage(origin, partial(_content, row[IMAGE]["bytes"], origin))

        listing = Listing(f"{data.path}, window {window}", data.path, count, encoded, ())
        decoded = decode_all(
            listing,
            ImageFormat(model.img_size, model.in_chans, data.resize, data.background),
            skip_unreadable=data.skip_unreadable,
            show_progress=False,
        )
        if found.class_names is not None:
            names = found.class_names
            listing = replace(listing, labels=tuple(labels), class_names=names)
        images = image_set(listing, decoded)
        check_labels(images, self.config)
        self._stream, self._next = found, window + 1
        return images


def _content(content: bytes | None, origin: str) -> bytes:
    if not content:
        raise UnreadableImageError(origin, "no image")
    return content


class StreamedBatches(TrainingBatches):
    """The batches of a stream, window by window; the image set is the first window.

    Three later windows at most are in memory beside it: the one before, the present, the next.

    Args:
        read: returns a later window by its number.
        arguments: as for `TrainingBatches`.
        options: likewise.
    """

    def __init__(self, read: Callable[[int], ImageSet], *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self._read = read
        self._windows: dict[int, Future[ImageSet]] = {}

    def _taken(self, kind: str, step: int, rows: range) -> Tensor:
        parts = []
        for window, indices in self.order.by_epoch(step, rows):
            held: Tensor = getattr(self._fetched(window).result() if window else self, kind)
            self._fetched(window + 1)
            for number in [number for number in self._windows if number < window - 1]:
                del self._windows[number]
            # where unreadable images were left out, some others of the window are seen twice
            taken = held[(indices % len(held)).to(held.device)]
            parts.append(taken.to(self.device, non_blocking=True))
        return torch.cat(parts)

    def _fetched(self, window: int) -> Future[ImageSet]:
        """Return a window that is fetched, or being fetched by a thread of its own."""
        if window not in self._windows:
            future = self._windows[window] = Future()
            # a daemon: a training that ends does not wait for images that it will not see
            Thread(target=self._fetch, args=(window, future), daemon=True).start()
        return self._windows[window]

    def _fetch(self, window: int, future: Future[ImageSet]) -> None:
        try:
            future.set_result(self._read(window))
        except BaseException as error:  # raised where the window is needed
            future.set_exception(error)
