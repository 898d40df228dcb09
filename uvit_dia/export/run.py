"""From a trained model to a folder that diffusers loads, and to the Hub."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from uvit_dia import __version__
from uvit_dia.config.files import to_plain
from uvit_dia.config.sampling import VP_SDE_SAMPLERS
from uvit_dia.config.schema import Config, SampleConfig
from uvit_dia.export.arguments import ExportArguments
from uvit_dia.export.bundle import bundle
from uvit_dia.export.card import PREVIEW, card_title, write_card
from uvit_dia.export.pipeline import MODEL_FILE, PIPELINE_FILE
from uvit_dia.export.space import write_space
from uvit_dia.runs.exported import DESCRIPTION, WEIGHTS
from uvit_dia.runs.hub import told_by_the_hub
from uvit_dia.runs.open_model import open_model
from uvit_dia.runs.sources import INDEX
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.sampling.safeguards import safeguards
from uvit_dia.sampling.schedulers import Scheduler, make_scheduler
from uvit_dia.system.errors import InputError, StorageError
from uvit_dia.system.files import sha256_file, write_json
from uvit_dia.system.messages import clip


def export(arguments: ExportArguments) -> None:
    """Write the folder, whole or not at all; upload it if asked.

    Raises:
        InputError: if the model cannot be read, is no pipeline of diffusers, or the Hub refuses it.
        StorageError: if the folder cannot be written.
    """
    trained = open_model(
        arguments.source,
        config=arguments.config,
        use_ema=arguments.use_ema,
        flag="export",
    )
    if trained.config.is_latent:
        raise InputError(
            "export: the pipeline has no autoencoder, and this run is of latents; `sample.py` "
            "decodes them"
        )
    if ":" in trained.config.model.attention:
        raise InputError(
            f"export: the unit {clip(trained.config.model.attention, 60)} is of a module of yours, "
            "which the exported code does not hold"
        )
    with _whole_or_nothing(arguments.target) as folder:
        write_folder(folder, trained, license=arguments.license)
        if arguments.space:
            write_space(folder, card_title(trained), license=arguments.license)
    print(f"{arguments.target}: {trained.named_weights}; load it by")
    print(f'  DiffusionPipeline.from_pretrained("{arguments.target}", trust_remote_code=True)')
    if arguments.repository is not None:
        print(push(arguments.target, arguments.repository, private=arguments.private))


def write_folder(folder: Path, trained: TrainedModel, *, license: str | None) -> None:
    """Write weights, scheduler, code, index and card of a model into a folder that is there."""
    config = trained.config
    settings = _sampler(config)
    trained.model.save_pretrained(folder / "unet")
    scheduler = make_pipeline_scheduler(settings, config)
    scheduler.save_pretrained(folder / "scheduler")
    sources = {
        "unet/" + MODEL_FILE: "uvit_dia.models.uvit",
        PIPELINE_FILE: "uvit_dia.export.pipeline",
    }
    for name, module in sources.items():
        (folder / name).write_text(bundle(module), encoding="utf-8")
    write_json(folder / INDEX, _index(folder, trained, settings, scheduler))
    preview = _preview(trained.run)
    if preview is not None:
        shutil.copyfile(preview, folder / PREVIEW)
    write_card(folder, trained, settings, license=license)


def make_pipeline_scheduler(settings: SampleConfig, config: Config) -> Scheduler:
    """Make the scheduler of a pipeline, with what `sample.py` does beyond the sampler's name."""
    guards = safeguards(settings, config.diffusion)
    return make_scheduler(settings, config.diffusion, karras_sigma_max=guards.karras_sigma_max)


def _sampler(config: Config) -> SampleConfig:
    """Return the sampler of the config; where diffusers has none of its kind, ddpm in all steps."""
    if config.sample.sampler not in VP_SDE_SAMPLERS:
        return config.sample
    total = config.diffusion.num_train_timesteps
    return replace(config.sample, sampler="ddpm", num_steps=total, variance_type="fixed_large")


def _index(
    folder: Path, trained: TrainedModel, settings: SampleConfig, scheduler: Scheduler
) -> dict[str, Any]:
    """Return what `model_index.json` holds: for diffusers, and under its own key for us."""
    import diffusers

    config = trained.config
    plain = to_plain(config)
    plain["data"] |= {"path": ""}  # of this machine, and nobody else's concern
    plain["eval"] |= {"weights": ""}
    if plain["eval"]["extractor"].startswith("pt2:"):
        plain["eval"]["extractor"] = "inception-v3-compat"
    return {
        "_class_name": [Path(PIPELINE_FILE).stem, "UViTPipeline"],
        "_diffusers_version": diffusers.__version__,
        "unet": [Path(MODEL_FILE).stem, "UViT"],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "num_steps": settings.num_steps,
        "null_class": config.null_class,
        "time_labels": config.diffusion.time_labels,
        "clip_sample": settings.clip_sample,
        DESCRIPTION: {
            "version": __version__,
            "config": plain,
            "step": trained.step,
            "weights": trained.weights,
            "weights_sha256": sha256_file(folder / WEIGHTS),
            "data": None if trained.data is None else trained.data.as_dict(),
        },
    }


def _preview(run: Path | None) -> Path | None:
    """Return the newest sample grid of a run."""
    found = [] if run is None else sorted((run / "samples").glob("step_*.png"))
    return found[-1] if found else None


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    """Give a folder beside the target, which takes the target's place at the end."""
    parent = target.absolute().parent
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=parent))
    except OSError as error:
        raise StorageError(f"export: cannot write to {parent}: {error.strerror}") from error
    try:
        yield folder
        folder.chmod(0o755)
        if target.is_dir():
            target.rmdir()  # it is empty
        folder.replace(target)
    except OSError as error:
        raise StorageError(f"export: cannot write {target}: {error.strerror or error}") from error
    finally:
        if folder.exists():
            shutil.rmtree(folder)


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload an exported folder; return its address.

    Raises:
        InputError: if the Hub cannot be reached or refuses it.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="uvit_dia", library_version=__version__)
    with told_by_the_hub(f"--push {repository}: {folder} is whole, but the Hub did not take it"):
        api.create_repo(repository, private=private, exist_ok=True)
        told = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Export of uvit_dia"
        )
    return str(told)
