"""An Inception of random weights in the format of the real one, to test all but its numbers."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as upstream


def write_random_inception(path: Path) -> None:
    """Write a state dict whose features differ from image to image, as trained ones do."""
    network = upstream.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        model = network("inception-v3-compat", ["2048"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.3)
    torch.save(model.state_dict(), path)
