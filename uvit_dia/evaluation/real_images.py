"""The real images that samples are compared with: their features, the floor and the Gaussian mark.

Each is computed when it is first asked for, once a process, and kept in the user's cache.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property

from torch import Tensor

from uvit_dia.data.images import ImageSet
from uvit_dia.evaluation.cache import Cache, Numbers
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.features import Reference, extract, reference_features
from uvit_dia.evaluation.floor import Floor, largest_num_images, num_draws, real_floor
from uvit_dia.evaluation.gaussian_mark import MAX_IMAGES, MAX_PIXELS, gaussian_images
from uvit_dia.evaluation.metrics import frechet_distance

RULES = 1  # of floors and marks; a change of how they are drawn makes it one more


class RealImages:
    """A training set, and the test split beside it.

    Args:
        extractor: gives the features.
        load_train: reads the training set.
        load_test: reads the test split; returns None where there is none.
        batch_size: images at a time.
        cache: where features and floors are kept.
        show_progress: whether a bar is drawn where it takes long.
    """

    def __init__(
        self,
        extractor: Extractor,
        load_train: Callable[[], ImageSet],
        load_test: Callable[[], ImageSet | None],
        *,
        batch_size: int,
        cache: Cache,
        show_progress: bool,
    ) -> None:
        self._extractor = extractor
        self._load_train = load_train
        self._load_test = load_test
        self._batch_size = batch_size
        self._cache = cache
        self._show_progress = show_progress

    @cached_property
    def images(self) -> ImageSet:
        """The training images."""
        return self._load_train()

    @cached_property
    def reference(self) -> Reference:
        """Features of the whole training set."""
        return self._features_of(self.images)

    @cached_property
    def held_out(self) -> Reference | None:
        """Features of the test split; None where there is none."""
        images = self._load_test()
        return None if images is None else self._features_of(images)

    def _features_of(self, images: ImageSet) -> Reference:
        return reference_features(
            images,
            self._extractor,
            batch_size=self._batch_size,
            cache=self._cache,
            show_progress=self._show_progress,
        )

    def floor(self, num_images: int) -> Floor:
        """Return the floor at N, see `real_floor`."""
        train, test = self._features, self._held_out_features
        key = f"floor {RULES}/{num_images}/{num_draws(train.shape[1])}"
        if test is not None and self.held_out is not None:
            key += f"/{self.held_out.key}"

        def compute() -> Numbers:
            return asdict(real_floor(train, test, num_images, frechet_distance))

        return Floor(**self._numbers(key, compute))  # type: ignore[arg-type]

    def smaller_floor(self, num_images: int) -> Floor | None:
        """Return the floor at the largest N below num_images that has one; None where none has."""
        num_test = 0 if self.held_out is None else len(self.held_out)
        largest = largest_num_images(len(self.reference), num_test)
        return self.floor(largest) if 2 <= largest < num_images else None

    def gaussian_mark(self, num_images: int) -> Numbers:
        """Return the Frechet distance of a Gaussian in pixels, as part of a record."""
        count = min(num_images, MAX_IMAGES)
        pixels = self.images.images[0].numel()
        if pixels > MAX_PIXELS:
            rule = f"not computed: {pixels} values an image; the limit is {MAX_PIXELS}"
            return {
                "gaussian_mark": None,
                "gaussian_mark_num_images": None,
                "gaussian_mark_rule": rule,
            }

        def compute() -> Numbers:
            samples = gaussian_images(self.images.images, count).split(self._batch_size)
            features = extract(self._extractor, samples)[self._layer]
            return {
                "gaussian_mark": frechet_distance(features, self._features),
                "gaussian_mark_num_images": count,
                "gaussian_mark_rule": f"{count} samples of a Gaussian with mean and covariance of "
                "the training images' pixels, against the training set",
            }

        return self._numbers(f"gaussian mark {RULES}/{count}", compute)

    def _numbers(self, key: str, compute: Callable[[], Numbers]) -> Numbers:
        reference = self.reference
        return self._cache.numbers(reference.name, f"{key}/{reference.key}", compute)

    @property
    def _layer(self) -> str:
        return self._extractor.feature_layer

    @property
    def _features(self) -> Tensor:
        return self.reference.features[self._layer]

    @property
    def _held_out_features(self) -> Tensor | None:
        return None if self.held_out is None else self.held_out.features[self._layer]
