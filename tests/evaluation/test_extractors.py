"""Feature extractors.

Found and checked before use; .pt2 files of others never run anything but their program.
"""

import dataclasses
import io
import json
import pickle
import re
import shutil
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from uvit_dia.evaluation import exported_programs as program_files
from uvit_dia.evaluation import extractor_files
from uvit_dia.evaluation.digits_classifier import (
    DigitsClassifier,
    load_digits_classifier,
    train_digits_classifier,
)
from uvit_dia.evaluation.extractor_files import DIGITS_FILE, INCEPTION, find_extractor
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.published_weights import PUBLISHED, checkpoints_folder
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import sha256_file

Members = dict[str, bytes]  # of an archive, without its root folder


class TinyFeatures(nn.Module):
    """A feature extractor with weights, a constant and a dynamic batch."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(channels * 64, 5)
        self.register_buffer("mean", torch.tensor(127.5))

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 5) features of (B, C, 8, 8) uint8 images."""
        return self.linear((images.float() - self.mean).flatten(1))


def export(module: nn.Module, path: Path, channels: int = 1) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    images = torch.zeros(2, channels, 8, 8, dtype=torch.uint8)
    torch.export.save(torch.export.export(module, (images,), dynamic_shapes=({0: batch},)), path)


def digits_images() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits, (1797, 1, 8, 8) uint8, and labels, read without the package."""
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)[:, None]
    return torch.from_numpy(images), torch.from_numpy(digits.target)


def random_images(count: int, channels: int, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every attempt to reach another machine fail, and be seen."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("there is no network in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# --- finding them --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Digits", "inception", "pt2", "vgg19", "dinov2-vit-s-14"])
def test_unknown_extractor_is_refused(name: str) -> None:
    with pytest.raises(
        InputError, match="unknown; allowed is inception-v3-compat, digits, vgg16, clip"
    ):
        find_extractor(name)


def test_digits_extractor_is_found_with_its_hash() -> None:
    source = find_extractor("digits")
    assert source.name == "digits"
    assert source.sha256 == sha256_file(DIGITS_FILE)
    assert not source.is_inception


def test_changed_digits_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(DIGITS_FILE.read_bytes())
    content[-1] ^= 1
    changed = tmp_path / "digits.safetensors"
    changed.write_bytes(content)
    monkeypatch.setattr(extractor_files, "DIGITS_FILE", changed)
    with pytest.raises(InputError, match=r"is not the expected file: SHA-256 [0-9a-f]{16}"):
        find_extractor("digits")


def test_weights_go_with_inception_only(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"")
    for name in ("digits", "pt2:features.pt2"):
        with pytest.raises(InputError, match="--weights goes with --extractor inception-v3-compat"):
            find_extractor(name, str(tmp_path / "weights.pth"))


def test_wrong_inception_weights_are_refused_unread(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "weights.pth"
    path.write_bytes(canary_pickle(canary))
    with pytest.raises(InputError, match="is not the expected file"):
        find_extractor(INCEPTION, str(path))
    assert not canary.exists()


@pytest.mark.usefixtures("no_network")
def test_missing_inception_weights_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        find_extractor(INCEPTION)
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert extractor_files.INCEPTION_URL in message
    assert "SHA-256 6726825d" in message
    assert "--download_weights" in message
    assert str(tmp_path / "hub" / "checkpoints" / extractor_files.INCEPTION_FILE) in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_network")
def test_failed_download_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    target = tmp_path / "hub" / "checkpoints" / extractor_files.INCEPTION_FILE
    with pytest.raises(InputError, match=r"cannot download .*put the file at") as caught:
        find_extractor(INCEPTION, allow_download=True)
    assert str(target) in str(caught.value)
    assert list(target.parent.iterdir()) == []


def test_download_is_checked_and_kept_only_if_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "served.pth"
    served.write_bytes(b"weights" * 1000)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(extractor_files, "INCEPTION_URL", served.as_uri())
    target = checkpoints_folder() / extractor_files.INCEPTION_FILE
    with pytest.raises(InputError, match="nothing was kept"):
        find_extractor(INCEPTION, allow_download=True)
    assert list(target.parent.iterdir()) == []
    monkeypatch.setattr(extractor_files, "INCEPTION_SHA256", sha256_file(served))
    source = find_extractor(INCEPTION, allow_download=True)
    assert source.path == target
    assert target.read_bytes() == served.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == [extractor_files.INCEPTION_FILE]


def test_default_place_is_torch_hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCH_HOME", tmp_path / "a"), ("XDG_CACHE_HOME", tmp_path / "b")):
        monkeypatch.delenv("TORCH_HOME", raising=False)
        monkeypatch.setenv(name, str(value))
        expected = Path(torch.hub.get_dir()) / "checkpoints" / extractor_files.INCEPTION_FILE
        assert checkpoints_folder() / extractor_files.INCEPTION_FILE == expected
        assert tmp_path in expected.parents


# --- the digits classifier -----------------------------------------------------------------------


def test_digits_features_are_finite_deterministic_and_small() -> None:
    assert DIGITS_FILE.stat().st_size < 2**20
    images, _ = digits_images()
    first = Extractor(find_extractor("digits"), "cpu").features(images[:50])
    again = Extractor(find_extractor("digits"), "cpu").features(images[:50])
    assert list(first) == ["features"]
    features = first["features"]
    assert features.shape == (50, 64)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert torch.equal(features, again["features"])
    assert features.std(0).min() > 0  # every feature tells some images apart


def test_digits_classifier_knows_the_digits() -> None:
    images, labels = digits_images()
    classifier = load_digits_classifier(DIGITS_FILE)
    with torch.no_grad():
        right = (classifier.logits(images).argmax(1) == labels).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        held_out = torch.randperm(len(images))[: len(images) // 5]
    assert right.mean() > 0.98
    assert right[held_out].mean() > 0.97
    assert torch.equal(
        classifier(images), Extractor(find_extractor("digits"), "cpu").features(images)["features"]
    )


def test_digits_classifier_can_be_trained_again() -> None:
    with torch.random.fork_rng():
        classifier, accuracy = train_digits_classifier(epochs=3)
    assert isinstance(classifier, DigitsClassifier)
    assert 0.8 < accuracy <= 1


def test_images_must_be_uint8() -> None:
    extractor = Extractor(find_extractor("digits"), "cpu")
    with pytest.raises(TypeError, match=r"uint8, got torch\.float32"):
        extractor.features(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 9)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    extractor = Extractor(find_extractor("digits"), "cpu")
    with pytest.raises(InputError, match=re.escape(f"does not take images of shape {shape}")):
        extractor.features(torch.zeros(2, *shape, dtype=torch.uint8))


# --- torch.export programs -----------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_program_gives_the_features_of_its_module(tmp_path: Path, channels: int) -> None:
    module = TinyFeatures(channels)
    path = tmp_path / "tiny.pt2"
    export(module, path, channels)
    source = find_extractor(f"pt2:{path}")
    assert source.sha256 == sha256_file(path)
    assert not source.is_inception
    extractor = Extractor(source, "cpu")
    assert (extractor.feature_layer, extractor.logits_layer) == ("features", None)
    for count in (1, 2, 7):
        images = random_images(count, channels)
        features = extractor.features(images)
        assert list(features) == ["features"]
        torch.testing.assert_close(
            features["features"], module(images).detach(), rtol=1e-6, atol=1e-6
        )
        assert features["features"].dtype == torch.float32


def test_program_of_one_hash_is_read_from_where_it_lies_now(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pt2", tmp_path / "second.pt2"
    export(TinyFeatures(), first)
    Extractor(find_extractor(f"pt2:{first}"), "cpu")
    shutil.move(first, second)
    images = random_images(2, 1)
    assert Extractor(find_extractor(f"pt2:{second}"), "cpu").features(images)["features"].shape == (
        2,
        5,
    )


def test_programs_with_sizes_in_them_are_taken(tmp_path: Path) -> None:
    """Their archives hold arithmetic on sizes, which is checked more closely than the rest."""

    class Sizes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            doubled = torch.cat([images, images]).float()  # 2 B
            return doubled.reshape(images.shape[0], 2, 64).mean(1) + images.shape[0] // 3

    path = tmp_path / "sizes.pt2"
    export(Sizes(), path)
    images = random_images(7, 1)
    features = Extractor(find_extractor(f"pt2:{path}"), "cpu").features(images)["features"]
    torch.testing.assert_close(features, Sizes()(images))


@pytest.mark.parametrize("module", [nn.Identity(), nn.Flatten(0)])
def test_program_whose_output_is_no_row_an_image_is_refused(
    tmp_path: Path, module: nn.Module
) -> None:
    path = tmp_path / "shape.pt2"
    export(module, path)
    extractor = Extractor(find_extractor(f"pt2:{path}"), "cpu")
    with pytest.raises(InputError, match=r"2 images gave .*, expected \(2, D\)"):
        extractor.features(random_images(2, 1))


def test_images_that_a_program_does_not_take_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pt2"
    export(TinyFeatures(), path)
    extractor = Extractor(find_extractor(f"pt2:{path}"), "cpu")
    for images in (random_images(2, 3), random_images(2, 1, side=16)):
        with pytest.raises(InputError, match="does not take images of shape"):
            extractor.features(images)


def test_program_runs_on_the_device_it_is_loaded_to(tmp_path: Path) -> None:
    """An export holds the device that it was made on, also in its operators.

    "meta" stands for any other.
    """

    class OneHot(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            scale = torch.arange(64, device=images.device).float()
            return images.flatten(1).float() * scale

    path = tmp_path / "device.pt2"
    export(OneHot(), path)
    program = program_files.load_program(path, "meta")
    assert program(torch.zeros(3, 1, 8, 8, dtype=torch.uint8, device="meta")).device.type == "meta"


# --- archives that are none, or more than a program ----------------------------------------------


def canary_pickle(canary: Path) -> bytes:
    """Return a pickle that makes a file when it is loaded."""

    class Planted:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
            return open, (str(canary), "w")

    return pickle.dumps(Planted())


def canary_save(canary: Path) -> bytes:
    """Return the same in the format of torch.save."""

    class Planted:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
            return open, (str(canary), "w")

    buffer = io.BytesIO()
    torch.save(((Planted(),), {}), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def tiny_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "tiny.pt2"
    export(TinyFeatures(), path)
    return path


@pytest.fixture
def members(tiny_program: Path) -> Members:
    with zipfile.ZipFile(tiny_program) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def write_archive(path: Path, members: Members, repeated: Members | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for part in (repeated or {}, members):
            for name, content in part.items():
                archive.writestr(f"tiny/{name}", content)
    return path


def assert_refused(path: Path, canary: Path, said: str) -> None:
    """Expect a refusal; neither the check nor a use of the program makes the canary's file."""
    with pytest.raises(InputError, match=said) as caught:
        Extractor(find_extractor(f"pt2:{path}"), "cpu").features(random_images(2, 1))
    assert str(caught.value).startswith("--extractor")
    assert not canary.exists()


