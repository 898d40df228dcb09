# Made by uvit_dia 0.2.0 from its modules, in this order:
#     uvit_dia.diffusion.vp_sde
#     uvit_dia.rng
#     uvit_dia.export.generators
#     uvit_dia.sampling.noise_levels
#     uvit_dia.export.pipeline
# It imports none of them. Change them there, and export again.

import hashlib
import inspect
import json
import torch
from collections.abc import Callable, Sequence
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from os import PathLike
from pathlib import Path
from torch import Tensor
from typing import Any, ClassVar, Optional


# ---------------------------------------------------------------- uvit_dia.diffusion.vp_sde
# The continuous process of the U-ViT authors' weights: VP SDE, beta from 0.1 to 20.
#
# Song et al. 2021, arXiv:2011.13456, Sec. 3.4: dx = -beta(t) / 2 x dt + sqrt(beta(t)) dw for t in
# [0, 1], with beta(t) = 0.1 + 19.9 t. So alpha-bar(t) = exp(-(0.1 t + 9.95 t^2)). Their network is
# told 999 t.


BETA_MIN, BETA_MAX = 0.1, 20.0
LABEL_SCALE = 999.0  # what the network is told is 999 t


def beta(t: Tensor) -> Tensor:
    """Return the rate at which noise comes in at time t."""
    return BETA_MIN + (BETA_MAX - BETA_MIN) * t


def log_alpha_bar(t: Tensor) -> Tensor:
    """Return log alpha-bar(t), minus the integral of beta up to t."""
    return -(BETA_MIN * t + (BETA_MAX - BETA_MIN) / 2 * t**2)


def time_of(log_alpha: Tensor) -> Tensor:
    """Return the t with log alpha-bar(t) = log_alpha, the positive root of a square."""
    a, b = (BETA_MAX - BETA_MIN) / 2, BETA_MIN
    return 2 * -log_alpha / (b + (b**2 + 4 * a * -log_alpha).sqrt())


def label_of_steps(alphas_cumprod: Tensor) -> Tensor:
    """Return what their network is told at the noise levels of a discrete schedule.

    Args:
        alphas_cumprod: (T,) float64.

    Returns:
        (T,) float64.
    """
    return LABEL_SCALE * time_of(torch.log(alphas_cumprod))


def label_at(labels: Tensor, timesteps: Tensor) -> Tensor:
    """Return the label at timesteps; between two, where some samplers stop, it is linear.

    Args:
        labels: (T,), one a step.
        timesteps: (B,) in [0, T), integers or floats.
    """
    if not timesteps.is_floating_point():
        return labels[timesteps]
    below = timesteps.long()
    above = (below + 1).clamp(max=len(labels) - 1)
    return torch.lerp(labels[below], labels[above], timesteps.float() - below)


# ---------------------------------------------------------------- uvit_dia.rng
# Randomness addressed by position, so that nothing random ever has to be saved.
#
# Every random number is a function of `(seed, purpose, index)`. During training the index counts
# chunks of `CHUNK_IMAGES` images of the *global* batch; while sampling it is the index of the image.
# A resumed run, and a run on another number of processes, therefore draws the very same numbers, and
# a rank draws only the chunks that overlap its share.
#
# A seed for each step is NVlabs/edm2's idea (`training/training_loop.py`); ours is for chunks of
# images.



CHUNK_IMAGES = 8  # images drawn by one generator; part of what a seed means, so never change it
_GOLDEN_32 = 0x9E3779B1  # odd, hence index -> index * _GOLDEN_32 mod 2**32 is a bijection
_MASK_32 = 0xFFFFFFFF


