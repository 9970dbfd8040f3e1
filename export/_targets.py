"""Which graphs an export makes, and what their files are called."""

from collections.abc import Sequence

from crossrank._errors import InputError
from crossrank._manifest import PRECISIONS, VARIANTS

# A variant and a precision.
Target = tuple[str, str]

_ALLOWED = {"cpu": ("fp32", "int8"), "cuda": ("fp16",), "portable": ("fp32", "fp16")}
_DEFAULT = {"cpu": ("fp32", "int8"), "cuda": ("fp16",), "portable": ("fp32",)}


def choose_targets(variants: Sequence[str] | None, precisions: Sequence[str] | None) -> list[Target]:
    """The graphs to make.

    Args:
        variants: Of cpu, cuda and portable, or None for all.
        precisions: Of fp32, fp16 and int8, or None for each variant's defaults.

    Raises:
        InputError: If a name is unknown, or one that was asked for leads to no graph.

    >>> choose_targets(None, None)
    [('cpu', 'fp32'), ('cpu', 'int8'), ('cuda', 'fp16'), ('portable', 'fp32')]
    """
    for what, given, known in (("variant", variants, VARIANTS), ("precision", precisions, PRECISIONS)):
        if given is not None and (not given or set(given) - set(known)):
            raise InputError(f"{what}s {', '.join(given) or '(none)'}: known are {', '.join(known)}")
    targets = [
        (variant, precision)
        for variant in VARIANTS
        if variants is None or variant in variants
        for precision in (_DEFAULT[variant] if precisions is None else _ALLOWED[variant])
        if precisions is None or precision in precisions
    ]
    made = {name for target in targets for name in target}
    barren = [name for name in [*(variants or ()), *(precisions or ())] if name not in made]
    if barren:
        pairs = "; ".join(f"{variant}: {', '.join(allowed)}" for variant, allowed in _ALLOWED.items())
        raise InputError(f"{', '.join(barren)} leads to no graph; the precisions of each variant are {pairs}")
    return targets


def target_file(target: Target) -> str:
    """The graph's path in an artifact; the portable ones have the names that sentence-transformers uses."""
    variant, precision = target
    stem = "model" if target == ("portable", "fp32") else f"model_{precision}"
    return f"onnx/{stem}.onnx" if variant == "portable" else f"onnx/model_{variant}_{precision}.onnx"
