"""Classes of samples, and classifier-free guidance.

Against its definition, and the rules of labels.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.configs import changed, diffusion_config
from tests.support.denoisers import settings_of
from tests.support.networks import make_uvit, randomise
from uvit_dia import cli
from uvit_dia.config.checks import make_config
from uvit_dia.config.guidance_interval import parse_interval
from uvit_dia.config.sampling import ALL_SAMPLERS, FLOW_SAMPLERS, VP_SDE_SAMPLERS
from uvit_dia.config.schema import Config
from uvit_dia.data.image_grid import image_grid
from uvit_dia.data.images import ImageSet
from uvit_dia.models import UViT
from uvit_dia.models.units.registry import UNITS
from uvit_dia.sampling.guidance import (
    ClassLabels,
    GuidedDenoiser,
    all_in_turn,
    as_in,
    check_guidance,
    chosen_labels,
    guidance_facts,
)
from uvit_dia.sampling.sampler import ImageSampler
from uvit_dia.system.errors import InputError

NULL = 3  # the label for no class, of a network with three classes
CONDITIONAL = make_config(changed({"model.num_classes": 11, "train.label_dropout": 0.1}))
WITHOUT_NULL = make_config(changed({"model.num_classes": 10}))
UNCONDITIONAL = make_config(changed())
NAMES = ("cat", "dog", "7", *(f"class {i}" for i in range(3, 10)))


@pytest.fixture(scope="module")
def model() -> UViT:
    made = make_uvit(num_classes=NULL + 1, in_chans=1, attention="dia_lstm")
    randomise(made)
    return made


@pytest.fixture(scope="module")
def noised() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(6, 1, 8, 8, generator=generator), torch.full((6,), 500)


def labels(*classes: int) -> Tensor:
    return torch.tensor(classes or (0, 1, 2, 0, 1, 2))


def guided(model: UViT, scale: float, **settings: Any) -> GuidedDenoiser:
    changes = {"guidance_scale": scale, **settings}
    return GuidedDenoiser(model, labels(), NULL, settings_of("ddim", 4, **changes))


# ---------------------------------------------------------------- the prediction


@torch.no_grad()
def test_scale_1_is_the_conditional_network_and_0_the_unconditional_one(
    model: UViT, noised: tuple[Tensor, Tensor]
) -> None:
    x_t, timesteps = noised
    for scale, told in ((1.0, labels()), (0.0, torch.full((6,), NULL))):
        denoiser = guided(model, scale)
        assert torch.equal(denoiser(x_t, timesteps), model(x_t, timesteps, told))
        assert denoiser.nfe == 1


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
def test_both_calls_in_one_batch_are_the_calls_apart(
    model: UViT, noised: tuple[Tensor, Tensor], scale: float
) -> None:
    x_t, timesteps = noised
    with_class = model(x_t, timesteps, labels())
    without = model(x_t, timesteps, torch.full((6,), NULL))
    assert (with_class - without).abs().max() > 0.01  # the class shows
    denoiser = guided(model, scale)
    wanted = without + scale * (with_class - without)
    torch.testing.assert_close(denoiser(x_t, timesteps), wanted, rtol=0, atol=1e-6 * max(scale, 1))
    assert denoiser.nfe == 2


@torch.no_grad()
def test_outside_its_interval_guidance_has_scale_1(
    model: UViT, noised: tuple[Tensor, Tensor]
) -> None:
    x_t, _ = noised
    denoiser = guided(model, 3.0, guidance_low=100, guidance_high=500)
    for timestep, calls in ((99, 1), (100, 2), (500, 2), (501, 1)):
        timesteps = torch.full((6,), timestep)
        before = denoiser.nfe
        found = denoiser(x_t, timesteps)
        assert denoiser.nfe - before == calls
        is_plain = torch.equal(found, model(x_t, timesteps, labels()))
        assert is_plain == (calls == 1)


@pytest.mark.parametrize("name", ALL_SAMPLERS)
def test_no_sampler_sees_more_of_guidance_than_the_prediction(model: UViT, name: str) -> None:
    """Whatever the process, the guided prediction stands in for the network's."""
    num_steps, low, high = 10, 200, 700
    changes: dict[str, Any] = {}
    if name in FLOW_SAMPLERS:
        changes = {"process": "flow", "prediction_type": "velocity"}
    elif name in VP_SDE_SAMPLERS:
        changes = {"time_labels": "vp_sde"}
    settings = settings_of(name, num_steps, clip_sample=True)
    told = torch.tensor([0, 1, 2, 0])
    seen: list[float] = []

    def guided_network(x_t: Tensor, timesteps: Tensor) -> Tensor:
        seen.append(float(timesteps[0]))
        with_class = model(x_t, timesteps, told)
        if not low <= seen[-1] <= high:
            return with_class
        without = model(x_t, timesteps, torch.full((4,), NULL))
        return without + 2.0 * (with_class - without)

    place: dict[str, Any] = {"shape": (1, 8, 8), "batch_size": 4, "device": "cpu"}
    wanted = ImageSampler(guided_network, diffusion_config(**changes), settings, **place)
    limits = {"guidance_scale": 2.0, "guidance_low": low, "guidance_high": high}
    made = ImageSampler(
        model,
        diffusion_config(**changes),
        replace(settings, **limits),  # type: ignore[arg-type]
        **place,
        labels=ClassLabels(torch.arange(3), "all"),
        null_class=NULL,
    )
    (_, expected), (_, images) = next(wanted.sample(range(4))), next(made.sample(range(4)))
    assert (expected.int() - images.int()).abs().max() <= 1  # grey level
    assert made.nfe == len(seen) + sum(low <= time <= high for time in seen)
    assert len(seen) < made.nfe < 2 * len(seen)


