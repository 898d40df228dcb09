"""The floor: what real images that the reference does not hold measure against it.

A Frechet distance of N images is never 0, not even of real ones: means and covariances of N images
scatter. So every distance stands beside that of N real images, drawn many times. They must not be
part of the reference: an image is nearer to a set that holds it (of scikit-learn's digits, N = 500,
0.86 within the reference, 1.65 outside of it).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from uvit_dia.rng import permutation

MAX_DRAWS = 20
MIN_DRAWS = 4
DRAW_COST = 2**31  # D^3 of all draws together: a distance costs the eigenvalues of a (D, D) matrix

Distance = Callable[[Tensor, Tensor], float]  # of (N, D) and (M, D) features


@dataclass(frozen=True)
class Floor:
    """Distances of real images to the reference.

    Attributes:
        num_images: N; None where there is no floor, as are the next two.
        value: their mean over the draws.
        spread: standard deviation of single draws; None also where there is only one draw.
        draws: how many.
        split: "test" or "train", where the N images come from.
        rule: how they were drawn, or why there are none, in words.
    """

    num_images: int | None
    value: float | None
    spread: float | None
    draws: int
    split: str | None
    rule: str

    @classmethod
    def missing(cls, rule: str) -> "Floor":
        """Return that there is no floor, and why."""
        return cls(None, None, None, 0, None, rule)

    def as_dict(self) -> dict[str, object]:
        """Return it under the names that results have."""
        return {
            "floor": self.value,
            "floor_std": self.spread,
            "floor_draws": self.draws,
            "floor_num_images": self.num_images,
            "floor_split": self.split,
            "floor_rule": self.rule,
        }


def num_draws(num_features: int) -> int:
    """Return how many draws a floor takes: 20 for small features, 4 for the 2,048 of Inception."""
    return min(MAX_DRAWS, max(MIN_DRAWS, DRAW_COST // num_features**3))


def largest_num_images(num_train: int, num_test: int) -> int:
    """Return the largest N that `real_floor` can draw where it cannot draw more."""
    return num_test or num_train // 2


def real_floor(train: Tensor, test: Tensor | None, num_images: int, distance: Distance) -> Floor:
    """Measure N real images against the reference, many times.

    The first of these that can be done is:
    1. N images of the test split against the whole training set;
    2. N images of the training set against all its others, where those are not fewer than N.

    Args:
        train: (M, D) features of the training set, the reference of samples.
        test: (K, D) features of the test split, or None.
        num_images: N, at least 2.
        distance: the Frechet distance.
    """
    if test is not None and len(test) >= num_images:
        pool, split = test, "test"
        rule = f"{num_images} of {len(test)} test images against {len(train)} training images"
    elif 2 * num_images <= len(train):
        pool, split = train, "train"
        rule = (
            f"{num_images} of {len(train)} training images against the "
            f"{len(train) - num_images} others"
        )
    else:
        beside = "no test split" if test is None else f"{len(test)} test images"
        return Floor.missing(
            f"no floor: {len(train)} training images and {beside} hold no {num_images} images that "
            "the reference could do without"
        )
    draws = num_draws(pool.shape[1])
    if 2 * num_images > len(pool):  # draws that share most images say nothing of their spread
        draws = 1
    values = []
    for draw in range(draws):
        order = permutation(0, "real floor", draw, len(pool))
        others = train if pool is test else train[order[num_images:]]
        values.append(distance(pool[order[:num_images]], others))
    return Floor(
        num_images,
        value=float(np.mean(values)),
        spread=float(np.std(values, ddof=1)) if draws > 1 else None,
        draws=draws,
        split=split,
        rule=rule,
    )
