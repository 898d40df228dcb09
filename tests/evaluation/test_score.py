"""Scores of images that exist.

The evaluator's numbers, torch-fidelity's numbers, and no harm by files of others.
"""

import io
import json
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import eval_fid
import train
from tests.support.runs import train_arguments
from uvit_dia.data import archives
from uvit_dia.evaluation.metrics import frechet_distance
from uvit_dia.evaluation.statistics import read_statistics
from uvit_dia.system.errors import InputError

NUMBERS = (
    "value",
    "fd",
    "kd",
    "kd_std",
    "precision",
    "recall",
    "floor",
    "floor_std",
    "gaussian_mark",
)


class Probe(nn.Module):
    """Five features of 8x8 RGB images."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(192, 5, generator=generator) / 192)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 5) features of (B, 3, 8, 8) uint8 images."""
        return torch.tanh((images.float() - 127.5).flatten(1) @ self.weight)


def pixels(count: int, channels: int = 3, seed: int = 0, side: int = 8) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def write_pngs(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture.save(folder / f"{index:04d}.png")
    return folder


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("program") / "probe.pt2"
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = (torch.zeros(2, 3, 8, 8, dtype=torch.uint8),)
    exported = torch.export.export(Probe(), example, dynamic_shapes=({0: batch},))
    torch.export.save(exported, path)
    return f"--extractor=pt2:{path}"


@pytest.fixture
def scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict]:
    """Return a function that calls eval_fid.py in an empty folder, and returns its line."""
    monkeypatch.chdir(tmp_path)

    def call(*flags: str) -> dict:
        capsys.readouterr()
        eval_fid.main(["eval_fid.py", *flags])
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 1
        return json.loads(lines[0]) if lines else {}

    return call


# ---------------------------------------------------------------- numbers


def test_numbers_are_those_of_the_checkpoint_path(
    scored: Callable[..., dict], tmp_path: Path
) -> None:
    """The same images from a run, from an .npz, from PNGs and from a zip: the same bits."""
    from uvit_dia import load

    few = {"sample.num_steps": 4, "sample.batch_size": 16, "train.num_steps": 2}
    train.main(["train.py", *train_arguments(tmp_path / "run", few)])
    wanted = scored("--checkpoint=run", "--num_images=96", "--seed=1")
    images = load("run").sample(96, seed=1, output_type="np")
    assert isinstance(images, np.ndarray)
    np.savez_compressed("images.npz", arr_0=images)
    write_pngs(Path("pngs"), images)
    write_zip(Path("pngs.zip"), {p.name: p.read_bytes() for p in Path("pngs").iterdir()})
    for source in ("images.npz", "pngs", "pngs.zip"):
        flags = [f"--images={source}", "--reference=digits_uvit_dia", "--batch_size=16"]
        found = scored(*flags)
        for name in NUMBERS:
            assert found[name] == wanted[name], (source, name)
        assert found["reference_sha256"] == wanted["reference_sha256"]
        assert found["images_sha256"]
        assert "nfe" not in found and "sampler" not in found
    again = scored("--images=images.npz", "--reference=run", "--batch_size=16")
    assert again["value"] == wanted["value"]
    with pytest.raises(InputError, match="is a run; --checkpoint run samples from it"):
        scored("--images=run", "--reference=digits_uvit_dia")


