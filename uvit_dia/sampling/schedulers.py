"""diffusers' schedulers by name, every option in writing."""

from dataclasses import replace
from typing import Any

from uvit_dia.cli import SamplingArguments
from uvit_dia.config.checks import check_sampler_of_process
from uvit_dia.config.guidance_interval import parse_interval
from uvit_dia.config.sampling import FLOW_SAMPLERS
from uvit_dia.config.schema import Config, DiffusionConfig, SampleConfig
from uvit_dia.diffusion import scheduler_arguments
from uvit_dia.sampling.guidance import check_guidance
from uvit_dia.system.errors import InputError

Scheduler = Any  # diffusers' schedulers have methods in common, but no type that declares them


def sampler_facts(settings: SampleConfig) -> dict[str, object]:
    """Return what decides the images of given weights, as JSON's types; part of every result."""
    return {
        "sampler": settings.sampler,
        "num_steps": settings.num_steps,
        "seed": settings.seed,
        "eta": settings.eta,
        "variance_type": settings.variance_type,
        "clip_sample": settings.clip_sample,
    }


def make_scheduler(
    settings: SampleConfig, diffusion: DiffusionConfig, *, karras_sigma_max: float | None = None
) -> Scheduler:
    """Build the diffusers scheduler of a sampler, with no option left to a default that matters.

    The samplers of `vp_sde_chain.py` have none.

    Timestep spacing: "trailing" for ddpm and ddim, so that every chain starts at the last timestep;
    "linspace" for the solvers; "leading" for pndm. ddim and pndm look one stride back, which is
    right only where num_steps divides the training timesteps.

    Args:
        settings: the sampler.
        diffusion: the process that the network was trained on.
        karras_sigma_max: where heun's noise levels begin if they are those of Karras et al. 2022;
            None for those of the timesteps.

    Raises:
        InputError: for a number of steps or a prediction type that the sampler cannot do.
    """
    check_sampler(settings, diffusion)
    import diffusers

    name = settings.sampler
    if name in FLOW_SAMPLERS:
        return _flow_scheduler(name, diffusion)
    common = {**scheduler_arguments(diffusion), "steps_offset": 0}
    if name in ("ddpm", "ddim"):
        common.update(
            clip_sample=settings.clip_sample,
            clip_sample_range=1.0,
            thresholding=False,
            timestep_spacing="trailing",
        )
        if name == "ddpm":
            return diffusers.DDPMScheduler(**common, variance_type=settings.variance_type)
        return diffusers.DDIMScheduler(**common, set_alpha_to_one=True)
    if name in ("dpmpp_2m", "dpmpp_2m_sde", "unipc"):
        return _multistep_solver(name, common)
    if name == "euler":
        return diffusers.EulerDiscreteScheduler(
            **common,
            interpolation_type="linear",
            timestep_spacing="linspace",
            final_sigmas_type="zero",
            use_karras_sigmas=False,
        )
    if name == "heun":
        heun: Scheduler = diffusers.HeunDiscreteScheduler(
            **common,
            timestep_spacing="linspace",
            use_karras_sigmas=karras_sigma_max is not None,
            clip_sample=False,
        )
        if karras_sigma_max is not None:  # diffusers reads it, though no argument sets it
            heun.register_to_config(sigma_max=karras_sigma_max)
        return heun
    return diffusers.PNDMScheduler(
        **common, skip_prk_steps=False, set_alpha_to_one=True, timestep_spacing="leading"
    )


def _flow_scheduler(name: str, diffusion: DiffusionConfig) -> Scheduler:
    """Build flow_euler or flow_heun, whose times are evenly spaced: a shift of 1 is none."""
    import diffusers

    total = diffusion.num_train_timesteps
    if name == "flow_heun":
        return diffusers.FlowMatchHeunDiscreteScheduler(num_train_timesteps=total, shift=1.0)
    return diffusers.FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=total,
        shift=1.0,
        use_dynamic_shifting=False,
        stochastic_sampling=False,
    )


def _multistep_solver(name: str, common: dict[str, Any]) -> Scheduler:
    """Build dpmpp_2m, dpmpp_2m_sde or unipc, all of second order."""
    import diffusers

    common = {
        **common,
        "solver_order": 2,
        "thresholding": False,
        "lower_order_final": True,
        "final_sigmas_type": "zero",
        "timestep_spacing": "linspace",
        "use_karras_sigmas": False,
    }
    if name == "unipc":
        return diffusers.UniPCMultistepScheduler(
            **common, predict_x0=True, solver_type="bh2", disable_corrector=[]
        )
    return diffusers.DPMSolverMultistepScheduler(
        **common,
        algorithm_type="dpmsolver++" if name == "dpmpp_2m" else "sde-dpmsolver++",
        solver_type="midpoint",
        euler_at_final=False,
    )


def check_sampler(settings: SampleConfig, diffusion: DiffusionConfig) -> None:
    """Refuse settings that a sampler cannot do, or would silently compute wrongly.

    Raises:
        InputError: naming the flag, and what is allowed with this process and this sampler.
    """
    name, num_steps, total = settings.sampler, settings.num_steps, diffusion.num_train_timesteps
    check_sampler_of_process(name, diffusion, "--sampler")
    # one step of euler or heun starts at 0
    low = {"euler": 2, "heun": 2, "flow_heun": 2, "pndm": 4}.get(name, 1)
    high = total
    if name in ("dpmpp_2m", "dpmpp_2m_sde", "unipc"):
        high = total - 1  # as many steps as timesteps would repeat one, and divide by 0
    elif name == "pndm":
        high = total // 2  # its first steps go to the middle between two timesteps
    if not low <= num_steps <= high:
        raise InputError(
            f"--num_steps {num_steps}: allowed is {low} to {high} with {name} and {total} training "
            "timesteps"
        )
    if name in ("ddim", "pndm") and total % num_steps:
        raise InputError(
            f"--num_steps {num_steps}: {name} needs a divisor of the {total} training timesteps"
        )
    if name == "pndm" and diffusion.prediction_type == "sample":
        raise InputError(
            "--sampler 'pndm': not for diffusion.prediction_type = 'sample'; epsilon and "
            "v_prediction are"
        )


def sampler_settings(arguments: SamplingArguments, config: Config) -> SampleConfig:
    """Return the settings of a run's config, changed by the command line, and checked."""
    given: dict[str, Any] = {
        "sampler": arguments.sampler,
        "num_steps": arguments.num_steps,
        "seed": arguments.seed,
        "eta": arguments.eta,
        "variance_type": arguments.variance_type,
        "clip_sample": arguments.clip_sample,
        "guidance_scale": arguments.guidance_scale,
    }
    if arguments.guidance_interval is not None:
        low, high = parse_interval(arguments.guidance_interval)
        given.update(guidance_low=low, guidance_high=high)
    settings = replace(
        config.sample, **{name: value for name, value in given.items() if value is not None}
    )
    check_guidance(settings, config)
    check_sampler(settings, config.diffusion)
    return settings
