"""`check_v_trace`: right forms pass, known mistakes are named."""

# Each function is written in the form of a public one, with that one's names.
import inspect

import numpy as np
import pytest
import torch

from pgtheory.checking import UnknownForm
from pgtheory.checking.kinds.v_trace import CHECK, check_v_trace


def impala(log_rhos, discounts, rewards, values, bootstrap_value, clip_rho_threshold=1.0, clip_pg_rho_threshold=1.0):
    """Time first, as DeepMind's."""
    rhos = torch.exp(log_rhos)
    clipped = torch.clamp(rhos, max=clip_rho_threshold)
    cs = torch.clamp(rhos, max=1.0)
    behind = torch.cat([values[1:], bootstrap_value.unsqueeze(0)], 0)
    deltas = clipped * (rewards + discounts * behind - values)
    acc, result = torch.zeros_like(bootstrap_value), []
    for t in range(discounts.shape[0] - 1, -1, -1):
        acc = deltas[t] + discounts[t] * cs[t] * acc
        result.append(acc)
    vs = torch.stack(result[::-1]) + values
    after = torch.cat([vs[1:], bootstrap_value.unsqueeze(0)], 0)
    return vs, torch.clamp(rhos, max=clip_pg_rho_threshold) * (rewards + discounts * after - values)


def rlax(v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_=1.0, clip_rho_threshold=1.0):
    c = np.minimum(1.0, rho_tm1) * lambda_
    errors = np.minimum(clip_rho_threshold, rho_tm1) * (r_t + discount_t * v_t - v_tm1)
    acc, out = 0.0, []
    for e, d, k in zip(errors[::-1], discount_t[::-1], c[::-1], strict=True):
        acc = e + d * k * acc
        out.insert(0, acc)
    return np.array(out)


def torchrl(gamma, log_pi, log_mu, state_value, next_state_value, reward, done, rho_thresh=1.0, c_thresh=1.0):
    rho = (log_pi - log_mu).exp()
    c, rho = rho.clamp(max=c_thresh), rho.clamp(max=rho_thresh)
    d = gamma * (1 - done)
    delta = rho * (reward + d * next_state_value - state_value)
    acc, out = torch.zeros_like(delta[..., 0]), []
    for t in reversed(range(delta.shape[-1])):
        acc = delta[..., t] + d[..., t] * c[..., t] * acc
        out.append(acc)
    vs = torch.stack(out[::-1], -1) + state_value
    after = torch.cat([vs[..., 1:], next_state_value[..., -1:]], -1)
    return rho * (reward + d * after - state_value), vs


def torchrl_truncated(
    gamma, log_pi, log_mu, state_value, next_state_value, reward, done, terminated=None, rho_thresh=1.0, c_thresh=1.0
):
    """As it is since #4210: `done` cuts, `terminated` says where nothing is bootstrapped."""
    rho = (log_pi - log_mu).exp()
    c, rho = rho.clamp(max=c_thresh), rho.clamp(max=rho_thresh)
    going = gamma * (~done).int()
    alive = going if terminated is None else gamma * (~terminated).int()
    delta = rho * (reward + alive * next_state_value - state_value)
    acc, out = torch.zeros_like(delta[..., 0]), []
    for t in reversed(range(delta.shape[-1])):
        acc = delta[..., t] + going[..., t] * c[..., t] * acc
        out.append(acc)
    vs = torch.stack(out[::-1], -1) + state_value
    after = torch.cat([vs[..., 1:], next_state_value[..., -1:]], -1)
    after = torch.where(done, next_state_value, after)
    return rho * (reward + alive * after - state_value), vs


def written_out(rewards, values, log_rhos, gamma):
    """Equation (1), as a sum of products; one value more than rewards."""
    rho = log_rhos.exp().clamp(max=1)
    delta = rho * (rewards + gamma * values[1:] - values[:-1])
    T = len(rewards)
    total = [sum(gamma**k * torch.prod(rho[t : t + k]) * delta[t + k] for k in range(T - t)) for t in range(T)]
    return values[:-1] + torch.stack(total)


def lists(rewards, values, next_values, dones, rhos, gamma):
    out, acc = [], 0.0
    for t in reversed(range(len(rewards))):
        w, d = min(1.0, rhos[t]), gamma * (1 - dones[t])
        acc = w * (rewards[t] + d * next_values[t] - values[t]) + d * w * acc
        out.insert(0, values[t] + acc)
    return out


