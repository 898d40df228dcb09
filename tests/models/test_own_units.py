"""Units of a user's own: in training, sampling, analysis, sweeps and other models; what imports."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import uvit_dia
from uvit_dia.config import own_units as imports
from uvit_dia.config import units as table
from uvit_dia.config.own_units import IMPORTED, import_as_parent, import_modules, import_own_unit
from uvit_dia.models.other_backbones.share_attention import share_attention
from uvit_dia.models.units import own_units
from uvit_dia.models.units.channel import ChannelUnit
from uvit_dia.models.units.own_units import find_own_unit, register_unit
from uvit_dia.models.uvit import UViT
from uvit_dia.system.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "examples.own_unit:Strongest"
SMALL: dict[str, Any] = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16}
SMALL |= {"depth": 2, "num_heads": 2}
TINY = (
    *("--config", "configs/digits_uvit_dia.py", "--config.model.embed_dim=16"),
    *("--config.model.depth=2", "--config.model.num_heads=2", "--config.train.batch_size=8"),
    *("--config.train.num_steps=2", "--config.train.log_every_steps=1"),
    *("--config.train.checkpoint_every_steps=2", "--config.train.sample_every_steps=0"),
    *("--config.train.tracker=none", "--config.optimizer.warmup_steps=1"),
)
CANARY = """
from pathlib import Path
Path("canary").touch()
from uvit_dia import ChannelUnit
class Unit(ChannelUnit):
    def channel_map(self, tokens, block_index):
        return tokens.mean(dim=1)
"""


class Mean(ChannelUnit):
    """The mean over the tokens, times r: the least that a unit can be."""

    def __init__(self, channels: int, reduction: int = 7, **options: Any) -> None:
        super().__init__(channels, **options)
        self.reduction = reduction

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        return self.reduction * tokens.mean(dim=1)

    class Inner(ChannelUnit):
        def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
            return tokens.mean(dim=1)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget after each test what it registered, imported and told its children."""
    monkeypatch.delenv(IMPORTED, raising=False)
    names, paths, modules = dict(table.UNITS), list(sys.path), set(sys.modules)
    registered = dict(own_units._registered)
    yield
    table.UNITS.clear()
    table.UNITS.update(names)
    own_units._registered.clear()
    own_units._registered.update(registered)
    sys.path[:] = paths
    for module in set(sys.modules) - modules:
        if module.startswith("of_a_user"):
            del sys.modules[module]
    os.environ.pop(IMPORTED, None)


def run(command: str, *words: str, cwd: Path, **environment: str) -> Any:
    """Run a command of the project from another folder, as a user would."""
    start = (
        [sys.executable, "-m", command] if "." in command else [sys.executable, f"{ROOT}/{command}"]
    )
    start[-1] += "" if "." in command else ".py"
    known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [*start, *words], cwd=cwd, env=known, capture_output=True, text=True, check=False
    )


# ---------------------------------------------------------------- finding


def test_the_package_offers_what_a_unit_needs() -> None:
    assert uvit_dia.register_unit is register_unit
    assert uvit_dia.ChannelUnit is ChannelUnit
    assert issubclass(ChannelUnit, uvit_dia.AttentionUnit)


@pytest.mark.parametrize("how", ["registered", "module"])
def test_a_unit_of_ones_own_is_built_into_the_network(how: str) -> None:
    name = f"{__name__}:Mean"
    if how == "registered":
        register_unit("mean", Mean)
        name = "mean"
    model = UViT(**SMALL, attention=name, attention_options={"shared": False})
    assert [type(unit) for unit in model.attention_unit.values()] == [Mean] * 3
    assert model.unit_of_block(0).reduction == 7  # its own default
    asked = UViT(**SMALL, attention=name, attention_options={"reduction": 3})
    assert asked.unit_of_block(0).reduction == 3
    unit, y = asked.unit_of_block(0), torch.randn(2, 17, 16)
    gated, _, _ = unit(y, unit.initial_state(y), 0)
    torch.testing.assert_close(gated, y * (3 * y.mean(dim=1))[:, None])
    asked(torch.randn(2, 1, 8, 8), torch.zeros(2)).sum().backward()


def test_an_option_that_a_unit_of_ones_own_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"; .*:Mean has neither"):
        UViT(**SMALL, attention=f"{__name__}:Mean", attention_options={"forget_bias": 2.0})


def test_a_nested_class_is_found() -> None:
    assert find_own_unit(f"{__name__}:Mean.Inner") is Mean.Inner


