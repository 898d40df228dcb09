"""Samplers against closed forms, ideal denoisers and spies; images at other batch sizes."""

import pytest
import torch
from torch import Tensor

from tests.support.configs import diffusion_config
from tests.support.denoisers import exact_denoiser, gaussian_mean, images_mean, settings_of
from uvit_dia.config.schema import SAMPLERS, DiffusionConfig, SampleConfig
from uvit_dia.diffusion import alphas_cumprod_of
from uvit_dia.models import UViT
from uvit_dia.sampling.chain import Denoiser
from uvit_dia.sampling.sampler import ImageSampler, share_of_rank
from uvit_dia.sampling.schedulers import make_scheduler
from uvit_dia.system.errors import InputError, NonFiniteImagesError

MEAN, STD = 0.3, 0.4  # of the Gaussian data whose exact predictions are known
STOCHASTIC = {"ddpm": {}, "dpmpp_2m_sde": {}, "ddim": {"eta": 1.0}}
VARIANTS = [(name, {}) for name in SAMPLERS] + [("ddim", {"eta": 1.0})]


def gaussian_samples(
    settings: SampleConfig, schedule: DiffusionConfig, num_images: int = 16
) -> Tensor:
    """Sample Gaussian data with the exact network; x_0 before it is clipped and rounded."""
    sampler = ImageSampler(
        exact_denoiser(schedule, gaussian_mean(MEAN, STD)),
        schedule,
        settings,
        shape=(1, 32, 32),
        batch_size=num_images,
        device="cpu",
    )
    return sampler._sample_block(range(num_images))


def images_of(
    denoiser: Denoiser,
    settings: SampleConfig,
    indices: list[int] | range,
    *,
    batch_size: int,
    schedule: DiffusionConfig | None = None,
    shape: tuple[int, int, int] = (1, 8, 8),
) -> Tensor:
    """Sample images and put them into the order in which they were asked for."""
    schedule = schedule or diffusion_config()
    sampler = ImageSampler(
        denoiser, schedule, settings, shape=shape, batch_size=batch_size, device="cpu"
    )
    found: dict[int, Tensor] = {}
    for block, images in sampler.sample(indices):
        assert images.dtype == torch.uint8 and images.shape[1:] == shape
        found.update(zip(block, images, strict=True))
    return torch.stack([found[index] for index in indices])


@pytest.fixture(scope="module")
def network() -> UViT:
    """A small U-ViT whose output depends on all it is given: every weight is random."""
    torch.manual_seed(0)
    model = UViT(
        img_size=8,
        patch_size=2,
        in_chans=1,
        embed_dim=16,
        depth=2,
        num_heads=2,
        attention="dia_lstm",
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


# --- network calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [10, 20])
def test_nfe_is_the_number_of_network_calls(name: str, num_steps: int) -> None:
    calls: list[Tensor] = []

    def spy(x_t: Tensor, timesteps: Tensor) -> Tensor:
        assert x_t.shape == (3, 1, 4, 4) and timesteps.shape == (3,)
        assert (timesteps == timesteps[0]).all()
        calls.append(timesteps[0])
        return torch.zeros_like(x_t)

    sampler = ImageSampler(
        spy,
        diffusion_config(),
        settings_of(name, num_steps),
        shape=(1, 4, 4),
        batch_size=3,
        device="cpu",
    )
    assert sampler.nfe == 0
    assert len(list(sampler.sample(range(5)))) == 2  # two blocks, the second one whole too
    expected = {"heun": 2 * num_steps - 1, "pndm": num_steps + 9}.get(name, num_steps)
    assert sampler.nfe == expected
    assert len(calls) == 2 * expected
    assert [float(t) for t in calls[:expected]] == [float(t) for t in calls[expected:]]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [20, 50, 250])
def test_chain_starts_at_the_noisiest_timestep(name: str, num_steps: int) -> None:
    scheduler = make_scheduler(settings_of(name, num_steps), diffusion_config())
    scheduler.set_timesteps(num_steps)
    timesteps = [float(t) for t in scheduler.timesteps]
    first = 1000 - 1000 // num_steps if name == "pndm" else 999
    assert timesteps[0] == first
    assert timesteps[-1] <= 1000 / num_steps
    assert all(0 <= t < 1000 for t in timesteps)


