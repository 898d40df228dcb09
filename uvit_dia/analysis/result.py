"""What every analysis returns."""

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class AnalysisResult:
    """Numbers, their picture, and what both depend on.

    Attributes:
        title: of the picture.
        how_to_read: what stands below the picture.
        summary: the finding on one line.
        facts: what the numbers depend on, and from which images they come.
        values: the numbers; arrays, and NaN where something is not defined, are allowed.
        figure: the picture.
    """

    title: str
    how_to_read: str
    summary: str
    facts: dict[str, object]
    values: dict[str, object]
    figure: Figure
