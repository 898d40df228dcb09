"""How a network is computed.

In which precision, and compiled or not; what "auto" comes to. Needs no torch.
"""

from dataclasses import dataclass

from uvit_dia.system.compilation import check_compiler, find_compiler
from uvit_dia.system.errors import InputError
from uvit_dia.system.launch import LauncherSettings

AUTO = "auto"
PRECISION_NAMES = {"no": "float32", "bf16": "bf16"}


@dataclass(frozen=True)
class Execution:
    """How a network is computed.

    Attributes:
        mixed_precision: "no" (float32) or "bf16"; as it is asked for also "auto".
        compile: whether the network is compiled; as it is asked for also "auto".
    """

    mixed_precision: str
    compile: bool | str

    def __str__(self) -> str:
        """Say it in words."""
        name = PRECISION_NAMES.get(self.mixed_precision, self.mixed_precision)
        return f"{name}, {'compiled' if self.compile else 'not compiled'}"

    @classmethod
    def recorded(cls, facts: dict[str, object]) -> "Execution | None":
        """Return what `env.json` or the config's group `train` says; None where it does not."""
        precision, is_compiled = facts.get("mixed_precision"), facts.get("compile")
        if not isinstance(precision, str) or not isinstance(is_compiled, bool):
            return None
        return cls(precision, is_compiled) if precision in PRECISION_NAMES else None


def choose_execution(
    asked: Execution,
    begun: Execution | None,
    settings: LauncherSettings,
    *,
    device: str,
    has_bf16: bool,
) -> Execution:
    """Decide what "auto" means, and refuse what cannot be.

    "auto" is what the run began with; else what the launcher asks for; else bf16 and compilation on
    CUDA devices, as far as they have them, and neither on others: on a CPU bf16 costs several times
    as much as float32, and compiling takes minutes before the first step.

    Args:
        asked: by the config.
        begun: how the run that is resumed was computed so far, if one is.
        settings: of the launcher.
        device: its type, such as "cuda".
        has_bf16: whether the device computes in bf16 itself.

    Raises:
        InputError: if the network is to be compiled and there is no compiler.
    """
    precision, is_compiled = asked.mixed_precision, asked.compile
    if precision == AUTO:
        usual = "bf16" if device == "cuda" and has_bf16 else "no"
        wanted = settings.mixed_precision if settings.mixed_precision in PRECISION_NAMES else usual
        precision = begun.mixed_precision if begun else str(wanted)
    if settings.compile_disabled_by is not None:
        is_compiled = False
    elif is_compiled == AUTO:
        backends = {None: device == "cuda", "no": False, "inductor": True}
        is_wanted = begun.compile if begun else backends.get(settings.dynamo_backend, False)
        is_compiled = bool(is_wanted) and find_compiler(device) is not None
    elif is_compiled:
        check_compiler(device)
    return Execution(precision, is_compiled)


def check_same_precision(begun: Execution | None, holding: Execution) -> None:
    """Check that a run goes on in the precision that it began in.

    Raises:
        InputError: if it does not.
    """
    if begun is not None and begun.mixed_precision != holding.mixed_precision:
        raise InputError(
            f"train.mixed_precision = {holding.mixed_precision!r}: this run has been trained in "
            f"{begun.mixed_precision!r} so far; allowed is that or 'auto', or another --workdir"
        )


def contradictions(
    asked: Execution,
    holding: Execution,
    begun: Execution | None,
    settings: LauncherSettings,
    *,
    accumulation_steps: int | None,
    max_grad_norm: float,
) -> list[str]:
    """Say in a line each what was asked for and does not hold.

    Args:
        asked: by the config.
        holding: what was chosen.
        begun: how the run that is resumed was computed so far, if one is.
        settings: of the launcher.
        accumulation_steps: of the config; None for a command that does not train.
        max_grad_norm: of the config.
    """
    lines = []
    precision, backend = holding.mixed_precision, "inductor" if holding.compile else "no"
    # what the launcher calls it, what it asks for, what holds in its words, and in the config's
    wishes: list[tuple[str, object, object, str]] = [
        ("mixed_precision", settings.mixed_precision, precision, "train.mixed_precision"),
        ("dynamo_backend", settings.dynamo_backend, backend, "train.compile"),
    ]
    if accumulation_steps is not None:
        parts, norm = settings.accumulation_steps, settings.max_grad_norm
        parts_key = "train.accumulation_steps"
        wishes.append(("gradient_accumulation_steps", parts, accumulation_steps, parts_key))
        wishes.append(("gradient_clipping", norm, max_grad_norm, "optimizer.max_grad_norm"))
    unheard = [wish for wish in wishes if wish[1] not in (None, wish[2])]
    if unheard:
        wanted = ", ".join(f"{name} = {value}" for name, value, *_ in unheard)
        shown = {"train.compile": holding.compile}
        held = ", ".join(f"{key} = {shown.get(key, value)}" for *_, value, key in unheard)
        held = f"the config holds: {held}"
        if accumulation_steps is None:
            held = f"this command computes in {holding}"
        lines.append(f"the launcher asks for {wanted}; {held}")
    if asked.compile is True and not holding.compile:
        lines.append(
            f"{settings.compile_disabled_by} = 1 in the environment: the network is not compiled, "
            "though train.compile = True"
        )
    if begun is not None and begun.compile != holding.compile:
        was = "compiled" if begun.compile else "not compiled"
        lines.append(f"this run was {was} so far; from here on bits may differ")
    return lines
