"""Which graphs an export makes, and what their files are called."""

from collections.abc import Sequence

from crossrank._errors import InputError
from crossrank._manifest import PRECISIONS, VARIANTS

# A variant and a precision.
Target = tuple[str, str]

# What may be asked for; "auto" is the native exporter where it knows the architecture, else optimum.
EXPORTERS = ("auto", "native", "optimum")

# The precisions of each variant by exporter: all that it can make, and what it makes unless asked otherwise.
_Precisions = dict[str, dict[str, tuple[str, ...]]]
_ALLOWED: _Precisions = {
    "native": {"cpu": ("fp32", "int8"), "cuda": ("fp16",), "portable": ("fp32", "fp16")},
    "optimum": {"portable": ("fp32",)},
}
_DEFAULT: _Precisions = _ALLOWED | {"native": {"cpu": ("fp32", "int8"), "cuda": ("fp16",), "portable": ("fp32",)}}


def choose_targets(
    variants: Sequence[str] | None, precisions: Sequence[str] | None, exporter: str = "native"
) -> list[Target]:
    """The graphs to make.

    Args:
        variants: Of cpu, cuda and portable, or None for all.
        precisions: Of fp32, fp16 and int8, or None for each variant's defaults.
        exporter: What makes them; "auto" stands for all that any of them can make, which is the native one's.

    Raises:
        InputError: If a name is unknown, or one that was asked for leads to no graph.

    >>> choose_targets(None, None)
    [('cpu', 'fp32'), ('cpu', 'int8'), ('cuda', 'fp16'), ('portable', 'fp32')]
    """
    if exporter not in EXPORTERS:
        raise InputError(f"exporter={exporter!r}: one of {', '.join(EXPORTERS)}")
    maker = "optimum" if exporter == "optimum" else "native"
    for what, given, known in (("variant", variants, VARIANTS), ("precision", precisions, PRECISIONS)):
        if isinstance(given, str):
            raise InputError(f"{what}s is one string, {given!r}: a list is needed; known are {', '.join(known)}")
        if given is not None and (not given or set(given) - set(known)):
            raise InputError(f"{what}s {', '.join(given) or '(none)'}: known are {', '.join(known)}")
    targets = [
        (variant, precision)
        for variant, possible in (_DEFAULT if precisions is None else _ALLOWED)[maker].items()
        if variants is None or variant in variants
        for precision in possible
        if precisions is None or precision in precisions
    ]
    made = {name for target in targets for name in target}
    barren = [name for name in [*(variants or ()), *(precisions or ())] if name not in made]
    if barren:
        pairs = "; ".join(f"{variant}: {', '.join(allowed)}" for variant, allowed in _ALLOWED[maker].items())
        raise InputError(f"{', '.join(barren)} leads to no graph; the {maker} exporter makes {pairs}")
    return targets


def target_file(target: Target) -> str:
    """The graph's path in an artifact; the portable ones have the names that sentence-transformers uses."""
    variant, precision = target
    stem = "model" if target == ("portable", "fp32") else f"model_{precision}"
    return f"onnx/{stem}.onnx" if variant == "portable" else f"onnx/model_{variant}_{precision}.onnx"
