"""Weights in the format of the U-ViT authors' code: files, what stands around them, and traps."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tests.support.networks import SMALL, make_uvit, randomise
from uvit_dia.models import UViT
from uvit_dia.models.official_weights import MAX_WEIGHT_FILE_BYTES


@torch.no_grad()
def predict(model: UViT) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x_t = torch.randn(3, 3, 8, 8, generator=generator)
    return model(x_t, torch.randint(1000, (3,), generator=generator))


# ---------------------------------------------------------------- foreign weight files


@pytest.fixture
def official(tmp_path: Path) -> tuple[dict[str, Tensor], UViT, Path]:
    """Return weights of a plain U-ViT, the model, and a folder."""
    model = make_uvit()
    randomise(model)
    return model.state_dict(), model, tmp_path


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("as_text", [True, False])
def test_weights_come_from_files(
    official: tuple[dict[str, Tensor], UViT, Path], suffix: str, as_text: bool
) -> None:
    weights, model, folder = official
    path = folder / f"uvit{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    loaded = UViT.from_official(str(path) if as_text else path, **SMALL)
    torch.testing.assert_close(loaded.state_dict(), weights, rtol=0, atol=0)
    torch.testing.assert_close(predict(loaded), predict(model), rtol=0, atol=0)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable, tuple]:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("kind", ["zip", "zip among tensors", "legacy", "bare pickle"])
def test_a_pickle_with_a_payload_is_refused_and_nothing_runs(
    official: tuple[dict[str, Tensor], UViT, Path], kind: str
) -> None:
    weights, _, folder = official
    canary, path = folder / "canary", folder / "uvit.pth"
    content: dict[str, Any] = {"weights": Payload(canary)}
    if kind == "zip among tensors":
        content = {**weights, "pos_embed": Payload(canary)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    with pytest.raises(ValueError, match=r"cannot read weights from .*uvit\.pth"):
        UViT.from_official(path, **SMALL)
    assert not canary.exists()
    if kind == "bare pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert canary.exists()  # the payload works


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_a_corrupt_file_is_refused(
    official: tuple[dict[str, Tensor], UViT, Path], suffix: str, damage: str
) -> None:
    weights, _, folder = official
    path = folder / f"uvit{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    content = path.read_bytes()
    path.write_bytes(
        {"half": content[: len(content) // 2], "empty": b"", "text": b"x" * 99}[damage]
    )
    with pytest.raises(ValueError, match=rf"cannot read weights from .*uvit\{suffix}"):
        UViT.from_official(path, **SMALL)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_missing_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    for name in ("nowhere", "folder"):
        with pytest.raises(ValueError, match=rf"no weight file at .*{name}\{suffix}"):
            UViT.from_official(tmp_path / f"{name}{suffix}", **SMALL)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_huge_file_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"huge{suffix}"
    with path.open("wb") as file:
        file.truncate(MAX_WEIGHT_FILE_BYTES + 1)  # a hole, not bytes
    with pytest.raises(ValueError, match=rf"huge.*{MAX_WEIGHT_FILE_BYTES + 1} bytes; at most"):
        UViT.from_official(path, **SMALL)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"model": {}}, {1: torch.ones(1)}, "text"])
def test_a_file_without_a_plain_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth does not hold a plain dictionary of tensors"):
        UViT.from_official(tmp_path / "x.pth", **SMALL)


def test_weights_of_another_network_are_refused(
    official: tuple[dict[str, Tensor], UViT, Path],
) -> None:
    weights, _, folder = official
    missing = {k: v for k, v in weights.items() if k != "norm.weight"}
    extra = {**weights, "label_emb.weight": torch.ones(3, 32)}
    cases = [
        (missing, "norm.weight"),
        (extra, "label_emb.weight"),
        ({**weights, "norm.weight": torch.ones(33)}, "size mismatch for norm.weight"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=f"not the weights of this U-ViT.*{message}"):
            UViT.from_official(wrong, **SMALL)
    save_file(missing, folder / "x.safetensors")
    with pytest.raises(ValueError, match=r"not the weights of this U-ViT.*norm\.weight"):
        UViT.from_official(folder / "x.safetensors", **SMALL)


# ---------------------------------------------------------------- what stands around weights


def same(model: UViT, weights: dict[str, Tensor]) -> bool:
    found = model.state_dict()
    return found.keys() == weights.keys() and all(torch.equal(found[k], weights[k]) for k in found)


PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module.")


@pytest.mark.parametrize("prefix", [*PREFIXES, "_fsdp_wrapped_module."])
@pytest.mark.parametrize("as_file", [None, ".pth", ".safetensors"])
def test_prefixes_of_wrappers_are_taken_off(
    official: tuple[dict[str, Tensor], UViT, Path], prefix: str, as_file: str | None
) -> None:
    weights, _, folder = official
    prefixed: Any = {prefix + key: tensor for key, tensor in weights.items()}
    if as_file == ".pth":
        torch.save(prefixed, folder / "x.pth")
    elif as_file:
        save_file(prefixed, folder / "x.safetensors")
    assert same(
        UViT.from_official(folder / f"x{as_file}" if as_file else prefixed, **SMALL), weights
    )


def test_what_torch_wraps_around_a_model_is_seen_through(
    official: tuple[dict[str, Tensor], UViT, Path],
) -> None:
    weights, model, _ = official
    compiled = torch.compile(model)
    averaged = AveragedModel(model)  # which counts its averages beside the weights
    assert "n_averaged" in averaged.state_dict()
    for wrapped in (compiled, averaged, nn.DataParallel(model), AveragedModel(compiled)):
        assert same(UViT.from_official(wrapped.state_dict(), **SMALL), weights)
    for block in model.in_blocks:  # each block compiled by itself
        block.attn = torch.compile(block.attn)
    assert any("._orig_mod." in key for key in model.state_dict())
    assert same(UViT.from_official(model.state_dict(), **SMALL), weights)


def test_a_training_state_is_read_where_it_holds_one_set_of_weights(
    official: tuple[dict[str, Tensor], UViT, Path],
) -> None:
    weights, _, folder = official
    for name in ("model", "state_dict", "ema", "module"):
        state = {name: OrderedDict(weights), "epoch": 3, "names": ["a"], "best": torch.ones(())}
        torch.save(state, folder / "x.pth")
        assert same(UViT.from_official(folder / "x.pth", **SMALL), weights)
        assert same(UViT.from_official(state, **SMALL), weights)
    nested = {"state_dict": {f"module.{key}": tensor for key, tensor in weights.items()}}
    assert same(UViT.from_official(nested, **SMALL), weights)


def test_one_of_several_sets_of_weights_must_be_named(
    official: tuple[dict[str, Tensor], UViT, Path],
) -> None:
    weights, _, folder = official
    others = make_uvit(seed=5).state_dict()
    path = folder / "x.pth"
    torch.save({"model": others, "ema": weights, "step": 7}, path)
    with pytest.raises(ValueError, match=r"x\.pth holds several .*: choose .* 'model', 'ema'$"):
        UViT.from_official(path, **SMALL)
    assert same(UViT.from_official(path, entry="ema", **SMALL), weights)
    assert same(UViT.from_official(path, entry="model", **SMALL), others)
    for entry in ("step", "optimizer"):
        with pytest.raises(ValueError, match=f"under '{entry}'; it holds model, ema"):
            UViT.from_official(path, entry=entry, **SMALL)
    with pytest.raises(ValueError, match="no dictionary of tensors under 'ema'; it holds none"):
        UViT.from_official(weights, entry="ema", **SMALL)


def test_names_that_cannot_be_read_are_told(official: tuple[dict[str, Tensor], UViT, Path]) -> None:
    weights, _, _ = official
    prefixed = {f"nnet.{key}": tensor for key, tensor in weights.items()}
    twice = {**weights, "module.norm.weight": torch.zeros(32)}
    for wrong, message in (
        (prefixed, r"all its keys have the prefix 'nnet\.', which must be taken off"),
        (twice, r"module\.norm\.weight and another key are both norm\.weight without"),
    ):
        with pytest.raises(ValueError, match=message):
            UViT.from_official(wrong, **SMALL)


def test_a_refusal_names_a_few_keys_of_many(
    official: tuple[dict[str, Tensor], UViT, Path],
) -> None:
    weights, _, _ = official
    other = {f"{key}_": tensor for key, tensor in weights.items()}
    wide = UViT(**{**SMALL, "embed_dim": 64}).state_dict()
    for wrong, message in (
        (other, rf"it lacks pos_embed, .* and {len(weights) - 3} more; it has besides pos_embed_"),
        (wide, r"size mismatch for pos_embed \(\(1, 17, 64\) where the model has \(1, 17, 32\)\)"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            UViT.from_official(wrong, **SMALL)
        assert len(str(caught.value)) < 400
