"""Sampling: diffusers' schedulers by name, every option in writing, one seed an image, NFE counted.

Image i depends on (weights, sampler settings, seed, i) alone. Images are computed in fixed blocks: block k holds the
images k * batch_size ... (k + 1) * batch_size - 1 and is always computed whole, also where only some of its images
are wanted. So whatever was asked for, however often it was interrupted, and on however many processes: the same
batch_size gives the same bits on the same machine, and another batch_size the same image up to rounding of kernels.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from uvit_dia.config.checks import SAMPLERS
from uvit_dia.data.batches import to_uint8
from uvit_dia.diffusion import NoiseSchedule
from uvit_dia.system.errors import InputError, NonFiniteImagesError
from uvit_dia.rng import position_generator

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t, timesteps) -> prediction
Scheduler = Any  # diffusers' schedulers have methods in common, but no type that declares them


@dataclass(frozen=True)
class SamplerSettings:
    """How images are sampled; part of every result.

    Attributes:
        sampler: one of `SAMPLERS`.
        num_steps: num_inference_steps of the scheduler. NFE can be higher: heun and pndm call the network more often.
        seed: with the index of an image it decides all noise that goes into the image.
        eta: share of fresh noise in ddim, 0 (deterministic) to 1.
        variance_type: of ddpm, "fixed_small" or "fixed_large" (Ho et al. 2020, Sec. 3.2).
        clip_sample: whether ddpm and ddim clip their estimate of x_0 to [-1, 1].
    """

    sampler: str = "dpmpp_2m"
    num_steps: int = 20
    seed: int = 0
    eta: float = 0.0
    variance_type: str = "fixed_large"
    clip_sample: bool = True

    def as_dict(self) -> dict[str, object]:
        """Return the settings as JSON's types."""
        return asdict(self)


def make_scheduler(settings: SamplerSettings, schedule: NoiseSchedule) -> Scheduler:
    """Build the diffusers scheduler of a sampler, with no option left to a default that matters.

    Timestep spacing: "trailing" for ddpm and ddim, so that every chain starts at the last timestep; ddim and pndm
    look one stride back, which is right only where num_steps divides the training steps; "linspace" for the solvers.

    Raises:
        InputError: for an unknown sampler, or a number of steps that it cannot do.
    """
    _check_settings(settings, schedule)
    import diffusers

    name = settings.sampler
    common = {**schedule.scheduler_arguments(), "steps_offset": 0}
    clip = {"clip_sample": settings.clip_sample, "clip_sample_range": 1.0, "thresholding": False}
    solver = {
        "solver_order": 2,
        "thresholding": False,
        "lower_order_final": True,
        "final_sigmas_type": "zero",
        "timestep_spacing": "linspace",
        "use_karras_sigmas": False,
    }
    if name == "ddpm":
        return diffusers.DDPMScheduler(
            **common, **clip, variance_type=settings.variance_type, timestep_spacing="trailing"
        )
    if name == "ddim":
        return diffusers.DDIMScheduler(
            **common, **clip, set_alpha_to_one=True, timestep_spacing="trailing"
        )
    if name in ("dpmpp_2m", "dpmpp_2m_sde"):
        algorithm = "dpmsolver++" if name == "dpmpp_2m" else "sde-dpmsolver++"
        return diffusers.DPMSolverMultistepScheduler(
            **common,
            **solver,
            algorithm_type=algorithm,
            solver_type="midpoint",
            euler_at_final=False,
        )
    if name == "unipc":
        return diffusers.UniPCMultistepScheduler(
            **common, **solver, predict_x0=True, solver_type="bh2", disable_corrector=[]
        )
    if name == "euler":
        return diffusers.EulerDiscreteScheduler(
            **common,
            interpolation_type="linear",
            timestep_spacing="linspace",
            final_sigmas_type="zero",
            use_karras_sigmas=False,
        )
    if name == "heun":
        return diffusers.HeunDiscreteScheduler(
            **common, timestep_spacing="linspace", use_karras_sigmas=False, clip_sample=False
        )
    return diffusers.PNDMScheduler(
        **common,
        skip_prk_steps=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )


