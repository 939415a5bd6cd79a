"""A valid call of every public callable: what the tests of bad input start from."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import gymnasium
import torch
from gymnasium.vector import SyncVectorEnv
from helpers import F64, seeded
from torch import Tensor, nn

import pgtheory as pg

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
