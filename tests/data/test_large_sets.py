"""Memory-mapped sets as they grow.

What a second start takes, and what stays in memory, extrapolated to a million.
"""

import io
import json
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from tests.support.forked import Child
from tests.support.image_sets import encoded, pixels
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.data.sources import load_image_set

SIDE, BATCH = 64, 64
SMALL, LARGE, MILLION = 1_000, 6_000, 1_000_000
# of this process's CPU time, for a second start with a million images; one file each takes more,
# and 6 s were measured, beside other work
SECONDS = {"parquet": 5.0, "folder": 12.0}
# bytes of anonymous memory that the larger set may take more; its pixels are 61e6 more
GROWTH = 20e6


def table(path: Path, count: int) -> Path:
    """Write images, 64x64 with a label each, as one parquet file."""
    rows = []
    for index in range(count):
        pixels = np.full((SIDE, SIDE, 3), index % 251, np.uint8)
        pixels[0, :2] = np.frombuffer(index.to_bytes(6, "little"), np.uint8).reshape(2, 3)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        rows.append({"bytes": buffer.getvalue(), "path": None})
    path.mkdir()
    labels = [index % 10 for index in range(count)]
    pyarrow.parquet.write_table(
        pyarrow.table({"image": rows, "label": labels}), path / "train-00000-of-00001.parquet"
    )
    return path


def folder(path: Path, count: int) -> Path:
    """Write images, 64x64, as one file each, in ten classes."""
    content = encoded(pixels(0, SIDE))
    for label in range(10):
        (path / f"class_{label}").mkdir(parents=True)
    for index in range(count):
        (path / f"class_{index % 10}" / f"{index:08d}.png").write_bytes(content)
    return path


def anonymous_bytes() -> int:
    """Return this process's memory without pages of files, which the system takes back at will."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def start_and_read(name: str, path: Path) -> None:
    """Print the CPU time to the first batch, and the memory after a walk through the set."""
    seconds = []
    for _ in range(5):
        started = time.process_time()
        images = load_image_set(
            *(name, str(path), "train"),
            img_size=SIDE,
            in_chans=3,
            show_progress=False,
            memory_map=True,
        )
        assert images is not None
        batches = TrainingBatches(
            images, BATCH, seed=0, random_flip=True, device=torch.device("cpu")
        )
        batches.x_0(0, range(BATCH))
        seconds.append(time.process_time() - started)
    for step in range(len(images) // BATCH):
        batches.x_0(step, range(BATCH))
    print(json.dumps({"seconds": min(seconds), "bytes": anonymous_bytes(), "notes": images.notes}))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", ["parquet", pytest.param("folder", marks=pytest.mark.slow)])
def test_a_million_images_start_at_once_and_stay_on_the_disk(
    name: str, tmp_path: Path, own_cache: Path
) -> None:
    found = {}
    for count in (SMALL, LARGE):
        path = (table if name == "parquet" else folder)(tmp_path / str(count), count)
        environment = {"UVIT_DIA_CACHE": str(own_cache)}
        first = Child(start_and_read, name, path, environment=environment).wait()
        assert first.exit_code == 0, first.stderr
        second = Child(start_and_read, name, path, environment=environment).wait()
        assert second.exit_code == 0, second.stderr
        found[count] = json.loads(second.stdout.splitlines()[-1])
        assert "memory-mapped" in " ".join(found[count]["notes"])
    a_image = (found[LARGE]["seconds"] - found[SMALL]["seconds"]) / (LARGE - SMALL)
    assert found[SMALL]["seconds"] + a_image * MILLION < SECONDS[name], found
    assert found[LARGE]["bytes"] - found[SMALL]["bytes"] < GROWTH, found