def recursion(rewards, values, next_values, target_log_probs, behaviour_log_probs, not_done, gamma, rho_bar, c_bar):
    rho = (target_log_probs - behaviour_log_probs).exp()
    vs, after, behind = torch.empty_like(values), next_values[..., -1], next_values[..., -1]
    for t in reversed(range(values.shape[-1])):
        d = gamma * not_done[..., t]
        delta = rho[..., t].clamp(max=rho_bar) * (rewards[..., t] + d * next_values[..., t] - values[..., t])
        vs[..., t] = values[..., t] + delta + d * rho[..., t].clamp(max=c_bar) * (after - behind)
        after, behind = vs[..., t], values[..., t]
    return {"vs": vs}


TORCHRL = {"log_pi": "log_probs", "log_mu": "old_log_probs"}
RIGHT = {
    "IMPALA": (impala, {}, "[T, B]"), "RLax": (rlax, {}, None), "torchrl": (torchrl, TORCHRL, None),
    "torchrl, truncated": (torchrl_truncated, TORCHRL, None),
    "written out": (written_out, {}, None), "lists": (lists, {}, None), "recursion": (recursion, {}, None),
    "no clip given": (lambda rewards, values, last_value, log_rhos, discounts: impala(
        log_rhos, discounts, rewards, values, last_value)[0], {}, "[T]"),
    "advantages": (lambda **x: None, {}, None),
    "float": (lambda rewards, values, next_values, dones, rhos, gamma: torch.tensor(
        lists(rewards.float(), values.float(), next_values.float(), dones.float(), rhos.float(), gamma)), {}, "[T]"),
    "numpy": (lambda rewards, values, next_values, dones, rhos, gamma: np.array(
        lists(rewards, values, next_values, dones, rhos, gamma)), {}, None),
}  # fmt: skip


def advantages_alone(gamma, log_probs, old_log_probs, state_value, next_state_value, reward, done):
    return torchrl(gamma, log_probs, old_log_probs, state_value, next_state_value, reward, done)[0]


RIGHT["advantages"] = (advantages_alone, {}, None)


@pytest.mark.parametrize(("function", "names", "layout"), RIGHT.values(), ids=RIGHT)
def test_a_right_form_passes(function, names, layout):
    report = check_v_trace(function, names=names, layout=layout)
    assert report.ok, report


def test_the_reference_is_the_sum_of_products():
    for case in CHECK.bench(frozenset(["rewards"])).cases:
        x = case.inputs
        for n in range(len(x["rewards"])):
            values = torch.cat([x["values"][n], x["next_values"][n, -1:]])
            expected = written_out(x["rewards"][n], values, (x["log_probs"] - x["old_log_probs"])[n], x["gamma"])
            taken = inspect.signature(CHECK.right[""]).parameters
            got = CHECK.right[""](**{name: x[name] for name in taken})
            assert torch.allclose(got[n], expected, rtol=1e-9, atol=1e-9)


def test_at_a_truncation_the_reference_is_that_of_two_rows():
    seen = set()
    for case in CHECK.bench(frozenset(["next_values", "terminated", "truncated"])).cases:
        x, ends = case.inputs, case.inputs["terminated"] | case.inputs["truncated"]
        taken = inspect.signature(CHECK.right[""]).parameters
        got = CHECK.right[""](**{name: x[name] for name in taken})
        for n, row in enumerate(ends):
            first = 0
            for last in [t for t in range(len(row)) if row[t] or t == len(row) - 1]:
                part = (n, slice(first, last + 1))
                behind = torch.where(x["terminated"], 0.0, x["next_values"])[n, last : last + 1]
                values, log_rhos = torch.cat([x["values"][part], behind]), (x["log_probs"] - x["old_log_probs"])[part]
                expected = written_out(x["rewards"][part], values, log_rhos, x["gamma"])
                assert torch.allclose(got[part], expected, rtol=1e-9, atol=1e-9)
                seen.add((bool(x["truncated"][n, last]), last < len(row) - 1))
                first = last + 1
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def changed(old, new, function=torchrl):
    """torchrl's form with another line."""
    source = inspect.getsource(function)
    assert old in source
    scope = {"torch": torch}
    exec(source.replace(old, new), scope)
    return scope[function.__name__]