def test_labels_do_not_break_the_graph_of_a_compiled_network() -> None:
    small = make_uvit(num_classes=4, depth=0)
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    inputs = torch.zeros(3, 3, 8, 8), torch.full((3,), 500), labels(0, 1, 3)
    with torch.no_grad():
        assert torch.equal(compiled(*inputs), small(*inputs))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["none", *UNITS])
def test_every_unit_works_beside_the_label(attention: str) -> None:
    options = {"reduction": 4, "groups": 4}
    made = make_uvit(num_classes=4, attention=attention, options=options)
    randomise(made)
    x_t, timesteps = torch.randn(2, 3, 8, 8), torch.tensor([3, 900])
    assert made.num_extra_tokens == 2
    first = made(x_t, timesteps, torch.tensor([0, 1]))
    second = made(x_t, timesteps, torch.tensor([0, 2]))
    assert first.shape == x_t.shape and first.isfinite().all()
    is_alone = attention != "srm"  # whose running averages are fixed here, too: each image alone
    assert torch.equal(first[0], second[0]) or not is_alone
    assert not torch.allclose(first[1], second[1])


# ---------------------------------------------------------------- samples


def sampler(model: UViT, scale: float, rule: ClassLabels, batch_size: int = 6) -> ImageSampler:
    settings = replace(settings_of("dpmpp_2m", 5), guidance_scale=scale)
    return ImageSampler(
        model,
        diffusion_config(),
        settings,
        shape=(1, 8, 8),
        batch_size=batch_size,
        device="cpu",
        labels=rule,
        null_class=NULL,
    )


@pytest.mark.parametrize(("scale", "nfe"), [(1.0, 5), (0.0, 5), (2.0, 10)])
def test_calls_are_counted(model: UViT, scale: float, nfe: int) -> None:
    made = sampler(model, scale, ClassLabels(torch.arange(3), "all"))
    list(made.sample(range(3)))
    assert made.nfe == nfe


