"""Returns and advantages in the manner of public code of 2025-26, written without a look at the checks."""

# mypy: ignore-errors
from collections import deque

import numpy as np
import pytest
import torch
from public_style import Implementations, assert_as_expected

from pgtheory.checking import check_advantages, check_returns

RETURNS = Implementations(check_returns)
ADVANTAGES = Implementations(check_advantages)


@RETURNS.right("pytorch/examples reinforce.py")
def discounted_deque(rewards, gamma):
    out, R = deque(), 0
    for r in rewards[::-1]:
        R = r + gamma * R
        out.appendleft(R)
    return list(out)


@RETURNS.right("karpathy pong script: discount_rewards, vectorised with scipy.signal.lfilter")
def discount_lfilter(x, discount):
    from scipy.signal import lfilter

    return lfilter([1], [1, float(-discount)], x[::-1], axis=0)[::-1]


@RETURNS.wrong("reset_at_rewards", "the Pong script of Karpathy, used elsewhere")
def discount_rewards_pong(r, gamma=0.99):
    out = np.zeros_like(r, dtype=float)
    acc = 0.0
    for t in reversed(range(len(r))):
        if r[t] != 0:
            acc = 0.0
        acc = acc * gamma + r[t]
        out[t] = acc
    return out


@RETURNS.right("verl #7300 (merged)")
def rpp_carry_obs(token_level_rewards, response_mask, gamma):
    returns = torch.zeros_like(token_level_rewards)
    running = torch.zeros_like(token_level_rewards[:, 0])
    for t in reversed(range(token_level_rewards.shape[1])):
        m = response_mask[:, t]
        cand = token_level_rewards[:, t] + gamma * running
        running = torch.where(m.bool(), cand, running)
        returns[:, t] = running * m
    return returns


@RETURNS.wrong("cut_at_masked_steps", "verl #7278")
def rpp_reset_obs(token_level_rewards, response_mask, gamma):
    returns = torch.zeros_like(token_level_rewards)
    running = 0
    for t in reversed(range(token_level_rewards.shape[1])):
        running = token_level_rewards[:, t] + gamma * running
        returns[:, t] = running
        running = running * response_mask[:, t]
    return returns * response_mask


@RETURNS.wrong("padding_counted", "slime #1370, miles #1383")
def rpp_leak(rewards, loss_mask, gamma):
    returns = torch.zeros_like(rewards)
    running = torch.zeros(rewards.shape[0], dtype=rewards.dtype)
    for t in range(rewards.size(1) - 1, -1, -1):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    return returns * loss_mask


@RETURNS.right("OpenRLHF get_cumulative_returns")
def cumulative_returns(rewards, action_mask, gamma):
    T = rewards.size(1)
    rewards = action_mask * rewards
    cum = torch.zeros_like(rewards)
    acc = torch.zeros(rewards.size(0), dtype=rewards.dtype)
    for t in reversed(range(T)):
        acc = rewards[:, t] + gamma * acc
        cum[:, t] = acc
    return cum


@RETURNS.right("reversed cumsum divided by gamma^t")
def cumsum_trick(rewards, gamma):
    T = rewards.shape[-1]
    d = gamma ** torch.arange(T, dtype=rewards.dtype)
    return torch.flip(torch.cumsum(torch.flip(rewards * d, [-1]), -1), [-1]) / d


@RETURNS.wrong("exponent_from_the_start", "spinningup questions; homework: cs285")
def cumsum_no_div(rewards, gamma):
    T = rewards.shape[-1]
    d = gamma ** torch.arange(T, dtype=rewards.dtype)
    return torch.flip(torch.cumsum(torch.flip(rewards * d, [-1]), -1), [-1])


@RETURNS.wrong("full_return", "cs285 homework: discounted_return for reward-to-go")
def full_return(rewards, discount):
    total = sum(discount**i * float(r) for i, r in enumerate(rewards))
    return [total] * len(rewards)


@RETURNS.right("PPO-PyTorch style buffer")
def buffer_returns(rewards, is_terminals, gamma):
    out, g = [], 0
    for r, term in zip(reversed(rewards), reversed(is_terminals), strict=False):
        if term:
            g = 0
        g = r + gamma * g
        out.insert(0, g)
    return torch.tensor(out, dtype=torch.float64)


