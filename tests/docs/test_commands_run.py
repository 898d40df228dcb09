"""The commands of README.md and docs/ in real processes, at a reduced size.

`make docs-commands`, minutes.

A page's commands run in the order of the page, in a folder where configs, scripts and examples lie
as in a clone, and where a tiny trained run stands for each run that a page takes for granted.
`NOT_RUN` lists what is not run, and why.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.documents import PAGES, ROOT, Command, blocks, commands, name_of
from tests.support.synthetic_sweeps import make_sweep

pytestmark = pytest.mark.slow

# Part of a command -> why it is not executed here; all have been parsed by test_commands.py.
NOT_RUN = {
    r"--push|^hf upload": "needs an account of the Hub: tests/export/test_hub.py has a stand-in",
    r"\.pth": "needs the authors' files: tests/export/test_official.py makes such",
    r"^make ": "installs or tests; tests/test_quickstart.py runs the quickstart's own lines",
    r"^pip install": "installs what is installed",
    r"^\. \.venv": "activates what make has made",
    r"^git clone|^cd ": "gets what is here",
    r"--multi_gpu": "needs several GPUs",
    r"--use_fsdp": "is run at length by tests/training/test_fsdp.py",
    r"^uvit-dia demo": "serves a page until it is interrupted: tests/demo",
    r"^srun ": "needs Slurm: tests/slurm",
    r"--cluster slurm|--status$": "needs Slurm: tests/slurm; --status is run by tests/sweep",
    r"inception-v3-compat": "needs Inception's weights: test_extractors.py has stand-ins",
    r"stabilityai/|latents": "needs an autoencoder: test_latents.py makes one",
    r"-m pytest|-m benchmarks": "is a test, or measures for minutes",
    r"--path NIH": "needs X-rays: tests/examples/test_xray.py makes some",
    r"code=|^if |^exit|^grep|^while|^case|^\d+\||^\*\)|^esac|^done": "is a line of a shell script",
}
SMALL = [
    "--config.train.num_steps=4",
    "--config.train.checkpoint_every_steps=4",
    "--config.train.log_every_steps=2",
    "--config.train.sample_every_steps=0",
    "--config.train.batch_size=8",
    "--config.train.tracker=none",
    "--config.optimizer.warmup_steps=2",
    "--config.model.embed_dim=16",
    "--config.model.depth=2",
    "--config.model.num_heads=2",
]
# Values of flags that would take long -> what stands for them.
CIFAR10 = ("configs/cifar10_uvit_dia.py", "cifar10_uvit_dia")  # it would be downloaded
VALUES: dict[str, str | dict[str, str]] = {
    "--num_images": "40",
    "--config": dict.fromkeys(CIFAR10, "configs/digits_uvit_dia.py"),
}

# An example -> what makes it short; of a flag that stands there twice, the last one holds.
EXAMPLES = {
    "analyse": ["--num_images", "40"],
    "classification": ["--depth", "14", "--num_epochs", "1"],
    "planted_digits": ["--num_train", "64", "--num_test", "16"],
    "xray": ["--depth", "8", "--num_epochs", "1"],
    "xray_cam": ["--num_images", "2"],
}


def reason_not_to_run(command: Command) -> str | None:
    """Return why a command is not executed, or None."""
    if not command.in_block:
        return "a part of a sentence, which the reader completes"
    return next((why for what, why in NOT_RUN.items() if re.search(what, command.text)), None)


def pictures(folder: Path, count: int, *, side: int, channels: int) -> None:
    """Write pictures of noise."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    shape = (count, side, side, channels)
    for index, pixels in enumerate(draw.integers(0, 256, shape, dtype=np.uint8)):
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        image.save(folder / f"{index}.png")


def reduced(name: str, words: list[str]) -> list[str]:
    """Return the arguments of a command of ours, for a run of seconds."""
    words = list(words)
    for place, word in enumerate(words[:-1]):
        known = VALUES.get(word)
        if isinstance(known, dict):
            words[place + 1] = known.get(words[place + 1], words[place + 1])
        elif known:
            words[place + 1] = known
    if name == "train":
        words += SMALL
    if name == "eval":
        words += ["--allow_few_images"]
    if name == "sample":
        words += ["--num_steps", "2"]
    if name == "sweep" and "--dry_run" not in words:
        words += ["--dry_run"]  # whole sweeps: tests/sweep/test_sweep_real.py
    if name == "analyse":
        words += {"cost": ["--num_rounds", "2"]}.get(words[0], ["--num_images", "40"])
        words = ["gates" if word == "COMMAND" else word for word in words]
    return words


