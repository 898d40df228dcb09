"""An evaluation from memory beside torch-fidelity's on the same images, as PNG files.

    python -m benchmarks.evaluation --num_images 1797

All read scikit-learn's digits as reference and compute the Frechet and kernel distances, precision
and recall with the shipped extractor of digits. `metrics` and `torch_fidelity` (its
`calculate_metrics`, nothing cached) do the same work, and their Frechet distances must agree.
`first` is our evaluator with nothing cached, which adds the floor and the Gaussian mark; `again`
finds reference, floor and mark in the cache, and `torch_fidelity_cached` the reference. Loading the
extractor is part of each.
"""

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks import measure
from benchmarks.subjects import config_of
from uvit_dia.config.schema import Config
from uvit_dia.data.digits import read_digits
from uvit_dia.data.image_grid import png_bytes
from uvit_dia.data.images import ImageSet
from uvit_dia.evaluation.cache import Cache
from uvit_dia.evaluation.evaluator import Evaluator
from uvit_dia.evaluation.extractor_files import ExtractorSource, find_extractor
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.features import extract
from uvit_dia.evaluation.metrics import KID_SUBSET_SIZE, KID_SUBSETS, compute_metrics
from uvit_dia.evaluation.real_images import RealImages
from uvit_dia.system.accelerator import make_accelerator

TOLERANCE = 1e-6  # relative, between the two Frechet distances


class KnownImages:
    """Images that exist, as an evaluator asks for them; see `evaluation.Images`."""

    nfe = None

    def __init__(self, images: Tensor, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size

    def sample(self, indices: Iterable[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the images, batch by batch."""
        for part in torch.tensor(list(indices)).split(self.batch_size):
            yield part.tolist(), self.images[part]

    def facts(self) -> dict[str, object]:
        """Return nothing: they depend on no weights."""
        return {}


def main(argv: list[str]) -> None:
    """Run the benchmark; see the module's docstring."""
    parser = measure.parser(__doc__, rounds=7)
    parser.add_argument("--num_images", type=int, default=1797)
    parser.add_argument("--batch_size", type=int, default=500)
    arguments = parser.parse_args(argv)
    device = measure.prepare(arguments)
    report = measure.Report("evaluation", arguments)
    accelerator = make_accelerator()
    real = read_digits()
    if arguments.short:
        real, arguments.num_images = ImageSet("digits", real.images[:80]), 64
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(real), (arguments.num_images,), generator=generator)
    images = real.images[rows].float().mul(0.9).to(torch.uint8)  # somewhat darker than the digits
    with tempfile.TemporaryDirectory() as folder:
        variants = _variants(images, real, Path(folder), arguments, accelerator)
        ours, theirs = variants["metrics"](), variants["torch_fidelity"]()
        times = measure.in_turn(variants, **measure.rounds_of(arguments, device))
    report.times(times)
    report.compare(times, "torch_fidelity", "metrics")
    report.compare(times, "torch_fidelity", "first")
    report.compare(times, "torch_fidelity_cached", "again")
    report.compare(times, "first", "again")
    report.fact("frechet_distance", ours)
    report.fact("frechet_distance_torch_fidelity", theirs)
    if abs(ours / theirs - 1) > TOLERANCE:
        raise SystemExit(f"the two distances differ: {ours} and {theirs}")
    report.write()


def _variants(
    images: Tensor,
    real: ImageSet,
    folder: Path,
    arguments: Namespace,
    accelerator: Accelerator,
) -> dict[str, Callable[[], Any]]:
    """Return the evaluations to time; each gives its Frechet distance."""
    config = config_of("digits", device=accelerator.device)
    for name, part in (("images", images), ("real", real.images)):
        (folder / name).mkdir()
        for index, image in enumerate(part):
            (folder / name / f"{index:06d}.png").write_bytes(png_bytes(image))

    def metrics() -> float:
        extractor = Extractor(find_extractor("digits"), accelerator.device)
        features, reference = (
            extract(extractor, part.split(arguments.batch_size)) for part in (images, real.images)
        )
        found = compute_metrics(features, reference, extractor, config.eval.metrics)
        return float(found["fd"] or 0)

    def ours(cache: Path | None) -> float:
        return _measure(images, real, Cache(cache, print), config, arguments, accelerator)

    def theirs(**more: object) -> float:
        return _measure_files(folder, arguments, accelerator.device, more)

    def cached() -> float:
        return theirs(cache=True, cache_root=str(folder / "theirs"), input2_cache_name="real")

    ours(folder / "ours")
    cached()
    return {
        "metrics": metrics,
        "first": lambda: ours(None),
        "again": lambda: ours(folder / "ours"),
        "torch_fidelity": lambda: theirs(cache=False),
        "torch_fidelity_cached": cached,
    }


def _measure(
    images: Tensor,
    real: ImageSet,
    cache: Cache,
    config: Config,
    arguments: Namespace,
    accelerator: Accelerator,
) -> float:
    """Evaluate images in memory as the commands do."""
    extractor = Extractor(find_extractor("digits"), accelerator.device)
    reference = RealImages(
        extractor,
        lambda: ImageSet(real.name, real.images),  # whose hash is not known yet
        lambda: None,
        batch_size=arguments.batch_size,
        cache=cache,
        show_progress=False,
    )
    evaluator = Evaluator(
        extractor, reference, names=config.eval.metrics, shape=(1, 8, 8), show_progress=False
    )
    known = KnownImages(images, arguments.batch_size)
    evaluation = evaluator.measure(known, len(images), accelerator)
    assert evaluation is not None  # one process
    assert evaluation.value is not None
    return evaluation.value


def _measure_files(
    folder: Path, arguments: Namespace, device: torch.device, more: dict[str, Any]
) -> float:
    """Evaluate PNG files with torch-fidelity."""
    import torch_fidelity

    source = find_extractor("digits")
    found = torch_fidelity.calculate_metrics(
        input1=str(folder / "images"),
        input2=str(folder / "real"),
        cuda=device.type == "cuda",
        batch_size=arguments.batch_size,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor=_registered_for_rgb(source, device),
        feature_extractor_weights_path=str(source.path),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=min(KID_SUBSET_SIZE, arguments.num_images),
        verbose=False,
        save_cpu_ram=True,
        **more,
    )
    return float(found["frechet_inception_distance"])


def _registered_for_rgb(source: ExtractorSource, device: torch.device) -> str:
    """Register the digits extractor for RGB, which torch-fidelity makes of any PNG file."""
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    name = "digits-of-rgb"
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        Extractor(source, device)  # registers the one for grey images
        grey: Any = FEATURE_EXTRACTORS_REGISTRY[f"digits-{source.sha256[:16]}"]

        class OfRGB(grey):
            """Read the first channel, which equals the others."""

            def __init__(self, name: str, features_list: list[str], **options: Any) -> None:  # noqa: ANN401
                super().__init__(name, features_list, **{**options, "device": device})

            def forward(self, x: Tensor) -> tuple[Tensor]:
                """Return the features of (B, 3, H, W)."""
                return super().forward(x[:, :1])

        register_feature_extractor(name, OfRGB)
    return name


if __name__ == "__main__":
    main(sys.argv[1:])
