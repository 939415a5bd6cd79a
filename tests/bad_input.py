"""Bad input for every public callable: what to put in the place of each argument of a valid call, its canon.

The kind of the argument, `KINDS`, generates the values that take its place: bad ones, and legitimate ones with a check
of the answer, for which `SPECIAL` has the exceptions of single arguments.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

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
from helpers import F64
from torch import Tensor, nn
from valid_calls import CALLS, LOGITS, carts, group_loss, small_gpt

import pgtheory as pg

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
