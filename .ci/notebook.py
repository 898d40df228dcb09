"""Run the notebook from its first cell to its last, and keep what it showed.

    python .ci/notebook.py            # writes outputs into notebooks/quickstart.ipynb
    python .ci/notebook.py --check    # writes nothing: does it run, and are its outputs there?

Times, bars and paths of this machine are left out of what is kept.
"""

import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "quickstart.ipynb"
CELL_SECONDS = 600  # that a cell may take
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/[\w.-]+/\S*")


def cleaned(outputs: list) -> list:
    """Return the outputs of a cell without bars, warnings and paths."""
    kept = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue  # bars and warnings
            output.text = ABSOLUTE_PATH.sub("FOLDER", output.text)
        data = output.get("data", {})
        if "application/vnd.jupyter.widget-view+json" in data:
            continue
        kept.append(output)
    return kept


def main() -> None:
    """Run the notebook; exit with 1 if it has no outputs to show."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    has_outputs = any(cell.get("outputs") for cell in notebook.cells)
    started = time.monotonic()
    client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3")
    client.execute(cwd=str(NOTEBOOK.parent))
    seconds = time.monotonic() - started
    print(f"{NOTEBOOK.name}: {len(notebook.cells)} cells in {seconds:.0f} s")
    if "--check" in sys.argv[1:]:
        if not has_outputs:
            print("it is stored without outputs; run python .ci/notebook.py", file=sys.stderr)
            sys.exit(1)
        return
    for cell in notebook.cells:
        cell.metadata = {}  # times of execution
        if cell.cell_type == "code":
            cell.outputs = cleaned(cell.outputs)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
