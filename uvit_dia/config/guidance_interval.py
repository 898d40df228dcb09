"""The timesteps to which guidance is limited: read from flags and from Python, and checked."""

from collections.abc import Sequence

from uvit_dia.config.fields import shown
from uvit_dia.config.sampling import SampleConfig
from uvit_dia.system.errors import InputError


def parse_interval(value: str | Sequence[int]) -> tuple[int, int]:
    """Read the lowest and the highest timestep with guidance.

    Raises:
        InputError: if it is not two timesteps, the lower one first.
    """
    items = value.split(",") if isinstance(value, str) else value
    try:
        low, high = (int(item) for item in items)
    except (TypeError, ValueError) as error:
        raise InputError(f"--guidance_interval {shown(value, str)}: allowed is LOW,HIGH") from error
    if not 0 <= low <= high:
        raise InputError(f"--guidance_interval {low},{high}: allowed is 0 <= LOW <= HIGH")
    return low, high


def one_word_interval(argv: Sequence[str]) -> list[str]:
    """Return a command line in which `--guidance_interval LOW HIGH` is one word."""
    words = list(argv)
    for index, word in enumerate(words[:-2]):
        low, high = words[index + 1 : index + 3]
        if word in ("--guidance_interval", "-guidance_interval") and high.isdecimal():
            words[index : index + 3] = [f"{word}={low},{high}"]
            break
    return words


def check_interval(sample: SampleConfig, num_train_timesteps: int, *, is_conditional: bool) -> None:
    """Check that the interval of guidance, where there is one, holds timesteps of a network.

    Raises:
        InputError: if it is empty, or the network is told no classes, which nothing guides to.
    """
    low, high = sample.guidance_low, sample.guidance_high
    if sample.has_interval and not is_conditional:
        raise InputError(
            f"guidance interval {low},{high}: this network is trained without classes; none is "
            "allowed"
        )
    if not low <= high or low >= num_train_timesteps:
        raise InputError(
            f"guidance interval {low},{high} holds no timestep of 0 to {num_train_timesteps - 1}; "
            "allowed is LOW,HIGH with LOW <= HIGH"
        )
