"""What is watched of a run: its frames end in `sample.py`'s images, and gates are the units'."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.configs import diffusion_config
from tests.support.denoisers import exact_denoiser
from tests.support.shown_models import CONDITIONAL, FLOW, WITHOUT, session_of
from uvit_dia.api.model import LoadedModel
from uvit_dia.config.sampling import FLOW_SAMPLERS, SAMPLERS, VP_SDE_SAMPLERS
from uvit_dia.config.schema import DiffusionConfig
from uvit_dia.demo.images_meant import ImagesMeant
from uvit_dia.demo.session import Session
from uvit_dia.demo.unfolding import MAX_FRAMES, Frame
from uvit_dia.demo.wish import Wish
from uvit_dia.diffusion import make_process

WISH = Wish(sampler="dpmpp_2m", num_steps=5, seed=3, num_images=3)


def frames_of(session: Session, wish: Wish, model: int = 0) -> list[Frame]:
    return [step[model] for step in session.unfold(wish, threading.Event())]


def sampled(session: Session, wish: Wish, model: int = 0, **settings: object) -> Tensor:
    """Return the images that the Python API makes of the same wish."""
    trained = session.models[model].trained
    images = LoadedModel(trained, Path(), use_ema=True).sample(
        wish.num_images or 1,
        output_type="pt",
        sampler=wish.sampler,
        num_steps=wish.num_steps,
        seed=wish.seed,
        batch_size=wish.num_images,
        **settings,
    )
    assert isinstance(images, Tensor)
    return images


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_last_frame_is_what_sampling_makes(sampler: str) -> None:
    session, wish = session_of(), replace(WISH, sampler=sampler)
    frames = frames_of(session, wish)
    assert torch.equal(frames[-1].x_0, sampled(session, wish))
    assert [frame.call for frame in frames[:-1]] == list(range(1, len(frames)))
    assert frames[0].timestep > frames[-2].timestep
    assert not torch.equal(frames[0].x_t, frames[-1].x_t)


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_so_it_is_with_flow_matching(sampler: str) -> None:
    session, wish = session_of(FLOW), replace(WISH, sampler=sampler)
    assert torch.equal(frames_of(session, wish)[-1].x_0, sampled(session, wish))


@pytest.mark.parametrize("sampler", VP_SDE_SAMPLERS)
def test_and_with_the_authors_process(sampler: str) -> None:
    session = session_of(
        {"diffusion.time_labels": "vp_sde", "diffusion.prediction_type": "epsilon"}
    )
    wish = replace(WISH, sampler=sampler)
    assert torch.equal(frames_of(session, wish)[-1].x_0, sampled(session, wish))


def test_guided_images_of_a_class() -> None:
    session = session_of(CONDITIONAL)
    wish = replace(WISH, class_name="7", guidance_scale=3.0)
    assert torch.equal(
        frames_of(session, wish)[-1].x_0,
        sampled(session, wish, class_labels=7, guidance_scale=3.0),
    )
    other = frames_of(session, replace(wish, class_name="2"))
    assert not torch.equal(other[-1].x_0, frames_of(session, wish)[-1].x_0)


def test_gates_are_the_means_of_what_multiplies_the_channels() -> None:
    """Seen at the units themselves, in a run without guidance."""
    session = session_of()
    model = session.models[0].trained.model
    seen: list[Tensor] = []

    def keep(unit: torch.nn.Module, inputs: tuple, output: tuple) -> None:
        gated, y = output[0], inputs[0]
        seen.append((gated / y).mean())

    handle = model.attention_unit.register_forward_hook(keep)
    frames = frames_of(session, WISH)
    handle.remove()
    expected = torch.stack(seen).view(5, 3)  # calls, blocks
    found = torch.stack([frame.gates for frame in frames[:-1] if frame.gates is not None])
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert frames[-1].gates is None
    assert found.std(dim=0).max() > 1e-4  # they do change along the run


def test_gates_of_a_guided_run_are_those_of_the_class() -> None:
    """Of a scale of 1 no second half is computed, and the first call sees the same noise."""
    session = session_of(CONDITIONAL)
    plain, guided = (
        frames_of(session, replace(WISH, class_name="7", guidance_scale=scale))[0].gates
        for scale in (1.0, 3.0)
    )
    assert plain is not None and guided is not None
    torch.testing.assert_close(guided, plain, atol=1e-6, rtol=0)


def test_two_models_start_from_the_same_noise() -> None:
    session = session_of({}, WITHOUT)
    steps = list(session.unfold(WISH, threading.Event()))
    assert torch.equal(steps[0][0].x_t, steps[0][1].x_t)
    assert not torch.equal(steps[-1][0].x_0, steps[-1][1].x_0)
    assert steps[0][0].gates is not None
    assert all(step[1].gates is None for step in steps)
    for place in (0, 1):
        assert torch.equal(steps[-1][place].x_0, sampled(session, WISH, place))


def test_many_steps_make_few_frames() -> None:
    frames = frames_of(session_of(), replace(WISH, num_steps=150, num_images=1))
    assert len(frames) == 50 + 1 <= MAX_FRAMES + 1
    assert [frame.call for frame in frames[:3]] == [1, 4, 7]
    assert frames[-1].call == 150


def test_a_run_can_be_stopped() -> None:
    session, stop = session_of(), threading.Event()
    seen = []
    for step in session.unfold(replace(WISH, num_steps=500), stop):
        seen.append(step)
        if len(seen) == 2:
            stop.set()
    assert 2 <= len(seen) <= 4


def test_who_goes_away_leaves_no_thread() -> None:
    run = session_of({}, WITHOUT).unfold(replace(WISH, num_steps=500), threading.Event())
    next(run)
    run.close()
    time.sleep(0.05)
    assert [t for t in threading.enumerate() if t.name == "unfolding"] == []


def test_two_visitors_do_not_see_each_others_gates() -> None:
    """At once or one after the other, each has the frames of its own wish."""
    session = session_of({}, WITHOUT)
    wishes = [replace(WISH, seed=seed, num_images=1 + seed, num_steps=12) for seed in range(3)]
    alone = [frames_of(session, wish) for wish in wishes]
    together: dict[int, list[Frame]] = {}

    def visit(place: int) -> None:
        together[place] = frames_of(session, wishes[place])

    threads = [threading.Thread(target=visit, args=[place]) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, expected in enumerate(alone):
        assert len(together[place]) == len(expected)
        for one, other in zip(together[place], expected, strict=True):
            assert torch.equal(one.x_t, other.x_t)
            if other.gates is not None:
                assert torch.equal(one.gates, other.gates)  # type: ignore[arg-type]


def test_an_error_of_the_sampler_reaches_the_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of()

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of the network")

    monkeypatch.setattr(session.models[0].trained.model, "forward", fail)
    with pytest.raises(ZeroDivisionError, match="of the network"):
        frames_of(session, WISH)


# ---------------------------------------------------------------- the images that are meant

KINDS = [diffusion_config(prediction_type=kind) for kind in ("epsilon", "v_prediction", "sample")]


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.prediction_type)
def test_an_exact_network_means_its_images(config: DiffusionConfig) -> None:
    x_0 = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    denoiser = exact_denoiser(config, lambda x_t, alpha_bar: x_0.double())
    x_t = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for t in (999.0, 500.0, 333.25, 1.0):
        times = torch.full((2,), t)
        found = ImagesMeant(config)(denoiser(x_t, times), x_t, times[0])
        torch.testing.assert_close(found.float(), x_0, atol=1e-3, rtol=0)


def test_labels_of_the_authors_mean_the_same_noise() -> None:
    config = diffusion_config(time_labels="vp_sde")
    process = make_process(config)
    x_0 = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    eps = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for t in (900, 500, 20):
        times = torch.full((2,), t)
        label = process.network_time(times)[0]
        found = ImagesMeant(config)(eps, process.add_noise(x_0, eps, times), label)
        torch.testing.assert_close(found, x_0, atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", ["velocity", "sample"])
def test_flow_matching_means_the_end_of_the_path(kind: str) -> None:
    config = diffusion_config(process="flow", prediction_type=kind)
    process = make_process(config)
    x_0 = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    eps = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    times = torch.full((2,), 730.0)
    x_t, target = process.add_noise(x_0, eps, times), process.target(x_0, eps, times)
    torch.testing.assert_close(ImagesMeant(config)(target, x_t, times[0]), x_0)
