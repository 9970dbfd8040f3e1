"""Options of onnxruntime for a graph on an NVIDIA GPU. Pure functions.

Provider options: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#configuration-options
Config keys: onnxruntime_session_options_config_keys.h and onnxruntime_run_options_config_keys.h in
https://github.com/microsoft/onnxruntime/tree/main/include/onnxruntime/core/session
"""

# Of a run that neither captures nor replays a CUDA graph in a session that may. 0 is not to be used.
NO_CAPTURE = -1


def provider_options(index: int, *, capture: bool = False) -> dict[str, str]:
    """Options of the CUDA provider.

    Args:
        index: Of the GPU.
        capture: Whether runs may be captured as CUDA graphs. Every node must then run on the GPU, and the provider
            keeps a captured graph for the thread that captured it alone.
    """
    # Of the first GPU, onnxruntime warns of it in each session.
    device: dict[str, str] = {"device_id": str(index)} if index else {}
    return device | {
        # The default doubles the arena each time, and so takes up to twice the memory that batches need.
        "arena_extend_strategy": "kSameAsRequested",
        # On by default, and it rounds the factors of float32 products to 10 bits: fp32 would not be what was proven.
        "use_tf32": "0",
        "enable_cuda_graph": str(int(capture)),
        # Up to 1.26 the statistics of SkipLayerNormalization are sums in float16 otherwise.
        "enable_skip_layer_norm_strict_mode": "1",
        # The attention kernels that may be taken, bits of AttentionBackend (contrib_ops/cpu/bert/attention_common.h):
        # FlashAttention's (1), CUTLASS's memory-efficient ones (2), and unfused where neither fits (16). TensorRT's,
        # which onnxruntime prefers on sm_70 and sm_75, would sum and take the softmax in float16.
        "sdpa_kernel": "19",
    }


def session_entries(*, all_on_device: bool) -> dict[str, str]:
    """Config entries of a session on a GPU.

    Args:
        all_on_device: Whether a node that the provider does not take is an error. It is one in graphs that were
            built for it; others may compute shapes on the CPU.
    """
    return {"session.disable_cpu_ep_fallback": "1"} if all_on_device else {}


def run_entries(graph_id: int) -> dict[str, str]:
    """Config entries of a run.

    Args:
        graph_id: Of a CUDA graph, from 1: it is captured by the first run with this id, and replayed by the others.
            `NO_CAPTURE` for neither.
    """
    return {"gpu_graph_id": str(graph_id)}
