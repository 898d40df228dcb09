"""What was read, in one line: images, classes, size, and what was left out and why."""

from collections.abc import Mapping, Sequence

MAX_NAMES = 3  # examples of what was left out
MAX_CLASSES = 8  # whose counts are listed
FEW_CLASSES = 4  # are listed even where all are of one size


class LeftOut:
    """Counts what is not read, by reason, and keeps the first names."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, reason: str, name: str) -> None:
        """Count one more file or folder that is left out."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        names = self._names.setdefault(reason, [])
        if len(names) < MAX_NAMES:
            names.append(name)

    def notes(self) -> tuple[str, ...]:
        """Return "left out: 2 hidden (.a, .b), 1 other file (c.txt)", or nothing."""
        parts = [
            f"{count} {reason} ({_listed(self._names[reason], count)})"
            for reason, count in self._counts.items()
        ]
        return (f"left out: {', '.join(parts)}",) if parts else ()


def _listed(names: Sequence[str], count: int) -> str:
    return ", ".join(names) + (", ..." if count > len(names) else "")


def counted(counts: Mapping[str, int], unit: str = "") -> str:
    """Return "cats 3 images, dogs 2" for the unit "image"; the first few where there are many."""
    shown = list(counts.items())[:MAX_CLASSES]
    parts = [f"{name} {count}" for name, count in shown]
    if unit and parts:
        parts[0] += f" {unit}" + ("" if shown[0][1] == 1 else "s")
    more = len(counts) - len(shown)
    return ", ".join(parts) + (f" and {more} more" if more else "")


def summary_line(
    source: str,
    shape: Sequence[int],
    class_counts: Mapping[str, int] | None,
    notes: Sequence[str],
) -> str:
    """Return the line that is printed before a training.

    Args:
        source: what was read, such as "folder IMAGES, train".
        shape: (N, C, H, W) of the images.
        class_counts: images of each class, or None where there are no labels.
        notes: what else is worth knowing.
    """
    num_images, channels, height, width = shape
    colours = {1: "grey", 3: "RGB"}.get(channels, f"with {channels} channels")
    images = f"{num_images} image{'' if num_images == 1 else 's'}"
    if class_counts is None:
        classes = "without labels"
    else:
        number = f"in {len(class_counts)} class{'' if len(class_counts) == 1 else 'es'}"
        sizes = set(class_counts.values())
        each = len(sizes) == 1 and len(class_counts) > FEW_CLASSES
        classes = f"{number} ({f'{sizes.pop()} each' if each else counted(class_counts)})"
    line = "; ".join([f"{source}: {images} {classes}, {width}x{height} {colours}", *notes])
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)
