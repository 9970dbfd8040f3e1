"""Which graphs an export makes of the variants and precisions that were asked for."""

import pytest

from crossrank import InputError
from crossrank._machine.device import Device
from crossrank.export._targets import choose_targets, order_for_model, order_targets, target_file

EVERY = [("cpu", "fp32"), ("cpu", "int8"), ("cuda", "fp16"), ("portable", "fp32"), ("portable", "fp16")]


def test_defaults_are_what_each_device_runs_best() -> None:
    assert choose_targets(None, None) == [("cpu", "fp32"), ("cpu", "int8"), ("cuda", "fp16"), ("portable", "fp32")]


@pytest.mark.parametrize(
    ("variants", "precisions", "expected"),
    [
        (["cpu"], None, [("cpu", "fp32"), ("cpu", "int8")]),
        (["cuda"], None, [("cuda", "fp16")]),
        (["portable"], None, [("portable", "fp32")]),
        (["portable", "cpu"], None, [("cpu", "fp32"), ("cpu", "int8"), ("portable", "fp32")]),
        (None, ["fp32"], [("cpu", "fp32"), ("portable", "fp32")]),
        (None, ["fp16"], [("cuda", "fp16"), ("portable", "fp16")]),
        (None, ["int8"], [("cpu", "int8")]),
        (["cpu"], ["fp32"], [("cpu", "fp32")]),
        (["portable"], ["fp16", "fp32"], [("portable", "fp32"), ("portable", "fp16")]),
        (["cpu", "cuda"], ["fp16", "int8"], [("cpu", "int8"), ("cuda", "fp16")]),
        (["cpu", "cpu"], ["fp32", "fp32"], [("cpu", "fp32")]),
        (["cpu", "cuda", "portable"], ["fp32", "fp16", "int8"], EVERY),
    ],
)
def test_variants_and_precisions_choose_graphs(
    variants: list[str] | None, precisions: list[str] | None, expected: list[tuple[str, str]]
) -> None:
    assert sorted(choose_targets(variants, precisions)) == sorted(expected)


@pytest.mark.parametrize(
    ("variants", "precisions", "message"),
    [
        (["gpu"], None, "variants gpu: known are cpu, cuda, portable"),
        (["cpu", "CPU"], None, "variants cpu, CPU: known are"),
        (None, ["fp8"], "precisions fp8: known are fp32, fp16, int8"),
        ([], None, r"variants \(none\): known are"),
        (None, [], r"precisions \(none\): known are"),
        (["cpu"], ["fp16"], "cpu, fp16 leads to no graph; .*cpu: fp32, int8; cuda: fp16; portable: fp32, fp16"),
        (["cpu", "cuda"], ["fp32"], "cuda leads to no graph"),
        (["cuda"], ["fp16", "int8"], "int8 leads to no graph"),
    ],
)
def test_what_leads_to_no_graph_is_refused(
    variants: list[str] | None, precisions: list[str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        choose_targets(variants, precisions)


@pytest.mark.parametrize(
    ("variants", "precisions"), [(None, None), (["portable"], None), (None, ["fp32"]), (["portable"], ["fp32"])]
)
def test_optimum_makes_portable_fp32(variants: list[str] | None, precisions: list[str] | None) -> None:
    assert choose_targets(variants, precisions, "optimum") == [("portable", "fp32")]


@pytest.mark.parametrize(
    ("variants", "precisions", "barren"),
    [
        (["cpu"], None, "cpu"),
        (["portable", "cuda"], None, "cuda"),
        (None, ["fp16"], "fp16"),
        (["portable"], ["int8", "fp32"], "int8"),
    ],
)
def test_what_optimum_does_not_make_is_refused(
    variants: list[str] | None, precisions: list[str] | None, barren: str
) -> None:
    with pytest.raises(InputError, match=f"^{barren} leads to no graph; the optimum exporter makes portable: fp32$"):
        choose_targets(variants, precisions, "optimum")


def test_auto_refuses_only_what_nobody_makes() -> None:
    assert choose_targets(None, None, "auto") == choose_targets(None, None, "native")
    with pytest.raises(InputError, match="cpu, fp16 leads to no graph"):
        choose_targets(["cpu"], ["fp16"], "auto")


def test_an_unknown_exporter_is_refused() -> None:
    with pytest.raises(InputError, match="exporter='torch': one of auto, native, optimum"):
        choose_targets(None, None, "torch")


def test_files_have_the_names_that_others_look_for_and_differ() -> None:
    assert target_file(("portable", "fp32")) == "onnx/model.onnx"
    assert target_file(("portable", "fp16")) == "onnx/model_fp16.onnx"
    assert target_file(("cpu", "int8")) == "onnx/model_cpu_int8.onnx"
    assert len({target_file(target) for target in EVERY}) == len(EVERY)


CPU, INT8, CUDA, PORTABLE = EVERY[:4]


def test_what_is_named_must_hold() -> None:
    def unmet(variants: list[str] | None, precisions: list[str] | None, *proven: tuple[str, str]) -> set[str]:
        return {" ".join(target) for target in order_targets(variants, precisions).unmet(proven)}

    assert unmet(None, None, PORTABLE) == set()
    assert unmet(["cpu"], None, CPU) == set()
    assert unmet(["cpu", "cuda"], None, CPU) == {"cuda fp16"}
    assert unmet(None, ["fp32", "int8"], CPU, PORTABLE) == {"cpu int8"}
    assert unmet(["cpu"], ["fp32", "int8"], INT8) == {"cpu fp32"}
    assert unmet(["cpu"], None, CUDA) == {"cpu fp32", "cpu int8"}


def test_model_takes_the_next_best_graph_where_the_best_does_not_hold() -> None:
    order = order_for_model("auto", [Device("cpu")])
    assert order.next([], []) == [CPU]
    assert order.next([], [CPU]) == [PORTABLE]
    assert order.next([], [CPU, PORTABLE]) == [INT8]
    assert order.next([PORTABLE], []) == []  # as exact
    assert order.next([INT8], []) == [CPU]  # which is more exact
    assert order.next([INT8], [CPU, PORTABLE]) == []
    assert order.next([], order.lines[0]) == []


def test_model_without_a_device_has_a_graph_for_each_that_there_is() -> None:
    order = order_for_model("auto", [Device("cuda"), Device("cpu")])
    assert order.next([], []) == [CUDA, CPU]
    assert order.unmet([CPU]) == set()
    both_portable = order_for_model("fp32", [Device("cuda"), Device("cpu")])
    assert both_portable.next([], []) == [PORTABLE, CPU]
    assert order_for_model("int8", [Device("cuda"), Device("cpu")]).lines == ((INT8,),)
    assert order_for_model("auto", [Device("cuda"), Device("cpu")], "optimum").next([], []) == [PORTABLE]


def test_precision_that_nobody_makes_for_a_device_is_refused() -> None:
    message = r"precision='fp16' on cpu: the optimum exporter makes no such graph, but portable: fp32"
    with pytest.raises(InputError, match=message):
        order_for_model("fp16", [Device("cpu")], "optimum")
