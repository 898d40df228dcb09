"""The hooks that put a model's stages to work, and the module that holds the stages.

Hooks are objects, not closures: a copy of the model copies them with the stage that they belong to.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from uvit_dia.models.other_backbones.stage import Stage
from uvit_dia.models.units.protocol import total_penalty


class Site:
    """The hook at one target."""

    def __init__(self, stage: Stage, index: int) -> None:
        self.stage = stage
        self.index = index

    def __call__(self, module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        """Replace the target's output with the gated one."""
        return self.stage.gate(output, self.index)


class PassBegin:
    """The hook before the call of a module that may be a pass of a stage."""

    def __init__(self, stage: Stage, caller: str) -> None:
        self.stage = stage
        self.caller = caller

    def __call__(self, module: nn.Module, arguments: object) -> None:
        """Begin the pass."""
        self.stage.begin_pass(self.caller)


class PassEnd(PassBegin):
    """The hook after it."""

    def __call__(self, module: nn.Module, arguments: object, output: object = None) -> None:
        """End the pass."""
        self.stage.end_pass(self.caller)


class SharedAttention(nn.ModuleDict):
    """The stages of one model by name; registered on it, so that its weights stand there once."""

    def __init__(self, stages: dict[str, Stage]) -> None:
        super().__init__(stages)

    def forward(self, x: Tensor) -> Tensor:
        """Return x: a container that runs its children in turn loses nothing here."""
        return x

    def stages(self) -> Iterable[Stage]:
        """Return the stages in the order in which they were given."""
        return (stage for stage in self.values() if isinstance(stage, Stage))

    def num_weights(self) -> int:
        """Return how many weights the units have, biases left out."""
        return sum(p.numel() for name, p in self.named_parameters() if not name.endswith("bias"))

    def penalty(self) -> Tensor | None:
        """Return what the units add to the training loss, (), a term a target; or None."""
        return total_penalty(
            stage.unit_of(index)
            for stage in self.stages()
            for index in range(len(stage.target_names))
        )

    def attach(self, model: nn.Module) -> None:
        """Hook the targets of a model, and the calls that are passes, before and after."""
        for stage in self.stages():
            for index, name in enumerate(stage.target_names):
                model.get_submodule(name).register_forward_hook(Site(stage, index))
            for caller in stage.callers():
                module = model.get_submodule(caller)
                module.register_forward_pre_hook(PassBegin(stage, caller))
                module.register_forward_hook(PassEnd(stage, caller), always_call=True)

    def detach(self, model: nn.Module, stage: str) -> None:
        """Take the unit of a stage out of a model again, and this itself with the last one.

        Args:
            model: to which this is attached; its targets return what they did before.
            stage: its name.
        """
        gone = self.pop(stage)
        for module in list(model.modules()):
            for name, part in list(module.named_children()):
                if part is self and not len(self):
                    delattr(module, name)
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                for key, hook in list(hooks.items()):
                    if isinstance(hook, Site | PassBegin) and hook.stage is gone:
                        del hooks[key]
                        module._forward_hooks_always_called.pop(key, None)
