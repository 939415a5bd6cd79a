"""The training loop: what it counts, what it estimates, and that it continues bit for bit."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import chance
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TransformObservation
from torch import Tensor, nn

from pgtheory import gallery
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import exact_parameter_gradient, exact_policy_gradient, performance
from pgtheory.reinforce import reinforce_loss
from pgtheory.softmax_policy import LinearPolicy, NeuralPolicy, TabularPolicy, softmax_policy
from pgtheory.training import (
    Episodes,
    PPOTrainer,
    Record,
    Trainer,
    reinforce_runs,
    sample_episodes,
    sample_rollout,
    surrogate_runs,
)
from pgtheory.training._reinforce_runs import _move_each_step
from pgtheory.trajectories import Trajectories, enumerate_trajectories, sample_trajectories

F64 = torch.float64
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corridor_features() -> Tensor:
    """x(s, right) = (1, 0), x(s, left) = (0, 1)."""
    return torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=F64).expand(4, 2, 2)


class Countdown(gymnasium.Env[int, int]):
    """Episode k of sub-environment i lasts i + k + 1 steps; the reward names episode and step, the state the step.

    Even sub-environments terminate, odd ones are truncated, and so is the first in the step in which it terminates.
    None is stepped after the end of an episode.
    """

    def __init__(self, i: int) -> None:
        self.observation_space = gymnasium.spaces.Discrete(100)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.i, self.episode, self.t = i, -1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode = 0 if seed is not None else self.episode + 1
        self.t = 0
        return 10 * self.episode, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.t += 1
        assert self.t <= self.i + self.episode + 1, "stepped after the end"
        over = self.t == self.i + self.episode + 1
        even, cut = self.i % 2 == 0, self.i % 2 == 1 or self.i == 0
        return 10 * self.episode + self.t, 100.0 * self.episode + self.t, over and even, over and cut, {}


def countdown(mode: AutoresetMode, n: int = 4) -> SyncVectorEnv:
    return SyncVectorEnv([lambda i=i: Countdown(i) for i in range(n)], autoreset_mode=mode)  # type: ignore[misc]


# --- episodes of a vector environment


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_exactly_the_first_episode_of_each_sub_environment_is_counted(mode: AutoresetMode) -> None:
    envs, policy = countdown(mode), TabularPolicy(100, 2)
    for _ in range(2):  # the second time the environment has been used before
        episodes = sample_episodes(envs, policy, horizon=50, generator=generator())
        assert episodes.mask.sum(-1).tolist() == [1, 2, 3, 4]
        assert episodes.rewards.tolist() == [[1, 0, 0, 0], [1, 2, 0, 0], [1, 2, 3, 0], [1, 2, 3, 4]]
        assert episodes.states.tolist() == [[0, 1, 1, 1, 1], [0, 1, 2, 2, 2], [0, 1, 2, 3, 3], [0, 1, 2, 3, 4]]
        assert episodes.terminated.tolist() == [True, False, True, False]
        assert episodes.truncated.tolist() == [False, True, False, True]
        assert (episodes.actions[~episodes.mask] == 0).all()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_horizon_truncates(mode: AutoresetMode) -> None:
    episodes = sample_episodes(countdown(mode), TabularPolicy(100, 2), horizon=2, generator=generator())
    assert episodes.mask.sum(-1).tolist() == [1, 2, 2, 2]
    assert episodes.terminated.tolist() == [True, False, False, False]
    assert episodes.truncated.tolist() == [False, True, True, True]


def test_the_environments_get_seeds_of_31_bits() -> None:
    """Of 64 seeds from all of them, the largest is below half of their range in one of 2^64 cases."""
    envs, policy, seeds = countdown(AutoresetMode.NEXT_STEP, n=1), TabularPolicy(100, 2), list[int]()
    reset = envs.reset
    envs.reset = lambda **options: seeds.append(options["seed"]) or reset(**options)  # type: ignore[func-returns-value, method-assign]
    draw = generator()
    for _ in range(64):
        sample_episodes(envs, policy, horizon=1, generator=draw)
    assert 2**30 <= max(seeds) < 2**31
    assert min(seeds) >= 0


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_mask_of_the_actions_is_that_of_the_state(mode: AutoresetMode) -> None:
    mdp = gallery.gamblers_problem(goal=6)
    envs = SyncVectorEnv([mdp.to_gymnasium] * 5, autoreset_mode=mode)
    policy = TabularPolicy(mdp.n_states, mdp.n_actions)
    episodes = sample_episodes(envs, policy, horizon=40, generator=generator())
    assert episodes.available is not None
    assert torch.equal(
        episodes.available[episodes.mask], torch.as_tensor(~~mdp.available)[episodes.states[:, :-1]][episodes.mask]
    )
    taken = mdp.available[episodes.states[:, :-1][episodes.mask], episodes.actions[episodes.mask]]
    assert taken.all()


def test_the_generator_alone_decides_the_episodes() -> None:
    envs, policy = gymnasium.make_vec("CartPole-v1", num_envs=3), NeuralPolicy(4, 2, generator=generator())
    first = sample_episodes(envs, policy, horizon=60, generator=generator(1))
    sample_episodes(envs, policy, horizon=60, generator=generator(2))
    again = sample_episodes(envs, policy, horizon=60, generator=generator(1))
    assert all(torch.equal(x, y) for x, y in zip(first[:6], again[:6], strict=True))


class Panel(gymnasium.Env[Any, int]):
    """Observations are matrices; the first environment ends after one step, the second after three."""

    action_space: Any = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2, 3))

    def __init__(self, length: int) -> None:
        self.length, self.t = length, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.observed(), {}

    def observed(self) -> Any:
        return np.full((2, 3), self.t, dtype=np.float32) + np.arange(6, dtype=np.float32).reshape(2, 3) / 8

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.observed(), 1.0, self.t == self.length, False, {}


class FlatPolicy(NeuralPolicy):
    def preferences(self, states: Tensor, **options: Any) -> Tensor:
        return super().preferences(states.flatten(-2), **options)


def test_observations_may_be_matrices_and_stay_where_an_episode_has_ended() -> None:
    envs = SyncVectorEnv([partial(Panel, 1), partial(Panel, 3)])
    episodes = sample_episodes(envs, FlatPolicy(6, 2, generator=generator()), horizon=3, generator=generator(1))
    assert episodes.states.shape == (2, 4, 2, 3)
    assert (episodes.states[..., 0, 0]).tolist() == [[0, 1, 1, 1], [0, 1, 2, 3]]
    assert (episodes.states[..., 1, 2]).tolist() == [[x + 5 / 8 for x in row] for row in [[0, 1, 1, 1], [0, 1, 2, 3]]]


def test_the_last_state_of_cartpole_is_one_where_it_has_fallen() -> None:
    envs, policy = gymnasium.make_vec("CartPole-v1", num_envs=8), NeuralPolicy(4, 2, generator=generator())
    episodes = sample_episodes(envs, policy, horizon=500, generator=generator(1))
    assert episodes.terminated.all()
    last = episodes.states[torch.arange(8), episodes.mask.sum(-1)]
    limits = torch.tensor([2.4, math.inf, 12 * 2 * math.pi / 360, math.inf])
    assert (last.abs() > limits).any(-1).all()
    inside = episodes.states[:, :-1][episodes.mask]
    assert (inside.abs() <= limits).all()


# --- the trainer


def tabular(mdp: FiniteMDP) -> TabularPolicy:
    return TabularPolicy(mdp.n_states, mdp.n_actions, init_std=0.5, generator=generator(3), dtype=F64)


@pytest.mark.parametrize("discount_states", [True, False])
def test_the_mean_update_is_the_exact_gradient(discount_states: bool) -> None:
    # 20,000 episodes; the standard errors are estimated from 50 batches of 400.
    mdp = gallery.token_tree(2, 2, seed=1)
    gradients = []
    rng = generator(5)
    for _ in range(50):
        policy = tabular(mdp)
        sgd = torch.optim.SGD(policy.parameters(), lr=0.0)
        trainer = Trainer(
            policy, mdp, 0.5, optimizer=sgd, horizon=2, batch_size=400, discount_states=discount_states, generator=rng
        )
        trainer.update()
        assert policy.theta.grad is not None
        gradients.append(-policy.theta.grad.clone())
    stacked = torch.stack(gradients)
    error = stacked.mean(0) - exact_parameter_gradient(mdp, tabular(mdp), 0.5, discount_states=discount_states)["theta"]
    limit = chance.most_errors(2 * error.numel(), batches=50)
    assert (error.abs() <= limit * stacked.std(0) / 50**0.5 + 1e-12).all()


def test_one_update_is_one_step_of_the_optimiser_on_the_loss() -> None:
    mdp = gallery.short_corridor()
    policy = LinearPolicy(corridor_features())
    sgd = torch.optim.SGD(policy.parameters(), lr=0.125)
    trainer = Trainer(policy, mdp, 0.9, optimizer=sgd, horizon=30, batch_size=7, baseline=-2.0, generator=generator())
    episodes = sample_trajectories(mdp, policy.table().detach(), 7, horizon=30, generator=generator())
    theta = policy.theta.detach().clone().requires_grad_()
    log_policy = torch.log_softmax(corridor_features() @ theta, -1)
    log_probs = log_policy[episodes.states[:, :-1], episodes.actions]
    loss = reinforce_loss(log_probs, episodes.rewards, 0.9, mask=episodes.mask, baseline=-2.0)
    (slope,) = torch.autograd.grad(loss, theta)
    record = trainer.update()
    torch.testing.assert_close(policy.theta.detach(), theta.detach() - 0.125 * slope)
    assert record.gradient_norm == pytest.approx(float(slope.norm()))
    assert record.length == pytest.approx(float(episodes.lengths.double().mean()))
    assert record.episodes == 7


def test_a_truncated_episode_is_completed_by_the_value_and_a_terminated_one_is_not() -> None:
    mdp = FiniteMDP.from_outcomes(
        [(0, 0, 1, 1.0, 0.5), (0, 1, 0, 0.0, 1.0), (0, 0, 0, 0.0, 0.5)],
        n_states=2,
        n_actions=2,
        initial=0,
        terminal=[1],
    )
    policy = tabular(mdp)
    values = nn.Embedding(2, 1, dtype=F64)
    nn.init.constant_(values.weight, 10.0)  # also of the terminal state, which must not be read
    sgd = torch.optim.SGD([*policy.parameters(), *values.parameters()], lr=0.0)
    trainer = Trainer(
        policy,
        mdp,
        0.5,
        optimizer=sgd,
        horizon=2,
        batch_size=50,
        baseline=values,
        bootstrap=True,
        generator=generator(),
    )
    trainer.update()
    episodes = sample_trajectories(mdp, policy.table().detach(), 50, horizon=2, generator=generator())
    assert episodes.truncated.any()
    assert episodes.terminated.any()
    expected = torch.zeros(2, 2, dtype=F64)
    for n in range(50):
        g = 10.0 if bool(episodes.truncated[n]) else 0.0
        for t in reversed(range(int(episodes.lengths[n]))):
            g = float(episodes.rewards[n, t]) + 0.5 * g
            score = torch.eye(2, dtype=F64)[episodes.actions[n, t]] - policy.table().detach()[0]
            expected[0] -= 0.5**t * (g - 10.0) * score / 50
    torch.testing.assert_close(policy.theta.grad, expected)


def test_the_entropy_bonus_pulls_towards_the_uniform_policy() -> None:
    mdp = gallery.bandit([0.0, 0.0])
    policy = TabularPolicy.from_preferences(torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=F64))
    sgd = torch.optim.SGD(policy.parameters(), lr=1.0)
    trainer = Trainer(policy, mdp, 1.0, optimizer=sgd, horizon=1, batch_size=4, entropy_weight=0.5)
    records = trainer.run(30)
    assert records[-1].entropy > 0.69 > records[0].entropy


def test_the_record_holds_the_exact_performance_of_the_policy_before_the_update() -> None:
    mdp = gallery.short_corridor()
    policy = LinearPolicy(corridor_features())
    adam = torch.optim.Adam(policy.parameters(), lr=0.1)
    trainer = Trainer(policy, mdp, 1.0, optimizer=adam, horizon=100, batch_size=5, generator=generator())
    for _ in range(3):
        expected = float(performance(mdp, policy.table().detach(), 1.0))
        assert trainer.update().performance == pytest.approx(expected, rel=1e-12)
    quiet = Trainer(policy, mdp, 1.0, optimizer=adam, horizon=100, batch_size=5, exact=False)
    assert math.isnan(quiet.update().performance)


def on_mdp() -> Trainer:
    mdp = gallery.short_corridor()
    policy = LinearPolicy(corridor_features(), init_std=0.1, generator=generator(2))
    values = nn.Embedding(4, 1, dtype=F64)
    nn.init.zeros_(values.weight)
    adam = torch.optim.Adam([*policy.parameters(), *values.parameters()], lr=0.1)
    return Trainer(
        policy,
        mdp,
        0.95,
        optimizer=adam,
        horizon=20,
        batch_size=6,
        baseline=values,
        entropy_weight=0.01,
        bootstrap=True,
        generator=generator(1),
    )


def on_cartpole() -> Trainer:
    policy, values = (NeuralPolicy(4, n, hidden=(8,), generator=generator(n)) for n in (2, 1))
    adam = torch.optim.Adam([*policy.parameters(), *values.parameters()], lr=0.01)
    return Trainer(
        policy,
        gymnasium.make_vec("CartPole-v1", num_envs=3),
        0.99,
        optimizer=adam,
        horizon=40,
        baseline=values,
        bootstrap=True,
        generator=generator(1),
    )


@pytest.mark.parametrize("build", [on_mdp, on_cartpole])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(build: Callable[[], Trainer], tmp_path: Path) -> None:
    whole = build()
    whole.run(6)
    first = build()
    first.run(3)
    first.save(tmp_path / "checkpoint.pt")
    second = build()
    second.run(1)  # a state of its own, which loading must replace
    second.load(tmp_path / "checkpoint.pt")
    second.run(3)
    for a, b in zip(whole.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert np.array_equal(np.array(whole.history), np.array(second.history), equal_nan=True)
    assert len(second.history) == 6


def test_the_gymnasium_loop_learns_like_the_loop_on_the_table() -> None:
    # The environment without randomness of its own but the agent's: the two loops must agree in distribution. Means of
    # the returns of 36 batches under a fixed policy.
    mdp = gallery.short_corridor()
    policy = LinearPolicy(corridor_features())
    sgd = torch.optim.SGD(policy.parameters(), lr=0.0)
    envs = SyncVectorEnv([mdp.to_gymnasium] * 20)
    trainer = Trainer(policy, envs, 0.9, optimizer=sgd, horizon=400, generator=generator())
    returns = torch.tensor([record.mean_return for record in trainer.run(36)], dtype=F64)
    exact = float(performance(mdp, policy.table().detach(), 0.9))
    assert abs(float(returns.mean()) - exact) <= chance.most_errors(1, batches=36) * float(returns.std()) / 6


def test_the_gymnasium_update_is_the_update_on_the_same_episodes_of_the_table() -> None:
    mdp = gallery.gamblers_problem(goal=6)
    envs = SyncVectorEnv([mdp.to_gymnasium] * 6)
    policy = TabularPolicy(mdp.n_states, mdp.n_actions, init_std=0.5, generator=generator(), dtype=F64)
    episodes = sample_episodes(envs, policy, horizon=40, generator=generator(4))
    sgd = torch.optim.SGD(policy.parameters(), lr=0.0)
    on_envs = Trainer(policy, envs, 0.9, optimizer=sgd, horizon=40, generator=generator(4))
    on_envs.update()
    assert policy.theta.grad is not None
    from_envs = policy.theta.grad.clone()
    on_table = Trainer(policy, mdp, 0.9, optimizer=sgd, horizon=40, batch_size=6)
    as_trajectories = Trajectories(*episodes[:6])
    on_table._draw = lambda: as_trajectories  # type: ignore[method-assign]
    on_table.update()
    torch.testing.assert_close(policy.theta.grad, from_envs)
    a, b = on_envs.history[-1]._replace(performance=0.0), on_table.history[-1]._replace(performance=0.0)
    assert a == pytest.approx(b)


@pytest.mark.parametrize("baseline", [None, -3.0, "leave_one_out"])
def test_it_learns_the_short_corridor(baseline: Any) -> None:
    mdp = gallery.short_corridor()
    policy = LinearPolicy(corridor_features())
    adam = torch.optim.Adam(policy.parameters(), lr=0.05)
    trainer = Trainer(
        policy, mdp, 1.0, optimizer=adam, horizon=300, batch_size=200, baseline=baseline, generator=generator()
    )
    assert trainer.run(40)[-1].performance > -(6 + 4 * math.sqrt(2)) - 0.1


def test_a_float32_policy_learns_on_a_float64_mdp() -> None:
    mdp = gallery.bandit([1.0, 0.0])
    policy = NeuralPolicy(2, 2, features=torch.eye(2), generator=generator())
    adam = torch.optim.Adam(policy.parameters(), lr=0.05)
    trainer = Trainer(policy, mdp, 1.0, optimizer=adam, horizon=1, batch_size=50, generator=generator())
    assert trainer.run(40)[-1].performance > 0.9


def test_progress_is_written_only_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = on_mdp()
    trainer.run(1)
    assert capsys.readouterr() == ("", "")
    records = trainer.run(10, progress=True)
    assert records == trainer.history[1:]
    lines = [
        f"update {i:2}/10  return {r.mean_return:9.4g}  entropy {r.entropy:.3f} \r" for i, r in enumerate(records, 1)
    ]
    assert capsys.readouterr() == ("", "".join(lines) + "\n")


# --- many runs


def short_runs(update: str, step_size: Any, n_episodes: int = 1, runs: int = 200, **options: Any) -> Any:
    start = torch.tensor([-0.5, 0.5], dtype=F64).expand(runs, 2)
    return reinforce_runs(
        gallery.short_corridor(),
        corridor_features(),
        start,
        1.0,
        step_size=step_size,
        n_episodes=n_episodes,
        horizon=2000,
        update=update,
        generator=generator(),
        **options,
    )


def test_the_mean_change_of_a_run_is_the_step_size_times_the_exact_gradient() -> None:
    # 10,000 runs of one episode.
    alpha = 2**-12
    runs = short_runs("episode", alpha, runs=10_000)
    policy = LinearPolicy(corridor_features())
    with torch.no_grad():
        policy.theta.copy_(runs.parameters[0, 0])
    exact = exact_parameter_gradient(gallery.short_corridor(), policy, 1.0)["theta"]
    change = (runs.parameters[1] - runs.parameters[0]) / alpha
    assert not runs.stopped.any()
    assert ((change.mean(0) - exact).abs() <= chance.most_errors(2) * change.std(0) / 10_000**0.5).all()


def test_the_returns_of_the_runs_have_the_exact_mean() -> None:
    # −2 (2 − p) / (p (1 − p)), Sutton and Barto (2018), Example 13.1.
    runs = short_runs("step", 0.0, runs=20_000)
    p = 1 / (1 + math.exp(1.0))
    exact = -2 * (2 - p) / (p * (1 - p))
    error = float(runs.returns.std()) / 20_000**0.5
    assert abs(float(runs.returns.mean()) - exact) <= chance.most_errors(1) * error
    assert torch.equal(-runs.returns, runs.lengths.double())


def test_the_two_ways_to_update_differ_by_second_order_in_the_step_size() -> None:
    differences = []
    for alpha in (2.0**-16, 2.0**-17):
        by_step, by_episode = (short_runs(update, alpha).parameters[1] for update in ("step", "episode"))
        differences.append(float((by_step - by_episode).norm()))
    assert differences[0] / differences[1] == pytest.approx(4.0, rel=0.02)


def test_a_step_update_is_the_pseudo_code() -> None:
    episodes = Trajectories(
        torch.tensor([[0, 1, 0, 1, 2, 3]]),
        torch.tensor([[1, 1, 1, 0, 1]]),
        torch.tensor([[-1.0, -2, -1, 1, -1]]).double(),
        torch.ones(1, 5, dtype=torch.bool),
        torch.tensor([True]),
        torch.tensor([False]),
    )
    theta, w, gamma, alpha, alpha_w = [0.3, -0.2], 0.5, 0.9, 0.1, 0.05
    moved = _move_each_step(
        corridor_features(),
        torch.tensor([theta], dtype=F64),
        torch.tensor([w], dtype=F64),
        episodes,
        gamma,
        torch.tensor([alpha], dtype=F64),
        torch.tensor([alpha_w], dtype=F64),
    )
    rewards, actions = episodes.rewards[0].tolist(), episodes.actions[0].tolist()
    for t in range(5):
        g = sum(gamma ** (k - t) * rewards[k] for k in range(t, 5))
        right = 1 / (1 + math.exp(theta[1] - theta[0]))
        delta = g - w
        w += alpha_w * delta
        score = [1 - right, right - 1] if actions[t] == 1 else [-right, right]
        theta = [x + alpha * gamma**t * delta * y for x, y in zip(theta, score, strict=True)]
    torch.testing.assert_close(moved[0][0], torch.tensor(theta, dtype=F64))
    torch.testing.assert_close(moved[1][0], torch.tensor(w, dtype=F64))


def test_a_run_stops_when_an_episode_reaches_the_horizon_and_the_others_go_on() -> None:
    start = torch.tensor([[-30.0, 30.0], [0.0, 0.0]], dtype=F64)
    runs = reinforce_runs(
        gallery.short_corridor(),
        corridor_features(),
        start,
        1.0,
        step_size=1e-4,
        n_episodes=5,
        horizon=300,
        generator=generator(),
    )
    assert runs.stopped.tolist() == [True, False]
    assert runs.returns[0, 0] == -300
    assert runs.returns[1:, 0].isnan().all()
    assert torch.equal(runs.parameters[-1, 0], start[0])
    assert runs.returns[:, 1].isfinite().all()
    assert (runs.parameters[-1, 1] != start[1]).all()


def test_each_run_has_its_own_step_size_and_baseline() -> None:
    sizes = torch.tensor([0.0, 1e-3], dtype=F64).repeat_interleave(100)
    baseline_sizes = torch.tensor([0.0, 0.01], dtype=F64).repeat(100)
    runs = short_runs("step", sizes, baseline_step_size=baseline_sizes)
    assert (runs.parameters[1, :100] == runs.parameters[0, :100]).all()  # a step of size 0 adds 0
    assert (runs.parameters[1, 100:] != runs.parameters[0, 100:]).any(-1).all()
    assert torch.equal(runs.baselines[1] != 0, baseline_sizes > 0)


# --- many small runs of PPO


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=F64)


def short_mdp() -> FiniteMDP:
    """Three states, random outcomes, over after at most three steps."""
    outcomes = []
    rng = generator(5)
    for s, a in itertools.product(range(3), range(2)):
        p = float(torch.rand((), generator=rng, dtype=F64))
        outcomes += [(s, a, 3, 1.0 + s - a, p), (s, a, min(s + 1, 3), -1.0 + 2 * a, 1 - p)]
    return FiniteMDP.from_outcomes(outcomes, n_states=4, n_actions=2, initial=[0.7, 0.3, 0.0, 0.0], terminal=[3])


def test_one_epoch_of_a_run_without_critic_is_one_reinforce_step_on_its_own_episodes() -> None:
    """The bandit is deterministic given the action, so the possible steps can be listed."""
    mdp, start = gallery.bandit([1.0, 0.5]), torch.zeros(40, 2, 2, dtype=F64)
    runs = surrogate_runs(
        mdp,
        start,
        1.0,
        n_updates=1,
        n_episodes=1,
        horizon=1,
        step_size=0.1,
        critic_step_size=0.0,
        generator=generator(),
    )
    steps = runs.preferences[:, 0, 0]
    # G (1 − π) for the first arm, −G π for the second, with π = 1/2
    assert sorted({round(x, 12) for x in steps.tolist()}) == [-0.025, 0.05]
    assert runs.steps.tolist() == [[0] * 40, [1] * 40]
    assert runs.performance[0].tolist() == pytest.approx([0.75] * 40)


def test_the_mean_first_step_of_many_runs_is_the_policy_gradient() -> None:
    """A sum over steps, a mean over episodes."""
    mdp, n_runs = short_mdp(), 2_000
    h = randn(4, 2).expand(n_runs, 4, 2)
    options = {"n_updates": 1, "n_episodes": 4, "horizon": 3, "critic_step_size": 0.0, "generator": generator()}
    runs = surrogate_runs(mdp, h, 1.0, step_size=1.0, **options)  # type: ignore[arg-type]
    moves = runs.preferences - h
    error = moves.std(0) / math.sqrt(n_runs)
    off = (moves.mean(0) - exact_policy_gradient(mdp, h[0], 1.0)).abs()
    assert (off <= chance.most_errors(off.numel()) * error).all()


def test_the_critic_moves_to_the_mean_return_of_each_state() -> None:
    """With the bandit's second batch the advantage of an arm is its reward minus the mean reward of the first batch."""
    mdp, start = gallery.bandit([1.0, 1.0]), torch.zeros(3, 2, 2, dtype=F64)
    runs = surrogate_runs(mdp, start, 1.0, n_updates=3, n_episodes=5, horizon=1, step_size=1.0, generator=generator())
    once = surrogate_runs(mdp, start, 1.0, n_updates=1, n_episodes=5, horizon=1, step_size=1.0, generator=generator())
    torch.testing.assert_close(runs.preferences, once.preferences)  # after one batch nothing is left to learn
    assert not torch.equal(once.preferences, start)