def test_a_unit_may_lack_what_only_some_gates_need() -> None:
    name = f"{__name__}:Mean"
    for options, message in (
        ({"gate_init": "identity"}, "needs a unit that tells the start"),
        ({"gate_form": "residual"}, "needs a unit that tells the start"),
        ({"gate_init": "rescaled"}, "divides by the attention map's start, which is None"),
    ):
        with pytest.raises(ValueError, match=message):
            UViT(**SMALL, attention=name, attention_options=options)
    with pytest.raises(ValueError, match=r"identity' needs a zero_map\(\), which Mean lacks"):
        Mean(16, map_start=0.5, gate_init="identity")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:system", "os has no class system that derives from uvit_dia.AttentionUnit"),
        ("builtins:eval", "builtins has no class eval"),
        ("torch.nn:Linear", "torch.nn has no class Linear"),
        (f"{__name__}:Mena", "has no class Mena"),
        (f"{__name__}:Mean.channel_map", "has no class Mean.channel_map"),
        (
            "of_a_user_nowhere:Unit",
            "is code that is not imported; if you trust it, import of_a_user",
        ),
        ("unregistered", r"attention must be one of none, lstm, .* or module:Class; got"),
        ("a:b:c", "attention must be one of none"),
    ],
)
def test_names_without_a_unit_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UViT(**SMALL, attention=name)
    assert "of_a_user_nowhere" not in sys.modules


