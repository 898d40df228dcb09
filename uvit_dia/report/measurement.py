"""The section of a sweep's report that says how the metric was measured."""

import math
from collections.abc import Iterable

from uvit_dia.report.cell_measures import finite, measured
from uvit_dia.report.page import Block, Heading, Table
from uvit_dia.report.results import SweepResults
from uvit_dia.report.words import joined, plural, shown, shown_with_spread, words
from uvit_dia.system.records import Record


def settings_block(results: SweepResults) -> list[Block]:
    """Return the section that says how the metric was measured."""
    settings = results.settings
    if not settings:
        return []
    table = results.table[results.table["value"].notna()]
    counts = {
        name: sorted({int(v) for v in table[name].dropna()}) for name in ("num_sample_seeds", "nfe")
    }
    rows = [
        ("metric", results.metric_name),
        ("feature extractor", str(settings["extractor"])),
        ("its SHA-256", str(settings["extractor_sha256"])),
        ("SHA-256 of the reference images", str(settings["reference_sha256"])),
        ("sampled images (N)", str(settings["num_images"])),
        ("sampler", f"{settings['sampler']}, {settings['num_steps']} steps"),
        *_guidance(settings),
        ("network evaluations an image (NFE)", _listed(counts["nfe"])),
        ("weights", "averaged (EMA)" if settings["weights"] == "ema" else str(settings["weights"])),
        ("sample seeds a run", _listed(plural(n, "seed") for n in counts["num_sample_seeds"])),
        *_marks(results),
    ]
    return [
        Heading("How the metric was measured"),
        Table(words("tables", "settings"), ("setting", "value"), rows, labels=2),
    ]


def _guidance(settings: Record) -> list[tuple[str, str]]:
    """Return the rows of networks that are told classes."""
    if settings.get("guidance_scale") is None:
        return []
    interval = settings.get("guidance_interval")
    limits = f", at timesteps {interval}" if interval else ""
    return [
        ("classes of the samples", str(settings.get("class_labels"))),
        ("guidance scale", f"{settings['guidance_scale']}{limits}"),
    ]


def _listed(values: Iterable[object]) -> str:
    return joined(list(values) or ["not recorded"])


def _marks(results: SweepResults) -> list[tuple[str, str]]:
    """Return the rows of what the metric is held against, as far as the records have it."""
    lines = [line for cell in results.cells for line in cell.evaluations]
    rows = [("floor: real against real images", _listed(sorted({_floor(x) for x in lines} - {""})))]
    if matched := finite(lines, "matched_value"):
        both = [line for line in lines if math.isfinite(measured(line, "matched_value"))]
        smaller = {f"{measured(line, 'matched_num_images'):.0f}" for line in both}
        floors = {_with_std(line, "matched_floor") for line in both}
        ends = f"{shown(min(matched), 4)} to {shown(max(matched), 4)}"
        told = f"{ends}, real images {joined(sorted(floors))}"
        rows.append((f"{results.metric_name} at {joined(sorted(smaller))} images", told))
    if gaussian := sorted({shown(mark, 4) for mark in finite(lines, "gaussian_mark")}):
        rows.append(("a Gaussian in pixels, which a model must beat", joined(gaussian)))
    return rows


def _with_std(line: Record, name: str) -> str:
    return shown_with_spread(measured(line, name), measured(line, f"{name}_std"))


def _floor(line: Record) -> str:
    """Return the floor of an evaluation and how it was drawn; of old versions there is less."""
    rule = line.get("floor_rule")
    if math.isnan(measured(line, "floor")):
        return f"{rule!s:.200}" if rule else ""
    draws, images = measured(line, "floor_draws"), measured(line, "floor_num_images")
    details = [f"mean ± standard deviation of {draws:.0f} draws"] if draws > 1 else []
    if rule:
        details.append(f"{rule!s:.200}")
    elif math.isfinite(images):
        details.append(f"{images:.0f} images of the split {line.get('floor_split')!s:.20}")
    text = _with_std(line, "floor")
    return f"{text} ({'; '.join(details)})" if details else text
