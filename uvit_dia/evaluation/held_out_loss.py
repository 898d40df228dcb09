"""The denoising loss on images that were not trained on, with noise that is always the same.

Every network is asked for the same images at the same timesteps under the same noise (common random
numbers). So the difference of two networks has none of the spread of these draws, and separates
variants that a Frechet distance of as many samples cannot tell apart.
"""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from uvit_dia.config.schema import Config
from uvit_dia.data.images import ImageSet, to_model_range
from uvit_dia.data.labels import check_labels
from uvit_dia.data.sources import load_test_images
from uvit_dia.diffusion import Process, make_process
from uvit_dia.evaluation.gather import gather_features
from uvit_dia.rng import integer_rows, normal_rows
from uvit_dia.sampling.sampler import share_of_rank
from uvit_dia.system.errors import InputError

NUM_BUCKETS = 10  # equal parts of the timesteps, the least noise first
MAX_DRAWS = 10_000  # of all images together
SEED = 0  # of timesteps and noise; another one would be another measure
_FRACTIONS = 2**31  # places in a bucket that are told apart
_ERROR = "error"  # the name under which processes exchange errors


class HeldOutLoss:
    """Measures networks on held-out images.

    An image is noised once in each of ten buckets of timesteps. From a set of more than 1,000
    images it is noised less often, in buckets that follow one another, so that there are no more
    than `MAX_DRAWS` network calls; of a set larger than that, images at equal distances are taken.

    Args:
        images: held out from the training.
        config: of the run; its loss weights are not used.
        batch_size: images at a time.
    """

    def __init__(self, images: ImageSet, config: Config, *, batch_size: int) -> None:
        count = min(len(images), MAX_DRAWS)
        self.rows = torch.arange(count) * len(images) // count  # (n,)
        self.draws_per_image = min(NUM_BUCKETS, MAX_DRAWS // count)
        self._images = images
        self._labels = images.labels if config.is_conditional else None
        self._diffusion_config = config.diffusion
        self._batch_size = batch_size

    def measure(self, model: nn.Module, accelerator: Accelerator) -> dict[str, object]:
        """Measure a network; call it on all processes, each does its share.

        Args:
            model: in evaluation mode, on the accelerator's device.
            accelerator: the processes.

        Returns:
            On the main process `held_out_loss`, the mean of the ten buckets, each of them as
            `held_out_loss_0` (the least noise) to `held_out_loss_9`, and what they depend on; the
            squared error a pixel of what the network predicts, as in `Diffusion.loss` without
            weights. {} elsewhere.
        """
        num_draws = len(self.rows) * self.draws_per_image
        rank, ranks = accelerator.process_index, accelerator.num_processes
        share = share_of_rank(num_draws, self._batch_size, rank, ranks)
        parts = list(self._errors(model, share, accelerator.device))
        mine = {_ERROR: torch.cat(parts)[:, None]} if parts else {}
        gathered = gather_features(mine, [_ERROR], num_draws, self._batch_size, accelerator)
        if not accelerator.is_main_process:
            return {}
        errors = gathered[_ERROR][:, 0].double()
        buckets = self._bucket(torch.arange(num_draws))
        means = [float(errors[buckets == bucket].mean()) for bucket in range(NUM_BUCKETS)]
        return {
            "held_out_loss": sum(means) / NUM_BUCKETS,
            **{f"held_out_loss_{bucket}": mean for bucket, mean in enumerate(means)},
            "held_out_num_images": len(self.rows),
            "held_out_num_draws": num_draws,
            "held_out_sha256": self._images.fingerprint(),
        }

    def _bucket(self, draws: Tensor) -> Tensor:
        """Return the bucket of each draw; those of an image are n draws apart."""
        image, round_ = draws % len(self.rows), draws // len(self.rows)
        return (image + round_) % NUM_BUCKETS

    def _timesteps(self, process: Process, draws: Tensor) -> Tensor:
        """Draw a time from the bucket of each draw, (len(draws),) on the CPU."""
        place = range(int(draws[0]), int(draws[-1]) + 1)
        total = len(self.rows) * self.draws_per_image
        within = integer_rows(SEED, "held-out timesteps", 0, place, total, _FRACTIONS)
        return process.timesteps_in(self._bucket(draws), NUM_BUCKETS, within)

    @torch.no_grad()
    def _errors(self, model: nn.Module, draws: list[int], device: torch.device) -> Iterator[Tensor]:
        """Yield the squared errors of draws, (b,) float32 on the CPU, block by block."""
        process = make_process(self._diffusion_config, device)
        total = len(self.rows) * self.draws_per_image
        for first in draws[:: self._batch_size]:
            block = torch.arange(first, min(first + self._batch_size, total))
            x_0 = to_model_range(self._images.images[self.rows[block % len(self.rows)]])
            place = range(first, first + len(block))
            # drawn on the CPU, and so the same on any device
            eps = normal_rows(SEED, "held-out eps", 0, place, total, tuple(x_0.shape[1:]))
            x_0, eps, timesteps = (
                each.to(device) for each in (x_0, eps, self._timesteps(process, block))
            )
            x_t = process.add_noise(x_0, eps, timesteps)
            labels = None
            if self._labels is not None:
                labels = self._labels[self.rows[block % len(self.rows)]].to(device)
            prediction = model(x_t, process.network_time(timesteps), labels)
            target = process.target(x_0, eps, timesteps)
            yield (prediction.float() - target).square().flatten(1).mean(dim=1).cpu()


def make_held_out_loss(config: Config, *, show_progress: bool = False) -> HeldOutLoss:
    """Read the held-out images of a config: its test split, or those that it holds out itself.

    Raises:
        InputError: if there are none.
    """
    images = load_test_images(config, show_progress=show_progress)
    if images is None:
        raise InputError(
            f"a held-out loss needs images that are not trained on, and {config.data.name} has no "
            "test split; data.held_out_images = N keeps N of the training images apart"
        )
    check_labels(images, config)
    return HeldOutLoss(images, config, batch_size=config.eval.batch_size)