# --- Gaussian data: exact predictions ------------------------------------------------------------

# Standard deviations that the exact network reaches on linear betas (the data's is 0.4). Fewer
# steps miss it by a discretisation error that is the sampler's own, so that both a wrong wiring and
# a wrong spacing move them.
GAUSSIAN_STD = {
    ("ddim", 20): 0.334,
    ("ddim", 50): 0.372,
    ("ddim", 1000): 0.399,
    ("dpmpp_2m", 20): 0.369,
    ("dpmpp_2m", 50): 0.399,
    ("dpmpp_2m", 999): 0.400,
    ("dpmpp_2m_sde", 50): 0.404,
    ("dpmpp_2m_sde", 999): 0.397,
    ("unipc", 20): 0.370,
    ("unipc", 50): 0.398,
    ("unipc", 999): 0.400,
    ("euler", 20): 0.335,
    ("euler", 50): 0.374,
    ("euler", 1000): 0.399,
    ("heun", 20): 0.411,
    ("heun", 50): 0.402,
    ("heun", 1000): 0.400,
    ("pndm", 20): 0.402,
    ("pndm", 50): 0.402,
    ("pndm", 500): 0.400,
}


@pytest.mark.parametrize(("name", "num_steps"), GAUSSIAN_STD)
def test_gaussian_data_reach_their_mean_and_spread(name: str, num_steps: int) -> None:
    x_0 = gaussian_samples(settings_of(name, num_steps), diffusion_config())
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x_0.std().item() == pytest.approx(GAUSSIAN_STD[name, num_steps], abs=0.008)


def ancestral_std(schedule: DiffusionConfig, timesteps: list[int], variance_type: str) -> float:
    """Follow the spread of Gaussian data through Algorithm 2 of Ho et al. 2020 on some timesteps.

    Everything is linear, so it is a recursion on one number, in float64: no image is drawn.
    """
    alphas_cumprod = alphas_cumprod_of(schedule).double()
    variance = 1.0
    for t, t_before in zip(timesteps, [*timesteps[1:], None], strict=True):
        alpha_bar = alphas_cumprod[t].item()
        gain = alpha_bar**0.5 * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
        if t_before is None:  # the last step returns the estimate of x_0, without noise
            return (gain**2 * variance) ** 0.5
        alpha_bar_before = alphas_cumprod[t_before].item()
        alpha = alpha_bar / alpha_bar_before
        weight_x_0 = alpha_bar_before**0.5 * (1 - alpha) / (1 - alpha_bar)  # Eq. 7
        weight_x_t = alpha**0.5 * (1 - alpha_bar_before) / (1 - alpha_bar)
        noise = 1 - alpha  # "fixed_large", beta of the longer step
        if variance_type == "fixed_small":
            noise *= (1 - alpha_bar_before) / (1 - alpha_bar)
        variance = (weight_x_t + weight_x_0 * gain) ** 2 * variance + noise
    raise AssertionError("no timesteps")


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("num_steps", [10, 20, 50, 1000])
def test_ddpm_follows_ancestral_sampling(variance_type: str, num_steps: int) -> None:
    schedule = diffusion_config()
    stride = 1000 // num_steps
    expected = ancestral_std(schedule, list(range(999, -1, -stride)), variance_type)
    x_0 = gaussian_samples(settings_of("ddpm", num_steps, variance_type=variance_type), schedule)
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x_0.std().item() == pytest.approx(expected, abs=0.008)


def test_the_two_ddpm_variances_differ_where_they_should() -> None:
    schedule = diffusion_config()
    small, large = (
        gaussian_samples(settings_of("ddpm", 10, variance_type=v), schedule).std().item()
        for v in ("fixed_small", "fixed_large")
    )
    assert large - small > 0.05


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "pndm"])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_what_the_network_predicts_changes_no_image(name: str, prediction_type: str) -> None:
    """All but pndm, which extrapolates the prediction itself."""
    settings = settings_of(name, 20)
    expected = gaussian_samples(settings, diffusion_config(), 2)
    x_0 = gaussian_samples(settings, diffusion_config(prediction_type=prediction_type), 2)
    torch.testing.assert_close(x_0, expected, atol=2e-3, rtol=0)


