"""`export --space`: a folder that a hosted Space runs as it lies, and its page from there."""

import runpy
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, SpaceCard

from tests.support.documents import ROOT
from uvit_dia import __version__
from uvit_dia.demo import server
from uvit_dia.export.__main__ import main
from uvit_dia.export.space import SDK_VERSION
from uvit_dia.system.errors import InputError

MODEL = ROOT / "models" / "digits_uvit_dia_cond"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "exported"
    main(["export", str(MODEL), str(folder), "--space", "--license", "apache-2.0"])
    return folder


def test_the_header_is_that_of_a_space(space: Path) -> None:
    card = SpaceCard.load(space / "README.md")
    assert (card.data.sdk, card.data.app_file) == ("gradio", "app.py")
    assert card.data.license == "apache-2.0"
    assert "digits" in card.data.title
    assert card.data.sdk_version == SDK_VERSION
    assert f"gradio=={SDK_VERSION}\n" in (ROOT / "constraints-demo.txt").read_text()


def test_the_card_keeps_its_text(space: Path, tmp_path: Path) -> None:
    main(["export", str(MODEL), str(tmp_path / "plain"), "--license", "apache-2.0"])
    plain = ModelCard.load(tmp_path / "plain" / "README.md")
    assert SpaceCard.load(space / "README.md").text.strip() == plain.text.strip()
    assert not (tmp_path / "plain" / "app.py").exists()


def test_requirements_name_this_version(space: Path) -> None:
    assert (space / "requirements.txt").read_text() == f"uvit_dia[demo]=={__version__}\n"


def test_the_app_serves_its_own_folder(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Path] = []
    monkeypatch.setattr(server, "serve_space", served.append)
    runpy.run_path(str(space / "app.py"), run_name="__main__")
    assert served == [space.resolve()]


def test_a_space_is_not_pushed_as_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--space: --push uploads models"):
        main(["export", str(MODEL), str(tmp_path / "x"), "--space", "--push", "me/page"])
    assert not (tmp_path / "x").exists()
