"""A trained model from Python: loaded, sampled, measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from uvit_dia.cli import SamplingArguments, check_sampling
from uvit_dia.config.any_config import AnyConfig, read_any_config
from uvit_dia.evaluation.extractor_files import extractor_at_home
from uvit_dia.evaluation.run import EvaluationArguments, evaluations
from uvit_dia.runs.open_model import open_model
from uvit_dia.runs.sources import find_source
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.sampling.guidance import chosen_labels
from uvit_dia.sampling.run import advice_on_batch_size
from uvit_dia.sampling.sampler import make_sampler
from uvit_dia.sampling.schedulers import sampler_settings
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import expand_home, user_path
from uvit_dia.system.progress import in_notebook, progress_bar

OUTPUT_TYPES = ("pil", "np", "pt")
Images: TypeAlias = list[Image.Image] | np.ndarray | torch.Tensor


class LoadedModel:
    """A trained model that samples and is measured.

    Args:
        trained: the model with all that is known of it.
        source: where it came from.
        use_ema: whether its weights are the averaged ones.

    Attributes:
        trained: the same; `trained.model` is the network.
        config: of its run.
    """

    def __init__(self, trained: TrainedModel, source: Path, *, use_ema: bool) -> None:
        self.trained = trained
        self.config = trained.config
        self._source = source
        self._use_ema = use_ema

    def __repr__(self) -> str:
        trained = self.trained
        return f"<uvit_dia model {self._source}, {trained.named_weights}>"

    def sample(
        self, num_images: int = 1, *, output_type: str = "pil", **settings: object
    ) -> Images:
        """Sample images 0 .. num_images - 1 of a seed, the same as `sample.py`.

        Args:
            num_images: N.
            output_type: "pil" for a list of pictures, "np" for an array (N, H, W, C), "pt" for a
                tensor (N, C, H, W) on the CPU; both of uint8 in [0, 255].
            **settings: `seed, sampler, num_steps, eta, variance_type, clip_sample, batch_size`, and
                for a conditional network `class_labels` (a class or several, by number or name),
                `guidance_scale, guidance_interval`; what is not given is as the run's config says.

        Raises:
            InputError: for a setting that does not exist or fit.
            NonFiniteImagesError: if the sampler ends in values that are not finite.
        """
        if output_type not in OUTPUT_TYPES:
            allowed = ", ".join(OUTPUT_TYPES)
            raise InputError(f"output_type = {output_type!r:.40}; allowed is {allowed}")
        channels = self.config.model.in_chans
        if output_type == "pil" and not self.config.makes_pictures:
            raise InputError(f"output_type = 'pil': no picture has {channels} channels; 'np' has")
        arguments = self._arguments(num_images, settings)
        batch_size = min(arguments.batch_size or self.config.sample.batch_size, num_images)
        sampler = make_sampler(
            self.trained.model,
            self.config,
            sampler_settings(arguments, self.config),
            batch_size=batch_size,
            device=self.trained.model.device,
            labels=chosen_labels(arguments.class_labels, self.config, self.trained.class_names),
        )
        images = []
        bar = progress_bar(
            total=num_images, unit="image", desc="sampling", disable=not in_notebook()
        )
        with advice_on_batch_size(batch_size), bar:
            for indices, part in sampler.sample(range(num_images)):
                images.append(part)
                bar.update(len(indices))
        return as_type(torch.cat(images), output_type)

    def evaluate(
        self,
        num_images: int | None = None,
        *,
        extractor: str | None = None,
        weights: str | None = None,
        download_weights: bool = False,
        allow_few_images: bool = False,
        allow_other_data: bool = False,
        held_out_loss: bool = False,
        **settings: object,
    ) -> dict[str, Any]:
        """Measure samples against the training images; return the record that `eval_fid.py` prints.

        Nothing is written but what the cache keeps of the real images.

        Args:
            num_images: N; None for `eval.num_images` of the run's config.
            extractor: "inception-v3-compat", "digits" or "pt2:PATH"; None for that of the config.
            weights: path of the Inception weights.
            download_weights: whether missing Inception weights are downloaded.
            allow_few_images: whether fewer images than the extractor has features are accepted.
            allow_other_data: whether other images than the training's are measured against.
            held_out_loss: whether the loss on images that were not trained on is measured too.
            **settings: as in `sample`.

        Raises:
            InputError: for what does not exist or fit; found before any sampling.
            NonFiniteImagesError: if the sampler ends in values that are not finite.
        """
        arguments = EvaluationArguments(
            extractor=extractor_at_home(extractor),
            weights=weights and expand_home(weights, "weights"),
            download_weights=download_weights,
            source=None,
            allow_few_images=allow_few_images,
            num_repeats=1,
            data_path=None,
            allow_other_data=allow_other_data,
            held_out_loss=held_out_loss,
        )
        sampling = self._arguments(num_images, settings)
        ((_, record),) = evaluations(
            self.trained, sampling, arguments, make_accelerator(), show_progress=in_notebook()
        )
        return record

    def _arguments(self, num_images: int | None, settings: Mapping[str, Any]) -> SamplingArguments:
        unset = dict.fromkeys(("sampler", "num_steps", "seed", "batch_size"))
        try:
            arguments = SamplingArguments(
                checkpoint=self._source,
                num_images=num_images,
                use_ema=self._use_ema,
                **{**unset, **settings},
            )
        except TypeError as error:
            unknown = " ".join(str(error).split("argument")[-1].split())
            raise InputError(f"unknown setting {unknown:.40} of the sampler") from error
        return check_sampling(arguments)


def as_type(images: torch.Tensor, output_type: str) -> Images:
    """Return images, (N, C, H, W) uint8, as `LoadedModel.sample` describes."""
    if output_type == "pt":
        return images
    array = images.permute(0, 2, 3, 1).contiguous().numpy()
    if output_type == "np":
        return array
    return [Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each) for each in array]


def load(
    source: str | Path,
    *,
    config: AnyConfig | None = None,
    use_ema: bool = True,
    device: torch.device | str | None = None,
    data_path: str | None = None,
) -> LoadedModel:
    """Load a trained model.

    Args:
        source: a run's folder (its newest checkpoint), a step folder, an exported folder, the id of
            one on the Hugging Face Hub, or a `.pth` of the U-ViT authors.
        config: of a `.pth`, which holds none; the name or file of a config, or the config itself.
        use_ema: whether the averaged weights are used, for runs and step folders.
        device: where it shall run; None for the accelerator, if there is one.
        data_path: where the training images lie, if not where the run found them.

    Raises:
        InputError: if there is no such thing, or it is damaged.
    """
    chosen = make_accelerator().device if device is None else torch.device(device)
    wanted = None if config is None else read_any_config(config)
    named = user_path(str(source), "load")
    path = find_source(named, has_config=config is not None, flag="load")
    trained = open_model(
        path, config=wanted, use_ema=use_ema, device=chosen, data_path=data_path, flag="load"
    )
    return LoadedModel(trained, named, use_ema=use_ema)
