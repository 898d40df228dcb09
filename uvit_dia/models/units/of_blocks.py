"""The attention units of a network of blocks: one for all, or one a block (Eqs. 2 and 1)."""

from typing import Any

from torch import Tensor, nn

from uvit_dia.models.units.protocol import AttentionUnit, UnitState, total_penalty
from uvit_dia.models.units.registry import chosen_blocks, make_attention_unit


class UnitsOfBlocks(nn.Module):
    """A network whose blocks carry attention units.

    The unit is registered once, on the network: held by each block it would stand in `state_dict`
    once a block.

    Attributes:
        num_blocks: how many blocks there are.
        attention_blocks: the blocks that carry a unit, ascending.
        attention_is_shared: whether they share one.
        attention_unit: the unit of all blocks, or a ModuleDict of one a block; missing without.
    """

    num_blocks: int
    attention_blocks: list[int]
    attention_is_shared: bool
    attention_unit: Any

    def _add_attention_units(
        self, name: str, options: dict[str, Any], *, channels: int, num_extra_tokens: int
    ) -> None:
        """Make the units, without their initial weights.

        Args:
            name: of the unit, or "none".
            options: complete set of `registry.DEFAULT_OPTIONS`.
            channels: D.
            num_extra_tokens: tokens before the patches.

        Raises:
            ValueError: for an unknown name, or options that do not fit.
        """
        indices = chosen_blocks(options["blocks"], self.num_blocks)
        self.attention_blocks = [] if name == "none" else indices
        self.attention_is_shared = bool(options["shared"])
        if name == "none":
            return

        def make_unit(served: list[int]) -> AttentionUnit:
            # only the unit that comes first makes a state
            makes_state = options["time_first_state"] and served[0] == indices[0]
            own = {**options, "time_first_state": makes_state}
            return make_attention_unit(name, channels, num_extra_tokens, own, served)

        if self.attention_is_shared:
            self.attention_unit = make_unit(indices)
        else:
            self.attention_unit = nn.ModuleDict({str(i): make_unit([i]) for i in indices})

    def unit_of_block(self, block_index: int) -> AttentionUnit | None:
        """Return the attention unit that serves a block, or None."""
        if block_index not in self.attention_blocks:
            return None
        if self.attention_is_shared:
            return self.attention_unit
        return self.attention_unit[str(block_index)]

    def attention_penalty(self) -> Tensor | None:
        """Return what the units add to the training loss, (), a term for each block; or None."""
        units = (self.unit_of_block(index) for index in self.attention_blocks)
        return total_penalty(unit for unit in units if unit is not None)

    def _initial_state(self, x: Tensor, dropout_seeds: Tensor | None) -> UnitState | None:
        """Return the state before the first block; see `AttentionUnit.initial_state`."""
        unit = self.unit_of_block(self.attention_blocks[0]) if self.attention_blocks else None
        return None if unit is None else unit.initial_state(x, dropout_seeds)