def test_archive_written_anew_is_taken(tmp_path: Path, members: Members) -> None:
    """So that the refusals below are for what each of them changes."""
    path = write_archive(tmp_path / "same.pt2", members)
    features = Extractor(find_extractor(f"pt2:{path}"), "cpu").features(random_images(2, 1))
    assert features["features"].shape == (2, 5)


@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
@pytest.mark.parametrize("name", ["data/sample_inputs/model.pt", "data/sample_inputs/Model.pt"])
@pytest.mark.reliability("G7", "programs with planted code that execute nothing")
def test_planted_sample_inputs_do_not_run(
    tmp_path: Path, members: Members, kind: str, name: str
) -> None:
    canary = tmp_path / "canary"
    members[name] = {"pickle": canary_pickle, "torch.save": canary_save}[kind](canary)
    assert_refused(write_archive(tmp_path / "planted.pt2", members), canary, "--extractor")


@pytest.mark.parametrize(
    "name",
    [
        "data/weights/model.pt",
        "data/constants/model.pt",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/aotinductor/model/code.so",
        "extra/code.py",
        "code.py",
        "version",
    ],
)
@pytest.mark.reliability("G7", "programs with planted code that execute nothing")
def test_members_that_no_extractor_needs_are_refused(
    tmp_path: Path, members: Members, name: str
) -> None:
    canary = tmp_path / "canary"
    members[name] = canary_pickle(canary)
    kind = Path(name).name
    if "obj" in kind:
        payload = {
            "path_name": kind,
            "is_param": False,
            "use_pickle": False,
            "tensor_meta": None,
        }
        config = {"config": {"planted": payload}}
        members["data/constants/model_constants_config.json"] = json.dumps(config).encode()
    path = write_archive(tmp_path / "planted.pt2", members)
    assert_refused(path, canary, f"holds tiny/{name}, which a feature extractor does not need")


