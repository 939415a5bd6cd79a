"""Chapters 7 and 8: learning with REINFORCE and PPO, in one run or in many small ones at once."""

from pgtheory._checkpoints import CheckpointError
from pgtheory.training._episodes import Episodes, Rollout, sample_episodes, sample_rollout
from pgtheory.training._ppo import PPORecord, PPOTrainer
from pgtheory.training._reinforce import Record, Trainer
from pgtheory.training._reinforce_runs import Runs, reinforce_runs
from pgtheory.training._resumable import Resumable
from pgtheory.training._surrogate_runs import SurrogateRuns, surrogate_runs

__all__ = [
    "CheckpointError",
    "Episodes",
    "PPORecord",
    "PPOTrainer",
    "Record",
    "Resumable",
    "Rollout",
    "Runs",
    "SurrogateRuns",
    "Trainer",
    "reinforce_runs",
    "sample_episodes",
    "sample_rollout",
    "surrogate_runs",
]
