"""Training across two machines.

Network namespaces of this one, joined by a cable that the test can pull.

Both see the same file system, as machines with a shared home folder do.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.support.runs import ROOT, log_lines, status, step_folder, train, train_arguments
from uvit_dia.system.errors import EXIT_OK

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip (iproute2)"),
]
PORT = 29_511
TIMEOUT_SECONDS = 12
LONG: dict[str, object] = {
    "train.num_steps": 100_000,
    "optimizer.lr_schedule": "constant",  # then a run may be shortened
    "train.checkpoint_every_steps": 20,
    "train.keep_checkpoints": 3,
}


@dataclass(frozen=True)
class Machine:
    """A network namespace with one end of the cable.

    Attributes:
        namespace: its name.
        cable: its end of the cable.
        address: its IPv4 address.
    """

    namespace: str
    cable: str
    address: str

    def ip(self, *arguments: str) -> None:
        """Run `ip` inside."""
        subprocess.run(["ip", "-n", self.namespace, *arguments], check=True)


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    """Make two machines and the cable between them; take them down, and what still runs in them."""
    made = [
        Machine(f"uvit_dia_{os.getpid()}_{i}", f"uvit{os.getpid() % 10**6}_{i}", f"10.77.0.{i + 1}")
        for i in range(2)
    ]
    try:
        for machine in made:
            subprocess.run(["ip", "netns", "add", machine.namespace], check=True)
        first, second = made
        cable = ["type", "veth", "peer", "name", second.cable, "netns", second.namespace]
        first.ip("link", "add", first.cable, *cable)
        for machine in made:
            machine.ip("address", "add", f"{machine.address}/24", "dev", machine.cable)
            machine.ip("link", "set", "lo", "up")
            machine.ip("link", "set", machine.cable, "up")
        yield made
    finally:
        for machine in made:
            for pid in processes_in(machine):
                os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", machine.namespace], check=False)


def processes_in(machine: Machine) -> list[int]:
    """Return the ids of the processes of a machine."""
    listed = subprocess.run(
        ["ip", "netns", "pids", machine.namespace], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in listed.stdout.split()]


def launch(
    machines: list[Machine], path: Path, changes: dict[str, object], *flags: str
) -> list[subprocess.Popen]:
    """Start one process a machine with `accelerate launch`, as each machine's user would."""
    started = []
    for rank, machine in enumerate(machines):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "GLOO_SOCKET_IFNAME": machine.cable,
        }
        command = ["ip", "netns", "exec", machine.namespace, sys.executable]
        command += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=2"]
        command += ["--num_processes=2", f"--machine_rank={rank}", "--mixed_precision=no"]
        command += ["--dynamo_backend=no", f"--main_process_ip={machines[0].address}"]
        command += [f"--main_process_port={PORT}", "train.py", *train_arguments(path, changes)]
        command += [f"--process_timeout_minutes={TIMEOUT_SECONDS / 60}", *flags]
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def wait_for_step(path: Path, step: int, processes: list[subprocess.Popen]) -> None:
    """Wait until a checkpoint of a step is there."""
    end = time.monotonic() + 120
    while not step_folder(path, step).exists():
        assert time.monotonic() < end, "too slow"
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def finish(processes: list[subprocess.Popen], seconds: float) -> list[tuple[int, str]]:
    """Wait for the end; return exit codes and what was said on stderr."""
    end = time.monotonic() + seconds
    ended = []
    for process in processes:
        _, errors = process.communicate(timeout=max(1.0, end - time.monotonic()))
        ended.append((process.returncode, errors))
    return ended


def newest_step(path: Path) -> int:
    return max(int(folder.name.split("_")[1]) for folder in path.glob("checkpoints/step_*"))


def test_a_cut_cable_ends_the_job_and_both_or_one_go_on(
    tmp_path: Path, machines: list[Machine]
) -> None:
    # ---- two machines train
    processes = launch(machines, tmp_path, LONG)
    wait_for_step(tmp_path, 40, processes)
    mine = [set(processes_in(machine)) for machine in machines]
    assert all(mine)

    # ---- one is cut off: the job ends within its timeout, and leaves no process
    machines[1].ip("link", "set", machines[1].cable, "down")
    cut = time.monotonic()
    ended = finish(processes, TIMEOUT_SECONDS + 60)
    seconds = time.monotonic() - cut
    assert all(code != EXIT_OK for code, _ in ended), ended
    assert seconds < TIMEOUT_SECONDS + 45  # a launcher gives its processes 30 s to end
    assert "lost contact with another process of the run" in ended[0][1]
    assert [processes_in(machine) for machine in machines] == [[], []]
    assert not any(psutil.pid_exists(pid) for pid in mine[0] | mine[1])
    saved = newest_step(tmp_path)
    assert saved >= 40
    assert status(tmp_path)["state"] == "failed"
    for file in step_folder(tmp_path, saved).glob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values())

    # ---- on both again
    machines[1].ip("link", "set", machines[1].cable, "up")
    processes = launch(machines, tmp_path, LONG)
    wait_for_step(tmp_path, saved + 40, processes)
    for machine in machines:
        for pid in processes_in(machine):
            name = " ".join(psutil.Process(pid).cmdline())
            if "train.py" in name and "accelerate" not in name:
                os.kill(pid, signal.SIGTERM)
    finish(processes, 60)
    both = status(tmp_path)
    assert both["state"] == "preempted"
    assert both["step"] >= saved + 40

    # ---- and on one
    final = both["step"] + 20
    changes = {**LONG, "train.num_steps": final}
    alone = train(tmp_path, changes, "--allow_other_world_size")
    assert alone.exit_code == 0, alone.stderr
    assert f"going on at step {both['step']}" in alone.stdout
    assert status(tmp_path)["state"] == "done"
    steps = [line["step"] for line in log_lines(tmp_path)]
    assert steps == sorted(set(steps))
