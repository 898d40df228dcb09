"""Command lines: every mistake ends in one line that names it, before torch is imported."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import eval_fid
import sample
import train
from uvit_dia import cli
from uvit_dia.config.files import to_plain
from uvit_dia.config.flag import define_config_flag, read_config
from uvit_dia.config.schema import Config
from uvit_dia.sampling.schedulers import sampler_settings
from uvit_dia.system.errors import (
    InputError,
)

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"train": train.main, "sample": sample.main, "eval_fid": eval_fid.main}
CONFIG = f"--config={ROOT / 'configs' / 'digits_uvit_dia.py'}"
HEAVY = ("torch", "torch_fidelity", "torchvision", "diffusers", "accelerate", "matplotlib")
HEAVY += ("tensorboard", "sklearn", "pyarrow", "PIL")


class RunStarts(Exception):
    """The command line was accepted, and the command would do its work now."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, and stop where a run would start."""

    def start(path: Path) -> None:
        raise RunStarts(str(path))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("uvit_dia.runs.folder.RunFolder", start)
    return tmp_path


def refusal(script: str, *arguments: str) -> str:
    """Return the one line in which a command line is refused."""
    with pytest.raises(InputError) as caught:
        SCRIPTS[script]([f"{script}.py", *arguments])
    message = " ".join(str(caught.value).split())  # as run_command prints it
    assert 0 < len(message) <= 200, message
    assert "Traceback" not in message
    assert message.isprintable()
    return message


def start_of_run(*arguments: str) -> str:
    """Return the folder of the run that a command line of train.py starts."""
    with pytest.raises(RunStarts) as caught:
        train.main(["train.py", *arguments])
    return str(caught.value)


