"""Which kind of image set lies at a path, guessed from what is there."""

import re

from uvit_dia.config.training import LATENTS
from uvit_dia.data.file_kinds import kind_of
from uvit_dia.data.paths import data_path

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:.+)?")  # OWNER/NAME:CONFIG
OF_SUFFIX = {".npz": "npz", ".zip": "zip", ".parquet": "parquet"}


def guess_kind(path: str) -> str:
    """Return a value of `data.name` for a path.

    Where nothing lies there, that is "hf" for what may be a set on the Hub, OWNER/NAME, and
    "folder" for what looks like a path with a mistake, which is then told without asking the Hub.
    """
    place = data_path(path)
    if place.is_file():
        return OF_SUFFIX.get(place.suffix.lower(), "folder")
    if not place.is_dir():
        may_be_on_hub = HUB_ID.fullmatch(path) and not place.parent.is_dir()
        return "hf" if may_be_on_hub else "folder"
    names = {each.name for each in place.iterdir()}
    if {"description.json", "train.latents"} <= names:
        return LATENTS
    if names & {"dataset_dict.json", "state.json"}:
        return "hf"
    if any(name.startswith(("cifar-10-batches", "cifar-10-binary")) for name in names):
        return "cifar10"
    tables = any(kind_of(each.name) == "parquet" for each in place.rglob("*"))
    return "parquet" if tables else "folder"
