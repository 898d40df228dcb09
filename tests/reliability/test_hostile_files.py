"""Files that somebody else left there: none of them is executed, none takes the machine down."""

import contextlib
import io
import json
import resource
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from tests.runs.test_checkpoint import forge
from tests.support.figures import RecordFigure
from tests.support.forked import Child
from tests.support.image_sets import load, png_of_size
from tests.support.runs import step_folder, tiny_trainer, tree
from tests.support.synthetic_sweeps import make_sweep
from uvit_dia.config.files import read_config_json
from uvit_dia.data.images import ImageSet
from uvit_dia.evaluation.cache import Cache
from uvit_dia.evaluation.extractor_files import INCEPTION, find_extractor
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.features import reference_features
from uvit_dia.report.results import read_results, results_csv
from uvit_dia.runs.checkpoint import newest_valid, verify
from uvit_dia.runs.folder import RunFolder, read_metrics
from uvit_dia.runs.trained_model import find_checkpoint, load_trained
from uvit_dia.sampling.image_files import PngFolder
from uvit_dia.sweep.status import read_status
from uvit_dia.system.errors import CommandError, InputError
from uvit_dia.system.files import sha256_file

pytestmark = pytest.mark.reliability
LAST = 12  # step of the newest checkpoint of a tiny run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    tiny_trainer(path).fit()
    return path


def replace_in_checkpoint(run: Path, name: str, content: bytes) -> Path:
    """Replace a file of the newest checkpoint, with a manifest that fits it."""
    folder = step_folder(run, LAST)
    (folder / name).write_bytes(content)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    fact = {"bytes": len(content), "sha256": sha256_file(folder / name)}
    forge(folder, files={**files, name: fact})
    return folder


# ---------------------------------------------------------------- planted code


def planted(canary: Path) -> bytes:
    """Return a pickle, as torch.save writes it, that makes a file when it is loaded."""

    class Planted:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
            return open, (str(canary), "w")

    buffer = io.BytesIO()
    torch.save(Planted(), buffer)
    return buffer.getvalue()


def as_tensors(name: str) -> Callable[[Path, bytes], object]:
    def read(run: Path, payload: bytes) -> None:
        replace_in_checkpoint(run, f"{name}.safetensors", payload)
        tiny_trainer(run).resume()

    return read


def as_weights(run: Path, payload: bytes) -> None:
    replace_in_checkpoint(run, "ema.safetensors", payload)
    load_trained(find_checkpoint(run, pytest.fail))


def as_manifest(run: Path, payload: bytes) -> None:
    (step_folder(run, LAST) / "manifest.json").write_bytes(payload)
    verify(step_folder(run, LAST))


def as_config_of_a_run(run: Path, payload: bytes) -> None:
    (run / "config.json").write_bytes(payload)
    read_config_json(run / "config.json")


def as_config_of_a_checkpoint(run: Path, payload: bytes) -> None:
    load_trained(verify(replace_in_checkpoint(run, "config.json", payload)))


def as_log(run: Path, payload: bytes) -> None:
    (run / "metrics.jsonl").write_bytes(payload)
    RunFolder(run).truncate_metrics(LAST)


def as_owner_of_a_lock(run: Path, payload: bytes) -> None:
    (run / ".lock-owner").write_bytes(payload)
    folder, second = RunFolder(run), RunFolder(run)
    folder.lock()
    (run / ".lock-owner").write_bytes(payload)
    second.lock()


def as_samples(run: Path, payload: bytes) -> None:
    (run / "samples").mkdir()
    (run / "samples" / "samples.json").write_bytes(payload)
    PngFolder(run / "samples", {})


def as_feature_cache(run: Path, payload: bytes) -> None:
    extractor = Extractor(find_extractor("digits"), "cpu")
    images = ImageSet("planted", torch.zeros(4, 1, 8, 8, dtype=torch.uint8))

    def read() -> None:
        cache = Cache(run / "cache", warn=str)
        reference_features(images, extractor, batch_size=4, cache=cache)
        cache.numbers("planted", "key", dict)

    read()
    files = [path for path in (run / "cache").rglob("*") if path.is_file()]
    assert len(files) == 2
    for file in files:
        file.write_bytes(payload)
    read()


