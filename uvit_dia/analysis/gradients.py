"""Gradients of the training loss at each block's output (Fig. 13, arXiv:2210.16101).

What is differentiated is each image's own loss, by the tokens (L, D) that a block gives to what
follows: the next block and, in the first half, the long skip. In a batch of B images training
divides these gradients by B. The network is in evaluation mode, so nothing is dropped, and no
weight is changed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor
from torch.backends import cudnn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.probe import recorded_outputs
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.subject import Subject, make_subject
from uvit_dia.config.files import to_plain
from uvit_dia.plots.parts import BOX_SENTENCE, QUANTILES, draw_boxes, explain, quantiles
from uvit_dia.plots.style import PAPER, WIDTH, look, style
from uvit_dia.rng import permutation
from uvit_dia.runs.open_model import open_model
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.system.errors import InputError
from uvit_dia.training.noised_batch import NoisedBatch

MAX_ENTRIES = 1024  # an image and block, of the quantiles; moments are over all entries
MAX_DECADES = 9  # of the picture
# Keys of data that may differ: the images themselves are compared, and they are not flipped here.
NO_MATTER = ("path", "on_device", "random_flip")
TITLE = "Gradients of the training loss at each block's output"
HOW_TO_READ = (
    "Size of single entries of the gradient of an image's loss by a block's output tokens; block 0"
    f" is nearest to the input. {BOX_SENTENCE} The hollow mark is the root mean square. Taller is a"
    " stronger training signal there, and a steep slope from block to block is one that vanishes"
    " or explodes on its way."
)


@dataclass(frozen=True)
class BlockGradients:
    """Gradients at the outputs of n blocks, over all images.

    Attributes:
        mean: (n,) of the entries.
        std: (n,) of the entries.
        mean_absolute: (n,) of the entries' absolute values.
        absolute_quantiles: (n, 5) of the absolute values of a sample of the entries.
        image_norms: (n, N) 2-norm of each image's gradient.
    """

    mean: np.ndarray
    std: np.ndarray
    mean_absolute: np.ndarray
    absolute_quantiles: np.ndarray
    image_norms: np.ndarray

    @property
    def root_mean_square(self) -> np.ndarray:
        """Return the root mean square of the entries, (n,)."""
        return np.sqrt(self.mean**2 + self.std**2)

    def as_dict(self) -> dict[str, object]:
        """Return the numbers of a result."""
        return {
            "mean": self.mean,
            "std": self.std,
            "mean_absolute": self.mean_absolute,
            "root_mean_square": self.root_mean_square,
            "quantile_levels": list(QUANTILES),
            "absolute_quantiles": self.absolute_quantiles,
            "image_norm_quantiles": [quantiles(norms) for norms in self.image_norms],
        }


def block_gradients(subject: Subject) -> BlockGradients:
    """Differentiate each image's loss by the output of each block."""
    sums, parts, norms = [], [], []
    with tqdm(total=subject.num_images, unit="image", desc="gradients") as bar:
        for batch in subject.batches():
            gradients = [gradient.flatten(1) for gradient in _of_batch(subject, batch)]  # each b LD
            sums.append(torch.stack([_moments(gradient) for gradient in gradients]))  # n 4
            length = gradients[0].shape[1]
            chosen = permutation(subject.seed, "gradient entries", 0, length)[:MAX_ENTRIES]
            chosen = chosen.to(subject.device)
            parts.append(torch.stack([gradient[:, chosen].abs().cpu() for gradient in gradients]))
            norms.append(torch.stack([gradient.norm(dim=1).cpu() for gradient in gradients]))
            bar.update(len(batch))
    count, total, square, absolute = torch.stack(sums).sum(dim=0).numpy().T  # each n
    mean = total / count
    return BlockGradients(
        mean=mean,
        std=np.sqrt(np.maximum(square / count - mean**2, 0.0)),
        mean_absolute=absolute / count,
        absolute_quantiles=np.array(
            [quantiles(block) for block in torch.cat(parts, dim=1).flatten(1).numpy()]
        ),
        image_norms=torch.cat(norms, dim=1).double().numpy(),
    )


def _of_batch(subject: Subject, batch: NoisedBatch) -> Sequence[Tensor]:
    """Return the gradient of each image's loss by each block's output, each (b, L, D)."""
    batch.x_t.requires_grad_(True)  # the weights are frozen, and the graph must start somewhere
    with _one_order_of_sums(subject.device), recorded_outputs(subject.trained.model) as outputs:
        loss = subject.losses(batch).sum()  # images do not meet: this holds each one's own gradient
        return torch.autograd.grad(loss, outputs)


