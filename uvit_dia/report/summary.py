"""What one must know first: question, answer, figure, how sure; and what was compared with what."""

import math
from collections import Counter
from collections.abc import Sequence

from uvit_dia.config.rules import HELD_OUT_LOSS
from uvit_dia.report.certainty import certainty
from uvit_dia.report.comparisons import Comparison
from uvit_dia.report.page import Block, Bullets, Heading, Paragraph, Picture
from uvit_dia.report.results import SweepResults
from uvit_dia.report.sentences import answer
from uvit_dia.report.words import MAX_NAMED, capital, joined, plural, words
from uvit_dia.system.records import number

STATES = ("done", "running", "preempted", "waiting", "diverged", "failed")  # as they are told
RULES = {"constant": "constant", "sqrt": "square-root", "linear": "linear", "adam_sde": "Adam SDE"}


def summary_blocks(
    results: SweepResults, comparisons: Sequence[Comparison], main: Picture | None
) -> list[Block]:
    """Return the first screen, for who has half a minute: question, answer, figure, how sure.

    Args:
        results: of the sweep.
        comparisons: of its variants with the baseline.
        main: the figure that shows the answer, if there is one.
    """
    blocks: list[Block] = []
    if not results.is_finished:
        names = {
            "num_runs": len(results.cells),
            "num_ended": sum(c.has_ended for c in results.cells),
        }
        text = words("summary", "unfinished", **names)
        blocks.append(Paragraph(text, "This sweep is not finished.", look="note"))
    blocks.append(Paragraph(_question(results), "Question:"))
    blocks.append(Paragraph(_answer(results, comparisons), "Answer:", look="answer"))
    if main is not None:
        blocks.append(main)
    if comparisons:
        num_diverged = sum(state == "diverged" for state in results.states.values())
        blocks.append(Paragraph("", "How sure:"))
        blocks.append(Bullets(certainty(comparisons, num_diverged)))
    return blocks


def compared_blocks(results: SweepResults) -> list[Block]:
    """Return the section on what was compared, what was held constant, and what ran."""
    items = [
        ("Variants and seeds.", _compared(results)),
        ("Metric.", _metric(results)),
        ("Held constant.", _held_constant(results)),
        ("Runs.", _progress(results)),
    ]
    if diverged := _diverged(results):
        items.append(("Diverged.", diverged))
    if num_left_out := len({item.cell for item in results.left_out}):
        text = words("summary", "left_out", runs=plural(num_left_out, "run"))
        items.append(("Left out.", text))
    return [Heading("What was compared"), Bullets(items)]


def _sizes(results: SweepResults) -> str:
    sizes = results.plan.batch_sizes
    return f"batch size{'s' if len(sizes) > 1 else ''} {joined(sizes)}"


def _question(results: SweepResults) -> str:
    baseline, *others = results.plan.variants
    metric = results.metric_name if results.settings else "the metric"
    if not others:
        return words("summary", "question_alone", metric=metric, base=baseline)
    names = {"metric": metric, "base": baseline, "sizes": _sizes(results)}
    if len(others) == 1:
        named = f"Does {others[0]}"
    elif len(others) <= MAX_NAMED:
        named = f"Do the variants {joined(others, ' or ')}"
    else:
        named = f"Do any of the {len(others)} variants"
    return words("summary", "question", do_variants=named, **names)


def _answer(results: SweepResults, comparisons: Sequence[Comparison]) -> str:
    if len(results.plan.variants) < 2:
        return words("summary", "answer_alone")
    if not comparisons:
        return words("summary", "answer_unknown")
    return answer(comparisons, results.metric_name)


def _compared(results: SweepResults) -> str:
    plan = results.plan
    baseline, *others = plan.variants
    seeds = f"{plural(len(plan.seeds), 'training seed')} ({joined(plan.seeds)})"
    if others:
        text = f"{joined(others)} with {baseline}, the baseline, at {_sizes(results)}, with {seeds}"
    else:
        text = f"{baseline} alone, at {_sizes(results)}, with {seeds}"
    return f"{text}: {plural(len(plan.cells), 'run')} in all."


