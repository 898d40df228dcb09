"""Make a set whose findings are known to the pixel: digits planted on grey, cloudy pictures.

    python -m examples.planted_digits --output planted.npz

scikit-learn's handwritten digits, twice as large, lie at random places that do not overlap. Each is
a finding with a mask, the box around it; some pictures have none. Digits of test pictures are not
among those of training pictures. The file has the form that `xray_data` reads.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from examples.command import command_parser, refusing_in_one_line
from uvit_dia.data.digits import read_digits
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_atomically

ENLARGED = 2  # a digit's 8 pixels are drawn as 16
BOX = 8 * ENLARGED
MAX_FINDINGS = 3
NUM_TEST_DIGITS = 360
CLOUDS = 6  # cells a side, of the coarse noise behind
STRENGTH = 150.0  # of a digit over what is behind


def plant(
    count: int, digits: np.ndarray, labels: np.ndarray, *, side: int, one_each: bool, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plant digits.

    Args:
        count: pictures.
        digits: (M, 8, 8) uint8, to choose from.
        labels: (M,) their classes.
        side: of a picture in pixels.
        one_each: whether each picture has one digit, and not 0 to 3 of different classes.
        seed: of everything random.

    Returns:
        Pictures, (count, side, side) uint8; labels, (count, 10) of 0 and 1, or (count,) where there
        is one each; masks, (count, 10, side, side) bool.
    """
    draw = np.random.default_rng(seed)
    pictures = np.empty((count, side, side), dtype=np.uint8)
    found = np.zeros((count, 10), dtype=np.uint8)
    masks = np.zeros((count, 10, side, side), dtype=bool)
    for row in range(count):
        coarse = draw.normal(0, 25, (CLOUDS, CLOUDS))
        picture = 70 + zoom(coarse, side / CLOUDS, order=3) + draw.normal(0, 8, (side, side))
        number = 1 if one_each else int(draw.integers(0, MAX_FINDINGS + 1))
        for finding in draw.choice(10, number, replace=False):
            top, left = _free_place(masks[row].any(axis=0), draw)
            digit = digits[draw.choice(np.flatnonzero(labels == finding))] / 255
            box = slice(top, top + BOX), slice(left, left + BOX)
            picture[box] += STRENGTH * np.kron(digit, np.ones((ENLARGED, ENLARGED)))
            masks[(row, finding, *box)] = True
            found[row, finding] = 1
        pictures[row] = picture.clip(0, 255).round()
    return pictures, found.argmax(axis=1) if one_each else found, masks


def _free_place(taken: np.ndarray, draw: np.random.Generator) -> tuple[int, int]:
    while True:
        top, left = map(int, draw.integers(0, len(taken) - BOX + 1, 2))
        if not taken[top : top + BOX, left : left + BOX].any():
            return top, left


def make_arrays(
    num_train: int, num_test: int, *, side: int = 48, one_each: bool = False, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the arrays of a set by their names in the file.

    Args:
        num_train: training pictures.
        num_test: test pictures.
        side: in pixels.
        one_each: see `plant`.
        seed: of everything random.
    """
    digits = read_digits()
    assert digits.labels is not None
    pixels, labels = digits.images[:, 0].numpy(), digits.labels.numpy()
    train, test = (
        plant(count, pixels[kept], labels[kept], side=side, one_each=one_each, seed=own_seed)
        for count, kept, own_seed in (
            (num_train, slice(NUM_TEST_DIGITS, None), 2 * seed),
            (num_test, slice(NUM_TEST_DIGITS), 2 * seed + 1),
        )
    )
    return {
        "train_images": train[0],
        "train_labels": train[1],
        "test_images": test[0],
        "test_labels": test[1],
        "test_masks": test[2],
        "class_names": np.array([f"digit {finding}" for finding in range(10)]),
    }


def main(argv: list[str] | None = None) -> None:
    """Write the file; wrong input ends with one line and exit code 2."""
    made = command_parser("planted_digits", __doc__)
    made.add_argument("--output", required=True, help="an .npz file")
    made.add_argument("--num_train", type=int, default=2000)
    made.add_argument("--num_test", type=int, default=500)
    made.add_argument("--side", type=int, default=48, help="of a picture in pixels")
    made.add_argument("--one_each", action="store_true", help="one digit a picture: classes")
    made.add_argument("--seed", type=int, default=0)
    arguments = made.parse_args(argv)
    with refusing_in_one_line("planted_digits"):
        _write(arguments)


def _write(arguments: argparse.Namespace) -> None:
    least = {"num_train": 1, "num_test": 1, "side": 3 * BOX, "seed": 0}
    for name, lowest in least.items():
        if not lowest <= getattr(arguments, name) <= 10**6:
            raise InputError(
                f"--{name} {getattr(arguments, name)}: allowed is {lowest} to a million"
            )
    path = Path(arguments.output).expanduser()
    if path.suffix != ".npz":
        raise InputError(f"--output {path}: must end with .npz")
    content = io.BytesIO()
    arrays = make_arrays(
        arguments.num_train,
        arguments.num_test,
        side=arguments.side,
        one_each=arguments.one_each,
        seed=arguments.seed,
    )
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # names are not allow_pickle
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


if __name__ == "__main__":
    main()
