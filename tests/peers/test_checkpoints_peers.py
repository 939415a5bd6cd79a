"""A checkpoint is a safetensors file: the package of that name reads it, and what that package writes is refused."""

from pathlib import Path

import pytest
import torch

from pgtheory._checkpoints import CheckpointError, read_checkpoint, write_checkpoint

safetensors = pytest.importorskip("safetensors.torch")


def test_safetensors_reads_the_tensors_of_a_checkpoint(tmp_path: Path) -> None:
    tensors = {
        "policy": {"theta": torch.randn(3, 5, dtype=torch.float64), "b": torch.randn(7).bfloat16()},
        "mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3),
        "step": torch.tensor(3.0),
        "narrow": torch.randn(3).to(torch.float8_e5m2),
    }
    write_checkpoint(tmp_path / "run", {**tensors, "gamma": 0.9, "betas": (0.9, 0.999)})
    read = safetensors.load_file(tmp_path / "run")
    assert read.keys() == {"policy.theta", "policy.b", "mask", "empty", "step", "narrow"}
    assert torch.equal(read["policy.theta"], tensors["policy"]["theta"])
    assert all(torch.equal(read[name].float(), tensors[name].float()) for name in ("mask", "empty", "step", "narrow"))
    assert read["policy.b"].dtype == torch.bfloat16


def test_what_safetensors_writes_is_refused(tmp_path: Path) -> None:
    safetensors.save_file({"theta": torch.ones(2)}, tmp_path / "run", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="looks like another safetensors file"):
        read_checkpoint(tmp_path / "run")
