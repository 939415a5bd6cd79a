"""Episodes and rollouts, drawn from Gymnasium vector environments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from pgtheory import _checks
from pgtheory._gymnasium import import_gymnasium
from pgtheory.softmax_policy import SoftmaxPolicy
from pgtheory.training._arguments import check_fits

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv


class Episodes(NamedTuple):
    r"""One episode of each of the N sub-environments of a vector environment, padded to the longest.

    The fields are those of `Trajectories`; states are observations, and after the end the last one repeats.

    Attributes:
        states: :math:`S_0, \dots, S_T`.
        actions: :math:`A_0, \dots, A_{T-1}`, 0 at padding.
        rewards: :math:`R_1, \dots, R_T`, 0 at padding.
        mask: whether :math:`A_t` was taken.
        terminated: whether the episode ended in a terminal state.
        truncated: whether it was cut off, by the environment or at the horizon.
        available: the mask of :math:`\mathcal{A}(S_t)`, from `info["action_mask"]`; None without one.

    Example:
        >>> from pgtheory.softmax_policy import NeuralPolicy
        >>> import gymnasium
        >>> envs = gymnasium.make_vec("CartPole-v1", num_envs=3)
        >>> episodes = sample_episodes(envs, NeuralPolicy(4, 2), horizon=2)
        >>> episodes.states.shape, episodes.truncated
        (torch.Size([3, 3, 4]), tensor([True, True, True]))
    """

    states: Shaped[Tensor, "N T+1 *observation"]
    actions: Int[Tensor, "N T"]
    rewards: Float[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]
    terminated: Bool[Tensor, "N"]
    truncated: Bool[Tensor, "N"]
    available: Bool[Tensor, "N T A"] | None


def sample_episodes(
    envs: "VectorEnv[Any, Any, Any]",
    policy: SoftmaxPolicy,
    *,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Episodes:
    r"""Draw one episode from each sub-environment: exactly one, so that short episodes are not over-represented.

    The first N episodes to *finish* would be a biased sample: they are the short ones. So a sub-environment whose
    episode has ended is stepped on, if it must be, but no step of its next episode is counted. That holds for each of
    Gymnasium's three autoreset modes; in `SAME_STEP` mode the last observation is read from `info["final_obs"]`.

    .. no equation: it draws from an environment

    Args:
        envs: the vector environment, of discrete actions. It is reset with a seed drawn from `generator`, so that the
            generator alone decides the result, whatever the environment was used for before.
        policy: the policy :math:`\pi_\theta`. States are observations, or state numbers where these are discrete.
        horizon: the number of steps after which an episode that has not ended is truncated.
        generator: the source of randomness, on the CPU.

    Returns:
        The episodes, with as many columns as the longest has steps.

    Raises:
        ValueError: `horizon` is less than 1; the environment has other than discrete actions, or another number of
            them than the policy.
        TypeError: `envs` is not a vector environment.
        ImportError: `gymnasium` is not installed.

    Source:
        Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024 (vector
        environments and autoreset).

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.softmax_policy import TabularPolicy
        >>> import gymnasium
        >>> envs = gymnasium.vector.SyncVectorEnv([gallery.bandit([1.0, 0.0]).to_gymnasium] * 2)
        >>> sample_episodes(envs, TabularPolicy(2, 2), horizon=5).mask
        tensor([[True],
                [True]])
    """
    horizon, mode = _checks.check_count("horizon", horizon), checked_mode(envs, policy)
    _checks.check_generator("generator", generator, "the environment", torch.device("cpu"))
    dtype = next(policy.parameters()).dtype
    # Every batch starts from a seed of its own: nothing of the environment's random state needs to be kept.
    seed = drawn_seed(generator)
    observation, info = envs.reset(seed=seed)
    state = _observation(observation, dtype)
    running = torch.ones(envs.num_envs, dtype=torch.bool)
    terminated, states, steps = ~running, [state], []
    for _ in range(horizon):
        available = _action_mask(info)
        action = policy.sample(_observation(observation, dtype), available=available, generator=generator)
        observation, reward, ends, cut, info = envs.step(action.numpy())
        reached = _observation(_final(observation, info), dtype)
        taken = running.view(-1, *(1,) * (state.ndim - 1))
        state = torch.where(taken, reached, state)
        states.append(state)
        steps.append((action, torch.as_tensor(reward).to(dtype), running, available))
        terminated = terminated | (running & torch.as_tensor(ends))
        running = running & ~torch.as_tensor(ends | cut)
        if not running.any():
            break
        if mode == "DISABLED" and (over := np.asarray(ends | cut)).any():
            observation, again = envs.reset(options={"reset_mask": over})
            info = _merged(info, again, over)
    return _assembled(states, steps, terminated)


class Rollout(NamedTuple):
    r"""T steps of each of N sub-environments, across the ends of episodes.

    Attributes:
        states: :math:`S_t` as observations.
        actions: :math:`A_t`.
        rewards: :math:`R_{t+1}`, 0 where the mask is False.
        next_states: :math:`S_{t+1}`, the state that was truly reached, also at the end of an episode.
        mask: False where the environment was reset instead of taking a step.
        terminated: whether :math:`S_{t+1}` is terminal.
        truncated: whether the episode was cut off there.

    Example:
        >>> import gymnasium
        >>> from pgtheory.softmax_policy import NeuralPolicy
        >>> envs = gymnasium.make_vec("CartPole-v1", num_envs=3)
        >>> sample_rollout(envs, NeuralPolicy(4, 2), n_steps=5).states.shape
        torch.Size([3, 5, 4])
    """

    states: Shaped[Tensor, "N T *observation"]
    actions: Int[Tensor, "N T"]
    rewards: Float[Tensor, "N T"]
    next_states: Shaped[Tensor, "N T *observation"]
    mask: Bool[Tensor, "N T"]
    terminated: Bool[Tensor, "N T"]
    truncated: Bool[Tensor, "N T"]


@torch.no_grad()
def sample_rollout(
    envs: "VectorEnv[Any, Any, Any]",
    policy: SoftmaxPolicy,
    *,
    n_steps: int,
    after: Rollout | None = None,
    generator: torch.Generator | None = None,
) -> Rollout:
    r"""Step each sub-environment `n_steps` times, going on in new episodes where old ones end.

    The environments must be in Gymnasium's default autoreset mode, `NEXT_STEP`: the step after the end of an episode
    resets, and its action is ignored. Such a step is masked out, and so :math:`S_{t+1}` is never the state after a
    reset.

    .. no equation: it draws from an environment

    Args:
        envs: the vector environment, of discrete actions and box observations.
        policy: the policy that draws the actions.
        n_steps: the number of steps T.
        after: the rollout that this one continues; None: the environments are reset, with a seed from `generator`.
        generator: the source of randomness, on the CPU.

    Returns:
        The rollout, in the dtype of the policy.

    Raises:
        ValueError: `n_steps` is less than 1; the autoreset mode is another one.
        TypeError: `envs` is not a vector environment.
        ImportError: `gymnasium` is not installed.

    Source:
        Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024.

    Example:
        >>> import gymnasium
        >>> from pgtheory.softmax_policy import NeuralPolicy
        >>> envs, policy = gymnasium.make_vec("CartPole-v1", num_envs=2), NeuralPolicy(4, 2)
        >>> first = sample_rollout(envs, policy, n_steps=3)
        >>> second = sample_rollout(envs, policy, n_steps=3, after=first)
        >>> torch.equal(first.next_states[:, -1], second.states[:, 0])
        True
    """
    n_steps = _checks.check_count("n_steps", n_steps)
    check_envs(envs)
    check_fits("envs", envs, policy)
    _checks.check_generator("generator", generator, "the environment", torch.device("cpu"))
    _check_last(after, envs.num_envs)
    dtype = next(policy.parameters()).dtype
    if after is None:
        seed = drawn_seed(generator)
        state = torch.as_tensor(envs.reset(seed=seed)[0]).to(dtype)
        over = torch.zeros(envs.num_envs, dtype=torch.bool)
    else:
        state, over = after.next_states[:, -1], after.terminated[:, -1] | after.truncated[:, -1]
    columns = []
    for _ in range(n_steps):
        action = policy.sample(state, generator=generator)
        observation, reward, *ends, _ = envs.step(action.numpy())
        # A copy: some environments write every observation into the same array.
        reached = torch.as_tensor(np.array(observation)).to(dtype)
        terminated, truncated = (torch.as_tensor(np.array(end)) & ~over for end in ends)
        rewards = torch.where(over, 0.0, torch.as_tensor(np.array(reward)).to(dtype))
        columns.append((state, action, rewards, reached, ~over, terminated, truncated & ~terminated))
        state, over = reached, terminated | truncated
    return Rollout(*(torch.stack(column, 1) for column in zip(*columns, strict=True)))


def replay(envs: "VectorEnv[Any, Any, Any]", seed: int, actions: Int[Tensor, "N T"]) -> Any:
    """Reset the environments with a seed, take the actions of all steps since then again, and return what is seen."""
    observation = envs.reset(seed=seed)[0]
    for column in actions.long().T.contiguous():
        observation = envs.step(column.numpy())[0]
    return np.array(observation)


def drawn_seed(generator: torch.Generator | None) -> int:
    """A seed for the environments."""
    return int(torch.randint(2**31 - 1, (), generator=generator))


def checked_mode(envs: Any, policy: SoftmaxPolicy, name: str = "envs") -> str:
    """The name of the autoreset mode of a vector environment that fits the policy."""
    gymnasium = import_gymnasium()
    if not isinstance(envs, gymnasium.vector.VectorEnv):
        raise TypeError(
            f"{name} must be a gymnasium.vector.VectorEnv, not {type(envs).__name__}: see gymnasium.make_vec"
        )
    check_fits(name, envs, policy)
    mode = envs.metadata.get("autoreset_mode", gymnasium.vector.AutoresetMode.NEXT_STEP)
    return str(mode.name)


def check_envs(envs: Any) -> None:
    gymnasium = import_gymnasium()
    if not isinstance(envs, gymnasium.vector.VectorEnv):
        raise TypeError(f"envs must be a gymnasium.vector.VectorEnv, not {type(envs).__name__}: gymnasium.make_vec")
    next_step = gymnasium.vector.AutoresetMode.NEXT_STEP
    mode = envs.metadata.get("autoreset_mode", next_step)
    if mode != next_step:
        raise ValueError(f"envs has the autoreset mode {mode.name}, expected NEXT_STEP: make it with the default")


def _check_last(after: object, n_envs: int) -> None:
    """Raise unless `after` is None, or a rollout of as many sub-environments."""
    if after is None:
        return
    _checks.check_instance("after", after, Rollout)
    assert isinstance(after, Rollout)
    for name in ("next_states", "terminated", "truncated"):
        column = getattr(after, name)
        _checks.check_tensor(f"after.{name}", column)
        if column.ndim < 2 or len(column) != n_envs or column.shape[1] == 0:
            raise ValueError(f"after.{name} has shape {list(column.shape)}, expected [{n_envs}, T, ...]")


def _observation(observation: Any, dtype: torch.dtype) -> Tensor:
    tensor = torch.as_tensor(np.asarray(observation))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor.long()


def _action_mask(info: dict[str, Any]) -> Tensor | None:
    """The mask of the available actions; a sub-environment that reports none, or whose episode is over, has all."""
    if "action_mask" not in info:
        return None
    mask = torch.as_tensor(np.stack(list(info["action_mask"]))) > 0
    return mask | ~mask.any(-1, keepdim=True)


def _final(observation: Any, info: dict[str, Any]) -> Any:
    """The observations S_{t+1} of the running episodes, also of those that were reset in the same step."""
    if "final_obs" not in info:
        return observation
    reached = np.array(observation)
    for i in np.flatnonzero(info["_final_obs"]):
        reached[i] = info["final_obs"][i]
    return reached


def _merged(info: dict[str, Any], again: dict[str, Any], over: Any) -> dict[str, Any]:
    """The action masks after some sub-environments were reset."""
    if "action_mask" not in info:
        return {}
    masks = np.stack(list(info["action_mask"]))
    masks[over] = np.stack(list(again["action_mask"]))[over]
    return {"action_mask": masks}


def _assembled(
    states: list[Tensor], steps: list[tuple[Tensor, Tensor, Tensor, Tensor | None]], terminated: Tensor
) -> Episodes:
    actions, rewards, mask = (torch.stack([step[k] for step in steps], 1) for k in (0, 1, 2))  # type: ignore[misc]
    masks = [step[3] for step in steps if step[3] is not None]
    available = torch.stack(masks, 1) if masks else None
    actions, rewards = torch.where(mask, actions, 0), torch.where(mask, rewards, 0.0)
    return Episodes(torch.stack(states, 1), actions, rewards, mask, terminated, ~terminated, available)
