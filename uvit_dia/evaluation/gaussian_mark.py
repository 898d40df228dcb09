"""A second mark: samples of a Gaussian in pixels, which a model must beat to have learnt anything.

The Gaussian has the mean and the full covariance of the training images. It knows nothing of edges
or objects: what is no nearer to the reference than it is may be noise of the right colours.
"""

import torch
from torch import Tensor

from uvit_dia.rng import position_generator

MAX_PIXELS = 4096  # values an image; the covariance has their square
MAX_IMAGES = 5000  # the mark is far above what N changes in it
CHUNK_IMAGES = 1000


def pixel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean, (P,), and covariance, (P, P), of the pixels of images, float64 on the CPU.

    Args:
        images: (M, C, H, W) uint8, M at least 2; P = C * H * W.
    """
    chunks = images.flatten(1).split(CHUNK_IMAGES)
    total = sum(chunk.cpu().double().sum(dim=0) for chunk in chunks)
    mean = torch.as_tensor(total) / len(images)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for chunk in chunks:
        centred = chunk.cpu().double() - mean  # B P
        covariance += centred.T @ centred
    return mean, covariance / (len(images) - 1)


def gaussian_images(images: Tensor, num_images: int) -> Tensor:
    """Sample a Gaussian that is fitted to images, rounded and clipped as a PNG would.

    Args:
        images: (M, C, H, W) uint8, M at least 2.
        num_images: N.

    Returns:
        (N, C, H, W) uint8 on the CPU, the same ones whenever it is called.
    """
    mean, covariance = pixel_moments(images)
    values, vectors = torch.linalg.eigh(covariance)
    # the symmetric root, which does not depend on the signs of the eigenvectors
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    generator = position_generator(0, "gaussian mark")
    normal = torch.randn(num_images, len(mean), generator=generator, dtype=torch.float64)
    pixels = mean + normal @ root
    return pixels.round().clamp(0, 255).to(torch.uint8).unflatten(1, images.shape[1:])
