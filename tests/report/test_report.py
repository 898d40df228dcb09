"""The report of a sweep: its words, its figures, and its files."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.full_sweep import SIZES, VARIANTS
from tests.support.synthetic_sweeps import evaluation, make_sweep, write_json, write_lines
from uvit_dia.plots.style import png_bytes
from uvit_dia.report import __main__ as report
from uvit_dia.report import measurement
from uvit_dia.report.__main__ import write_report
from uvit_dia.report.figure_columns import metric_figure, noise_figure
from uvit_dia.report.figure_samples import samples_figure
from uvit_dia.report.figure_training import gradient_figure, loss_figure
from uvit_dia.report.figures import FIGURES
from uvit_dia.report.results import read_results
from uvit_dia.system.errors import InputError


def text_of(folder: Path) -> str:
    return (folder / "report" / "report.md").read_text().replace("\N{NO-BREAK SPACE}", " ")


# ------------------------------------------------------------------ what it says


@pytest.mark.parametrize(
    ("ema", "words"),
    [
        (
            (0.999, 0, 0.0),
            "half-life of 693 steps (decay 0.999). At the end of a run that is 5,542 images at "
            "batch size 8 and 22,170 at 32",
        ),
        (
            (0.999, 0, 0.05),
            "693 steps (decay 0.999), or 5% of the run so far where that is shorter. "
            "At the end of a run that is 3,200 images at every batch size.",
        ),
        (
            (0.0, 5000, 0.0),
            "half-life of 5,000 images at every batch size. At the end of a run that is 5,000 "
            "images at every",
        ),
        ((0.0, 5000, 0.1), "5,000 images at every batch size, or 10% of the run so far where that"),
    ],
)
def test_report_says_how_weights_were_averaged(
    ema: tuple[float, int, float], words: str, tmp_path: Path
) -> None:
    cells = make_sweep(tmp_path, batch_sizes=(8, 32), seeds=(0, 1))
    keys = ("decay", "halflife_images", "rampup_ratio")
    for cell in cells:
        path = tmp_path / "cells" / cell["name"] / "config.json"
        write_json(path, json.loads(path.read_text()) | {"ema": dict(zip(keys, ema, strict=True))})
    write_report(tmp_path, tmp_path / "report")
    assert words in text_of(tmp_path)


def test_report_says_what_was_compared_and_held_constant(full: Path) -> None:
    short = text_of(full).split("## What was compared")[1].split("## What was left out")[0]
    assert "dia_lstm, dia_lstm_light and dia_lstm_identity with uvit, the baseline" in short
    assert (
        "at batch sizes 8, 16, 32 and 64, with 3 training seeds (0, 1 and 2): 48 runs in all"
        in short
    )
    assert (
        "Every run sees 64,000 images, in 8,000 optimizer steps at batch size 8 and 1,000 at 64"
        in short
    )
    assert "The learning rate follows the square-root rule: 0.0003536 at 8" in short
    assert "half-life of 5,000 images at every batch size" in short
    assert "images seen; learning rate by the square root of the batch size" in short
    assert "**Runs.** 48 planned: 45 done, 1 running and 2 diverged." in short
    assert "**Diverged.** 2 of 3 of uvit at batch size 8." in short
    assert "and not FID" in short


def test_report_begins_with_question_answer_figure_and_how_sure_that_is(full: Path) -> None:
    lines = [line for line in text_of(full).split("## ")[0].splitlines() if line]
    assert lines[1] == (
        "> **This sweep is not finished.** 47 of 48 runs have ended. The answer may still change."
    )
    assert lines[2] == (
        "**Question:** Do the variants dia_lstm, dia_lstm_light or dia_lstm_identity change FD "
        "(digits), compared with the baseline uvit, at batch sizes 8, 16, 32 and 64?"
    )
    assert lines[3] == (
        "**Answer:** Yes. Against the baseline uvit, FD (digits) is lower (better) for dia_lstm at "
        "batch size 16 (−43%) and higher (worse) for dia_lstm_light at batch size 32 (+49%). No "
        "sure difference in 7 other comparisons. 3 comparisons could not be tested."
    )
    assert lines[4] == "![FD (digits) against batch size](figures/metric.png)"
    assert lines[6:] == [
        "**How sure:**",
        "- **Evidence.** The differences found have p = 0.015 or less, by the paired t-test and "
        "Welch's t-test, corrected for 9 comparisons. A p below 0.05 counts.",
        "- **False findings.** If no variant made a difference, at most about 1 in 20 such reports "
        "would still name one.",
        "- **Missed differences.** With 2 to 3 seeds a side, a true difference of 1.0 (52%) or "
        "more is found in at least four of five sweeps. A smaller one may be missed.",
        "- **Lost runs.** 2 runs diverged and have no value. Means are over the others, which "
        "flatters the variant that lost more.",
        "- **Not tested.** 3 comparisons: too few seeds have a value, or the values have no "
        "spread.",
    ]


def test_sections_come_in_the_order_of_their_use(full: Path) -> None:
    headings = [line[3:] for line in text_of(full).splitlines() if line.startswith("## ")]
    assert headings == [
        "What came out",
        "What was compared",
        "What was left out, and why",
        "More figures",
        "Tables",
        "How the metric was measured",
        "How the statistics were done",
        "Machine and code",
    ]


def test_a_glance_holds_a_row_for_every_comparison(full: Path) -> None:
    outcome = text_of(full).split("## What came out")[1].split("### ")[0]
    assert outcome.count("\n| 8 | ") == 3
    row = "| 16 | dia_lstm | lower (better) | −1.03 | −43% | −1.10 to −0.95 | 0.0026 |"
    assert row in outcome
    assert "| 8 | dia_lstm | no test |" in outcome


def test_learning_rates_that_differ_between_variants_are_told(tmp_path: Path) -> None:
    make_sweep(tmp_path, variants=("uvit", "dia", "se"), batch_sizes=(32,), seeds=(0, 1))
    content = json.loads((tmp_path / "sweep.json").read_text())
    for cell in content["cells"]:
        cell["learning_rate"] = 0.002 if cell["variant"] == "dia" else 0.001
    write_json(tmp_path / "sweep.json", content)
    write_report(tmp_path, tmp_path / "report")
    told = "The learning rate differs between variants: 0.001 for uvit and se; 0.002 for dia."
    assert told in text_of(tmp_path)


def test_report_goes_through_every_comparison(full: Path) -> None:
    outcome = text_of(full).split("## What came out")[1].split("## What was left out")[0]
    assert outcome.count("### ") == 3
    assert outcome.count("- **Batch size ") == 12
    assert "**Batch size 16: dia_lstm has the lower (better) FD (digits).**" in outcome
    assert outcome.count("**Batch size 8: No test can be made.**") == 3
    assert (
        "Diverged: 0 of 3 seeds of dia_lstm, 2 of 3 of uvit (Fisher's exact test: p = 0.40)"
        in outcome
    )
    assert "Planned seeds still without a comparable value: 1 of 3 of dia_lstm_identity." in outcome


def test_report_lists_what_was_left_out(full: Path) -> None:
    section = text_of(full).split("## What was left out, and why")[1].split("## Figures")[0]
    assert "| uvit-b0008-s1 | metric | the training diverged" in section
    assert "| dia_lstm_identity-b0064-s2 | metric | the run is not finished |" in section


def test_report_names_settings_machine_and_statistics(full: Path) -> None:
    text = text_of(full)
    assert f"| its SHA-256 | {'a' * 64} |" in text
    assert "| sampled images (N) | 500 |" in text
    assert "| network evaluations an image (NFE) | 50 |" in text
    assert "0123456789abcdef0123456789abcdef01234567" in text
    assert "torch 2.15.0" in text
    assert "Holm's correction" in text
    assert "0123456789abcdef" not in (full / "report" / "results.csv").read_text()


def test_a_metric_of_inception_is_called_fid_and_no_other(tmp_path: Path) -> None:
    make_sweep(tmp_path, batch_sizes=(32,), seeds=(0, 1))
    content = json.loads((tmp_path / "sweep.json").read_text())
    content["config"]["eval"]["extractor"] = "inception-v3-compat"
    write_json(tmp_path / "sweep.json", content)
    for folder in (tmp_path / "cells").iterdir():
        facts = {"metric": "fid", "fid": 5.0, "extractor": "inception-v3-compat"}
        lines = [evaluation(2000, 5.0 + 0.1 * s + len(folder.name), s, **facts) for s in (0, 1)]
        write_lines(folder / "eval.jsonl", lines)
    write_report(tmp_path, tmp_path / "report")
    text = text_of(tmp_path)
    assert "**Metric.** FID, between 500" in text
    assert "and not FID" not in text
    assert "FD (" not in text


def test_a_finished_sweep_with_everything_comparable_says_so(tmp_path: Path) -> None:
    make_sweep(tmp_path, batch_sizes=(32,), seeds=(0, 1), budget="steps", budget_amount=2000)
    write_report(tmp_path, tmp_path / "report")
    text = text_of(tmp_path)
    assert "not finished" not in text
    assert "**Runs.** 4 planned: 4 done." in text
    assert "Nothing: every planned run has comparable evaluations." in text
    assert "Every run makes 2,000 optimizer steps." in text
    assert "The learning rate is 0.0007071 at every batch size." in text


def test_different_commits_are_pointed_out(tmp_path: Path) -> None:
    make_sweep(tmp_path, batch_sizes=(32,), seeds=(0, 1))
    write_json(tmp_path / "cells" / "uvit-b0032-s0" / "env.json", {"commit": "another"})
    write_report(tmp_path, tmp_path / "report")
    assert "More than one commit." in text_of(tmp_path)


@pytest.mark.parametrize("case", ["one variant", "all diverged", "no evaluation", "no logs"])
def test_poor_sweeps_have_a_report_too(tmp_path: Path, case: str) -> None:
    variants = ("uvit",) if case == "one variant" else ("uvit", "dia_lstm")
    cells = make_sweep(tmp_path, variants=variants, batch_sizes=(32,), seeds=(0,), spread=0.0)
    names = [cell["name"] for cell in cells]
    if case == "all diverged":
        make_sweep(tmp_path, batch_sizes=(32,), seeds=(0,), states=dict.fromkeys(names, "diverged"))
        for name in names:
            (tmp_path / "cells" / name / "eval.jsonl").unlink()
    for name in names:
        if case == "no logs":
            (tmp_path / "cells" / name / "metrics.jsonl").unlink()
        if case == "no evaluation" and name != names[0]:
            (tmp_path / "cells" / name / "eval.jsonl").unlink()
    write_report(tmp_path, tmp_path / "report")
    text = text_of(tmp_path)
    wanted = {
        "one variant": "one variant, so there is nothing to compare",
        "all diverged": "no run has a comparable evaluation yet",
        "no evaluation": "There is no value of dia_lstm to compare.",
        "no logs": "dia_lstm and uvit has one seed",
    }
    assert wanted[case] in text


# ------------------------------------------------------------------ the command


def run_report(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "uvit_dia.report", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_command_writes_where_it_is_told(tmp_path: Path) -> None:
    make_sweep(tmp_path / "sweep", batch_sizes=(32,), seeds=(0, 1))
    output = tmp_path / "elsewhere"
    done = run_report("--output", str(output), str(tmp_path / "sweep"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{output / 'report.html'}\n"
    assert not (tmp_path / "sweep" / "report").exists()
    assert sorted(p.name for p in output.iterdir()) == [
        "figures",
        "report.html",
        "report.md",
        "results.csv",
    ]


@pytest.mark.reliability("G5", "malformed inputs refused by real processes")
def test_wrong_commands_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    make_sweep(
        tmp_path / "new",
        batch_sizes=(32,),
        seeds=(0,),
        states={"uvit-b0032-s0": "waiting", "dia_lstm-b0032-s0": "running"},
    )
    make_sweep(tmp_path / "good", batch_sizes=(32,), seeds=(0,))
    (tmp_path / "file").write_text("")
    cases = {
        (): "folder is missing",
        (str(tmp_path / "nowhere"),): "holds no sweep",
        (str(tmp_path / "new"),): "none of the sweep's 2 runs has ended yet",
        (
            str(tmp_path / "good"),
            "--output",
            str(tmp_path / "file" / "x"),
        ): "cannot make the folder",
        (str(tmp_path / "good"), "--ouptut=x"): "unknown flag --ouptut; did you mean output?",
        (str(tmp_path / "good"), "more"): "unexpected word 'more'",
    }
    for arguments, message in cases.items():
        done = run_report(*arguments)
        assert done.returncode == 2, arguments
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new" / "report").exists()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_sweep(tmp_path, batch_sizes=(32,), seeds=(0,))
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == "pandas" else object())
    with pytest.raises(
        InputError, match=r"pandas is not installed; pip install 'uvit_dia\[sweep\]'"
    ):
        report.main(["report", str(tmp_path)])


def test_nothing_of_the_report_imports_torch() -> None:
    code = (
        "import sys, uvit_dia.report.__main__, uvit_dia.report.figures, uvit_dia.report.tables; "
        "import uvit_dia.report.sections, uvit_dia.report.comparisons; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_same_sweep_gives_the_same_files(full: Path, tmp_path: Path) -> None:
    write_report(full, tmp_path / "again")
    first = {p.relative_to(full / "report"): p for p in (full / "report").rglob("*.*")}
    assert len(first) == 3 + 2 * len(FIGURES)
    for name, path in first.items():
        assert (tmp_path / "again" / name).read_bytes() == path.read_bytes(), name


@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        ("module://matplotlib_inline.backend_inline", "text.usetex: True\naxes.titleweight: bold"),
        ("no_such_backend", "backend: tkagg\nlines.markersize: 20\nfigure.subplot.left: 0.3"),
    ],
    ids=["notebook", "no display"],
)
def test_neither_matplotlibrc_nor_backend_changes_a_figure(
    tmp_path: Path, backend: str, settings: str
) -> None:
    make_sweep(tmp_path, batch_sizes=(32,), seeds=(0, 1), previews=True)
    write_report(tmp_path, tmp_path / "plain")
    (tmp_path / "matplotlibrc").write_text(settings)
    environment = {"MPLBACKEND": backend, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    done = run_report(str(tmp_path), **environment)
    assert done.returncode == 0, done.stderr
    plain = sorted((tmp_path / "plain" / "figures").iterdir())
    assert len(plain) == 2 * len(FIGURES)
    for path in plain:
        assert (tmp_path / "report" / "figures" / path.name).read_bytes() == path.read_bytes()


# ------------------------------------------------------------------ figures


def test_metric_figure_shows_means_spreads_seeds_and_floor(full: Path) -> None:
    results = read_results(full)
    figure = metric_figure(results)
    assert figure is not None
    axes = figure.axes[0]
    values = results.values("value", "dia_lstm", 16)
    bars = {bar.get_label(): bar for bar in axes.containers}
    assert list(bars) == list(VARIANTS)
    line, _, (segments,) = bars["dia_lstm"].lines
    assert line.get_ydata()[1] == pytest.approx(np.mean(values))
    low, high = segments.get_segments()[1][:, 1]
    assert (high - low) / 2 == pytest.approx(np.std(values, ddof=1))
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == [
        str(s) for s in SIZES
    ]
    assert figure.axes[-1].get_xscale() == "log"
    floors = [a for a in axes.lines if a.get_label() == "floor: real against real"]
    assert floors[0].get_ydata()[0] == 0.3
    assert [text.get_text() for text in axes.texts] == ["2 of 3 diverged"]


def test_floor_far_below_stands_under_a_break(tmp_path: Path) -> None:
    make_sweep(tmp_path, spread=0.01)
    figure = metric_figure(read_results(tmp_path))
    assert figure is not None
    upper, lower = figure.axes
    assert upper.get_ylim()[0] > 1.5
    assert lower.get_ylim()[0] < 0.3 < lower.get_ylim()[1]


def test_variants_of_one_batch_size_stand_along_the_axis(tmp_path: Path) -> None:
    variants = ("uvit", *(f"option_{index}" for index in range(8)))
    make_sweep(tmp_path, variants=variants, batch_sizes=(32,), seeds=(0, 1), previews=True)
    results = read_results(tmp_path)
    figure = metric_figure(results)
    assert figure is not None
    named = figure.axes[-1]
    assert [tick.get_text() for tick in named.get_xticklabels()] == list(variants)
    drawn = [bar.lines[0].get_xdata()[0] for bar in figure.axes[0].containers]
    assert list(named.get_xticks()) == pytest.approx(drawn)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["floor: real against real"]
    noise = noise_figure(results)
    assert noise is not None
    equality = [a for a in noise.axes[0].lines if a.get_label() == "noise scale = batch size"]
    assert list(equality[0].get_ydata()) == [32, 32]
    samples = samples_figure(results)
    assert samples is not None
    assert [axes.get_title().replace("\n", "") for axes in samples.axes] == list(variants)


@pytest.mark.parametrize(
    ("names", "width", "angle"),
    [(("a", "b", "c"), 6.8, 0), (("identity", "rescaled", "paper", "none"), 4.0, 25)],
)
def test_names_under_the_axis_are_turned_only_where_they_do_not_fit(
    tmp_path: Path, names: tuple[str, ...], width: float, angle: float
) -> None:
    make_sweep(tmp_path, variants=names, batch_sizes=(32,), seeds=(0, 1))
    figure = metric_figure(read_results(tmp_path), width=width)
    assert figure is not None
    assert {tick.get_rotation() for tick in figure.axes[-1].get_xticklabels()} == {angle}


def test_a_narrow_figure_has_a_narrow_legend(full: Path) -> None:
    narrow = metric_figure(read_results(full), width=4.0)
    assert narrow is not None
    narrow.canvas.draw()
    legend = narrow.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= narrow.bbox.width


def test_looks_are_told_apart_in_grey_by_their_shapes(full: Path) -> None:
    figure = metric_figure(read_results(full))
    assert figure is not None
    handles = figure.legends[0].legend_handles
    assert len(handles) == len(VARIANTS) + 1


def test_nothing_is_drawn_of_what_was_not_measured(tmp_path: Path) -> None:
    make_sweep(tmp_path, batch_sizes=(32,), seeds=(0,))
    for folder in (tmp_path / "cells").iterdir():
        (folder / "metrics.jsonl").unlink()
        (folder / "eval.jsonl").unlink()
    results = read_results(tmp_path)
    for draw in (metric_figure, noise_figure, loss_figure, gradient_figure, samples_figure):
        assert draw(results) is None


def test_losses_end_with_a_cross_where_a_run_diverged(full: Path) -> None:
    figure = loss_figure(read_results(full))
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == [f"batch size {size}" for size in SIZES]
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "X"]
    assert len(crosses) == 2
    assert not [line for line in figure.axes[1].lines if line.get_marker() == "X"]


def test_boxes_hold_the_quartiles_of_the_settled_gradient_norms(tmp_path: Path) -> None:
    make_sweep(tmp_path, variants=("uvit",), batch_sizes=(32,), seeds=(0,))
    lines = [
        {
            "step": 20 * k,
            "loss": 1.0,
            "grad_norm": 100.0 if k <= 10 else float(k),
            "grad_norm_max": 150.0,
        }
        for k in range(1, 101)
    ]
    write_lines(tmp_path / "cells" / "uvit-b0032-s0" / "metrics.jsonl", lines)
    figure = gradient_figure(read_results(tmp_path))
    assert figure is not None
    box = figure.axes[0].patches[0].get_path().vertices[:, 1]
    assert (box.min(), box.max()) == (pytest.approx(33.25), pytest.approx(77.75))  # of 11 to 100
    assert figure.axes[0].lines[-1].get_ydata()[0] == 150.0


def test_samples_are_cut_and_damaged_previews_are_named(tmp_path: Path) -> None:
    make_sweep(tmp_path, batch_sizes=(8, 32), seeds=(0,), previews=True)
    (tmp_path / "cells" / "uvit-b0008-s0" / "samples" / "step_00008000.png").write_bytes(
        b"\x89PNG torn"
    )
    shutil.rmtree(tmp_path / "cells" / "dia_lstm-b0032-s0" / "samples")
    figure = samples_figure(read_results(tmp_path))
    assert figure is not None
    shapes = [axes.images[0].get_array().shape if axes.images else None for axes in figure.axes]
    assert shapes == [None, (172, 172, 3), (172, 172, 3), None]  # 5 images of 32 and their margins
    assert "no preview" in figure.axes[0].texts[0].get_text()


def test_an_enormous_preview_is_not_decoded(tmp_path: Path) -> None:
    make_sweep(tmp_path, batch_sizes=(32,), seeds=(0,), previews=True)
    path = tmp_path / "cells" / "uvit-b0032-s0" / "samples" / "step_00002000.png"
    Image.new("1", (20_000, 20_000)).save(path)
    figure = samples_figure(read_results(tmp_path))
    assert figure is not None
    assert not figure.axes[0].images


def test_saved_figures_are_not_blank_and_name_no_date(full: Path) -> None:
    for name in FIGURES:
        with Image.open(full / "report" / "figures" / f"{name}.png") as picture:
            assert picture.width > 1000
            assert np.asarray(picture.convert("L")).std() > 10
        svg = (full / "report" / "figures" / f"{name}.svg").read_text()
        assert "<dc:date>" not in svg
        assert "<text" not in svg  # outlines: it looks the same everywhere


def test_names_with_signs_of_markup_are_drawn_and_escaped(tmp_path: Path) -> None:
    odd = "<b>$x_1|*"
    make_sweep(tmp_path, variants=("uvit", "dia"), batch_sizes=(32,), seeds=(0, 1), previews=True)
    text = (tmp_path / "sweep.json").read_text().replace('"variant": "dia"', f'"variant": "{odd}"')
    (tmp_path / "sweep.json").write_text(text)
    write_report(tmp_path, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "&lt;b&gt;$x_1|*" in page
    assert "<b>" not in page
    assert r"\<b>$x_1\|\*" in (tmp_path / "report" / "report.md").read_text()


def test_png_has_a_size_for_print(full: Path) -> None:
    figure = metric_figure(read_results(full))
    assert figure is not None
    with Image.open(io.BytesIO(png_bytes(figure))) as picture:
        assert picture.info["dpi"][0] == pytest.approx(200, abs=1)


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"sampler": "ddim"}, []),  # of a network without classes
        (
            {"guidance_scale": 1.0, "class_labels": "all"},
            [("classes of the samples", "all"), ("guidance scale", "1.0")],
        ),
        (
            {"guidance_scale": 2.0, "class_labels": "3", "guidance_interval": [100, 800]},
            [
                ("classes of the samples", "3"),
                ("guidance scale", "2.0, at timesteps [100, 800]"),
            ],
        ),
    ],
)
def test_settings_say_classes_and_guidance(
    settings: dict[str, object], rows: list[tuple[str, str]]
) -> None:
    assert measurement._guidance(settings) == rows
