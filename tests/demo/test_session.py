"""What a visitor may wish, and which models go together: refused in one line, in page's words."""

from dataclasses import replace

import pytest

from tests.support.shown_models import CONDITIONAL, FLOW, WITHOUT, session_of
from uvit_dia.demo.wish import IN_TURN, Wish
from uvit_dia.system.errors import InputError

COSINE: dict[str, object] = {"diffusion.beta_schedule": "squaredcos_cap_v2"}
WISH = Wish(
    sampler="ddim",
    num_steps=10,
    seed=0,
    num_images=4,
    class_name=IN_TURN,
    guidance_scale=1.5,
)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_steps": 7}, "Steps 7: ddim needs a divisor of the 1000 training timesteps"),
        ({"num_steps": 0}, "Steps 0: allowed is 1 to"),
        ({"num_steps": None}, "Steps is empty: it takes a whole number"),
        ({"num_steps": 2000}, "Steps 2000: allowed is 1 to 1000 with ddim"),
        ({"seed": -1}, "Seed -1: allowed is 0 to 2147483647"),
        ({"seed": 2**31}, "Seed 2147483648: allowed is 0 to"),
        ({"seed": None}, "Seed is empty"),
        ({"num_images": 65}, "Images 65: allowed is 1 to 64"),
        ({"num_images": 0}, "Images 0: allowed is 1 to"),
        ({"sampler": "dimm"}, "Sampler 'dimm': unknown; .* did you mean ddim?"),
        ({"sampler": "flow_euler"}, "Sampler 'flow_euler': with diffusion.process"),
        ({"class_name": "cat"}, "Class 'cat': allowed is 0 to 9"),
        ({"guidance_scale": -1.0}, "Guidance -1.0: allowed is a number"),
    ],
)
def test_a_wrong_wish_is_refused_in_one_line(change: dict[str, object], told: str) -> None:
    session = session_of(CONDITIONAL)
    assert session.settings(WISH)
    with pytest.raises(InputError, match=told) as caught:
        session.settings(replace(WISH, **change))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert "--" not in message


def test_what_the_page_offers() -> None:
    session = session_of(CONDITIONAL)
    assert session.class_names == [str(number) for number in range(10)]
    assert session.can_guide
    assert "flow_euler" not in session.samplers and "dpm_solver" not in session.samplers
    assert session.settings(session.first_wish)
    plain = session_of({})
    assert plain.class_names == [] and not plain.can_guide
    assert plain.first_wish.class_name is None
    assert plain.labels(plain.first_wish) is None


def test_a_class_goes_to_the_model_that_has_classes() -> None:
    session = session_of(CONDITIONAL, WITHOUT)
    with_classes, without = session.settings(replace(WISH, class_name="3"))
    assert with_classes.guidance_scale == 1.5
    assert without.guidance_scale == 1
    labels = session.labels(replace(WISH, class_name="3"))
    assert labels is not None and labels.tolist() == [3] * 4
    in_turn = session.labels(WISH)
    assert in_turn is not None and in_turn.tolist() == [0, 1, 2, 3]


def test_guidance_needs_a_model_that_knows_no_class() -> None:
    session = session_of({"model.num_classes": 10})
    assert session.class_names and not session.can_guide
    assert session.settings(replace(WISH, guidance_scale=3.0))[0].guidance_scale == 1


def test_facts_name_the_unit() -> None:
    facts = [model.facts for model in session_of({}, WITHOUT).models]
    assert facts[0].startswith("unit shared dia_lstm, 3 blocks")
    assert facts[1].startswith("no attention unit, 3 blocks")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model.img_size": 16, "data.name": "folder", "data.path": "x"}, "1x8x8 and 1x16x16"),
        (FLOW, "no sampler fits both models"),
        ({"model.num_classes": 5, "data.name": "folder", "data.path": "x"}, "different classes"),
    ],
)
def test_models_that_do_not_go_together(changes: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        session_of({"model.num_classes": 10}, changes)


def test_notes_of_a_sampler_are_told_once() -> None:
    session = session_of(COSINE, {**COSINE, **WITHOUT})
    notes = session.notes(replace(WISH, sampler="dpmpp_2m", num_steps=2))
    assert len(notes) == len(set(notes)) >= 1
    assert not any("--" in note for note in notes)
