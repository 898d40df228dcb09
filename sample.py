"""Sample images from a trained run; the same command as `uvit-dia sample`.

python sample.py --checkpoint RUN --num_images 64 --output grid.png
"""

from uvit_dia import cli
from uvit_dia.sampling.command import main

if __name__ == "__main__":
    cli.run_command(main)