def config_of(*arguments: str) -> Config:
    """Return the config that a command line means."""
    values = cli.new_flags()
    define_config_flag(values)
    cli.parse_flags(values, ["train.py", *arguments], "usage")
    return read_config(values)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        # keys of the config
        (["--config.model.embed_dmi=3"], ["model.embed_dmi", "did you mean model.embed_dim?"]),
        (["--config.modle.embed_dim=3"], ["modle.embed_dim", "did you mean model.embed_dim?"]),
        (["--config.train.batchsize=3"], ["train.batchsize", "did you mean train.batch_size?"]),
        (["--config.train.lr", "3"], ["train.lr"]),
        (["--config.nope=3"], ["unknown config key nope"]),
        (["--config.seed=1", "--config.seeed=2"], ["key seeed", "did you mean seed?"]),
        (["--config.data.path.x=3"], ["unknown config key data.path.x"]),
        (["--config.model.embed_dim.x=3"], ["model.embed_dim.x"]),
        (["--noconfig.train.compil"], ["train.compil", "did you mean train.compile?"]),
        (["--noconfig.train.compile=True"], ["--noconfig.train.compile=True", "allowed is"]),
        (["--noconfig.train.batch_size"], ["--noconfig.train.batch_size", "True or False"]),
        (["--config.train.compile", "auto"], ["unexpected word 'auto'"]),
        (["--config.=3"], ["--config.", "malformed"]),
        (["--config.model[=3"], ["model[", "malformed"]),
        (["--config." + "x" * 500 + "=3"], ["unknown config key xxx"]),
        # values of the config
        (["--config.model.embed_dim=abc"], ["config.model.embed_dim", "abc"]),
        (["--config.model.embed_dim=3.5"], ["config.model.embed_dim", "3.5"]),
        (["--config.model.embed_dim="], ["config.model.embed_dim"]),
        (["--config.model.embed_dim"], ["config.model.embed_dim"]),
        (["--config.model.embed_dim=-4"], ["model.embed_dim = -4", "allowed is"]),
        (["--config.model=3"], ["config.model"]),
        (["--config.model.depth=3"], ["model.depth = 3"]),
        (["--config.train.compile=maybe"], ["config.train.compile", "maybe"]),
        (["--config.train.num_steps=0"], ["train.num_steps = 0", "from 1"]),
        (["--config.train.num_steps=" + "9" * 50], ["train.num_steps = 999"]),
        (["--config.optimizer.learning_rate=nan"], ["optimizer.learning_rate = nan"]),
        (["--config.optimizer.learning_rate=1e400"], ["optimizer.learning_rate = inf"]),
        (["--config.optimizer.learning_rate=-1"], ["optimizer.learning_rate = -1"]),
        (["--config.optimizer.betas=3"], ["optimizer.betas = "]),
        (["--config.optimizer.betas=(0.9,2)"], ["optimizer.betas = (0.9, 2)"]),
        (["--config.optimizer.betas=__import__('os')"], ["optimizer.betas = "]),
        (["--config.eval.metrics=('fid','nope')"], ["eval.metrics = ", "kid"]),
        (["--config.data.name=imagenet"], ["data.name = 'imagenet'", "cifar10"]),
        (["--config.data.name=folder"], ["data.path", "'folder'"]),
        (["--config.model.attention_options.blocks=0-3"], ["blocks = '0-3'"]),
        (["--config.model.attention_options.blocks=0,9"], ["block 9"]),
        (["--config.train.accumulation_steps=7"], ["train.batch_size = 64", "= 7"]),
        (
            ["--config.model.attention=srm", "--config.train.batch_size=1"],
            ["train.batch_size = 1", "'srm'", "2 or more"],
        ),
        (
            ["--config.model.attention=srm", "--config.train.accumulation_steps=64"],
            ["train.accumulation_steps = 64", "'srm'", "2 or more"],
        ),
        # flags
        (["--wrkdir=x"], ["unknown flag --wrkdir", "did you mean workdir?"]),
        (["--batch_size=3"], ["unknown flag --batch_size"]),
        (["--workdir"], ["--workdir"]),
        (["-x"], ["-x"]),
        (["--" + "x" * 500], ["unknown flag --xxx"]),
        (["--allow_other_world_size=perhaps"], ["allow_other_world_size", "perhaps"]),
        (["--flagfile=nowhere.txt"], ["flagfile", "nowhere.txt"]),
        # words
        (["stray"], ["'stray'"]),
        (["-"], ["'-'"]),
        (["--", "--config.seed=1"], ["--config.seed=1"]),
        (["seed=3"], ["'seed=3'"]),
        (["x" * 500], ["'xxx"]),
    ],
)
@pytest.mark.reliability("G5", "malformed inputs refused in one line", at_least=150)
def test_train_refuses(arguments: list[str], parts: list[str]) -> None:
    message = refusal("train", CONFIG, *arguments)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--config is missing"),
        (["--config"], "--config"),
        (["--config="], "--config"),
        (["--config", "nowhere.py"], "nowhere.py"),
        (["--config=configs/nowhere"], "configs/nowhere"),
        (["--config=nowhere.py", "--config.seed=1"], "nowhere.py"),
        (["--config=."], "--config: cannot use ."),
        (["--config.seed=1"], "--config.seed"),
        (["--config.seed=1", CONFIG], "--config.seed=1"),
        (["--workdir=x"], "--config is missing"),
        ([CONFIG, "--config=nowhere.py"], "nowhere.py"),
        ([f"{CONFIG}:argument"], "argument"),
    ],
)
@pytest.mark.reliability("G5", "malformed inputs refused in one line")
def test_train_refuses_a_config_that_is_not_there(arguments: list[str], part: str) -> None:
    assert part in refusal("train", *arguments)


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("def get_config():\n    raise RuntimeError('boom')\n", "RuntimeError: boom"),
        ("def get_config():\n    raise ValueError('boom')\n", "ValueError: boom"),
        ("def get_config():\n    raise TypeError\n", "TypeError"),
        ("def get_config():\n    raise KeyError('seed')\n", "KeyError: 'seed'"),
        ("def get_config():\n    return [].seed\n", "'list' object has no attribute 'seed'"),
        ("def get_config():\n    return open('nowhere.txt')\n", "nowhere.txt"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import not_there\n", "No module named 'not_there'"),
        ("def get_config():\n    return undefined\n", "name 'undefined' is not defined"),
        ("def get_config():\n    return get_config()\n", "RecursionError"),
        ("def get_config(a, b):\n    return a\n", "missing 2 required positional arguments"),
        ("def get_config(:\n", "x.py, line 1"),
        ("seed = 'a\n", "x.py, line 1"),
        ("\x00", "null bytes"),
        ("", "has no attribute 'get_config'"),
        ("def get_config():\n    pass\n", "returned NoneType, not a ConfigDict"),
        ("def get_config():\n    return {'seed': 0}\n", "returned dict, not a ConfigDict"),
        ("def get_config():\n    return [1]\n", "returned list, not a ConfigDict"),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n",
            "key seed is missing",
        ),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),  # would end like a run that is done
        ("def get_config():\n    raise SystemExit\n", "SystemExit"),
        (f"def get_config():\n    raise RuntimeError({'long ' * 100!r})\n", "RuntimeError: long"),
        ("def get_config():\n    raise RuntimeError('two\\nlines')\n", "lines"),
    ],
)
@pytest.mark.parametrize("override", [[], ["--config.seed=1"]])
@pytest.mark.reliability("G5", "malformed inputs refused in one line")
def test_train_refuses_a_config_file_that_fails(
    empty_folder: Path, code: str, part: str, override: list[str]
) -> None:
    (empty_folder / "x.py").write_text(code)
    message = refusal("train", "--config=x.py", *override)
    if not override:  # with one, what is wrong with the key may be told instead
        assert part in message
        assert "x.py" in message or "is missing" in message


