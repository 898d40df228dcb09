"""The numbers of one cell: what its evaluations and its log come to."""

import math
import statistics
from collections.abc import Iterable, Sequence

from uvit_dia.config.rules import HELD_OUT_LOSS
from uvit_dia.sweep.record import CellRecord
from uvit_dia.system.records import Record, number

SETTLED_SHARE = 0.1  # of the steps, from the start, that some measures leave out
FINAL_SHARE = 0.1  # of the log lines, from the end, over which the final loss is the mean
MAX_COUNT = 2**53  # beyond it a float no longer counts
MAX_NUMBER = 1e60  # a number beyond it is no measurement: those of float32 end at 3e38
NOISE_TERMS = ("noise_scale_noise", "noise_scale_signal")
# what else an evaluation holds beside its value; a matched value is that of fewer images
MARKS = ("floor", "floor_std", "gaussian_mark", "matched_value", "matched_floor")
HELD_OUT = (HELD_OUT_LOSS, *(f"{HELD_OUT_LOSS}_{bucket}" for bucket in range(10)))
SAME = ("metric", "sampler", "weights", "extractor", "extractor_sha256", "reference_sha256")


def measured(line: Record, key: str) -> float:
    """Return a measured number of a line of JSON; NaN where there is none."""
    value = number(line.get(key))
    return value if abs(value) <= MAX_NUMBER else math.nan


def finite(lines: Iterable[Record], key: str) -> list[float]:
    """Return the measured numbers of several lines, without what is none."""
    return [value for line in lines if math.isfinite(value := measured(line, key))]


def settled_lines(cell: CellRecord) -> list[Record]:
    """Return a cell's log without the first tenth of the run, where the loss still falls."""
    return [line for line in cell.log if line["step"] > SETTLED_SHARE * cell.cell.num_steps]


def metric_measures(lines: Sequence[Record], compare: str) -> Record:
    """Return the means over a cell's sample seeds, and what they were measured with.

    Args:
        lines: the cell's evaluations, one a sample seed.
        compare: what goes into `value`: "fid", the Frechet distance, or "held_out_loss", which has
            no floor and does not depend on the samples.
    """
    first = lines[0]
    values = finite(lines, "value")
    if compare == HELD_OUT_LOSS:
        own = {**dict.fromkeys(MARKS, math.nan), "metric": HELD_OUT_LOSS, "value_spread": math.nan}
        own["value"] = _mean(finite(lines, HELD_OUT_LOSS))
        return {**metric_measures(lines, "fid"), **own}
    kernel = "kid" if first["metric"] == "fid" else "kd"
    return {
        **{name: first.get(name) for name in SAME},
        "value": _mean(values),
        "value_spread": statistics.stdev(values) if len(values) > 1 else math.nan,
        "num_sample_seeds": len(lines),
        "sampler_steps": _count([measured(first, "num_steps")]),
        "num_images": _count([measured(first, "num_images")]),
        "nfe": _count([measured(first, "nfe")]),
        "kernel_distance": _mean(finite(lines, kernel)),
        **{name: _mean(finite(lines, name)) for name in (*MARKS, "precision", "recall", *HELD_OUT)},
    }


def log_measures(cell: CellRecord) -> Record:
    """Return what the log says about the course of a training.

    Means over the run weigh each log line by the steps that it covers. The spread of the gradient
    norm is that within log windows (root mean square of their standard deviations), so that a slow
    trend does not count as unrest.
    """
    log = cell.log
    steps = [line["step"] for line in log]
    ends = [line["step"] for line in cell.nonfinite]  # past the last full log window
    if not steps and not ends:
        return {}
    weights = [now - before for before, now in zip([0, *steps], steps, strict=False)]
    squares = [measured(line, "grad_norm_std") ** 2 for line in log]
    terms = {name: _mean(finite(settled_lines(cell), name)) for name in NOISE_TERMS}
    measures: Record = {
        "last_step": max([*steps, *ends]),
        "nonfinite": _count([0.0, *finite(cell.nonfinite, "nonfinite")]),
        "grad_norm_mean": _mean([measured(line, "grad_norm") for line in log], weights),
        "grad_norm_std": math.sqrt(_mean(squares, weights)),
        "grad_norm_min": min(finite(log, "grad_norm_min"), default=math.nan),
        "grad_norm_max": max(finite(log, "grad_norm_max"), default=math.nan),
        "noise_scale": noise_scale_of([tuple(terms.values())]),
        **terms,
        "update_ratio": statistics.median(finite(log, "update_ratio") or [math.nan]),
        "loss_spikes": _count(finite(log, "loss_spikes")),
        "grad_spikes": _count(finite(log, "grad_spikes")),
    }
    if cell.is_trained and log:
        last = log[-max(1, round(FINAL_SHARE * len(log))) :]
        measures["final_loss"] = _mean(finite(last, "loss"))
    return measures


def noise_scale_of(terms: Sequence[tuple[float, ...]]) -> float:
    """Return the gradient noise scale of one or several runs together, in images.

    tr(Sigma) / |G|^2 is a ratio of two noisy terms, so each is averaged before they are divided
    (McCandlish et al. 2018, Appendix A.1): over the steps of a run, and here summed over runs. A
    single run's signal may come out below 0 by chance. To leave such runs out, or to average
    ratios, would bias the result; sums do neither.

    Args:
        terms: noise tr(Sigma) and signal |G|^2 of each run; pairs with a NaN are not counted.

    Returns:
        The noise scale; NaN where it has no positive value.
    """
    known = [pair for pair in terms if all(math.isfinite(term) for term in pair)]
    noise, signal = (math.fsum(pair[index] for pair in known) for index in range(2))
    return noise / signal if noise > 0 and signal > 0 else math.nan


def _count(values: Sequence[float]) -> int | None:
    known = [value for value in values if math.isfinite(value)]
    total = math.fsum(known)
    return int(total) if known and abs(total) <= MAX_COUNT else None


def _mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    pairs = zip(values, weights or [1.0] * len(values), strict=True)
    known = [(value, weight) for value, weight in pairs if math.isfinite(value) and weight > 0]
    total = math.fsum(weight for _, weight in known)
    return math.fsum(value * weight for value, weight in known) / total if known else math.nan