def test_runs_sample_the_outcomes_of_the_mdp() -> None:
    """A fixed policy (step size 0): lengths of episodes have the exact mean."""
    mdp = short_mdp()
    h = randn(1, 4, 2).expand(2, 4, 2)
    runs = surrogate_runs(mdp, h, 1.0, n_updates=1, n_episodes=5_000, horizon=3, step_size=0.0, generator=generator())
    trajectories, p = enumerate_trajectories(mdp, softmax_policy(h[0], available=mdp.available), horizon=3)
    lengths = trajectories.mask.sum(-1).double()
    mean, variance = p @ lengths, p @ lengths.square() - (p @ lengths).square()
    bound = chance.most_errors(2) * math.sqrt(float(variance) / 5_000)
    assert all(abs(float(steps) / 5_000 - float(mean)) < bound for steps in runs.steps[1])


def test_ppo_learns_the_corridor_in_every_run() -> None:
    mdp = gallery.gridworld_4x4()
    start = torch.zeros(6, mdp.n_states, mdp.n_actions, dtype=F64)
    options = {"n_updates": 15, "n_episodes": 8, "horizon": 60, "generator": generator()}
    ppo = surrogate_runs(mdp, start, 1.0, step_size=0.2, n_epochs=8, clip=0.2, lam=0.95, **options)  # type: ignore[arg-type]
    assert (ppo.performance[-1] > ppo.performance[0] / 2).all()


