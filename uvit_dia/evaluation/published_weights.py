"""Weights that others publish for the extractors of torch-fidelity: names, places, SHA-256.

The hashes of CLIP stand in torch-fidelity's own addresses of the files. That of VGG16 begins with
the eight digits in the name of torchvision's file.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.system.files import user_path

_CLIP = {
    "rn50": "RN50 afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "rn101": "RN101 8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "rn50x4": "RN50x4 7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "rn50x16": "RN50x16 52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "rn50x64": "RN50x64 be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
    "vit-b-32": "ViT-B-32 40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "vit-b-16": "ViT-B-16 5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "vit-l-14": "ViT-L-14 b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "vit-l-14-336px": "ViT-L-14-336px "
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}
_CLIP_URL = "https://openaipublic.azureedge.net/clip/models"


@dataclass(frozen=True)
class PublishedWeights:
    """A weight file, and the layer that its features are taken from.

    Attributes:
        file: its name in torch.hub's folder of checkpoints, as torch-fidelity calls it.
        sha256: of its content.
        url: where it is published.
        layer: torch-fidelity's default layer for distances.
    """

    file: str
    sha256: str
    url: str
    layer: str

    @property
    def path(self) -> Path:
        """Where torch-fidelity keeps it: torch.hub's checkpoint folder."""
        return checkpoints_folder() / self.file


def _clip(name: str) -> PublishedWeights:
    file, sha256 = _CLIP[name].split()
    url = f"{_CLIP_URL}/{sha256}/{file}.pt"
    return PublishedWeights(f"clip-{name}-{sha256}.pt", sha256, url, "clip")


PUBLISHED = {
    **{f"clip-{name}": _clip(name) for name in _CLIP},
    "vgg16": PublishedWeights(
        "vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "fc2_relu",
    ),
}


def checkpoints_folder() -> Path:
    """Return torch.hub's folder of checkpoints."""
    chosen = os.environ.get("TORCH_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = user_path(chosen, "TORCH_HOME") if chosen else user_path(cache, "--weights") / "torch"
    return home / "hub" / "checkpoints"