def as_inception(run: Path, payload: bytes) -> None:
    (run / "weights.pth").write_bytes(payload)
    find_extractor(INCEPTION, str(run / "weights.pth"))


def as_program(run: Path, payload: bytes) -> None:
    (run / "program.pt2").write_bytes(payload)
    find_extractor(f"pt2:{run / 'program.pt2'}")


def as_parquet(run: Path, payload: bytes) -> None:
    (run / "train.parquet").write_bytes(payload)
    load("parquet", run)


def as_cell_of_a_parquet(run: Path, payload: bytes) -> None:
    table = pyarrow.table({"img": [{"bytes": payload, "path": None}], "label": [0]})
    pyarrow.parquet.write_table(table, run / "train.parquet")
    load("parquet", run)


def as_image(run: Path, payload: bytes) -> None:
    (run / "images").mkdir()
    (run / "images" / "a.png").write_bytes(payload)
    load("folder", run / "images")


def as_archive(run: Path, payload: bytes) -> None:
    (run / "cifar-10-binary.tar.gz").write_bytes(payload)
    load("cifar10", run)


def in_a_sweep(name: str) -> Callable[[Path, bytes], object]:
    def read(run: Path, payload: bytes) -> None:
        sweep = run / "sweep"
        make_sweep(sweep, batch_sizes=(32,), seeds=(0,))
        if name == "sweep.json":
            (sweep / name).write_bytes(payload)
        else:
            file = sweep / "cells" / "uvit-b0032-s0" / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(payload)
        with contextlib.suppress(InputError):
            read_status(sweep)
        results_csv(read_results(sweep))

    return read


READERS: dict[str, Callable[[Path, bytes], object]] = {
    "model.safetensors": as_tensors("model"),
    "ema.safetensors": as_tensors("ema"),
    "optimizer.safetensors": as_tensors("optimizer"),
    "window.safetensors": as_tensors("window"),
    "weights to sample from": as_weights,
    "manifest.json": as_manifest,
    "config.json of a run": as_config_of_a_run,
    "config.json of a checkpoint": as_config_of_a_checkpoint,
    "metrics.jsonl": as_log,
    ".lock-owner": as_owner_of_a_lock,
    "samples.json": as_samples,
    "feature cache": as_feature_cache,
    "Inception weights": as_inception,
    ".pt2 program": as_program,
    "parquet file": as_parquet,
    "image in a parquet file": as_cell_of_a_parquet,
    "image": as_image,
    "CIFAR-10 archive": as_archive,
    "sweep.json": in_a_sweep("sweep.json"),
    "cell.json": in_a_sweep("cell.json"),
    "status.json of a cell": in_a_sweep("status.json"),
    "eval.jsonl of a cell": in_a_sweep("eval.jsonl"),
    "metrics.jsonl of a cell": in_a_sweep("metrics.jsonl"),
}


@pytest.mark.reliability("G7", "kinds of planted files that execute nothing", at_least=20)
@pytest.mark.parametrize("kind", READERS)
def test_nothing_that_is_read_is_executed(tmp_path: Path, trained: Path, kind: str) -> None:
    run, canary = tmp_path / "in" / "run", tmp_path / "canary"
    payloads = {
        "pickle": planted(canary),
        "shell": f"$(touch {canary}) `touch {canary}`\n".encode(),
        "code": f"__import__('pathlib').Path({str(canary)!r}).touch()\n".encode(),
        "JSON": json.dumps({"step": 1, "py/object": "os.system", "x": f"${{{canary}}}"}).encode(),
    }
    for payload in payloads.values():
        shutil.copytree(trained, run)
        with contextlib.suppress(CommandError):  # any other error is a traceback
            READERS[kind](run, payload)
        assert not canary.exists()
        assert set(tree(tmp_path)) == {f"in/run/{name}" for name in tree(run)}  # and none outside
        shutil.rmtree(run)


