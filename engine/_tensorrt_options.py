"""What onnxruntime's TensorRT provider is told. Pure functions.

Each option was looked up twice: in the provider's library of onnxruntime-gpu 1.24.4 and of 1.31.1, which hold the
same names, and in https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html. All of them are
in every version between these two. An option that a version does not know is an error there.

Two are left out on purpose. ``trt_dump_ep_context_model`` wraps an engine in an ONNX file, to be loaded without
looking at the model; it wants cache paths that are relative to that file, and the engine cache spares the build too.
``trt_engine_hw_compatible`` lets one engine run on all GPUs from sm_80 on, at a price in speed.

TensorRT has float32 products rounded to 10 bits (TF32) from sm_80 on, and no option of the provider says otherwise:
the environment variable NVIDIA_TF32_OVERRIDE=0 does, before the process starts. It is part of an engine's key.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ._tensorrt_plan import Profile, Shape


def engine_options(profile: Profile, names: Sequence[str], *, half: bool) -> dict[str, str]:
    """The options that an engine depends on.

    Args:
        profile: The shapes that it takes.
        names: The graph's inputs. A profile must have all of them and no other, else the provider builds the engine
            anew, each time: https://github.com/microsoft/onnxruntime/pull/15546
        half: Whether the graph holds float16, which TensorRT takes only when told.
    """
    return {
        "trt_profile_min_shapes": _shapes(names, profile.least),
        "trt_profile_opt_shapes": _shapes(names, profile.best),
        "trt_profile_max_shapes": _shapes(names, profile.most),
        "trt_fp16_enable": str(int(half)),
        # Of layer norms that are written out in operators; the operator LayerNormalization sums in float32 anyway.
        "trt_layer_norm_fp32_fallback": str(int(half)),
    }


def provider_options(
    engine: Mapping[str, str], *, index: int, engines: Path, timing: Path, capture: bool
) -> dict[str, str]:
    """All options of the TensorRT provider for a session with one profile.

    Args:
        engine: Of `engine_options`.
        index: Of the GPU.
        engines: The folder that engines are read from and written to.
        timing: The folder of the timing cache.
        capture: Whether runs become a CUDA graph, which needs a fixed profile and inputs at one address.
    """
    return {
        **engine,
        "device_id": str(index),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        # With a prefix of ours, a file's name does not depend on how many sessions the process opened before.
        "trt_engine_cache_prefix": "crossrank",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(timing),
        "trt_cuda_graph_enable": str(int(capture)),
    }


def _shapes(names: Sequence[str], shape: Shape) -> str:
    return ",".join(f"{name}:{shape.pairs}x{shape.length}" for name in names)
