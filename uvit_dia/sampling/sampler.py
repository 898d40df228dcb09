"""Sampling images by index: one seed an image, fixed blocks, network calls counted.

Image i depends on (weights, sampler settings, seed, i) alone. Images are computed in fixed blocks:
block k holds the images k * batch_size ... (k + 1) * batch_size - 1 and is always computed whole,
also where only some of its images are wanted. The same batch_size therefore gives the same bits on
the same machine, whichever images were asked for, however often the command was interrupted, and on
any number of processes. Another batch_size gives the same images up to the rounding of kernels.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from uvit_dia.config.sampling import FLOW_SAMPLERS, VP_SDE_SAMPLERS
from uvit_dia.config.schema import Config, DiffusionConfig, SampleConfig
from uvit_dia.data.images import to_uint8
from uvit_dia.rng import position_generator
from uvit_dia.sampling.chain import Chain, Denoiser, SamplingLoop
from uvit_dia.sampling.decoding import Decoder, make_decoder
from uvit_dia.sampling.flow_chain import FlowChain
from uvit_dia.sampling.guidance import ClassLabels, GuidedDenoiser, all_in_turn, guidance_facts
from uvit_dia.sampling.schedulers import sampler_facts
from uvit_dia.sampling.vp_sde_chain import VPSDEChain
from uvit_dia.system.errors import NonFiniteImagesError


class SeededNoise:
    """The noise that images start from, by their index.

    Args:
        seed: of the images.
        shape: (C, H, W) of an image.
    """

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
        self.seed = seed
        self.shape = shape

    def of(self, indices: Iterable[int]) -> tuple[Tensor, list[torch.Generator]]:
        """Return noise, (B, C, H, W) on the CPU, and for each image what draws more of it."""
        generators = [position_generator(self.seed, "sample", index) for index in indices]
        return torch.stack([torch.randn(self.shape, generator=g) for g in generators]), generators


class ImageSampler:
    """Draws images from a denoiser.

    Args:
        denoiser: maps (x_t (B, C, H, W), timesteps (B,)) to the network's prediction.
        diffusion: the process that the network was trained on.
        settings: the sampler.
        shape: (C, H, W) of x_0.
        batch_size: images a block.
        device: where the network lives.
        labels: classes of the images, for a conditional network.
        null_class: its label for no class, if it has one.
        to_images: maps x_0 to uint8 images.

    Attributes:
        noise: that images start from.
        nfe: network forward passes an image, counted while sampling; 0 before.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        diffusion: DiffusionConfig,
        settings: SampleConfig,
        *,
        shape: tuple[int, int, int],
        batch_size: int,
        device: torch.device | str,
        labels: ClassLabels | None = None,
        null_class: int | None = None,
        to_images: Decoder = to_uint8,
    ) -> None:
        self.denoiser = denoiser
        self.settings = settings
        self.chain: SamplingLoop = make_chain(settings, diffusion)
        self.shape = shape
        self.noise = SeededNoise(settings.seed, shape)
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.labels = labels
        self.null_class = null_class
        self.to_images = to_images
        self.nfe = 0

    def sample(self, indices: Iterable[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Sample images, block by block.

        Args:
            indices: which images, each not negative; any order, without repeats.

        Yields:
            The wanted indices of one block, and their images, (n, C, H, W) uint8 on the CPU.

        Raises:
            NonFiniteImagesError: if a wanted image of a block has a value that is not finite.
        """
        blocks: dict[int, list[int]] = {}
        for index in indices:
            blocks.setdefault(index // self.batch_size, []).append(index)
        for block, wanted in sorted(blocks.items()):
            first = block * self.batch_size
            x_0 = self._sample_block(range(first, first + self.batch_size))
            rows = torch.tensor([index - first for index in wanted])
            self._refuse_non_finite(x_0, rows, first)
            yield wanted, self.to_images(x_0).cpu()[rows]

    def _refuse_non_finite(self, x_0: Tensor, rows: Tensor, first: int) -> None:
        """Refuse images that are not finite; `rows` are wanted, row 0 is image `first`."""
        if torch.isfinite(x_0).all():
            return
        is_finite = torch.isfinite(x_0.flatten(1)).all(dim=1).cpu()[rows]
        bad = (rows[~is_finite] + first).tolist()
        if bad:
            settings = self.settings
            raise NonFiniteImagesError(
                f"{settings.sampler} in {settings.num_steps} steps ended in values that are not "
                f"finite for {len(bad)} of {len(rows)} images, the first of them image {min(bad)} "
                f"of seed {settings.seed}"
            )

    def facts(self) -> dict[str, object]:
        """Return what the images of given weights depend on, as JSON's types."""
        return {
            **sampler_facts(self.settings),
            **self.chain.safeguards.facts(),
            **guidance_facts(self.settings, self.labels),
            "batch_size": self.batch_size,
        }

    def _sample_block(self, indices: range) -> Tensor:
        """Sample one block; return x_0, (B, C, H, W) float32 on the device."""
        noise, generators = self.noise.of(indices)
        noise = noise.to(self.device)
        if self.labels is None:
            x_0, self.nfe = self.chain.run(self.denoiser, noise, generators)
            return x_0
        labels = self.labels.of(indices).to(self.device)
        guided = GuidedDenoiser(self.denoiser, labels, self.null_class, self.settings)
        x_0, _ = self.chain.run(guided, noise, generators)
        self.nfe = guided.nfe
        return x_0


def make_chain(
    settings: SampleConfig, diffusion: DiffusionConfig
) -> Chain | FlowChain | VPSDEChain:
    """Make the sampling loop of a sampler."""
    if settings.sampler in FLOW_SAMPLERS:
        return FlowChain(settings, diffusion)
    kind = VPSDEChain if settings.sampler in VP_SDE_SAMPLERS else Chain
    return kind(settings, diffusion)


def share_of_rank(num_images: int, batch_size: int, rank: int, num_processes: int) -> list[int]:
    """Return which of range(num_images) a process samples: whole blocks, dealt out in turn."""
    return [i for i in range(num_images) if (i // batch_size) % num_processes == rank]


def make_sampler(
    model: nn.Module,
    config: Config,
    settings: SampleConfig,
    *,
    batch_size: int,
    device: torch.device,
    labels: ClassLabels | None = None,
) -> ImageSampler:
    """Make the sampler of a model that was built from a config.

    Args:
        model: the network.
        config: of its run.
        settings: of the sampler.
        batch_size: images a block.
        device: where the network lives.
        labels: classes of the images; None for all in turn, if the network is told classes.
    """
    return ImageSampler(
        model,
        config.diffusion,
        settings,
        shape=(config.model.in_chans, config.model.img_size, config.model.img_size),
        batch_size=batch_size,
        device=device,
        labels=labels or all_in_turn(config),
        null_class=config.null_class,
        to_images=make_decoder(config, settings, device),
    )
