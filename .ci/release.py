"""Refuse a tag that is not the version of the package, or whose changelog has no date.

python .ci/release.py v0.2.0
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """Return what keeps a tag from being released, one line each.

    Args:
        tag: such as v0.2.0.
        root: of the repository.
    """
    source = (root / "uvit_dia" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    version = found[1] if found else "none"
    result = []
    if tag != f"v{version}":
        result.append(f"the tag is {tag}, the package's version {version}")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    dated = re.search(
        rf"^## {re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)$", changelog, re.MULTILINE
    )
    if dated is None:
        result.append(f"CHANGELOG.md has no line '## {version} (YYYY-MM-DD)'")
    elif f"date-released: {dated[1]}\n" not in (root / "CITATION.cff").read_text(encoding="utf-8"):
        result.append(f"CITATION.cff has another date-released than {dated[1]}")
    return result


if __name__ == "__main__":
    sys.exit("\n".join(problems(*sys.argv[1:])) or None)