@pytest.mark.parametrize("flag", [True, 1, "yes"])
@pytest.mark.reliability("G7", "programs with planted code that execute nothing")
def test_pickled_weights_are_refused(tmp_path: Path, members: Members, flag: object) -> None:
    canary = tmp_path / "canary"
    config = json.loads(members["data/weights/model_weights_config.json"])
    payload = next(iter(config["config"].values()))
    payload["use_pickle"] = flag
    members["data/weights/model_weights_config.json"] = json.dumps(config).encode()
    members[f"data/weights/{payload['path_name']}"] = canary_save(canary)
    assert_refused(write_archive(tmp_path / "planted.pt2", members), canary, "pickled tensors")


def edited(members: Members, edit: Callable[[Any], None]) -> Members:
    """Return the members with a model whose JSON was changed."""
    model = json.loads(members["models/model.json"])
    edit(model)
    return {**members, "models/model.json": json.dumps(model).encode()}


def code_for(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w')"


@pytest.mark.reliability("G7", "programs with planted code that execute nothing")
def test_size_expression_that_is_code_is_refused(tmp_path: Path, members: Members) -> None:
    canary = tmp_path / "canary"
    model = members["models/model.json"].decode()
    expressions = re.findall(r'"expr_str": ?"([^"]*)"', model)
    assert expressions
    members["models/model.json"] = model.replace(expressions[0], code_for(canary)).encode()
    assert_refused(write_archive(tmp_path / "code.pt2", members), canary, "as expr_str")


@pytest.mark.reliability("G7", "programs with planted code that execute nothing")
def test_guard_that_is_code_is_refused(tmp_path: Path, members: Members) -> None:
    canary = tmp_path / "canary"

    def edit(model: Any) -> None:
        model["guards_code"] = [code_for(canary)]

    path = write_archive(tmp_path / "code.pt2", edited(members, edit))
    assert_refused(path, canary, "as guards_code")


@pytest.mark.parametrize("name", ["images", "linear"])
@pytest.mark.reliability("G7", "programs with planted code that execute nothing")
def test_name_that_is_code_is_refused(tmp_path: Path, members: Members, name: str) -> None:
    canary = tmp_path / "canary"
    model = members["models/model.json"].decode()
    planted = json.dumps(f"{name}={code_for(canary)}")
    assert f'"{name}"' in model
    members["models/model.json"] = model.replace(f'"{name}"', planted).encode()
    assert_refused(write_archive(tmp_path / "code.pt2", members), canary, "holds")


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.add.Tensor.__call__",
        "_operator.call",
        "_operator.methodcaller",
        "math.fsum",
        "#namespace:op",
    ],
)
@pytest.mark.reliability("G7", "programs with planted code that execute nothing")
def test_operators_beyond_aten_are_refused(tmp_path: Path, members: Members, target: str) -> None:
    def edit(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][-1]["target"] = target

    path = write_archive(tmp_path / "target.pt2", edited(members, edit))
    assert_refused(path, tmp_path / "canary", f"holds '{target}' as target")