def test_the_payload_is_live(tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    torch.load(io.BytesIO(planted(tmp_path / "canary")), weights_only=False)
    assert (tmp_path / "canary").exists()


# ---------------------------------------------------------------- bombs

MEGABYTE = 2**20


def picture(width: int, height: int) -> Callable[[Path], object]:
    def plant(run: Path) -> None:
        (run / "images").mkdir()
        (run / "images" / "a.png").write_bytes(png_of_size(width, height))

    return plant


def read_pictures(run: Path) -> None:
    load("folder", run / "images", resize=True)


def long_program(run: Path) -> None:
    """Write 300 MB of zeros as the model of a program: 1.3 MB on disk."""
    with zipfile.ZipFile(run / "bomb.pt2", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("bomb/models/model.json", bytes(300 * MEGABYTE))


def program_of_a_large_tensor(run: Path) -> None:
    """Write a tensor of 256 MB, compressed, as the sample input of a program."""
    tensors, small = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(2**26), tensors)
    with (
        zipfile.ZipFile(tensors) as saved,
        zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as to,
    ):
        for name in saved.namelist():
            to.writestr(name, saved.read(name))
    with zipfile.ZipFile(run / "bomb.pt2", "w") as archive:
        archive.writestr("bomb/models/model.json", "{}")
        archive.writestr("bomb/data/sample_inputs/model.pt", small.getvalue())


def read_program(run: Path) -> None:
    find_extractor(f"pt2:{run / 'bomb.pt2'}")


def weights(header: str, length: int | None = None) -> Callable[[Path], object]:
    """Return what plants a safetensors file of a header alone."""
    content = header.encode()
    file = (len(content) if length is None else length).to_bytes(8, "little") + content
    return lambda run: replace_in_checkpoint(run, "ema.safetensors", file)


def read_weights(run: Path) -> None:
    load_trained(verify(step_folder(run, LAST)))


def sparse(name: str) -> Callable[[Path], object]:
    """Return what makes a file of 8 GB that takes no space."""

    def plant(run: Path) -> None:
        with (run / name).open("wb") as file:
            file.truncate(8 * 2**30)

    return plant


def deep(run: Path) -> None:
    (run / "config.json").write_bytes(b'{"a":' * 100_000)


MANIFEST = f"checkpoints/step_{LAST:08d}/manifest.json"
ABSURD = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}
BOMBS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "picture of 3.6 gigapixels": (picture(60_000, 60_000), read_pictures),
    "picture of 17 megapixels": (picture(4097, 4096), read_pictures),
    "program of 300 MB": (long_program, read_program),
    "tensor of 256 MB in a program": (program_of_a_large_tensor, read_program),
    "safetensors of 2^63 bytes": (weights("{}", 2**63), read_weights),
    "safetensors of 10^12 numbers": (weights(json.dumps({"x": ABSURD})), read_weights),
    "config of 8 GB": (sparse("config.json"), lambda run: read_config_json(run / "config.json")),
    "config nested 100,000 deep": (deep, lambda run: read_config_json(run / "config.json")),
    "manifest of 8 GB": (sparse(MANIFEST), read_weights),
    "sweep of 8 GB": (sparse("sweep.json"), read_status),
}


def _defuse(bomb: str, run: Path) -> None:
    """Print how much memory and time a refusal takes."""
    _, read = BOMBS[bomb]
    before, started = _peak_bytes(), time.monotonic()
    try:
        read(run)
    except InputError as error:
        seconds = time.monotonic() - started
        print(json.dumps([_peak_bytes() - before, seconds, str(error)]))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_bombs_are_refused_in_little_memory_and_time(
    tmp_path: Path, trained: Path, record_figure: RecordFigure
) -> None:
    peaks, times = [], []
    for bomb, (prepare, _) in BOMBS.items():
        run = tmp_path / "run"
        shutil.copytree(trained, run)
        prepare(run)
        finished = Child(_defuse, bomb, run).wait()
        assert finished.exit_code == 0, (bomb, finished.stderr)
        assert finished.stdout, f"{bomb} was not refused"
        peak, seconds, _ = json.loads(finished.stdout)
        peaks.append(peak / 1e6)
        times.append(seconds)
        shutil.rmtree(run)
    record_figure("G8", "bombs refused", len(peaks), f"== {len(BOMBS)}")
    record_figure("G8", "most memory that a refusal took (MB)", max(peaks), "<= 200")
    record_figure("G8", "longest refusal (s)", max(times), "<= 2", is_timing=True)
    assert newest_valid(trained / "checkpoints", pytest.fail) is not None
    assert read_metrics(trained / "metrics.jsonl")
