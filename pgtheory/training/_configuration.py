"""What a checkpoint says about the trainer that wrote it: enough to refuse the file of another run, in plain values."""

from typing import Any

import torch
from torch import nn

from pgtheory._checkpoints import digest, kind
from pgtheory.mdp import FiniteMDP


def of_module(name: str, module: nn.Module) -> dict[str, Any]:
    """The class of a module, those of its parts, and the kind of each tensor in its state; what is fixed, by digest."""
    state, parts = module.state_dict(), [type(part).__name__ for part in module.modules()]
    fixed = {key: buffer for key, buffer in module.named_buffers() if key not in state}
    return {
        name: parts[0],
        f"{name} parts": ", ".join(parts[1:]),
        **{f"{name}.{key}": kind(value) for key, value in state.items()},
        **{f"{name}.{key}": digest([buffer]) for key, buffer in fixed.items()},
    }


def of_optimizer(optimizer: torch.optim.Optimizer, modules: dict[str, nn.Module]) -> dict[str, Any]:
    """The class of an optimiser, and which parameters it moves, group by group and in order."""
    names = {id(p): f"{name}.{key}" for name, module in modules.items() for key, p in module.named_parameters()}
    groups = [[names.get(id(p), kind(p)) for p in group["params"]] for group in optimizer.param_groups]
    return {
        "optimizer": type(optimizer).__name__,
        **{f"optimizer group {i}": ", ".join(group) for i, group in enumerate(groups)},
    }


def of_source(name: str, source: Any) -> dict[str, Any]:
    """The size and a digest of an MDP; the name and the number of environments, their spaces and their options."""
    if isinstance(source, FiniteMDP):
        return {
            name: "FiniteMDP",
            f"{name} states": source.n_states,
            f"{name} actions": source.n_actions,
            f"{name} dynamics": digest([source.rewards, source.initial, source.terminal, *source.outcomes]),
        }
    spaces = {"observations": source.single_observation_space, "actions": source.single_action_space}
    mode = source.metadata.get("autoreset_mode")
    return {
        name: _named(source),
        f"{name} number": source.num_envs,
        **{f"{name} {key}": _space(space) for key, space in spaces.items()},
        f"{name} autoreset": "NEXT_STEP" if mode is None else mode.name,
        **_options(name, source.spec),
    }


def _named(envs: Any) -> str:
    return str(envs.spec.id) if envs.spec is not None else type(envs.unwrapped).__name__


def _space(space: Any) -> str:
    size = f"({space.n})" if hasattr(space, "n") else f" {space.dtype} {list(space.shape or ())}"
    return f"{type(space).__name__}{size}"


def _options(name: str, spec: Any) -> dict[str, Any]:
    """What an environment was made with, as far as it can be compared; how it is stepped and drawn does not matter."""
    if spec is None:
        return {}
    ignored = {"num_envs", "vectorization_mode", "render_mode", "max_episode_steps"}
    options = {key: value for key, value in spec.kwargs.items() if key not in ignored}
    plain = {k: v if isinstance(v, bool | int | float | str | None) else type(v).__name__ for k, v in options.items()}
    return {f"{name} {key}": value for key, value in {"max_episode_steps": spec.max_episode_steps, **plain}.items()}
