"""The choice of a graph for a device and a precision, what "auto" means among them."""

from collections.abc import Sequence

from crossrank._errors import ArtifactError, InputError
from crossrank._machine.device import Device

from .manifest import PRECISIONS, Refusal, Variant


def check_precision(precision: str) -> None:
    """Raise `InputError` unless ``precision`` is "auto" or one that an artifact can have."""
    if precision not in ("auto", *PRECISIONS):
        raise InputError(f"precision={precision!r}: one of auto, {', '.join(PRECISIONS)}")


def graph_order(device: Device, precision: str) -> list[tuple[str, str]]:
    """The graphs, variant and precision, that suit a device and a precision, the best first.

    "auto" is fp32 on a CPU (int8 where there is nothing else) and fp16 on a GPU (fp32 where there is nothing else).

    Raises:
        InputError: If the precision is unknown.

    >>> graph_order(Device("cuda"), "auto")
    [('cuda', 'fp16'), ('portable', 'fp16'), ('cuda', 'fp32'), ('portable', 'fp32')]
    """
    check_precision(precision)
    order = ("fp32", "int8", "fp16") if device.kind == "cpu" else ("fp16", "fp32")
    wanted = order if precision == "auto" else (precision,)
    return [(kind, candidate) for candidate in wanted for kind in (device.kind, "portable")]


def choose_variant(
    variants: Sequence[Variant],
    device: Device,
    precision: str,
    refused: Sequence[Refusal] = (),
    *,
    make: str | None = None,
) -> Variant:
    """The graph that suits a device and a precision best, by `graph_order`.

    Args:
        variants: What there is.
        device: Where it is to run.
        precision: "auto" or one of `PRECISIONS`.
        refused: What was made and not kept, for the message.
        make: How to have another graph, for the message, as `make_graph` says it; None where that cannot be.

    Raises:
        InputError: If the precision is unknown.
        ArtifactError: If the artifact holds no such graph.
    """
    order = graph_order(device, precision)
    held = {variant.target: variant for variant in reversed(variants)}
    for target in order:
        if target in held:
            return held[target]
    have = f"{', '.join(variant.name for variant in variants)}{' alone' if len(variants) == 1 else ''}"
    known = [str(refusal) for refusal in refused if refusal.target in order]
    why = f" ({'; '.join(known)}: refused when the model was exported)" if known else ""
    advice = ["take that" if len(variants) == 1 else "take one of these", *([make] if make else [])]
    raise ArtifactError(
        f"no graph for device {device} with precision {precision!r}{why}: there is {have}; {', '.join(advice)}, or "
        f"name the ONNX file itself"
    )
