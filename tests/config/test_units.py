"""The table of units, and that nobody else knows what is special about one."""

import ast
from pathlib import Path

import pytest

from tests.support.configs import changed, refusal
from uvit_dia.config.checks import make_config
from uvit_dia.config.units import UNITS, facts_of, is_own_unit, normalises_over_images, units_with

ROOT = Path(__file__).resolve().parents[2]


def test_what_the_units_say_of_themselves() -> None:
    assert (
        units_with("num_cells")
        == units_with("activation")
        == ("lstm", "dia_lstm", "dia_lstm_light")
    )
    assert units_with("groups") == ("sge",)
    assert [name for name in UNITS if normalises_over_images(name)] == ["srm"]
    assert [name for name, facts in UNITS.items() if facts.has_running_averages] == ["srm"]
    assert facts_of("none") is facts_of("my_module:MyUnit") is None
    assert not normalises_over_images("none")


def test_nobody_compares_the_name_of_a_special_unit() -> None:
    """A unit's own class, and the list that names the classes, may."""
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "uvit_dia").rglob("*.py")
        if any(
            isinstance(node, ast.Constant) and node.value == "srm"
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert [path for path in found if not path.startswith("uvit_dia/models/units/")] == [
        "uvit_dia/config/units.py"
    ]


@pytest.mark.parametrize("name", ["my_module:MyUnit", "a.b.c:D", "_a:_B", "module:Outer.Inner"])
def test_a_unit_of_ones_own_is_accepted_with_any_options(name: str) -> None:
    assert is_own_unit(name)
    options = {"reduction": 5, "groups": 5, "num_cells": 3, "activation": "tanh"}
    changes = {f"model.attention_options.{key}": value for key, value in options.items()}
    assert make_config(changed({"model.attention": name, **changes})).model.attention == name


@pytest.mark.parametrize(
    "name",
    [
        *("my_module", "my_module:", ":MyUnit", "a:b:c", "a..b:C", "1a:B"),
        *("a-b:C", "../a:B", "a/b:C", "a b:C", f"a:{'B' * 300}"),
    ],
)
def test_what_names_no_unit_is_refused(name: str) -> None:
    message = refusal(changed({"model.attention": name}))
    assert "model.attention = " in message
    assert message.endswith("or MODULE:CLASS")