def run(words: list[str], folder: Path) -> None:
    """Run a command of ours in a process; fail with its output where it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    environment |= {"HF_HOME": str(folder / ".huggingface"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def command_line(command: Command) -> list[str]:
    """Return the reduced command with this Python, and its launcher, if it has one."""
    all_words = command.words()
    if all_words[:2] == ["python", "-m"] and all_words[2].startswith("examples."):
        short = EXAMPLES[all_words[2].removeprefix("examples.")]
        return [sys.executable, *all_words[1:], *short]
    found = command.ours()
    assert found is not None, command
    name, words = found
    before = all_words[: len(all_words) - len(words)]
    before = [word for word in before if not re.match(r"[A-Z_]+=", word)]
    modules = {
        "torchrun": "torch.distributed.run",
        "accelerate": "accelerate.commands.accelerate_cli",
    }
    if before[0] == "uvit-dia":
        before = [sys.executable, "-m", "uvit_dia", *before[1:]]
    elif before[0] in modules:
        before = [sys.executable, "-m", modules[before[0]], *before[1:]]
    else:
        before = [sys.executable, *before[1:]]
    return [*before, *reduced(name, words)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with tiny runs, by the tutorial's command: without and with classes."""
    folder = tmp_path_factory.mktemp("trained")
    for config in ("digits_uvit_dia", "digits_uvit_dia_cond"):
        words = ["train.py", "--config", f"configs/{config}.py", "--workdir", str(folder / config)]
        run([sys.executable, *words, *SMALL], ROOT)
    return folder


@pytest.fixture
def clone(tmp_path: Path, trained: Path) -> Path:
    """Return a folder with what a clone has, tiny runs, and what readers bring along."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("train.py", "sample.py", "eval_fid.py", "configs", "examples", "uvit_dia"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("RUN", "RUN_WITHOUT_THE_UNIT", "runs/cifar10_uvit_dia"):
        shutil.copytree(trained / "digits_uvit_dia", folder / name)
    shutil.copytree(trained / "digits_uvit_dia_cond", folder / "runs" / "quickstart")
    pictures(folder / "IMAGES", 24, side=40, channels=3)
    pictures(folder / "OWNER" / "NAME", 24, side=40, channels=3)  # read as a local set
    pictures(folder / "SAMPLES", 40, side=8, channels=1)
    return folder


def page_commands(page: Path) -> list[Command]:
    return [command for command in commands(page) if reason_not_to_run(command) is None]


@pytest.mark.parametrize("page", [page for page in PAGES if page_commands(page)], ids=name_of)
def test_commands_of_a_page(page: Path, clone: Path) -> None:
    if "tutorial" in page.name:
        shutil.rmtree(clone / "runs" / "quickstart")  # the page makes it
    for command in page_commands(page):
        found = command.ours()
        if found and found[0] == "report":  # of a sweep with invented numbers
            make_sweep(clone / found[1][0])
        run(command_line(command), clone)


# Names that a page's Python takes for granted -> code that makes them.
EXPORTED = (
    "from uvit_dia.export.__main__ import main\nmain(['export', 'runs/quickstart', 'exported'])\n"
)
GIVEN = {
    "docs/export.md": EXPORTED,
    "docs/tutorial.md": EXPORTED,
    "README.md": "import timm\nresnet = timm.create_model('resnet26', num_classes=10)\n",
}


def python_blocks() -> Iterator[Path]:
    yield from (page for page in PAGES if list(blocks(page, ("python",))))


@pytest.mark.parametrize("page", list(python_blocks()), ids=name_of)
def test_python_of_a_page(page: Path, clone: Path) -> None:
    """In one process, in the order of the page; distances are measured on few images."""
    code = GIVEN.get(name_of(page), "") + "\n".join(code for _, code in blocks(page, ("python",)))
    code = code.replace(".evaluate(500)", ".evaluate(40, allow_few_images=True)")
    small = dict(word.removeprefix("--config.").split("=") for word in SMALL)
    changes = {key: int(value) if value.isdigit() else value for key, value in small.items()}
    code = code.replace('changes={"train.num_steps": 500}', f"changes={changes!r}")
    run([sys.executable, "-c", code], clone)


def test_only_little_is_not_run() -> None:
    in_blocks = [command for page in PAGES for command in commands(page) if command.in_block]
    ours = [command for command in in_blocks if command.ours()]
    run_here = list(filter(lambda each: reason_not_to_run(each) is None, ours))
    assert len(run_here) >= 0.6 * len(ours)
    unused = [what for what in NOT_RUN if not any(re.search(what, c.text) for c in in_blocks)]
    assert unused == []
