"""Monte Carlo values against the textbook's loops, the exact values and all trajectories."""

import chance
import numpy as np
import pytest
import torch
from helpers import seeded

from pgtheory import gallery
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.trajectories import Trajectories, enumerate_trajectories, sample_trajectories
from pgtheory.value_functions import (
    monte_carlo_values,
    state_values,
)


def loop_monte_carlo(trajectories: Trajectories, gamma: float, n_states: int, visit: str) -> tuple[list[float], ...]:
    """Sutton and Barto's algorithm (section 5.1) by loops: mean, standard error, counts."""
    per_episode: list[dict[int, list[float]]] = []
    for n in range(len(trajectories.states)):
        T, G, returns = int(trajectories.mask[n].sum()), 0.0, {}
        for t in reversed(range(T)):
            G = float(trajectories.rewards[n, t]) + gamma * G
            s = int(trajectories.states[n, t])
            returns[s] = [G] if visit == "first" else [*returns.get(s, []), G]
        per_episode.append(returns)
    means, errors, counts = [], [], []
    for s in range(n_states):
        groups = [episode[s] for episode in per_episode if s in episode]
        count = sum(len(g) for g in groups)
        mean = sum(sum(g) for g in groups) / count if count else float("nan")
        z = [sum(x - mean for x in g) for g in groups]
        n = len(groups)
        error = (n / (n - 1) * sum(x * x for x in z)) ** 0.5 / count if n > 1 else float("nan")
        means.append(mean)
        errors.append(error)
        counts.append(count)
    return means, errors, counts


class TestMonteCarlo:
    @pytest.mark.parametrize("visit", ["first", "every"])
    def test_it_is_the_textbook_loop(self, visit: str) -> None:
        mdp = gallery.garnet(6, 2, 3, stop_probability=0.3, seed=2)
        episodes = sample_trajectories(mdp, equiprobable_policy(mdp), 40, horizon=100, generator=seeded())
        found = monte_carlo_values(episodes, 0.9, n_states=8, visit=visit)  # type: ignore[arg-type]
        for ours, theirs in zip(found, loop_monte_carlo(episodes, 0.9, 8, visit), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        assert found.mean[7].isnan()
        assert found.counts[7] == 0

    def test_first_visit_error_is_the_standard_deviation_over_root_n(self) -> None:
        mdp = gallery.random_walk()
        episodes = sample_trajectories(mdp, equiprobable_policy(mdp), 50, horizon=400, generator=seeded())
        found = monte_carlo_values(episodes, 1.0, n_states=7)
        starts_at_3 = episodes.rewards.sum(-1)  # the first visit to 3 is S_0, so its return is the whole return
        assert found.counts[3] == 50
        assert found.standard_error[3].item() == pytest.approx(starts_at_3.std().item() / 50**0.5)

    @pytest.mark.parametrize("visit", ["first", "every"])
    def test_estimates_lie_around_the_exact_values(self, visit: str) -> None:
        mdp = gallery.random_walk()
        policy = equiprobable_policy(mdp)
        episodes = sample_trajectories(mdp, policy, 20_000, horizon=500, generator=seeded())
        found = monte_carlo_values(episodes, 1.0, n_states=7, visit=visit)  # type: ignore[arg-type]
        z = (found.mean - state_values(mdp, policy, 1.0))[1:6] / found.standard_error[1:6]
        assert z.abs().max() < chance.most_errors(2 * 5)

    def test_every_visit_error_does_not_treat_visits_as_independent(self) -> None:
        # spread of the estimate over 400 batches against its stated error; visits as units would state half as much
        mdp = gallery.random_walk()
        policy = equiprobable_policy(mdp)
        means, errors = [], []
        for seed in range(400):
            episodes = sample_trajectories(mdp, policy, 100, horizon=400, generator=seeded(seed))
            found = monte_carlo_values(episodes, 1.0, n_states=7, visit="every")
            means.append(found.mean[3])
            errors.append(found.standard_error[3])
        ratio = torch.stack(errors).mean() / torch.stack(means).std()
        # a standard deviation from 400 draws has a relative error of 1/√800 = 3.5 %
        assert abs(ratio - 1) < chance.most_errors(1) / 800**0.5

    @pytest.mark.equation("prop-monte-carlo")
    def test_first_visit_is_unbiased_and_every_visit_is_not(self) -> None:
        # One state that stays with probability 1/2, reward 1 per step, γ = 1: v = 2. One episode of length L gives
        # the first-visit estimate L and the every-visit estimate (L + 1)/2, of mean E[(L + 1)/2] = 1.5.
        mdp = FiniteMDP.from_outcomes(
            [(0, 0, 0, 1.0, 0.5), (0, 0, 1, 1.0, 0.5)], n_states=2, n_actions=1, initial=0, terminal=[1]
        )
        trajectories, probability = enumerate_trajectories(mdp, torch.ones(2, 1, dtype=torch.float64), horizon=50)
        ended = trajectories.terminated
        means: dict[str, float] = dict.fromkeys(("first", "every"), 0.0)
        for n in ended.nonzero()[:, 0].tolist():
            one = Trajectories(*(x[n : n + 1] for x in trajectories))
            for visit in means:
                found = monte_carlo_values(one, 1.0, n_states=2, visit=visit)  # type: ignore[arg-type]
                means[visit] += float(probability[n] * found.mean[0])
        assert probability[~ended].sum() < 1e-14
        assert means["first"] == pytest.approx(2.0, abs=1e-10)
        assert means["every"] == pytest.approx(1.5, abs=1e-10)

    def test_padding_is_not_read(self) -> None:
        mdp = gallery.random_walk()
        episodes = sample_trajectories(mdp, equiprobable_policy(mdp), 20, horizon=300, generator=seeded())
        holed = episodes._replace(rewards=torch.where(episodes.mask, episodes.rewards, torch.nan))
        for ours, theirs in zip(
            monte_carlo_values(holed, 0.9, n_states=7), monte_carlo_values(episodes, 0.9, n_states=7), strict=True
        ):
            torch.testing.assert_close(ours, theirs, equal_nan=True)
