"""Measure how far samples of a trained run are from its training images.

    python eval_fid.py --checkpoint RUN --num_images 50000

Prints one JSON line a seed and appends it to the run's eval.jsonl: FID (with the Inception
extractor; with any other a Frechet distance `fd`), KID, Inception score, precision and recall; the
floor, which is what as many real images have that the reference does not hold; and everything that
the numbers depend on. Extractors: inception-v3-compat, digits, pt2:PATH.
"""

from absl import flags
from absl.flags import FlagValues

from uvit_dia import cli
from uvit_dia.evaluation.early_checks import early_source
from uvit_dia.runs.find import check_checkpoint
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import expand_home
from uvit_dia.system.notices import told_if_slow


def main(argv: list[str]) -> None:
    """Run the command; see the module's docstring."""
    values = cli.new_flags()
    cli.define_sampling_flags(values)
    _define_flags(values)
    cli.parse_flags(values, argv, __doc__)
    arguments = cli.sampling_arguments(values)
    extractor, weights = (values[name].value for name in ("extractor", "weights"))
    if extractor is not None and extractor.startswith("pt2:"):
        extractor = "pt2:" + expand_home(extractor.removeprefix("pt2:"), "--extractor")
    if weights is not None:
        weights = expand_home(weights, "--weights")
    num_repeats = int(values["num_repeats"].value or 1)
    if (arguments.seed or 0) + num_repeats > 2**31:
        raise InputError("--seed and --num_repeats ask for seeds above 2147483647")
    check_checkpoint(arguments.checkpoint)
    may_download = bool(values["download_weights"].value)
    source = None if may_download else early_source(arguments.checkpoint, extractor, weights)

    with told_if_slow("importing torch and its companions"):
        from uvit_dia.evaluation.run import EvaluationArguments, evaluate_to_json

    evaluate_to_json(
        arguments,
        EvaluationArguments(
            extractor=extractor,
            weights=weights,
            download_weights=may_download,
            source=source,
            allow_few_images=bool(values["allow_few_images"].value),
            data_path=values["data_path"].value,
            allow_other_data=bool(values["allow_other_data"].value),
            num_repeats=num_repeats,
        ),
    )


def _define_flags(values: FlagValues) -> None:
    texts = {
        "extractor": "inception-v3-compat, digits or pt2:PATH (default: the run's config).",
        "weights": "Inception weights (default: the run's config, or torch-fidelity's place).",
        "data_path": "Where the training images lie, if not where the run found them.",
    }
    for name, meaning in texts.items():
        flags.DEFINE_string(name, None, meaning, flag_values=values)
    switches = {
        "download_weights": "Download Inception weights that are missing.",
        "allow_few_images": "Measure with fewer images than the extractor has features.",
        "allow_other_data": "Measure against other images than the run was trained on.",
    }
    for name, meaning in switches.items():
        flags.DEFINE_bool(name, False, meaning, flag_values=values)
    repeats = "Measure this many seeds, from --seed on; one line each."
    flags.DEFINE_integer("num_repeats", 1, repeats, lower_bound=1, flag_values=values)
