"""Sample images from a trained run.

    python sample.py --checkpoint RUN --num_images 64 --sampler dpmpp_2m --num_steps 20 --seed 0
        --output grid.png

--checkpoint takes a run (its newest checkpoint) or a step folder. --output NAME.png writes one
grid, NAME.npz all images as one array (N, H, W, C), NAME.gif or NAME.webp the grid as it forms from
noise, and any other name a folder of PNGs. Run an interrupted command again, or one with more
images: it samples the PNGs that are missing. Image i depends on weights, sampler settings, seed and
i alone. With --interpolate 8 each image becomes a row of 8, whose noise goes to the next image's.
"""

from uvit_dia import cli
from uvit_dia.runs.find import check_output
from uvit_dia.runs.sources import with_source
from uvit_dia.sampling.outputs import KINDS, output_kind
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import user_path
from uvit_dia.system.notices import told_if_slow

MAX_ROW = 1000  # images


def main(argv: list[str]) -> None:
    """Run the command; see the module's docstring."""
    from absl import flags

    values = cli.new_flags()
    cli.define_sampling_flags(values, num_images=64)
    flags.DEFINE_string(
        "output",
        "grid.png",
        "A .png (grid), an .npz, a .gif or .webp (the grid as it forms), or a folder for PNGs.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "interpolate",
        None,
        "Images of a row from each image to the next, both counted; of deterministic samplers.",
        flag_values=values,
    )
    cli.parse_flags(values, argv, __doc__)
    arguments = cli.sampling_arguments(values)

    interpolate = values["interpolate"].value
    if interpolate is not None and not 2 <= interpolate <= MAX_ROW:
        raise InputError(f"--interpolate {interpolate}: allowed is 2 to {MAX_ROW}")
    output = user_path(str(values["output"].value), "--output")
    arguments = with_source(arguments)
    output_kind(output)  # refuses what is not written
    check_output(output, tuple(KINDS))

    with told_if_slow("importing torch and its companions"):
        from uvit_dia.sampling.run import sample_to_files

    sample_to_files(arguments, output, interpolate)
