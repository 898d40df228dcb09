"""The model card of an exported folder.

What the model is, how good it was measured, what it is not.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from uvit_dia import __version__
from uvit_dia.config.schema import Config, SampleConfig
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.system.records import read_json_lines

PREVIEW = "samples.png"
PAPERS = "[U-ViT](https://arxiv.org/abs/2209.12152), [DIA](https://arxiv.org/abs/2210.16101)"
NAMES = {"fid": "FID", "fd": "Fréchet distance, which is not FID"}


def write_card(
    folder: Path, trained: TrainedModel, settings: SampleConfig, *, license: str | None
) -> None:
    """Write `README.md` into an exported folder."""
    config, record = trained.config, newest_record(trained.run, trained.sha256)
    data = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["diffusion", "u-vit", "uvit_dia"],
        model_name=card_title(trained),
        eval_results=None if record is None else [_result(record, config)],
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {card_title(trained)}",
        _what(trained),
        f"![Samples]({PREVIEW})" if (folder / PREVIEW).is_file() else "",
        _use(config, settings),
        _measured(record),
        _training(trained),
        _limits(record, license),
    ]
    ModelCard("\n\n".join(part for part in parts if part) + "\n").save(folder / "README.md")


def newest_record(run: Path | None, sha256: str) -> dict[str, Any] | None:
    """Return the newest evaluation of some weights in a run's `eval.jsonl`; None without one."""
    path = None if run is None else run / "eval.jsonl"
    if path is None or not path.is_file():
        return None
    records = list(read_json_lines(path).rows.values())
    found = [record for record in records if record.get("weights_sha256") == sha256]
    return found[-1] if found else None


def card_title(trained: TrainedModel) -> str:
    """Return what a model is called: its unit, its data and their size."""
    config = trained.config
    unit = "" if config.model.attention == "none" else f" with {config.model.attention}"
    return f"U-ViT{unit}, {config.data.name}, {config.model.img_size}x{config.model.img_size}"


def _what(trained: TrainedModel) -> str:
    config = trained.config
    weights = sum(each.numel() for each in trained.model.parameters())
    kind = (
        f"told one of {config.num_data_classes} classes"
        if config.is_conditional
        else "without classes"
    )
    return (
        f"A diffusion model of {weights:,} weights, {kind}, made with "
        f"[uvit_dia](https://github.com/uvit-dia/uvit_dia) {__version__} ({PAPERS})."
    )


def _use(config: Config, settings: SampleConfig) -> str:
    labels = ", class_labels=3, guidance_scale=2.0" if config.null_class is not None else ""
    return f"""## Use

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("THIS_FOLDER_OR_ID", trust_remote_code=True)
images = pipe(num_images=4, seed=0{labels}).images  # {settings.sampler}, {settings.num_steps} steps
```

Its code is two files in this folder, which need torch, diffusers and einops. With uvit_dia
installed, `uvit_dia.load("THIS_FOLDER_OR_ID")` reads the weights and runs none of that code."""


def _measured(record: dict[str, Any] | None) -> str:
    if record is None:
        return "## Measured\n\nNothing was measured of these weights."
    rows = [
        (NAMES.get(str(record.get("metric")), str(record.get("metric"))), record.get("value")),
        ("of N samples", record.get("num_images")),
        ("floor: as many real images", record.get("floor")),
        ("a Gaussian in pixels", record.get("gaussian_mark")),
        ("precision, recall", [record.get("precision"), record.get("recall")]),
        ("sampler", f"{record.get('sampler')}, {record.get('num_steps')} steps"),
        ("network calls an image", record.get("nfe")),
        ("extractor", f"{record.get('extractor')}, SHA-256 {record.get('extractor_sha256')}"),
        ("reference", f"{record.get('reference')}, SHA-256 {record.get('reference_sha256')}"),
    ]
    if "guidance_scale" in record:
        rows.append(("guidance scale, labels", [record["guidance_scale"], record["class_labels"]]))
    lines = "\n".join(f"| {name} | {_shown(value)} |" for name, value in rows)
    return f"## Measured\n\n| | |\n| --- | --- |\n{lines}"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)


def _training(trained: TrainedModel) -> str:
    if trained.weights == "official":
        return "## Training\n\nThe U-ViT authors' weights, read from their file."
    config = trained.config
    settings = {
        "seed": config.seed,
        "steps": trained.step,
        "batch size": config.train.batch_size,
        **config.optimizer.to_dict(),
        **{f"diffusion.{name}": value for name, value in config.diffusion.to_dict().items()},
    }
    images = "" if trained.data is None else f", of {trained.data.num_images} images"
    text = json.dumps(settings, indent=2)
    return f"## Training\n\n{trained.named_weights}{images}.\n\n```json\n{text}\n```"


def _limits(record: dict[str, Any] | None, license: str | None) -> str:
    lines = ["It draws images like those that it was trained on, and nothing else."]
    if record is not None and record.get("metric") != "fid":
        lines.append("Its distance was not measured with Inception and compares with no FID.")
    if license is None:
        lines.append("Who exported it stated no licence: ask them before you use it.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _result(record: dict[str, Any], config: Config) -> EvalResult:
    return EvalResult(
        task_type="unconditional-image-generation",
        dataset_type=config.data.name,
        dataset_name=str(record.get("reference")),
        metric_type=str(record.get("metric")),
        metric_name=NAMES.get(str(record.get("metric"))),
        metric_value=record.get("value"),
    )