# --- PPO on environments


def test_a_rollout_never_shows_the_reset_state_as_the_next_state() -> None:
    """CartPole restarts near 0 after it has fallen: the next state of a last step must be the fallen one."""
    envs = gymnasium.make_vec("CartPole-v1", num_envs=3)
    torch.manual_seed(0)
    rollout = sample_rollout(envs, NeuralPolicy(4, 2), n_steps=120, generator=generator())
    ends = rollout.terminated
    assert ends.any()
    assert not rollout.truncated.any()
    fallen = (rollout.next_states[..., 2].abs() > math.radians(12)) | (rollout.next_states[..., 0].abs() > 2.4)
    assert torch.equal(fallen & rollout.mask, ends)
    after = torch.nn.functional.pad(ends[:, :-1], (1, 0))
    assert torch.equal(~rollout.mask, after)
    assert torch.equal(rollout.states[:, 1:], rollout.next_states[:, :-1])
    assert rollout.rewards.sum() == rollout.mask.sum()


def test_a_time_limit_is_a_truncation_and_not_a_termination() -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2, max_episode_steps=4, vectorization_mode="sync")
    rollout = sample_rollout(envs, NeuralPolicy(4, 2), n_steps=10, generator=generator())
    assert not rollout.terminated.any()
    assert rollout.truncated.int().tolist() == [[0, 0, 0, 1, 0, 0, 0, 0, 1, 0]] * 2
    assert rollout.mask.int().tolist() == [[1, 1, 1, 1, 0, 1, 1, 1, 1, 0]] * 2


