"""The worked example with TRL: its trainer learns by our advantages."""

from pathlib import Path

import pytest
import torch
from helpers import load

import pgtheory as pg

pytest.importorskip("trl", reason="trl is not installed: make lm installs it")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # what trl says to transformers, and they to each other
def test_the_trainer_of_trl_takes_our_advantages_and_learns(tmp_path: Path) -> None:
    example = load("examples/grpo_with_trl.py")
    trainer = example.train(60, str(tmp_path))
    curve = [line["true_reward"] for line in trainer.state.log_history if "true_reward" in line]
    assert curve[0] < 0.2
    assert curve[-1] > 0.4
    log = trainer._logs
    rewards = example.share_of_the_digit(list(log["prompt"]), list(log["completion"])).view(-1, example.SIZE)
    expected = pg.group_advantages(rewards, baseline="leave_one_out", scale="none")
    torch.testing.assert_close(torch.tensor(list(log["advantages"])).view_as(expected), expected, rtol=0, atol=1e-6)
    assert bool(expected.any())
