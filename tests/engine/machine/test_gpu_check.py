"""What a wrong pairing of GPU, driver and packages is told: the support matrix, a row or more each."""

from dataclasses import replace

import pytest

from crossrank._machine.advice import diagnose, gpu_advice
from crossrank._machine.gpu import Gpu, GpuFacts, read_gpu_facts

V100, T4, A100 = Gpu("Tesla V100-SXM2-16GB", (7, 0)), Gpu("Tesla T4", (7, 5)), Gpu("NVIDIA A100", (8, 0))
H100, B200, RTX5090 = Gpu("NVIDIA H100", (9, 0)), Gpu("NVIDIA B200", (10, 0)), Gpu("NVIDIA RTX 5090", (12, 0))
CUDA12 = GpuFacts("1.26.0", 12, (), (550, 54), (9, 5))
CUDA13 = GpuFacts("1.31.1", 13, (), (580, 65), (9, 14))


@pytest.mark.parametrize(
    ("facts", "gpu", "named", "command"),
    [
        (CUDA13, V100, ["V100", "sm_70", "1.31.1 for CUDA 13"], "pip install 'crossrank[volta]'"),
        (replace(CUDA12, onnxruntime="1.27.0"), V100, ["1.27.0"], "pip install 'crossrank[volta]'"),
        (replace(CUDA12, cudnn=(9, 11)), V100, ["cuDNN 9 below 9.11", "9.11"], "'nvidia-cudnn-cu12>=9.1,<9.11'"),
        (replace(CUDA12, cudnn=None), V100, ["found is none"], "'nvidia-cudnn-cu12>=9.1,<9.11'"),
        (replace(CUDA13, driver=(535, 183)), H100, ["driver 535.183", "580"], "pip install 'crossrank[cuda12]'"),
        (replace(CUDA13, cudnn=None), H100, ["H100", "sm_90", "cuDNN 9"], "'nvidia-cudnn-cu13>=9.1,<10'"),
        (replace(CUDA12, cudnn=(8, 9)), T4, ["T4", "8.9"], "'nvidia-cudnn-cu12>=9.1,<10'"),
        (CUDA12, RTX5090, ["RTX 5090", "sm_120", "550.54", "580"], "update the driver"),
        (replace(CUDA12, driver=(580, 1)), RTX5090, ["1.26.0 for CUDA 12"], "pip install 'crossrank[cuda13]'"),
        (CUDA13, B200, ["B200", "sm_100", "1.29"], "pip install 'onnxruntime-gpu>=1.28,<1.29'"),
        (
            replace(CUDA13, missing=("libcublasLt.so.13",), cudnn=None),
            A100,
            ["libcublasLt.so.13"],
            "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1' 'nvidia-cudnn-cu13>=9.1,<10'",
        ),
        (replace(CUDA12, driver=(470, 1)), T4, ["driver 470.1", "CUDA 12 needs 525"], "update the driver"),
        (CUDA12, Gpu("Tesla P100", (6, 0)), ["P100", "sm_60"], "pip install 'crossrank[cpu]'"),
        (replace(CUDA13, driver=None), H100, ["no NVIDIA driver"], "nvidia-smi"),
    ],
)
def test_a_wrong_pairing_names_the_gpu_what_was_found_and_the_command(
    facts: GpuFacts, gpu: Gpu, named: list[str], command: str
) -> None:
    advice = diagnose(replace(facts, gpus=(gpu,)), 0)
    for text in [*named, command]:
        assert text in advice
    assert "\n" not in advice


@pytest.mark.parametrize(
    ("facts", "gpu"),
    [
        (CUDA12, V100),
        (CUDA12, T4),
        (CUDA13, T4),
        (CUDA12, A100),
        (CUDA13, A100),
        (CUDA13, H100),
        (CUDA12, H100),
        (CUDA13, RTX5090),
    ],
)
def test_what_the_matrix_allows_is_not_blamed(facts: GpuFacts, gpu: Gpu) -> None:
    assert "fit each other" in diagnose(replace(facts, gpus=(gpu,)), 0)


def test_an_index_beyond_the_gpus_is_told_which_there_are() -> None:
    advice = diagnose(replace(CUDA13, gpus=(H100, A100)), 2)
    assert "there is no GPU 2; the driver lists NVIDIA H100, NVIDIA A100" in advice


def test_facts_are_read_where_there_is_no_gpu_too() -> None:
    facts = read_gpu_facts()
    assert facts.onnxruntime
    assert isinstance(gpu_advice(0), str)
