"""Progress bars: those of a notebook in a notebook, text everywhere else. Needs no torch."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def in_notebook() -> bool:
    """Say whether this process is the kernel of a notebook, which shows widgets."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> "tqdm":  # noqa: ANN401
    """Return a progress bar.

    Args:
        iterable: what is counted; None for a bar that is updated by hand.
        **options: those of tqdm.
    """
    if in_notebook():
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm(iterable, **options)
