"""The pipeline of diffusers that an exported model is: it samples without this package.

An exported folder holds this module and the network's as one file each (`bundle.py`). Nothing here
compares classes: loaded from a folder, the network's class is not the one that this file could
import.
"""

import inspect
import json
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Optional

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from uvit_dia.diffusion.vp_sde import label_at, label_of_steps
from uvit_dia.export.generators import generators_of
from uvit_dia.sampling.noise_levels import clip_x_0, falls_far, noise_level_at, noise_levels

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