@pytest.mark.reliability("G7", "programs with planted code that execute nothing")
def test_argument_tree_that_imports_modules_is_refused(tmp_path: Path, members: Members) -> None:
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    context = json.dumps([{"__enum__": True, "fqn": "planted:Planted", "name": "X"}])
    leaf = {"type": None, "context": None, "children_spec": []}
    tree = [1, {"type": "builtins.dict", "context": context, "children_spec": [leaf]}]

    def edit(model: Any) -> None:
        call = model["graph_module"]["module_call_graph"][0]["signature"]
        call["in_spec"] = json.dumps(tree)

    path = write_archive(tmp_path / "tree.pt2", edited(members, edit))
    assert_refused(path, tmp_path / "canary", "as in_spec")


@pytest.mark.reliability("G7", "programs with planted code that execute nothing")
def test_range_of_a_name_that_is_code_is_refused(tmp_path: Path, members: Members) -> None:
    canary = tmp_path / "canary"

    def edit(model: Any) -> None:
        model["range_constraints"] = {code_for(canary): {"min_val": 1, "max_val": 9}}

    path = write_archive(tmp_path / "code.pt2", edited(members, edit))
    assert_refused(path, canary, "holds the key")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.reliability("G7", "programs with planted code that execute nothing")
def test_two_members_of_one_name_are_refused(tmp_path: Path, members: Members) -> None:
    """Python and torch may each read another of the two, so that a check of one says nothing."""
    canary = tmp_path / "canary"
    name = "data/sample_inputs/model.pt"
    path = write_archive(tmp_path / "twice.pt2", members, {name: canary_save(canary)})
    assert_refused(path, canary, "two members of one name")
    members["data/weights/WEIGHT_0".lower()] = members["data/weights/weight_0"]
    members["data/sample_inputs/MODEL.pt"] = members[name]
    assert_refused(write_archive(tmp_path / "case.pt2", members), canary, "two members of one name")