def test_pndm_with_v_prediction_comes_near_the_data() -> None:
    x_0 = gaussian_samples(
        settings_of("pndm", 100), diffusion_config(prediction_type="v_prediction"), 16
    )
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.012)
    assert x_0.std().item() == pytest.approx(STD, abs=0.015)


@pytest.mark.parametrize("name", SAMPLERS)
def test_gaussian_data_on_the_cosine_schedule(name: str) -> None:
    num_steps = (
        250 if name == "heun" else 50
    )  # heun overshoots where the noise level starts at 20,000
    schedule = diffusion_config(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    x_0 = gaussian_samples(settings_of(name, num_steps), schedule)
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.012)
    assert x_0.std().item() == pytest.approx(STD, abs=0.018)


# --- an ideal denoiser over four images ----------------------------------------------------------


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_ideal_denoiser_over_four_images_returns_them(name: str, changes: dict) -> None:
    known = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1
    known = (known * 127.5 + 127.5).round()  # grey levels
    x_known = (known / 127.5 - 1).double()

    schedule = diffusion_config()
    images = images_of(
        exact_denoiser(schedule, images_mean(x_known)),
        settings_of(name, 50, **changes),
        range(48),
        batch_size=16,
        schedule=schedule,
        shape=(1, 6, 6),
    )
    errors = (images[:, None].float() - known).abs().amax((2, 3, 4))  # 48 4
    assert errors.amin(1).max() <= 3  # grey levels, from the nearest known image
    assert set(errors.argmin(1).tolist()) == {0, 1, 2, 3}


# --- image i is a function of (weights, settings, seed, i) ---------------------------------------


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_batch_size_does_not_change_an_image(network: UViT, name: str, changes: dict) -> None:
    settings = settings_of(name, 10, clip_sample=True, seed=3, **changes)
    expected = images_of(network, settings, range(9), batch_size=8)
    assert len({image.numpy().tobytes() for image in expected}) == 9
    for batch_size in (1, 3):
        images = images_of(network, settings, range(9), batch_size=batch_size)
        assert (images.int() - expected.int()).abs().max() <= 1  # grey level


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_what_was_asked_for_does_not_change_an_image(
    network: UViT, name: str, changes: dict
) -> None:
    settings = settings_of(name, 10, clip_sample=True, **changes)
    everything = images_of(network, settings, range(12), batch_size=4)
    for wanted in ([5], [11, 2, 9], [7, 6, 5, 4], [0, 4, 8]):
        images = images_of(network, settings, wanted, batch_size=4)
        assert torch.equal(images, everything[torch.tensor(wanted)])


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_another_seed_gives_other_images(network: UViT, name: str, changes: dict) -> None:
    first, other, again = (
        images_of(
            network,
            settings_of(name, 10, clip_sample=True, seed=seed, **changes),
            range(4),
            batch_size=4,
        )
        for seed in (0, 1, 0)
    )
    assert torch.equal(first, again)
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("name", "changes"), STOCHASTIC.items())
def test_stochastic_samplers_draw_noise_of_their_own_for_each_image(
    name: str, changes: dict
) -> None:
    """With one start for all images, only the noise of the steps can tell them apart."""
    schedule = diffusion_config()
    sampler = ImageSampler(
        exact_denoiser(schedule, gaussian_mean(MEAN, STD)),
        schedule,
        settings_of(name, 20, **changes),
        shape=(1, 16, 16),
        batch_size=4,
        device="cpu",
    )
    sampler.chain.scheduler.init_noise_sigma = 0.0
    x_0 = sampler._sample_block(range(4)).flatten(1)
    correlation = torch.corrcoef(x_0) - torch.eye(4)
    assert x_0.std(1).min() > 0.1
    assert correlation.abs().max() < 0.25


