"""Classifiers of X-rays: measures against others' formulas, runs, and Grad-CAM of runs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from examples import planted_digits, xray, xray_cam
from examples.planted_digits import make_arrays
from examples.saved_runs import open_xrays
from examples.training import fit
from examples.xray_metrics import measure
from tests.support.documents import commands

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--depth", "8", "--batch_size", "8", "--num_epochs", "1"]


def data_file(folder: Path, *, one_each: bool = False) -> str:
    path = folder / "planted.npz"
    np.savez(path, **make_arrays(16, 8, one_each=one_each))
    return str(path)


def record_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def check_refused(
    main: Callable[[list[str]], None],
    flags: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Check that a command ends with one line and exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(flags)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(main.__module__.removeprefix("examples.") + ": ")
    assert said in error
    assert error.count("\n") == 1


# ---------------------------------------------------------------- measures


def test_measures_of_findings_are_medmnists() -> None:
    """MedMNIST's evaluator takes means over labels of AUC, and of accuracy at 0.5."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (40, 4), generator=draw)
    labels[:, 3] = 0  # a finding that no test image has
    logits = torch.randn(40, 4, generator=draw) + labels
    found = measure(logits, labels, "abcd")
    scores, truth = logits.sigmoid().numpy(), labels.numpy()
    accuracies = [accuracy_score(truth[:, k], scores[:, k] > 0.5) for k in range(4)]
    aucs = [roc_auc_score(truth[:, k], scores[:, k]) for k in range(3)]
    assert found["accuracy"] == pytest.approx(100 * np.mean(accuracies))
    assert found["mean_auc"] == pytest.approx(np.mean(aucs))
    for name, accuracy, auc in zip("abcd", accuracies, [*aucs, None], strict=True):
        of_class = found["per_class"][name]
        assert of_class["accuracy"] == pytest.approx(100 * accuracy)
        assert of_class["auc"] == (None if auc is None else pytest.approx(auc))
    assert [each["num_images"] for each in found["per_class"].values()] == [
        *labels.sum(dim=0).tolist()
    ]


def test_measures_of_classes_are_recall_and_one_against_the_others() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (40,), generator=draw)
    logits = torch.randn(40, 4, generator=draw) + F.one_hot(labels, 4)
    found = measure(logits, labels, "abcd")
    scores, guesses = logits.softmax(dim=1).numpy(), logits.argmax(dim=1)
    recalls = recall_score(labels, guesses, labels=[0, 1, 2], average=None)
    for k, name in enumerate("abc"):
        of_class = found["per_class"][name]
        assert of_class["accuracy"] == pytest.approx(100 * recalls[k])
        assert of_class["auc"] == pytest.approx(roc_auc_score(labels == k, scores[:, k]))
    assert found["per_class"]["d"] == {"accuracy": None, "auc": None, "num_images": 0}
    assert found["accuracy"] == pytest.approx(100 * accuracy_score(labels, guesses))


# ---------------------------------------------------------------- runs


def task_of(path: str, *words: str) -> xray.XrayClassification:
    return xray.make_task(xray.parser().parse_args(["--workdir", "", "--path", path, *words]))


def test_the_loss_is_each_findings_own(tmp_path: Path) -> None:
    task = task_of(data_file(tmp_path), *SMALL)
    images, labels = task.images.normalised(task.xrays.train.images), task.xrays.train.labels
    assert labels is not None
    model = task.model.eval()
    chance = model(images).sigmoid().double()
    expected = -torch.where(labels.bool(), chance, 1 - chance).log().mean()
    assert task.loss(model, (images, labels)).item() == pytest.approx(expected.item(), rel=1e-5)
    classes = task_of(data_file(tmp_path, one_each=True), *SMALL)
    labels = classes.xrays.train.labels
    logits = classes.model.eval()(images)
    assert labels is not None
    expected = F.cross_entropy(logits, labels)
    assert classes.loss(classes.model, (images, labels)).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("one_each", [False, True])
