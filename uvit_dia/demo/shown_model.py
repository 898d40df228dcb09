"""A model of the page: what it is, and what it makes of a visitor's wish."""

from dataclasses import dataclass
from pathlib import Path

from uvit_dia.cli import SamplingArguments, check_sampling
from uvit_dia.config.checks import check_sampler_of_process
from uvit_dia.config.schema import SampleConfig
from uvit_dia.demo.wish import IN_TURN, MAX_IMAGES, Wish
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.sampling.guidance import ALL, ClassLabels, chosen_labels
from uvit_dia.sampling.schedulers import sampler_settings
from uvit_dia.system.errors import InputError


@dataclass(frozen=True)
class ShownModel:
    """A model of the page.

    Attributes:
        name: what the page calls it.
        trained: the model.
    """

    name: str
    trained: TrainedModel

    @property
    def blocks(self) -> list[int]:
        """The blocks whose gates are shown; empty without a unit."""
        return list(self.trained.model.attention_blocks)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        network = self.trained.config.model
        return network.in_chans, network.img_size, network.img_size

    @property
    def class_names(self) -> list[str]:
        """What classes are called; their numbers where nobody named them; empty without."""
        config = self.trained.config
        if not config.is_conditional:
            return []
        return list(self.trained.class_names or map(str, range(config.num_data_classes)))

    @property
    def facts(self) -> str:
        """What it is, in a line."""
        config = self.trained.config
        unit = config.model.attention
        sharing = "shared " if config.model.attention_options.shared else "unshared "
        count = sum(each.numel() for each in self.trained.model.parameters())
        parts = [
            "no attention unit" if unit == "none" else f"unit {sharing}{unit}",
            f"{self.trained.model.num_blocks} blocks",
            f"{count / 1e6:.1f} M weights",
            self.trained.named_weights,
            f"{config.data.name}, {config.model.img_size} x {config.model.img_size}",
        ]
        return ", ".join(parts)

    def settings(self, wish: Wish) -> SampleConfig:
        """Check a wish; return the settings of this model's sampler.

        Raises:
            InputError: naming the flag of `sample.py` that is meant, see `in_the_pages_words`.
        """
        for name in ("num_steps", "seed", "num_images"):
            if getattr(wish, name) is None:
                raise InputError(f"--{name} is empty: it takes a whole number")
        if wish.num_images is not None and wish.num_images > MAX_IMAGES:
            raise InputError(f"--num_images {wish.num_images}: allowed is 1 to {MAX_IMAGES}")
        config = self.trained.config
        arguments = SamplingArguments(
            checkpoint=Path(),
            num_images=wish.num_images,
            sampler=wish.sampler,
            num_steps=wish.num_steps,
            seed=wish.seed,
            batch_size=wish.num_images,
            use_ema=True,
            class_labels=self._class(wish),
            guidance_scale=wish.guidance_scale if config.null_class is not None else None,
        )
        self.labels(wish)  # refuses a class that there is not
        return sampler_settings(check_sampling(arguments), config)

    def _class(self, wish: Wish) -> str | None:
        if not self.class_names:
            return None
        return ALL if wish.class_name in (None, IN_TURN) else wish.class_name

    def labels(self, wish: Wish) -> ClassLabels | None:
        """Return the classes of a wish's images; None if the model is told none."""
        trained = self.trained
        return chosen_labels(self._class(wish), trained.config, trained.class_names)

    def fits(self, sampler: str) -> bool:
        """Say whether a sampler undoes the process that the model was trained on."""
        try:
            check_sampler_of_process(sampler, self.trained.config.diffusion, "--sampler")
        except InputError:
            return False
        return True
