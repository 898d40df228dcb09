"""A stand-in for eval_fid.py: its "metric" is a function of the weights' hash and of the seed.

The samples of a run of seed 106 are not finite.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from absl import flags

from train import note_call  # the stand-in beside this file
from uvit_dia import cli
from uvit_dia.system.errors import NonFiniteImagesError
from uvit_dia.system.files import append_line, sha256_file

REPEAT_SECONDS = float(os.environ.get("STAND_IN_REPEAT_SECONDS", "0.02"))
EXTRACTOR = Path(cli.__file__).parent / "evaluation" / "digits_extractor.safetensors"


def main(argv: list[str]) -> None:
    values = cli.new_flags()
    cli.define_sampling_flags(values)
    for name in ("extractor", "weights"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    flags.DEFINE_integer("num_repeats", 1, "", flag_values=values)
    cli.parse_flags(values, argv, "")
    arguments = cli.sampling_arguments(values)
    note_call(arguments.checkpoint, "eval", argv)
    (manifest,) = arguments.checkpoint.glob("checkpoints/step_*/manifest.json")
    trained = json.loads(manifest.read_text())
    if json.loads((arguments.checkpoint / "config.json").read_text())["seed"] == 106:
        raise NonFiniteImagesError("the samples are not finite")
    weights = trained["files"]["ema.safetensors"]["sha256"]
    for seed in range(arguments.seed or 0, (arguments.seed or 0) + values["num_repeats"].value):
        time.sleep(REPEAT_SECONDS)
        digest = hashlib.sha256(f"{weights} {seed}".encode()).hexdigest()
        line = {
            "metric": "fd",
            "value": int(digest[:8], 16) / 2**24,
            "floor": 1.0,
            "num_images": arguments.num_images,
            "seconds": time.monotonic(),
            "extractor": "digits",
            "extractor_sha256": sha256_file(EXTRACTOR),
            "sampler": arguments.sampler,
            "num_steps": arguments.num_steps,
            "seed": seed,
            "weights": "ema",
            "weights_sha256": weights,
            "step": trained["step"],
        }
        append_line(arguments.checkpoint / "eval.jsonl", json.dumps(line))


if __name__ == "__main__":
    cli.run_command(main)
