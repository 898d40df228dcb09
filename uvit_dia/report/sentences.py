"""The first section of a sweep's report: what was compared, what was held constant, what came out, in plain words."""

import math
from collections import Counter
from collections.abc import Sequence

from uvit_dia.report.comparison_text import joined, plural
from uvit_dia.report.comparisons import HIGHER, LOWER, NOT_SHOWN, UNSETTLED, UNTESTED, Comparison
from uvit_dia.report.page import Block, Heading, Paragraph
from uvit_dia.report.result_files import number
from uvit_dia.report.results import ENDED, STATES, SweepResults


def summary_blocks(results: SweepResults, comparisons: Sequence[Comparison]) -> list[Block]:
    """Return the report's first section: everything that one must know, in plain words."""
    blocks: list[Block] = [Heading("In short")]
    if not results.is_finished:
        blocks.append(Paragraph(_progress(results), "This sweep is not finished.", is_note=True))
    blocks.append(Paragraph(_compared(results), "Compared:"))
    blocks.append(Paragraph(_held_constant(results), "Held constant:"))
    if results.is_finished:
        blocks.append(Paragraph(_progress(results), "Runs:"))
    blocks.append(Paragraph(_outcome(results, comparisons), "Outcome:"))
    if diverged := _diverged(results):
        blocks.append(Paragraph(diverged, "Diverged:"))
    num_left_out = len({item.cell for item in results.left_out})
    if num_left_out:
        text = f"all or a part of {plural(num_left_out, 'run')}; the reasons stand below."
        blocks.append(Paragraph(text, "Left out:"))
    return blocks


def _compared(results: SweepResults) -> str:
    plan = results.plan
    baseline, *others = plan.variants
    sizes = f"batch size{'s' if len(plan.batch_sizes) > 1 else ''} {joined(plan.batch_sizes)}"
    seeds = f"{plural(len(plan.seeds), 'training seed')} ({joined(plan.seeds)})"
    if others:
        text = f"{joined(others)} with {baseline}, the baseline, at {sizes}, with {seeds}"
    else:
        text = f"{baseline} alone, at {sizes}, with {seeds}"
    return f"{text}: {plural(len(plan.cells), 'run')} in all. {_metric(results)}"


def _metric(results: SweepResults) -> str:
    settings = results.settings
    if not settings:
        return "No run has been evaluated yet."
    text = (
        f"The metric is {results.metric_name}, between {settings['num_images']} sampled images and all training "
        "images; lower is better."
    )
    if settings["metric"] == "fid":
        return text
    return (
        f"{text} It is a Fréchet distance in the features of the extractor {settings['extractor']} and not FID, which is "
        "defined by Inception's; it compares only with numbers from the same features."
    )


def _held_constant(results: SweepResults) -> str:
    plan = results.plan
    steps = {cell.batch_size: cell.num_steps for cell in plan.cells}
    amount = number(plan.config.get("budget_amount"))
    least, most = plan.batch_sizes[0], plan.batch_sizes[-1]
    if plan.config.get("budget") == "images":
        text = f"Every run sees {amount:,.0f} images"
        if most > least:
            text += f", in {steps[least]:,} optimizer steps at batch size {least} and {steps[most]:,} at {most}"
    else:
        text = f"Every run makes {steps[least]:,} optimizer steps"
        if most > least:
            seen = [size * steps[size] for size in (least, most)]
            text += f", and sees {seen[0]:,} images at batch size {least} and {seen[1]:,} at {most}"
    words = str(plan.config.get("held_constant") or "").strip()
    own = f' In the words of the sweep: "{words[:600]}"' if words else ""
    return f"{text}. {_learning_rate(results)} {_ema(results)}{own}"


def _learning_rate(results: SweepResults) -> str:
    cells = results.plan.cells
    rule = {"constant": "constant", "sqrt": "square-root", "linear": "linear"}.get(
        str(results.plan.config.get("lr_rule")), "unknown"
    )
    rates = {
        cell.batch_size: {c.learning_rate for c in cells if c.batch_size == cell.batch_size}
        for cell in cells
    }
    if len({rate for found in rates.values() for rate in found}) == 1:
        return f"The learning rate is {cells[0].learning_rate:.4g} at every batch size."
    listed = joined(
        f"{joined((f'{rate:.4g}' for rate in sorted(found)), ' or ')} at {size}"
        for size, found in sorted(rates.items())
    )
    return f"The learning rate follows the {rule} rule: {listed}."


