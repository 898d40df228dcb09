"""The runs of a sweep, and the command lines that make them.

Neither torch nor submitit is needed here.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.config import places
from uvit_dia.config.places import CLONE, PACKAGE
from uvit_dia.sweep.schema import Evaluation

CELLS_FOLDER = "cells"
SCRIPTS = CLONE  # where train.py and eval_fid.py lie; None in an installed package


@dataclass(frozen=True)
class Launch:
    """How the commands of all cells are started.

    Attributes:
        base: path of the base config.
        num_processes: processes that train a cell together.
        threads: CPU threads of each of them; part of what the sweep is, since they change the last
            bits.
        scripts: the folder of train.py and eval_fid.py; None for the package's own commands.
    """

    base: str
    num_processes: int
    threads: int
    scripts: Path | None = SCRIPTS

    def environment(self) -> dict[str, str]:
        """Return the environment variables that a cell needs to give its numbers."""
        return {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}

    def command(self, name: str) -> list[str]:
        """Return how "train" or "eval" is started, without flags.

        As short as it can be pasted here.
        """
        if self.scripts is None:
            started = ["-m", PACKAGE.name, name]
        else:
            path = self.scripts / places.SCRIPTS[name]
            started = [path.name if path.parent == Path.cwd() else str(path)]
        if self.num_processes == 1:
            return [sys.executable, *started]
        processes = ["--standalone", "--nproc_per_node", str(self.num_processes)]
        return [sys.executable, "-m", "torch.distributed.run", *processes, *started]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: of its folder, such as "dia_lstm-b0032-s1".
        variant: which set of overrides it has.
        batch_size: global, images an optimizer step.
        seed: of the training.
        num_steps: optimizer steps.
        images: images that the training sees, num_steps * batch_size.
        learning_rate: after the sweep's rule for the batch size.
        overrides: all that is changed in the base config, by dotted keys.
    """

    name: str
    variant: str
    batch_size: int
    seed: int
    num_steps: int
    images: int
    learning_rate: float
    overrides: dict[str, object]

    def folder(self, workdir: Path) -> Path:
        """Return the run's folder in the sweep's."""
        return workdir / CELLS_FOLDER / self.name

    def work_command(self, launch: Launch, workdir: Path) -> list[str]:
        """Return the command line that trains and evaluates the run as far as that is not done."""
        place = [] if launch.scripts == SCRIPTS else ["--scripts", str(launch.scripts)]
        flags = ["--base", launch.base, *place]
        return [sys.executable, "-m", "uvit_dia.sweep", "cell", str(workdir), self.name, *flags]

    def config_flags(self, base: str) -> list[str]:
        """Return the flags that make the run's config out of the base config."""
        changes = [f"--config.{key}={flag_text(value)}" for key, value in self.overrides.items()]
        return ["--config", base, *changes]

    def train_command(self, launch: Launch, workdir: Path) -> list[str]:
        """Return the command line that trains the run, or goes on with it."""
        flags = ["--workdir", str(self.folder(workdir)), *self.config_flags(launch.base)]
        return [*launch.command("train"), *flags]

    def eval_command(
        self,
        launch: Launch,
        workdir: Path,
        evaluation: Evaluation,
        seeds: range | None = None,
    ) -> list[str]:
        """Return the command line that evaluates the trained run.

        Args:
            launch: how commands are started.
            workdir: the sweep's folder.
            evaluation: its settings.
            seeds: consecutive seeds of the samples; None for all of the evaluation.
        """
        seeds = evaluation.seeds if seeds is None else seeds
        given: dict[str, object] = {
            "checkpoint": self.folder(workdir),
            "num_images": evaluation.num_images,
            "sampler": evaluation.sampler,
            "num_steps": evaluation.num_steps,
            "seed": seeds.start,
            "num_repeats": len(seeds),
        }
        if evaluation.extractor:
            given["extractor"] = evaluation.extractor
        if evaluation.weights:
            given["weights"] = evaluation.weights
        flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        return [*launch.command("eval"), *flags]


def flag_text(value: object) -> str:
    """Return a config value as the text of a flag, which is read back as the same value."""
    if isinstance(value, tuple | list):
        return "(" + ",".join(repr(item) for item in value) + ("," if len(value) == 1 else "") + ")"
    return value if isinstance(value, str) else repr(value)


def pasteable(command: list[str], environment: dict[str, str]) -> str:
    """Return a command line as one would type it, with the environment variables that it needs."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    python = shlex.quote(os.path.relpath(command[0]) if _is_below_here(command[0]) else command[0])
    return " ".join([*settings, python, shlex.join(command[1:])])


def _is_below_here(path: str) -> bool:
    return Path(path).is_relative_to(Path.cwd())


def import_path() -> dict[str, str]:
    """Return the environment variable that lets processes import this package from anywhere."""
    paths = [str(PACKAGE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path))}
