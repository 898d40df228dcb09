"""The U-ViT authors' weights: read by name, sampled as they did, exported."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import sample
import uvit_dia
from uvit_dia.config.any_config import read_any_config
from uvit_dia.export.__main__ import main as export
from uvit_dia.models import UViT
from uvit_dia.models.build import make_model
from uvit_dia.system.errors import InputError

NAMES = ("cifar10_uvit", "celeba64_uvit", "imagenet64_uvit_mid", "imagenet64_uvit_large")
MILLIONS = (44, 44, 131, 287)  # Table 1 of Bao et al. 2023


def weights_of(name: str, changes: dict[str, object]) -> tuple[UViT, dict[str, Tensor]]:
    """Return a network of a config with random weights, and its `state_dict`."""
    model = make_model(read_any_config(name, changes)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model, model.state_dict()


def check(name: str, path: Path, changes: dict[str, object]) -> None:
    """Compare file -> load -> forward with `UViT.from_official`."""
    model, state = weights_of(name, changes)
    torch.save({"step": 7, "ema": {f"module.{key}": value for key, value in state.items()}}, path)
    config = read_any_config(name, changes)
    loaded = uvit_dia.load(path, config=config, device="cpu")
    reference = UViT.from_official(path, **config.model.to_dict(with_absent=True))
    generator = torch.Generator().manual_seed(2)
    size = config.model.img_size
    x_t = torch.randn(2, 3, size, size, generator=generator)
    timesteps = torch.tensor([3.7, 998.2])
    labels = torch.tensor([0, 999]) if config.is_conditional else None
    with torch.no_grad():
        found = loaded.trained.model(x_t, timesteps, labels)
        assert torch.equal(found, reference(x_t, timesteps, labels))
        assert torch.equal(found, model(x_t, timesteps, labels))
    assert loaded.config.diffusion.time_labels == "vp_sde"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_loaded_by_the_name_of_its_config(name: str, tmp_path: Path) -> None:
    """At a depth of two, which makes the files small; all else is as the authors have it."""
    check(name, tmp_path / "weights.pth", {"model.depth": 2})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_full_depth_is_loaded(name: str, tmp_path: Path) -> None:
    check(name, tmp_path / "weights.pth", {})


@pytest.mark.parametrize(("name", "millions"), zip(NAMES, MILLIONS, strict=True))
def test_the_networks_have_the_authors_sizes(name: str, millions: int) -> None:
    with torch.device("meta"):
        model = make_model(read_any_config(name))
    assert round(sum(each.numel() for each in model.parameters()) / 1e6) == millions


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of tiny weights whose config lies beside it."""
    folder = tmp_path_factory.mktemp("official")
    changes: dict[str, object] = {"model.depth": 2, "model.embed_dim": 32, "model.num_heads": 2}
    _, state = weights_of("cifar10_uvit", changes)
    torch.save(state, folder / "uvit.pth")
    (folder / "tiny.py").write_text(
        "from configs.cifar10_uvit import get_config as plain\n\n\n"
        "def get_config():\n"
        "    config = plain()\n"
        "    config.model.update(depth=2, embed_dim=32, num_heads=2)\n"
        "    return config\n"
    )
    return folder


@pytest.mark.parametrize(
    ("sampler", "num_steps"), [("euler_maruyama", 8), ("dpm_solver", 7), ("dpmpp_2m", 5)]
)
def test_their_samplers_are_there(
    official: Path, tmp_path: Path, sampler: str, num_steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "sample.py",
        f"--checkpoint={official / 'uvit.pth'}",
        f"--config={official / 'tiny.py'}",
        f"--sampler={sampler}",
        f"--num_steps={num_steps}",
        "--num_images=4",
        f"--output={tmp_path / 'x.png'}",
    ]
    sample.main(command)
    assert (tmp_path / "x.png").is_file()
    assert f"{sampler}, {num_steps} steps, seed 0, official weights" in capsys.readouterr().out


def test_the_network_is_told_their_labels(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = uvit_dia.load(official / "uvit.pth", config=str(official / "tiny.py"))
    told: list[float] = []
    real = UViT.forward

    def forward(self: UViT, x_t: Tensor, timesteps: Tensor, *more: object) -> Tensor:
        told.append(float(timesteps[0]))
        return real(self, x_t, timesteps, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(UViT, "forward", forward)
    model.sample(1, sampler="ddpm", num_steps=1000)
    assert (told[0], told[-1]) == pytest.approx((1002.4, 0.916), rel=1e-3)
    told.clear()
    model.sample(1, sampler="euler_maruyama", num_steps=4)
    assert told == pytest.approx([999, 999 * 0.667, 999 * 0.334, 0.999], rel=1e-3)


def test_an_export_of_them_samples_by_ddpm(official: Path, tmp_path: Path) -> None:
    words = ["--config", str(official / "tiny.py"), "--license=mit"]
    export(["export", str(official / "uvit.pth"), str(tmp_path / "a"), *words])
    export(["export", str(tmp_path / "b"), f"--from_official={official / 'uvit.pth'}", *words])
    a, b = (uvit_dia.load(tmp_path / name) for name in "ab")
    assert a.trained.sha256 == b.trained.sha256
    assert a.config.diffusion.time_labels == "vp_sde"
    assert "vp_sde" in (tmp_path / "a" / "model_index.json").read_text()
    assert '"num_steps": 50' in (tmp_path / "a" / "model_index.json").read_text()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "holds weights alone; --config NAME"),
        ("cifar10_uvit_dia", "has a unit (dia_lstm)"),
        ("cifar10_uvit", "size mismatch for"),
        ("nothing_of_that_name", "no such file; ours are"),
    ],
)
def test_what_does_not_fit_is_refused(
    official: Path, tmp_path: Path, config: str | None, said: str
) -> None:
    command = [
        "sample.py",
        f"--checkpoint={official / 'uvit.pth'}",
        f"--output={tmp_path / 'x.png'}",
    ]
    with pytest.raises(InputError) as refused:
        sample.main([*command, *([] if config is None else [f"--config={config}"])])
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "x.png").exists()


def test_a_process_of_another_kind_is_refused(official: Path) -> None:
    changes: dict[str, object] = {"diffusion.prediction_type": "v_prediction"}
    config = read_any_config(str(official / "tiny.py"), changes)
    with pytest.raises(InputError, match=r"diffusion\.prediction_type = 'v_prediction'"):
        uvit_dia.load(official / "uvit.pth", config=config)


def test_a_file_of_ours_is_not_taken_for_one_of_theirs(tmp_path: Path) -> None:
    """Its network would be told the wrong time."""
    for name in ("manifest.json", "model_index.json"):
        file = tmp_path / name.partition(".")[0] / "unet" / "weights.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
        (file.parents[1] / name).write_text("{}")
        with pytest.raises(InputError, match=r"is a part of .*; give that folder"):
            uvit_dia.load(file, config="cifar10_uvit")


def test_pickled_code_is_not_run(official: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(marker), "w")

    torch.save({"x": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="cannot read weights from"):
        uvit_dia.load(tmp_path / "evil.pth", config=str(official / "tiny.py"))
    assert not marker.exists()
