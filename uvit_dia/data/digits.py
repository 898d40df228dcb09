"""scikit-learn's 1,797 handwritten digits."""

import numpy as np
import torch

from uvit_dia.data.images import ImageSet


def read_digits() -> ImageSet:
    """Return the digits, 8x8 grey, their 17 levels spread over 0 .. 255; there is no test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return ImageSet("digits", torch.from_numpy(images), labels, tuple("0123456789"))
