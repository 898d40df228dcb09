"""Analyses of saved classifiers: the command on tiny runs, against the library by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from examples import analyse, classification, xray
from examples.planted_digits import make_arrays
from examples.saved_runs import CLASSIFICATION, XRAY, SavedRun, open_run
from uvit_dia.analysis.backbone import observe_stage
from uvit_dia.analysis.correlation import map_correlations, split_correlations
from uvit_dia.models.units.registry import ATTENTION_NAMES

FEW = ["--num_images", "12"]
WORDS = {  # depth 14 has two blocks a stage
    "se": ["--unit", "se", "--unshared", "--option", "reduction=4", "--num_train", "70"],
    "none": ["--num_train", "70"],
    "same": ["--num_train", "70"],
    "all": ["--unit", "dia_lstm", "--recipe", "vit"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train runs of one epoch; tests only read them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in WORDS.items():
        few = ["--depth", "14", "--num_epochs", "1", "--batch_size", "32"]
        classification.main(["--workdir", str(folder / name), *few, *words])
    return folder


def results(runs: Path, run: str, command: str, output: Path, *flags: str) -> dict[str, dict]:
    """Run the command and return what it wrote, by name."""
    words = ["--run", str(runs / run), "--analysis", command, "--output", str(output), *flags]
    analyse.main(words)
    for path in output.glob("*.json"):
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in path.with_suffix(".svg").read_bytes()[:400]
    return {path.stem: json.loads(path.read_text()) for path in sorted(output.glob("*.json"))}


def opened(runs: Path, run: str) -> SavedRun:
    return open_run(runs / run, "", (CLASSIFICATION,))


def test_a_saved_run_is_the_one_that_was_trained(runs: Path) -> None:
    for name in WORDS:
        task = opened(runs, name).task
        record = json.loads((runs / name / "record.json").read_text())
        with torch.no_grad():
            found = task.evaluate(task.model.eval(), torch.device("cpu"))
        assert found["test_loss"] == pytest.approx(record["test_loss"], rel=1e-5)
        assert json.loads(json.dumps(task.facts["recipe"])) == record["recipe"]


def test_correlations_are_those_of_held_out_images(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results(runs, "se", "correlation", tmp_path, *FEW, "--batch_size", "5")
    assert list(found) == [f"correlation_stage{i}" for i in (1, 2, 3)]
    assert capsys.readouterr().out.count("correlation between blocks: mean") == 3
    record = found["correlation_stage2"]
    task = opened(runs, "se").task
    chosen = analyse.permutation(0, "analysis images", 0, len(task.data.test))[:12]
    images = task.data.normalised(task.data.test.images[chosen])  # type: ignore[union-attr]
    maps = observe_stage(task.model, [images], "stage2").maps
    expected = map_correlations(maps).mean(dim=0)
    np.testing.assert_allclose(record["results"]["matrix"], expected, atol=1e-4)
    parts = split_correlations(maps)
    np.testing.assert_allclose(
        record["results"]["varying_matrix"], parts["varying_matrix"], atol=1e-3
    )
    told = {"epoch": 1, "unit": "se", "unshared": True, "num_images": 12, "command": "correlation"}
    assert told.items() <= record.items()
    one = results(runs, "se", "gates", tmp_path / "one", *FEW, "--stage", "stage3")
    assert list(one) == ["gates_stage3"]


def test_gradients_are_of_the_training_loss_beside_another_run(runs: Path, tmp_path: Path) -> None:
    other = str(runs / "none")
    record = results(runs, "se", "gradients", tmp_path, *FEW, "--compare", other)["gradients"]
    both = record["results"]["runs"]
    assert [run["name"] for run in both] == ["se, epoch 1", "none, epoch 1"]
    assert record["compare"]["unit"] == "none"
    alone = results(runs, "none", "gradients", tmp_path / "alone", *FEW)["gradients"]
    assert alone["results"]["runs"] == both[1:]  # the same images
    run = opened(runs, "none")
    chosen = analyse.permutation(0, "analysis images", 0, len(run.task.data.test))[:12]
    images, labels = next(analyse.held_out(run.task.data, chosen, 12, torch.device("cpu")))
    last: list[torch.Tensor] = []
    model = run.task.model.eval()
    model.stage3[1].bn2.register_forward_hook(lambda _m, _i, out: last.append(out))  # type: ignore[index]
    loss = F.cross_entropy(model(images), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, last[0])
    assert both[1]["std"][5] == pytest.approx(float(gradient.std(correction=0)), rel=1e-3)
    part = results(runs, "se", "gradients", tmp_path / "part", *FEW, "--stage", "stage3")
    assert part["gradients"]["results"]["runs"][0]["mean"] == both[0]["mean"][4:]


def test_costs_are_of_every_unit_in_the_runs_network(runs: Path, tmp_path: Path) -> None:
    flags = ("--num_rounds", "2", "--batch_size", "4")
    record = results(runs, "se", "cost", tmp_path, *flags)["cost"]
    rows, skipped = record["results"]["variants"], record["results"]["skipped"]
    assert set(rows) | set(skipped) == set(ATTENTION_NAMES)
    trained = json.loads((runs / "se" / "record.json").read_text())
    assert rows["se"]["weights"] == trained["weights"]  # unshared, with the run's reduction
    none = json.loads((runs / "none" / "record.json").read_text())
    assert rows["none"]["weights"] == none["weights"]
    assert record["num_images"] == 4


def test_xrays_are_looked_into_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "planted.npz", **make_arrays(16, 8))
    path = ["--path", str(tmp_path / "planted.npz")]
    words = ["--depth", "14", "--batch_size", "8", "--num_epochs", "1", "--unit", "dia_lstm"]
    xray.main(["--workdir", str(tmp_path / "xray"), *path, *words])
    flags = (*path, "--num_images", "4")
    for command in ("importance", "gradients"):
        assert results(tmp_path, "xray", command, tmp_path / command, *flags)
    run = open_run(tmp_path / "xray", path[1], (XRAY,))
    assert run.images.num_classes == len(run.task.facts["class_names"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["se", "corelation"], "--analysis corelation: allowed is correlation,"),
        (["se", "corelation"], "did you mean correlation?"),
        (["none", "correlation"], "none has no unit; correlation needs a run with one"),
        (["empty", "gates"], "is no run of examples.classification or examples.xray"),
        (["unfinished", "gates"], "holds no run that has ended an epoch"),
        (["diverged", "gates"], "has diverged: its weights are not finite"),
        (["other", "gates"], "was trained on other data (its train_sha256)"),
        (["foreign", "gates"], "is no run of examples.classification"),
        (["recipe", "gates"], "was trained by a recipe that no flag gives now"),
        (["se", "gates", "--stage", "stage4"], "no stage 'stage4'; allowed is stage1, stage2"),
        (["none", "gradients", "--stage", "stage4"], "no stage 'stage4'; allowed is stage1"),
        (["se", "gates", "--num_images", "1"], "--num_images 1: allowed is 2 to"),
        (["se", "gates", "--num_images", "361"], "--num_images 361: there are 360 held-out"),
        (["se", "cost", "--batch_size", "361"], "--batch_size 361: there are 360 held-out"),
        (["se", "gates", "--compare", "none"], "--compare is of gradients, not of gates"),
        (["se", "cost", "--num_images", "9"], "--num_images is of correlation"),
        (["se", "gates", "--seed", "-1"], "--seed -1: allowed is 0 to"),
        (["se", "gradients", "--compare", "all"], "--compare all: was trained on other data"),
        (["se", "gates", "--output", "se/state.pt"], "--output: cannot make the folder"),
    ],
)
def test_what_cannot_be_analysed(
    runs: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(runs)
    config = json.loads(Path("se/config.json").read_text())
    state = torch.load("se/state.pt", weights_only=True)
    state["model"]["head.bias"][0] = torch.nan
    changes: dict[str, dict] = {
        "unfinished": {},
        "diverged": {},
        "other": {"train_sha256": "0"},
        "foreign": {"model": "faster_rcnn"},
        "recipe": {"recipe": {**config["recipe"], "weight_decay": 1.0}},
    }
    for name, change in changes.items():
        Path(name).mkdir(exist_ok=True)
        (Path(name) / "config.json").write_text(json.dumps({**config, **change}))
    torch.save(state, "diverged/state.pt")
    with pytest.raises(SystemExit) as ended:
        analyse.main(["--run", words[0], "--analysis", *words[1:]])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("analyse: ")
    assert said in error
    assert error.count("\n") == 1
    assert not list(Path(words[0]).glob("analysis/*"))


def test_runs_of_one_name_are_told_apart(runs: Path, tmp_path: Path) -> None:
    other = str(runs / "same")
    record = results(runs, "none", "gradients", tmp_path, *FEW, "--compare", other)["gradients"]
    names = [run["name"] for run in record["results"]["runs"]]
    assert names == ["none: none, epoch 1", "same: none, epoch 1"]


def test_a_run_without_a_later_fact_goes_on(tmp_path: Path) -> None:
    words = ["--workdir", str(tmp_path / "run"), "--depth", "8", "--batch_size", "128"]
    words += ["--num_train", "128", "--num_epochs", "1"]
    classification.main(words)
    path = tmp_path / "run" / "config.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({name: facts[name] for name in facts if name != "given"}))
    classification.main(words)
    assert json.loads(path.read_text()) == facts
