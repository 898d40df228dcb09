"""What a sweep's report says in words: every comparison, what was left out, how it was done, on which machine."""

from collections import Counter
from collections.abc import Sequence

from uvit_dia.report.comparison_text import headline, sentence
from uvit_dia.report.comparisons import Comparison
from uvit_dia.report.page import Block, Bullets, Heading, Paragraph, Table
from uvit_dia.report.result_files import Line
from uvit_dia.report.results import SweepResults

MAX_LEFT_OUT = 200  # lines of the table; more are counted only


def outcome_blocks(results: SweepResults, comparisons: Sequence[Comparison]) -> list[Block]:
    """Return the section that goes through every comparison."""
    blocks: list[Block] = [Heading("What came out")]
    baseline, *others = results.plan.variants
    if not others:
        blocks.append(Paragraph(f"There is one variant, {baseline}; a comparison needs another."))
    for variant in others:
        mine = [c for c in comparisons if c.ours.variant == variant]
        blocks.append(Heading(f"{variant} against {baseline}", level=3))
        items = [
            (
                f"Batch size {c.batch_size}: {headline(c, results.metric_name)}",
                sentence(c),
            )
            for c in mine
        ]
        blocks.append(Bullets(items))
    return blocks


def left_out_blocks(results: SweepResults) -> list[Block]:
    """Return the section that lists what took no part, and why."""
    blocks: list[Block] = [Heading("What was left out, and why")]
    if not results.left_out:
        blocks.append(Paragraph("Nothing: every planned run has comparable evaluations."))
        return blocks
    rows = [(item.cell, item.what, item.reason) for item in results.left_out[:MAX_LEFT_OUT]]
    caption = "What takes no part in the comparisons."
    if len(results.left_out) > MAX_LEFT_OUT:
        caption += f" The first {MAX_LEFT_OUT} of {len(results.left_out)} entries."
    blocks.append(Table(caption, ("run", "what", "why"), rows, words=3))
    return blocks


def statistics_blocks() -> list[Block]:
    """Return the section on how the statistics were done."""
    items = [
        (
            "One value a run.",
            "The metric of a run is the mean over its sample seeds; a training seed is the unit of all statistics, "
            "and sample seeds of one run never count as repeats.",
        ),
        (
            "Tests.",
            "Student's two-sample t-test, as in the paper (arXiv 2210.16101), and Welch's beside it, which lets the "
            "spreads differ; both two-sided. A difference counts as shown only where both pass.",
        ),
        (
            "Many tests.",
            "Holm's correction runs over the batch sizes of each variant, so the chance of any false finding among "
            "them is at most 5%. It does not run over variants: with several, expect that chance for each.",
        ),
        (
            "Size.",
            "Hedges' g, the difference in standard deviations of one seed, without small-sample bias; its interval "
            "inverts the noncentral t distribution. Intervals of differences belong to Student's test, uncorrected.",
        ),
        (
            "Bootstrap.",
            "Intervals of means are bias-corrected and accelerated (BCa), or percentile where BCa fails. With very "
            "few seeds they are too narrow.",
        ),
        (
            "Power.",
            "Of both tests together, exactly for normal values of equal spread, at a two-sided 0.05 and a power of 0.8 (four tries of five), taking "
            "the measured spread for the true one, which itself is uncertain with few seeds. Where a range is given, "
            "its first end holds for a single test and its last for the strictest step of Holm's correction.",
        ),
        (
            "Divergence.",
            "A run that diverged has no metric. It is counted, the counts are compared by Fisher's exact test "
            "without correction, and means are over the survivors.",
        ),
    ]
    return [Heading("How the statistics were done"), Bullets(items)]


def machine_blocks(results: SweepResults) -> list[Block]:
    """Return the section on machine and code, from the `env.json` of the runs."""
    kinds: Counter[tuple[str, ...]] = Counter()
    for cell in results.cells:
        if cell.env:
            kinds[_machine(cell.env)] += 1
    blocks: list[Block] = [Heading("Machine and code")]
    if not kinds:
        blocks.append(Paragraph("No run has an env.json yet."))
        return blocks
    if len({kind[0] for kind in kinds}) > 1:
        text = "The runs below were made by different commits; numbers of one figure should come from one."
        blocks.append(Paragraph(text, "More than one commit.", is_note=True))
    header = ("runs", "commit", "device", "processes", "platform", "Python", "versions")
    rows = [
        (str(count), *kind) for kind, count in sorted(kinds.items(), key=lambda kv: (-kv[1], kv[0]))
    ]
    blocks.append(Table("What the runs were made with.", header, rows, words=len(header)))
    return blocks


def _machine(env: Line) -> tuple[str, ...]:
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