def test_a_rollout_goes_on_where_the_last_one_ended() -> None:
    """Also where that was the end of an episode, or the reset after it."""
    space = gymnasium.spaces.Box(0.0, 1e3, (1,))
    envs = SyncVectorEnv(
        [
            lambda i=i: TransformObservation(Countdown(i), lambda n: np.array([n], np.float32), space)  # type: ignore[misc]
            for i in range(4)
        ]
    )
    policy = NeuralPolicy(1, 2, generator=generator())
    whole = sample_rollout(envs, policy, n_steps=12, generator=generator())
    parts = [sample_rollout(envs, policy, n_steps=1, generator=(draw := generator()))]
    for _ in range(11):
        parts.append(sample_rollout(envs, policy, n_steps=1, after=parts[-1], generator=draw))
    for name, column in whole._asdict().items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts], 1), column), name
    assert whole.mask[0].tolist() == [True, False, True, True, False, True, True, True, False, True, True, True]
    assert not (whole.terminated & whole.truncated).any()


def test_a_rollout_of_other_environments_is_not_gone_on_with() -> None:
    envs, policy = cartpole(), NeuralPolicy(4, 2)
    last = sample_rollout(envs, policy, n_steps=3)
    for name in ("next_states", "terminated", "truncated"):
        column = getattr(last, name)
        for bad in (column[:1], column[:, :0], column[0, 0], torch.cat([column, column])):
            with pytest.raises(ValueError, match=rf"after.{name} has shape .*, expected \[2, T, ...\]"):
                sample_rollout(envs, policy, n_steps=1, after=last._replace(**{name: bad}))


