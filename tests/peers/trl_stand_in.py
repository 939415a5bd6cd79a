"""TRL's own loss, on a stand-in for its trainer."""

from collections import defaultdict
from typing import Any
from unittest.mock import MagicMock

import pytest
from torch import Tensor, zeros_like


def trl_loss(
    log_probs: Tensor,
    old: Tensor,
    rewards: Tensor,
    mask: Tensor,
    ref: Tensor,
    *,
    clip: tuple[float, float],
    scale: str | None = None,
    **options: Any,
) -> Tensor:
    """TRL's own `GRPOTrainer._compute_loss`, with a trainer whose model returns the given log-probabilities."""
    trainer_class = pytest.importorskip("trl").GRPOTrainer
    flat = log_probs.flatten(0, 1)
    trainer = MagicMock()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (flat, zeros_like(flat), None)
    settings = {
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": clip[0],
        "epsilon_high": clip[1],
        "use_vllm": False,
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": log_probs.shape[-1],
        "_entropy_bonus_enabled": False,
        "aux_loss_enabled": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
    }
    for name, value in (settings | options).items():
        setattr(trainer, name, value)
    trainer.args.delta, trainer.args.use_bias_correction_kl, trainer.args.steps_per_generation = None, False, 1
    trainer.accelerator.num_processes = 1
    trainer.accelerator.gather = trainer.accelerator.gather_for_metrics = lambda x: x
    trainer.model.training = True
    scale = scale or ("none" if trainer.loss_type == "dr_grpo" else "std")
    rows = mask.flatten(0, 1).long()
    inputs = {
        "prompt_ids": rows[:, :1],
        "prompt_mask": rows[:, :1],
        "completion_ids": rows,
        "completion_mask": rows,
        "advantages": trl_advantages(rewards, scale).flatten(),
        "old_per_token_logps": old.flatten(0, 1),
        "ref_per_token_logps": ref.flatten(0, 1),
        "num_items_in_batch": rows.sum(),
    }
    return trainer_class._compute_loss(trainer, None, inputs)  # type: ignore[no-any-return]


def trl_advantages(rewards: Tensor, scale: str) -> Tensor:
    """What TRL documents: r − mean, divided by torch.std + 1e-4 unless `scale_rewards` is "none"."""
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred if scale == "none" else centred / (rewards.std(-1, keepdim=True) + 1e-4)
