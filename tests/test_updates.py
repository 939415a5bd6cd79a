"""Whole updates of every learner, computed again from the very batch that it drew: plain loops and plain autograd.

The oracles take the recorded episodes and nothing else of the package: returns, advantages and baselines are sums over
single steps, probabilities are `torch.log_softmax`, and gradients are those of autograd on a loss that is written out.
"""

import copy
import math
import sys
from typing import Any

import gymnasium
import pytest
import torch
from helpers import F64, randn, seeded
from torch import Tensor, nn

from pgtheory import gallery
from pgtheory.mdp import FiniteMDP
from pgtheory.softmax_policy import LinearPolicy, NeuralPolicy, SoftmaxPolicy
from pgtheory.training import PPOTrainer, Trainer, reinforce_runs, surrogate_runs

RUNS, SURROGATES, PPO = (
    sys.modules[f"pgtheory.training.{name}"] for name in ("_reinforce_runs", "_surrogate_runs", "_ppo")
)
LR = 0.3


def wandering() -> FiniteMDP:
    """Three live states, two actions, random rewards and steps in both directions; state 3 is terminal."""
    draw, outcomes = seeded(3), []
    for s in range(3):
        for a in range(2):
            p = torch.softmax(torch.randn(4, generator=draw, dtype=F64), 0).tolist()
            r = torch.randn(4, generator=draw, dtype=F64).tolist()
            outcomes += [(s, a, n, r[n], p[n]) for n in range(4)]
    return FiniteMDP.from_outcomes(outcomes, n_states=4, n_actions=2, initial=[0.5, 0.3, 0.2, 0.0], terminal=[3])


def cartpole(n: int, limit: int = 10) -> Any:
    """Poles that fall after about ten steps under a policy that pushes one way; some are cut off before."""
    return gymnasium.make_vec("CartPole-v1", num_envs=n, max_episode_steps=limit, vectorization_mode="sync")