@pytest.mark.parametrize("text", ["1" * 100_000 + "x", "9**9**9**9", "s1" * 5000 + "!"])
def test_expressions_that_would_take_for_ever_are_refused_at_once(
    tmp_path: Path, members: Members, text: str
) -> None:
    def edit(model: Any) -> None:
        model["planted"] = {"expr_str": text}

    path = write_archive(tmp_path / "slow.pt2", edited(members, edit))
    started = time.monotonic()
    assert_refused(path, tmp_path / "canary", "as expr_str")
    assert time.monotonic() - started < 2


def test_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(len(content) for content in members.values())
    path = write_archive(tmp_path / "large.pt2", members)
    monkeypatch.setattr(program_files, "MAX_PROGRAM_BYTES", total)
    find_extractor(f"pt2:{path}")
    monkeypatch.setattr(program_files, "MAX_PROGRAM_BYTES", total - 1)
    assert_refused(path, tmp_path / "canary", f"unpacks to more than {total - 1} bytes")


def test_archive_that_takes_more_memory_than_disk_is_refused(
    tmp_path: Path, members: Members
) -> None:
    path = tmp_path / "compressed.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"tiny/{name}", content)
    assert_refused(path, tmp_path / "canary", f"unpacks to more than {path.stat().st_size} bytes")
    tensors = io.BytesIO()
    torch.save(torch.zeros(2**20), tensors)
    small = io.BytesIO()
    with zipfile.ZipFile(tensors) as saved, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as to:
        for name in saved.namelist():
            to.writestr(name, saved.read(name))
    members["data/sample_inputs/model.pt"] = small.getvalue()
    path = write_archive(tmp_path / "inner.pt2", members)
    assert_refused(path, tmp_path / "canary", "unpacks to more than")