def test_an_image_keeps_its_class_and_its_noise(model: UViT) -> None:
    """Whatever else is sampled, and in which blocks; the class alone changes it."""
    rule = ClassLabels(torch.arange(3), "all")
    ((_, together),) = sampler(model, 2.0, rule).sample(range(6))
    ((_, alone),) = sampler(model, 2.0, rule, batch_size=3).sample([4])
    assert (together[4].int() - alone[0].int()).abs().max() <= 1
    ((_, other),) = sampler(model, 2.0, ClassLabels(torch.tensor([2]), "2")).sample(range(6))
    assert torch.equal(together[2], other[2]) and torch.equal(together[5], other[5])
    assert not torch.equal(together[1], other[1])


def test_what_the_images_depend_on_is_told(model: UViT) -> None:
    made = sampler(model, 2.0, ClassLabels(torch.tensor([2, 0]), "2,0"))
    assert made.facts()["class_labels"] == "2,0"
    assert made.facts()["guidance_scale"] == 2.0
    assert "guidance_interval" not in made.facts()
    limited = settings_of("ddim", 4, guidance_low=5)
    assert guidance_facts(limited, made.labels)["guidance_interval"] == [5, 10**6]
    assert guidance_facts(limited, None) == {}


# ---------------------------------------------------------------- which classes