def test_the_trainer_is_reproducible_and_counts_steps_and_rewards() -> None:
    def run() -> tuple[list[Any], Tensor]:
        torch.manual_seed(0)
        policy, critic = NeuralPolicy(4, 2, hidden=(8,)), torch.nn.Linear(4, 1)
        adam = torch.optim.Adam([*policy.parameters(), *critic.parameters()], lr=1e-2)
        envs = gymnasium.make_vec("CartPole-v1", num_envs=4)
        trainer = PPOTrainer(policy, critic, envs, 0.99, optimizer=adam, n_steps=40, generator=generator())
        return trainer.run(3), next(policy.parameters()).detach().clone()

    (records, parameters), (again, same) = run(), run()
    assert records == again
    assert torch.equal(parameters, same)
    assert 140 <= records[0].steps <= 160
    assert 8 < records[0].total_reward < 60
    assert records[0].kl > 0


def test_another_autoreset_mode_is_refused() -> None:
    same = AutoresetMode.SAME_STEP
    envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")], autoreset_mode=same)
    with pytest.raises(ValueError, match="autoreset mode SAME_STEP, expected NEXT_STEP"):
        sample_rollout(envs, NeuralPolicy(4, 2), n_steps=1)


# --- bad input


def trainer(**changes: Any) -> Trainer:
    mdp = gallery.short_corridor()
    policy = LinearPolicy(corridor_features())
    arguments: dict[str, Any] = {
        "optimizer": torch.optim.SGD(policy.parameters(), lr=0.1),
        "horizon": 5,
        "batch_size": 2,
        **changes,
    }
    source, gamma = arguments.pop("source", mdp), arguments.pop("gamma", 0.9)
    return Trainer(policy, source, gamma, **arguments)