def test_looking_for_a_class_runs_no_code_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module may make its attributes when they are asked for, as lazy packages do."""
    asked = []
    module = type(sys)("of_a_user_lazy")
    module.__getattr__ = asked.append  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "of_a_user_lazy", module)
    with pytest.raises(ValueError, match="of_a_user_lazy has no class Unit"):
        find_own_unit("of_a_user_lazy:Unit")
    assert asked == []


# ---------------------------------------------------------------- registering


def test_a_name_is_registered_once() -> None:
    register_unit("mean", Mean)
    register_unit("mean", Mean)  # as a module does that is imported again
    assert table.UNITS["mean"].options == ("reduction",)
    for name, unit, error, message in (
        ("mean", Mean.Inner, ValueError, "there is a unit 'mean' already"),
        ("se", Mean, ValueError, "there is a unit 'se' already"),
        ("none", Mean, ValueError, "must be an identifier other than 'none'"),
        ("my unit", Mean, ValueError, "must be an identifier"),
        ("linear", nn.Linear, TypeError, "must be a class that derives from uvit_dia.AttentionUn"),
        ("instance", Mean(4), TypeError, "must be a class"),
    ):
        with pytest.raises(error, match=message):
            register_unit(name, unit)  # type: ignore[arg-type]


# ---------------------------------------------------------------- importing


def test_modules_are_imported_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_a_user.py").write_text(CANARY)
    monkeypatch.chdir(tmp_path)
    import_own_unit("se")  # nothing to import
    import_own_unit("none")
    assert not (tmp_path / "canary").exists()
    import_own_unit("of_a_user:Unit")
    assert (tmp_path / "canary").exists()
    assert find_own_unit("of_a_user:Unit").__name__ == "Unit"
    assert os.environ[IMPORTED] == "of_a_user"  # for commands that this one starts
    import_modules(["of_a_user", "json"])
    assert os.environ[IMPORTED] == "of_a_user,json"


def test_a_file_in_the_current_directory_hides_nothing_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "filelock.py").write_text(CANARY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "filelock", raising=False)
    import_modules(["filelock"])
    assert not (tmp_path / "canary").exists()


def test_a_child_imports_what_its_parent_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_a_user.py").write_text(CANARY)
    monkeypatch.chdir(tmp_path)
    import_as_parent()
    assert "of_a_user" not in sys.modules
    monkeypatch.setenv(IMPORTED, "of_a_user")
    import_as_parent()
    assert "of_a_user" in sys.modules


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"model.attention = 'of_a_user_x:Unit': no module of_a_user_x in .* or on sys.path"),
        ("1 / 0", "importing of_a_user_x raised ZeroDivisionError: division by zero"),
        ("import of_a_user_y", "importing of_a_user_x raised ModuleNotFoundError"),
        ("def", "importing of_a_user_x raised SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_in_one_line(
    content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "of_a_user_x.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        import_own_unit("of_a_user_x:Unit")
    assert "\n" not in str(caught.value)
    assert IMPORTED not in os.environ


def test_nothing_else_imports_by_name() -> None:
    """A name out of a config.json must never reach an import.

    The others import what they name themselves.
    """
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "uvit_dia").rglob("*.py")
        if "import_module(" in path.read_text() or "__import__" in path.read_text()
    ]
    assert sorted(found) == [
        "uvit_dia/__init__.py",
        "uvit_dia/__main__.py",
        "uvit_dia/config/own_units.py",
    ]
    assert imports.__name__ == "uvit_dia.config.own_units"


# ---------------------------------------------------------------- the example, in all its places


def test_the_example_learns_in_another_model() -> None:
    from examples.own_unit import Strongest

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = x + block(x)
            return x

    outputs = []
    for unit in (Strongest, EXAMPLE):
        torch.manual_seed(0)
        model = Net()
        attention = share_attention(model, "blocks.*", unit)
        assert type(attention["stage"].unit) is Strongest
        assert attention.num_weights() == 16
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        assert attention["stage"].unit.scale.abs().min() > 0
        outputs.append(model(x))
    assert torch.equal(*outputs)
    with pytest.raises(ValueError, match="must be a class that derives from"):
        share_attention(Net(), "blocks.*", nn.Linear)  # type: ignore[arg-type]


def test_the_example_is_trained_sampled_and_analysed(tmp_path: Path) -> None:
    """The module lies in the directory from which the commands are called."""
    (tmp_path / "my_units.py").write_text((ROOT / "examples" / "own_unit.py").read_text())
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    attention = "--config.model.attention=my_units:Strongest"
    done = run("train", *TINY, attention, "--workdir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "run" / "config.json").read_text())
    assert told["model"]["attention"] == "my_units:Strongest"
    sample = ("sample", "--checkpoint", "run", "--num_images", "2", "--num_steps", "2")
    refused = run(*sample, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "--import my_units" in refused.stderr
    for command in (
        sample,
        ("uvit_dia.analysis", "gates", "--checkpoint", "run", "--num_images", "8"),
    ):
        done = run(*command, "--import", "my_units", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "analysis" / "gates.json").is_file()
    again = run("train", *TINY, attention, "--workdir", "run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_a_registered_unit_is_found_by_commands_that_import_its_module(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "own_unit.py").read_text()
    text += "\n\nfrom uvit_dia import register_unit\nregister_unit('strongest', Strongest)\n"
    (tmp_path / "my_units.py").write_text(text)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    words = (*TINY, "--config.model.attention=strongest", "--workdir", "run")
    refused = run("train", *words, cwd=tmp_path)
    assert refused.returncode == 2
    assert "model.attention = 'strongest'" in refused.stderr
    done = run("train", *words, "--import", "my_units", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sample = ("sample", "--checkpoint", "run", "--num_images", "2", "--num_steps", "2")
    assert run(*sample, cwd=tmp_path).returncode == 2
    done = run(*sample, cwd=tmp_path, UVIT_DIA_IMPORT="my_units")  # as a child process
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["sample", "eval_fid", "uvit_dia.analysis"])
def test_a_run_of_others_runs_no_module_that_it_names(command: str, tmp_path: Path) -> None:
    """The run's config.json names a module that lies in the current directory, and would run."""
    (tmp_path / "of_a_user.py").write_text(CANARY)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    attention = "--config.model.attention=of_a_user:Unit"
    paper = "--config.model.attention_options.gate_init=paper"
    done = run("train", *TINY, attention, paper, "--workdir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "canary").unlink()  # those who made the run were free to run it
    words = ("gates",) if command == "uvit_dia.analysis" else ()
    refused = run(command, *words, "--checkpoint", "run", "--num_images", "2", cwd=tmp_path)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "code that is not imported; if you trust it" in refused.stderr
    assert not (tmp_path / "canary").exists()


SWEEP = """
from ml_collections import ConfigDict
from configs.sweeps.digits_batch_size import get_config as get_digits

def get_config():
    config = get_digits()
    config.base = "configs/digits_uvit_dia.py"
    model = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    own = {"model": {**model, "attention": "my_units:Strongest"}}
    config.variants = ConfigDict({"uvit": {"model": {**model, "attention": "none"}}, "own": own})
    config.batch_sizes, config.seeds = (16,), (0,)
    config.reference_batch_size = 16
    config.budget, config.budget_amount = "steps", 4
    config.overrides.train.checkpoint_every_steps = 4
    config.eval.num_images, config.eval.num_steps, config.eval.num_repeats = 300, 2, 1
    return config
"""


@pytest.mark.slow
def test_a_sweep_trains_and_evaluates_the_example(tmp_path: Path) -> None:
    (tmp_path / "my_units.py").write_text((ROOT / "examples" / "own_unit.py").read_text())
    (tmp_path / "own_sweep.py").write_text(SWEEP)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    words = ("--config", "own_sweep.py", "--workdir", "sweep", "--max_parallel", "1")
    done = run("uvit_dia.sweep", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