def recorded(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """What each call of `owner.name` returns from now on."""
    seen, original = [], getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        seen.append(original(*args, **options))
        return seen[-1]

    monkeypatch.setattr(owner, name, call)
    return seen


def returns_of(rewards: list[float], gamma: float, final: float = 0.0) -> list[float]:
    """G_t of one episode, each from its own sum."""
    n = len(rewards)
    return [sum(gamma ** (k - t) * rewards[k] for k in range(t, n)) + gamma ** (n - t) * final for t in range(n)]


def entropy_of(log_row: Tensor) -> Tensor:
    return -sum(x.exp() * x for x in log_row)  # type: ignore[return-value]


# --- Trainer


def reinforce_objective(
    trainer: Trainer, policy: SoftmaxPolicy, critic: nn.Module | None, batch: Any, entropy_weight: float
) -> Tensor:
    """The loss of one batch: −(1/N) Σ_n Σ_t γ^t [(G_t − b) ln π + β H], and (1/N) Σ_n Σ_t (G_t − v)²/2 of a critic."""
    gamma, n = trainer.gamma, len(batch.mask)
    lengths = [int(m.sum()) for m in batch.mask]
    values = None if critic is None else critic(batch.states).squeeze(-1)
    returns = []
    for i in range(n):
        cut = values is not None and trainer.bootstrap and bool(batch.truncated[i])
        final = float(values[i, lengths[i]].detach()) if cut else 0.0  # type: ignore[index]
        returns.append(returns_of(batch.rewards[i, : lengths[i]].tolist(), gamma, final))
    loss = torch.zeros((), dtype=F64)
    for i in range(n):
        log_rows = torch.log_softmax(policy.preferences(batch.states[i, : lengths[i]]), -1)
        for t in range(lengths[i]):
            if values is not None:
                baseline = float(values[i, t].detach())
                loss = loss + (returns[i][t] - values[i, t]) ** 2 / 2 / n
            elif trainer.baseline == "leave_one_out":
                baseline = sum(returns[m][t] for m in range(n) if m != i and t < lengths[m]) / (n - 1)
            else:
                baseline = float(trainer.baseline or 0.0)  # type: ignore[arg-type]
            rate = gamma**t if trainer.discount_states else 1.0
            term = (returns[i][t] - baseline) * log_rows[t, int(batch.actions[i, t])]
            loss = loss - rate * (term + entropy_weight * entropy_of(log_rows[t])) / n
    return loss


BRANCHES: list[dict[str, Any]] = [
    {},
    {"baseline": -1.5, "discount_states": False, "entropy_weight": 0.4},
    {"baseline": "leave_one_out", "entropy_weight": 0.4},
    {"baseline": "leave_one_out", "discount_states": False},
    {"baseline": "critic"},
    {"baseline": "critic", "bootstrap": True, "entropy_weight": 0.4},
    {"baseline": "critic", "bootstrap": True, "discount_states": False},
]


def two_updates(trainer: Trainer, critic: nn.Module | None, entropy_weight: float, batches: list[Any]) -> None:
    """Each moves every parameter by −LR times the gradient, and records means over the episodes of its batch."""
    for k in range(2):
        twins = copy.deepcopy((trainer.policy, critic))
        modules = [m for m in twins if m is not None]
        record = trainer.update()
        batch = batches[k]
        parameters = [p for m in modules for p in m.parameters()]
        loss = reinforce_objective(trainer, twins[0], twins[1], batch, entropy_weight)
        slopes = torch.autograd.grad(loss, parameters)
        mine = [p for m in (trainer.policy, critic) if m is not None for p in m.parameters()]
        for parameter, before, slope in zip(mine, parameters, slopes, strict=True):
            torch.testing.assert_close(parameter.detach(), before.detach() - LR * slope, atol=1e-10, rtol=1e-8)
        n, n_policy = len(batch.mask), len(list(twins[0].parameters()))
        lengths = [int(m.sum()) for m in batch.mask]
        rewards = [batch.rewards[i, : lengths[i]].tolist() for i in range(n)]
        rows = torch.log_softmax(twins[0].preferences(batch.states[:, :-1]), -1)
        entropies = [float(entropy_of(rows[i, t].detach())) for i in range(n) for t in range(lengths[i])]
        assert record.episodes == (k + 1) * n
        assert record.mean_return == pytest.approx(sum(returns_of(r, trainer.gamma)[0] for r in rewards) / n)
        assert record.total_reward == pytest.approx(sum(map(sum, rewards)) / n)
        assert record.length == pytest.approx(sum(lengths) / n)
        assert record.truncated == pytest.approx(float(batch.truncated.double().mean()))
        assert record.entropy == pytest.approx(sum(entropies) / sum(lengths))
        assert record.gradient_norm == pytest.approx(math.hypot(*(float(s.norm()) for s in slopes[:n_policy])))


@pytest.mark.equation("eq-reinforce-loss", "eq-value-loss", "eq-entropy-bonus", "eq-leave-one-out", "eq-bootstrap")
@pytest.mark.parametrize("branch", BRANCHES, ids=str)
def test_an_update_of_the_trainer_is_the_gradient_step_of_its_loss_written_out(
    branch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, options = LinearPolicy(randn(4, 2, 3), init_std=0.5, generator=seeded(1)), dict(branch)
    critic = nn.Embedding(4, 1, dtype=F64) if options.get("baseline") == "critic" else None
    if critic is not None:
        critic.weight.data = randn(4, 1, seed=2)
        options["baseline"] = critic
    sgd = torch.optim.SGD([*policy.parameters(), *(critic.parameters() if critic else ())], lr=LR)
    trainer = Trainer(policy, wandering(), 0.8, optimizer=sgd, horizon=4, batch_size=9, generator=seeded(), **options)
    batches = recorded(monkeypatch, trainer, "_draw")
    two_updates(trainer, critic, options.get("entropy_weight", 0.0), batches)
    assert all(b.truncated.any() and b.terminated.any() and not b.mask.all() for b in batches)


@pytest.mark.parametrize("branch", [BRANCHES[1], BRANCHES[2], BRANCHES[5]], ids=str)
def test_so_is_an_update_on_environments(branch: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    policy, options = pushing_one_way(), dict(branch)
    critic = nn.Linear(4, 1, dtype=F64) if options.get("baseline") == "critic" else None
    if critic is not None:
        critic.weight.data, options["baseline"] = randn(1, 4, seed=2), critic
    sgd = torch.optim.SGD([*policy.parameters(), *(critic.parameters() if critic else ())], lr=LR)
    trainer = Trainer(policy, cartpole(6, limit=9), 0.8, optimizer=sgd, horizon=30, generator=seeded(), **options)
    batches = recorded(monkeypatch, trainer, "_draw")
    two_updates(trainer, critic, options.get("entropy_weight", 0.0), batches)
    assert batches[0].truncated.any()
    assert batches[0].terminated.any()


def pushing_one_way() -> NeuralPolicy:
    policy = NeuralPolicy(4, 2, hidden=(5,), generator=seeded(1), dtype=F64)
    with torch.no_grad():
        [*policy.parameters()][-1].copy_(torch.tensor([1.5, 0.0]))
        [*policy.parameters()][-2].copy_(randn(2, 5, seed=4))
    return policy


# --- many runs of REINFORCE


def score_of(features: Tensor, theta: Tensor, state: int, action: int) -> Tensor:
    leaf = theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(torch.log_softmax(features[state] @ leaf, 0)[action], leaf)
    return slope


@pytest.mark.equation("eq-gradient-ascent", "eq-reinforce")
@pytest.mark.parametrize("update", ["step", "episode"])
def test_each_run_of_reinforce_follows_the_box_of_its_update(update: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mdp, features, start, gamma = wandering(), randn(4, 2, 3), randn(7, 3, seed=1), 0.8
    alpha, alpha_w = torch.linspace(0.05, 0.4, 7, dtype=F64), torch.linspace(0.5, 0.0, 7, dtype=F64)
    batches = recorded(monkeypatch, RUNS, "_one_episode_each")
    options: dict[str, Any] = {"step_size": alpha, "baseline_step_size": alpha_w, "n_episodes": 4, "horizon": 5}
    runs = reinforce_runs(mdp, features, start, gamma, update=update, generator=seeded(2), **options)
    assert 0 < int(runs.stopped.sum()) < 7
    for k in range(7):
        theta, w, stopped = start[k].clone(), 0.0, False
        for e, batch in enumerate(batches):
            length = int(batch.mask[k].sum())
            returns = returns_of(batch.rewards[k, :length].tolist(), gamma)
            if stopped:
                assert runs.lengths[e, k] == 0
                assert runs.returns[e, k].isnan()
            else:
                assert runs.lengths[e, k] == length
                assert float(runs.returns[e, k]) == pytest.approx(returns[0])
            stopped = stopped or bool(batch.truncated[k])
            at_start, w_at_start = theta, w
            for t in range(0 if stopped else length):
                point, baseline = (theta, w) if update == "step" else (at_start, w_at_start)
                delta = returns[t] - baseline
                s, a = int(batch.states[k, t]), int(batch.actions[k, t])
                theta = theta + alpha[k] * gamma**t * delta * score_of(features, point, s, a)
                w = w + float(alpha_w[k]) * delta
            torch.testing.assert_close(runs.parameters[e + 1, k], theta, atol=1e-12, rtol=1e-10)
            assert float(runs.baselines[e + 1, k]) == pytest.approx(w, rel=1e-10, abs=1e-12)
        assert bool(runs.stopped[k]) == stopped


# --- generalized advantages, for the two learners below


def advantages_of(
    rewards: list[float], values: list[float], next_values: list[float], terminated: list[bool], cut: list[bool],
    gamma: float, lam: float,
) -> list[float]:  # fmt: skip
    """Σ_l (γλ)^l δ_{t+l} up to the end of the episode, each from its own sum."""
    result = []
    for t in range(len(rewards)):
        total = 0.0
        for k in range(t, len(rewards)):
            following = 0.0 if terminated[k] else next_values[k]
            total += (gamma * lam) ** (k - t) * (rewards[k] + gamma * following - values[k])
            if terminated[k] or cut[k]:
                break
        result.append(total)
    return result


def clipped_term(log_ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    """min(ρA, clip(ρ) A)."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


# --- many runs of PPO


@pytest.mark.equation("eq-ppo-loss", "eq-gae")
@pytest.mark.parametrize(
    ("n_epochs", "clip", "lam", "critic_step_size", "n"),
    [(1, (1.0, math.inf), 1.0, 1.0, 5), (3, 0.2, 0.7, 0.6, 5), (3, (0.05, 0.4), 0.7, 0.0, 5), (2, 0.2, 0.7, 0.6, 1)],
)
def test_each_run_of_the_surrogate_makes_its_epochs_and_moves_its_critic(
    n_epochs: int, clip: Any, lam: float, critic_step_size: float, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mdp, start, gamma, alpha = wandering(), randn(3, 4, 2, seed=1), 0.8, 1.5
    batches = recorded(monkeypatch, SURROGATES, "_sample_runs")
    options: dict[str, Any] = {"n_updates": 4, "n_episodes": n, "horizon": 4, "step_size": alpha, "lam": lam}
    options |= {"n_epochs": n_epochs, "clip": clip, "critic_step_size": critic_step_size}
    runs = surrogate_runs(mdp, start, gamma, generator=seeded(2), **options)
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    ends = torch.stack([b.terminated for b in batches])
    assert ends.any()
    assert not ends.all()
    for run in range(3):
        h, critic = start[run].clone(), [0.0] * 4
        for batch in batches:
            steps, targets = [], [list[float]() for _ in range(4)]
            for i in range(n):
                length = int(batch.mask[run, i].sum())
                states, actions = batch.states[run, i].tolist(), batch.actions[run, i].tolist()
                values = [critic[s] for s in states]
                last = [t == length - 1 for t in range(length)]
                over = [x and bool(batch.terminated[run, i]) for x in last]
                rewards = batch.rewards[run, i, :length].tolist()
                found = advantages_of(rewards, values[:length], values[1 : length + 1], over, last, gamma, lam)
                for t in range(length):
                    steps.append((states[t], actions[t], found[t]))
                    targets[states[t]].append(found[t] + values[t])
            old = torch.log_softmax(h, -1)
            for _ in range(n_epochs):
                leaf = h.clone().requires_grad_()
                log_policy = torch.log_softmax(leaf, -1)
                terms = [clipped_term(log_policy[s, a] - old[s, a], adv, low, high) for s, a, adv in steps]
                (slope,) = torch.autograd.grad(torch.stack(terms).sum() / n, leaf)
                h = h + alpha * slope
            for s, found in enumerate(targets):
                if found:
                    critic[s] += critic_step_size * (sum(found) / len(found) - critic[s])
        torch.testing.assert_close(runs.preferences[run], h, atol=1e-11, rtol=1e-9)
        taken = [int(b.mask[run].sum()) for b in batches]
        assert runs.steps[:, run].tolist() == [sum(taken[:k]) for k in range(5)]


@pytest.mark.parametrize("learner", ["step", "episode", "surrogate"])
def test_the_next_episode_of_each_run_follows_what_the_last_one_taught(
    learner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of size 1000 after an episode that earned something makes its action certain."""
    bandit, options = gallery.bandit([1.0, 2.0]), {"step_size": 1e3, "horizon": 1, "generator": seeded()}
    if learner == "surrogate":
        batches = recorded(monkeypatch, SURROGATES, "_sample_runs")
        surrogate_runs(
            bandit, torch.zeros(60, 2, 2, dtype=F64), 1.0, n_updates=3, n_episodes=1, critic_step_size=0.0, **options
        )
        earned = torch.stack([batch.rewards[:, 0, 0] for batch in batches])
    else:
        features, start = torch.eye(4, dtype=F64).view(2, 2, 4), torch.zeros(60, 4, dtype=F64)
        earned = reinforce_runs(bandit, features, start, 1.0, n_episodes=3, update=learner, **options).returns
    assert set(earned[0].tolist()) == {1.0, 2.0}
    assert torch.equal(earned, earned[:1].expand(3, 60))


def test_a_longer_horizon_changes_nothing_where_every_episode_ends() -> None:
    """Not even the random numbers of later episodes: none are drawn for steps that nobody takes."""
    n = RUNS.BLOCK
    outcomes = [(s, a, s + 1, float(a), 1.0) for s in range(n) for a in (0, 1)]
    mdp = FiniteMDP.from_outcomes(outcomes, n_states=n + 1, n_actions=2, initial=0, terminal=[n])
    features, start, h = randn(n + 1, 2, 3), randn(5, 3), randn(5, n + 1, 2)
    found = []
    for horizon in (n, 4 * n):
        options: dict[str, Any] = {"step_size": 0.1, "horizon": horizon}
        runs = reinforce_runs(mdp, features, start, 0.9, n_episodes=3, generator=seeded(), **options)
        ppo = surrogate_runs(mdp, h, 0.9, n_updates=2, n_episodes=2, generator=seeded(), **options)
        found.append((runs.parameters, runs.returns, ppo.preferences))
    torch.testing.assert_close(found[0], found[1])


def numbered(dtype: torch.dtype, available: int) -> FiniteMDP:
    """State 0 is terminal; of each pair there are two outcomes, and the reward is the number of the outcome."""
    triples = [(s, a, n) for s in (1, 2, 3) for a in range(available) for n in sorted(((s + 1) % 4, (s + 2) % 4))]
    outcomes = [(*triple, float(k), 0.5) for k, triple in enumerate(triples)]
    columns = [torch.tensor(column) for column in zip(*outcomes, strict=True)]
    floats = [columns[3].to(dtype), columns[4].to(dtype)]
    return FiniteMDP.from_outcomes(
        (*columns[:3], *floats), n_states=4, n_actions=3, initial=[0, 0.5, 0.25, 0.25], terminal=[0]
    )


def steps_of(mdp: FiniteMDP, batch: Any) -> set[int]:
    """The numbers of the outcomes that were drawn, each with the state, the action and the next state that it has."""
    states, actions, rewards, mask = (x.flatten(0, -2) for x in batch[:4])
    outcome, o = rewards[mask].long(), mdp.outcomes
    assert torch.equal(o.state[outcome], states[:, :-1][mask])
    assert torch.equal(o.action[outcome], actions[mask])
    assert torch.equal(o.next_state[outcome], states[:, 1:][mask])
    assert not (mdp.terminal[states[:, :-1]] & mask).any()
    return set(outcome.tolist())


def test_the_steps_of_runs_are_those_of_the_mdp_and_all_of_them_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some 2,000 steps, one of 18 outcomes of about the same probability is missed in less than one of 10^30."""
    mdp = numbered(F64, 3)
    for_ppo, for_reinforce = (
        recorded(monkeypatch, *x) for x in ((SURROGATES, "_sample_runs"), (RUNS, "_one_episode_each"))
    )
    options: dict[str, Any] = {"step_size": 0.0, "horizon": 30, "generator": seeded()}
    surrogate_runs(mdp, torch.zeros(30, 4, 3, dtype=F64), 1.0, n_updates=1, n_episodes=20, **options)
    features, start = torch.eye(12, dtype=F64).view(4, 3, 12), torch.zeros(600, 12, dtype=F64)
    reinforce_runs(mdp, features, start, 1.0, n_episodes=1, **options)
    assert steps_of(mdp, for_ppo[0]) == steps_of(mdp, for_reinforce[0]) == set(range(18))


def test_the_largest_uniform_number_draws_an_action_that_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the probabilities, rounded to float32, add up to less than 1, or more."""
    mdp, h = numbered(torch.float32, 2), randn(200, 4, 3).float()
    total = torch.softmax(h[:, 1:, :2], -1).double().sum(-1)
    assert total.min() < 1 < total.max()
    batches = recorded(monkeypatch, SURROGATES, "_sample_runs")
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.full(shape, 1 - 2.0**-53, dtype=F64))
    surrogate_runs(mdp, h, 1.0, n_updates=1, n_episodes=2, step_size=0.0, horizon=9, generator=seeded())
    assert steps_of(mdp, batches[0]) == {3, 7, 11}


# --- PPO on environments


def ppo_rows(trainer: PPOTrainer, critic: nn.Module, policy: SoftmaxPolicy, rollout: Any) -> dict[str, Tensor]:
    """State, action, old log-probability, advantage and target of each step taken, row by row of the rollout."""
    columns: dict[str, list[Any]] = {"states": [], "actions": [], "old": [], "advantages": [], "targets": []}
    for n in range(len(rollout.mask)):
        t = 0
        while t < rollout.mask.shape[1]:
            if not rollout.mask[n, t]:
                t += 1
                continue
            first = t  # an episode, or what the rollout holds of it: up to its end or the next step not taken
            while t < rollout.mask.shape[1] and rollout.mask[n, t]:
                t += 1
                if rollout.terminated[n, t - 1] or rollout.truncated[n, t - 1]:
                    break
            with torch.no_grad():
                values = [float(critic(s)) for s in rollout.states[n, first:t]]
                following = [float(critic(s)) for s in rollout.next_states[n, first:t]]
                log_rows = torch.log_softmax(policy.preferences(rollout.states[n, first:t]), -1)
            over = rollout.terminated[n, first:t].tolist()
            rewards, none = rollout.rewards[n, first:t].tolist(), [False] * (t - first)
            found = advantages_of(rewards, values, following, over, none, trainer.gamma, trainer.lam)
            actions = rollout.actions[n, first:t]
            columns["states"] += rollout.states[n, first:t].unbind(0)
            columns["actions"] += actions.unbind(0)
            columns["old"] += [row[a] for row, a in zip(log_rows, actions, strict=True)]
            columns["advantages"] += [torch.tensor(x, dtype=F64) for x in found]
            columns["targets"] += [torch.tensor(a + v, dtype=F64) for a, v in zip(found, values, strict=True)]
    return {name: torch.stack(column) for name, column in columns.items()}


def ppo_step(trainer: PPOTrainer, policy: SoftmaxPolicy, critic: nn.Module, rows: dict[str, Tensor], lr: float) -> None:
    """One step on a minibatch; the parameters of the twins are changed in place."""
    advantages, n = rows["advantages"], len(rows["old"])
    if trainer.normalize and n > 1:
        mean = sum(advantages.tolist()) / n
        spread = math.sqrt(sum((a - mean) ** 2 for a in advantages.tolist()) / (n - 1))
        advantages = torch.tensor([(a - mean) / (spread + 1e-8) for a in advantages.tolist()], dtype=F64)
    log_rows = torch.log_softmax(policy.preferences(rows["states"]), -1)
    loss = torch.zeros((), dtype=F64)
    for i in range(n):
        log_ratio = log_rows[i, int(rows["actions"][i])] - rows["old"][i]
        loss = loss - clipped_term(log_ratio, float(advantages[i]), *trainer.clip) / n
        loss = loss + trainer.value_weight * (rows["targets"][i] - critic(rows["states"][i])[0]) ** 2 / 2 / n
        loss = loss - trainer.entropy_weight * entropy_of(log_rows[i]) / n
    parameters = [*policy.parameters(), *critic.parameters()]
    slopes = torch.autograd.grad(loss, parameters)
    norm = math.sqrt(sum(float(s.square().sum()) for s in slopes))
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.sub_(lr * min(1.0, trainer.max_norm / (norm + 1e-6)) * slope)  # the 1e-6 is that of torch


PPO_BRANCHES: list[dict[str, Any]] = [
    {"max_norm": math.inf},
    {"normalize": False, "clip": (0.1, 0.3), "n_epochs": 3, "n_minibatches": 1, "value_weight": 2.0},
    {"entropy_weight": 0.3, "lam": 0.6, "n_epochs": 2, "n_minibatches": 5, "max_norm": 0.2},
    {"n_steps": 1, "n_minibatches": 3, "n_epochs": 1, "max_norm": 5.0},  # every minibatch is one step
]


@pytest.mark.equation("eq-ppo-loss", "eq-ppo-clip", "eq-ppo-total", "eq-gae")
@pytest.mark.parametrize("branch", PPO_BRANCHES, ids=str)
def test_an_update_of_ppo_is_its_minibatch_steps_written_out(
    branch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, critic, lr = pushing_one_way(), nn.Linear(4, 1, dtype=F64), 0.5
    critic.weight.data = randn(1, 4, seed=2)
    sgd, generator = torch.optim.SGD([*policy.parameters(), *critic.parameters()], lr=lr), seeded()
    options = {"n_steps": 25, **branch}
    trainer = PPOTrainer(policy, critic, cartpole(3), 0.9, optimizer=sgd, generator=generator, **options)
    after: list[Tensor] = []
    original = PPO.sample_rollout
    rollouts: list[Any] = []

    def sample(*args: Any, **named: Any) -> Any:
        rollouts.append(original(*args, **named))
        after.append(generator.get_state())
        return rollouts[-1]

    monkeypatch.setattr(PPO, "sample_rollout", sample)
    steps, underway = 0, [0.0] * 3
    for k in range(2):
        old_policy, old_critic = copy.deepcopy((policy, critic))
        record = trainer.update()
        rollout = rollouts[k]
        rows = ppo_rows(trainer, old_critic, old_policy, rollout)
        n, order = len(rows["old"]), torch.Generator()
        order.set_state(after[k])
        for _ in range(trainer.n_epochs):
            shuffled = torch.randperm(n, generator=order).tolist()
            size = math.ceil(n / trainer.n_minibatches)
            for i in range(0, n, size):
                some = torch.tensor(shuffled[i : i + size])
                ppo_step(trainer, old_policy, old_critic, {name: x[some] for name, x in rows.items()}, lr)
        twins = [*old_policy.parameters(), *old_critic.parameters()]
        for mine, twin in zip([*policy.parameters(), *critic.parameters()], twins, strict=True):
            torch.testing.assert_close(mine.detach(), twin.detach(), atol=1e-9, rtol=1e-7)
        with torch.no_grad():
            new = torch.log_softmax(old_policy.preferences(rows["states"]), -1)[range(n), rows["actions"]]
        ratios, (low, high) = [math.exp(x) for x in (new - rows["old"]).tolist()], trainer.clip
        steps += n
        assert record.steps == steps
        assert record.clipped == pytest.approx(sum(r < 1 - low or r > 1 + high for r in ratios) / n)
        assert record.kl == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / n, rel=1e-6)
        totals = []
        for i in range(3):
            for t in range(trainer.n_steps):
                underway[i] += float(rollout.rewards[i, t])
                if rollout.terminated[i, t] or rollout.truncated[i, t]:
                    totals.append(underway[i])
                    underway[i] = 0.0
        if totals:
            assert record.total_reward == pytest.approx(sum(totals) / len(totals))
        else:
            assert math.isnan(record.total_reward)
        if trainer.n_steps > 1:
            assert rollout.terminated.any()
            assert rollout.truncated.any()
