"""Where a plain sampler would silently compute wrongly, and what is done instead.

A noise level is sigma = sqrt((1 - alpha-bar) / alpha-bar). Linear betas begin at 157; the cosine
schedule begins at 20,000, from where the first of 20 steps falls to 12. On such a fall

- heun averages the slopes at both ends of the step. The slope at its end has an error of about
  sigma_data^2 / sigma_1^2, which is carried over half of sigma_0 and blows images out. It takes the
  noise levels of Karras et al. 2022 (arXiv:2206.00364, Eq. 5 and Table 1) from 80 down instead.
- a network that predicts epsilon errs by a few parts in a hundred of the noise that was, which is
  many times the noise that is left. x_0 is clipped to [-1, 1], as ddpm and ddim do everywhere.

What was right without is left as it was, to the last bit.
"""

from dataclasses import dataclass

from uvit_dia.config.schema import SAMPLERS, DiffusionConfig, SampleConfig
from uvit_dia.diffusion import alphas_cumprod_of
from uvit_dia.sampling.noise_levels import falls_far, noise_level_at, noise_levels
from uvit_dia.sampling.schedulers import make_scheduler

SIGMA_DATA = 0.5  # spread of images in [-1, 1], as in Karras et al. 2022
MAX_OVERSHOOT = 0.15  # of heun's first step, as a share of the noise that is left
KARRAS_SIGMA_MAX = 80.0
CLIPPING = ("ddpm", "ddim")  # samplers whose schedulers clip x_0 themselves


@dataclass(frozen=True)
class Safeguards:
    """What a sampler does beyond its name.

    Attributes:
        karras_sigma_max: where heun's noise levels begin if they are those of Karras et al. 2022;
            None for those of the timesteps.
        clips_x_0: whether the estimate of x_0 is clipped to [-1, 1].
        lacks_clipping: whether it should be, but `sample.clip_sample = False` forbids it.
    """

    karras_sigma_max: float | None
    clips_x_0: bool
    lacks_clipping: bool

    def facts(self) -> dict[str, object]:
        """Return what results must tell; nothing where nothing is done, as in older results."""
        facts: dict[str, object] = {}
        if self.karras_sigma_max is not None:
            facts.update(sigmas="karras", sigma_max=self.karras_sigma_max)
        if self.clips_x_0:
            facts.update(clips_x_0=True)
        return facts

    def notes(self, settings: SampleConfig) -> list[str]:
        """Say it, one line each."""
        notes = []
        if self.karras_sigma_max is not None:
            notes.append(
                f"heun in {settings.num_steps} steps takes the noise levels of Karras et al. 2022 "
                f"from {self.karras_sigma_max:g} down; with this schedule's own it blows images out"
            )
        fall = "this schedule's first step multiplies an error of the predicted epsilon"
        if self.clips_x_0:
            notes.append(f"{settings.sampler} clips x_0 to [-1, 1] at each step; {fall}")
        if self.lacks_clipping:
            notes.append(
                f"sample.clip_sample = False leaves {settings.sampler} wrong: {fall}; with True "
                "x_0 is clipped to [-1, 1]"
            )
        return notes


NO_SAFEGUARDS = Safeguards(karras_sigma_max=None, clips_x_0=False, lacks_clipping=False)


def safeguards(settings: SampleConfig, diffusion: DiffusionConfig) -> Safeguards:
    """Decide what a sampler needs on a schedule."""
    if settings.sampler not in SAMPLERS:
        return NO_SAFEGUARDS  # other processes have no such fall
    sigmas = noise_levels(alphas_cumprod_of(diffusion))
    scheduler = make_scheduler(settings, diffusion)
    scheduler.set_timesteps(settings.num_steps)
    if len(scheduler.timesteps) < 2:
        return NO_SAFEGUARDS
    sigma_0, sigma_1 = (noise_level_at(sigmas, t) for t in scheduler.timesteps[:2])
    # -- heun: error of the slope at the end x half of the step, beside the noise that is left
    can_begin_lower = settings.sampler == "heun" and sigma_0 > KARRAS_SIGMA_MAX
    overshoot = (SIGMA_DATA / sigma_1) ** 2 * sigma_0 / 2 / sigma_1
    # -- epsilon: its error x sigma_0, beside the noise that is left
    amplifies = diffusion.prediction_type == "epsilon" and falls_far(sigma_0, sigma_1)
    karras = can_begin_lower and (overshoot > MAX_OVERSHOOT or amplifies)
    needs_clipping = amplifies and not karras
    return Safeguards(
        karras_sigma_max=KARRAS_SIGMA_MAX if karras else None,
        clips_x_0=(needs_clipping and settings.clip_sample and settings.sampler not in CLIPPING),
        lacks_clipping=needs_clipping and not settings.clip_sample,
    )