@pytest.mark.parametrize(
    ("value", "classes", "rule"),
    [
        ("all", list(range(10)), "all"),
        (3, [3], "3"),
        ("3", [3], "3"),
        ("dog", [1], "1"),
        ("cat, 9,cat", [0, 9, 0], "0,9,0"),
        (["dog", 4], [1, 4], "1,4"),
        ("7", [2], "2"),  # a class of that name
        (np.array([8, 0]), [8, 0], "8,0"),
        (np.int64(4), [4], "4"),
        (torch.tensor([5, 5, 1]), [5, 5, 1], "5,5,1"),
        (range(3), [0, 1, 2], "0,1,2"),
    ],
)
def test_classes_are_chosen_by_number_or_name(value: Any, classes: list[int], rule: str) -> None:
    found = chosen_labels(value, CONDITIONAL, NAMES)
    assert found is not None and found.rule == rule
    assert found.of(range(2 * len(classes))).tolist() == classes * 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("10", "'10': allowed is 0 to 9, or a name such as cat"),  # the label for no class
        (-1, "'-1': allowed is 0 to 9"),
        ("dgo", "did you mean dog?"),
        ("", "'': allowed"),
        ([], "no class is named"),
        (2.5, "'2.5': allowed is 0 to 9"),
        (True, "'True': allowed is 0 to 9"),
        (np.array([3, 10]), "'10': allowed is 0 to 9"),
    ],
)
def test_other_classes_are_refused(value: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        chosen_labels(value, CONDITIONAL, NAMES)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_an_unconditional_network_knows_no_classes() -> None:
    assert all_in_turn(UNCONDITIONAL) is None and chosen_labels(None, UNCONDITIONAL, None) is None
    with pytest.raises(InputError, match="--class_labels: this network was trained without"):
        chosen_labels("all", UNCONDITIONAL, None)
    for config, lacks in ((UNCONDITIONAL, "classes"), (WITHOUT_NULL, "train.label_dropout above")):
        with pytest.raises(InputError, match=f"--guidance_scale 2: .* without {lacks}"):
            check_guidance(replace(config.sample, guidance_scale=2.0), config)
        check_guidance(config.sample, config)


@pytest.mark.parametrize(
    ("config", "low", "high", "said"),
    [
        (UNCONDITIONAL, 100, 800, "interval 100,800: this network is trained without classes"),
        (CONDITIONAL, 800, 100, "interval 800,100 holds no timestep of 0 to 999"),
        (CONDITIONAL, 1000, 2000, "interval 1000,2000 holds no timestep of 0 to 999"),
    ],
)
def test_an_interval_without_effect_is_refused(
    config: Config, low: int, high: int, said: str
) -> None:
    limits = replace(config.sample, guidance_low=low, guidance_high=high)
    with pytest.raises(InputError, match=said):
        check_guidance(limits, config)
    classes = {"model.num_classes": config.model.num_classes}
    changes = {**classes, "sample.guidance_low": low, "sample.guidance_high": high}
    if config.is_conditional:
        changes["train.label_dropout"] = 0.1
    with pytest.raises(InputError, match=said):
        make_config(changed(changes))


@pytest.mark.parametrize(
    ("words", "interval"),
    [
        (["--guidance_interval", "100", "800", "--seed=3"], "100,800"),
        (["--seed=3", "--guidance_interval", "100", "800"], "100,800"),
        (["--guidance_interval", "100,800", "--seed", "3"], "100,800"),
        (["--guidance_interval=100,800", "--seed=3"], "100,800"),
    ],
)
def test_an_interval_is_two_words_or_one(words: list[str], interval: str) -> None:
    values = cli.new_flags()
    cli.define_sampling_flags(values, num_images=4)
    cli.parse_flags(values, ["sample.py", "--checkpoint=x", *words], "")
    arguments = cli.sampling_arguments(values)
    assert (arguments.guidance_interval, arguments.seed) == (interval, 3)


@pytest.mark.parametrize("value", ["5", "5,6,7", "a,b", "9,5", "-1,5", 7, None, 2.5, [1]])
def test_no_interval_is_made_up(value: Any) -> None:
    with pytest.raises(InputError, match=r"^--guidance_interval .*: allowed is"):
        parse_interval(value)


def test_an_evaluation_has_the_frequencies_of_the_training_set() -> None:
    classes = torch.tensor([0] * 60 + [1] * 30 + list(range(2, 10)) * 3)
    images = ImageSet("made", torch.zeros(len(classes), 1, 8, 8, dtype=torch.uint8), classes)
    rule = as_in(images, CONDITIONAL)
    assert rule is not None
    once = rule.of(range(len(classes)))
    assert torch.equal(once.sort().values, classes.sort().values)
    assert torch.equal(rule.of(range(len(classes), 2 * len(classes))), once)
    assert 20 < int((once[:57] == 0).sum()) < 40  # mixed, as are the others
    assert torch.equal(as_in(images, CONDITIONAL).of([5, 9]), once[[5, 9]])  # type: ignore[union-attr]
    assert as_in(images, UNCONDITIONAL) is None


@pytest.mark.parametrize(
    "counts", [[178, 182, 177, 183, 181, 182, 181, 179, 174, 180], [9000, 1000]]
)
def test_any_first_images_of_an_evaluation_have_these_frequencies_nearly(counts: list[int]) -> None:
    """Within 3 images, at every number of images; a shuffled order misses by 10 and more."""
    classes = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    classes = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))]
    images = ImageSet("made", torch.zeros(len(classes), 1, 8, 8, dtype=torch.uint8), classes)
    network = {"model.num_classes": len(counts) + 1, "data.name": "folder", "data.path": "x"}
    rule = as_in(images, make_config(changed({**network, "train.label_dropout": 0.1})))
    assert rule is not None
    first = rule.of(range(len(classes)))
    for label, count in enumerate(counts):
        found = (first == label).cumsum(0)
        asked = torch.arange(1, len(classes) + 1) * count / len(classes)
        assert (found - asked).abs().max() <= 3
        assert int(found[-1]) == count


def test_a_grid_has_a_row_a_class() -> None:
    classes = torch.tensor([7, 2, 7, 7, 2])
    images = torch.arange(10, 15).to(torch.uint8)[:, None, None, None].expand(5, 1, 32, 32)
    grid = image_grid(images, classes)
    assert grid.shape == (1, 2 * 34 + 2, 3 * 34 + 2)
    shown = grid[0, 18::34, 18::34]
    assert shown.tolist() == [[11, 14, 255], [10, 12, 13]]
    for without_rows in (torch.full((5,), 4), torch.arange(5), torch.tensor([3, 1, 2, 3, 1])):
        assert torch.equal(image_grid(images, without_rows), image_grid(images))