def position_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Return the 63-bit seed that belongs to a position.

    torch's CPU generator (mt19937) uses only the low 32 bits of a seed. They are a bijection of
    `index`, so that they never repeat within one purpose. The higher bits, which CUDA's Philox also
    uses, are a hash of seed and purpose.

    Args:
        seed: the run's seed, any int.
        purpose: what is drawn, such as `"eps"`.
        index: position in [0, 2**32).

    Raises:
        ValueError: if `index` is outside [0, 2**32).
    """
    if not 0 <= index <= _MASK_32:
        raise ValueError(f"index must be in [0, 2**32), got {index}")
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    base = int.from_bytes(digest, "little")
    low = (base + index * _GOLDEN_32) & _MASK_32
    return ((base >> 33) << 32) | low


def position_generator(
    seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a new generator on `device`, seeded with `position_seed(seed, purpose, index)`."""
    return torch.Generator(device).manual_seed(position_seed(seed, purpose, index))


def _draw(
    seed: int,
    purpose: str,
    step: int,
    rows: range,
    batch_size: int,
    *,
    into: Callable[[int], Tensor],
    fill: Callable[[Tensor, torch.Generator], object],
) -> Tensor:
    """Draw some rows of the global batch of a step.

    Each chunk of rows has a seed of its own; one generator takes them in turn, and fills its part
    of one tensor, which costs less than a generator and a tensor a chunk.

    Args:
        seed: the run's seed.
        purpose: what is drawn.
        step: optimizer step, from 0.
        rows: the rows that are wanted.
        batch_size: global batch size B.
        into: makes an empty tensor of so many rows.
        fill: draws a chunk in place.
    """
    if not (0 <= rows.start <= rows.stop <= batch_size and rows.step == 1):
        raise ValueError(f"rows must be a contiguous part of range({batch_size}), got {rows}")
    chunks_per_batch = -(-batch_size // CHUNK_IMAGES)
    first = rows.start // CHUNK_IMAGES
    last = max(first + 1, -(-rows.stop // CHUNK_IMAGES))  # one at least, for the shape of no rows
    drawn = into((last - first) * CHUNK_IMAGES)
    generator = torch.Generator(drawn.device)
    for index, chunk in enumerate(drawn.split(CHUNK_IMAGES), start=first):
        generator.manual_seed(position_seed(seed, purpose, step * chunks_per_batch + index))
        fill(chunk, generator)
    offset = rows.start - first * CHUNK_IMAGES
    return drawn[offset : offset + len(rows)]


def normal_rows(
    seed: int,
    purpose: str,
    step: int,
    rows: range,
    batch_size: int,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw standard normal numbers for part of a global batch.

    Args:
        seed: the run's seed.
        purpose: what is drawn.
        step: optimizer step, from 0.
        rows: the contiguous positions in the global batch that are wanted.
        batch_size: global batch size B.
        shape: shape of one row.
        device: where to draw; CPU and CUDA generators give different numbers.

    Returns:
        (len(rows), *shape) float32 on `device`.
    """
    return _draw(
        seed,
        purpose,
        step,
        rows,
        batch_size,
        into=lambda count: torch.empty(count, *shape, device=device),
        fill=lambda chunk, generator: chunk.normal_(generator=generator),
    )


def integer_rows(
    seed: int, purpose: str, step: int, rows: range, batch_size: int, high: int
) -> Tensor:
    """Draw integers uniform on [0, high) for part of a global batch, as `normal_rows` does.

    Returns:
        (len(rows),) int64 on the CPU, the same on every kind of device.
    """
    return _draw(
        seed,
        purpose,
        step,
        rows,
        batch_size,
        into=lambda count: torch.empty(count, dtype=torch.int64),
        fill=lambda chunk, generator: chunk.random_(0, high, generator=generator),
    )


def permutation(seed: int, purpose: str, index: int, length: int) -> Tensor:
    """Return the permutation of range(length) of a position, (length,) int64 on the CPU."""
    return torch.randperm(length, generator=position_generator(seed, purpose, index))


def hash_uniform(seeds: Tensor, site: int, num_values: int) -> Tensor:
    """Hash per-row seeds to uniform numbers, elementwise on their device, without a generator.

    Dropout uses it: the mask is a function of the row's seed and the place in the network, whatever
    the micro-batch, the number of processes, or a recomputation under gradient checkpointing. The
    mixer is the 32-bit finaliser `lowbias32` of C. Wellons' hash-prospector (public domain).

    Args:
        seeds: (B,) int64.
        site: which place in the network draws, in [0, 2**16).
        num_values: how many numbers a row gets, at most 2**16.

    Returns:
        (B, num_values) float32, uniform on [0, 1) in steps of 2**-24.
    """
    columns = torch.arange(num_values, device=seeds.device) + (site << 16)  # (V,)
    mixed = _mix32(_mix32(seeds & _MASK_32)[:, None] ^ columns)  # (B, V)
    mixed = _mix32(mixed ^ (seeds >> 32)[:, None])
    return (mixed >> 8).float() * 2.0**-24  # float32 holds 24 bits exactly


def _mix32(x: Tensor) -> Tensor:
    """Mix int64 tensors that hold 32-bit values; the result holds 32-bit values again."""
    x = x & _MASK_32
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK_32
    # This product may exceed int64: it wraps, which leaves the low 32 bits exact.
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK_32
    return x ^ (x >> 16)


# ---------------------------------------------------------------- uvit_dia.export.generators
# One generator of noise an image, from whatever a user of the pipeline gives.




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


# ---------------------------------------------------------------- uvit_dia.sampling.noise_levels
# Noise levels sigma = sqrt((1 - alpha-bar) / alpha-bar), and clipping where they fall too far.


MAX_FALL = 30.0  # of the noise level in the first step, for a predicted epsilon


def falls_far(sigma_0: float, sigma_1: float) -> bool:
    """Say whether a first step from sigma_0 to sigma_1 needs x_0 clipped, see `safeguards.py`."""
    return sigma_0 > MAX_FALL * sigma_1


def noise_levels(alphas_cumprod: Tensor) -> Tensor:
    """Return sigma = sqrt((1 - alpha-bar) / alpha-bar), (T,) float64."""
    alphas_cumprod = alphas_cumprod.double()
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt()


def noise_level_at(sigmas: Tensor, timestep: Tensor) -> float:
    """Return sigma at a timestep, (); between two it is linear, as euler and heun take it.

    Args:
        sigmas: (T,), see `noise_levels`.
        timestep: in [0, T - 1].
    """
    below = int(timestep)
    above = min(below + 1, len(sigmas) - 1)
    return float(torch.lerp(sigmas[below], sigmas[above], float(timestep) - below))


def clip_x_0(eps: Tensor, x_t: Tensor, sigma: float) -> Tensor:
    """Return the epsilon whose x_0 is clipped to [-1, 1]; where x_0 is inside, it is unchanged.

    Args:
        eps: (B, C, H, W), the network's prediction.
        x_t: (B, C, H, W), what it was given: sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) eps.
        sigma: the noise level.
    """
    signal = (1 + sigma**2) ** -0.5  # sqrt(alpha-bar)
    noise = sigma * signal  # sqrt(1 - alpha-bar)
    x_0 = ((x_t - noise * eps) / signal).clamp(-1, 1)
    return torch.where(x_0.abs() < 1, eps, (x_t - signal * x_0) / noise)


# ---------------------------------------------------------------- uvit_dia.export.pipeline
# The pipeline of diffusers that an exported model is: it samples without this package.
#
# An exported folder holds this module and the network's as one file each (`bundle.py`). Nothing here
# compares classes: loaded from a folder, the network's class is not the one that this file could
# import.




PIPELINE_FILE, MODEL_FILE = "pipeline_uvit.py", "uvit_modeling.py"
CLIPS_ITSELF = ("DDPMScheduler", "DDIMScheduler")  # of diffusers, told to by clip_sample


class UViTPipeline(DiffusionPipeline):
    """Samples images from a U-ViT.

    Args:
        unet: the network.
        scheduler: one of diffusers'; others can be put in its place.
        num_steps: how many steps a call takes unless it says otherwise.
        null_class: the label for no class, which guidance needs; None without one.
        time_labels: "steps", or "vp_sde" for a network that is told 999 t.
        clip_sample: whether x_0 is clipped where a first step would multiply the network's error.
        uvit_dia: what the model was trained with, as its package reads it.
    """

    model_cpu_offload_seq: ClassVar[str] = "unet"  # type: ignore[assignment,misc]

    def __init__(
        self,
        unet: Any,  # noqa: ANN401
        scheduler: Any,  # noqa: ANN401
        num_steps: int = 50,
        # diffusers before 0.37 reads these annotations, and knows no `int | None`
        null_class: Optional[int] = None,  # noqa: UP045
        time_labels: str = "steps",
        clip_sample: bool = True,
        uvit_dia: Optional[dict] = None,  # noqa: UP045
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            num_steps=num_steps,
            null_class=null_class,
            time_labels=time_labels,
            clip_sample=clip_sample,
            uvit_dia=uvit_dia,
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @torch.no_grad()
    def __call__(
        self,
        num_images: int = 1,
        class_labels: int | Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Sample images.

        Args:
            num_images: N.
            class_labels: a class, or N of them, for a network that is told classes.
            guidance_scale: 1 is the network's own prediction, more goes further from that for no
                class.
            num_inference_steps: of the scheduler.
            generator: of the noise; one, or one an image.
            seed: instead of a generator: image i gets the noise that `sample.py` gives it.
            eta: of DDIM.
            output_type: "pil", "np" (N, H, W, C) or "pt" (N, C, H, W), both in [0, 1].
            return_dict: whether the images come in an `ImagePipelineOutput`, or a tuple.
            callback_on_step_end: called with the pipeline, the step, the timestep and a dictionary
                with `latents`, which it may return changed.

        Raises:
            ValueError: for labels or guidance that the network does not know.
        """
        device = self._execution_device
        self._check(guidance_scale, output_type)
        labels = self._labels(class_labels, num_images, device)
        # -- noise, and the scheduler's times
        generators = generators_of(generator, seed, num_images)
        noise = self._noise(generators)
        self._set_timesteps(num_inference_steps or self.config["num_steps"], device)
        x = noise.to(device) * getattr(self.scheduler, "init_noise_sigma", 1.0)
        sigmas, times = self._levels_to_clip_at(), self._time_labels(device)
        extra = self._step_arguments(generators, eta)
        # -- from noise to images
        for index, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            scale = getattr(self.scheduler, "scale_model_input", lambda each, _: each)
            x_in = scale(x, t)
            time = t if times is None else label_at(times, t)
            prediction = self._predict(x_in, time, labels, guidance_scale)
            if sigmas is not None:
                prediction = clip_x_0(prediction, x_in, noise_level_at(sigmas, t))
            step = self.scheduler.step(self._as_scheduled(prediction, x, t), t, x, **extra)
            x = step.prev_sample
            if callback_on_step_end is not None:
                x = callback_on_step_end(self, index, t, {"latents": x}).get("latents", x)
        if type(self.scheduler).__name__ == "DDPMScheduler":
            x = step.pred_original_sample  # its last step has no noise
        self.maybe_free_model_hooks()
        images = self.image_processor.postprocess(x, output_type=output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _noise(self, generators: list[torch.Generator]) -> Tensor:
        config = self.unet.config
        shape = (config.in_chans, config.img_size, config.img_size)
        return torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators])

    def _check(self, guidance_scale: float, output_type: str) -> None:
        if guidance_scale != 1 and self.config["null_class"] is None:
            raise ValueError("guidance_scale: the network was trained without a label for no class")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type = {output_type!r}; allowed is pil, np, pt")

    # ------------------------------------------------------------ the network

    def _labels(
        self, value: int | Sequence[int] | None, num_images: int, device: torch.device
    ) -> Tensor | None:
        count = self.unet.config["num_classes"]
        if count < 1:
            if value is not None:
                raise ValueError("class_labels: the network was trained without classes")
            return None
        highest = count - 1 - (self.config["null_class"] is not None)
        if value is None:
            value = [index % (highest + 1) for index in range(num_images)]
        chosen = [value] * num_images if isinstance(value, int) else list(value)
        if len(chosen) != num_images or not all(0 <= label <= highest for label in chosen):
            raise ValueError(f"class_labels must be {num_images} numbers from 0 to {highest}")
        return torch.tensor(chosen, device=device)

    def _predict(self, x: Tensor, time: Tensor, labels: Tensor | None, scale: float) -> Tensor:
        time = time.expand(len(x))
        x = x.to(self.unet.dtype)
        if labels is None:
            return self.unet(x, time).float()
        if scale == 1:
            return self.unet(x, time, labels).float()
        no_class = torch.full_like(labels, self.config["null_class"])
        if scale == 0:
            return self.unet(x, time, no_class).float()
        both = self.unet(torch.cat((x, x)), torch.cat((time, time)), torch.cat((labels, no_class)))
        with_class, without = both.float().chunk(2)
        return without + scale * (with_class - without)

    def _time_labels(self, device: torch.device) -> Tensor | None:
        """Return what the network is told for each timestep; None where it is the timestep."""
        if self.config["time_labels"] != "vp_sde":
            return None
        return label_of_steps(self.scheduler.alphas_cumprod.double()).float().to(device)

    # ------------------------------------------------------------ the scheduler

    def _is_flow(self) -> bool:
        return type(self.scheduler).__name__.startswith("FlowMatch")

    def _set_timesteps(self, steps: int, device: torch.device) -> None:
        if (
            "sigmas" in inspect.signature(self.scheduler.set_timesteps).parameters
            and self._is_flow()
        ):
            sigmas = [1 - step / steps for step in range(steps)]
            self.scheduler.set_timesteps(sigmas=sigmas, device=device)
        else:
            self.scheduler.set_timesteps(steps, device=device)

    def _as_scheduled(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return what the scheduler takes: of a flow the velocity, also where x_0 is predicted."""
        if self._is_flow() and self._trained_on().get("prediction_type") == "sample":
            return (x - prediction) / (t / self.scheduler.config.num_train_timesteps)
        return prediction

    def _trained_on(self) -> dict[str, Any]:
        return ((self.config["uvit_dia"] or {}).get("config") or {}).get("diffusion") or {}

    def _step_arguments(self, generators: list[torch.Generator], eta: float) -> dict[str, Any]:
        known = inspect.signature(self.scheduler.step).parameters
        extra: dict[str, Any] = {}
        if "generator" in known and not self._is_flow():
            extra["generator"] = generators
        if "eta" in known:
            extra["eta"] = eta
        return extra

    def _levels_to_clip_at(self) -> Tensor | None:
        """Return the noise levels if x_0 is clipped, as `sampling/safeguards.py` has it."""
        name, times = type(self.scheduler).__name__, self.scheduler.timesteps
        if self._is_flow() or name in CLIPS_ITSELF or len(times) < 2:
            return None
        if not self.config["clip_sample"] or self.scheduler.config.prediction_type != "epsilon":
            return None
        sigmas = noise_levels(self.scheduler.alphas_cumprod)
        falls = falls_far(noise_level_at(sigmas, times[0]), noise_level_at(sigmas, times[1]))
        return sigmas if falls else None

    # ------------------------------------------------------------ saving

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | PathLike,
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Save the pipeline with its code, so that the folder loads like the one it came from."""
        super().save_pretrained(save_directory, **options)
        folder = Path(save_directory)
        for target, owner in (
            (folder / PIPELINE_FILE, type(self)),
            (folder / "unet" / MODEL_FILE, type(self.unet)),
        ):
            target.write_text(
                Path(inspect.getfile(owner)).read_text(encoding="utf-8"), encoding="utf-8"
            )
        index = folder / "model_index.json"
        content = json.loads(index.read_text(encoding="utf-8"))
        content["_class_name"] = [Path(PIPELINE_FILE).stem, type(self).__name__]
        content["unet"] = [Path(MODEL_FILE).stem, type(self.unet).__name__]
        index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
