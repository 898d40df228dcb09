"""Train a U-ViT.

    python train.py --config configs/digits_uvit_dia.py [--workdir RUN] [--config.KEY=VALUE ...]
    accelerate launch train.py --config configs/cifar10_uvit_dia.py

Run the same command again to resume. Exit codes: 0 done, 2 wrong input, 3 diverged, 74 disk full or
lost, or another process lost, 75 stopped early with the state saved.
"""

from pathlib import Path

from uvit_dia import cli
from uvit_dia.config.flag import config_file, define_config_flag, read_config
from uvit_dia.system.files import user_path
from uvit_dia.system.launch import num_launched
from uvit_dia.system.notices import told_if_slow


def main(argv: list[str]) -> None:
    """Run the command; see the module's docstring."""
    from absl import flags

    values = cli.new_flags()
    define_config_flag(values)
    flags.DEFINE_string(
        "workdir", "", "Folder of the run (default: runs/NAME_OF_THE_CONFIG).", flag_values=values
    )
    flags.DEFINE_bool(
        "allow_other_world_size",
        False,
        "Resume a run on another number of processes: same batches, equal up to rounding.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "allow_other_data",
        False,
        "Resume a run with other images than it was trained on; its checkpoints record both.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "process_timeout_minutes",
        30.0,
        "How long processes wait for one another before the run ends.",
        lower_bound=0.01,
        upper_bound=1e5,
        flag_values=values,
    )
    cli.parse_flags(values, argv, __doc__)
    config = read_config(values)
    default = Path("runs") / Path(config_file(values)).stem
    workdir = user_path(values["workdir"].value or str(default), "--workdir")

    from uvit_dia.data.paths import check_paths
    from uvit_dia.runs.find import find_paths, with_paths
    from uvit_dia.runs.folder import RunFolder

    if num_launched() == 1:  # several tell one another, once they have met
        check_paths(with_paths(config, find_paths(config, workdir)).data)
    folder = RunFolder(workdir)

    with told_if_slow("importing torch and its companions"):
        from uvit_dia.training.run import train

    train(
        config,
        folder,
        allow_other_world_size=bool(values["allow_other_world_size"].value),
        allow_other_data=bool(values["allow_other_data"].value),
        process_timeout_minutes=values["process_timeout_minutes"].value or 0.0,
    )