WRONG = {
    "ratio_inverted": changed("(log_pi - log_mu).exp()", "(log_mu - log_pi).exp()"),
    "log_ratio": lambda rewards, values, next_values, dones, log_rhos, gamma: torch.stack(
        lists(rewards, values, next_values, dones, log_rhos, gamma)
    ),
    "ratio_ignored": changed("(log_pi - log_mu).exp()", "torch.ones_like(log_pi)"),
    "rho_not_cut": changed("rho.clamp(max=c_thresh), rho.clamp(max=rho_thresh)", "rho.clamp(max=c_thresh), rho"),
    "c_not_cut": changed("rho.clamp(max=c_thresh), rho", "rho, rho"),
    "ratio_twice": changed("c[..., t] * acc", "rho[..., t] * c[..., t] * acc"),
    "bootstrap_twice": changed("torch.zeros_like(delta[..., 0])", "next_state_value[..., -1]"),
    "flags_ignored": changed("gamma * (1 - done)", "gamma * (1 - 0 * done)"),
    "gamma_missing": changed("d[..., t] * c[..., t] * acc", "(1 - done[..., t]) * c[..., t] * acc"),
    "advantages_by_values": changed("reward + d * after - state_value", "reward + d * next_state_value - state_value"),
    "advantages_unweighted": changed("return rho * (reward + d * after", "return 1.0 * (reward + d * after"),
    "advantage_of_next_episode": changed("(done, next_state_value, after)", "(done, after, after)", torchrl_truncated),
    "truncation_as_termination": changed("gamma * (~terminated).int()", "going", torchrl_truncated),
    "truncation_runs_on": lambda gamma, log_pi, log_mu, state_value, next_state_value, reward, done, terminated: (
        torchrl(gamma, log_pi, log_mu, state_value, next_state_value, reward, terminated.int())
    ),
    "": changed("+ state_value\n", "+ 0.9 * state_value\n"),
}


def own_last(rewards, values, log_rhos, gamma):
    """The last value stands for the one behind the row, which it is given besides."""
    return written_out(rewards, torch.cat([values[:-1], values[-2:-1]]), log_rhos, gamma)


WRONG["own_value_at_the_end"] = own_last


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_form_is_named(key):
    names = TORCHRL if "log_pi" in inspect.signature(WRONG[key]).parameters else {}
    report = check_v_trace(WRONG[key], names=names)
    assert report.verdict == "wrong", report
    assert [m.key for m in report.mistakes] == [f"v_trace.{key}"] * bool(key), report


def test_a_wrong_part_is_not_hidden_by_a_right_one():
    def both(rewards, values, next_values, dones, rhos, gamma):
        vs = torch.stack([torch.as_tensor(v) for v in lists(rewards, values, next_values, dones, rhos, gamma)])
        return vs, rhos.clamp(max=1) * (rewards + gamma * (1 - dones) * next_values - values)

    report = check_v_trace(both)
    assert [m.key for m in report.mistakes] == ["v_trace.advantages_by_values"]
    assert report.judged == "element 1 of 2"


@pytest.mark.parametrize("function", [lambda rewards, values, log_rhos, gamma: 0.0, lambda rewards, gamma: rewards])
def test_what_is_no_target_is_not_understood(function):
    with pytest.raises(UnknownForm):
        check_v_trace(function)


def with_truncations(rewards, values, next_values, done, terminated, log_rhos, gamma):
    return torchrl_truncated(gamma, log_rhos, 0 * log_rhos, values, next_values, rewards, done.bool(), terminated)[1]


def test_dones_beside_truncations_are_ends_or_terminations():
    def ends(rewards, values, next_values, dones, truncated, log_rhos, gamma):
        return with_truncations(rewards, values, next_values, dones, dones & ~truncated, log_rhos, gamma)

    def terminations(rewards, values, next_values, dones, truncated, log_rhos, gamma):
        return with_truncations(rewards, values, next_values, dones | truncated, dones, log_rhos, gamma)

    assert check_v_trace(ends).form == "torch [T]"
    meaning = "dones are terminations alone"
    assert f"declare layout='{meaning}'" in check_v_trace(terminations).abstains
    assert check_v_trace(terminations, layout=meaning).ok
    assert not check_v_trace(ends, layout=meaning).abstains


def test_without_the_value_of_each_next_state_truncations_are_not_tried():
    def bootstrapped(rewards, values, bootstrap_value, terminated, truncated, log_rhos, gamma):
        behind = torch.cat([values[1:], bootstrap_value[None]])
        return with_truncations(rewards, values, behind, terminated | truncated, terminated, log_rhos, gamma)

    report = check_v_trace(bootstrapped)
    assert report.ok
    assert "a truncation inside a row was not tried" in str(report.remarks)