@pytest.mark.parametrize("script", ["sample", "eval_fid"])
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--checkpoint is missing"),
        (["--checkpoint"], "--checkpoint"),
        (["--checkpoint="], "--checkpoint is missing"),
        (["--checkpoint=nowhere"], "--checkpoint: no folder nowhere"),
        (["--checkpoint=."], "--checkpoint: . is neither a run nor a step folder"),
        (["--checkpoint=.", "--sampler=ddmp"], "did you mean ddpm?"),
        (["--checkpoint=.", "--num_images=abc"], "--num_images=abc"),
        (["--checkpoint=.", "--num_images=1e3"], "--num_images=1e3"),
        (["--checkpoint=.", "--num_images=0"], "--num_images 0: allowed is 1"),
        (["--checkpoint=.", "--num_images=-1"], "--num_images -1"),
        (["--checkpoint=.", "--num_images=99999999999999"], "--num_images 99999999999999"),
        (["--checkpoint=.", "--num_steps=0"], "--num_steps 0: allowed is 1"),
        (["--checkpoint=.", "--num_steps="], "--num_steps"),
        (["--checkpoint=.", "--seed=-1"], "--seed -1: allowed is 0"),
        (["--checkpoint=.", "--batch_size=0"], "--batch_size 0: allowed is 1"),
        (["--checkpoint=.", "--use_ema=2"], "--use_ema=2"),
        (["--checkpoint=.", "--eta=x"], "--eta=x"),
        (["--checkpoint=.", "--eta=1.5"], "--eta 1.5: allowed is a number from 0 to 1"),
        (["--checkpoint=.", "--eta=nan"], "--eta nan: allowed is"),
        (["--checkpoint=.", "--variance_type=learned"], "--variance_type learned: allowed is one"),
        (["--checkpoint=.", "--clip_sample=2"], "--clip_sample=2"),
        (["--checkpoint=.", "--num_image=3"], "did you mean num_images?"),
        (["--checkpoint=.", "extra"], "'extra'"),
        (["--checkpoint=.", "--sampler=" + "x" * 500], "--sampler 'xxx"),
        (["--nothing_like_it"], "--nothing_like_it"),
        (["--flagfile=nowhere.txt"], "nowhere.txt"),
    ],
)
@pytest.mark.reliability("G5", "malformed inputs refused in one line")
def test_sample_and_eval_fid_refuse(script: str, arguments: list[str], part: str) -> None:
    assert part in refusal(script, *arguments)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--num_repeats=0"], "--num_repeats=0"),
        (["--num_repeats=x"], "--num_repeats=x"),
        (["--seed=2147483647", "--num_repeats=2"], "seeds above 2147483647"),
        (["--extracter=digits"], "did you mean extractor?"),
        (["--weigths=x"], "did you mean weights?"),
        (["--allow_few_image"], "did you mean allow_few_images?"),
        (["--output=x"], "--output"),
    ],
)
@pytest.mark.reliability("G5", "malformed inputs refused in one line")
def test_eval_fid_refuses(arguments: list[str], part: str) -> None:
    assert part in refusal("eval_fid", "--checkpoint=.", *arguments)