def _metric(results: SweepResults) -> str:
    settings = results.settings
    if not settings:
        return "No run has been evaluated yet."
    if results.compare == HELD_OUT_LOSS:
        return capital(words("summary", "held_out"))
    text = words("summary", "metric", metric=results.metric_name, num_images=settings["num_images"])
    if settings["metric"] == "fid":
        return text
    return f"{text} {words('summary', 'not_fid', extractor=settings['extractor'])}"


def _held_constant(results: SweepResults) -> str:
    plan = results.plan
    steps = {cell.batch_size: cell.num_steps for cell in plan.cells}
    sizes = (plan.batch_sizes[0], plan.batch_sizes[-1])
    rule = "images" if plan.budget == "images" and math.isfinite(plan.budget_amount) else "steps"
    names: dict[str, object] = {
        "amount": f"{plan.budget_amount:,.0f}",
        "sizes": sizes,
        "steps": [f"{steps[size]:,}" for size in sizes],
        "seen": [f"{size * steps[size]:,}" for size in sizes],
    }
    text = words("summary", rule, **names)
    if sizes[0] < sizes[1]:
        text += words("summary", f"{rule}_apart", **names)
    told = plan.held_constant[:600]
    own = words("summary", "own_words", told=told) if told else ""
    return f"{text}. {_learning_rate(results)} {_ema(results)}{own}"


def _learning_rate(results: SweepResults) -> str:
    sizes: dict[int, set[float]] = {}
    variants: dict[str, set[float]] = {}
    for cell in results.plan.cells:
        sizes.setdefault(cell.batch_size, set()).add(cell.learning_rate)
        variants.setdefault(cell.variant, set()).add(cell.learning_rate)
    every = set.union(*sizes.values())
    if len(every) == 1:
        return words("summary", "one_rate", rate=f"{every.pop():.4g}")
    if len(sizes) == 1:
        alike: dict[str, list[str]] = {}
        for variant, rates in variants.items():
            alike.setdefault(_rates(rates), []).append(variant)
        listed = "; ".join(f"{rates} for {joined(same)}" for rates, same in alike.items())
        return words("summary", "rates_apart", rates=listed)
    listed = joined(f"{_rates(found)} at {size}" for size, found in sorted(sizes.items()))
    rule = RULES.get(str(results.plan.config.get("lr_rule")), "unknown")
    return words("summary", "rates", rule=rule, rates=listed)


def _rates(rates: set[float]) -> str:
    return joined((f"{rate:.4g}" for rate in sorted(rates)), " or ")


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
        return words("summary", "ema_differs") if found else ""
    decay, halflife, rampup = found.pop()
    steps = math.log(2) / -math.log(decay) if 0 < decay < 1 else 0.0
    rule = f"{steps:,.0f} steps (decay {decay:g})"
    if halflife > 0:
        rule = f"{halflife:,.0f} images at every batch size"
    bound = f", or {rampup:.0%} of the run so far where that is shorter" if rampup > 0 else ""
    ends = {
        cell.batch_size: min(
            halflife or steps * cell.batch_size, rampup * cell.images if rampup > 0 else math.inf
        )
        for cell in sorted(results.plan.cells, key=lambda cell: cell.batch_size)
    }
    (size, images), *others = ends.items()
    if len(set(ends.values())) == 1:
        at_the_end = f"{images:,.0f} images at every batch size"
    else:
        first = f"{images:,.0f} images at batch size {size}"
        at_the_end = joined([first, *(f"{images:,.0f} at {size}" for size, images in others)])
    return words("summary", "ema", rule=rule, bound=bound, at_the_end=at_the_end)


def _progress(results: SweepResults) -> str:
    counts = Counter(results.states.values())
    told = joined(f"{counts[state]} {state}" for state in STATES if counts[state])
    text = words("summary", "progress", counts=told, num_runs=len(results.cells))
    return text + (words("summary", "divergence") if counts["diverged"] else "")


def _diverged(results: SweepResults) -> str:
    """Return which variants lost how many seeds where; "" where none did."""
    parts = []
    for variant in results.plan.variants:
        for size in results.plan.batch_sizes:
            if lost := results.count("diverged", variant, size):
                planned = len(results.rows(variant, size))
                parts.append(f"{lost} of {planned} of {variant} at batch size {size}")
    return f"{joined(parts)}." if parts else ""
