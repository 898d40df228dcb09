"""The sweep configs that we ship, and those that were written for an older version."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tests.support.sweeps import ROOT, SWEEP
from uvit_dia.config.files import to_plain
from uvit_dia.sweep.__main__ import _parse, _read_config, main
from uvit_dia.sweep.cells import SCRIPTS
from uvit_dia.sweep.config import make_sweep
from uvit_dia.system.errors import InputError

# SHA-256 of the cells, with all their overrides, and of the sweep config without its words, from
# before the configs had a common part: whoever began one of these sweeps goes on with the same
# runs.
EXPANDED = {
    "cifar10_batch_size.py": "c392ff0fb034755ae92db4414049d65af8743628e8d425259aa60003b996a08e",
    "cifar10_small_batch_size.py": (
        "30e6c69758364915e3713b60eab7f567354801415a481619f5e1222068c99985"
    ),
    "digits_ablations.py": "b91c406fdc2f5ac9c966aa68e955d3e8e6627bd42de8104f7c54c3700fc93b3b",
    "cifar10_question.py": "74aa198ca234c2473c5953d2f59bc29dace76ad6d5bc45864f4243cd67671331",
    "cifar10_tuning.py": "85703dbb9271129e3c995601f5c5ad205eaac76e2e0e95727a42b0ef290c2b50",
    "digits_question.py": "01023aa37d8e55adf2c1941153c1db3ca6117e0c9bd4cbcb801dd21f2d705c52",
    "digits_better_tuning.py": "4004f13e6d93e4e425a88e2d0b68de5dd32b7f296e7bc1c90ad1a6fd02217922",
    "digits_better.py": "6a97d9b305bda75d2eaac800bd9d1e2f4dc564c02762923582e430f014f2cab9",
    "digits_question_128.py": "82e58799a95f784714fdc75076142249386e2f12593e36aafb80845701d73eeb",
    "digits_tuning.py": "e03c97f9e68e710bba011721b5f1034016c3995e086418a6b7c66a866b646920",
    "digits_tuning_8.py": "b7c64e6b066421f579880ee8b7a1874ab59ef0b14a5b5777a5d3206757ce9fa7",
    "digits_memory.py": "f3141ddcfcf2fffbde56fe5175a8c3e69e5a49484edc5c1b3080cb656a97f04a",
    "digits_steps.py": "406fc52dbd141b3cf7aec0c273ece3be299653c72b4439c2fef20e20d10b76f9",
    "digits_steps.py:32": "9c45c0af2f4230114247bc730df988545ae746d060806fcc5914c3e11647bca2",
    "digits_batch_size.py": "ec7de3d1db85530cdb928a8fa39a2456dc4893e86b13e9c5cfa486a61723dfe2",
    "digits_units.py": "31488e6f8b1d9776d1472a081f9050b2b919d4a98f8b10b947a7f9a74824b990",
    "digits_without.py": "3e42269793bcb711137802c0dca83ed36a9b9dfd2373bcbdb6d4c23f83cf27a7",
    "digits_without.py:layer_norm": (
        "7c67bfa28832e9070da4af18a915c26a6dd96aa51b5357ca505495c022fa84c9"
    ),
    "digits_without.py:skip": "fcb67fb603b645becf5a174ec28d82e6cdffc9a7a166f896973cdc7fd4738863",
}


def expanded(name: str) -> str:
    config, path = _read_config(_parse(["sweep", f"--config={ROOT / 'configs' / 'sweeps' / name}"]))
    sweep = make_sweep(config, path, SCRIPTS)
    plain = to_plain(sweep.config)
    del plain["held_constant"]
    text = json.dumps([plain, [asdict(cell) for cell in sweep.cells]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", EXPANDED)
def test_the_shipped_sweeps_are_those_that_were_begun(name: str) -> None:
    assert expanded(name) == EXPANDED[name]


@pytest.mark.parametrize("name", EXPANDED)
def test_shipped_sweeps_can_be_shown(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = ROOT / "configs" / "sweeps" / name
    main(["sweep", f"--config={config}", "--workdir", str(tmp_path / "w"), "--dry_run"])
    assert "total: " in capsys.readouterr().out
    assert not (tmp_path / "w").exists()


def test_every_shipped_sweep_is_known() -> None:
    files = {path.name for path in (ROOT / "configs" / "sweeps").glob("[a-z]*.py")}
    assert files - {"common.py", "question.py"} == {name.partition(":")[0] for name in EXPANDED}


def test_a_sweep_config_without_newer_keys_is_complete(tmp_path: Path) -> None:
    assert not {"account", "qos"} & SWEEP["slurm"].keys()
    variants = {"uvit": {"model": {"attention": "none"}}, "a_unit": {}}
    config = ConfigDict({**SWEEP, "variants": {}})
    config.variants = ConfigDict(variants, sort_keys=False)
    config.lock()
    sweep = make_sweep(config, tmp_path / "sweep_config.py", SCRIPTS)
    assert (sweep.config.slurm.account, sweep.config.slurm.qos) == ("", "")
    assert [cell.variant for cell in sweep.cells[:2]] == ["uvit", "a_unit"]  # in the file's order


def test_a_sweep_that_measures_no_distance_is_refused(tmp_path: Path) -> None:
    overrides = {**SWEEP["overrides"], "eval": {"metrics": ("kid",)}}
    config = ConfigDict({**SWEEP, "overrides": overrides})
    with pytest.raises(InputError, match=r"cell uvit-b0008-s0: eval\.metrics = .*kid.* has no fid"):
        make_sweep(config, tmp_path / "sweep_config.py", SCRIPTS)


def test_configs_that_import_each_other_are_found_from_anywhere(tmp_path: Path) -> None:
    """With the package installed, as an editable install does it, and another working directory."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "uvit_dia").symlink_to(ROOT / "uvit_dia")
    config = ROOT / "configs" / "sweeps" / "cifar10_small_batch_size.py"
    done = subprocess.run(
        [sys.executable, "-m", "uvit_dia.sweep", f"--config={config}", "--workdir=w", "--dry_run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "total: 72 runs" in done.stdout
