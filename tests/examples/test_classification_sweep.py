"""The sweep over units and seeds: what it runs, what it keeps, and its table against SciPy."""

import csv
import json
from pathlib import Path

import pytest
from scipy import stats

from examples import classification_sweep as sweep
from examples.classification_sweep import Cell, cells_of, main, read_variants, table_of
from uvit_dia.system.errors import InputError


def row(variant: str, seed: int, accuracy: float, *, diverged: bool = False) -> dict[str, object]:
    return {"variant": variant, "seed": seed, "accuracy": accuracy, "diverged": diverged or ""}


ROWS = [
    *(row("none", seed, value) for seed, value in enumerate((50.0, 51.5, 49.0, 50.5))),
    *(row("se", seed, value) for seed, value in enumerate((52.0, 53.0, 51.5, 52.0))),
    *(row("srm", seed, value) for seed, value in enumerate((50.5, 51.0, 49.5))),
    row("srm", 3, 10.0, diverged=True),
]


def cells_in(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_is_that_of_scipy() -> None:
    lines = table_of(ROWS, "none").splitlines()
    assert [cells_in(line)[0] for line in lines[2:]] == ["`none`", "`se`", "`srm`"]
    se, srm = cells_in(lines[3]), cells_in(lines[4])
    base = [50.0, 51.5, 49.0, 50.5]
    paired = stats.ttest_rel([52.0, 53.0, 51.5, 52.0], base)
    student = stats.ttest_ind([52.0, 53.0, 51.5, 52.0], base)
    assert se[3] == "52.12"
    interval = paired.confidence_interval()
    assert se[5] == f"+1.88 ({interval.low:+.2f} to {interval.high:+.2f})"
    assert se[6] == format(paired.pvalue, ".2g")
    assert se[7] == format(2 * paired.pvalue, ".2g")  # Holm over two
    assert se[8] == format(student.pvalue, ".2g")
    assert srm[1:3] == ["3", "1"]  # the run that diverged is counted, and in no mean
    assert srm[5].startswith("+0.17")


def test_variants_are_units_or_arguments() -> None:
    found = read_variants('none,dia_lstm,small="--unit dia_lstm --option reduction=16"')
    assert found == {
        "none": ["--unit", "none"],
        "dia_lstm": ["--unit", "dia_lstm"],
        "small": ["--unit", "dia_lstm", "--option", "reduction=16"],
    }
    for text, told in (
        ("none,sse", "no unit"),
        ("none", "two or more"),
        ("none,se,se", "stand there once"),
        ("none,a b=x", "must be a word"),
    ):
        with pytest.raises(InputError, match=told):
            read_variants(text)


def test_a_seed_has_the_same_arguments_under_all_variants(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, read_variants("none,se"), [3, 4], ["--data", "digits"])
    assert [(cell.variant, cell.seed) for cell in cells] == [
        ("none", 3),
        ("se", 3),
        ("none", 4),
        ("se", 4),
    ]
    assert cells[1].words[:4] == ("--data", "digits", "--unit", "se")
    assert cells[1].words[4:6] == ("--seed", "3")


def test_only_what_is_missing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def run(cell: Cell) -> int:
        ran.append(f"{cell.variant}{cell.seed}")
        if cell.variant == "se" and cell.seed == 1 and len(ran) < 5:
            return 1
        cell.folder.mkdir(parents=True)
        record = {"accuracy": 50 + cell.seed, "epoch": 1, "unit_weights": 0, "weights": 5}
        (cell.folder / "record.json").write_text(json.dumps(record))
        return 0

    monkeypatch.setattr(sweep.Cell, "run", run)
    words = ["--workdir", str(tmp_path), "--variants", "none,se", "--seeds", "0,1", "--"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    assert "se, seed 1: failed" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert ran == ["none0", "se0", "none1", "se1", "se1"]
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(each["variant"], each["seed"], each["accuracy"]) for each in rows] == [
        ("none", "0", "50"),
        ("se", "0", "50"),
        ("none", "1", "51"),
        ("se", "1", "51"),
    ]
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--variants none", "two or more"),
        ("--seeds 0,x", "--seeds 0,x"),
        ("--max_parallel 0", "--max_parallel 0"),
    ],
)
def test_wrong_input_is_one_line(
    words: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--workdir", str(tmp_path / "sweep"), *words.split()])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1
    assert told in error


@pytest.mark.slow
def test_a_small_sweep_from_end_to_end(tmp_path: Path) -> None:
    words = ["--workdir", str(tmp_path), "--variants", "none,dia_lstm", "--seeds", "0,1", "--"]
    words += ["--data", "digits", "--num_epochs", "1", "--depth", "8"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(0 < float(each["accuracy"]) <= 100 for each in rows)
    assert rows[1]["unit_weights"] == str(sum(10 * n * n // 4 for n in (16, 32, 64)))
