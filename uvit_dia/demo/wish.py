"""What a visitor of the page may wish, and the words in which the page refuses it."""

from dataclasses import dataclass

MAX_IMAGES = 64
IN_TURN = "all in turn"
# What a message calls a flag -> what the page calls its field.
FIELDS = {
    "--num_images": "Images",
    "--num_steps": "Steps",
    "--seed": "Seed",
    "--sampler": "Sampler",
    "--guidance_scale": "Guidance",
    "--class_labels": "Class",
}


@dataclass(frozen=True)
class Wish:
    """What a visitor asks for; as the page sends it, not checked yet.

    Attributes:
        sampler: its name.
        num_steps: its steps.
        seed: of the images.
        num_images: N.
        class_name: of the images, or `IN_TURN`; for models that are told classes.
        guidance_scale: likewise.
    """

    sampler: str
    num_steps: int | None
    seed: int | None
    num_images: int | None
    class_name: str | None = None
    guidance_scale: float | None = None


def in_the_pages_words(message: str) -> str:
    """Return a message with the names of the page's fields in the place of flags."""
    for flag, field in FIELDS.items():
        message = message.replace(flag, field)
    return message
