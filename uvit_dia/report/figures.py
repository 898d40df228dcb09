"""All figures of a sweep's report, each with its title and a caption that says how to read it."""

from collections.abc import Callable

from matplotlib.figure import Figure

from uvit_dia.plots.style import png_bytes, svg_bytes
from uvit_dia.report.figure_columns import column_figure, metric_figure, noise_figure
from uvit_dia.report.figure_samples import samples_figure
from uvit_dia.report.figure_training import gradient_figure, loss_figure
from uvit_dia.report.page import Picture
from uvit_dia.report.results import SweepResults

SIDE_BY_SIDE = "Variants stand a little beside each other at the same batch size so that they can be told apart. "
ERROR_BARS = (
    "Filled marks are means over the training seeds, error bars one standard deviation of the seeds (not of the "
    "mean), small open marks the seeds themselves. "
)


def draw_pictures(results: SweepResults) -> list[Picture]:
    """Draw every figure for which the sweep has data, in the report's order."""
    pictures = []
    for name, title, draw, caption in _figures(results):
        figure = draw(results)
        if figure is not None:
            pictures.append(Picture(name, title, caption, svg_bytes(figure), png_bytes(figure)))
    return pictures


def _figures(
    results: SweepResults,
) -> list[tuple[str, str, Callable[[SweepResults], Figure | None], str]]:
    """Return name, title, drawing function and caption of each figure."""
    metric = results.metric_name
    is_by_images = results.plan.config.get("budget") == "images"
    budget = "images seen" if is_by_images else "optimizer steps"
    return [
        (
            "metric",
            f"{metric} against batch size",
            metric_figure,
            f"Lower is better. {ERROR_BARS}{SIDE_BY_SIDE}The dashed line is the floor: real images against real "
            "images at the same number of images, which a perfect sampler could be expected to reach; where it "
            "lies far below, it stands under a break of the axis. A variant helps at a batch size where its "
            "seeds lie below the others' by more than they scatter; the sentences above say whether they do.",
        ),
        (
            "finalloss",
            "Training loss at the end against batch size",
            lambda r: column_figure(r, "final_loss", "training loss, last 10% of the log"),
            f"{ERROR_BARS}{SIDE_BY_SIDE}Runs that diverged have no loss at the end. A lower loss need not mean a "
            "lower metric.",
        ),
        (
            "loss",
            "Training loss",
            loss_figure,
            f"One panel a batch size, all on one axis, over {budget}: thin lines are seeds, thick lines the "
            "mean of those that ran to the end; a cross marks where a run diverged. The axis is cut to what "
            "comes after the first tenth of a run, since the loss starts far above.",
        ),
        (
            "gradients",
            "Distribution of the gradient norm",
            gradient_figure,
            "Norms before clipping, means over log windows of all seeds, without the first tenth of a run. A box "
            "holds the middle half, its line is the median, whiskers reach from 5% to 95%; the hollow mark is the "
            "largest norm of any single step. Taller boxes and a mark far above them mean less steady training.",
        ),
        (
            "noise",
            "Gradient noise scale against batch size",
            noise_figure,
            "The noise scale (McCandlish et al. 2018) is the batch size at which the noise of the gradient is as "
            "large as the gradient itself; here over a run without its first tenth. "
            "Filled marks are of all training seeds together: the sum of their noise terms over the sum of their signal "
            "terms. Small open marks are the seeds, but for those whose signal noise hides. Above the dashed line the "
            "gradient is mostly noise and a larger batch would still pay; below it a larger batch buys little.",
        ),
        (
            "samples",
            "Samples",
            samples_figure,
            "The newest preview of each cell, all of one training seed and the same sampling noise, so that "
            "images at the same place may be compared.",
        ),
    ]
