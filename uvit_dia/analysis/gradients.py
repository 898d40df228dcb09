"""Gradients of the training loss at each block's output (Fig. 13, arXiv:2210.16101).

What is differentiated is each image's own loss, by the tokens (L, D) that a block gives to what
follows: the next block and, in the first half, the long skip. In a batch of B images training
divides these gradients by B. The network is in evaluation mode, so nothing is dropped, and no
weight is changed.
"""

from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.gradient_statistics import (
    BlockGradients,
    gradient_statistics,
    one_order_of_sums,
)
from uvit_dia.analysis.gradients_figure import describe_gradients
from uvit_dia.analysis.probe import recorded_outputs
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.subject import Subject, make_subject
from uvit_dia.config.files import to_plain
from uvit_dia.runs.open_model import open_model
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.system.errors import InputError
from uvit_dia.training.noised_batch import NoisedBatch

# Keys of data that may differ: the images themselves are compared, and they are not flipped here.
NO_MATTER = ("path", "on_device", "random_flip")


def block_gradients(subject: Subject) -> BlockGradients:
    """Differentiate each image's loss by the output of each block."""
    return gradient_statistics(_gradients(subject), subject.seed)


def _gradients(subject: Subject) -> Iterator[Sequence[Tensor]]:
    """Yield each batch's gradients of each image's loss by each block's output, each (b, L, D)."""
    with tqdm(total=subject.num_images, unit="image", desc="gradients") as bar:
        for batch in subject.batches():
            yield _of_batch(subject, batch)
            bar.update(len(batch))


def _of_batch(subject: Subject, batch: NoisedBatch) -> Sequence[Tensor]:
    batch.x_t.requires_grad_(True)  # the weights are frozen, and the graph must start somewhere
    with one_order_of_sums(subject.device), recorded_outputs(subject.trained.model) as outputs:
        loss = subject.losses(batch).sum()  # images do not meet: this holds each one's own gradient
        return torch.autograd.grad(loss, outputs)


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
    return describe_gradients(dict(zip(names, found, strict=True)), facts)


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
