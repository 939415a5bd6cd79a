"""Bad input for every public callable: a valid call of each, and what to put in the place of each argument.

`CALLS` has the valid call, its canon. The kind of each argument, `KINDS`, generates the values that take its place:
bad ones, and legitimate ones with a check of the answer, for which `SPECIAL` has the exceptions of single arguments.
"""

import inspect
import math
import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import gymnasium
import numpy as np
import torch
from bad_values import (
    HUGE,
    Check,
    Value,
    alike,
    choice,
    clip,
    count,
    device,
    dtype,
    environments,
    finite,
    flag,
    floats,
    function,
    generator,
    indices,
    mask,
    mdp,
    names,
    no_nan,
    numbers,
    optimizer,
    optional,
    policy_object,
    real,
    same,
    same_zeros,
    start,
    states_of,
    table,
    trajectories,
    wrong_types,
)
from gymnasium.vector import SyncVectorEnv
from helpers import F64, seeded
from torch import Tensor, nn

import pgtheory as pg

# ---- The valid calls ----

TOY = pg.two_state_toy()
BANDIT = pg.bandit([1.0, 0.0])
POLICY = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]], dtype=F64)
PREFERENCES = torch.tensor([[0.0, 1.0], [0.5, -0.5], [0.0, 0.25]], dtype=F64)
OF_BANDIT = PREFERENCES[:2]
ONES = torch.ones(2, 3, dtype=F64)
STEPS = torch.tensor([[-0.5, -1.0, -0.25], [-2.0, -0.75, -0.5]], dtype=F64)
OTHERS = STEPS.flip(0)
MASK = torch.tensor([[True, True, True], [True, True, False]])
ENDS = torch.tensor([[False, False, True], [False, True, False]])
LOGITS = torch.tensor([[0.0, 1.0, 2.0], [1.5, 0.5, 0.25]], dtype=F64)
AVAILABLE = torch.tensor([[True, True], [True, True], [True, True]])
EPISODES = pg.sample_trajectories(TOY, POLICY, 4, horizon=200, generator=seeded())
LOW = pg.FiniteMDP.from_outcomes(
    [(0, 0, 1, 1.0, 1.0), (0, 1, 1, 0.0, 1.0)], n_states=2, n_actions=2, initial=0, terminal=[1]
)


def tabular() -> pg.TabularPolicy:
    return pg.TabularPolicy.from_preferences(PREFERENCES)


def ascending(policy: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(policy.parameters(), lr=0.1, maximize=True)


def descending(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr=0.1)


def observing() -> pg.NeuralPolicy:
    return pg.NeuralPolicy(4, 2, hidden=(3,), generator=seeded())


@cache
def carts() -> Any:
    return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)


@cache
def rollout() -> pg.Rollout:
    return pg.sample_rollout(carts(), observing(), n_steps=2, generator=seeded())


class Squared(pg.SoftmaxPolicy):
    """A policy of somebody else's making."""

    def preferences(self, states: Tensor) -> Tensor:
        return torch.stack([states.double(), -states.double()], -1)


def group_loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, /, *, mask: Tensor) -> Tensor:
    return -(rewards.unsqueeze(-1) * log_probs * mask).sum(-1).mean()


def small_gpt() -> pg.TinyGPT:
    return pg.TinyGPT(3, context_length=4, width=2, n_layers=1, n_heads=1, generator=seeded(), dtype=F64)


def lengths(completions: pg.Completions) -> Tensor:
    return completions.lengths


def trainer(**arguments: Any) -> pg.Trainer:
    policy = tabular()
    options = {"optimizer": descending(policy), "horizon": 50, "batch_size": 2, "generator": seeded()} | arguments
    return pg.Trainer(policy, TOY, 0.5, **options)


def ppo() -> pg.PPOTrainer:
    policy, critic = observing(), nn.Linear(4, 1)
    return pg.PPOTrainer(
        policy, critic, carts(), 0.5, optimizer=descending(policy, critic), n_steps=2, generator=seeded()
    )


Call = tuple[Callable[..., Any], dict[str, Any]]
CALLS: dict[str, Callable[[], Call]] = {}


def call(name: str, function: Callable[..., Any] | None = None, **arguments: Any) -> None:
    CALLS[name] = lambda: (function or getattr(pg, name), dict(arguments))


def fresh(name: str) -> Callable[[Callable[[], Call]], None]:
    """A call whose arguments it changes: they are made anew each time."""

    def note(make: Callable[[], Call]) -> None:
        CALLS[name] = make

    return note