# ---------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("words", [[CONFIG], CONFIG.split("=")])
@pytest.mark.parametrize("override", [["--config.seed=7"], ["--config.seed", "7"]])
def test_both_ways_to_write_a_flag(words: list[str], override: list[str]) -> None:
    assert config_of(*words, *override).seed == 7


def test_overrides_reach_the_config_in_its_types() -> None:
    argv = [CONFIG, "--config.train.batch_size=32", "--config.optimizer.betas=(0.5,0.6)"]
    argv += ["--config.data.random_flip", "--noconfig.model.conv", "--config.optimizer.eps=1e-6"]
    argv += ["--config.model.attention_options.blocks=0,2", "--config.train.batch_size=16"]
    config = config_of(*argv)
    assert config.train.batch_size == 16  # the last one counts
    assert config.optimizer.betas == (0.5, 0.6)
    assert config.optimizer.eps == 1e-6
    assert config.data.random_flip is True
    assert config.model.conv is False
    assert config.model.attention_options.blocks == "0,2"
    assert json.dumps(to_plain(config))


@pytest.mark.parametrize("in_file", [True, False, "auto"])
@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--config.train.compile=auto", "auto"),
        ("--config.train.compile", True),
        ("--noconfig.train.compile", False),
        ("--config.train.compile=True", True),
        ("--config.train.compile=false", False),
        ("--config.seed=0", ...),
    ],
)
def test_a_switch_may_be_auto(
    empty_folder: Path, in_file: bool | str, flag: str, expected: object
) -> None:
    (empty_folder / "x.py").write_text(
        "from configs.digits_uvit_dia import get_config as get_quickstart\n"
        "def get_config():\n"
        "    config = get_quickstart()\n"
        "    with config.ignore_type():\n"
        f"        config.train.compile = {in_file!r}\n"
        "    return config\n"
    )
    found = config_of("--config=x.py", flag).train.compile
    assert found is (in_file if expected is ... else expected) or found == expected == "auto"


def test_values_that_refer_to_an_overridden_one_follow_it(empty_folder: Path) -> None:
    (empty_folder / "x.py").write_text(
        "from configs.digits_uvit_dia import get_config as get_quickstart\n"
        "def get_config():\n"
        "    config = get_quickstart()\n"
        "    config.optimizer.warmup_steps = config.train.get_ref('num_steps') // 10\n"
        "    return config\n"
    )
    assert config_of("--config=x.py").optimizer.warmup_steps == 600
    assert config_of("--config=x.py", "--config.train.num_steps=90").optimizer.warmup_steps == 9


def test_the_run_has_the_name_of_its_config() -> None:
    assert start_of_run(CONFIG) == "runs/digits_uvit_dia"
    assert start_of_run(*CONFIG.split("="), "--workdir", "elsewhere") == "elsewhere"
    assert start_of_run(CONFIG, "--workdir=a/b", "--config.seed=3") == "a/b"


