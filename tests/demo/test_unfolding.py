"""What the demo page shows: the sampler's own images, its moments, and the gates on the way."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import uvit_dia
from uvit_dia.analysis.probe import watched
from uvit_dia.data.images import to_uint8
from uvit_dia.demo.pictures import COLOURS, GRID_GAP, figure_html, gate_map, write_files
from uvit_dia.demo.session import Session, ShownModel, open_session
from uvit_dia.demo.unfolding import Moment, count_calls
from uvit_dia.demo.wish import Wish
from uvit_dia.models.build import make_model
from uvit_dia.runs.open_model import open_model
from uvit_dia.sampling.animation import MAX_FRAMES
from uvit_dia.sampling.sampler import SeededNoise
from uvit_dia.system.errors import InputError

MODEL = Path(__file__).resolve().parents[2] / "models" / "digits_uvit_dia_cond"
WISH = Wish("ddim", 5, 3, 4, "7", 1.5)


@pytest.fixture(scope="module")
def session() -> Session:
    torch.set_num_threads(1)
    return open_session([MODEL])


def shown(name: str, **changes: object) -> ShownModel:
    """Return an untrained model like the shipped one, with changes of its group `model`."""
    trained = open_model(MODEL)
    config = replace(trained.config, model=replace(trained.config.model, **changes))
    model = make_model(config).eval().requires_grad_(False)
    trained = replace(trained, model=model, config=config)
    return ShownModel(trained, name, threading.Lock())


def moments_of(session: Session, wish: Wish) -> list[tuple[Moment, ...]]:
    return list(session.unfold(wish, threading.Event()))


def test_the_last_moment_is_what_sampling_gives(session: Session) -> None:
    ((*_, last),) = zip(*moments_of(session, WISH), strict=True)
    images = uvit_dia.load(MODEL).sample(
        4,
        seed=3,
        sampler="ddim",
        num_steps=5,
        class_labels="7",
        guidance_scale=1.5,
        batch_size=4,
        output_type="pt",
    )
    assert last.is_last
    assert torch.equal(last.images, images)


def test_moments_begin_with_the_noise_and_count_calls(session: Session) -> None:
    moments = [moment for (moment,) in moments_of(session, WISH)]
    assert [moment.calls for moment in moments] == [1, 2, 3, 4, 5, 5]
    assert [moment.is_last for moment in moments] == [False] * 5 + [True]
    noise, _ = SeededNoise(3, (1, 8, 8)).of(range(4))
    assert torch.equal(moments[0].images, to_uint8(noise))
    assert not torch.equal(moments[0].images, moments[-1].images)


def test_gates_are_those_of_the_images_with_their_class(session: Session) -> None:
    """Of the first call, by hand: with guidance half of the batch has no class and is left out."""
    first = moments_of(session, WISH)[0][0]
    (only,) = session.models
    noise, _ = SeededNoise(3, (1, 8, 8)).of(range(4))
    seen = {}
    with watched(
        only.trained.model,
        lambda unit, y, block, output: seen.update({block: unit.gate(output[1]).mean()}),
    ):
        only.trained.model(noise, torch.full((4,), 999), torch.full((4,), 7))
    assert first.gates is not None
    assert first.gates.shape == (5, 1)
    torch.testing.assert_close(
        first.gates[:, 0], torch.stack([seen[block] for block in sorted(seen)])
    )


@pytest.mark.parametrize(
    ("sampler", "steps", "calls"),
    [("heun", 4, 7), ("ddpm", 1000, 1000), ("dpmpp_2m", 20, 20), ("pndm", 10, 19)],
)
def test_calls_are_counted_before_they_are_made(
    session: Session, sampler: str, steps: int, calls: int
) -> None:
    config = session.models[0].trained.config
    settings = replace(config.sample, sampler=sampler, num_steps=steps)
    assert count_calls(settings, config.diffusion) == calls


def test_of_many_calls_few_are_shown_but_all_gates_are_kept(session: Session) -> None:
    moments = moments_of(session, replace(WISH, num_steps=125, num_images=1, guidance_scale=1.0))
    assert len(moments) <= MAX_FRAMES + 1
    (last,) = moments[-1]
    assert last.gates is not None
    assert last.gates.shape == (5, 125)


def test_stop_ends_it_and_the_thread(session: Session) -> None:
    stop = threading.Event()
    unfolding = session.unfold(replace(WISH, num_steps=500), stop)
    next(unfolding)
    stop.set()
    rest = list(unfolding)
    assert not rest or not rest[-1][0].is_last
    for thread in threading.enumerate():
        if thread.name == "unfolding":
            thread.join(10)
            assert not thread.is_alive()


def test_whoever_goes_away_stops_it(session: Session) -> None:
    stop = threading.Event()
    unfolding = session.unfold(replace(WISH, num_steps=500), stop)
    next(unfolding)
    unfolding.close()
    assert stop.is_set()


def test_two_visitors_at_once_get_their_own_images_and_gates(session: Session) -> None:
    wishes = [WISH, replace(WISH, seed=9, class_label="2"), replace(WISH, guidance_scale=1.0)]
    alone = [moments_of(session, wish)[-1][0] for wish in wishes]
    together: dict[int, Moment] = {}

    def visit(index: int) -> None:
        together[index] = moments_of(session, wishes[index])[-1][0]

    visitors = [threading.Thread(target=visit, args=[index]) for index in range(len(wishes))]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(60)
    for index, expected in enumerate(alone):
        found = together[index]
        assert torch.equal(found.images, expected.images)
        assert found.gates is not None and expected.gates is not None
        assert torch.equal(found.gates, expected.gates)


# ---------------------------------------------------------------- what is shown, and what refused


def test_two_models_start_from_the_same_noise_and_one_has_no_gates(session: Session) -> None:
    plain = shown("plain", attention="none")
    pair = Session([session.models[0], plain])
    moments = moments_of(pair, WISH)
    with_unit, without = moments[0]
    assert torch.equal(with_unit.images, without.images)
    assert not torch.equal(moments[-1][0].images, moments[-1][1].images)
    assert without.gates is None
    assert "No gates: this model has no attention unit." in figure_html(plain, without, None)
    assert 'alt="Mean gate of each block' in figure_html(pair.models[0], with_unit, None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_steps": 7}, "Steps 7: ddim needs a divisor"),
        ({"num_steps": None}, "Steps is empty"),
        ({"num_steps": 2.5}, "Steps 2.5: a whole number"),
        ({"seed": -1}, "Seed -1: allowed is 0 to"),
        ({"num_images": 65}, "Images 65: allowed is 1 to 64"),
        ({"sampler": "ddmp"}, "Sampler 'ddmp': unknown"),
        ({"class_label": "10"}, "Class '10': allowed is 0 to 9"),
        ({"guidance_scale": -1.0}, "Guidance -1.0: allowed is"),
        ({"guidance_scale": float("nan")}, "Guidance nan: allowed is"),
        ({"seed": float("inf")}, "Seed inf: a whole number"),
    ],
)
def test_wrong_wishes_are_refused_in_words_of_the_page(
    session: Session, changes: dict, told: str
) -> None:
    with pytest.raises(InputError) as caught:
        session.unfold(replace(WISH, **changes), threading.Event()).__next__()
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_models_that_do_not_go_side_by_side_are_refused(session: Session) -> None:
    with pytest.raises(InputError, match="draws images of 16 x 16 x 1, digits_uvit_dia_cond of 8"):
        Session([session.models[0], shown("large", img_size=16)])
    with pytest.raises(InputError, match="knows 5 classes, digits_uvit_dia_cond 10"):
        Session([session.models[0], shown("five", num_classes=6)])
    with pytest.raises(InputError, match="have 4 channels"):
        Session([shown("latents", in_chans=4)])


def test_the_page_knows_what_its_model_can(session: Session) -> None:
    assert session.class_names == tuple("0123456789")
    assert session.can_guide
    assert "dpmpp_2m" in session.samplers and "flow_euler" not in session.samplers
    assert session.first_wish == Wish("dpmpp_2m", 20, 0, 20, "all", 1.0)
    assert session.columns("all") == 10 and session.columns("3") is None


def test_gates_are_coloured_from_low_to_high_and_the_future_is_white() -> None:
    picture = gate_map(torch.tensor([[0.5, 1.0], [0.0, 0.5]]), 3)
    assert picture.shape == (3, 2, 3)
    lowest, highest = (bytes.fromhex(COLOURS[end][1:]) for end in (0, -1))
    assert bytes(picture[:, 1, 0].tolist()) == lowest
    assert bytes(picture[:, 0, 1].tolist()) == highest
    assert (picture[:, :, 2] == 255).all()
    assert torch.equal(picture[:, 0, 0], picture[:, 1, 1])


def test_files_hold_all_moments_of_both_models(tmp_path: Path) -> None:
    from PIL import Image

    dark, light = torch.zeros(2, 1, 40, 40).to(torch.uint8), torch.full((2, 1, 40, 40), 90)
    frames = [[dark, light.to(torch.uint8)], [light.to(torch.uint8), dark]]
    still, *animations = write_files(tmp_path, frames, columns=2)
    with Image.open(still) as picture:
        assert picture.size == (2 * 86 + GRID_GAP, 44)
        assert picture.getpixel((5, 5)) == 90 and picture.getpixel((170, 20)) == 0
    for path in animations:
        with Image.open(path) as picture:
            assert picture.n_frames == 2, path
