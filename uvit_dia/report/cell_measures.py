"""The numbers of one cell: what its evaluations and its log come to."""

import math
import statistics
from collections.abc import Sequence

from uvit_dia.report.result_files import CellFiles, Line, number

SETTLED_SHARE = 0.1  # of the steps, from the start, that some measures leave out
FINAL_SHARE = 0.1  # of the log lines, from the end, over which the final loss is the mean
MAX_COUNT = 2**53  # beyond it a float no longer counts
SPIKE_COUNTS = ("loss_spikes", "grad_spikes")
NOISE_TERMS = ("noise_scale_noise", "noise_scale_signal")


def metric_measures(lines: Sequence[Line]) -> Line:
    """Return the mean over the sample seeds of a cell, and what the numbers were measured with."""
    first = lines[0]
    values = [number(line["value"]) for line in lines]
    kernel = "kid" if first["metric"] == "fid" else "kd"
    means = {
        column: _mean([number(line.get(key)) for line in lines])
        for column, key in (
            ("floor", "floor"),
            ("kernel_distance", kernel),
            ("precision", "precision"),
            ("recall", "recall"),
        )
    }
    same = ("metric", "sampler", "weights", "extractor", "extractor_sha256", "reference_sha256")
    return {
        **{name: first.get(name) for name in same},
        "value": _mean(values),
        "value_spread": _spread(values),
        "num_sample_seeds": len(values),
        "sampler_steps": _count([number(first.get("num_steps"))]),
        "num_images": _count([number(first.get("num_images"))]),
        "nfe": _count([number(first.get("nfe"))]),
        **means,
    }


def log_measures(cell: CellFiles, *, is_complete: bool) -> Line:
    """Return what the log says of a training's course.

    Means over the run weigh each log line by the steps it covers. The spread of the gradient norm is that within
    log windows (root mean square of their standard deviations), so that a slow trend does not count as unrest.
    """
    log = cell.log
    steps = [line["step"] for line in log]
    ends = [line["step"] for line in cell.nonfinite]  # past the last full log window
    if not steps and not ends:
        return {}
    weights = [now - before for before, now in zip([0, *steps], steps, strict=False)]
    squares = [number(line.get("grad_norm_std")) ** 2 for line in log]
    measures: Line = {
        "last_step": max([*steps, *ends]),
        "nonfinite": _count([0.0, *_finite(cell.nonfinite, "nonfinite")]),
        "grad_norm_mean": _mean([number(line.get("grad_norm")) for line in log], weights),
        "grad_norm_std": math.sqrt(_mean(squares, weights)),
        "grad_norm_min": min(_finite(log, "grad_norm_min"), default=math.nan),
        "grad_norm_max": max(_finite(log, "grad_norm_max"), default=math.nan),
        **_noise_scale(cell),
        "update_ratio": _median(_finite(log, "update_ratio")),
    }
    for name in SPIKE_COUNTS:
        measures[name] = _count(_finite(log, name))
    if is_complete and log:
        last = log[-max(1, round(FINAL_SHARE * len(log))) :]
        measures["final_loss"] = _mean([number(line.get("loss")) for line in last])
    return measures


def _noise_scale(cell: CellFiles) -> Line:
    """Return a run's gradient noise scale in images, NaN where noise hides the signal, and its two terms.

    It is a ratio of two noisy terms, tr(Sigma) / |G|^2, so each is averaged over the steps before they are divided
    (McCandlish et al. 2018, Appendix A.1), without the first tenth of the run.
    """
    log = [line for line in cell.log if line["step"] > SETTLED_SHARE * cell.plan.num_steps]
    terms = {name: _mean(_finite(log, name)) for name in NOISE_TERMS}
    return {"noise_scale": noise_scale_of([tuple(terms.values())]), **terms}


def noise_scale_of(terms: Sequence[tuple[float, ...]]) -> float:
    """Return the noise scale of several runs together: the sum of their noise terms over that of their signal terms.

    A single run's signal may come out below 0 by chance. To leave such runs out, or to average ratios, would bias
    the result; sums do neither.

    Args:
        terms: noise and signal of each run; pairs with a NaN are not counted.

    Returns:
        The noise scale in images; NaN where it has no positive value.
    """
    known = [pair for pair in terms if all(math.isfinite(term) for term in pair)]
    noise, signal = (math.fsum(pair[index] for pair in known) for index in range(2))
    return noise / signal if noise > 0 and signal > 0 else math.nan


def _finite(log: Sequence[Line], key: str) -> list[float]:
    return [value for line in log if math.isfinite(value := number(line.get(key)))]


def _count(values: Sequence[float]) -> int | None:
    known = [value for value in values if math.isfinite(value)]
    total = math.fsum(known)
    return int(total) if known and abs(total) <= MAX_COUNT else None


def _mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    pairs = zip(values, weights or [1.0] * len(values), strict=True)
    known = [(value, weight) for value, weight in pairs if math.isfinite(value) and weight > 0]
    total = math.fsum(weight for _, weight in known)
    return math.fsum(value * weight for value, weight in known) / total if known else math.nan


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation with n - 1; NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan
