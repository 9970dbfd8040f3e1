"""Targets: the graphs that an export makes, and their files' names."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from crossrank._artifact.choice import graph_order
from crossrank._artifact.manifest import PRECISIONS, VARIANTS
from crossrank._errors import InputError
from crossrank._machine.device import Device

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


@dataclass(frozen=True, slots=True)
class Order:
    """The graphs that an export is to make.

    Attributes:
        lines: Each a row of alternatives: the next one is made where the one before it does not hold.
        demands: Of each of these sets at least one graph must hold, else the export fails.
    """

    lines: tuple[tuple[Target, ...], ...]
    demands: tuple[frozenset[Target], ...]

    def next(self, proven: Collection[Target], refused: Collection[Target]) -> list[Target]:
        """What to make now: of each line the first graph that was not refused, unless one of its precision holds."""
        held, found = set(proven), []
        for line in self.lines:
            best = next((target for target in line if target not in refused), None)
            if best is not None and not any(target in held and target[1] == best[1] for target in line):
                found.append(best)
        return list(dict.fromkeys(found))

    def unmet(self, proven: Collection[Target]) -> set[Target]:
        """The graphs of the demands that nothing proven meets."""
        return {target for demand in self.demands if demand.isdisjoint(proven) for target in demand}

    def mentions(self, target: Target) -> bool:
        """Whether one of the lines names a graph."""
        return any(target in line for line in self.lines)


def order_targets(
    variants: Sequence[str] | None,
    precisions: Sequence[str] | None,
    exporter: str = "native",
    *,
    also: Collection[Target] = (),
) -> Order:
    """The graphs of `choose_targets`, and which of them were asked for by name.

    A precision that was named must hold in each of its graphs, a variant that was named in one of its graphs; of what
    nobody named any graph suffices.

    Args:
        variants: As `choose_targets`.
        precisions: As `choose_targets`.
        exporter: As `choose_targets`.
        also: Further graphs, asked for by name.

    >>> order_targets(["cpu"], None).demands == (frozenset({("cpu", "fp32"), ("cpu", "int8")}),)
    True
    """
    targets = choose_targets(variants, precisions, exporter)
    if precisions is not None:
        demands = [{target} for target in targets]
    elif variants is not None:
        demands = [{target for target in targets if target[0] == variant} for variant in variants]
    else:
        demands = [set(targets)]
    demands += [{target} for target in also]
    lines = dict.fromkeys((target,) for target in [*targets, *also])
    return Order(tuple(lines), tuple(frozenset(demand) for demand in demands))


def order_for_model(precision: str, devices: Sequence[Device], exporter: str = "native") -> Order:
    """One graph for each device that a model may run on, the best that holds; one of them must.

    Args:
        precision: "auto" or one of `PRECISIONS`.
        devices: At least one.
        exporter: What makes them, as `choose_targets` takes it.

    Raises:
        InputError: If the exporter makes no such graph.

    >>> order_for_model("auto", [Device("cpu")]).lines
    ((('cpu', 'fp32'), ('portable', 'fp32'), ('cpu', 'int8'), ('portable', 'fp16')),)
    """
    maker = "optimum" if exporter == "optimum" else "native"
    makes = {(variant, made) for variant, precisions in _ALLOWED[maker].items() for made in precisions}
    rows = [[target for target in graph_order(device, precision) if target in makes] for device in devices]
    lines = tuple(tuple(row) for row in rows if row)
    if not lines:
        raise InputError(
            f"precision={precision!r} on {' or '.join(map(str, devices))}: the {maker} exporter makes no such graph, "
            f"but {_makes(maker)}"
        )
    return Order(lines, (frozenset(target for line in lines for target in line),))


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
        raise InputError(f"{', '.join(barren)} leads to no graph; the {maker} exporter makes {_makes(maker)}")
    return targets


def in_order(targets: Iterable[Target]) -> list[Target]:
    """Graphs in the order of `VARIANTS` and `PRECISIONS`."""
    return sorted(targets, key=lambda target: (VARIANTS.index(target[0]), PRECISIONS.index(target[1])))


def _makes(maker: str) -> str:
    return "; ".join(f"{variant}: {', '.join(allowed)}" for variant, allowed in _ALLOWED[maker].items())


def target_file(target: Target) -> str:
    """The graph's path in an artifact; the portable ones have the names that sentence-transformers uses."""
    variant, precision = target
    stem = "model" if target == ("portable", "fp32") else f"model_{precision}"
    return f"onnx/{stem}.onnx" if variant == "portable" else f"onnx/model_{variant}_{precision}.onnx"
