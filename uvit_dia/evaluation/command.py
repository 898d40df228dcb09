"""Measure how far samples of a trained run are from its training images, or any images from others.

    python eval_fid.py --checkpoint RUN --num_images 50000
    python eval_fid.py --images FOLDER|FILE.npz|FILE.zip --reference FOLDER|FILE|CONFIG

Prints one JSON line a seed and appends it to the run's eval.jsonl: FID (with the Inception
extractor; with any other a Frechet distance `fd`), KID, Inception score, precision and recall; the
floor, which is what as many real images have that the reference does not hold; and everything that
the numbers depend on. Extractors: inception-v3-compat, digits, pt2:PATH; vgg16, clip-vit-b-32 and
torch-fidelity's other CLIPs.

--images measures images that exist, without any model; a folder or an archive of images, or an .npz
with one array (N, H, W, C). --reference takes the same, a config or a run (its training images),
or statistics: an .npz with mu and sigma. --save_stats FILE.npz writes those of the reference.
"""

from absl import flags
from absl.flags import FlagValues

from uvit_dia import cli
from uvit_dia.evaluation.early_checks import early_score_source, early_source
from uvit_dia.evaluation.extractor_files import extractor_at_home
from uvit_dia.evaluation.image_inputs import check_save, find_images, find_reference
from uvit_dia.runs.sources import with_source
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import expand_home
from uvit_dia.system.notices import told_if_slow

OF_SCORES = ("images", "reference", "save_stats")
OF_BOTH = ("extractor", "weights", "download_weights", "batch_size", "allow_few_images", "import")


def main(argv: list[str]) -> None:
    """Run the command; see the module's docstring."""
    values = cli.new_flags()
    cli.define_sampling_flags(values)
    _define_flags(values)
    cli.parse_flags(values, argv, __doc__)
    if any(values[name].value for name in OF_SCORES):
        _score(values)
    else:
        _evaluate(values)


def _evaluate(values: FlagValues) -> None:
    """Measure samples of a run."""
    arguments = cli.sampling_arguments(values)
    extractor, weights = _extractor(values)
    num_repeats = int(values["num_repeats"].value or 1)
    if (arguments.seed or 0) + num_repeats > 2**31:
        raise InputError("--seed and --num_repeats ask for seeds above 2147483647")
    arguments = with_source(arguments)
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
            held_out_loss=bool(values["held_out_loss"].value),
        ),
    )


def _score(values: FlagValues) -> None:
    """Measure images that exist."""
    given = [name for name in values if values[name].present and name not in (*OF_BOTH, *OF_SCORES)]
    if given:
        raise InputError(f"--{given[0]} goes with --checkpoint, not with --images and --reference")
    batch_size = values["batch_size"].value
    if batch_size is not None and not 1 <= batch_size < 2**31:
        raise InputError(f"--batch_size {batch_size}: allowed is 1 to {2**31 - 1}")
    images, reference, save = (values[name].value for name in OF_SCORES)
    if not reference:
        raise InputError("--reference is missing: what the images are measured against")
    if not images and not save:
        raise InputError("--images is missing: what is measured, or --save_stats")
    path = check_save(save) if save else None
    real = find_reference(reference)
    measured = find_images(images) if images else None
    extractor, weights = _extractor(values)
    may_download = bool(values["download_weights"].value)
    name, source = early_score_source(real, extractor, weights, may_download=may_download)

    with told_if_slow("importing torch and its companions"):
        from uvit_dia.evaluation.score import ScoreArguments, score_to_json

    score_to_json(
        ScoreArguments(
            images=measured,
            reference=real,
            save_stats=path,
            extractor=name,
            weights=weights or "",
            source=source,
            batch_size=batch_size,
            allow_few_images=bool(values["allow_few_images"].value),
        )
    )


def _extractor(values: FlagValues) -> tuple[str | None, str | None]:
    """Return extractor and weights as they were asked for, in paths from the home folder."""
    extractor, weights = values["extractor"].value, values["weights"].value
    return extractor_at_home(extractor), weights and expand_home(weights, "--weights")


def _define_flags(values: FlagValues) -> None:
    texts = {
        "extractor": "inception-v3-compat, digits, vgg16, a CLIP or pt2:PATH "
        "(default: the config's).",
        "weights": "Published weights (default: the run's config, or torch-fidelity's place).",
        "data_path": "Where the training images lie, if not where the run found them.",
        "images": "Images to measure: a folder, an .npz or a .zip; no --checkpoint then.",
        "reference": "What --images are measured against: the same, a config, or statistics.",
        "save_stats": "Write the statistics of the reference to this .npz.",
    }
    for name, meaning in texts.items():
        flags.DEFINE_string(name, None, meaning, flag_values=values)
    switches = {
        "held_out_loss": "Measure the loss on images that were not trained on, too.",
        "download_weights": "Download published weights that are missing.",
        "allow_few_images": "Measure with fewer images than the extractor has features.",
        "allow_other_data": "Measure against other images than the run was trained on.",
    }
    for name, meaning in switches.items():
        flags.DEFINE_bool(name, False, meaning, flag_values=values)
    repeats = "Measure this many seeds, from --seed on; one line each."
    flags.DEFINE_integer("num_repeats", 1, repeats, lower_bound=1, flag_values=values)
