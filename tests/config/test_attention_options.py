"""Which options of the attention unit fit each other, told before torch is imported."""

from typing import Any

import pytest

from tests.support.configs import changed, refusal
from uvit_dia.config.checks import make_config
from uvit_dia.config.units import DEFAULT_OPTIONS, UNITS, units_with

ELSEWHERE: dict[str, Any] = {"time_first_state": True, "forget_bias": 1.0, "variance": "unbiased"}
ELSEWHERE |= {"normalisation": "shared", "mixture_penalty": 0.1, "constant": 0.5}


def with_options(attention: str, **options: Any) -> dict[str, Any]:
    changes = {f"model.attention_options.{key}": value for key, value in options.items()}
    return changed({"model.attention": attention, **changes})


@pytest.mark.parametrize("option", ELSEWHERE)
def test_an_option_that_the_unit_does_not_take_is_refused(option: str) -> None:
    value, owners = ELSEWHERE[option], units_with(option)
    for name in UNITS:
        tree = with_options(name, **{option: value})
        if name in owners:
            assert getattr(make_config(tree).model.attention_options, option) == value
            continue
        message = refusal(tree)
        assert f"model.attention_options.{option} belongs to {', '.join(owners)}" in message
        assert message.endswith(f"for {name!r} allowed is {DEFAULT_OPTIONS[option]!r}")
    make_config(with_options("none", **{option: value}))  # a sweep's baseline may carry them


@pytest.mark.parametrize("name", UNITS)
def test_0_is_the_units_own_number(name: str) -> None:
    make_config(with_options(name, reduction=0, groups=0))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lstm", {"gate_init": "rescaled"}, "'lstm' starts at 0 here; activation = 'sigmoid' doe"),
        ("lstm", {"gate_init": "paper", "gate_form": "mean_one"}, "divides by the attention map"),
        ("dia_lstm", {"gate_init": "rescaled", "activation": "tanh"}, "starts at 0 here"),
        ("dia_lstm", {"gate_init": "rescaled", "activation": "relu"}, "starts at 0 here"),
        ("se", {"gate_init": "identity", "gate_form": "residual"}, "goes with gate_init = 'paper'"),
        ("se", {"gate_init": "rescaled", "gate_form": "mean_one"}, "alone, not 'rescaled'"),
        *(
            (name, {"gate_init": "paper", "gate_form": "residual"}, "a constant attention map here")
            for name in ("srm", "sge", "spem")
        ),
        (
            "cbam",
            {"gate_init": "paper", "gate_form": "residual", "normalisation": "block"},
            "'cbam' starts with a constant attention map here, and would stay at it",
        ),
    ],
)
def test_gates_that_cannot_be_are_refused(name: str, options: dict, words: str) -> None:
    message = refusal(with_options(name, **options))
    assert "model.attention_options" in message
    assert words in message


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lstm", {"gate_init": "rescaled", "activation": "sigmoid"}),
        ("lstm", {"gate_init": "paper", "gate_form": "residual"}),
        ("dia_lstm", {"gate_init": "rescaled"}),
        ("cbam", {"gate_init": "paper", "gate_form": "residual"}),
        ("my_module:MyUnit", {"gate_init": "rescaled", "normalisation": "shared"}),
    ],
)
def test_gates_that_can_be_are_accepted(name: str, options: dict) -> None:
    make_config(with_options(name, **options))


def test_a_normalisation_cannot_be_recomputed() -> None:
    tree = with_options("cbam", normalisation="block")
    make_config(tree)
    tree["train"]["gradient_checkpointing"] = True
    assert "not with model.attention = 'cbam', whose running averages" in refusal(tree)
    tree["model"]["attention_options"]["normalisation"] = "default"
    make_config(tree)
