"""An exported folder as a hosted Space: the demo page as its `app.py`.

What a Space reads, huggingface.co/docs/hub/spaces-config-reference says: the header of README.md,
requirements.txt, and the file that the header names.
"""

from pathlib import Path

from huggingface_hub import ModelCard, SpaceCardData

from uvit_dia import __version__

APP = "app.py"
REQUIREMENTS = "requirements.txt"
CARD = "README.md"
SDK_VERSION = "6.31.0"  # of Gradio; the one that the page is tested with
PYTHON_VERSION = "3.11"
PROGRAM = '''"""A page that shows this folder's model at work."""

from pathlib import Path

from uvit_dia.demo.server import serve_space

serve_space(Path(__file__).resolve().parent)
'''


def write_space(folder: Path, title: str, *, license: str | None) -> None:
    """Add to an exported folder what a hosted Space needs; its card keeps its text.

    Args:
        folder: that `write_folder` wrote.
        title: of the page.
        license: of the weights; None if nobody said.
    """
    (folder / APP).write_text(PROGRAM, encoding="utf-8")
    (folder / REQUIREMENTS).write_text(f"uvit_dia[demo]=={__version__}\n", encoding="utf-8")
    data = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=SDK_VERSION,
        python_version=PYTHON_VERSION,
        app_file=APP,
        license=license,
    )
    text = ModelCard.load(folder / CARD).text
    (folder / CARD).write_text(f"---\n{data.to_yaml()}\n---\n{text}", encoding="utf-8")
