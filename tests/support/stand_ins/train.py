"""A stand-in for train.py, without torch.

To a sweep it behaves alike (lock, log, state, exit code).

What it "learns" is a hash that depends on its config and on every step. Seeds from 100 on do what a
test needs: 101 diverges, 102 is refused, 103 crashes, 104 is killed and 105 stops at its first
attempt.
"""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

from absl import flags

from uvit_dia import cli
from uvit_dia.config.files import config_hash
from uvit_dia.config.flag import define_config_flag, read_config
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.errors import DivergedError, InputError, StoppedEarly
from uvit_dia.system.files import write_json
from uvit_dia.system.signals import StopRequest

STEP_SECONDS = float(os.environ.get("STAND_IN_STEP_SECONDS", "0.005"))
SAVE_EVERY_STEPS = 5


def main(argv: list[str]) -> None:
    values = cli.new_flags()
    define_config_flag(values)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    cli.parse_flags(values, argv, "")
    config = read_config(values)
    folder = RunFolder(Path(values["workdir"].value))
    folder.lock()
    saved = folder.path / "saved.json"
    state = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "hash": ""}
    attempt = note_call(folder.path, "train", argv, from_step=state["step"])
    folder.compare_config(config)
    folder.write_config(config)
    folder.truncate_metrics(state["step"])
    num_steps = config.train.num_steps
    folder.set_status("running", state["step"], num_steps=num_steps)
    with StopRequest() as stop:
        while state["step"] < num_steps:
            step = state["step"] + 1
            misbehave(config.seed, step, num_steps, attempt, folder)
            text = f"{config_hash(config)} {step} {state['hash']}"
            state = {"step": step, "hash": hashlib.sha256(text.encode()).hexdigest()}
            time.sleep(STEP_SECONDS)
            folder.append_metrics(
                {"step": step, "loss": int(state["hash"][:8], 16) / 2**32, "images_per_second": 1.0}
            )
            if stop or step == num_steps or step % SAVE_EVERY_STEPS == 0:
                write_json(saved, state)
                folder.set_status("running", step, num_steps=num_steps)
            if stop and step < num_steps:
                folder.set_status("preempted", step, num_steps=num_steps)
                raise StoppedEarly(f"stopped by {stop.signal_name} at step {step}, state saved")
    checkpoint = folder.path / "checkpoints" / f"step_{num_steps:08d}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    files = {"ema.safetensors": {"sha256": state["hash"]}}
    write_json(checkpoint / "manifest.json", {"step": num_steps, "files": files})
    folder.set_status("done", num_steps, num_steps=num_steps)


def misbehave(seed: int, step: int, num_steps: int, attempt: int, folder: RunFolder) -> None:
    """Do what the seed asks for, half way."""
    if step != num_steps // 2:
        return
    if seed == 101:
        folder.set_status("diverged", step, num_steps=num_steps, reason="the loss became NaN")
        raise DivergedError("the loss became NaN")
    if seed == 102:
        raise InputError("out of memory")
    if seed == 103:
        raise KeyError("a bug")
    if attempt == 1 and seed == 104:
        os.kill(os.getpid(), signal.SIGKILL)
    if attempt == 1 and seed == 105:
        os.kill(os.getpid(), signal.SIGTERM)


def note_call(folder: Path, script: str, argv: list[str], **facts: object) -> int:
    """Write down that a script was started; return how often it was."""
    calls = folder / "calls.jsonl"
    with calls.open("a") as file:
        file.write(json.dumps({"script": script, "argv": argv, **facts}) + "\n")
    return sum(json.loads(line)["script"] == script for line in calls.read_text().splitlines())


if __name__ == "__main__":
    cli.run_command(main)
