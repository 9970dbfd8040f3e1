"""An artifact's TensorRT engines, built ahead and proven on the GPU that they are for."""

from collections.abc import Callable
from dataclasses import replace

from crossrank._device.open import OpenModel, ready_engines
from crossrank._errors import ProofError, join_problems
from crossrank._machine.advice import read_tensorrt_facts
from crossrank._machine.device import Device, check_device
from crossrank._proof import Subject, measure_parity, read_proof
from crossrank.export._report import Report, stage
from crossrank.export._targets import Target

TENSORRT = Device("tensorrt")


def require_tensorrt() -> None:
    """Raise `DeviceError` if TensorRT cannot run here, before anything is exported."""
    check_device(TENSORRT)
    read_tensorrt_facts().require(TENSORRT.index)


def tensorrt_target(exporter: str) -> Target:
    """The graph that TensorRT runs, of those that an exporter makes."""
    return "portable", "fp16" if exporter == "native" else "fp32"


def build_engines(model: OpenModel, report: Report | None) -> None:
    """Build the engine of each profile that is not in the cache yet, and prove the scores that they give.

    Args:
        model: An artifact, opened on a TensorRT device.
        report: Told of each stage.

    Raises:
        DeviceError: If TensorRT fails.
        ProofError: If the scores leave the bound of the graph's precision.
        InputError: If no place to keep the engines can be written.
    """
    inputs = model.manifest.inputs

    def each(name: str, ready: Callable[[], None]) -> None:
        with stage(report, name):
            ready()

    ready_engines(model.backend, each)
    with stage(report, "prove on TensorRT"):
        subject = Subject(model.tokenizer, model.backend, inputs.max_length, model.manifest.head.labels)
        parity = measure_parity(read_proof(model.folder), subject, model.variant.precision)
    problems = replace(model.variant, parity=parity).problems()
    if problems:
        raise ProofError(join_problems(f"{model.folder}: on TensorRT the scores leave the bounds", problems))