def runs(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "mdp": gallery.short_corridor(),
        "features": corridor_features(),
        "parameters": torch.zeros(3, 2, dtype=F64),
        "gamma": 1.0,
        "step_size": 0.1,
        "n_episodes": 1,
        "horizon": 5,
        **changes,
    }
    return reinforce_runs(**arguments)


def cartpole() -> Any:
    return gymnasium.make_vec("CartPole-v1", num_envs=2)


def on_cartpole(**changes: Any) -> Trainer:
    policy = NeuralPolicy(4, 2)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    return Trainer(policy, cartpole(), 1.0, optimizer=optimizer, horizon=5, **changes)


ascent = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, maximize=True)
FAULTS = [
    pytest.param(lambda: trainer(gamma=2.0), ValueError, "gamma must be", id="gamma"),
    pytest.param(lambda: trainer(horizon=0), ValueError, "horizon must be at least 1", id="horizon"),
    pytest.param(lambda: trainer(batch_size=None), ValueError, "batch_size is None", id="no batch size"),
    pytest.param(lambda: trainer(batch_size=0), ValueError, "batch_size must be at least 1", id="batch size"),
    pytest.param(lambda: on_cartpole(batch_size=3), ValueError, "has 2 sub-env", id="sub-environments"),
    pytest.param(lambda: trainer(source=cartpole()), ValueError, "but policy has 4 numbered", id="numbered states"),
    pytest.param(
        lambda: trainer(source=3), TypeError, "source must be a gymnasium.vector.VectorEnv, not int", id="source"
    ),
    pytest.param(lambda: trainer(optimizer=ascent), ValueError, "optimizer maximises", id="maximize"),
    pytest.param(lambda: trainer(baseline="mean"), ValueError, "baseline is 'mean'", id="baseline"),
    pytest.param(lambda: trainer(baseline="batch"), ValueError, "baseline is 'batch'", id="another baseline"),
    pytest.param(lambda: trainer(bootstrap=True), ValueError, "bootstrap is True but", id="bootstrap"),
    pytest.param(
        lambda: trainer(entropy_weight="a"), TypeError, "entropy_weight must be a number", id="entropy weight"
    ),
    pytest.param(lambda: trainer().run(0), ValueError, "n_updates must be at least 1", id="updates"),
    pytest.param(
        lambda: sample_episodes(cartpole(), NeuralPolicy(4, 3), horizon=5), ValueError, "has 3 actions", id="actions"
    ),
    pytest.param(
        lambda: sample_episodes(gymnasium.make_vec("Pendulum-v1", num_envs=1), NeuralPolicy(3, 2), horizon=5),
        ValueError,
        "not a discrete one",
        id="continuous",
    ),
    pytest.param(
        lambda: runs(features=corridor_features()[:3]), ValueError, r"expected \[4, 2, d\]", id="features shape"
    ),
    pytest.param(
        lambda: runs(features=corridor_features().float()), TypeError, "features is torch.float32", id="features dtype"
    ),
    pytest.param(
        lambda: runs(parameters=torch.zeros(3, dtype=F64)),
        ValueError,
        r"shape \[3\], expected \[K, 2\]",
        id="parameters",
    ),
    pytest.param(lambda: runs(update="batch"), ValueError, "update is 'batch'", id="update"),
    pytest.param(lambda: runs(n_episodes=0), ValueError, "n_episodes must be", id="episodes"),
    pytest.param(
        lambda: runs(mdp=gallery.gamblers_problem(goal=4), features=torch.zeros(5, 3, 2, dtype=F64)),
        ValueError,
        "lacks an action at s=1, a=0",
        id="missing action",
    ),
    pytest.param(
        lambda: surrogate_runs(short_mdp(), randn(4, 2), 1.0, n_updates=1, n_episodes=1, horizon=1, step_size=1.0),
        ValueError,
        r"preferences has shape \[4, 2\], expected 3 axes",
        id="runs-shape",
    ),
    pytest.param(
        lambda: surrogate_runs(short_mdp(), randn(1, 4, 2), 1.0, n_updates=0, n_episodes=1, horizon=1, step_size=1.0),
        ValueError,
        "n_updates must be at least 1",
        id="runs-updates",
    ),
    pytest.param(
        lambda: sample_rollout(gymnasium.make("CartPole-v1"), NeuralPolicy(4, 2), n_steps=1),
        TypeError,
        "envs must be a gymnasium.vector.VectorEnv",
        id="rollout-envs",
    ),
    pytest.param(
        lambda: sample_rollout(gymnasium.make_vec("CartPole-v1"), NeuralPolicy(4, 2), n_steps=0),
        ValueError,
        "n_steps must be at least 1",
        id="rollout-steps",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), FAULTS)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_records_and_episodes_are_plain_tuples() -> None:
    assert Record._fields[0] == "episodes"
    assert Episodes._fields[:6] == Trajectories._fields