@contextmanager
def _one_order_of_sums(device: torch.device) -> Iterator[None]:
    """On CUDA, choose kernels that give the same bits each time; on CPU all of ours do."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH), cudnn.flags(enabled=True, deterministic=True):
        yield


def _moments(gradient: Tensor) -> Tensor:
    """Return count, sum, sum of squares and of absolute values of the entries, (4,) float64."""
    values = gradient.double()
    count = torch.full_like(values[0, 0], values.numel())
    return torch.stack([count, values.sum(), values.square().sum(), values.abs().sum()]).cpu()


def analyse_gradients(
    arguments: AnalysisArguments, trained: TrainedModel, accelerator: Accelerator
) -> AnalysisResult:
    """Measure the gradients in a run, and in the one that it is compared with.

    Raises:
        InputError: if the two runs differ in data or diffusion, which changes the loss itself.
    """
    subjects = [make_subject(trained, arguments, accelerator)]
    if arguments.compare is not None:
        subjects.append(_other_subject(arguments, subjects[0]))
    found = [block_gradients(subject) for subject in subjects]
    names = [_name(subject) for subject in subjects]
    if len(set(names)) < len(names):
        names = [
            f"{name} ({place})"
            for place, name in zip(("checkpoint", "compare"), names, strict=True)
        ]
    facts = subjects[0].facts()
    if len(subjects) > 1:
        facts["compare"] = subjects[1].facts()
    runs = [
        {"name": name, "blocks": list(range(len(one.mean))), **one.as_dict()}
        for name, one in zip(names, found, strict=True)
    ]
    said = "; ".join(
        f"{name} {one.root_mean_square[0]:.3g} at block 0, {one.root_mean_square[-1]:.3g} at the"
        " last"
        for name, one in zip(names, found, strict=True)
    )
    return AnalysisResult(
        title=TITLE,
        how_to_read=HOW_TO_READ,
        summary=f"root mean square gradient: {said}",
        facts=facts,
        values={"runs": runs},
        figure=_draw(found, names),
    )


def _other_subject(arguments: AnalysisArguments, first: Subject) -> Subject:
    assert arguments.compare is not None
    other = open_model(
        arguments.compare,
        use_ema=arguments.use_ema,
        device=first.device,
        data_path=arguments.data_path,
        flag="--compare",
    )
    ours, theirs = to_plain(first.trained.config), to_plain(other.config)
    for key in ("diffusion", "data"):
        mine = {k: v for k, v in ours[key].items() if k not in NO_MATTER}
        for name, value in mine.items():
            if theirs[key][name] != value:
                raise InputError(
                    f"--compare: {key}.{name} is {theirs[key][name]!r} there and {value!r} in"
                    " --checkpoint; choose runs of the same data and diffusion"
                )
    subject = make_subject(other, arguments, first.accelerator, num_images=first.num_images)
    if subject.images.fingerprint() != first.images.fingerprint():
        raise InputError("--compare: its images are others than those of --checkpoint")
    return subject


def _name(subject: Subject) -> str:
    attention = subject.trained.config.model.attention
    return f"{'no unit' if attention == 'none' else attention}, step {subject.trained.step}"


def _draw(found: Sequence[BlockGradients], names: Sequence[str]) -> Figure:
    with style():
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(found)
        handles = []
        for index, (one, name) in enumerate(zip(found, names, strict=True)):
            drawn = look(index)
            places = np.arange(len(one.mean)) + width * (index - (len(found) - 1) / 2)
            boxes = one.absolute_quantiles
            draw_boxes(axes, boxes.tolist(), places.tolist(), width=0.82 * width, index=index)
            axes.plot(
                places,
                one.root_mean_square,
                drawn.marker,
                markersize=5,
                markeredgecolor=drawn.colour,
                markerfacecolor=PAPER,
            )
            fill = {"facecolor": drawn.fill, "edgecolor": drawn.colour, "hatch": drawn.hatch}
            handles.append(Patch(label=name, **fill))  # type: ignore[arg-type]
        _log_axis(axes, np.concatenate([one.absolute_quantiles.ravel() for one in found]))
        blocks = range(max(len(one.mean) for one in found))
        axes.set_xticks(list(blocks), [str(block) for block in blocks])
        axes.set_xlim(-0.6, len(blocks) - 0.4)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="block, in the order of the data", ylabel="absolute gradient entry")
        explain(figure, TITLE, HOW_TO_READ, handles)
    return figure


def _log_axis(axes: Axes, values: np.ndarray) -> None:
    """Make the vertical axis logarithmic, over `MAX_DECADES` at most; 0 lies below it."""
    above = values[values > 0]
    if not above.size:
        return
    high = float(above.max())
    axes.set_yscale("log")
    axes.set_ylim(max(float(above.min()), high * 10.0**-MAX_DECADES) / 1.5, high * 2)
    axes.yaxis.set_major_locator(LogLocator(subs=(1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