def test_files_that_are_no_archives_are_refused(tmp_path: Path, tiny_program: Path) -> None:
    content = tiny_program.read_bytes()
    contents = {
        "empty": b"",
        "text": b"not a zip",
        "start": content[: len(content) // 2],
        "end": content[len(content) // 2 :],
        "pickle": canary_pickle(tmp_path / "canary"),
        "save": canary_save(tmp_path / "canary"),
    }
    for name, wrong in contents.items():
        path = tmp_path / f"{name}.pt2"
        path.write_bytes(wrong)
        assert_refused(path, tmp_path / "canary", "--extractor")
    with pytest.raises(InputError, match="no file"):
        find_extractor(f"pt2:{tmp_path / 'missing.pt2'}")
    with pytest.raises(InputError, match="no file"):
        find_extractor("pt2:")


def test_damaged_archives_are_refused(tmp_path: Path, members: Members) -> None:
    changes: dict[str, Members] = {
        "json": {**members, "models/model.json": b"{"},
        "deep": {**members, "models/model.json": b"[" * 100_000},
        "empty": {**members, "models/model.json": b"{}"},
        "weights": {k: v for k, v in members.items() if not k.startswith("data/weights")},
        "model": {k: v for k, v in members.items() if not k.startswith("models/")},
    }
    for name, changed in changes.items():
        path = write_archive(tmp_path / f"{name}.pt2", changed)
        assert_refused(path, tmp_path / "canary", r"^--extractor: .*pt2")


# --- Inception -----------------------------------------------------------------------------------


def test_inception_loads_from_a_file_of_the_right_hash(inception_weights: Path) -> None:
    source = find_extractor(INCEPTION, str(inception_weights))
    assert source.is_inception
    assert source.sha256 == sha256_file(inception_weights)
    extractor = Extractor(source, "cpu")
    assert (extractor.feature_layer, extractor.logits_layer) == ("2048", "logits_unbiased")
    state = torch.load(inception_weights, weights_only=True)
    for name, value in extractor._network.state_dict().items():
        assert torch.equal(value, state[name])
    features = extractor.features(random_images(2, 3, side=32))
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "2048": (2, 2048),
        "logits_unbiased": (2, 1008),
    }
    assert all(torch.isfinite(value).all() for value in features.values())


def test_inception_is_found_in_torch_hubs_place(
    inception_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = checkpoints_folder() / extractor_files.INCEPTION_FILE
    place.parent.mkdir(parents=True)
    place.symlink_to(inception_weights)
    assert find_extractor(INCEPTION).path == place


def test_inception_gets_grey_images_as_rgb(inception_weights: Path) -> None:
    extractor = Extractor(find_extractor(INCEPTION, str(inception_weights)), "cpu")
    grey = random_images(2, 1, side=32)
    found = extractor.features(grey)
    expected = extractor.features(grey.repeat(1, 3, 1, 1))
    for layer, values in expected.items():
        torch.testing.assert_close(found[layer], values)
    red = torch.cat([grey, torch.zeros_like(grey), torch.zeros_like(grey)], 1)
    assert not torch.allclose(found["2048"], extractor.features(red)["2048"])


def test_inception_with_other_channels_is_refused(inception_weights: Path) -> None:
    extractor = Extractor(find_extractor(INCEPTION, str(inception_weights)), "cpu")
    with pytest.raises(InputError, match="does not take images of shape"):
        extractor.features(random_images(2, 4, side=32))


# --- torch-fidelity's other extractors
# -------------------------------------------------------------


def test_published_weights_are_those_of_torch_fidelity() -> None:
    """Its table of CLIP is the truth; of VGG16 torchvision's name of the file has eight digits."""
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    from torchvision.models import VGG16_Weights

    assert PUBLISHED.keys() == {*MODEL_METADATA, "vgg16"}
    for name, weights in PUBLISHED.items():
        extractor = FEATURE_EXTRACTORS_REGISTRY[name]
        assert weights.layer == extractor.get_default_feature_layer_for_metric("fid")
        if name != "vgg16":
            assert weights.sha256 == MODEL_METADATA[name]["hash"]
            assert weights.url == MODEL_URLS[name]
            assert weights.file == f"{name}-{weights.sha256}.pt"
    vgg = PUBLISHED["vgg16"]
    assert vgg.url == VGG16_Weights.IMAGENET1K_V1.url
    assert vgg.file == f"vgg16-{vgg.sha256[:8]}.pth" == vgg.url.rpartition("/")[2]


@pytest.mark.parametrize("name", ["clip-vit-b-32", "vgg16"])
def test_other_weights_than_the_published_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        InputError, match=rf"no {name} weights at .*{PUBLISHED[name].file}; get http"
    ):
        find_extractor(name)
    path = tmp_path / "weights.pth"
    path.write_bytes(b"other")
    with pytest.raises(InputError, match="is not the expected file"):
        find_extractor(name, str(path))


def test_vgg_is_read_as_tensors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a file of the right hash is looked at before torch-fidelity unpickles it."""

    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    path = tmp_path / "vgg16.pth"
    torch.save({"x": Payload()}, path)
    published = dataclasses.replace(PUBLISHED["vgg16"], sha256=sha256_file(path))
    monkeypatch.setitem(PUBLISHED, "vgg16", published)
    with pytest.raises(InputError, match="is no file of tensors"):
        Extractor(find_extractor("vgg16", str(path)), "cpu")
    assert not (tmp_path / "ran").exists()


def test_clip_loads_from_a_file_of_the_right_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CLIP of one tiny block, in the format of the published ones."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = CLIPVisual(6, 8, 1, 64, 4).visual
            self.text_projection = nn.Parameter(torch.zeros(3, 6))

        def forward(self, images: Tensor) -> Tensor:
            return self.visual(images) + self.text_projection.sum()

    tiny = Tiny().half().float().eval()  # the published weights are of half precision
    path = tmp_path / "clip.pt"
    torch.jit.trace(tiny, torch.zeros(1, 3, 8, 8)).save(path)
    published = dataclasses.replace(PUBLISHED["clip-vit-b-32"], sha256=sha256_file(path))
    monkeypatch.setitem(PUBLISHED, "clip-vit-b-32", published)
    source = find_extractor("clip-vit-b-32", str(path))
    extractor = Extractor(source, "cpu")
    images = random_images(2, 3)
    found = extractor.features(images)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.no_grad():
        expected = tiny.visual((images.float() / 255 - mean) / std)
    torch.testing.assert_close(found["clip"], expected, atol=1e-4, rtol=1e-4)
    assert (source.frechet_name, source.label) == ("fd", "clip-vit-b-32")
    grey = images[:, :1]
    torch.testing.assert_close(
        extractor.features(grey), extractor.features(grey.repeat(1, 3, 1, 1))
    )