def _ema(results: SweepResults) -> str:
    """Say how weights are averaged, as the runs' own configs have it."""
    found = {
        tuple(number(ema.get(key)) for key in ("decay", "halflife_images", "rampup_ratio"))
        for cell in results.cells
        if isinstance(ema := cell.config.get("ema"), dict)
    }
    planned = number(results.plan.config.get("ema_halflife_images"))
    if not found and planned > 0:
        found = {(0.0, planned, 0.0)}
    if len(found) != 1:
        return "The averaging of weights (EMA) differs between runs." if found else ""
    decay, halflife, rampup = found.pop()
    bound = f", or {rampup:.0%} of the run so far where that is shorter" if rampup > 0 else ""
    steps = math.log(2) / -math.log(decay) if 0 < decay < 1 else 0.0
    rule = (
        f"{halflife:,.0f} images at every batch size"
        if halflife > 0
        else f"{steps:,.0f} steps (decay {decay:g})"
    )
    ends = {
        cell.batch_size: min(
            halflife or steps * cell.batch_size, rampup * cell.images if rampup > 0 else math.inf
        )
        for cell in sorted(results.plan.cells, key=lambda cell: cell.batch_size)
    }
    if len(set(ends.values())) == 1:
        at_the_end = f"{next(iter(ends.values())):,.0f} images at every batch size"
    else:
        (size, images), *others = ends.items()
        first = f"{images:,.0f} images at batch size {size}"
        at_the_end = joined([first, *(f"{images:,.0f} at {size}" for size, images in others)])
    return f"The average of weights (EMA) has a half-life of {rule}{bound}; at the end of a run that is {at_the_end}."


def _progress(results: SweepResults) -> str:
    counts = Counter(results.states.values())
    told = joined(f"{counts[state]} {state}" for state in STATES if counts[state])
    text = f"{len(results.states)} planned: {told}."
    if not results.is_finished:
        ended = sum(counts[state] for state in ENDED)
        text += f" {ended} of {len(results.states)} have ended; what follows will change as the others do."
    if counts["diverged"]:
        text += " Divergence is a result: it is counted, and never tried again."
    return text


def _outcome(results: SweepResults, comparisons: Sequence[Comparison]) -> str:
    if len(results.plan.variants) < 2:
        return "one variant, nothing to compare."
    if not comparisons:
        return "no run has a comparable evaluation yet."
    metric, baseline = results.metric_name, results.plan.variants[0]
    words = {
        LOWER: f"with a lower (better) {metric}",
        HIGHER: f"with a higher (worse) {metric}",
        UNSETTLED: "on which the two tests disagree",
        NOT_SHOWN: "with no difference that these seeds can show",
        UNTESTED: "that could not be tested",
    }
    parts = []
    for verdict, text in words.items():
        found = [c for c in comparisons if c.verdict == verdict]
        named = "" if verdict == NOT_SHOWN else f" ({_named(found)})"
        if found:
            parts.append(f"{len(found)} {text}{named}")
    return f"{plural(len(comparisons), 'comparison')} with {baseline}: {'; '.join(parts)}."


def _named(comparisons: Sequence[Comparison]) -> str:
    """Return "dia_lstm at batch size 8 and 16, dia_lstm_light at 8"."""
    sizes: dict[str, list[int]] = {}
    for c in comparisons:
        sizes.setdefault(c.ours.variant, []).append(c.batch_size)
    return ", ".join(f"{variant} at batch size {joined(found)}" for variant, found in sizes.items())


def _diverged(results: SweepResults) -> str:
    """Return which variants lost how many seeds where; "" where none did."""
    parts = []
    for variant in results.plan.variants:
        for size in results.plan.batch_sizes:
            if lost := results.count("diverged", variant, size):
                planned = len(results.rows(variant, size))
                parts.append(f"{lost} of {planned} of {variant} at batch size {size}")
    return f"{joined(parts)}." if parts else ""