def test_ddim_without_eta_draws_no_noise_after_the_start() -> None:
    settings = settings_of("ddim", 20)
    schedule = diffusion_config()
    sampler = ImageSampler(
        exact_denoiser(schedule, gaussian_mean(MEAN, STD)),
        schedule,
        settings,
        shape=(1, 8, 8),
        batch_size=2,
        device="cpu",
    )
    sampler.chain.scheduler.init_noise_sigma = 0.0
    first, second = sampler._sample_block(range(2))
    assert torch.equal(first, second)


def test_blocks_come_in_order_and_keep_the_order_asked_for() -> None:
    sampler = ImageSampler(
        lambda x_t, timesteps: x_t,
        diffusion_config(),
        settings_of("ddim", 2),
        shape=(1, 2, 2),
        batch_size=4,
        device="cpu",
    )
    assert [block for block, _ in sampler.sample([9, 3, 1, 8])] == [[3, 1], [9, 8]]


def test_images_that_are_not_finite_are_refused_where_they_are_wanted() -> None:
    def spoilt(x_t: Tensor, timesteps: Tensor) -> Tensor:
        x_t = x_t.clone()
        x_t[2, 0, 1, 1] = torch.nan
        return x_t

    sampler = ImageSampler(
        spoilt,
        diffusion_config(),
        settings_of("euler", 3),
        shape=(1, 2, 2),
        batch_size=4,
        device="cpu",
    )
    assert [block for block, _ in sampler.sample([0, 1, 3])] == [[0, 1, 3]]
    with pytest.raises(NonFiniteImagesError) as caught:
        list(sampler.sample([5, 6, 7]))
    message = str(caught.value)
    for words in ("euler in 3 steps", "1 of 3 images", "image 6 of seed"):
        assert words in message
    assert len(message) < 180


def test_clip_sample_bounds_the_estimate_of_x_0() -> None:
    def wild(x_t: Tensor, timesteps: Tensor) -> Tensor:
        return torch.full_like(x_t, 5.0)

    schedule = diffusion_config(prediction_type="sample")
    for name in ("ddpm", "ddim"):
        ends = {}
        for clip_sample in (True, False):
            sampler = ImageSampler(
                wild,
                schedule,
                settings_of(name, 20, clip_sample=clip_sample),
                shape=(1, 4, 4),
                batch_size=1,
                device="cpu",
            )
            ends[clip_sample] = sampler._sample_block(range(1)).max().item()
        assert ends[True] == pytest.approx(1, abs=1e-5)
        assert ends[False] == pytest.approx(5, abs=1e-4)


# --- sharing out the work ------------------------------------------------------------------------


