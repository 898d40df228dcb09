"""What an analysis looks at: a trained model, and noised training images that a seed decides."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.data.images import ImageSet, to_model_range
from uvit_dia.data.labels import check_labels
from uvit_dia.data.sources import load_training_images
from uvit_dia.diffusion import Process, make_process
from uvit_dia.rng import normal_rows, permutation
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.system.errors import InputError
from uvit_dia.training.noised_batch import NoisedBatch

DEFAULT_NUM_IMAGES = 256
MAX_DEFAULT_BATCH_SIZE = 64  # what fits where gradients are kept too


@dataclass(frozen=True)
class Subject:
    """A trained model and the images that it is looked at with.

    Attributes:
        trained: the model, in evaluation mode: nothing is dropped.
        images: the run's training images.
        diffusion: the run's forward process and loss, on the device.
        accelerator: of this process; its device is where everything runs.
        seed: of the choice of images and of their noise.
        num_images: how many images.
        batch_size: images at a time.
        timesteps: (num_images,) int64 in [0, T), the noise level of each image.
    """

    trained: TrainedModel
    images: ImageSet
    diffusion: Process
    accelerator: Accelerator
    seed: int
    num_images: int
    batch_size: int
    timesteps: Tensor

    @property
    def device(self) -> torch.device:
        """Where everything runs."""
        return self.accelerator.device

    def batches(self) -> Iterator[NoisedBatch]:
        """Yield the images, unflipped and noised; image i is the same for every batch size."""
        chosen = permutation(self.seed, "analysis images", 0, len(self.images))[: self.num_images]
        for start in range(0, self.num_images, self.batch_size):
            rows = range(start, min(start + self.batch_size, self.num_images))
            pixels = self.images.images[
                chosen[rows.start : rows.stop].to(self.images.images.device)
            ]
            x_0 = to_model_range(pixels.to(self.device))
            shape = tuple(x_0.shape[1:])
            eps = normal_rows(self.seed, "analysis eps", 0, rows, self.num_images, shape)
            eps = eps.to(self.device)
            timesteps = self.timesteps[rows.start : rows.stop].to(self.device)
            yield NoisedBatch(
                x_t=self.diffusion.add_noise(x_0, eps, timesteps),
                target=self.diffusion.target(x_0, eps, timesteps),
                timesteps=timesteps,
                dropout_seeds=torch.zeros_like(timesteps),
                class_labels=self._labels(chosen[rows.start : rows.stop]),
            )

    def _labels(self, chosen: Tensor) -> Tensor | None:
        """Return the classes of images, for a network that is told them."""
        if not self.trained.config.is_conditional:
            return None
        assert self.images.labels is not None  # `check_labels` has seen to it
        return self.images.labels[chosen.to(self.images.labels.device)].to(self.device)

    def predict(self, batch: NoisedBatch) -> Tensor:
        """Return the network's prediction for a batch, (b, C, H, W)."""
        time = self.diffusion.network_time(batch.timesteps)
        return self.trained.model(batch.x_t, time, batch.class_labels)

    def losses(self, batch: NoisedBatch) -> Tensor:
        """Return the training loss of each image of a batch, (b,) float32."""
        return self.diffusion.loss(self.predict(batch), batch.target, batch.timesteps)

    def facts(self) -> dict[str, object]:
        """Return what results depend on, as JSON's types."""
        return {
            **checkpoint_facts(self.trained),
            "seed": self.seed,
            "num_images": self.num_images,
            "batch_size": self.batch_size,
            "timesteps": self.timesteps.tolist(),
            "images": self.images.name,
            "images_sha256": self.images.fingerprint(),
            "device": self.device.type,
        }


def checkpoint_facts(trained: TrainedModel) -> dict[str, object]:
    """Return which weights, of which network, were looked at."""
    options = trained.config.model.attention_options
    return {
        "weights": trained.weights,
        "weights_sha256": trained.sha256,
        "step": trained.step,
        "attention": trained.config.model.attention,
        "shared": bool(options.shared),
        "attention_blocks": list(trained.model.attention_blocks),
        "num_blocks": trained.model.num_blocks,
    }


def make_subject(
    trained: TrainedModel,
    arguments: AnalysisArguments,
    accelerator: Accelerator,
    *,
    num_images: int | None = None,
) -> Subject:
    """Choose the images of an analysis, and the noise level of each.

    Noise levels are spread evenly over the T training timesteps, one an image: image i of N has
    timestep `floor((i + 1/2) T / N)`. Since the images are drawn in random order, that is the
    training loss's uniform draw with less scatter. Levels that the user names are dealt out in
    turn.

    Args:
        trained: the model.
        arguments: of the command line.
        accelerator: of this process.
        num_images: N; None for what the command line says, or `DEFAULT_NUM_IMAGES`.

    Raises:
        InputError: if there are fewer images than asked for, or no such noise level, or if the
            images are not those of the training.
    """
    config = trained.config
    total = config.diffusion.num_train_timesteps
    levels = arguments.timesteps
    if levels is not None and not all(0 <= level < total for level in levels):
        raise InputError(f"--timesteps {','.join(map(str, levels))}: allowed is 0 to {total - 1}")
    images = load_training_images(config, show_progress=True)
    check_labels(images, config)
    trained.check_images(images, allow_other_data=arguments.allow_other_data)
    wanted = num_images or arguments.num_images
    if wanted is not None and wanted > len(images):
        raise InputError(
            f"--num_images {wanted}: {images.name} has {len(images)}; allowed is 2 to {len(images)}"
        )
    count = wanted or min(DEFAULT_NUM_IMAGES, len(images))
    place = torch.arange(count)
    timesteps = (2 * place + 1) * total // (2 * count)
    if levels is not None:
        timesteps = torch.tensor(levels)[place % len(levels)]
    return Subject(
        trained=trained,
        images=images,
        diffusion=make_process(config.diffusion, accelerator.device),
        accelerator=accelerator,
        seed=arguments.seed,
        num_images=count,
        batch_size=min(
            arguments.batch_size or min(config.sample.batch_size, MAX_DEFAULT_BATCH_SIZE), count
        ),
        timesteps=timesteps,
    )


def require_unit(trained: TrainedModel, command: str, num_blocks: int = 1) -> None:
    """Refuse a run without an attention unit, or with one in too few blocks.

    Raises:
        InputError: saying what kind of run the command takes.
    """
    found = len(trained.model.attention_blocks)
    if found == 0:
        raise InputError(
            f"--checkpoint: this run has no attention unit (model.attention = 'none'); {command}"
            " needs a run with one"
        )
    if found < num_blocks:
        raise InputError(
            f"--checkpoint: only {found} block of this run carries the unit"
            f" (model.attention_options.blocks); {command} needs a run with {num_blocks} or more"
        )
