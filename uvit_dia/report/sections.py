"""The sections of a sweep's report in their order, and those of words alone."""

from collections import Counter
from collections.abc import Sequence

from uvit_dia.report.comparisons import Comparison
from uvit_dia.report.measurement import settings_block
from uvit_dia.report.page import Block, Bullets, Fold, Heading, Paragraph, Picture, Table
from uvit_dia.report.results import SweepResults
from uvit_dia.report.sentences import headline, sentence
from uvit_dia.report.summary import compared_blocks, summary_blocks
from uvit_dia.report.tables import glance_table, table_blocks
from uvit_dia.report.words import WORDS, plural, words
from uvit_dia.system.records import Record

MAX_LEFT_OUT = 200  # lines of the table; more are counted only


def report_blocks(
    results: SweepResults, comparisons: Sequence[Comparison], pictures: dict[str, Picture]
) -> list[Block]:
    """Return the whole report, the answer first and the long tables after it.

    Args:
        results: of the sweep.
        comparisons: of its variants with the baseline.
        pictures: its figures by name.
    """
    others: list[Block] = [picture for name, picture in pictures.items() if name != "metric"]
    if others:
        others.insert(0, Heading("More figures"))
    return [
        *summary_blocks(results, comparisons, pictures.get("metric")),
        *outcome_blocks(results, comparisons),
        *compared_blocks(results),
        *left_out_blocks(results),
        *others,
        *table_blocks(results, comparisons),
        *settings_block(results),
        *statistics_blocks(),
        *machine_blocks(results),
    ]


def outcome_blocks(results: SweepResults, comparisons: Sequence[Comparison]) -> list[Block]:
    """Return the section that goes through every comparison."""
    blocks: list[Block] = [Heading("What came out")]
    baseline, *others = results.plan.variants
    if not others:
        blocks.append(Paragraph(f"There is one variant, {baseline}; a comparison needs another."))
    elif not comparisons:
        blocks.append(Paragraph("No run has a comparable evaluation yet."))
    else:
        blocks.append(glance_table(comparisons))
    for variant in others if comparisons else ():
        items = [
            (f"Batch size {c.batch_size}: {headline(c, results.metric_name)}", sentence(c))
            for c in comparisons
            if c.ours.variant == variant
        ]
        blocks.append(Fold(f"{variant} against {baseline}, in words", [Bullets(items)]))
    return blocks


def left_out_blocks(results: SweepResults) -> list[Block]:
    """Return the section that lists what took no part, and why."""
    blocks: list[Block] = [Heading("What was left out, and why")]
    left_out = results.left_out
    if not left_out:
        blocks.append(Paragraph("Nothing: every planned run has comparable evaluations."))
        return blocks
    rows = [(item.cell, item.what, item.reason) for item in left_out[:MAX_LEFT_OUT]]
    caption = words("tables", "left_out")
    if len(left_out) > MAX_LEFT_OUT:
        caption += f" The first {MAX_LEFT_OUT} of {len(left_out)} entries."
    table = Table(caption, ("run", "what", "why"), rows, labels=3)
    title = f"{plural(len(left_out), 'entry', 'entries')} with the reason"
    blocks.append(Fold(title, [table]))
    return blocks


def statistics_blocks() -> list[Block]:
    """Return the section on how the statistics were done."""
    items = [(lead, words("statistics", lead)) for lead in WORDS["statistics"]]
    return [Heading("How the statistics were done"), Bullets(items)]


def machine_blocks(results: SweepResults) -> list[Block]:
    """Return the section on machine and code, from the `env.json` of the runs."""
    kinds = Counter(_machine(cell.env) for cell in results.cells if cell.env)
    blocks: list[Block] = [Heading("Machine and code")]
    if not kinds:
        blocks.append(Paragraph("No run has an env.json yet."))
        return blocks
    if len({kind[0] for kind in kinds}) > 1:
        text = (
            "The runs below were made by different commits; numbers of one figure should come from "
            "one."
        )
        blocks.append(Paragraph(text, "More than one commit.", look="note"))
    header = ("runs", "commit", "device", "processes", "platform", "Python", "versions")
    ordered = sorted(kinds.items(), key=lambda kv: (-kv[1], kv[0]))
    rows = [(str(count), *kind) for kind, count in ordered]
    blocks.append(Table(words("tables", "machine"), header, rows, labels=len(header)))
    return blocks


def _machine(env: Record) -> tuple[str, ...]:
    versions = env.get("versions")
    told = versions.items() if isinstance(versions, dict) else ()
    return (
        str(env.get("commit") or "unknown")[:60],
        str(env.get("device", "unknown"))[:40],
        str(env.get("num_processes", 1))[:10],
        str(env.get("platform", "unknown"))[:100],
        str(env.get("python", "unknown"))[:20],
        ", ".join(f"{name} {version}" for name, version in told)[:400],
    )
