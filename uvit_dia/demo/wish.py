"""What a visitor of the page asks for, and how a refusal is worded."""

from dataclasses import dataclass

from uvit_dia.sampling.guidance import ALL
from uvit_dia.system.errors import InputError

# What messages of the commands call a setting -> what the page calls it.
NAMES = {
    "--sampler": "Sampler",
    "--num_steps": "Steps",
    "--seed": "Seed",
    "--num_images": "Images",
    "--class_labels": "Class",
    "--guidance_scale": "Guidance",
}


@dataclass(frozen=True)
class Wish:
    """What a visitor asks for, as the page's fields gave it: nothing is checked.

    Attributes:
        sampler: its name.
        num_steps: of the sampler.
        seed: of the images.
        num_images: how many images.
        class_label: a class's name or number, or "all" for all in turn; for networks with classes.
        guidance_scale: 1 is no guidance; for networks that know "no class".
    """

    sampler: str
    num_steps: float | None
    seed: float | None
    num_images: float | None
    class_label: str = ALL
    guidance_scale: float | None = 1.0


def in_words_of_the_page(message: str) -> str:
    """Replace the names of flags by those of the page's fields."""
    for flag, name in NAMES.items():
        message = message.replace(flag, name)
    return message


def given(flag: str, value: float | None) -> float:
    """Return what a field holds.

    Raises:
        InputError: if it is empty.
    """
    if value is None:
        raise InputError(f"{flag} is empty; it takes a number")
    return float(value)


def whole(flag: str, value: float | None) -> int:
    """Return the whole number that a field holds.

    Raises:
        InputError: if it is empty, or another number.
    """
    number = given(flag, value)
    if not number.is_integer():
        raise InputError(f"{flag} {number:g}: a whole number is needed")
    return int(number)
