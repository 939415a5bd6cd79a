"""Checks of what the learners are built from."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgtheory import _checks
from pgtheory.softmax_policy import SoftmaxPolicy


def check_learner(policy: object, optimizer: object, generator: object, others: dict[str, object]) -> None:
    """Raise unless `optimizer` minimises, and moves parameters of the policy or of the modules among `others`."""
    _checks.check_instance("policy", policy, SoftmaxPolicy)
    _checks.check_instance("optimizer", optimizer, torch.optim.Optimizer)
    assert isinstance(policy, SoftmaxPolicy)
    assert isinstance(optimizer, torch.optim.Optimizer)
    if any(group.get("maximize", False) for group in optimizer.param_groups):
        raise ValueError("optimizer maximises: build it without maximize, a loss is minimised")
    modules = {"policy": policy} | {name: module for name, module in others.items() if isinstance(module, nn.Module)}
    _checks.check_parameters(optimizer, modules)
    _checks.check_generator("generator", generator, "the policy", _device(policy))


def _device(policy: SoftmaxPolicy) -> torch.device:
    parameter: Tensor | None = next(policy.parameters(), None)
    return torch.get_default_device() if parameter is None else parameter.device


def check_fits(name: str, envs: Any, policy: object) -> None:
    """Raise unless `policy` is a softmax policy with the actions of the environments, and of their kind of states."""
    import gymnasium

    _checks.check_instance("policy", policy, SoftmaxPolicy)
    assert isinstance(policy, SoftmaxPolicy)
    space, states = envs.single_action_space, envs.single_observation_space
    if not isinstance(space, gymnasium.spaces.Discrete):
        raise ValueError(f"{name} has the action space {space}, not a discrete one")
    if int(space.n) != policy.n_actions or int(space.start) != 0:
        raise ValueError(f"{name} has the action space {space}, but policy has {policy.n_actions} actions from 0")
    numbered = isinstance(states, gymnasium.spaces.Discrete) and int(states.start) >= 0
    if policy.n_states is not None and not (numbered and int(states.start + states.n) <= policy.n_states):
        raise ValueError(f"{name} has the observations {states}, but policy has {policy.n_states} numbered states")


def per_run(name: str, value: float | Tensor, parameters: Tensor, of: str = "parameters") -> Float[Tensor, "K"]:
    """A step size of each run: finite and not negative."""
    runs = len(parameters)
    if not isinstance(value, Tensor):
        return parameters.new_full((runs,), _checks.check_not_negative(name, value))
    _checks.check_floating(name, value)
    _checks.check_same_kind(name, value, of, parameters)
    if value.shape not in ((), (runs,)):
        raise ValueError(f"{name} has shape {list(value.shape)}, expected [{runs}], one for each run, or a number")
    _checks.check_finite(name, value)
    if (value < 0).any():
        raise ValueError(f"{name} is negative")
    return value.detach().expand(runs)