@RETURNS.wrong("done_of_another_step", "PPO-PyTorch #8 discussions")
def buffer_reset_late(rewards, is_terminals, gamma):
    out, g = [], 0.0
    for r, term in zip(reversed(rewards), reversed(is_terminals), strict=False):
        g = r + gamma * g
        out.insert(0, g)
        if term:
            g = 0.0
    return out


@RETURNS.right("prime-rl/verifiers: matrix form (outer)")
def toeplitz(rewards, gamma):
    T = rewards.shape[-1]
    i = torch.arange(T)
    k = i[None, :] - i[:, None]
    G = torch.where(
        k >= 0, torch.as_tensor(gamma, dtype=rewards.dtype) ** k.clamp(min=0), torch.zeros((), dtype=rewards.dtype)
    )
    return rewards @ G.T


@RETURNS.wrong("own_reward_dropped", "course homework off-by-one: sum from t+1")
def toeplitz_strict(rewards, gamma):
    T = rewards.shape[-1]
    i = torch.arange(T)
    k = i[None, :] - i[:, None]
    G = torch.where(
        k > 0, torch.as_tensor(gamma, dtype=rewards.dtype) ** (k - 1).clamp(min=0), torch.zeros((), dtype=rewards.dtype)
    )
    return rewards @ G.T


@RETURNS.right("in place numpy")
def inplace(rewards, gamma):
    for t in range(len(rewards) - 2, -1, -1):
        rewards[t] += gamma * rewards[t + 1]
    return rewards


@RETURNS.wrong("rewards_standardised", "blog: (r - mean)/std")
def norm_first(rewards, gamma):
    r = np.asarray(rewards, float)
    r = (r - r.mean()) / (r.std() + 1e-8)
    out = np.zeros_like(r)
    acc = 0.0
    for t in reversed(range(len(r))):
        acc = r[t] + gamma * acc
        out[t] = acc
    return out


@RETURNS.wrong("standardised", "pytorch/examples")
def std_after(rewards, gamma):
    out, acc = [], 0.0
    for r in reversed(rewards):
        acc = float(r) + gamma * acc
        out.insert(0, acc)
    out = torch.tensor(out)
    return (out - out.mean()) / (out.std() + 1e-9)


@RETURNS.right("flags of observations, as in cleanrl", names={"dones": "starts"})
def by_starts(rewards, dones, gamma):
    out = torch.zeros_like(rewards)
    acc = 0.0
    n = len(rewards)
    for t in reversed(range(n)):
        nonterm = 0.0 if t == n - 1 else 1.0 - float(dones[t + 1])
        acc = rewards[t] + gamma * nonterm * acc
        out[t] = acc
    return out


@RETURNS.wrong("first_reward_discounted", "homework")
def double_gamma(rewards, gamma):
    out, acc = [], 0.0
    for r in reversed(rewards):
        acc = gamma * (float(r) + acc)
        out.insert(0, acc)
    return out


@RETURNS.right("jax-like lax.scan in torch; dict output")
def dict_out(rewards, gamma):
    acc, out = torch.zeros(rewards.shape[0], dtype=rewards.dtype), []
    for r in rewards.flip(-1).unbind(-1):
        acc = r + gamma * acc
        out.append(acc)
    return {"returns": torch.stack(out[::-1], -1), "mean_reward": rewards.mean()}


@RETURNS.wrong("", "REINFORCE++ outcome; gamma ignored")
def outcome_only(token_level_rewards, response_mask, gamma):
    scores = (token_level_rewards * response_mask).sum(-1, keepdim=True)
    return scores * response_mask


@ADVANTAGES.right("Amanatal11/ppo-clipped, numpy, (advantages, returns)")
def np_gae(rewards, values, next_value, dones, gamma=0.99, lam=0.95):
    adv = np.zeros_like(rewards, dtype=np.float64)
    last = 0
    for t in reversed(range(len(rewards))):
        nnt = 1.0 - dones[t]
        nv = next_value if t == len(rewards) - 1 else values[t + 1]
        delta = rewards[t] + gamma * nv * nnt - values[t]
        adv[t] = last = delta + gamma * lam * nnt * last
    return adv, adv + values


