"""Measure samples of a trained run, or images that exist; the same command as `uvit-dia eval`.

python eval_fid.py --checkpoint RUN --num_images 50000
"""

from uvit_dia import cli
from uvit_dia.evaluation.command import main

if __name__ == "__main__":
    cli.run_command(main)
