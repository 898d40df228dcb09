"""Measure how far samples of a trained run are from its training images.

    python eval_fid.py --checkpoint RUN --num_images 50000

Prints one JSON line a seed and appends it to the run's eval.jsonl: FID (with the Inception
extractor; a Frechet distance `fd` with any other), KID, Inception score, precision and recall; the
floor, which is what as many real images have that the reference does not hold; and everything that
the numbers depend on. Extractors: inception-v3-compat, digits, pt2:PATH.
"""

from uvit_dia import cli
from uvit_dia.evaluation.early_checks import early_source


def main(argv: list[str]) -> None:
    """Run the command; see the module's docstring."""
    from absl import flags

    values = cli.new_flags()
    cli.define_sampling_flags(values)
    flags.DEFINE_string(
        "extractor", None, "Feature extractor (default: the run's config).", flag_values=values
    )
    flags.DEFINE_string(
        "weights", None, "Inception weights (default: torch-fidelity's place).", flag_values=values
    )
    flags.DEFINE_bool(
        "download_weights",
        False,
        "Download Inception weights that are missing.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "allow_few_images",
        False,
        "Measure with fewer images than the extractor has features.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_repeats",
        1,
        "Measure this many seeds, from --seed on; one line each.",
        lower_bound=1,
        flag_values=values,
    )
    cli.parse_flags(values, argv, __doc__)
    arguments = cli.sampling_arguments(values, default_num_images=None)
    may_download = bool(values["download_weights"].value)
    extractor, weights = values["extractor"].value, values["weights"].value
    source = None if may_download else early_source(arguments.checkpoint, extractor, weights)

    # torch is imported from here on
    from uvit_dia.evaluation.run import EvaluationArguments, evaluate_to_json

    evaluate_to_json(
        arguments,
        EvaluationArguments(
            extractor=extractor,
            weights=weights,
            source=source,
            allow_few_images=bool(values["allow_few_images"].value),
            num_repeats=int(values["num_repeats"].value or 1),
        ),
    )


if __name__ == "__main__":
    cli.run_command(main)
