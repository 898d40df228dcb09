"""One generator of noise an image, from whatever a user of the pipeline gives."""

import torch

from uvit_dia.rng import position_generator


def generators_of(
    generator: torch.Generator | list[torch.Generator] | None, seed: int | None, num_images: int
) -> list[torch.Generator]:
    """Return one generator an image.

    Raises:
        ValueError: if both a seed and generators are given, or not one an image.
    """
    if seed is not None:
        if generator is not None:
            raise ValueError("give a seed or a generator, not both")
        return [position_generator(seed, "sample", index) for index in range(num_images)]
    if isinstance(generator, list):
        if len(generator) != num_images:
            raise ValueError(f"{len(generator)} generators for {num_images} images")
        return generator
    first = generator or torch.Generator()
    if generator is None:
        first.seed()
    seeds = torch.randint(2**62, (num_images,), generator=first, device=first.device).tolist()
    return [torch.Generator(first.device).manual_seed(each) for each in seeds]
