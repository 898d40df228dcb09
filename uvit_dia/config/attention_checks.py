"""Which options of an attention unit fit the unit, the network, and each other."""

from uvit_dia.config.network import ModelConfig
from uvit_dia.config.rules import parse_blocks
from uvit_dia.config.units import DEFAULT_OPTIONS, facts_of, set_without_effect, units_with
from uvit_dia.system.errors import InputError


def check_attention(model: ModelConfig) -> None:
    """Check that the attention unit's options fit the unit and the network's width.

    Raises:
        InputError: naming the first option that does not.
    """
    name, options = model.attention, model.attention_options
    facts = facts_of(name)
    if facts is not None:
        for divisor in ("reduction", "groups"):
            value = getattr(options, divisor)
            if divisor in facts.options and value and model.embed_dim % value:
                raise InputError(
                    f"model.attention_options.{divisor} = {value} does not divide "
                    f"model.embed_dim = {model.embed_dim}"
                )
        if not facts.is_recurrent and (options.activation, options.num_cells) != ("default", 1):
            raise InputError(
                "model.attention_options.activation and num_cells belong to "
                f"{', '.join(units_with('num_cells'))}; for {name!r} allowed are 'default' and 1"
            )
        idle = set_without_effect(facts, options.to_dict(with_absent=True))
        if idle is not None:
            raise InputError(
                f"model.attention_options.{idle} belongs to {', '.join(units_with(idle))}; for "
                f"{name!r} allowed is {DEFAULT_OPTIONS[idle]!r}"
            )
    if options.gate_init == "identity" and options.activation == "relu":
        raise InputError(
            "model.attention_options.gate_init = 'identity' needs activation sigmoid or tanh"
        )
    _check_gate(model)
    blocks = parse_blocks(options.blocks)
    if blocks != "all" and max(blocks) > model.depth:
        raise InputError(
            f"model.attention_options.blocks names block {max(blocks)}; "
            f"depth = {model.depth} has blocks 0 to {model.depth}"
        )


def _check_gate(model: ModelConfig) -> None:
    """Check that there is a gate of this form and start, and that it can leave its start."""
    name, options = model.attention, model.attention_options
    form, facts = options.gate_form, facts_of(name)
    if form != "h" and options.gate_init != "paper":
        raise InputError(
            f"model.attention_options.gate_form = {form!r} goes with gate_init = 'paper' alone, "
            f"not {options.gate_init!r}"
        )
    if facts is None:
        return
    activation = facts.activation if options.activation == "default" else options.activation
    starts_at_0 = activation in ("tanh", "relu")
    if starts_at_0 and (options.gate_init == "rescaled" or form == "mean_one"):
        raise InputError(
            "model.attention_options: a gate that is rescaled or mean_one divides by the attention "
            f"map, which {name!r} starts at 0 here; activation = 'sigmoid' does not"
        )
    is_normalised = options.normalisation != "default"  # by scales that start at 0
    if form == "residual" and (facts.starts_constant or is_normalised):
        raise InputError(
            f"model.attention_options.gate_form = 'residual': {name!r} starts with a constant "
            "attention map here, and would stay at it"
        )