@ADVANTAGES.right("cleanrl ppo.py: dones of the observations")
def cleanrl_gae(rewards, values, dones, next_value, next_done, gamma, gae_lambda):
    adv = torch.zeros_like(rewards)
    lastgaelam = 0
    num_steps = rewards.shape[0]
    for t in reversed(range(num_steps)):
        if t == num_steps - 1:
            nextnonterminal = 1.0 - next_done.to(rewards.dtype)
            nextvalues = next_value
        else:
            nextnonterminal = 1.0 - dones[t + 1].to(rewards.dtype)
            nextvalues = values[t + 1]
        delta = rewards[t] + gamma * nextvalues * nextnonterminal - values[t]
        adv[t] = lastgaelam = delta + gamma * gae_lambda * nextnonterminal * lastgaelam
    return adv, adv + values


@ADVANTAGES.wrong("done_of_previous_step", "stable-baselines #385 / cleanrl style")
def cleanrl_mixed(rewards, values, dones, next_value, next_done, gamma, gae_lambda):
    adv = torch.zeros_like(rewards)
    last = 0
    n = rewards.shape[0]
    for t in reversed(range(n)):
        nnt = 1.0 - dones[t].to(rewards.dtype)
        nv = next_value if t == n - 1 else values[t + 1]
        delta = rewards[t] + gamma * nv * nnt - values[t]
        adv[t] = last = delta + gamma * gae_lambda * nnt * last
    return adv


@ADVANTAGES.right("verl #2337 merged: observation tokens skipped")
def verl_gae(token_level_rewards, values, response_mask, gamma, lam):
    nextvalues, lastgaelam = 0, 0
    rev = []
    for t in reversed(range(token_level_rewards.shape[-1])):
        delta = token_level_rewards[:, t] + gamma * nextvalues - values[:, t]
        cand = delta + gamma * lam * lastgaelam
        m = response_mask[:, t]
        nextvalues = values[:, t] * m + (1 - m) * nextvalues
        lastgaelam = cand * m + (1 - m) * lastgaelam
        rev.append(lastgaelam)
    adv = torch.stack(rev[::-1], dim=1)
    return adv, adv + values


@ADVANTAGES.wrong("padding_counted", "ROLL #447; verl before #2337")
def roll_leak(token_level_rewards, values, response_mask, gamma, lam):
    last, rev = 0, []
    T = token_level_rewards.shape[-1]
    for t in reversed(range(T)):
        nv = values[:, t + 1] if t < T - 1 else 0.0
        delta = token_level_rewards[:, t] + gamma * nv - values[:, t]
        last = delta + gamma * lam * last
        rev.append(last)
    adv = torch.stack(rev[::-1], 1)
    return adv * response_mask, (adv + values) * response_mask


@ADVANTAGES.right("sb3 RolloutBuffer: episode_starts")
def sb3_gae(rewards, values, episode_starts, last_values, dones, gamma, gae_lambda):
    adv = np.zeros_like(rewards, dtype=np.float64)
    last = 0
    n = len(rewards)
    for step in reversed(range(n)):
        if step == n - 1:
            nnt = 1.0 - np.float64(dones)
            nv = last_values
        else:
            nnt = 1.0 - np.float64(episode_starts[step + 1])
            nv = values[step + 1]
        delta = rewards[step] + gamma * nv * nnt - values[step]
        last = delta + gamma * gae_lambda * nnt * last
        adv[step] = last
    return adv


@ADVANTAGES.right("CoursIA #7825 mended: terminated for delta, done for carry")
def both_flags(rewards, values, next_values, terminated, truncated, gamma, lam):
    term, trunc = terminated.double(), truncated.double()
    done = torch.maximum(term, trunc)
    adv, carry = torch.zeros_like(values), torch.zeros_like(values[..., 0])
    for t in range(rewards.shape[-1] - 1, -1, -1):
        delta = rewards[..., t] + gamma * (1 - term[..., t]) * next_values[..., t] - values[..., t]
        carry = delta + gamma * lam * (1 - done[..., t]) * carry
        adv[..., t] = carry
    return adv


@ADVANTAGES.wrong("truncation_as_termination", "CoursIA #7825")
def trunc_as_term(rewards, values, next_values, terminated, truncated, gamma, lam):
    done = (terminated | truncated).double()
    adv, carry = torch.zeros_like(values), torch.zeros_like(values[..., 0])
    for t in range(rewards.shape[-1] - 1, -1, -1):
        delta = rewards[..., t] + gamma * (1 - done[..., t]) * next_values[..., t] - values[..., t]
        carry = delta + gamma * lam * (1 - done[..., t]) * carry
        adv[..., t] = carry
    return adv


