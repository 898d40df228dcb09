"""Which kind of image set lies at a path, guessed from what is there."""

from uvit_dia.config.training import LATENTS
from uvit_dia.data.file_kinds import kind_of
from uvit_dia.data.paths import data_path

OF_SUFFIX = {".npz": "npz", ".zip": "zip", ".parquet": "parquet"}


def guess_kind(path: str) -> str:
    """Return a value of `data.name` for a path; "hf" where nothing lies there."""
    place = data_path(path)
    if place.is_file():
        return OF_SUFFIX.get(place.suffix.lower(), "folder")
    if not place.is_dir():
        return "hf"
    names = {each.name for each in place.iterdir()}
    if {"description.json", "train.latents"} <= names:
        return LATENTS
    if names & {"dataset_dict.json", "state.json"}:
        return "hf"
    if any(name.startswith(("cifar-10-batches", "cifar-10-binary")) for name in names):
        return "cifar10"
    tables = any(kind_of(each.name) == "parquet" for each in place.rglob("*"))
    return "parquet" if tables else "folder"
