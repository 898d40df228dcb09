"""The keys of samples and of how they are measured."""

from dataclasses import dataclass

from uvit_dia.config.fields import Group, key
from uvit_dia.config.rules import DISTANCES, METRIC_NAMES, boolean, choice, integer, number, text

SAMPLERS = ("ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "euler", "heun", "pndm")
VP_SDE_SAMPLERS = ("euler_maruyama", "dpm_solver")  # of the U-ViT authors' continuous process
FLOW_SAMPLERS = ("flow_euler", "flow_heun")
ALL_SAMPLERS = (*SAMPLERS, *VP_SDE_SAMPLERS, *FLOW_SAMPLERS)


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Group, prefix="sample."):
    """How images are sampled."""

    sampler: str = key(
        choice(*ALL_SAMPLERS),
        "Scheduler of diffusers; euler_maruyama and dpm_solver for weights of the U-ViT authors, "
        "flow_euler and flow_heun for flow matching",
    )
    num_steps: int = key(
        integer(1, 10**6),
        "num_inference_steps; heun and pndm call the network more often",
        unit="steps",
    )
    eta: float = key(number(0, 1), "Share of fresh noise in ddim; 0 is deterministic")
    variance_type: str = key(
        choice("fixed_small", "fixed_large"), "Variance of ddpm (Ho et al. 2020, Sec. 3.2)"
    )
    clip_sample: bool = key(boolean(), "ddpm and ddim clip their estimate of x_0 to [-1, 1]")
    guidance_scale: float = key(
        number(0, 1000),
        "Classifier-free guidance: 1 is the conditional prediction, 0 the one without a class, "
        "more "
        "than 1 goes further away from that",
        absent=1.0,
    )
    guidance_low: int = key(
        integer(0, 10**6), "Lowest timestep with guidance", unit="steps", absent=0
    )
    guidance_high: int = key(
        integer(0, 10**6), "Highest timestep with guidance", unit="steps", absent=10**6
    )
    seed: int = key(integer(0, 2**31 - 1), "With an image's index it decides the image's noise")
    batch_size: int = key(integer(1, 10**6), "Images sampled at a time")
    grid_images: int = key(integer(1, 4096), "Images in a sample grid")

    @property
    def has_interval(self) -> bool:
        """Whether guidance is limited to some timesteps."""
        return self.guidance_low > 0 or self.guidance_high < SampleConfig.guidance_high


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Group, prefix="eval."):
    """How samples are measured."""

    num_images: int = key(
        integer(1, 10**8), "N, how many images are sampled for a measurement", unit="images"
    )
    metrics: tuple[str, ...] = key(
        METRIC_NAMES, "Metrics: torch-fidelity's by their names, and held_out_loss"
    )
    extractor: str = key(
        text(),
        "Feature extractor: inception-v3-compat, digits, vgg16, a CLIP, or pt2:PATH",
    )
    weights: str = key(text(), "Path of its published weights; empty for torch-fidelity's place")
    batch_size: int = key(integer(1, 10**6), "Images given to the extractor at a time")

    @property
    def distances(self) -> tuple[str, ...]:
        """The metrics of sampled images."""
        return tuple(name for name in self.metrics if name in DISTANCES)