def test_flags_of_the_sampler_are_those_of_the_config_where_they_are_not_given() -> None:
    values = cli.new_flags()
    cli.define_sampling_flags(values, num_images=64)
    cli.parse_flags(values, ["sample.py", "--checkpoint=run"], "usage")
    arguments = cli.sampling_arguments(values)
    found = (arguments.eta, arguments.variance_type, arguments.clip_sample, arguments.num_images)
    assert found == (None, None, None, 64)
    config = config_of(CONFIG)
    assert sampler_settings(arguments, config) == config.sample


def test_flags_of_the_sampler_win_over_the_config() -> None:
    values = cli.new_flags()
    cli.define_sampling_flags(values)
    words = ["--checkpoint=run", "--sampler=ddim", "--eta=0.5", "--noclip_sample", "--seed=3"]
    cli.parse_flags(values, ["sample.py", *words, "--variance_type=fixed_small"], "usage")
    found = sampler_settings(cli.sampling_arguments(values), config_of(CONFIG))
    assert found == replace(
        config_of(CONFIG).sample,
        **{"sampler": "ddim", "eta": 0.5, "clip_sample": False, "seed": 3},
        variance_type="fixed_small",
    )


def test_nothing_is_written_by_a_refused_command(empty_folder: Path) -> None:
    refusal("train", CONFIG, "--config.seed=-1", "--workdir=run")
    refusal("sample", "--checkpoint=nowhere", "--output=x.png")
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("word", ["--help", "-h", "-help"])
def test_help_names_every_flag(script: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        SCRIPTS[script]([f"{script}.py", "--unknown=1", word])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    flags = {
        "train": ["--config", "--workdir", "--allow_other_world_size"],
        "sample": ["--checkpoint", "--num_images", "--sampler", "--eta", "--seed", "--output"],
        "eval_fid": ["--checkpoint", "--num_steps", "--extractor", "--weights", "--num_repeats"],
    }
    assert all(f"\n  {flag} " in text for flag in flags[script])
    assert f"python {script}.py" in text


# ---------------------------------------------------------------- real processes


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_takes_less_than_a_second(script: str) -> None:
    """Of a core's time: on cores that others use too it takes longer."""
    times = []
    for _ in range(3):
        before = cpu_seconds_of_children()
        done = run(f"{script}.py", "--help")
        times.append(cpu_seconds_of_children() - before)
        assert done.returncode == 0 and done.stderr == ""
        assert "Flags:" in done.stdout
    assert min(times) < 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["train.py", CONFIG, "--config.model.embed_dmi=3"], "did you mean model.embed_dim?"),
        (["train.py", CONFIG, "--config.seed=-1"], "seed = -1"),
        (["train.py", "--config", "configs/nowhere.py"], "configs/nowhere.py"),
        (["sample.py", "--chekpoint=x"], "did you mean checkpoint?"),
        (["eval_fid.py"], "--checkpoint is missing"),
    ],
)
@pytest.mark.reliability("G5", "malformed inputs refused by real processes", at_least=5)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], part: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and len(lines[0]) <= 200
    assert lines[0].startswith(f"{words[0]}: ") and part in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code", ["", "def get_config():\n    pass\n", "raise RuntimeError('a')\n"])
def test_a_wrong_config_file_is_one_line_and_exit_code_2(empty_folder: Path, code: str) -> None:
    path = empty_folder / "x.py"
    path.write_text(code)
    done = run("train.py", f"--config={path}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "import uvit_dia",
        "import uvit_dia.cli, uvit_dia.config.checks",
        "import train, sample, eval_fid",
    ],
)
def test_light_imports_stay_light(statement: str) -> None:
    done = run("-c", f"import sys; {statement}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "uvit_dia" in loaded
    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))


