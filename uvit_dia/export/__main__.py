"""Write a trained model as a folder that diffusers loads where this package is not installed.

    python -m uvit_dia.export RUN DIR [--push OWNER/NAME] [--private]
    python -m uvit_dia.export RUN DIR --space
    python -m uvit_dia.export FILE.pth DIR --config cifar10_uvit

RUN is a run's folder or a step folder; FILE.pth holds weights of the U-ViT authors. DIR gets
weights, scheduler, code in two files and a model card; --push uploads it to the Hugging Face Hub as
well. --space adds `app.py`, requirements.txt and a header, with which the folder is a hosted Space
that shows the demo page.
"""

from pathlib import Path

from absl import flags

from uvit_dia import cli
from uvit_dia.config.flag import define_config_flag, read_config
from uvit_dia.config.places import shown_usage
from uvit_dia.export.arguments import ExportArguments, check_repository, check_target
from uvit_dia.runs.sources import find_source
from uvit_dia.system.commands import words_before_flags
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import user_path
from uvit_dia.system.notices import told_if_slow

USAGE = __doc__ or ""


def main(argv: list[str]) -> None:
    """Read the command line, write the folder, upload it if asked, and print where it lies.

    Raises:
        InputError: if the model, the folder or the Hub do not fit; nothing is written then.
    """
    arguments = read_arguments(argv)
    with told_if_slow("importing torch and its companions"):
        from uvit_dia.export.run import export

    export(arguments)


def read_arguments(argv: list[str]) -> ExportArguments:
    """Read a command line: two words, then flags.

    Raises:
        InputError: if something is missing or wrong.
    """
    values = cli.new_flags()
    define_config_flag(values, group=None)
    texts = {
        "from_official": "A file of the U-ViT authors' weights in the place of RUN; with --config.",
        "push": "Upload it to the Hugging Face Hub under this id, OWNER/NAME.",
        "license": "The licence of the weights for the model card, such as apache-2.0.",
    }
    for name, meaning in texts.items():
        flags.DEFINE_string(name, None, meaning, flag_values=values)
    flags.DEFINE_bool("private", False, "Upload to a private repository.", flag_values=values)
    flags.DEFINE_bool("space", False, "Write a hosted Space of the demo page.", flag_values=values)
    flags.DEFINE_bool("use_ema", True, "Export the averaged weights.", flag_values=values)
    words, rest = words_before_flags(argv[1:])
    cli.parse_flags(values, [argv[0], *rest], shown_usage(USAGE, argv[0]))
    if values["from_official"].value is not None:
        words.insert(0, values["from_official"].value)
    if len(words) != 2:
        raise InputError(
            "export takes two words, what to export and the new folder; for example "
            "export runs/quickstart exported"
        )
    source, target = user_path(words[0], "export"), user_path(words[1], "export")
    config = None if values["config"].value is None else read_config(values)
    repository = values["push"].value
    if repository is not None:
        check_repository(repository)
        if values["space"].value:
            raise InputError(
                "--space: --push uploads models; upload the folder with "
                "hf upload OWNER/NAME DIR --repo-type space"
            )
    check_target(target, repository)
    return ExportArguments(
        source=find_source(source, has_config=config is not None, flag="export"),
        target=Path(target),
        config=config,
        use_ema=bool(values["use_ema"].value),
        repository=repository,
        private=bool(values["private"].value),
        license=values["license"].value,
        space=bool(values["space"].value),
    )


if __name__ == "__main__":
    cli.run_command(main)
