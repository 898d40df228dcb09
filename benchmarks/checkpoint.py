"""The commit of a checkpoint, beside a plain write of as many bytes to the same disk.

    python -m benchmarks.checkpoint --folder runs/bench

`commit` is all of `Trainer.save`: hashes, files, their flush to the disk, the check, the rename;
`write` is one file of the same size, flushed; `torch_save` is torch.save of the same tensors,
flushed.
"""

import os
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.subjects import SIZES, config_of, make_trainer
from uvit_dia.runs import state
from uvit_dia.system.accelerator import make_accelerator


def main(argv: list[str]) -> None:
    """Run the benchmark; see the module's docstring."""
    parser = measure.parser(__doc__, rounds=7)
    parser.add_argument("--sizes", default="large,digits", help=f"of {','.join(SIZES)}")
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    arguments = parser.parse_args(argv)
    device = measure.prepare(arguments)
    report = measure.Report("checkpoint", arguments)
    for size in arguments.sizes.split(","):
        if arguments.folder is not None:
            arguments.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            _measure(size, Path(folder), arguments, device, report)
    report.write()


def _measure(
    size: str, folder: Path, arguments: Namespace, device: torch.device, report: measure.Report
) -> None:
    config = config_of(size, "dia_lstm", device=device, short=arguments.short)
    trainer = make_trainer(config, make_accelerator(), folder / "run")
    trainer.train_step()  # which makes the optimizer's moments
    files = state.collect(*trainer.state.parts, trainer.log.window())
    tensors = {f"{file}/{name}": t for file, of in files.items() for name, t in of.items()}
    count = sum(t.numel() * t.element_size() for t in tensors.values())
    content = bytes(count)

    def commit() -> None:
        trainer.step += 1  # a step of its own, as in a run
        trainer.save()

    def write() -> None:
        with (folder / "plain").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def torch_save() -> None:
        with (folder / "torch").open("wb") as file:
            torch.save(tensors, file)
            file.flush()
            os.fsync(file.fileno())

    variants = {"commit": commit, "write": write, "torch_save": torch_save}
    times = measure.in_turn(variants, **measure.rounds_of(arguments, device))
    prefix = f"{size} "
    report.times(times, prefix)
    report.fact(f"{prefix}megabytes", count / 1e6)
    report.compare(times, "commit", "write", prefix)
    report.compare(times, "commit", "torch_save", prefix)


if __name__ == "__main__":
    main(sys.argv[1:])