def test_numbers_are_those_of_torch_fidelity(
    scored: Callable[..., dict], tmp_path: Path, program: str
) -> None:
    """Its own command's function on the same PNGs, with an extractor that it loads itself."""
    from torch_fidelity import calculate_metrics, register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Truth(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
            super().__init__(name, features_list)
            self.probe = Probe()

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (self.probe(images).detach(),)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "features"

    register_feature_extractor("truth-of-test-score", Truth)
    images = write_pngs(tmp_path / "images", pixels(60, seed=1) // 2)
    reference = write_pngs(tmp_path / "reference", pixels(80, seed=2))
    truth = calculate_metrics(
        input1=str(images),
        input2=str(reference),
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=60,
        save_cpu_ram=True,
        feature_extractor="truth-of-test-score",
        cuda=False,
        verbose=False,
        cache=False,
    )
    found = scored(f"--images={images}", f"--reference={reference}", program)
    names = {
        "fd": "frechet_inception_distance",
        "kd": "kernel_inception_distance_mean",
        "precision": "precision",
        "recall": "recall",
    }
    for ours, theirs in names.items():
        assert found[ours] == pytest.approx(truth[theirs], rel=1e-6, abs=1e-9), ours
    assert found["extractor"] == "pt2" and found["num_images"] == 60


def test_grey_images_fit_an_extractor_of_colour_and_of_grey(
    scored: Callable[..., dict], tmp_path: Path, program: str
) -> None:
    grey = pixels(70, channels=1)
    np.savez("grey.npz", arr_0=grey)
    np.savez("rgb.npz", arr_0=grey.repeat(3, axis=-1))
    np.savez("colour.npz", arr_0=pixels(70, seed=3))
    np.savez("reference.npz", labels=np.zeros(3), arr_0=pixels(90, channels=1, seed=1))
    for extractor in (program, "--extractor=digits"):
        found = [
            scored(f"--images={name}.npz", "--reference=reference.npz", extractor)["value"]
            for name in ("grey", "rgb")
        ]
        assert found[0] == found[1]
    scored("--images=colour.npz", "--reference=reference.npz", program)
    with pytest.raises(InputError, match="does not take images of shape"):
        scored("--images=colour.npz", "--reference=reference.npz", "--extractor=digits")


# ---------------------------------------------------------------- statistics


def test_statistics_stand_for_their_images(
    scored: Callable[..., dict], tmp_path: Path, program: str
) -> None:
    np.savez("images.npz", arr_0=pixels(60, seed=1) // 2)
    np.savez("reference.npz", arr_0=pixels(80, seed=2))
    images = scored("--images=images.npz", "--reference=reference.npz", program)
    assert scored("--reference=reference.npz", "--save_stats=saved.npz", program) == {}
    found = scored("--images=images.npz", "--reference=saved.npz", program)
    assert found["value"] == images["value"]
    for name in ("reference", "reference_sha256", "reference_num_images", "comparable"):
        assert found[name] == images[name], name
    assert "kd" not in found and found["floor"] is None
    saved = read_statistics(Path("saved.npz"))
    with torch.no_grad():
        features = Probe()(torch.from_numpy(pixels(80, seed=2)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(saved.mu, features.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(saved.sigma, np.cov(features.T), rtol=1e-5, atol=1e-7)
    assert frechet_distance(features, saved) == pytest.approx(0, abs=1e-6)


def test_statistics_of_pytorch_fid_are_read_with_a_warning(
    scored: Callable[..., dict], tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("images.npz", arr_0=pixels(60, seed=1))
    scored("--reference=images.npz", "--save_stats=saved.npz", program)
    ours = scored("--images=images.npz", "--reference=saved.npz", program)
    with np.load("saved.npz") as saved:
        np.savez("theirs.npz", mu=saved["mu"].astype(np.float64), sigma=saved["sigma"])
    eval_fid.main(["eval_fid.py", "--images=images.npz", "--reference=theirs.npz", program])
    told = capsys.readouterr()
    theirs = json.loads(told.out)
    assert theirs["value"] == pytest.approx(ours["value"], abs=1e-6)
    assert theirs["comparable"] is False and theirs["reference_num_images"] is None
    assert "resized in another way" in theirs["reference_note"]
    assert "resized in another way" in told.err


# ---------------------------------------------------------------- files of others


def saved_statistics(path: Path, **changes: object) -> Path:
    arrays: dict[str, Any] = {"mu": np.zeros(5, np.float32), "sigma": np.eye(5)}
    arrays |= changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def npz_of(path: Path, content: bytes) -> Path:
    return write_zip(path, {"arr_0.npy": content})


def link_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("link.png")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return path


def encrypted_zip(path: Path) -> Path:
    write_zip(path, {"a.png": b"x"})
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(content)
    return path


def doubled_zip(path: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"1")
        archive.writestr("a.png", b"2")
    return path


def header_npz(path: Path, shape: tuple[int, ...]) -> Path:
    """An array that says to be larger than it is."""
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return npz_of(path, buffer.getvalue() + b"\0" * 100)


def objects_npz(path: Path) -> Path:
    np.savez(path, arr_0=np.array([{"a": 1}], dtype=object))
    return path


def bomb(path: Path) -> Path:
    return write_zip(path, {"a.png": b"\0" * (archives.FREE_BYTES + 1)})


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (lambda p: p.mkdir(), "no images (.png, .jpg, ...) in"),
    "a.txt": (lambda p: p.write_text("x"), "is none of a folder of images, an .npz"),
    "text.zip": (lambda p: p.write_text("x"), "is no readable zip archive"),
    "empty.zip": (lambda p: write_zip(p, {}), "empty.zip is empty"),
    "other.zip": (lambda p: write_zip(p, {"a.txt": b"x"}), "holds no images"),
    "heic.zip": (lambda p: write_zip(p, {"a.heic": b"x"}), "a kind that is not read"),
    "up.zip": (lambda p: write_zip(p, {"../a.png": b"x"}), "'../a.png', which leads out"),
    "root.zip": (lambda p: write_zip(p, {"/a.png": b"x"}), "'/a.png', which leads out"),
    "back.zip": (lambda p: write_zip(p, {"..\\a.png": b"x"}), "which leads out"),
    "link.zip": (link_zip, "'link.png', a link"),
    "locked.zip": (encrypted_zip, "which is encrypted"),
    "twice.zip": (doubled_zip, "holds 2 files called 'a.png'"),
    "bomb.zip": (bomb, "would unpack to 1048577"),
    "bomb.npz": (bomb, "would unpack to 1048577"),
    "empty.npz": (lambda p: write_zip(p, {}), "empty.npz is empty"),
    "text.npz": (lambda p: p.write_text("x"), "is no readable zip archive"),
    "stray.npz": (lambda p: write_zip(p, {"a.png": b"x"}), "'a.png', which is no array"),
    "magic.npz": (lambda p: npz_of(p, b"nonsense" * 9), "arr_0.npy is no array"),
    "short.npz": (lambda p: header_npz(p, (100, 8, 8, 1)), "is not as long as it says"),
    "huge.npz": (lambda p: header_npz(p, (2**40, 8, 8, 3)), "is not as long as it says"),
    "objects.npz": (objects_npz, "holds pickled objects; none are read"),
    "floats.npz": (
        lambda p: np.savez(p, arr_0=np.zeros((9, 8, 8, 3))),
        "arr_0 float64[9, 8, 8, 3]",
    ),
    "chw.npz": (lambda p: np.savez(p, np.zeros((9, 3, 8, 8), np.uint8)), "uint8 (N, H, W, C)"),
    "none.npz": (lambda p: np.savez(p, np.zeros((0, 8, 8, 3), np.uint8)), "must hold one array"),
    "two.npz": (lambda p: np.savez(p, pixels(4), pixels(4)), "must hold one array of images"),
    "cut.npz": (lambda p: cut(saved_statistics(p), 300), "is no readable zip archive"),
}
BAD_STATISTICS: dict[str, tuple[dict[str, object], str]] = {
    "mu.npz": ({"sigma": None}, "must hold mu (D,) and sigma (D, D)"),
    "shape.npz": ({"sigma": np.eye(4)}, "must hold mu (D,) and sigma (D, D)"),
    "texts.npz": ({"mu": np.array(["a"] * 5)}, "must hold mu (D,) and sigma (D, D)"),
    "nan.npz": ({"mu": np.full(5, np.nan)}, "numbers that are not finite"),
    "skew.npz": ({"sigma": np.arange(25.0).reshape(5, 5)}, "not symmetric"),
    "facts.npz": ({"uvit_dia": np.frombuffer(b"[]", np.uint8)}, "does not say whose it is"),
    "more.npz": ({"uvit_dia": np.frombuffer(b'{"x": 1}', np.uint8)}, "does not say whose it is"),
}


def refusal(*flags: str) -> str:
    """Return the one line in which a command line is refused; nothing may be written."""
    before = sorted(map(str, Path.cwd().rglob("*")))
    with pytest.raises(InputError) as caught:
        eval_fid.main(["eval_fid.py", *flags])
    message = str(caught.value)
    assert "\n" not in message
    assert sorted(map(str, Path.cwd().rglob("*"))) == before
    return message


@pytest.mark.parametrize("flag", ["--images", "--reference"])
@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.reliability("G5", "malformed inputs refused in one line")
def test_bad_files_are_refused(
    name: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(archives, "FREE_BYTES", 2**20)  # a small bomb is quick to make
    make, said = BAD_FILES[name]
    make(tmp_path / name)
    other = "--reference=digits_uvit_dia" if flag == "--images" else "--save_stats=x.npz"
    message = refusal(f"{flag}={name}", other, "--extractor=digits")
    assert said in message, message
    assert message.startswith(flag)


@pytest.mark.parametrize("name", BAD_STATISTICS)
@pytest.mark.reliability("G5", "malformed inputs refused in one line")
def test_bad_statistics_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes, said = BAD_STATISTICS[name]
    saved_statistics(tmp_path / name, **changes)
    np.savez("images.npz", arr_0=pixels(9))
    message = refusal("--images=images.npz", f"--reference={name}", "--extractor=digits")
    assert said in message, message


def test_what_does_not_fit_is_refused_before_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", arr_0=pixels(70))
    np.savez("few.npz", arr_0=pixels(4))
    saved_statistics(tmp_path / "five.npz")
    saved_statistics(tmp_path / "four.npz", mu=np.zeros(4), sigma=np.eye(4))
    eval_fid.main(["eval_fid.py", "--reference=images.npz", "--save_stats=ours.npz", program])
    mixed = write_pngs(tmp_path / "mixed", pixels(3))
    Image.fromarray(pixels(1, side=9)[0]).save(mixed / "x.png")
    broken = write_pngs(tmp_path / "broken", pixels(3))
    (broken / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    wide = tmp_path / "wide"
    wide.mkdir()
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(wide / "x.png")
    cases = [
        (["--images=images.npz", "--reference=four.npz", program], "statistics of 4 features; the"),
        (
            ["--images=images.npz", "--reference=ours.npz", "--extractor=digits"],
            "of the extractor pt2",
        ),
        (["--images=images.npz", "--reference=ours.npz"], "--extractor is missing: ours.npz holds"),
        (["--images=few.npz", "--reference=images.npz", program], "--images: 4 images; pt2 has 5"),
        (["--images=images.npz", "--reference=few.npz", program], "--reference: 4 images; pt2 has"),
        (["--images=mixed", "--reference=images.npz", program], "9x9; the first image has 8x8"),
        (["--images=broken", "--reference=images.npz", program], "0001.png is no readable image"),
        (["--images=wide", "--reference=images.npz", program], "9x8; only square images"),
        (["--images=five.npz", "--reference=images.npz", program], "holds statistics; they go to"),
    ]
    for flags, said in cases:
        message = refusal(*flags)
        assert said in message, message
        assert "data." not in message and "model." not in message


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--images=x"], "--reference is missing"),
        (["--reference=digits_uvit_dia"], "--images is missing"),
        (["--images=x", "--reference=y", "--checkpoint=run"], "--checkpoint goes with"),
        (["--images=x", "--reference=y", "--seed=3"], "--seed goes with --checkpoint"),
        (["--images=x", "--reference=y", "--nouse_ema"], "--use_ema goes with --checkpoint"),
        (
            ["--images=nowhere", "--reference=digits_uvit_dia"],
            "--images: no file or folder nowhere",
        ),
        (["--images=x", "--reference=digit_uvit_dia"], "did you mean digits_uvit_dia?"),
        (["--images=x", "--reference=nowhere.npz"], "--reference: no file or folder nowhere.npz"),
        (["--images=x", "--reference=nowhere.py"], "cannot use nowhere.py"),
        (["--images=x", "--reference=y", "--batch_size=0"], "--batch_size 0"),
        (["--reference=y", "--save_stats=s.npy"], "--save_stats s.npy: must be an .npz"),
        (["--reference=y", "--save_stats=no/s.npz"], "--save_stats no/s.npz: must be"),
        (["--images=x", "--reference=digits_uvit_dia", "--extractor=no"], "--images: no file"),
    ],
    ids=str,
)
def test_command_lines_that_say_too_little_or_too_much(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refusal(*flags)


# ---------------------------------------------------------------- at once

CALLS = """
import sys
from uvit_dia.evaluation.command import main as evaluate
from uvit_dia.sampling.command import main as sample
from uvit_dia.system.errors import InputError
for words in {cases!r}:
    main = {{"eval": evaluate, "sample": sample}}[words[0]]
    try:
        main(words)
    except InputError as error:
        print("torch" in sys.modules, error)
"""


def test_wrong_paths_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    np.savez(tmp_path / "images.npz", arr_0=pixels(9))
    write_zip(tmp_path / "up.zip", {"../a.png": b"x"})
    saved_statistics(tmp_path / "nan.npz", mu=np.full(5, np.nan))
    (tmp_path / "wrong.pth").write_bytes(b"x")
    run = tmp_path / "run"
    (run / "checkpoints" / "step_00000004").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    scores = ["--images=images.npz", "--reference=digits_uvit_dia"]
    cases = [
        ["eval", "--checkpoint=nowhere"],
        ["eval", "--checkpoint=images.npz"],
        ["sample", "--checkpoint=nowhere"],
        ["sample", "--checkpoint=run", "--output=x.jpg"],
        ["sample", "--checkpoint=run", "--output=no/grid.png"],
        ["sample", "--checkpoint=run", "--output=images.npz/folder"],
        ["eval", *scores, "--extractor=inceptoin"],
        ["eval", *scores, "--extractor=pt2:nowhere"],
        ["eval", *scores, "--extractor=inception-v3-compat", "--weights=wrong.pth"],
        ["eval", *scores, "--extractor=vgg16", "--weights=wrong.pth"],
        ["eval", *scores, "--extractor=clip-vit-b-32", "--weights=nowhere"],
        ["eval", "--images=images.npz", "--reference=nowhere"],
        ["eval", "--images=images.npz", "--reference=up.zip"],
        ["eval", "--images=images.npz", "--reference=nan.npz"],
        ["eval", "--images=up.zip", "--reference=digits_uvit_dia"],
        ["eval", "--reference=digits_uvit_dia", "--save_stats=no/x.npz"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", CALLS.format(cases=cases)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = done.stdout.splitlines()
    assert len(told) == len(cases), done.stdout
    assert all(line.startswith("False --") or "wrong.pth is not" in line for line in told), told
    assert not any(line.startswith("True") for line in told), told