# ---------------------------------------------------------------- the console command


def console(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """Call the console command in this process; return its exit code."""
    from uvit_dia.__main__ import main

    monkeypatch.setattr(sys, "argv", ["uvit-dia", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def test_the_console_command_lists_what_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from uvit_dia.__main__ import COMMANDS, commands

    assert console(monkeypatch, "--help") == 0
    told = capsys.readouterr().out
    for word, (module, text) in COMMANDS.items():
        path = ROOT.joinpath("uvit_dia", *module.split(".")).with_suffix(".py")
        assert (word in commands()) == path.is_file() == (f"{word:<8} {text}" in told), word
    assert {"train", "sample", "eval", "sweep", "report", "analyse"} <= commands().keys()
    assert console(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == "0.2.0\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tran"], "uvit-dia: unknown command 'tran'; allowed is train, sample, "),
        (["evall"], "did you mean eval?"),
        ([], "uvit-dia: the command is missing; the first word is one of train, "),
        (["--config=x"], "uvit-dia: the command is missing"),
        (["train", "--config=digit_uvit_dia"], "did you mean digits_uvit_dia?"),
        (["train", "--config=digits_uvit_dia", "--config.seed=-1"], "uvit-dia train: config: seed"),
        (["sweep", "--config=digits_batch", "--workdir=x"], "did you mean digits_batch_size?"),
        (["sample"], "uvit-dia sample: --checkpoint is missing"),
        (["eval", "--chekpoint=x"], "uvit-dia eval: unknown flag --chekpoint; did you mean"),
        (["report"], "uvit-dia report: the sweep's folder is missing"),
        (["analyse", "gate"], "uvit-dia analyse: unknown command 'gate'"),
    ],
)
def test_the_console_command_refuses_in_one_line(
    words: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert console(monkeypatch, *words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert line in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("word", ["train", "sample", "eval", "sweep", "report", "analyse"])
def test_help_speaks_of_the_command_that_was_started(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console(monkeypatch, word, "--help") == 0
    told = capsys.readouterr().out
    assert f"uvit-dia {word}" in told
    assert "python " not in told


def test_a_config_is_found_by_its_name() -> None:
    by_path = config_of(CONFIG)
    assert config_of("--config", "digits_uvit_dia") == by_path
    assert config_of("--config=digits_uvit_dia", "--config.seed=3").seed == 3
    assert start_of_run("--config", "digits_uvit_dia") == "runs/digits_uvit_dia"


def test_a_file_beside_the_user_wins_over_a_name(empty_folder: Path) -> None:
    text = (ROOT / "configs" / "digits_uvit_dia.py").read_text()
    (empty_folder / "digits_uvit_dia").write_text(
        text.replace("config.seed = 0", "config.seed = 7")
    )
    assert config_of("--config", "digits_uvit_dia").seed == 7


def test_configs_that_import_one_another_are_run_from_anywhere(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`configs` means ours in our files, and that of the user, if there is one, in the user's."""
    foreign = {name for name in sys.modules if name.partition(".")[0] == "configs"}
    for name in foreign:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if Path(p or ".").resolve() != ROOT])
    assert config_of("--config", "cifar10_uvit").model.attention == "none"
    (empty_folder / "mine.py").write_text(
        "from configs.digits_uvit_dia import get_config as ours\n"
        "def get_config():\n    config = ours()\n    config.seed = 5\n    return config\n"
    )
    assert config_of("--config", "mine.py").seed == 5
    assert "configs" not in sys.modules
    (empty_folder / "configs").mkdir()
    (empty_folder / "configs" / "digits_uvit_dia.py").write_text(
        "def get_config(): raise OSError(9)"
    )
    monkeypatch.setattr(sys, "path", [str(empty_folder), *sys.path])
    assert config_of("--config", "cifar10_uvit").model.attention == "none"
    assert "cannot use mine.py" in refusal("train", "--config=mine.py")
