"""diffusers' schedulers by name, every option in writing."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from ml_collections import ConfigDict

from uvit_dia.cli import SamplingArguments
from uvit_dia.config.schema import SAMPLERS
from uvit_dia.diffusion import NoiseSchedule
from uvit_dia.system.errors import InputError

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


def make_schedule(config: ConfigDict) -> NoiseSchedule:
    """Make the forward process of a config."""
    group = config.diffusion
    return NoiseSchedule(
        num_train_timesteps=group.num_train_timesteps,
        beta_schedule=group.beta_schedule,
        beta_start=group.beta_start,
        beta_end=group.beta_end,
        prediction_type=group.prediction_type,
    )


def make_sampler_settings(config: ConfigDict) -> SamplerSettings:
    """Make the sampler settings of a config."""
    group = config.sample
    return SamplerSettings(
        sampler=group.sampler,
        num_steps=group.num_steps,
        seed=group.seed,
        eta=group.eta,
        variance_type=group.variance_type,
        clip_sample=group.clip_sample,
    )


def sampler_settings(arguments: SamplingArguments, config: ConfigDict) -> SamplerSettings:
    """Return the settings of the run's config, changed by what the command line says, and checked."""
    given: dict[str, Any] = {
        "sampler": arguments.sampler,
        "num_steps": arguments.num_steps,
        "seed": arguments.seed,
    }
    settings = replace(
        make_sampler_settings(config),
        **{name: value for name, value in given.items() if value is not None},
    )
    make_scheduler(settings, make_schedule(config))
    return settings
