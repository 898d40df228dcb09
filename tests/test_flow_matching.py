"""Flow matching: path and velocity by definition, times, samplers on a Gaussian, a run."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import eval_fid
import train
import uvit_dia
from tests.support.configs import changed, diffusion_config
from tests.support.denoisers import settings_of
from tests.support.runs import tiny_trainer, train_arguments, weights
from uvit_dia.config.checks import make_config
from uvit_dia.config.schema import DiffusionConfig
from uvit_dia.diffusion import Diffusion, FlowMatching, make_process
from uvit_dia.sampling.chain import Denoiser
from uvit_dia.sampling.flow_chain import FlowChain
from uvit_dia.system.errors import InputError

FLOW = {"diffusion.process": "flow", "diffusion.prediction_type": "velocity"}
FLOW_RUN: dict[str, object] = {
    **FLOW,
    "optimizer.learning_rate": 0.02,
    "sample.sampler": "flow_euler",
    "sample.num_steps": 4,
    "eval.num_images": 64,
    "data.held_out_images": 100,
    "train.sample_every_steps": 12,
}
MEAN, STD = 0.3, 0.4


def flow_config(**changes: object) -> DiffusionConfig:
    return diffusion_config(**{"process": "flow", "prediction_type": "velocity", **changes})


def images_and_noise() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_0, eps = (torch.randn(5, 3, 4, 4, generator=generator) for _ in range(2))
    return x_0, eps


# ---------------------------------------------------------------- path and velocity


def test_path_and_velocity_are_those_of_flow_matching() -> None:
    """CondOTProbPath of facebookresearch/flow_matching, whose time s runs from noise to images.

    There x_s = s x_1 + (1 - s) x_0 and dx_s / ds = x_1 - x_0, with our x_0 as x_1, our eps as x_0.
    """
    x_0, eps = images_and_noise()
    timesteps = torch.tensor([0.0, 1.0, 250.0, 500.5, 999.9])
    s = 1 - timesteps[:, None, None, None] / 1000
    flow = FlowMatching(flow_config())
    torch.testing.assert_close(flow.add_noise(x_0, eps, timesteps), s * x_0 + (1 - s) * eps)
    torch.testing.assert_close(flow.target(x_0, eps, timesteps), -(x_0 - eps))


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    x_0, eps = (each.double() for each in images_and_noise())
    flow = FlowMatching(flow_config())
    t, step = torch.full((5,), 400.0, dtype=torch.float64), 1.0
    slope = (flow.add_noise(x_0, eps, t + step) - flow.add_noise(x_0, eps, t)) / (step / 1000)
    torch.testing.assert_close(slope, flow.target(x_0, eps, t))


def test_a_predicted_x_0_means_the_same_velocity() -> None:
    x_0, eps = images_and_noise()
    flow = FlowMatching(flow_config(prediction_type="sample"))
    timesteps = torch.full((5,), 700.0)
    assert torch.equal(flow.target(x_0, eps, timesteps), x_0)
    x_t = flow.add_noise(x_0, eps, timesteps)
    torch.testing.assert_close(flow.velocity(x_0, x_t, 0.7), eps - x_0, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.7)])
def test_logit_normal_times_follow_their_law(mean: float, std: float) -> None:
    flow = FlowMatching(flow_config(time_sampling="logit_normal", logit_mean=mean, logit_std=std))
    draws = torch.cat([flow.draw_timesteps(3, step, range(64), 64) for step in range(60)])
    logits = torch.logit(draws.double() / 1000).numpy()
    assert stats.kstest(logits, "norm", args=(mean, std)).pvalue > 0.01
    assert stats.kstest(logits, "norm", args=(mean + 0.2, std)).pvalue < 1e-3  # it would show


def test_uniform_times_follow_theirs_and_the_position_decides_them() -> None:
    flow = FlowMatching(flow_config())
    draws = torch.cat([flow.draw_timesteps(3, step, range(64), 64) for step in range(60)])
    assert stats.kstest(draws.numpy() / 1000, "uniform").pvalue > 0.01
    assert draws.min() > 0 and draws.max() < 1000 and draws.dtype == torch.float32
    part = flow.draw_timesteps(3, 7, range(24, 40), 64)
    assert torch.equal(part, flow.draw_timesteps(3, 7, range(64), 64)[24:40])


def test_held_out_times_lie_in_their_buckets() -> None:
    flow = FlowMatching(flow_config())
    bucket = torch.arange(10).repeat(3)
    place = torch.tensor([0, 2**30, 2**31 - 2**12]).repeat_interleave(10)
    found = flow.timesteps_in(bucket, 10, place)
    assert torch.equal((found / 100).floor().long().clamp(max=9), bucket)


def test_the_process_of_a_config_is_ddpm_unless_it_says_flow() -> None:
    assert isinstance(make_process(diffusion_config()), Diffusion)
    assert isinstance(make_process(flow_config()), FlowMatching)
    assert make_config(changed()).diffusion.process == "ddpm"
    assert "process" not in make_config(changed()).to_dict()["diffusion"]  # as in older runs


# ---------------------------------------------------------------- samplers


def gaussian_velocity(prediction_type: str) -> Denoiser:
    """Return the best network for data N(MEAN, STD^2): E[eps - x_0 | x_t], or E[x_0 | x_t]."""

    def denoiser(x_t: Tensor, timesteps: Tensor) -> Tensor:
        t = (timesteps.double() / 1000)[:, None, None, None]
        x_t = x_t.double()
        variance = ((1 - t) * STD) ** 2 + t**2
        x_0 = MEAN + (1 - t) * STD**2 / variance * (x_t - (1 - t) * MEAN)
        eps = t / variance * (x_t - (1 - t) * MEAN)
        return (x_0 if prediction_type == "sample" else eps - x_0).float()

    return denoiser


def reached(sampler: str, num_steps: int, prediction_type: str = "velocity") -> Tensor:
    """Return x_0 of five start noises; the exact flow maps x_1 to MEAN + STD x_1."""
    config = flow_config(prediction_type=prediction_type)
    chain = FlowChain(settings_of(sampler, num_steps), config)
    noise = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(5, 1, 1, 1)
    x_0, nfe = chain.run(gaussian_velocity(prediction_type), noise, [])
    assert nfe == (num_steps if sampler == "flow_euler" else 2 * num_steps - 1)
    return x_0.flatten() - (MEAN + STD * noise.flatten())


@pytest.mark.parametrize("prediction_type", ["velocity", "sample"])
@pytest.mark.parametrize(("sampler", "order"), [("flow_euler", 1), ("flow_heun", 2)])
def test_samplers_reach_the_gaussian_at_their_order(
    sampler: str, order: int, prediction_type: str
) -> None:
    errors = [float(reached(sampler, n, prediction_type).abs().max()) for n in (10, 20, 40)]
    for coarse, fine in pairwise(errors):
        assert 0.75 * 2**order < coarse / fine < 1.6 * 2**order, errors
    assert errors[-1] < (0.05 if order == 1 else 0.002)


def test_the_mean_image_stays() -> None:
    assert abs(float(reached("flow_heun", 20)[2])) < 2e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {**FLOW},
            "sample.sampler = 'dpmpp_2m': with diffusion.process = 'flow' allowed is flow_e",
        ),
        ({"sample.sampler": "flow_heun"}, "with diffusion.process = 'ddpm' allowed is ddpm, ddim"),
        ({"sample.sampler": "dpm_solver"}, "without the U-ViT authors' labels"),
        ({"diffusion.process": "flow"}, "allowed is velocity or sample"),
        ({"diffusion.prediction_type": "velocity"}, "allowed is epsilon or v_prediction or sample"),
        ({**FLOW, "diffusion.loss_weighting": "min_snr"}, "loss_weighting = 'min_snr' does not go"),
        ({**FLOW, "diffusion.time_labels": "vp_sde"}, "time_labels = 'vp_sde' does not go"),
        ({"diffusion.time_sampling": "logit_normal"}, "time_sampling = 'logit_normal' does not go"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as refused:
        make_config(changed(changes))
    assert said in str(refused.value) and "\n" not in str(refused.value)


# ---------------------------------------------------------------- a run


def test_a_run_learns_resumes_and_is_measured(tmp_path: Path) -> None:
    changes = {**FLOW_RUN, "diffusion.time_sampling": "logit_normal"}
    whole = tiny_trainer(tmp_path / "whole", changes)
    before = weights(whole)
    whole.fit()
    assert not torch.equal(before["decoder_pred.weight"], weights(whole)["decoder_pred.weight"])
    first = tiny_trainer(tmp_path / "run", changes)
    while first.step < 8:
        first.train_step()
    first.save()
    second = tiny_trainer(tmp_path / "run", changes)
    assert second.resume()
    second.fit()
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(second)[name]), name


def test_a_run_is_sampled_and_measured_by_the_commands(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.main(["train.py", *train_arguments(run, FLOW_RUN)])
    eval_fid.main(["eval_fid.py", f"--checkpoint={run}", "--allow_few_images", "--held_out_loss"])
    record = json.loads((run / "eval.jsonl").read_text())
    assert (record["sampler"], record["nfe"]) == ("flow_euler", 4)
    assert record["held_out_loss"] > 0
    model = uvit_dia.load(run)
    euler, heun = (
        model.sample(2, output_type="np", sampler=f"flow_{n}") for n in ("euler", "heun")
    )
    assert isinstance(euler, np.ndarray) and not np.array_equal(euler, heun)
    with pytest.raises(InputError, match=r"--sampler 'ddim': with diffusion\.process = 'flow'"):
        model.sample(2, sampler="ddim")
