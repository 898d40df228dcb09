"""Look inside a run of `examples.classification` or `examples.xray`, by its held-out images.

    python -m examples.analyse --run runs/digits --analysis correlation
    python -m examples.analyse --run runs/no_skip --analysis gradients --compare runs/no_skip_dia

writes RUN/analysis/ANALYSIS.json, .png and .svg. `correlation`, `importance` and `gates` are of one
stage: without --stage there are files for each, as correlation_stage1.json. `gradients` is of the
whole network, or of the stage that --stage names, `cost` of the whole network with each unit. What
each measures, and what it cannot show, stands in docs/analyses.md.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from examples.analyse_networks import gradients_of, unit_costs
from examples.classification_data import Batch, ClassData, ImagesInMemory
from examples.command import command_parser, refusing_in_one_line
from examples.saved_runs import CLASSIFICATION, XRAY, SavedRun, open_run
from uvit_dia.analysis.backbone import MAP_ANALYSES, STAGE_ANALYSES, analyse_stage
from uvit_dia.analysis.backbone_parts import DEFAULT_NUM_IMAGES, stages_of
from uvit_dia.analysis.written import write_result
from uvit_dia.data.images import sha256_of
from uvit_dia.rng import permutation
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.files import sha256_file

MAX_SEED = 2**31 - 1
DEFAULT_BATCH_SIZE = 64
DEFAULT_NUM_ROUNDS = 20
LEAST = {"num_images": 2, "batch_size": 2, "num_rounds": 2, "seed": 0}
# Flags that only some analyses have.
ONLY_OF = {
    "compare": ("gradients",),
    "num_rounds": ("cost",),
    "num_images": ("correlation", "importance", "gates", "gradients"),
    "stage": ("correlation", "importance", "gates", "gradients"),
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = command_parser("analyse", __doc__)
    made.add_argument("--run", required=True, help="folder of the run")
    made.add_argument("--analysis", required=True, help=", ".join(STAGE_ANALYSES))
    made.add_argument("--path", default="", help="where the data lie, as in the training")
    made.add_argument("--stage", help="of the network; default: all")
    made.add_argument("--output", help="folder of the results; RUN/analysis")
    made.add_argument("--compare", help="another run of the same data; of gradients")
    made.add_argument("--num_images", type=int, help=f"held-out images; {DEFAULT_NUM_IMAGES}")
    made.add_argument("--batch_size", type=int, default=DEFAULT_BATCH_SIZE, help="at a time")
    made.add_argument("--num_rounds", type=int, help=f"of timing; {DEFAULT_NUM_ROUNDS}")
    made.add_argument("--seed", type=int, default=0, help="of the choice of images and entries")
    return made


def check(arguments: argparse.Namespace) -> None:
    """Look at what needs no run to be looked at.

    Raises:
        InputError: if a value is out of its range, or a flag belongs to another analysis.
    """
    command = arguments.analysis
    if command not in STAGE_ANALYSES:
        hint = nearest(command, STAGE_ANALYSES)
        raise InputError(f"--analysis {command}: allowed is {', '.join(STAGE_ANALYSES)}{hint}")
    for flag, commands in ONLY_OF.items():
        if getattr(arguments, flag) is not None and command not in commands:
            raise InputError(f"--{flag} is of {', '.join(commands)}, not of {command}")
    for flag, least in LEAST.items():
        value = getattr(arguments, flag)
        if value is not None and not least <= value <= MAX_SEED:
            raise InputError(f"--{flag} {value}: allowed is {least} to {MAX_SEED}")


def held_out(
    data: ClassData, chosen: Tensor, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """Yield chosen images of the test set, as the network takes them, with their labels.

    Args:
        data: of the run.
        chosen: (N,) int64, which images.
        batch_size: images at a time.
        device: where to.
    """
    if isinstance(data, ImagesInMemory):
        assert data.test.labels is not None  # it refuses images without
        for rows in chosen.split(batch_size):
            images = data.normalised(data.test.images[rows])
            yield images.to(device), data.test.labels[rows].to(device)
        return
    for images, labels in DataLoader(Subset(data.test, chosen.tolist()), batch_size=batch_size):
        yield images.to(device), labels.to(device)


def choose_images(run: SavedRun, arguments: argparse.Namespace) -> Tensor:
    """Draw the images of an analysis from the test set, by the seed; return their rows.

    Raises:
        InputError: if there are fewer.
    """
    total = len(run.task.data.test)
    is_cost = arguments.analysis == "cost"
    wanted = arguments.batch_size if is_cost else arguments.num_images
    flag = "batch_size" if is_cost else "num_images"
    if wanted is not None and wanted > total:
        raise InputError(f"--{flag} {wanted}: there are {total} held-out images")
    count = wanted or min(DEFAULT_NUM_IMAGES, total)
    return permutation(arguments.seed, "analysis images", 0, total)[:count]


def open_finite(folder: str, path: str) -> SavedRun:
    """Open a run whose weights are numbers.

    Raises:
        InputError: if it is none, or one whose training diverged.
    """
    run = open_run(Path(folder).expanduser(), path, (CLASSIFICATION, XRAY))
    if not all(bool(weight.isfinite().all()) for weight in run.task.model.parameters()):
        raise InputError(f"{folder} has diverged: its weights are not finite")
    return run


def analyse(arguments: argparse.Namespace) -> list[str]:
    """Analyse a run and write what came out; return a line for each result.

    Raises:
        InputError: if run, data, images or flags do not fit; nothing is written then.
    """
    check(arguments)
    command, seed = arguments.analysis, arguments.seed
    runs = [open_finite(arguments.run, arguments.path)]
    if arguments.compare is not None:
        runs.append(open_finite(arguments.compare, arguments.path))
    run, device = runs[0], make_accelerator().device
    for each in runs:
        each.task.model.to(device)
    chosen = choose_images(run, arguments)
    batches = list(held_out(run.task.data, chosen, arguments.batch_size, device))

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels = batch
        return run.task.loss(model, (images, labels))

    if command == "gradients":
        results = {
            command: gradients_of(
                runs, batches, arguments.stage, loss, num_images=len(chosen), seed=seed
            )
        }
    elif command == "cost":
        rounds = arguments.num_rounds or DEFAULT_NUM_ROUNDS
        results = {command: unit_costs(run, batches[0], loss, num_rounds=rounds)}
    elif run.arguments.unit == "none":
        raise InputError(f"{run.folder} has no unit; {command} needs a run with one")
    else:
        results = {
            f"{command}_{stage}": analyse_stage(
                command, run.task.model, batches, stage, num_images=len(chosen), seed=seed
            )
            for stage in ([arguments.stage] if arguments.stage else stages_of(run.task.model))
        }
    facts: dict[str, object] = {
        **run_facts(run),
        **({"compare": run_facts(runs[1])} if runs[1:] else {}),
        "device": device.type,
        "seed": seed,
        "batch_size": arguments.batch_size,
        "images_sha256": sha256_of(torch.cat([images for images, _ in batches])),
    }
    folder = Path(arguments.output or run.folder / "analysis").expanduser()
    lines = []
    for name, result in results.items():
        result.facts.update({**facts, **result.facts})
        stage = result.facts.get("stage")
        who = ", beside ".join(map(described, runs))
        subject = f"{who}; {len(chosen)} held-out images of {run.task.facts['data']}"
        subject += f", {stage}." if command in MAP_ANALYSES else "."
        lines.append(write_result(folder, name, result, command=command, subject=subject))
    return lines


def run_facts(run: SavedRun) -> dict[str, object]:
    """Return which weights, of which network, were looked at."""
    keys = ("data", "model", "unit", "unshared", "option", "train_sha256")
    return {
        "epoch": run.num_epochs,
        "state_sha256": sha256_file(run.folder / "state.pt"),
        **{key: run.task.facts[key] for key in keys},
    }


def described(run: SavedRun) -> str:
    """Name a run, its network and its unit."""
    unit = run.task.facts["unit"]
    model = f"{run.task.facts['model']}"
    if model == "resnet":
        model += f" of {run.task.facts['depth']} layers"
    shared = " in each block" if run.task.facts["unshared"] else ""
    named = "no unit" if unit == "none" else f"unit {unit}{shared}"
    return f"{run.folder.name}, epoch {run.num_epochs}, {model}, {named}"


def main(argv: list[str] | None = None) -> None:
    """Run the command; wrong input ends with one line and exit code 2."""
    arguments = parser().parse_args(argv)
    with refusing_in_one_line("analyse"):
        lines = analyse(arguments)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
