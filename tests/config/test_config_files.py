"""Our config files: each is complete, builds, and keeps its bytes and its hash."""

import copy
import hashlib
import importlib
import json
import re
from pathlib import Path

import pytest
import torch

from configs.digits_uvit_dia import get_config
from tests.support.configs import changed, with_value
from uvit_dia.config.checks import make_config
from uvit_dia.config.files import config_hash, flatten, to_plain
from uvit_dia.config.schema import RULES
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")

# The hash of each config and the SHA-256 of its `config.json`, as the first version of the schema
# gave them: a run that was made then must resume now.
PINNED = {
    "cifar10_small_uvit": (
        "659aa84c3e3a7968ed2f9c21874aecedd98ee7626d8aa7a7a02e486f47e85bb6",
        "9e363cac9a4812fbc5ce24f87a135ea92e8379957b4814c00bac0f9ac04008b1",
    ),
    "cifar10_small_uvit_dia": (
        "1f61684fc41db36f3b3f19e58d80c450065f4fed79a4aa2666ceb190b63f2fb4",
        "7ea46902a061176646a7adc4850f909f83889a8eac23db960c348e1e778508b7",
    ),
    "cifar10_uvit": (
        "54f3910cbf6d0ba6165bec20994bd8abedf27728f00d7b0d4ba13eae7db75218",
        "31f8834333fd3765db9880f4e1f29b47eb6b880ad3ec9796b0163d9d2583e7d1",
    ),
    "cifar10_uvit_dia": (
        "d2eece0de1ed389ebfdb9b77caa6655e61ad8f3efabdbfce8eccec7eec492595",
        "229e2ba7d233a560476320025f4190fbd71b62867d1b85a7491679e12767129a",
    ),
    "cifar10_uvit_dia_light": (
        "45605c1d7fbed596b93d585a7bedef0f9b87d417f415b0945bb5de97004141fb",
        "cacc6a08aabd0886b09bea56cc2f98508bdcc08f9aaeacca445fb5bde2c371fa",
    ),
    "digits_uvit_dia": (
        "05f5d65040d250f8b652f2ad149ae42dfbacb73a9ceb6822abfb81972bd572f1",
        "b0da4b37c5525a790ae069304e31b3e102ea7af172682e68898952f6d9df4fcb",
    ),
}


# What the files said then, where they say something else now.
THEN = {"train.mixed_precision": "bf16", "train.compile": True}


@pytest.mark.parametrize("name", PINNED)
def test_bytes_and_hash_of_old_runs_stay(name: str, tmp_path: Path) -> None:
    config = make_config(importlib.import_module(f"configs.{name}").get_config().to_dict())
    if name.startswith("cifar10"):
        for key, value in THEN.items():
            config = with_value(config, key, value)
    RunFolder(tmp_path).write_config(config)
    written = hashlib.sha256((tmp_path / "config.json").read_bytes()).hexdigest()
    assert (config_hash(config), written) == PINNED[name]


def test_numbers_stay_as_they_were_given() -> None:
    """1 and 1.0 are the same rate, but not the same bytes."""
    values = {"optimizer.learning_rate": 1, "model.mlp_ratio": 4, "optimizer.betas": [0, 0.9]}
    text = json.dumps(to_plain(make_config(changed(values))))
    for part in ('"learning_rate": 1,', '"mlp_ratio": 4,', '"betas": [0, 0.9]', '"eps": 1e-08'):
        assert part in text


@pytest.mark.parametrize("name", CONFIGS)
def test_config_files_are_complete_and_build(name: str) -> None:
    from uvit_dia.models.build import make_model
    from uvit_dia.sampling.schedulers import check_sampler

    module = importlib.import_module(f"configs.{name}")
    config = make_config(module.get_config().to_dict(), name)
    assert sorted(flatten(module.get_config().to_dict())) == sorted(RULES)
    assert config == make_config(module.get_config().to_dict())
    check_sampler(config.sample, config.diffusion)
    with torch.device("meta"):
        model = make_model(config)
    weights = sum(p.numel() for p in model.parameters())
    claimed = re.search(r"([\d,]+) weights", module.__doc__ or "")
    if claimed is not None:
        assert weights == int(claimed[1].replace(",", ""))
    assert f"configs/{name}.py" in (module.__doc__ or "")  # the command that runs it


def test_what_only_the_model_refuses_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from uvit_dia.models import build

    def refuse(**arguments: object) -> None:
        raise ValueError(f"embed_dim must be\n even, got {arguments['embed_dim']}" + "." * 300)

    monkeypatch.setattr(build, "UViT", refuse)
    with pytest.raises(InputError, match=r"^model: embed_dim must be even, got 64\.+$") as caught:
        build.make_model(make_config(changed()))
    assert len(str(caught.value)) <= 160


def test_there_are_config_files() -> None:
    assert {"digits_uvit_dia", "cifar10_uvit", "cifar10_uvit_dia"} <= set(CONFIGS)


def test_the_baseline_differs_from_its_variants_in_the_unit_alone() -> None:
    def facts(name: str) -> dict[str, object]:
        return flatten(to_plain(importlib.import_module(f"configs.{name}").get_config()))

    for plain, variant in (
        ("cifar10_uvit", "cifar10_uvit_dia"),
        ("cifar10_uvit", "cifar10_uvit_dia_light"),
        ("cifar10_small_uvit", "cifar10_small_uvit_dia"),
    ):
        old, new = facts(plain), facts(variant)
        assert {key for key in old if old[key] != new[key]} == {"model.attention"}
        assert old["model.attention"] == "none"


def test_checking_changes_nothing() -> None:
    config = get_config()
    before = copy.deepcopy(config.to_dict())
    config_hash(make_config(config.to_dict()))
    assert config.to_dict() == before