GYM = {"name": "gridworld"}
START = {"initial": [0.5, 0.5], "terminal": [False, True]}
NAMES = {"state_names": ("start", "end"), "action_names": ("left", "right")}
P = torch.tensor([[[0.25, 0.75], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=F64)
ROWS = [(0, 0, 1, 1.0, 0.25), (0, 0, 0, 0.0, 0.75), (0, 1, 1, 0.0, 1.0)]
call("FiniteMDP.from_outcomes", pg.FiniteMDP.from_outcomes, outcomes=ROWS, n_states=2, n_actions=2, **START, **NAMES)
call("FiniteMDP.from_table", pg.FiniteMDP.from_table, p=P.unsqueeze(-1), rewards=[1.0], **START, **NAMES)
call("FiniteMDP.from_transitions", pg.FiniteMDP.from_transitions, P=P, r=torch.ones(2, 2, dtype=F64), **START, **NAMES)
call("FiniteMDP.from_gymnasium", pg.FiniteMDP.from_gymnasium, env="FrozenLake-v1", initial=None)
call("FiniteMDP", **{f: getattr(TOY, f) for f in inspect.signature(pg.FiniteMDP).parameters})
call("FiniteMDP.to", TOY.to, dtype=torch.float64, device=torch.device("cpu"))
call("FiniteMDP.dynamics", TOY.dynamics)
call("FiniteMDP.transitions", TOY.transitions)
call("FiniteMDP.expected_rewards", TOY.expected_rewards)
call("FiniteMDP.to_gymnasium", TOY.to_gymnasium, horizon=2)
call("check_policy", mdp=TOY, policy=POLICY)
call("equiprobable_policy", mdp=TOY)

call("bandit", means=[1.0, 0.5], spread=0.5, dtype=F64)
call("correlated_rewards", correlation=0.5, dtype=F64)
call("gamblers_problem", p_heads=0.5, goal=4, zero_stake=False, dtype=F64)
SEEDED = {"seed": 0, "generator": None, "dtype": F64}
fresh("garnet")(
    lambda: (
        pg.garnet,
        {
            "n_states": 3,
            "n_actions": 2,
            "branching": 2,
            "stop_probability": 0.5,
            "seed": 0,
            "generator": None,
            "dtype": F64,
        },
    )
)
for name in ("gridworld", "gridworld_4x4", "short_corridor", "student_chain", "student_mdp", "trap", "two_state_toy"):
    call(name, dtype=F64)
call("random_walk", n=3, r_left=0.0, r_right=0.5, dtype=F64)
call("recycling_robot", alpha=0.5, beta=0.5, r_search=2.0, r_wait=1.0, r_rescue=-3.0, dtype=F64)
call("token_sequences", n_tokens=2, length=2, eos=1, n_prompts=1)
TREE = {"eos": 1, "n_prompts": 2, "dtype": F64}
call(
    "token_tree",
    n_tokens=2,
    length=2,
    **TREE,
    reward=torch.arange(6, dtype=F64),
    initial=[0.5, 0.5],
    seed=0,
    words=("a", "b"),
)
call(
    "token_tree of random rewards",
    pg.token_tree,
    n_tokens=2,
    length=2,
    **TREE,
    reward=None,
    initial=None,
    seed=0,
    words=None,
)
for name in ("tiny_language", "tiny_language_model"):
    call(name, length=2, dtype=F64)
call("two_answer_lengths", length=3, rewards=(1.0, 1.0, 0.0), dtype=F64)

call("at_steps", table=POLICY, trajectories=EPISODES)
call("enumerate_trajectories", mdp=TOY, policy=POLICY, horizon=2)
fresh("sample_trajectories")(
    lambda: (pg.sample_trajectories, {"mdp": TOY, "policy": POLICY, "n": 2, "horizon": 2, "generator": seeded()})
)
call("trajectory_probabilities", mdp=TOY, policy=POLICY, trajectories=EPISODES)

call("discount_factors", gamma=0.5, horizon=3, dtype=F64, device=torch.device("cpu"))
call("return_matrix", gamma=0.5, horizon=3, dtype=F64, device=torch.device("cpu"))
call("discount_from_rate", rate=0.25)
call("discounted_return", rewards=STEPS, gamma=0.5, mask=MASK)
call("returns_to_go", rewards=STEPS, gamma=0.5, mask=MASK)
call("effective_horizon", gamma=0.5)
call("sequence_level_rewards", scores=STEPS[:, 0], mask=MASK)

for name in ("action_values", "advantages", "state_values", "performance", "discounted_visitation"):
    call(name, mdp=TOY, policy=POLICY, gamma=0.5)
VALUES = torch.tensor([1.0, 0.5, 0.0], dtype=F64)
call("bellman_expectation", mdp=TOY, policy=POLICY, values=VALUES, gamma=0.5)
for name in ("bellman_optimality", "greedy_policy", "one_step_lookahead"):
    call(name, mdp=TOY, values=VALUES, gamma=0.5)
call("finite_horizon_values", mdp=TOY, policy=POLICY, gamma=0.5, horizon=2)
call("finite_horizon_optimal_values", mdp=TOY, gamma=0.5, horizon=2)
call("monte_carlo_values", trajectories=EPISODES, gamma=0.5, n_states=3, visit="every")
call("optimal_policy", mdp=TOY, gamma=0.5)
call("optimal_values", mdp=TOY, gamma=0.5)
call("solve_bellman", mdp=TOY, policy=POLICY, gamma=0.5, right_hand_side=VALUES, transpose=False)

for name in ("softmax_policy", "log_softmax_policy", "entropy", "fisher_information"):
    call(name, preferences=PREFERENCES, available=AVAILABLE)
ACTIONS = torch.tensor([0, 1, 0])
FEATURES = torch.arange(12, dtype=F64).view(3, 2, 2) / 8
call("score", preferences=PREFERENCES, actions=ACTIONS, available=AVAILABLE)
call("linear_score", features=FEATURES, preferences=PREFERENCES, actions=ACTIONS, available=AVAILABLE)
for name in ("gaussian_log_prob", "gaussian_score"):
    call(name, mean=POLICY, log_std=POLICY, actions=PREFERENCES)
MADE = {"available": AVAILABLE, "generator": None, "dtype": F64, "device": torch.device("cpu")}
call("SoftmaxPolicy", Squared, n_states=3, n_actions=2, available=AVAILABLE, device=torch.device("cpu"))
call("TabularPolicy", n_states=3, n_actions=2, init_std=0.0, **MADE)
call("TabularPolicy.from_preferences", pg.TabularPolicy.from_preferences, preferences=PREFERENCES, available=AVAILABLE)
call("LinearPolicy", features=FEATURES, init_std=0.0, **MADE)
fresh("NeuralPolicy")(
    lambda: (
        pg.NeuralPolicy,
        {
            "n_inputs": 2,
            "n_actions": 2,
            "features": POLICY,
            "hidden": (3,),
            "output_scale": 0.5,
            **MADE,
            "generator": seeded(),
        },
    )
)
STATES = torch.tensor([0, 2, 1])
OBSERVED = pg.NeuralPolicy(2, 2, hidden=(3,), generator=seeded(), dtype=F64)
MODELS: dict[str, tuple[pg.SoftmaxPolicy, Tensor]] = {
    "SoftmaxPolicy": (Squared(3, 2), STATES),
    "TabularPolicy": (tabular(), STATES),
    "LinearPolicy": (pg.LinearPolicy(FEATURES), STATES),
    "NeuralPolicy": (pg.NeuralPolicy(2, 2, features=POLICY, hidden=(3,), generator=seeded()), STATES),
    "NeuralPolicy of observations": (OBSERVED, POLICY),
}
for name, (model, states) in MODELS.items():
    call(f"{name}.log_probs", model.log_probs, states=states, available=AVAILABLE)
    call(f"{name}.probabilities", model.probabilities, states=states, available=AVAILABLE)
    call(f"{name}.preferences", model.preferences, states=states)
    call(f"{name}.forward", model.forward, states=states)
    CALLS[f"{name}.sample"] = lambda model=model, states=states: (  # type: ignore[misc]
        model.sample,
        {"states": states, "available": AVAILABLE, "generator": seeded()},
    )
call("SoftmaxPolicy.available_in", pg.TabularPolicy(3, 2, available=AVAILABLE).available_in, states=STATES)
call("SoftmaxPolicy.table", tabular().table)

call("greedy", logits=LOGITS)
call("temperature", logits=LOGITS, tau=0.5)
call("top_k", logits=LOGITS, k=2)
call("top_p", logits=LOGITS, p=0.5)
call("min_p", logits=LOGITS, p=0.5)
FILTERS = {"temperature": 0.5, "top_k": 2, "top_p": 0.5, "min_p": 0.5}
call("decoding_logits", logits=LOGITS, **FILTERS)
call("decoding_distribution", logits=LOGITS, **FILTERS)
call("decoded_policy", policy=POLICY, **FILTERS)
call("inverse_cdf", logits=LOGITS, uniforms=torch.tensor([0.25, 0.75], dtype=F64))
fresh("decode")(lambda: (pg.decode, dict(logits=LOGITS, **FILTERS, generator=seeded())))
fresh("sample")(lambda: (pg.sample, {"logits": LOGITS, "generator": seeded()}))
fresh("gumbel_max")(lambda: (pg.gumbel_max, {"logits": LOGITS, "generator": seeded()}))
call("beam_search", mdp=LOW, policy=POLICY[:2], width=2, horizon=1, start=0)

for name in ("exact_policy_gradient", "natural_policy_gradient"):
    extra = {"discount_states": True} if name[0] == "e" else {}
    call(name, mdp=TOY, preferences=PREFERENCES, gamma=0.5, **extra)
call("exact_parameter_gradient", mdp=TOY, policy=tabular(), gamma=0.5, discount_states=True)
ONE = {"mdp": BANDIT, "preferences": OF_BANDIT, "gamma": 0.5, "horizon": 1}
BEHAVIOR = torch.full((2, 2), 0.5, dtype=F64)
for name in ("expected_gradient", "gradient_covariance"):
    call(name, loss=pg.reinforce_loss, **ONE, batch_size=2, behavior=BEHAVIOR)
call("gradient_routes", **ONE)
call("likelihood_ratio_gradient", **ONE)


@fresh("gradient_ascent")
def _() -> Call:
    policy = tabular()
    return pg.gradient_ascent, {
        "mdp": TOY,
        "policy": policy,
        "gamma": 0.5,
        "optimizer": ascending(policy),
        "n_steps": 1,
    }


call("bias_ledger", **ONE, batch_size=2, limit=1, top_p=0.75)
call("reinforce_loss", log_probs=STEPS, rewards=OTHERS, gamma=0.5, mask=MASK, baseline=ONES, discount_states=True)
call("full_return_loss", log_probs=STEPS, rewards=OTHERS, gamma=0.5, mask=MASK, baseline=0.5)
call("value_loss", values=STEPS, rewards=OTHERS, gamma=0.5, mask=MASK)
call("entropy_bonus", entropies=-STEPS, gamma=0.5, mask=MASK, discount_states=True)
call("leave_one_out_baseline", returns=STEPS, mask=MASK, running_only=False)
call("optimal_baseline", preferences=PREFERENCES, action_values=POLICY, available=AVAILABLE)
call(
    "bootstrapped_rewards",
    rewards=STEPS,
    final_values=STEPS[:, 0],
    gamma=0.5,
    mask=MASK,
    truncated=torch.tensor([True, True]),
)

RATIO = {"log_probs": STEPS, "old_log_probs": OTHERS}
call("clipped_surrogate", **RATIO, advantages=ONES, clip=0.25)
call("effective_sample_size", weights=-STEPS)
call("importance_ratios", **RATIO, level="prefix", mask=MASK)
call("kl_estimate", log_probs=STEPS, ref_log_probs=OTHERS, kind="k3", mask=MASK)
call("masked_mean", values=STEPS, mask=MASK, dim=1)
call("off_policy_loss", **RATIO, rewards=ONES, gamma=0.5, mask=MASK)
call("ppo_clip_loss", **RATIO, advantages=ONES, clip=0.25, mask=MASK, average="steps")
for name in ("performance_difference", "surrogate_objective", "trust_region_bound"):
    call(name, mdp=TOY, policy=POLICY, old_policy=POLICY.flip(1), gamma=0.5)
call("generalized_advantage_moments", mdp=TOY, policy=POLICY, values=VALUES, gamma=0.5, lam=0.5)
call(
    "generalized_advantages",
    rewards=STEPS,
    values=OTHERS,
    next_values=ONES,
    gamma=0.5,
    lam=0.5,
    terminated=ENDS,
    truncated=~ENDS & False,
    mask=MASK,
)

GROUP = {"scale": "std", "baseline": "mean", "ddof": 1, "eps": 0.25}
call("group_advantages", rewards=STEPS, **GROUP)
call("difficulty_weight", success=torch.tensor([0.25, 0.5], dtype=F64), size=2, **GROUP)
SMALL = {"mdp": BANDIT, "preferences": OF_BANDIT, "horizon": 1, "size": 2}
call("expected_group_gradient", loss=group_loss, **SMALL, ordered=False)
call("group_bias_ledger", **SMALL, losses={"mine": group_loss})
call("group_loss_variants")
CHANCES = torch.tensor([[0.25, 0.75], [0.0, 0.0]], dtype=F64)
call(
    "off_policy_ledger",
    **SMALL,
    sampler=CHANCES,
    old_policy=CHANCES.flip(1),
    gamma=0.5,
    losses={"mine": lambda group: -(group.rewards * group.log_probs).sum()},
)
call("off_policy_losses", cap=2.0)
call(
    "bounded_importance_weights",
    log_probs=STEPS,
    sampler_log_probs=OTHERS,
    mask=MASK,
    cap=2.0,
    level="step",
    beyond="drop",
)
call("loss_variants")
TOKENS = STEPS.view(1, 2, 3)
call(
    "grpo_loss",
    log_probs=TOKENS,
    old_log_probs=TOKENS.flip(1),
    rewards=torch.tensor([[0.0, 1.0]], dtype=F64),
    mask=MASK.view(1, 2, 3),
    variant="grpo",
    clip=0.25,
    ref_log_probs=TOKENS.flip(2),
    beta=0.5,
)
call("token_log_probs", logits=LOGITS, tokens=torch.tensor([0, 2]))
call("projected_token_log_probs", hidden=LOGITS, weight=LOGITS, tokens=torch.tensor([0, 1]))


@fresh("reinforce_runs")
def _() -> Call:
    runs = {"step_size": 0.5, "n_episodes": 2, "horizon": 50, "baseline_step_size": 0.5, "update": "step"}
    start = torch.zeros(2, 2, dtype=F64)
    return pg.reinforce_runs, dict(mdp=TOY, features=FEATURES, parameters=start, gamma=0.5, **runs, generator=seeded())


@fresh("surrogate_runs")
def _() -> Call:
    runs: dict[str, Any] = {
        "n_updates": 1,
        "n_episodes": 2,
        "horizon": 4,
        "step_size": 0.5,
        "n_epochs": 1,
        "clip": 0.25,
    }
    runs |= {"lam": 0.5, "critic_step_size": 0.5, "generator": seeded()}
    return pg.surrogate_runs, dict(mdp=TOY, preferences=PREFERENCES.unsqueeze(0), gamma=0.5, **runs)


@fresh("Trainer")
def _() -> Call:
    policy = tabular()
    options: dict[str, Any] = {
        "horizon": 5,
        "batch_size": 2,
        "baseline": 0.5,
        "entropy_weight": 0.5,
        "bootstrap": False,
    }
    options |= {"discount_states": True, "exact": True, "generator": seeded(), "optimizer": descending(policy)}
    return pg.Trainer, dict(policy=policy, source=TOY, gamma=0.5, **options)


@fresh("PPOTrainer")
def _() -> Call:
    policy, critic = observing(), nn.Linear(4, 1)
    options: dict[str, Any] = {
        "n_steps": 2,
        "lam": 0.5,
        "clip": 0.25,
        "n_epochs": 1,
        "n_minibatches": 1,
        "normalize": True,
    }
    options |= {"value_weight": 0.5, "entropy_weight": 0.5, "max_norm": 0.5, "generator": seeded()}
    options |= {"optimizer": descending(policy, critic)}
    return pg.PPOTrainer, dict(policy=policy, critic=critic, envs=carts(), gamma=0.5, **options)


fresh("Trainer.run")(lambda: (trainer().run, {"n_updates": 1, "progress": False}))
fresh("Trainer.update")(lambda: (trainer().update, {}))
fresh("Trainer.state_dict")(lambda: (trainer().state_dict, {}))
fresh("PPOTrainer.run")(lambda: (ppo().run, {"n_updates": 1}))
fresh("PPOTrainer.update")(lambda: (ppo().update, {}))
fresh("sample_episodes")(
    lambda: (pg.sample_episodes, {"envs": carts(), "policy": observing(), "horizon": 2, "generator": seeded()})
)
fresh("sample_rollout")(
    lambda: (
        pg.sample_rollout,
        {"envs": carts(), "policy": observing(), "n_steps": 2, "after": rollout(), "generator": seeded()},
    )
)


TWO = torch.tensor([1, 2])
MODEL, SAMPLING = small_gpt(), {"temperature": 0.5, "top_k": 2, "top_p": 0.5}
DRAWN = pg.sample_completions(MODEL, [TWO], 2, max_tokens=2, end=0, generator=seeded())
fresh("sample_completions")(
    lambda: (
        pg.sample_completions,
        {"model": MODEL, "prompts": [TWO], "size": 2, "max_tokens": 2, "end": 0, "generator": seeded(), **SAMPLING},
    )
)
for name in ("completion_log_probs", "completion_entropies"):
    call(name, model=MODEL, completions=DRAWN, batch_size=1, **SAMPLING)
call("completion_kl", model=MODEL, reference=MODEL, completions=DRAWN, temperature=0.5, batch_size=1)
call("enumerate_completions", model=MODEL, prompt=TWO, max_tokens=2, end=0, batch_size=1, **SAMPLING)
call("token_tree_logits", model=MODEL, prompts=[TWO], max_tokens=2, end=0, batch_size=1)
fresh("TinyGPT")(
    lambda: (
        pg.TinyGPT,
        {"vocab_size": 3, "context_length": 4, "width": 2, "n_layers": 1, "n_heads": 1}
        | {"generator": seeded(), "dtype": F64, "device": torch.device("cpu")},
    )
)
NO_PADDING = {"attention_mask": torch.ones(1, 2).long(), "position_ids": torch.tensor([[0, 1]])}
NO_CACHE = {"past_key_values": None, "use_cache": False, "logits_to_keep": 0}
call("TinyGPT.forward", MODEL.forward, input_ids=TWO[None], **NO_PADDING, **NO_CACHE)
fresh("pretrain")(
    lambda: (
        pg.pretrain,
        {"model": small_gpt(), "sequences": torch.tensor([[0, 1, 2]]), "n_steps": 2, "batch_size": 2}
        | {"prompt_length": 1, "learning_rate": 0.5, "generator": seeded()},
    )
)
fresh("sorting_prompts")(lambda: (pg.sorting_prompts, {"n": 2, "n_digits": 2, "generator": seeded()}))
call("sorting_sequences", prompts=torch.tensor([[3, 1, 10]]))
BRACKETS = DRAWN._replace(prompts=DRAWN.prompts * 0, tokens=DRAWN.tokens.clamp(max=1))
call("sorting_rewards", completions=DRAWN)
call("bracket_rewards", completions=BRACKETS)
call("is_balanced", tokens=torch.tensor([[0, 1], [1, 0]]))


@fresh("post_train")
def _() -> Call:
    decoding = {"max_tokens": 2, "end": 0, "temperature": 0.5, "top_k": 2, "top_p": 0.5}
    optimization = {"learning_rate": 0.5, "weight_decay": 0.5, "max_grad_norm": 0.5, "kl_weight": 0.5}
    amounts = {"steps": 1, "size": 2, "prompts_per_step": 1, "epochs": 1, "micro_batch": 1, "save_every": 1}
    kept = {"seed": 0, "checkpoint": None, "resume": False, "progress": False, "decode": None}
    arguments: dict[str, Any] = {"model": small_gpt(), "prompts": [torch.tensor([1, 2])], "reward": lengths}
    arguments |= {"reference": small_gpt(), "loss": group_loss, "clip": 0.25}
    return pg.post_train, arguments | decoding | optimization | amounts | kept


# ---- The kinds of the arguments, by their names ----

UNIT = partial(real, low=0.0, high=1.0)
NOT_NEGATIVE = partial(real, low=0.0)
FROM_0 = partial(count, least=0)


def but(kind: Callable[..., list[Value]], **legitimate: Check) -> Callable[..., list[Value]]:
    """The kind, of which some values are legitimate; `_` stands for a space in their labels, `m` for a minus."""
    checks = {label.replace("_", " ").replace("minus ", "-"): check for label, check in legitimate.items()}

    def values(x: Any) -> list[Value]:
        found = kind(x)
        assert checks.keys() <= {value.label for value in found}
        return [value._replace(check=checks[value.label]) if value.label in checks else value for value in found]

    return values


OTHER_LENGTH = {"longer": finite, "shorter": finite}
FREE = {**OTHER_LENGTH, "more_axes": no_nan, "other_floats": same}
LOGIT = but(floats, longer=no_nan, shorter=no_nan, more_axes=no_nan, other_floats=same, minus_inf=no_nan)

KINDS: dict[str, Callable[..., list[Value]]] = {
    **dict.fromkeys(["mdp"], mdp),
    **dict.fromkeys(["policy", "old_policy", "sampler"], table),
    **dict.fromkeys(["gamma", "lam", "alpha", "beta", "p_heads", "stop_probability"], UNIT),
    **dict.fromkeys(["eps", "tau", "temperature", "rate", "step_size", "init_std"], NOT_NEGATIVE),
    **dict.fromkeys(["output_scale", "value_weight", "critic_step_size", "baseline_step_size"], NOT_NEGATIVE),
    **dict.fromkeys(["learning_rate", "weight_decay", "kl_weight"], NOT_NEGATIVE),
    **dict.fromkeys(["r_left", "r_right", "r_search", "r_wait", "r_rescue", "entropy_weight"], real),
    **dict.fromkeys(["n", "horizon", "n_states", "n_actions", "n_steps", "n_updates", "n_episodes", "n_epochs"], count),
    **dict.fromkeys(
        ["n_minibatches", "n_inputs", "n_tokens", "n_prompts", "length", "size", "k", "branching", "width"], count
    ),
    **dict.fromkeys(["batch_size", "max_tokens", "steps", "epochs", "save_every"], count),
    **dict.fromkeys(["micro_batch", "prompts_per_step"], optional(count, alike)),
    **dict.fromkeys(["vocab_size", "context_length", "n_layers", "n_heads", "n_digits", "prompt_length"], count),
    **dict.fromkeys(["discount_states", "running_only", "transpose", "ordered", "zero_stake", "normalize"], flag),
    **dict.fromkeys(["bootstrap", "exact", "progress", "resume"], flag),
    **dict.fromkeys(["visit", "level", "beyond", "average", "kind", "scale", "variant", "update"], choice),
    **dict.fromkeys(
        ["log_probs", "old_log_probs", "sampler_log_probs", "ref_log_probs", "advantages", "rewards", "values"], floats
    ),
    **dict.fromkeys(["action_values", "right_hand_side", "final_values", "hidden", "weight", "features"], floats),
    **dict.fromkeys(["parameters", "returns", "entropies", "scores", "next_values"], floats),
    **dict.fromkeys(["preferences"], but(floats, minus_inf=no_nan)),
    **dict.fromkeys(["logits"], LOGIT),
    **dict.fromkeys(["actions", "tokens", "states"], indices),
    **dict.fromkeys(["mask", "available"], optional(mask, no_nan)),
    **dict.fromkeys(["terminated", "truncated"], mask),
    **dict.fromkeys(["trajectories"], trajectories),
    **dict.fromkeys(["generator"], generator),
    **dict.fromkeys(["dtype"], dtype),
    **dict.fromkeys(["device"], device),
    **dict.fromkeys(["clip"], clip),
    **dict.fromkeys(["loss"], function),
    **dict.fromkeys(["optimizer"], optimizer),
    **dict.fromkeys(["envs"], environments),
    **dict.fromkeys(["initial"], start),
    **dict.fromkeys(["terminal"], states_of),
    **dict.fromkeys(["state_names", "action_names", "words"], names),
    **dict.fromkeys(["goal"], partial(count, least=2)),
    **dict.fromkeys(["ddof"], FROM_0),
    **dict.fromkeys(["seed"], but(partial(count, least=-(10**30)), negative=alike)),
}


# ---- Single arguments that are of another kind than their names say, and what is legitimate there ----

SPECIAL: dict[tuple[str, str], Callable[..., list[Value]]] = {}


def special(name: str, **arguments: Callable[..., list[Value]]) -> None:
    SPECIAL.update({(name, argument): kind for argument, kind in arguments.items()})


def outcomes(x: Any) -> list[Value]:
    """Rows (s, a, s', r, p)."""
    columns = [torch.tensor(column, dtype=F64) for column in zip(*x, strict=True)]
    matrix = torch.stack(columns, 1)
    values: dict[str, Any] = {
        "number": 1.0,
        "empty": [],
        "numbers": [1.0, 2.0],
        "short row": [x[0][:4]],
        "texts": ["abcde"],
    }
    for label, bad in {"text": "1", "None": None, "complex": 1j, "nan": math.nan, "inf": math.inf, **HUGE}.items():
        values |= {f"{label} at {i}": [(*x[0][:i], bad, *x[0][i + 1 :]), *x[1:]] for i in range(5)}
    values |= {f"half at {i}": [(*x[0][:i], 0.5, *x[0][i + 1 :]), *x[1:]] for i in range(3)}
    values |= {f"negative at {i}": [(*x[0][:i], -1, *x[0][i + 1 :]), *x[1:]] for i in (0, 1, 2, 4)}
    values |= {f"large at {i}": [(*x[0][:i], 9, *x[0][i + 1 :]), *x[1:]] for i in (0, 1, 2, 4)}
    values |= {"columns": columns[:4], "uneven": [*columns[:4], columns[4][:1]], "scalars": [c[0] for c in columns]}
    values |= {"complex": matrix * 1j, "meta": matrix.to("meta"), "sparse": matrix.to_sparse(), "vector": matrix[0]}
    values |= {"complex column": [*columns[:4], columns[4] * 1j], "meta column": [*columns[:4], columns[4].to("meta")]}
    values |= {
        "float8": matrix.to(torch.float8_e4m3fn),
        "flags": matrix > 0,
        "texts in an array": np.array([["0"] * 5]),
    }
    found = wrong_types() + [Value(label, value) for label, value in values.items()]
    equal = {
        "iterator": iter(x),
        "matrix": matrix,
        "columns of tensors": columns,
        "array": matrix.numpy(),
        "lists": [*map(list, x)],
    }
    return found + [Value(label, value, same) for label, value in equal.items()]


def stored_outcomes(x: Any) -> list[Value]:
    values: dict[str, Any] = {"tuple": tuple(x), "list": list(x)}
    for name in x._fields:
        column = getattr(x, name)
        values |= {f"{name} None": x._replace(**{name: None}), f"{name} short": x._replace(**{name: column[:-1]})}
        values |= {
            f"{name} complex": x._replace(**{name: column * 1j}),
            f"{name} meta": x._replace(**{name: column.to("meta")}),
        }
    values |= {"probability integers": x._replace(probability=x.state), "state floats": x._replace(state=x.probability)}
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def environment(_: Any) -> list[Value]:
    values: dict[str, Any] = {
        "unknown": "Nonsense-v9",
        "number": 1,
        "no table": "CartPole-v1",
        "vector": carts(),
        "list": [],
    }
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def reward_of_tokens(x: Tensor) -> list[Value]:
    found = [value for value in floats(x) if value.label not in ("strided", "other floats", "int64", "int32", "uint8")]
    found = [value._replace(check=finite) if value.label == "None" else value for value in found]
    for label, bad in {"None": None, "text": "1", "nan": math.nan, "inf": math.inf, "complex": 1j, **HUGE}.items():
        found.append(Value(f"gives {label}", lambda *_, bad=bad: bad))
    place = {(0, (1,)): 0, (0, (0, 0)): 1, (0, (0, 1)): 2, (1, (1,)): 3, (1, (0, 0)): 4, (1, (0, 1)): 5}
    return [*found, Value("function", lambda prompt, tokens: place[prompt, tokens], same)]


def widths(_: Any) -> list[Value]:
    values: dict[str, Any] = {
        "number": 3,
        "zero": (0,),
        "negative": (-3,),
        "floats": (3.0,),
        "texts": ("3",),
        "flags": (True,),
    }
    values |= {"None inside": (None,), "huge": (10**400,), "nested": ((3,),)}
    found = wrong_types("dict") + [Value(label, value) for label, value in values.items()]
    return [*found, Value("none", (), finite), Value("list", [3], same)]


def axis(_: Any) -> list[Value]:
    values: dict[str, Any] = {"beyond": 2, "before": -3, "float": 1.0, "flag": True, "list": [1], **HUGE}
    found = [value._replace(check=finite) if value.label == "None" else value for value in wrong_types()]
    return [*found, *(Value(label, value) for label, value in values.items()), Value("from the end", -1, same)]


def baseline_of_trainer(_: Any) -> list[Value]:
    values: dict[str, Any] = {"unknown": "mean", "empty": "", "flag": True, "tensor": torch.tensor(0.5), "list": [0.5]}
    values |= {"nan": math.nan, "inf": math.inf, "function": len, **HUGE}
    found = [value._replace(check=alike) if value.label == "None" else value for value in wrong_types()]
    found += [Value(label, value) for label, value in values.items()]
    return [*found, Value("module", nn.Embedding(3, 1, dtype=F64), alike), Value("name", "leave_one_out", alike)]


def baseline(x: Tensor) -> list[Value]:
    found = floats(x) if isinstance(x, Tensor) else real(x)
    return [value._replace(check=finite) if value.label in ("None", "number", "scalar") else value for value in found]


def unchecked(_: Any) -> list[Value]:
    return []


def critic(x: nn.Module) -> list[Value]:
    values: dict[str, Any] = {"function": x.forward, "list": [x], "number": 0.5, "parameters": list(x.parameters())}
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def source(x: Any) -> list[Value]:
    return [*mdp(x), Value("name", "CartPole-v1"), Value("single", carts().envs[0]), Value("vector", carts())]


def last_rollout(x: Any) -> list[Value]:
    values: dict[str, Any] = {"tuple": tuple(x), "rows": pg.Rollout(*(column[:1] for column in x)), "number": 1}
    values |= {"texts": x._replace(next_states="x"), "None inside": x._replace(terminated=None)}
    found = [value._replace(check=alike) if value.label == "None" else value for value in wrong_types()]
    return found + [Value(label, value) for label, value in values.items()]


def losses(x: Any) -> list[Value]:
    values: dict[str, Any] = {
        "list": [group_loss],
        "function": group_loss,
        "None inside": {"mine": None},
        "number": {"a": 1},
    }
    found = [value._replace(check=alike_or_more) if value.label == "None" else value for value in wrong_types("dict")]
    found += [Value(f"its {value.label}", {"mine": value.value}) for value in function(group_loss)]
    return [*found, *(Value(label, value) for label, value in values.items()), Value("none", {}, no_nan)]


def language_model(x: Any) -> list[Value]:
    values: dict[str, Any] = {"function": x.forward, "frozen": small_gpt().requires_grad_(False), "list": [x]}
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def reference_model(_: Any) -> list[Value]:
    """None is refused here, where the weight of the penalty is positive and the model has no adapters."""
    values: dict[str, Any] = {"number": 1.0, "list": [small_gpt()]}
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def token_prompts(x: Any) -> list[Value]:
    values: dict[str, Any] = {"empty": [], "lists": [[1, 2]], "floats": [torch.ones(2)], "matrix": [torch.ones(1, 2)]}
    values |= {"flags": [torch.ones(2) > 0], "none in it": [torch.ones(0).long()], "meta": [x[0].to("meta")]}
    values |= {"negative": [-x[0]], "text inside": ["12"], "None inside": [None], "number": 1}
    found = wrong_types() + [Value(label, value) for label, value in values.items()]
    equal = {"tuple": tuple(x), "other integers": [x[0].to(torch.uint8)]}
    return found + [Value(label, value, same) for label, value in equal.items()]


def causal_model(x: Any) -> list[Value]:
    values: dict[str, Any] = {"list": [x], "number": 1, "no logits": lambda **_: 1.0, "two axes": lambda **_: LOGITS}
    found = wrong_types() + [Value(label, value) for label, value in values.items()]
    return [*found, Value("function", x.forward, same), Value("frozen", small_gpt().requires_grad_(False), same)]


def module(x: Any) -> list[Value]:
    values: dict[str, Any] = {"function": x.forward, "list": [x]}
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def drawn_completions(x: Any, *, only_type: bool = False) -> list[Value]:
    values: dict[str, Any] = {"tuple": tuple(x), "tokens": x.tokens}
    if not only_type:
        values |= {"texts": x._replace(tokens="x"), "floats": x._replace(tokens=x.tokens.double())}
        values |= {"mask of numbers": x._replace(mask=x.tokens), "large": x._replace(tokens=x.tokens + 9)}
        values |= {"none": x._replace(tokens=x.tokens[:, :0], mask=x.mask[:, :0])}
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def one_prompt(x: Any) -> list[Value]:
    return [value for value in indices(x) if value.label not in ("longer", "shorter")]


def padding(x: Any) -> list[Value]:
    values: dict[str, Any] = {"short": x[:, :1], "flat": x[0], "meta": x.to("meta")}
    found = [value._replace(check=same) if value.label == "None" else value for value in wrong_types()]
    found += [Value(label, value) for label, value in values.items()]
    return [*found, Value("flags", x > 0, same), Value("floats", x.double(), same)]


def no_cache(_: Any) -> list[Value]:
    return [value for value in wrong_types() if value.label != "None"] + [Value("list", [1])]


def end_tokens(x: int) -> list[Value]:
    found = [value._replace(check=alike) if value.label in ("None", "list") else value for value in FROM_0(x)]
    values: dict[str, Any] = {"floats": [0.0], "negative inside": [0, -1], "None inside": [None], "text inside": ["0"]}
    return [*found, *(Value(label, value) for label, value in values.items()), Value("several", (0, 2), alike)]


def reward_of_completions(x: Any) -> list[Value]:
    found = [value for value in function(x) if value.label != "gives integers"]
    values: dict[str, Any] = {"nan": torch.tensor([[0.0, math.nan]]), "inf": torch.tensor([[math.inf, 0.0]])}
    values |= {
        "a list": [[0.0, 0.0]],
        "flat": torch.zeros(2),
        "three": torch.zeros(1, 3),
        "texts": np.array([["", ""]]),
    }
    found += [Value(f"gives {label}", lambda _, value=value: value) for label, value in values.items()]
    return [*found, Value("gives flags", lambda _: torch.ones(1, 2) > 0, alike)]


def decoder(_: Any) -> list[Value]:
    found = [value for value in wrong_types() if value.label not in ("None", "type")]
    return [*found, Value("number", 1), Value("list", [str])]


def path(_: Any) -> list[Value]:
    return [value for value in wrong_types("text") if value.label != "None"] + [Value("number", 1.5)]


def alike_or_more(answer: Any, canonical: Any) -> bool:
    return len(answer) > len(canonical)


special("FiniteMDP.from_outcomes", outcomes=outcomes)
special("FiniteMDP.from_table", p=but(table, other_floats=same, array=same), rewards=numbers)
special("FiniteMDP.from_transitions", P=but(table, array=same), r=but(floats, array=same))
special("FiniteMDP.from_gymnasium", env=environment, initial=lambda _: optional(start, same)([1.0] + [0.0] * 15))
special("FiniteMDP", rewards=but(floats, longer=alike), initial=floats, terminal=mask, outcomes=stored_outcomes)
special("FiniteMDP.to", device=device)
special("FiniteMDP.to_gymnasium", horizon=optional(count, alike))
special("bandit", means=numbers, spread=real)
special("correlated_rewards", correlation=partial(real, low=-1.0, high=1.0))
special("token_sequences", eos=optional(FROM_0, no_nan))
special("token_tree", eos=FROM_0, reward=reward_of_tokens, initial=optional(start, same))
special("two_answer_lengths", rewards=numbers)
special("at_steps", table=but(floats, longer=finite, more_axes=finite, other_floats=same, inf=no_nan, minus_inf=no_nan))
special("token_tree", eos=lambda x: [value for value in FROM_0(x) if value.label != "None"])
special(
    "token_tree of random rewards", words=unchecked, reward=unchecked, initial=unchecked, eos=optional(FROM_0, no_nan)
)
for name in ("discount_factors", "return_matrix"):
    special(name, horizon=FROM_0)
for name in ("TabularPolicy", "LinearPolicy", "NeuralPolicy", "SoftmaxPolicy"):
    special(name, available=optional(mask, alike))
special("NeuralPolicy", features=but(floats, other_floats=alike))
special("LinearPolicy", features=but(floats, other_floats=alike, longer=alike, shorter=alike))
special("TabularPolicy.from_preferences", preferences=but(floats, minus_inf=no_nan, other_floats=same))
NUMBERED = but(indices, scalar=finite, empty=finite, longer=finite, shorter=finite, more_axes=finite)
for name in CALLS:
    if name.endswith((".preferences", ".forward", "available_in")):
        special(name, states=NUMBERED)
    if name.endswith((".log_probs", ".probabilities", ".sample")):
        special(name, states=but(indices, scalar=finite))
    if name.startswith("NeuralPolicy of"):
        special(name, states=floats)
for name in ("log_probs", "probabilities", "preferences", "forward", "sample"):
    special(f"SoftmaxPolicy.{name}", states=unchecked)  # by the package: somebody else's class has to do it
for name in ("sequence_level_rewards", "bootstrapped_rewards", "grpo_loss"):
    special(name, mask=mask)
special("sequence_level_rewards", mask=but(mask, longer=finite, shorter=finite), scores=but(floats, other_floats=same))
special("FiniteMDP", terminal=mask)
special("NeuralPolicy", hidden=widths, dtype=dtype)
for name in ("decoding_logits", "decoding_distribution", "decoded_policy", "decode"):
    special(name, top_k=optional(count, no_nan), top_p=optional(UNIT, no_nan), min_p=optional(UNIT, no_nan))
for name in ("top_p", "min_p"):
    special(name, p=UNIT)
special("beam_search", start=optional(FROM_0, same))
special("inverse_cdf", uniforms=but(floats, other_floats=same))
special("inverse_cdf", logits=but(floats, longer=finite, shorter=finite, other_floats=same, minus_inf=no_nan))
special("token_log_probs", logits=but(floats, longer=finite, other_floats=same, minus_inf=no_nan))
special("decoded_policy", policy=but(table, other_floats=same, zeros=same_zeros))
for name in ("softmax_policy", "log_softmax_policy", "entropy", "fisher_information", "score", "linear_score"):
    special(
        name,
        preferences=but(floats, other_floats=same)
        if "score" in name
        else but(floats, other_floats=same, minus_inf=no_nan),
    )
special("score", actions=but(indices, scalar=finite))
special("linear_score", actions=but(indices, scalar=finite), preferences=floats)
special("linear_score", features=but(floats, longer=finite, shorter=finite))
for name in ("gaussian_log_prob", "gaussian_score"):
    special(name, mean=floats, log_std=floats, actions=floats)
for name in ("discounted_return", "returns_to_go"):
    special(name, rewards=but(floats, other_floats=same))
special("entropy_bonus", entropies=but(floats, other_floats=same))
special("leave_one_out_baseline", returns=but(floats, other_floats=same))
special("group_advantages", rewards=but(floats, **FREE))
special("masked_mean", values=but(floats, inf=no_nan, minus_inf=no_nan, other_floats=same))
special("generalized_advantages", truncated=optional(mask))
for name in (
    "exact_parameter_gradient",
    "gradient_ascent",
    "Trainer",
    "PPOTrainer",
    "sample_episodes",
    "sample_rollout",
):
    special(name, policy=policy_object)
special("gradient_ascent", optimizer=partial(optimizer, maximize=True))
for name in ("expected_gradient", "gradient_covariance"):
    special(name, behavior=optional(table))
special("gradient_routes", horizon=optional(count, finite))
special("bias_ledger", batch_size=partial(count, least=2), limit=optional(count, no_nan), top_p=UNIT)
special("reinforce_loss", baseline=baseline)
special("full_return_loss", baseline=baseline)
special("effective_sample_size", weights=but(floats, **FREE))
special("masked_mean", dim=axis)
special("group_advantages", baseline=choice)
special("difficulty_weight", success=but(floats, **FREE, scalar=finite, empty=finite), baseline=choice)
special("bias_ledger", preferences=but(floats, minus_inf=alike))
special("group_bias_ledger", losses=losses, preferences=but(floats, minus_inf=alike))
special("off_policy_ledger", losses=losses, preferences=but(floats, minus_inf=alike))
special("off_policy_ledger", sampler=optional(table), old_policy=optional(table))
for name in ("off_policy_losses", "bounded_importance_weights"):
    special(name, cap=partial(real, low=1.0, at_infinity=finite))
special("grpo_loss", beta=NOT_NEGATIVE)
special("Trainer", source=source, baseline=baseline_of_trainer)
special("PPOTrainer", critic=critic, max_norm=partial(real, low=0.0, at_infinity=alike))
special("sample_rollout", after=last_rollout, n_steps=but(count, tensor=alike, **{"np.int64": alike}))
special("PPOTrainer.run", n_updates=but(count, tensor=alike, **{"np.int64": alike}))
special("monte_carlo_values", trajectories=but(trajectories, actions_large=same, actions_negative=same))  # unread


for name in (
    *("sample_completions", "completion_log_probs", "completion_entropies", "completion_kl"),
    *("enumerate_completions", "token_tree_logits"),
):
    decoded = {"top_k": optional(count, no_nan), "top_p": optional(UNIT, no_nan), "batch_size": optional(count, same)}
    special(name, model=causal_model, reference=causal_model, prompts=token_prompts, completions=drawn_completions)
    special(name, **decoded, prompt=one_prompt, end=end_tokens)
special("token_tree_logits", end=optional(FROM_0, no_nan))
special("pretrain", model=module, sequences=but(indices, longer=alike, shorter=alike))
for name in ("sorting_rewards", "bracket_rewards"):
    special(name, completions=partial(drawn_completions, only_type=True))
special("sorting_sequences", prompts=indices)
special("is_balanced", tokens=but(indices, empty=finite, longer=finite, shorter=finite, more_axes=finite))
special("TinyGPT.forward", input_ids=indices, attention_mask=padding, position_ids=optional(indices, same))
special("TinyGPT.forward", past_key_values=no_cache, use_cache=flag, logits_to_keep=FROM_0)
special("post_train", model=language_model, reference=reference_model, prompts=token_prompts, end=end_tokens)
special("post_train", reward=reward_of_completions, decode=decoder, checkpoint=path, progress=optional(flag, alike))
special("post_train", top_k=optional(count, alike), top_p=optional(UNIT, alike), seed=FROM_0)
special("post_train", max_grad_norm=optional(NOT_NEGATIVE, alike))


def kind_of(name: str, argument: str) -> Callable[..., list[Value]]:
    return SPECIAL.get((name, argument)) or SPECIAL.get(("*." + name.partition(".")[2], argument)) or KINDS[argument]


def values_of(name: str, argument: str) -> list[Value]:
    return kind_of(name, argument)(CALLS[name]()[1][argument])


# Where one argument does not fit another, either may be named.
MISFITS = {"scalar", "empty", "longer", "shorter", "more axes", "other floats", "short", "-inf"}
OTHER_NAMES = {
    "outcomes": "outcome|p",
    "P": "p|state",
    "p": "state",
    "means": "reward|p",
    "table": "trajectories",
    "losses": "loss",
    **dict.fromkeys(["completions", "prompt", "sequences"], "input_ids"),  # a token that the model does not know
}


def is_named(name: str, argument: str, value: Value, message: str) -> bool:
    """Whether a message names the argument."""
    accepted = [argument, *OTHER_NAMES.get(argument, argument).split("|")]
    if value.label in MISFITS:
        accepted += CALLS[name]()[1]
    return bool(re.search(rf"\b({'|'.join(map(re.escape, accepted))})\b", message))
