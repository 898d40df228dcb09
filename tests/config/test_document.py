"""What the help and the docs say about the keys of a config."""

import re
from pathlib import Path

import pytest

import train
from uvit_dia.config.document import describe, page
from uvit_dia.config.fields import key
from uvit_dia.config.rules import integer
from uvit_dia.config.schema import RULES

ROOT = Path(__file__).resolve().parents[2]


def help_text(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        train.main(["train.py", *arguments, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def shown_values(text: str) -> dict[str, str]:
    return dict(re.findall(r"^  --config\.([\w.]+)=(.*)$", text, flags=re.MULTILINE))


def test_the_page_of_the_docs_is_that_of_the_schema() -> None:
    """Make it anew with `python -m uvit_dia.config.document > docs/config-keys.md`."""
    assert (ROOT / "docs" / "config-keys.md").read_text() == page()


def test_help_lists_every_key_with_value_range_and_meaning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_text(capsys)
    values = shown_values(text)
    assert list(values) == list(RULES)
    assert "values are those of" in text and "digits_uvit_dia.py" in text
    assert (values["train.batch_size"], values["optimizer.betas"]) == ("64", "0.9,0.99")
    words = " ".join(text.split())
    for rule in RULES.values():
        assert (
            f"{rule.meaning}{f' ({rule.unit})' if rule.unit else ''}. Allowed: {rule.allowed}."
            in words
        )
    assert max(map(len, text[text.index("Flags:") :].splitlines())) <= 100


@pytest.mark.parametrize("equals", [True, False])
def test_help_shows_the_values_of_the_config_that_is_given(
    equals: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(ROOT / "configs" / "cifar10_small_uvit.py")
    values = shown_values(
        help_text(capsys, *([f"--config={file}"] if equals else ["--config", file]))
    )
    assert (values["model.patch_size"], values["model.attention"]) == ("4", "none")


def test_help_on_a_config_that_cannot_be_run_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.py").write_text("def get_config():\n    raise KeyError('size')\n")
    text = help_text(capsys, f"--config={tmp_path / 'x.py'}")
    assert "KeyError: 'size'" in text
    assert "\n  --config.train.batch_size\n" in text


def test_a_later_key_says_what_its_absence_means() -> None:
    rule = key(integer(0, 9), "Restarts", unit="steps", absent=3).metadata["rule"]
    assert describe(rule) == "Restarts (steps). Allowed: an integer from 0 to 9. Missing: 3."