def test_a_run_records_each_class_and_goes_on_where_it_stopped(
    tmp_path: Path, one_each: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data_file(tmp_path, one_each=one_each)
    words = ["--path", path, *SMALL[:-1], "2", "--unit", "dia_lstm"]
    xray.main(["--workdir", str(tmp_path / "whole"), *words])

    class Killed(xray.XrayClassification):
        def batches(self, epoch: int, *rest: object) -> object:
            if epoch:
                raise KeyboardInterrupt
            return super().batches(epoch, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(xray, "XrayClassification", Killed)
        xray.main(["--workdir", str(tmp_path / "cut"), *words])
    assert not (tmp_path / "cut" / "record.json").exists()
    xray.main(["--workdir", str(tmp_path / "cut"), *words])
    whole, cut = (record_of(tmp_path / name) for name in ("whole", "cut"))
    assert {**whole, "seconds": 0} == {**cut, "seconds": 0}
    assert whole["unit_weights"] > 0
    assert list(whole["per_class"]) == [f"digit {index}" for index in range(10)]
    assert whole["num_test"] == 8


def test_findings_are_learnt(tmp_path: Path) -> None:
    """A bright picture has the first finding, a striped one the second: AUC goes from 0.5 to 1."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, (96, 2))
    pictures = draw.normal(60, 10, (96, 16, 16)) + 80 * labels[:, :1, None]
    pictures += 40 * labels[:, 1:, None] * (np.arange(16) % 4 < 2)
    pixels = pictures.clip(0, 255).astype(np.uint8)
    arrays = {
        "train_images": pixels[:64],
        "train_labels": labels[:64],
        "test_images": pixels[64:],
        "test_labels": labels[64:],
    }
    np.savez(tmp_path / "two.npz", **arrays)
    words = ["--path", str(tmp_path / "two.npz"), "--unit", "dia_lstm", "--no_augmentation"]
    words += ["--depth", "8", "--batch_size", "16", "--num_epochs", "8", "--learning_rate", "0.01"]
    xray.main(["--workdir", str(tmp_path / "run"), *words])
    found = record_of(tmp_path / "run")
    assert [each["auc"] for each in found["per_class"].values()] == pytest.approx([1, 1], abs=0.02)
    assert found["accuracy"] > 90


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch_size", "17"], "--batch_size 17 is larger than the 16 training images"),
        (["--img_size", "7"], "--img_size 7: allowed is 8 to 2048"),
        (["--masks", "m"], "leave --img_size, --in_chans and --masks out"),
        (["--unit", "dia"], "--unit dia: unit must be one of"),
        (["--model", "tv_resnet18"], "takes images of 3 channels, not 1"),
    ],
)
def test_wrong_flags(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--path", data_file(tmp_path), "--workdir", str(tmp_path / "run"), *SMALL, *words]
    check_refused(xray.main, flags, said, capsys)


# ---------------------------------------------------------------- Grad-CAM of runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data and two runs."""
    pytest.importorskip("pytorch_grad_cam")
    folder = tmp_path_factory.mktemp("runs")
    path = data_file(folder)
    for name, words in (("none", []), ("shared", ["--unit", "dia_lstm"])):
        xray.main(["--workdir", str(folder / name), "--path", path, *SMALL, *words])
    return folder


def flags_of(runs: Path, output: Path, *words: str) -> list[str]:
    return ["--path", str(runs / "planted.npz"), "--output", str(output), *words]


def test_runs_are_drawn_side_by_side(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "cam.png"
    folders = [str(runs / "none"), str(runs / "shared")]
    xray_cam.main(flags_of(runs, output, "--num_images", "2", *folders))
    with Image.open(output) as image:
        assert image.width > image.height
    record = json.loads(output.with_suffix(".json").read_text())
    assert [record[name]["unit"] for name in ("none", "shared")] == ["none", "dia_lstm"]
    task = open_xrays(runs / "shared", str(runs / "planted.npz"), "")
    findings = xray_cam.findings_of(task)
    labels = task.xrays.test.labels
    assert labels is not None
    assert record["shared"]["num_findings"] == len(findings) == int(labels.sum())
    shares = []
    for finding in findings:  # by one, from the definition of the share
        (heat,) = xray_cam.maps_of(task, [finding], "norm")
        inside = heat[task.xrays.mask_of(finding.row, finding.label).numpy()].sum()
        shares += [inside / heat.sum()] if heat.sum() else []
    assert record["shared"]["mean_share_inside"] == pytest.approx(np.mean(shares), rel=1e-4)
    assert record["shared"]["mean_area_inside"] == pytest.approx(16**2 / 48**2)


def test_findings_without_heat_or_mask_count_apart() -> None:
    heat = np.zeros((3, 4, 4), dtype=np.float32)
    masks = np.zeros((3, 4, 4), dtype=bool)
    heat[0, 0], heat[2] = 1, 1
    masks[0, :, 0], masks[1, :2] = True, True  # of the second no heat, of the third no mask
    assert xray_cam.heat_in_masks(heat, masks) == {
        "mean_share_inside": 0.25,
        "mean_area_inside": pytest.approx(6 / 16),
        "num_findings": 2,
        "num_without_heat": 1,
    }


def test_a_run_is_opened_with_its_weights(runs: Path) -> None:
    task = open_xrays(runs / "shared", str(runs / "planted.npz"), "")
    found = task.evaluate(task.model.eval(), torch.device("cpu"))
    assert found["per_class"] == record_of(runs / "shared")["per_class"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none"], ""),
        (["none", "--layer", "stage9"], "there is no layer 'stage9'; did you mean stage3?"),
        (["none", "--num_images", "1000"], "--num_images 1000: allowed is 1 to"),
        (["none", "none"], "two folders have the same name"),
        (["."], "is no run of examples.xray: it holds no config.json"),
        (["none", "--output", "cam.jpg"], "--output cam.jpg: must be a .png"),
        (["none", "--path", "other.npz"], "was trained on other data (its train_sha256)"),
        (["empty"], "empty holds no run that has ended an epoch"),
    ],
)
def test_what_cannot_be_drawn(
    runs: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(runs)
    np.savez("other.npz", **make_arrays(16, 8, seed=1))
    (runs / "empty").mkdir(exist_ok=True)
    (runs / "empty" / "config.json").write_text((runs / "none" / "config.json").read_text())
    flags = flags_of(Path(), tmp_path / "cam.png", "--num_images", "1", *words)
    if not said:
        xray_cam.main(flags)
        return
    check_refused(xray_cam.main, flags, said, capsys)


@pytest.mark.parametrize("model", ["vit_tiny", "tv_resnet18"])
def test_other_backbones_have_a_layer_to_draw(model: str, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_grad_cam")
    arrays = make_arrays(2, 2, one_each=True)
    channels = 3 if model == "tv_resnet18" else 1
    for part in ("train", "test"):
        arrays[f"{part}_images"] = np.repeat(arrays[f"{part}_images"][..., None], channels, axis=3)
    np.savez(tmp_path / "set.npz", **arrays)
    words = ["--model", model, "--unit", "dia_lstm_light", "--batch_size", "2"]
    task = task_of(str(tmp_path / "set.npz"), *words)
    maps = xray_cam.maps_of(task, xray_cam.findings_of(task), "")
    assert maps.shape == (2, 48, 48)
    assert np.ptp(maps, axis=(1, 2)).max() > 0.5


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    path = data_file(tmp_path)
    words = ["--path", path, *SMALL, "--unit", "dia_lstm"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "examples.xray", "--workdir"]
    done = subprocess.run(
        [*command, str(tmp_path / "two"), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    from accelerate import Accelerator

    one = fit(task_of(path, *SMALL, "--unit", "dia_lstm"), tmp_path / "one", Accelerator())
    two = record_of(tmp_path / "two")
    assert two["num_test"] == one["num_test"]
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.2)  # batch norm a process


# ---------------------------------------------------------------- commands of the docs


def test_the_page_of_xrays_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command that needs no X-rays runs, on few pictures; the others are parsed."""
    pytest.importorskip("pytorch_grad_cam")
    monkeypatch.chdir(tmp_path)
    told = [each for each in commands(ROOT / "docs" / "how-to" / "xrays.md") if each.in_block]
    few = {
        "planted_digits": ["--num_train", "16", "--num_test", "8"],
        "xray": SMALL,
        "xray_cam": ["--num_images", "2"],
    }
    ran = []
    for command in told:
        place = next(i for i, word in enumerate(command.words()) if word.startswith("examples."))
        name, words = command.words()[place].removeprefix("examples."), command.words()[place + 1 :]
        if "NIH" in words:
            if name == "xray":
                xray.parser().parse_args(words)
            continue
        {"planted_digits": planted_digits, "xray": xray, "xray_cam": xray_cam}[name].main(
            [*words, *few[name]]
        )
        ran.append(name)
    assert ran == ["planted_digits", "xray", "xray", "xray_cam"]
    record = json.loads((tmp_path / "runs" / "xray" / "cam.json").read_text())
    assert set(record) == {"none", "dia_lstm"}