@pytest.mark.parametrize("num_images", [1, 7, 8, 50])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_shares_of_ranks_are_a_partition_into_whole_blocks(
    num_images: int, batch_size: int, num_processes: int
) -> None:
    shares = [
        share_of_rank(num_images, batch_size, rank, num_processes) for rank in range(num_processes)
    ]
    assert sorted(index for share in shares for index in share) == list(range(num_images))
    blocks = [{index // batch_size for index in share} for share in shares]
    assert sum(len(b) for b in blocks) == -(-num_images // batch_size)  # no block is on two ranks
    sizes = [len(b) for b in blocks]
    assert max(sizes) - min(sizes) <= 1
    assert all(share == sorted(share) for share in shares)


# --- the schedulers' options ---------------------------------------------------------------------

SPACING = {"ddpm": "trailing", "ddim": "trailing", "pndm": "leading"}
OPTIONS_THAT_MATTER = {
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "prediction_type",
    "timestep_spacing",
    "clip_sample",
    "thresholding",
    "variance_type",
    "set_alpha_to_one",
    "steps_offset",
    "skip_prk_steps",
    "solver_order",
    "solver_type",
    "algorithm_type",
    "lower_order_final",
    "final_sigmas_type",
    "use_karras_sigmas",
    "interpolation_type",
    "predict_x0",
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_option_that_matters_is_left_to_a_default(name: str) -> None:
    scheduler = make_scheduler(settings_of(name, 50), diffusion_config())
    left = set(scheduler.config["_use_default_values"]) & OPTIONS_THAT_MATTER
    if name != "ddpm":
        left -= {"variance_type"}  # elsewhere it is about networks that predict a variance
    assert not left
    assert scheduler.config.timestep_spacing == SPACING.get(name, "linspace")
    assert not scheduler.config.get("use_karras_sigmas", False)
    assert scheduler.config.get("final_sigmas_type", "zero") == "zero"
    assert scheduler.config.get("set_alpha_to_one", True)
    assert scheduler.config.get("steps_offset", 0) == 0


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "schedule",
    [
        diffusion_config(beta_start=2e-4, beta_end=0.015),
        diffusion_config(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
        diffusion_config(num_train_timesteps=200, beta_schedule="scaled_linear"),
    ],
)
def test_schedulers_are_built_from_the_training_schedule(
    name: str, schedule: DiffusionConfig
) -> None:
    scheduler = make_scheduler(settings_of(name, 20), schedule)
    torch.testing.assert_close(
        scheduler.alphas_cumprod, alphas_cumprod_of(schedule), rtol=1e-6, atol=1e-12
    )
    assert scheduler.config.prediction_type == schedule.prediction_type
    assert len(scheduler.betas) == schedule.num_train_timesteps


def test_settings_reach_the_schedulers() -> None:
    schedule = diffusion_config()
    small = make_scheduler(settings_of("ddpm", 10, variance_type="fixed_small"), schedule)
    assert small.config.variance_type == "fixed_small"
    for clip_sample in (True, False):
        for name in ("ddpm", "ddim"):
            scheduler = make_scheduler(settings_of(name, 10, clip_sample=clip_sample), schedule)
            assert scheduler.config.clip_sample is clip_sample
    assert make_scheduler(settings_of("dpmpp_2m", 10), schedule).config.algorithm_type == (
        "dpmsolver++"
    )
    assert make_scheduler(settings_of("dpmpp_2m_sde", 10), schedule).config.algorithm_type == (
        "sde-dpmsolver++"
    )


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_steps", "said"),
    [
        ("ddpm", 1001, "--num_steps 1001: allowed is 1 to 1000"),
        ("ddim", 30, "--num_steps 30: ddim needs a divisor of the 1000"),
        ("pndm", 30, "--num_steps 30: pndm needs a divisor of the 1000"),
        ("pndm", 2, "--num_steps 2: allowed is 4 to 500"),
        ("pndm", 1000, "--num_steps 1000: allowed is 4 to 500"),
        ("dpmpp_2m", 1000, "--num_steps 1000: allowed is 1 to 999"),
        ("dpmpp_2m_sde", 1000, "--num_steps 1000: allowed is 1 to 999"),
        ("unipc", 1000, "--num_steps 1000: allowed is 1 to 999"),
        ("euler", 1, "--num_steps 1: allowed is 2 to 1000"),
        ("heun", 1, "--num_steps 1: allowed is 2 to 1000"),
    ],
)
def test_impossible_settings_are_refused(name: str, num_steps: int, said: str) -> None:
    with pytest.raises(InputError) as caught:
        make_scheduler(settings_of(name, num_steps), diffusion_config())
    assert str(caught.value).startswith(said)
    assert len(str(caught.value)) <= 250


def test_pndm_is_refused_where_the_network_predicts_x_0() -> None:
    with pytest.raises(InputError, match="prediction_type = 'sample'"):
        make_scheduler(settings_of("pndm", 20), diffusion_config(prediction_type="sample"))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("total", [2, 10, 1000])
def test_every_accepted_number_of_steps_gives_finite_images(name: str, total: int) -> None:
    schedule = diffusion_config(num_train_timesteps=total)
    denoiser = exact_denoiser(schedule, gaussian_mean(MEAN, STD))
    accepted = 0
    for num_steps in {1, 2, 4, 5, total // 2, total - 1, total}:
        settings = settings_of(name, num_steps)
        try:
            make_scheduler(settings, schedule)
        except InputError:
            continue
        accepted += 1
        sampler = ImageSampler(
            denoiser, schedule, settings, shape=(1, 2, 2), batch_size=1, device="cpu"
        )
        assert torch.isfinite(sampler._sample_block(range(1))).all(), num_steps
    assert accepted or (name, total) == ("pndm", 2)