def _check_settings(settings: SamplerSettings, schedule: NoiseSchedule) -> None:
    """Refuse settings that a scheduler cannot do, or does without a word and wrongly."""
    name, num_steps, total = settings.sampler, settings.num_steps, schedule.num_train_timesteps
    if name not in SAMPLERS:
        raise InputError(f"--sampler {name!r}: unknown; allowed is {', '.join(SAMPLERS)}")
    low = {"euler": 2, "heun": 2, "pndm": 4}.get(name, 1)  # one step of euler or heun starts at 0
    high = total
    if name in ("dpmpp_2m", "dpmpp_2m_sde", "unipc"):
        high = total - 1  # as many steps as timesteps would repeat one, and divide by 0
    elif name == "pndm":
        high = total // 2  # its first steps go to the middle between two timesteps
    if not low <= num_steps <= high:
        raise InputError(
            f"--num_steps {num_steps}: allowed is {low} to {high} with {name} and {total} training timesteps"
        )
    if name in ("ddim", "pndm") and total % num_steps:
        raise InputError(
            f"--num_steps {num_steps}: {name} needs a divisor of the {total} training timesteps"
        )
    if name == "pndm" and schedule.prediction_type == "sample":
        raise InputError(
            "--sampler 'pndm': not for diffusion.prediction_type = 'sample'; epsilon and v_prediction are"
        )


class ImageSampler:
    """Draws images from a denoiser.

    Args:
        denoiser: maps (x_t (B, C, H, W), timesteps (B,)) to the network's prediction.
        schedule: the process that the network was trained on.
        settings: the sampler.
        shape: (C, H, W) of an image.
        batch_size: images a block.
        device: where the network lives.

    Attributes:
        nfe: network forward passes an image, counted while sampling; 0 before.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        settings: SamplerSettings,
        *,
        shape: tuple[int, int, int],
        batch_size: int,
        device: torch.device | str,
    ) -> None:
        self.denoiser = denoiser
        self.settings = settings
        self.scheduler = make_scheduler(settings, schedule)
        self.shape = shape
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.nfe = 0

    def sample(self, indices: Iterable[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Sample images, block by block.

        Args:
            indices: which images, each not negative; any order, without repeats.

        Yields:
            The wanted indices of one block, and their images, (n, C, H, W) uint8 on the CPU.

        Raises:
            NonFiniteImagesError: if one of the wanted images of a block has a value that is not finite.
        """
        blocks: dict[int, list[int]] = {}
        for index in indices:
            blocks.setdefault(index // self.batch_size, []).append(index)
        for block, wanted in sorted(blocks.items()):
            first = block * self.batch_size
            x_0 = self._sample_block(range(first, first + self.batch_size))
            rows = torch.tensor([index - first for index in wanted])
            self._refuse_non_finite(x_0, rows, first)
            yield wanted, to_uint8(x_0).cpu()[rows]

    def _refuse_non_finite(self, x_0: Tensor, rows: Tensor, first: int) -> None:
        """Refuse to make images of what is not finite; `rows` are wanted, row 0 is the image `first`."""
        if torch.isfinite(x_0).all():
            return
        is_finite = torch.isfinite(x_0.flatten(1)).all(dim=1).cpu()[rows]
        bad = (rows[~is_finite] + first).tolist()
        if bad:
            settings = self.settings
            raise NonFiniteImagesError(
                f"{settings.sampler} in {settings.num_steps} steps ended in values that are not finite for "
                f"{len(bad)} of {len(rows)} images, the first of them image {min(bad)} of seed {settings.seed}"
            )

    @torch.no_grad()
    def _sample_block(self, indices: range) -> Tensor:
        """Run the sampler over one block; return x_0, (B, C, H, W) float32 on the device."""
        generators = [position_generator(self.settings.seed, "sample", index) for index in indices]
        x = torch.stack([torch.randn(self.shape, generator=g) for g in generators]).to(self.device)
        scheduler = self.scheduler
        scheduler.set_timesteps(
            self.settings.num_steps, device=self.device
        )  # also resets multistep state
        x = x * scheduler.init_noise_sigma
        extra = self._step_arguments(generators)
        nfe = 0
        for t in scheduler.timesteps:
            x_in = scheduler.scale_model_input(x, t)
            prediction = self.denoiser(x_in, t.expand(len(indices))).float()
            nfe += 1
            step = scheduler.step(prediction, t, x, **extra)
            x = step.prev_sample
        if self.settings.sampler == "ddpm":
            # the last step has no noise (Algorithm 2, Ho et al. 2020); diffusers leaves it out at t = 0 only
            x = step.pred_original_sample
        self.nfe = nfe
        return x

    def _step_arguments(self, generators: list[torch.Generator]) -> dict[str, object]:
        """Return what the scheduler's `step` takes beside prediction, timestep and sample."""
        if self.settings.sampler in ("ddpm", "dpmpp_2m_sde"):
            return {"generator": generators}
        if self.settings.sampler == "ddim":
            return {"eta": self.settings.eta, "generator": generators}
        return {}


def share_of_rank(num_images: int, batch_size: int, rank: int, num_processes: int) -> list[int]:
    """Return the images of range(num_images) that a process samples: whole blocks, dealt out in turn."""
    return [i for i in range(num_images) if (i // batch_size) % num_processes == rank]
