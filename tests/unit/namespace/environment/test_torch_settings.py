from __future__ import annotations

from pathlib import Path

import pytest
from optional import part
from settings_world import carry
from tiers import nightly_but

SHOW = """
result = [
    str(torch.get_default_dtype()), str(torch.empty(0).device), str(torch.get_default_device()),
    torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision(),
    torch.is_grad_enabled(), torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled(),
    str(torch._tensor_str.PRINT_OPTS), torch.get_num_threads(),
]
"""
SET = """
torch.set_num_threads(7)
torch.set_default_dtype(torch.float64)
torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
torch.set_float32_matmul_precision('medium')
torch.set_grad_enabled(False)
torch.autograd.set_detect_anomaly(True, check_nan=False)
torch.set_printoptions(profile='full', precision=2, sci_mode=True)
torch.set_default_device('meta')
"""


@pytest.fixture(autouse=True)
def torch_is_here() -> None:
    part("torch")


def test_all_settings(tmp_path: Path) -> None:
    result = carry(tmp_path, "import torch", SET, SHOW)
    assert result.here == result.there
    assert result.messages == []
    assert result.options["torch"]["num_threads"] == 7
    assert len(result.options["torch"]) == 10


@pytest.mark.parametrize(
    "environ",
    nightly_but(
        [{}, {"OMP_NUM_THREADS": "3,2"}],
        [{}, {"OMP_NUM_THREADS": "1"}, {"MKL_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "3,2"}],
    ),
)
def test_what_torch_takes_by_itself_is_not_saved(tmp_path: Path, environ: dict[str, str]) -> None:
    """Another host takes what is right for it."""
    result = carry(tmp_path, "import torch", "torch.set_num_threads(torch.get_num_threads())", SHOW, environ=environ)
    assert "torch" not in result.options


def test_a_device_that_is_not_here_is_reported_and_not_set(tmp_path: Path) -> None:
    code = "torch.get_default_device = lambda: torch.device('cuda', 31)"
    show = "result = str(torch.empty(0).device)"
    result = carry(tmp_path, "import torch", code, show)
    assert (result.options["torch"], result.here) == ({"default_device": "cuda:31"}, "cpu")
    (sentence,) = result.messages
    assert "cuda:31" in sentence
