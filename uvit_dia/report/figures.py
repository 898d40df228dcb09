"""All figures of a sweep's report, each with its title and a caption that says how to read it."""

from collections.abc import Callable
from dataclasses import replace

from matplotlib.figure import Figure

from uvit_dia.plots.style import png_bytes, svg_bytes
from uvit_dia.report.figure_columns import column_figure, metric_figure, noise_figure
from uvit_dia.report.figure_samples import samples_figure
from uvit_dia.report.figure_training import gradient_figure, loss_figure
from uvit_dia.report.page import Picture
from uvit_dia.report.results import SweepResults
from uvit_dia.report.words import capital, words

PHONE = {"width": 4.0, "height": 3.7}  # inches


def final_loss_figure(results: SweepResults) -> Figure | None:
    """Draw the loss at the end of training against batch size."""
    return column_figure(results, "final_loss", "training loss, last 10% of the log")


# by the names of their files and of their words, in the report's order
FIGURES: dict[str, Callable[[SweepResults], Figure | None]] = {
    "metric": metric_figure,
    "finalloss": final_loss_figure,
    "loss": loss_figure,
    "gradients": gradient_figure,
    "noise": noise_figure,
    "samples": samples_figure,
}


def draw_pictures(results: SweepResults) -> dict[str, Picture]:
    """Draw every figure for which the sweep has data, by name, in the report's order."""
    marks = ("floor", "floor_std", "gaussian_mark")
    first, *others = results.plan.batch_sizes
    names = {
        "against": "against batch size" if others else f"of each variant at batch size {first}",
        "metric": results.metric_name,
        "budget": "images seen" if results.plan.budget == "images" else "optimizer steps",
        "marks": " ".join(words("parts", m) for m in marks if results.table[m].notna().any()),
    }
    pictures = {}
    for name, draw in FIGURES.items():
        drawn = draw(results)
        if drawn is not None:
            title, caption = (
                words("figures", name, part, **names) for part in ("title", "caption")
            )
            files = svg_bytes(drawn), png_bytes(drawn)
            has_images = draw is samples_figure
            pictures[name] = Picture(name, capital(title), caption, *files, has_images=has_images)
    if "metric" in pictures and (drawn := metric_figure(results, **PHONE)) is not None:
        pictures["metric"] = replace(pictures["metric"], narrow=svg_bytes(drawn))
    return pictures