@ADVANTAGES.wrong("sum_not_cut_at_truncation", "skrl #224")
def trunc_not_cut(rewards, values, next_values, terminated, truncated, gamma, lam):
    term = terminated.double()
    adv, carry = torch.zeros_like(values), torch.zeros_like(values[..., 0])
    for t in range(rewards.shape[-1] - 1, -1, -1):
        delta = rewards[..., t] + gamma * (1 - term[..., t]) * next_values[..., t] - values[..., t]
        carry = delta + gamma * lam * (1 - term[..., t]) * carry
        adv[..., t] = carry
    return adv


@ADVANTAGES.wrong("own_value_at_truncation", "EmbodiChain #610, rsl_rl style")
def trunc_own_value(rewards, values, next_values, terminated, truncated, gamma, lam):
    rewards = rewards + gamma * values * truncated.double()
    done = (terminated | truncated).double()
    adv, carry = torch.zeros_like(values), torch.zeros_like(values[..., 0])
    for t in range(rewards.shape[-1] - 1, -1, -1):
        delta = rewards[..., t] + gamma * (1 - done[..., t]) * next_values[..., t] - values[..., t]
        carry = delta + gamma * lam * (1 - done[..., t]) * carry
        adv[..., t] = carry
    return adv


@ADVANTAGES.right("torchrl vec / rlevo: numpy [B, T], td errors then scan; discount per step")
def two_stage(r, v, v_next, gamma, lam, terminations, truncations):
    delta = r + gamma * v_next * np.logical_not(terminations) - v
    cont = np.logical_not(np.logical_or(terminations, truncations))
    out = np.zeros_like(delta)
    acc = np.zeros(delta.shape[:-1])
    for t in range(delta.shape[-1])[::-1]:
        acc = delta[..., t] + gamma * lam * cont[..., t] * acc
        out[..., t] = acc
    return out


@ADVANTAGES.wrong("sum_without_gamma", "homework: adv = delta + lam * adv")
def lam_only(rewards, values, dones, last_value, gamma, lam):
    values = [*list(values), last_value]
    adv, out = 0.0, []
    for t in reversed(range(len(rewards))):
        nd = 1.0 - float(dones[t])
        delta = rewards[t] + gamma * values[t + 1] * nd - values[t]
        adv = delta + lam * nd * adv
        out.insert(0, adv)
    return out


@ADVANTAGES.wrong("value_not_subtracted", "td target used as delta")
def no_baseline(rewards, values, dones, last_value, gamma, lam):
    values = [*list(values), last_value]
    adv, out = 0.0, []
    for t in reversed(range(len(rewards))):
        nd = 1.0 - float(dones[t])
        delta = rewards[t] + gamma * values[t + 1] * nd
        adv = delta + gamma * lam * nd * adv
        out.insert(0, adv)
    return out


@ADVANTAGES.wrong("carry_seeded")
def seeded(rewards, values, dones, last_value, gamma, lam):
    vals = [*list(values), last_value]
    adv, out = float(last_value), []
    for t in reversed(range(len(rewards))):
        nd = 1.0 - float(dones[t])
        delta = rewards[t] + gamma * vals[t + 1] * nd - vals[t]
        adv = delta + gamma * lam * nd * adv
        out.insert(0, adv)
    return out


@ADVANTAGES.wrong("standardised", "TRL: whiten(advantages)")
def whitened(rewards, values, dones, last_value, gamma, lam):
    vals = [*list(values), last_value]
    adv, out = 0.0, []
    for t in reversed(range(len(rewards))):
        nd = 1.0 - float(dones[t])
        delta = rewards[t] + gamma * vals[t + 1] * nd - vals[t]
        adv = delta + gamma * lam * nd * adv
        out.insert(0, adv)
    out = np.array([float(o) for o in out])
    return (out - out.mean()) / (out.std() + 1e-8)


@ADVANTAGES.right("pufferlib-style: values[T+1], terminals, in place of next value; time first batch", layout="[T, B]")
def puffer(rewards, values, terminals, gamma, gae_lambda):
    T = rewards.shape[0]
    adv = torch.zeros_like(rewards)
    last = torch.zeros_like(rewards[0])
    for t in reversed(range(T)):
        nt = 1.0 - terminals[t].to(rewards.dtype)
        delta = rewards[t] + gamma * values[t + 1] * nt - values[t]
        last = delta + gamma * gae_lambda * nt * last
        adv[t] = last
    return adv


