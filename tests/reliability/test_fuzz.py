"""Input that a machine made up.

Accepted, or refused in one line; never a traceback, a hang or a file elsewhere.
"""

import contextlib
import io
import json
import os
import string
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

import eval_fid
import sample
import train
from tests.runs.test_checkpoint import seal
from tests.support.image_sets import load
from tests.support.runs import step_folder, tiny_config, tiny_trainer, tree
from tests.support.synthetic_sweeps import make_sweep
from uvit_dia.config.checks import make_config
from uvit_dia.config.files import read_config_json, to_plain
from uvit_dia.config.schema import RULES
from uvit_dia.report import __main__ as report
from uvit_dia.report.results import read_results, results_csv
from uvit_dia.runs.checkpoint import verify
from uvit_dia.runs.folder import RunFolder
from uvit_dia.runs.trained_model import load_trained
from uvit_dia.sweep import __main__ as sweep
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import sha256_file

pytestmark = pytest.mark.reliability
KEYS = sorted(RULES)
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "digits_uvit_dia.py"

# The same examples every time, so that a change fails for what it changed; FUZZ_EXAMPLES=5000 looks
# further.
fuzz = settings(
    derandomize=True,
    database=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")),
    deadline=5000,  # ms of one example
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
numbers = st.integers() | st.floats() | st.integers(-3, 3) | st.sampled_from([2**31, 10**30])
plain = st.none() | st.booleans() | numbers | st.text(max_size=30)
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Let an `InputError`, which commands print on one line, pass; anything else fails the test."""
    try:
        yield
    except InputError as error:
        assert str(error).strip()
        assert "Traceback" not in str(error)


def mutate(draw: Callable[..., Any], content: bytes) -> bytes:
    """Cut, overwrite or repeat a part of a file."""
    start = draw(st.integers(0, len(content)))
    length = draw(st.integers(0, 64))
    middle = draw(
        st.binary(max_size=64) | st.just(b"") | st.just(content[start : start + length] * 2)
    )
    return content[:start] + middle + content[start + length :]


# ---------------------------------------------------------------- configs and command lines


@fuzz
@given(data=st.data())
def test_config_values(data: st.DataObject) -> None:
    tree = tiny_config().to_dict()
    for key in data.draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3)):
        *groups, leaf = key.split(".")
        group = tree
        for name in groups:
            group = group[name]
        group[leaf] = data.draw(values)
    try:
        config = ConfigDict(tree)
    except ValueError:  # ml_collections itself refuses a dot in a name
        return
    with refused():
        make_config(config.to_dict())


@fuzz
@given(data=st.data())
def test_config_files_of_runs(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "config.json"
    plain = json.dumps(to_plain(tiny_config())).encode()
    content = data.draw(
        st.binary(max_size=200)
        | values.map(lambda value: json.dumps(value).encode())
        | st.just(mutate(data.draw, plain))
    )
    path.write_bytes(content)
    with refused():
        read_config_json(path)


class RunStarts(Exception):
    """The command line was accepted, and the command would do its work now."""


words = (
    st.text(string.printable, max_size=20)
    | st.sampled_from(["--", "-", "--config", "--checkpoint=.", "--workdir=w", "--output=o"])
    | st.builds(
        "--{}{}={}".format,
        st.sampled_from(["", "no"]),
        st.sampled_from(
            [f"config.{key}" for key in KEYS]
            + ["num_images", "num_steps", "seed", "use_ema", "sampler", "batch_size", "extractor"]
            + ["max_parallel", "cluster", "dry_run", "allow_other_world_size", "nothing", "help"]
        ),
        st.text(string.printable, max_size=12) | numbers.map(str),
    )
)
MAINS: dict[str, Callable[[list[str]], None]] = {
    "train": train.main,
    "sample": sample.main,
    "eval_fid": eval_fid.main,
    "sweep": sweep.main,
    "report": report.main,
}


@pytest.mark.parametrize("command", MAINS)
@fuzz
@given(arguments=st.lists(words, max_size=4), with_config=st.booleans())
def test_command_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    arguments: list[str],
    with_config: bool,
) -> None:
    def start(path: Path) -> None:
        raise RunStarts

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("uvit_dia.runs.folder.RunFolder", start)
    first = [f"--config={CONFIG}"] if with_config and command in ("train", "sweep") else []
    output = io.StringIO()
    with refused(), contextlib.redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(RunStarts):
            try:
                MAINS[command]([f"{command}.py", *first, *arguments])
            except SystemExit as end:  # --help
                assert end.code == 0
                assert "Flags:" in output.getvalue()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    tiny_trainer(path).fit()
    return path


@fuzz
@given(data=st.data())
def test_manifests(trained: Path, data: st.DataObject) -> None:
    path = step_folder(trained, 12) / "manifest.json"
    whole = path.read_bytes()
    others = {name: sha for name, sha in tree(trained).items() if not name.endswith(path.name)}
    manifest = json.loads(whole)
    kind = data.draw(st.sampled_from(["bytes", "key", "file", "seal"]))
    if kind == "bytes":
        path.write_bytes(mutate(data.draw, whole))
    elif kind == "key":
        manifest[data.draw(st.sampled_from([*manifest, "another"]))] = data.draw(values)
        path.write_text(seal(manifest))
    elif kind == "file":
        manifest["files"][
            data.draw(st.sampled_from([*manifest["files"], "../x", "/etc/passwd"]))
        ] = data.draw(values)
        path.write_text(seal(manifest))
    else:
        path.write_text(seal({"format": 1, **data.draw(st.dictionaries(st.text(), values))}))
    try:
        with refused():
            verify(path.parent)
        found = {name: sha for name, sha in tree(trained).items() if not name.endswith(path.name)}
        assert found == others
    finally:
        path.write_bytes(whole)


@fuzz
@given(data=st.data())
def test_tensor_files_whose_manifest_fits(trained: Path, data: st.DataObject) -> None:
    """Whoever can write a file can write its hash: what is read then must still be data."""
    folder = step_folder(trained, 12)
    name = data.draw(st.sampled_from(["ema.safetensors", "config.json"]))
    before = {file: (folder / file).read_bytes() for file in (name, "manifest.json")}
    try:
        (folder / name).write_bytes(mutate(data.draw, before[name]))
        manifest = json.loads(before["manifest.json"])
        manifest["files"][name] = {
            "bytes": (folder / name).stat().st_size,
            "sha256": sha256_file(folder / name),
        }
        (folder / "manifest.json").write_text(seal(manifest))
        with refused():
            load_trained(verify(folder))
    finally:
        for file, content in before.items():
            (folder / file).write_bytes(content)


# ---------------------------------------------------------------- images


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


IMAGES = {kind: encoded(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")}


@fuzz
@given(data=st.data(), kind=st.sampled_from(sorted(IMAGES)), resize=st.booleans())
def test_image_files(tmp_path: Path, data: st.DataObject, kind: str, resize: bool) -> None:
    content = data.draw(st.binary(max_size=200) | st.just(mutate(data.draw, IMAGES[kind])))
    (tmp_path / "a.png").write_bytes(content)
    with refused(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load("folder", tmp_path, resize=resize)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


columns = st.sampled_from(["img", "image", "label", "other", "bytes"])
cells = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(list(IMAGES.values()))
    | st.binary(max_size=20)
    | st.fixed_dictionaries({"bytes": st.sampled_from(list(IMAGES.values())) | st.none()})
)


@fuzz
@given(data=st.data())
def test_parquet_files(tmp_path: Path, data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 3))
    table = {
        name: [data.draw(st.shared(cells, key=name))] * rows
        for name in data.draw(st.lists(columns, unique=True, max_size=3))
    }
    buffer = io.BytesIO()
    with contextlib.suppress(pyarrow.ArrowException):  # not every list is a column
        pyarrow.parquet.write_table(pyarrow.table(table), buffer)
    content = buffer.getvalue()
    if data.draw(st.booleans()):
        content = mutate(data.draw, content)
    (tmp_path / "train.parquet").write_bytes(content)
    with refused(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load("parquet", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


# ---------------------------------------------------------------- logs

log_values = st.dictionaries(
    st.sampled_from(["step", "loss", "grad_norm", "grad_norm_std", "seed", "fd", "metric"])
    | st.text(max_size=5),
    values,
    max_size=5,
)
lines = st.binary(max_size=60) | (log_values | values).map(lambda value: json.dumps(value).encode())


@fuzz
@given(content=st.lists(lines, max_size=6).map(b"\n".join))
def test_logs_that_are_gone_on_with(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with refused():
        RunFolder(tmp_path).truncate_metrics(5)
        again = (tmp_path / "metrics.jsonl").read_bytes()
        RunFolder(tmp_path).truncate_metrics(5)
        assert (tmp_path / "metrics.jsonl").read_bytes() == again
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("swept")
    make_sweep(path, batch_sizes=(32,), seeds=(0,))
    return path


@fuzz
@given(
    content=st.lists(lines, max_size=6).map(b"\n".join),
    name=st.sampled_from(
        ["metrics.jsonl", "eval.jsonl", "cell.json", "status.json", "config.json", "env.json"]
    ),
)
def test_files_of_a_sweep_that_the_report_reads(swept: Path, content: bytes, name: str) -> None:
    path = swept / "cells" / "uvit-b0032-s0" / name
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        results_csv(read_results(swept))  # what is wrong with a cell is told beside it
    finally:
        path.write_bytes(before)
