"""Print the lowest versions that pyproject.toml allows, as constraints for pip.

    python .ci/lowest.py > lowest.txt

Every dependency, also of the extras, must have a lower bound: what is never tried is not promised.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"([A-Za-z0-9_.\-]+)>=([0-9][0-9.]*)(,.*)?")


def lowest(project: Path = PROJECT) -> list[str]:
    """Return a line such as "numpy==1.26" for each dependency, sorted.

    Args:
        project: the pyproject.toml.

    Raises:
        ValueError: naming a dependency that has no lower bound.
    """
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = table.get("optional-dependencies", {}).values()
    found = {}
    for text in [*table["dependencies"], *(each for extra in extras for each in extra)]:
        requirement = REQUIREMENT.fullmatch(text.replace(" ", ""))
        if requirement is None:
            raise ValueError(f"{project}: {text!r} has no lower bound such as name>=1.2")
        found[requirement[1]] = f"{requirement[1]}=={requirement[2]}"
    return [found[name] for name in sorted(found, key=str.lower)]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest()) + "\n")