@ADVANTAGES.right("RLlib/IMPALA-like lambda-returns minus values: G^λ − V")
def lambda_minus_v(rewards, values, next_values, terminated, truncated, gamma, lam):
    T = rewards.shape[-1]
    G = next_values[..., -1]
    out = []
    for t in reversed(range(T)):
        nv = next_values[..., t]
        G = torch.where(truncated[..., t], nv, G)
        target = torch.where(terminated[..., t], torch.zeros_like(nv), (1 - lam) * nv + lam * G)
        G = rewards[..., t] + gamma * target
        out.append(G - values[..., t])
    return torch.stack(out[::-1], -1)


@ADVANTAGES.right("ikostrikov-style masks of T+1 entries", names={"masks": "not_dones"})
def ikostrikov(rewards, value_preds, masks, gamma, gae_lambda):
    gae, out = 0, []
    for step in reversed(range(len(rewards))):
        delta = rewards[step] + gamma * value_preds[step + 1] * masks[step] - value_preds[step]
        gae = delta + gamma * gae_lambda * masks[step] * gae
        out.insert(0, gae)
    return torch.stack(out)


@ADVANTAGES.wrong("reset_state_bootstrapped", "rlevo #170; autoreset")
def autoreset(rewards, values, next_values, terminated, truncated, gamma, lam):
    nv = torch.cat([values[..., 1:], next_values[..., -1:]], -1)
    term, done = terminated.double(), (terminated | truncated).double()
    out, c = torch.zeros_like(values), torch.zeros_like(values[..., 0])
    for t in reversed(range(rewards.shape[-1])):
        d = rewards[..., t] + gamma * (1 - term[..., t]) * nv[..., t] - values[..., t]
        c = d + gamma * lam * (1 - done[..., t]) * c
        out[..., t] = c
    return out


@ADVANTAGES.right("(returns, advantages) order swapped tuple")
def swapped_tuple(rewards, values, dones, next_value, gamma, lam):
    vals = [*list(values), next_value]
    g, adv = 0.0, []
    for t in reversed(range(len(rewards))):
        nt = 1 - float(dones[t])
        g = rewards[t] + gamma * vals[t + 1] * nt - vals[t] + gamma * lam * nt * g
        adv.insert(0, g)
    adv = torch.stack(adv)
    return adv + torch.as_tensor(values), adv


@ADVANTAGES.wrong("lambda_returns", "variables swapped")
def returns_only(rewards, values, dones, next_value, gamma, lam):
    return swapped_tuple(rewards, values, dones, next_value, gamma, lam)[0]


@ADVANTAGES.wrong("delta_alone", "td residual")
def one_step(rewards, values, next_values, terminated, truncated, gamma, lam):
    return rewards + gamma * next_values * (~terminated) - values


@ADVANTAGES.wrong("padding_bootstrapped", "TRL PPO old; ROLL #447 prefix masks")
def pad_boot(rewards, values, attention_mask, gamma, lam):
    T = rewards.shape[1]
    c, out = 0, []
    for t in reversed(range(T)):
        nv = values[:, t + 1] if t < T - 1 else torch.zeros_like(values[:, 0])
        c = (rewards[:, t] + gamma * nv - values[:, t]) * attention_mask[:, t] + gamma * lam * c
        out.append(c)
    return torch.stack(out[::-1], 1)


@ADVANTAGES.right("miles #1827: compressed to trainable tokens, scattered back")
def compressed(rewards, values, loss_mask, gamma, lam):
    out = torch.zeros_like(rewards)
    for b in range(rewards.shape[0]):
        idx = loss_mask[b].bool().nonzero().flatten()
        r, v = rewards[b, idx], values[b, idx]
        c = 0.0
        for j in reversed(range(len(idx))):
            nv = v[j + 1] if j + 1 < len(idx) else 0.0
            c = r[j] + gamma * nv - v[j] + gamma * lam * c
            out[b, idx[j]] = c
    return out


@pytest.mark.parametrize(("judge", "verdict", "said"), [*RETURNS, *ADVANTAGES])
def test_the_verdict_is_as_expected(judge, verdict, said):
    assert_as_expected(judge, verdict, said)
