"""Profiles, batches and options of TensorRT, which no test here can run: what is checked is that they fit together."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crossrank import InputError
from crossrank._device.tensorrt.engines import engine_options, provider_options
from crossrank._device.tensorrt.profiles import (
    Profile,
    Shape,
    TensorrtSettings,
    bring_to,
    choose_profile,
    make_profiles,
    plan_tensorrt_batches,
)

NAMES = ["input_ids", "attention_mask", "token_type_ids"]
# What the provider's library of onnxruntime-gpu 1.24.4 and of 1.31.1 holds:
# strings libonnxruntime_providers_tensorrt.so | grep -E '^(trt_[a-z0-9_]+|device_id)$'
KNOWN_OPTIONS = set(
    re.findall(
        r"\w+",
        """
    device_id trt_auxiliary_streams trt_bf16_enable trt_build_heuristics_enable trt_builder_optimization_level
    trt_context_memory_sharing_enable trt_cuda_graph_enable trt_detailed_build_log trt_dla_core trt_dla_enable
    trt_dump_ep_context_model trt_dump_subgraphs trt_engine_cache_enable trt_engine_cache_path trt_engine_cache_prefix
    trt_engine_decryption_enable trt_engine_decryption_lib_path trt_engine_hw_compatible trt_ep_context_embed_mode
    trt_ep_context_file_path trt_external_data_bytestream trt_external_data_bytestream_size trt_extra_plugin_lib_paths
    trt_force_sequential_engine_build trt_force_timing_cache trt_fp16_enable trt_int8_calibration_table_name
    trt_int8_enable trt_int8_use_native_calibration_table trt_layer_norm_fp32_fallback trt_load_user_initializer
    trt_max_partition_iterations trt_max_workspace_size trt_min_subgraph_size trt_onnx_bytestream
    trt_onnx_bytestream_size trt_onnx_model_folder_path trt_op_types_to_exclude trt_preview_features
    trt_profile_max_shapes trt_profile_min_shapes trt_profile_opt_shapes trt_sparsity_enable trt_tactic_sources
    trt_timing_cache_enable trt_timing_cache_path trt_weight_stripped_engine_enable
    """,
    )
)


@st.composite
def settings_and_longest(draw: st.DrawFn) -> tuple[TensorrtSettings, int]:
    fixed = draw(st.lists(st.builds(Shape, st.integers(1, 40), st.integers(1, 300)), max_size=3, unique=True))
    settings = TensorrtSettings(
        max_tokens=draw(st.integers(1, 40_000)),
        most_pairs=draw(st.integers(1, 300)),
        shortest=8 * draw(st.integers(1, 32)),
        fixed=tuple(fixed),
    )
    return settings, draw(st.integers(1, 2048))


def inside(shape: Shape, profile: Profile) -> bool:
    low, high = profile.least, profile.most
    return low.pairs <= shape.pairs <= high.pairs and low.length <= shape.length <= high.length


@given(settings_and_longest(), st.data())
@example((TensorrtSettings(), 512), None)
def test_every_batch_of_the_planner_is_brought_into_a_profile(
    chosen: tuple[TensorrtSettings, int], data: st.DataObject | None
) -> None:
    settings, longest = chosen
    profiles = make_profiles(longest, settings)
    if data is None:
        lengths = np.arange(1, 513, dtype=np.int32)
        max_pairs = None
    else:
        lengths = np.array(data.draw(st.lists(st.integers(1, longest), min_size=1, max_size=100)), np.int32)
        max_pairs = data.draw(st.none() | st.integers(1, 50))
    batches = plan_tensorrt_batches(lengths, settings, max_pairs)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= (max_pairs or len(batch))
        # A half of a batch runs too, where memory did not suffice for the whole.
        for part in (batch, batch[: len(batch) // 2], batch[len(batch) // 2 :]):
            if len(part):
                own = Shape(len(part), int(lengths[part].max()))
                profile, shape = choose_profile(own, profiles)
                assert inside(shape, profile)
                assert shape.pairs >= own.pairs
                assert longest >= shape.length >= own.length
                assert profile.fixed or shape.pairs == own.pairs


@given(settings_and_longest())
def test_ranges_cover_each_length_once_and_are_tuned_within_themselves(chosen: tuple[TensorrtSettings, int]) -> None:
    settings, longest = chosen
    profiles = make_profiles(longest, settings)
    ranges = profiles[len(settings.fixed) :]
    assert ranges[0].least.length == 1
    assert ranges[-1].most.length == longest
    assert all(after.least.length == before.most.length + 1 for before, after in pairwise(ranges))
    for profile in profiles:
        assert inside(profile.best, profile)
        assert profile.least.pairs <= profile.most.pairs
        assert profile.most.length <= longest  # beyond, a model has no positions


def test_a_model_of_512_tokens_needs_five_engines() -> None:
    """Each costs minutes once and memory for its weights."""
    assert [str(profile) for profile in make_profiles(512, TensorrtSettings())] == [
        "4 pairs of 128 tokens",
        "16 pairs of 128 tokens",
        "up to 256 pairs of 1 to 128 tokens",
        "up to 127 pairs of 129 to 256 tokens",
        "up to 63 pairs of 257 to 512 tokens",
    ]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (Shape(1, 97), Shape(4, 128)),  # a single passage: a CUDA graph
        (Shape(1, 9), Shape(1, 16)),  # would be brought to 57 times its tokens
        (Shape(10, 97), Shape(16, 128)),
        (Shape(10, 129), Shape(10, 136)),
        (Shape(17, 128), Shape(17, 128)),
        (Shape(3, 509), Shape(3, 512)),
    ],
)
def test_small_batches_run_at_fixed_shapes_and_all_others_at_multiples_of_8(batch: Shape, expected: Shape) -> None:
    assert choose_profile(batch, make_profiles(512, TensorrtSettings()))[1] == expected


def test_rows_are_never_longer_than_the_model_has_positions() -> None:
    profiles = make_profiles(509, TensorrtSettings(fixed=()))
    assert choose_profile(Shape(2, 509), profiles)[1] == Shape(2, 509)
    assert all(p.most.length <= 77 for p in make_profiles(77, TensorrtSettings()))


def test_a_batch_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size=0"):
        plan_tensorrt_batches(np.array([3], np.int32), TensorrtSettings(), 0)


def test_padding_leaves_the_batch_in_its_corner_and_one_token_in_added_rows() -> None:
    ids = np.array([[5, 6], [7, 1]])
    filled = bring_to({"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)}, Shape(3, 4), pad_id=1)
    assert filled["input_ids"].tolist() == [[5, 6, 1, 1], [7, 1, 1, 1], [1, 1, 1, 1]]
    assert filled["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    same = bring_to({"input_ids": ids}, Shape(2, 2), pad_id=1)
    assert same["input_ids"] is ids


def options_of(profile: Profile, *, half: bool = True, capture: bool = False) -> dict[str, str]:
    engine, places = engine_options(profile, NAMES, half=half), {"engines": Path("engines"), "timing": Path("timing")}
    return provider_options(engine, index=1, capture=capture, **places)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("capture", [False, True])
def test_options_exist_in_every_supported_onnxruntime_and_are_strings(half: bool, capture: bool) -> None:
    for profile in make_profiles(512, TensorrtSettings()):
        options = options_of(profile, half=half, capture=capture)
        assert options.keys() <= KNOWN_OPTIONS
        assert all(isinstance(value, str) for value in options.values())
        assert options["device_id"] == "1"
        assert options["trt_fp16_enable"] == str(int(half))
        assert options["trt_cuda_graph_enable"] == str(int(capture))
        assert (options["trt_engine_cache_enable"], options["trt_timing_cache_enable"]) == ("1", "1")
        assert (options["trt_engine_cache_path"], options["trt_timing_cache_path"]) == ("engines", "timing")


def test_profiles_name_every_input_in_the_providers_format() -> None:
    """As the provider reads them: ``input1:dim1xdim2...,input2:...``, the same inputs in all three, in rank 2."""
    for profile in make_profiles(512, TensorrtSettings()):
        options = options_of(profile)
        for kind, shape in (("min", profile.least), ("opt", profile.best), ("max", profile.most)):
            entries = options[f"trt_profile_{kind}_shapes"].split(",")
            found = [re.fullmatch(r"(\w+):(\d+)x(\d+)", entry) for entry in entries]
            assert [entry and (entry[1], int(entry[2]), int(entry[3])) for entry in found] == [
                (name, *shape) for name in NAMES
            ]


def test_an_engine_depends_on_profile_and_precision_and_not_on_where_it_lies() -> None:
    small, large = make_profiles(512, TensorrtSettings())[1:3]
    own = engine_options(small, NAMES, half=True)
    assert own != engine_options(large, NAMES, half=True)
    assert own != engine_options(small, NAMES, half=False)
    assert own.items() < options_of(small).items()
    assert not own.keys() & {"device_id", "trt_engine_cache_path", "trt_timing_cache_path", "trt_cuda_graph_enable"}
