"""What a sweep is.

Its config (`schema.py`) and the runs that it expands to (`grid.py`), all checked.
"""

from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from uvit_dia import cli
from uvit_dia.config.checks import check_images_at_a_time
from uvit_dia.config.files import config_hash, flat_values, to_plain
from uvit_dia.config.flag import define_config_flag, read_config
from uvit_dia.config.places import CONFIGS, config_path
from uvit_dia.config.schema import Config
from uvit_dia.sweep.cells import Cell, Launch, flag_text
from uvit_dia.sweep.grid import expand
from uvit_dia.sweep.schema import SweepConfig, make_sweep_config
from uvit_dia.system.errors import InputError


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        config: the sweep config.
        base_config: the base config, plain.
        launch: how the commands of its cells are started.
        cells: its runs; seeds outermost, so that a part of them covers all variants and batch
            sizes.
        configs: the config of each run as train.py sees it, by name.
    """

    config: SweepConfig
    base_config: dict
    launch: Launch
    cells: tuple[Cell, ...]
    configs: dict[str, Config]

    def seconds(self, cell: Cell) -> float:
        """Return the estimated time of a cell, from the costs that its sweep config gives.

        0 for unknown.
        """
        config = self.config
        seconds = cell.images * config.seconds_per_image + cell.num_steps * config.seconds_per_step
        return seconds + config.seconds_per_cell


def make_sweep(config: ConfigDict, path: Path, scripts: Path | None) -> Sweep:
    """Check a sweep config and expand it.

    Args:
        config: the sweep config.
        path: its file.
        scripts: the folder of train.py and eval_fid.py; None for the package's own commands.

    Raises:
        InputError: naming what is wrong; nothing was written or started.
    """
    checked = make_sweep_config(config.to_dict())
    base = find_base(checked.base, path)
    base_config = read_run_config(["--config", base], f"base {base}")
    launch = Launch(base, checked.num_processes, checked.threads_per_cell, scripts)
    cells = expand(checked, base_config)
    configs = {
        cell.name: read_run_config(cell.config_flags(base), f"cell {cell.name}") for cell in cells
    }
    for cell in cells:
        _check_cell(cell, configs[cell.name], checked.num_processes)
    _refuse_equal_runs(configs)
    return Sweep(checked, to_plain(base_config), launch, cells, configs)


def find_base(base: str, path: Path) -> str:
    """Return the path of the base config.

    As it stands, from the project that the sweep config lies in, or from ours.

    Args:
        base: as the sweep config gives it; what follows a colon is an argument of `get_config`.
        path: file of the sweep config, PROJECT/configs/sweeps/NAME.py.

    Raises:
        InputError: if there is no such file.
    """
    file, colon, argument = config_path(base, flag="base").partition(":")
    folder = path.resolve().parent
    projects = folder.parents[1:2]
    for candidate in (Path(file), *(place / file for place in (*projects, CONFIGS.parent))):
        if candidate.is_file():
            return f"{candidate}{colon}{argument}"
    raise InputError(f"base = {base!r}: no such file, neither from here nor from the project")


def read_run_config(flags: list[str], origin: str) -> Config:
    """Return the checked config of a run from `--config` and its overrides, as train.py reads it.

    Raises:
        InputError: if train.py would refuse it; the message begins with the origin.
    """
    argv = ["train.py", *flags]
    values = cli.new_flags()
    try:
        define_config_flag(values)
        cli.parse_flags(values, argv, "")
        config = read_config(values)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    return config


def _check_cell(cell: Cell, config: Config, num_processes: int) -> None:
    """Check a run's config against what its cell asks for, and its batch against the launch."""
    if "fid" not in config.eval.metrics:
        metrics = tuple(config.eval.metrics)
        raise InputError(
            f"cell {cell.name}: eval.metrics = {metrics} has no fid, which is what a sweep compares"
        )
    found = flat_values(config)
    for key, value in cell.overrides.items():
        wanted = list(value) if isinstance(value, tuple) else value
        if found[key] != wanted and flag_text(found[key]) != flag_text(value):
            raise InputError(f"cell {cell.name}: {key} = {value!r:.60} was read as {found[key]!r}")
    parts = num_processes * config.train.accumulation_steps
    if cell.batch_size % parts:
        raise InputError(
            f"cell {cell.name}: batch size {cell.batch_size} is not divisible by "
            f"num_processes = {num_processes} "
            f"x train.accumulation_steps = {config.train.accumulation_steps}"
        )
    try:
        check_images_at_a_time(config, num_processes)
    except InputError as error:
        raise InputError(f"cell {cell.name}: {error}") from error
    _check_halflife(cell, config)


def _check_halflife(cell: Cell, config: Config) -> None:
    """Refuse a half-life that `ema.rampup_ratio` would not let a run reach.

    The rule would hold nothing constant.
    """
    ema = config.ema
    longest = ema.rampup_ratio * cell.images
    if ema.rampup_ratio and ema.halflife_images > longest:
        raise InputError(
            f"cell {cell.name}: ema.rampup_ratio = {ema.rampup_ratio:g} of its {cell.images} "
            f"images keeps the half-life of the average below {longest:.0f} images; "
            f"ema.halflife_images = {ema.halflife_images} has no effect"
        )


def _refuse_equal_runs(configs: dict[str, Config]) -> None:
    """Refuse variants that differ in their names only."""
    names: dict[str, str] = {}
    for name, config in configs.items():
        other = names.setdefault(config_hash(config), name)
        if other != name:
            raise InputError(f"cells {other} and {name} are duplicates: they are the same run")
