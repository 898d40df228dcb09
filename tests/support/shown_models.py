"""Models for the demo page that nobody trained: tiny, with and without a unit, in a moment."""

import torch

from tests.support.configs import changed
from tests.support.networks import randomise
from uvit_dia.config.checks import make_config
from uvit_dia.demo.session import Session
from uvit_dia.demo.shown_model import ShownModel
from uvit_dia.models.build import make_model
from uvit_dia.runs.trained_model import TrainedModel

SMALL: dict[str, object] = {
    "model.embed_dim": 16,
    "model.depth": 2,
    "model.num_heads": 2,
}
CONDITIONAL: dict[str, object] = {"model.num_classes": 11, "train.label_dropout": 0.1}
WITHOUT: dict[str, object] = {"model.attention": "none"}
FLOW: dict[str, object] = {
    "diffusion.process": "flow",
    "diffusion.prediction_type": "velocity",
    "sample.sampler": "flow_euler",
}


def shown_model(name: str, changes: dict[str, object]) -> ShownModel:
    """Return a tiny model of random weights; `changes` has dotted keys."""
    config = make_config(changed({**SMALL, **changes}))
    torch.manual_seed(0)
    model = make_model(config)
    randomise(model)
    trained = TrainedModel(
        model=model.eval().requires_grad_(False),
        config=config,
        run=None,
        step=0,
        weights="ema",
        sha256="",
        data=None,
    )
    return ShownModel(name, trained)


def session_of(*changes: dict[str, object]) -> Session:
    """Return a session with a model for each set of changes of dotted keys."""
    models = [shown_model(f"model {place}", each) for place, each in enumerate(changes or ({},))]
    return Session(models)
