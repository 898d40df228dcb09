"""From a sweep's folder to a report that can be published, or that says why not yet.

    python -m uvit_dia.report DIR [--output OUT]

writes OUT (default DIR/report)::

    results.csv    one row a run; the same bytes for the same numbers
    report.md      the report, with the PNG figures
    report.html    the same as one file that opens from disk
    figures/       each figure as PNG and SVG
"""

import os
from importlib.util import find_spec
from pathlib import Path

from absl import flags

from uvit_dia import cli
from uvit_dia.config.rules import HELD_OUT_LOSS
from uvit_dia.report.comparisons import compare_variants
from uvit_dia.report.results import SweepResults, read_results, results_csv
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import user_path, write_atomically

PACKAGES = ("jinja2", "matplotlib", "pandas", "scipy")
TAKE_A_WORD = ("--output", "-output", "--compare", "-compare")  # flags without an =
USAGE = """Write the report of a batch-size sweep: tables, statistics, figures.

    python -m uvit_dia.report DIR [--output OUT] [--compare held_out_loss]"""


def write_report(folder: Path, output: Path, compare: str = "fid") -> SweepResults:
    """Write the report of a sweep.

    Args:
        folder: of the sweep.
        output: folder of the report; made if it is not there, and its files replaced.
        compare: "fid" or "held_out_loss", see `read_results`.

    Returns:
        What was read.

    Raises:
        InputError: if there is no sweep, no run of it has ended, or the output cannot be made.
    """
    results = read_results(folder, compare)
    if not any(cell.has_ended for cell in results.cells):
        raise InputError(
            f"{folder}: none of the sweep's {len(results.cells)} runs has ended yet; there is "
            "nothing to report"
        )
    _make_folder(output / "figures")
    from uvit_dia.report.figures import draw_pictures
    from uvit_dia.report.page import to_html, to_markdown
    from uvit_dia.report.sections import report_blocks
    from uvit_dia.report.words import short_list

    pictures = draw_pictures(results)
    comparisons = compare_variants(results) if results.settings else []
    title = f"Batch-size sweep: {short_list(results.plan.variants)}"
    blocks = report_blocks(results, comparisons, pictures)
    files = {
        "results.csv": results_csv(results),
        "report.md": to_markdown(title, blocks).encode(),
        "report.html": to_html(title, blocks).encode(),
    }
    for picture in pictures.values():
        files[f"figures/{picture.name}.png"] = picture.png
        files[f"figures/{picture.name}.svg"] = picture.svg
    for name, content in files.items():
        write_atomically(output / name, content)
    return results


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: cannot make the folder {path}: {error.strerror}") from error


def check_packages() -> None:
    """Look for the packages that only reports and sweeps need.

    Raises:
        InputError: naming what is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} is not installed; pip install 'uvit_dia[sweep]'")


def main(argv: list[str]) -> None:
    """Read the command line and write the report.

    Raises:
        InputError: if the command line or the sweep is wrong.
    """
    values = cli.new_flags()
    flags.DEFINE_string("output", None, "Folder of the report (DIR/report).", flag_values=values)
    folder, rest = _take_folder(argv)
    flags.DEFINE_enum(
        "compare",
        "fid",
        ("fid", HELD_OUT_LOSS),
        "Compare by the Frechet distance, or by the loss on held-out images.",
        flag_values=values,
    )
    cli.parse_flags(values, rest, USAGE)
    if folder is None:
        raise InputError("the sweep's folder is missing: python -m uvit_dia.report DIR")
    check_packages()
    os.environ["MPLBACKEND"] = "agg"  # that of a notebook or a display may not be here
    output = values["output"].value
    report = folder / "report" if output is None else user_path(output, "--output")
    results = write_report(folder, report, values["compare"].value or "fid")
    state = "" if results.is_finished else " (the sweep is not finished)"
    print(f"{report / 'report.html'}{state}")


def _take_folder(argv: list[str]) -> tuple[Path | None, list[str]]:
    """Take the first word that is neither a flag nor a flag's value out of a command line."""
    for place, word in enumerate(argv[1:], start=1):
        if not word.startswith("-") and argv[place - 1] not in TAKE_A_WORD:
            return user_path(word, "DIR"), argv[:place] + argv[place + 1 :]
    return None, argv


if __name__ == "__main__":
    cli.run_command(main)
