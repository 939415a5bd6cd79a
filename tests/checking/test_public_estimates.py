"""KL, REINFORCE and environments in the manner of public code of 2025-26, written without a look at the checks."""

# mypy: ignore-errors

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from public_style import Implementations, assert_as_expected

from pgtheory.checking import check_kl, check_mdp, check_policy_gradient

KL = Implementations(check_kl)
POLICY_GRADIENT = Implementations(check_policy_gradient)
MDP = Implementations(check_mdp)


def rtg(rewards, gamma):
    out, acc = [], torch.zeros_like(rewards[..., 0])
    for t in reversed(range(rewards.shape[-1])):
        acc = rewards[..., t] + gamma * acc
        out.append(acc)
    return torch.stack(out[::-1], -1)


class Base(gym.Env):
    n_states, n_actions = 4, 2

    def __init__(self):
        self.observation_space = spaces.Discrete(self.n_states)
        self.action_space = spaces.Discrete(self.n_actions)
        self.P = {s: {a: self.outcomes(s, a) for a in range(self.n_actions)} for s in range(self.n_states)}
        self.initial_state_distrib = np.array([0.5, 0.5, 0, 0])
        self.s = 0

    def outcomes(self, s, a):
        if s == 3:
            return [(1.0, 3, 0.0, True)]
        up = min(s + 1, 3)
        return (
            [(0.75, up, float(up == 3), up == 3), (0.25, 0, -1.0, False)] if a else [(1.0, max(s - 1, 0), 0.0, False)]
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s = int(self.np_random.choice(self.n_states, p=self.initial_state_distrib))
        return self.s, {}

    def draw(self, a):
        tr = self.P[self.s][a]
        return tr[int(self.np_random.choice(len(tr), p=[t[0] for t in tr]))]

    def step(self, a):
        p, s, r, d = self.draw(a)
        self.s = s
        return s, r, d, False, {"prob": p}


@KL.right("TRL grpo k3")
def trl_k3(per_token_logps, ref_per_token_logps):
    return torch.exp(ref_per_token_logps - per_token_logps) - (ref_per_token_logps - per_token_logps) - 1


@KL.right("verl kl_penalty 'kl'")
def verl_k1(logprob, ref_logprob):
    return logprob - ref_logprob


@KL.right("verl kl_penalty 'mse'")
def verl_mse(logprob, ref_logprob):
    return 0.5 * (logprob - ref_logprob).square()


@KL.wrong("absolute_value", "verl kl_penalty 'abs'")
def verl_abs(logprob, ref_logprob):
    return (logprob - ref_logprob).abs()


@KL.wrong("k3_exp_twice", "rocket-learn #12")
def e_ratio(log_prob, ref_log_prob):
    ratio = (ref_log_prob - log_prob).exp()
    return (ratio.exp() - 1) - ratio


@KL.wrong("k3_ratio_inverted", "marin #1708")
def k3_swapped(logprobs, ref_logprobs):
    d = logprobs - ref_logprobs
    return d.exp() - d - 1


@KL.right("OpenRLHF compute_approx_kl with action_mask, k3")
def openrlhf_k3(log_probs, log_probs_base, action_mask=None):
    r = log_probs.float() - log_probs_base.float()
    if action_mask is not None:
        r = r * action_mask
    r = -r
    return r.exp() - 1 - r


@KL.right("masked mean over response tokens, clamp at 10 (verl low_var_kl)")
def verl_low_var(logprob, ref_logprob, response_mask):
    kl = torch.clamp(ref_logprob - logprob, min=-20, max=20)
    kld = torch.clamp(kl.exp() - kl - 1, min=-10, max=10)
    return (kld * response_mask).sum() / response_mask.sum()


@KL.wrong("mean_over_padding", "padding counted in the mean")
def masked_bad_mean(logprob, ref_logprob, response_mask):
    kl = ref_logprob - logprob
    return ((kl.exp() - kl - 1) * response_mask).mean()


@KL.right("marin k3_from_log_ratio with expm1, numpy")
def marin(current_logprobs, reference_logprobs):
    r = np.asarray(current_logprobs) - np.asarray(reference_logprobs)
    return np.expm1(-r) + r


@KL.right("full distribution (marin #1708): probs * (logp - logq) from logits")
def full(logits, ref_logits):
    lp, lq = F.log_softmax(logits, -1), F.log_softmax(ref_logits, -1)
    return (lp.exp() * (lp - lq)).sum(-1)


@KL.wrong("other_direction", "aprender #2153: F.kl_div(input, target) is KL(target‖input)")
def fkl(logits, ref_logits):
    return F.kl_div(F.log_softmax(logits, -1), F.log_softmax(ref_logits, -1), log_target=True, reduction="none").sum(-1)


@KL.right("F.kl_div with the order turned: KL(π‖ref)")
def fkl_right(logits, ref_logits):
    return F.kl_div(F.log_softmax(ref_logits, -1), F.log_softmax(logits, -1), log_target=True, reduction="none").sum(-1)


@KL.wrong("", "F.kl_div with probabilities as input, pytorch forum")
def fkl_probs_input(probs, ref_probs):
    return F.kl_div(ref_probs, probs, reduction="none").sum(-1)


@KL.right("KL estimators chosen by string, default k1 (AReaL)")
def areal(log_probs, log_probs_base, kl_estimator="k1"):
    lr = log_probs - log_probs_base
    if kl_estimator == "k2":
        lr = lr**2 / 2
    elif kl_estimator == "k3":
        lr = (-lr).exp() - 1 + lr
    return lr


@KL.right("importance weighted k3 with old (slime/DeepSeek V3.2 unbiased): ratio * k3, old == current")
def unbiased_k3(log_probs, old_log_probs, ref_log_probs):
    k = ref_log_probs - log_probs
    return (log_probs - old_log_probs).exp() * (k.exp() - k - 1)


@KL.wrong("k3_without_one", "forgotten constant")
def k3_no_one(logp, ref_logp):
    d = ref_logp - logp
    return d.exp() - d


@KL.right("k2 as loss (Tang & Munos)", as_loss=True)
def l_k2(logprob, ref_logprob):
    return 0.5 * (logprob - ref_logprob.detach()) ** 2


@KL.wrong("other_direction", "arXiv 2506.09477", as_loss=True)
def l_k3(per_token_logps, ref_per_token_logps):
    d = ref_per_token_logps - per_token_logps
    return d.exp() - d - 1


@KL.wrong("k1", "open-instruct #535", as_loss=True)
def l_k1(logprobs, ref_logprobs):
    return logprobs - ref_logprobs


@KL.right("verl 'k3+' straight-through: value k3, gradient k2", as_loss=True)
def l_k3plus(logprob, ref_logprob):
    d = ref_logprob - logprob
    k3 = d.exp() - d - 1
    k2 = 0.5 * (logprob - ref_logprob).square()
    return k3.detach() + k2 - k2.detach()


@KL.right("unbiased: exp(logp - logp.detach()) * k3 (DeepSeek V3.2)", as_loss=True)
def l_v32(logprob, ref_logprob):
    d = ref_logprob - logprob
    return (logprob - logprob.detach()).exp() * (d.exp() - d - 1)


@KL.wrong("other_direction", "V3.2 form with detach in the wrong place", as_loss=True)
def l_v32_detached(logprob, old_logprob, ref_logprob):
    d = ref_logprob - logprob
    return (logprob - old_logprob).exp().detach() * (d.exp() - d - 1)


@KL.right("score function: logp * (logp - ref).detach()", as_loss=True)
def l_score(logprob, ref_logprob, mask):
    return (logprob * (logprob - ref_logprob).detach() * mask).sum() / mask.sum()


@KL.wrong("k1", "kl under no_grad added to the loss (TRL RLOO docs #5966)", as_loss=True)
def l_nograd(logprob, ref_logprob):
    with torch.no_grad():
        kl = logprob - ref_logprob
    return kl + 0.0 * logprob


@KL.wrong("negatives_clipped", "max(0, kl) per token is biased")
def clamp0(logp, ref_logp):
    return (logp - ref_logp).clamp(min=0)


@KL.right("torch.distributions.kl_divergence")
def dist(logits, ref_logits):
    C = torch.distributions.Categorical
    return torch.distributions.kl_divergence(C(logits=logits), C(logits=ref_logits))


@KL.wrong("jensen_shannon", "GKD jsd with beta=0.5")
def jsd(probs, ref_probs):
    m = 0.5 * (probs + ref_probs)
    return 0.5 * (probs * (probs / m).log()).sum(-1) + 0.5 * (ref_probs * (ref_probs / m).log()).sum(-1)


@KL.right("seq sum then batch mean with mask")
def seq_sum(log_probs, ref_log_probs, completion_mask):
    return ((log_probs - ref_log_probs) * completion_mask).sum(-1).mean()


@KL.wrong("", "-logq only")
def ce(logp, ref_logp):
    return -ref_logp


@KL.wrong("", "mean with 0.5 factor: k1 half")
def half_k1(logp, ref_logp):
    return 0.5 * (logp - ref_logp)


@KL.right("full KL by logits as loss", as_loss=True)
def full_loss(logits, ref_logits):
    lp, lq = F.log_softmax(logits, -1), F.log_softmax(ref_logits, -1)
    return (lp.exp() * (lp - lq)).sum(-1).mean()


@POLICY_GRADIENT.wrong("gamma_t_dropped", "pytorch/examples #744")
def examples(saved_log_probs, rewards, gamma):
    R, returns = 0, []
    for r in list(rewards)[::-1]:
        R = r + gamma * R
        returns.insert(0, R)
    loss = [-lp * R for lp, R in zip(saved_log_probs, returns, strict=False)]
    return torch.stack(loss).sum()


@POLICY_GRADIENT.wrong("gamma_t_dropped standardised_episode", "pytorch/examples reinforce: (returns - mean)/std")
def examples_std(saved_log_probs, rewards, gamma):
    R, returns = 0.0, []
    for r in list(rewards)[::-1]:
        R = float(r) + gamma * R
        returns.insert(0, R)
    returns = torch.tensor(returns, dtype=torch.float64)
    returns = (returns - returns.mean()) / (returns.std() + 1e-8)
    return torch.stack([-lp * R for lp, R in zip(saved_log_probs, returns, strict=False)]).sum()


@POLICY_GRADIENT.right("S&B 13.3 with γ^t, one episode")
def sb(log_probs, rewards, gamma):
    T = len(rewards)
    G = rtg(torch.as_tensor(rewards), gamma)
    return -sum(gamma**t * G[t] * log_probs[t] for t in range(T))


@POLICY_GRADIENT.right("batched with response mask")
def batched(log_probs, rewards, gamma, response_mask):
    m = response_mask.to(log_probs.dtype)
    G = rtg(rewards, gamma)
    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    return -(d * G * log_probs * m).sum(-1).mean()


@POLICY_GRADIENT.wrong("mean_over_all_steps", "spinningup #414")
def token_mean(log_probs, rewards, gamma, response_mask):
    m = response_mask.to(log_probs.dtype)
    G = rtg(rewards, gamma)
    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    return -(d * G * log_probs * m).sum() / m.sum()


@POLICY_GRADIENT.wrong("sign")
def no_minus(log_probs, rewards, gamma, mask):
    G = rtg(rewards, gamma)
    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    return (d * G * log_probs * mask).sum(-1).mean()


@POLICY_GRADIENT.wrong("probability_not_log", "-p * R")
def probs(log_probs, rewards, gamma, mask):
    G = rtg(rewards, gamma)
    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    return -(d * G * log_probs.exp() * mask).sum(-1).mean()


@POLICY_GRADIENT.right("cs285: the full return")
def cs285(logits, actions, rewards, gamma, mask):
    lp = torch.distributions.Categorical(logits=logits).log_prob(actions)
    d = gamma ** torch.arange(rewards.shape[-1], dtype=lp.dtype)
    G0 = (d * rewards * mask).sum(-1, keepdim=True)
    return -(G0 * lp * mask).sum(-1).mean()


@POLICY_GRADIENT.wrong("mask_ignored")
def without_the_mask(log_probs, rewards, gamma, mask):
    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    G0 = (d * rewards).sum(-1, keepdim=True)
    return -(G0 * log_probs).sum(-1).mean()


@POLICY_GRADIENT.wrong("own_sample_baseline", "CoursIA #15256")
def batch_baseline(log_probs, rewards, gamma, mask):
    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    G0 = (d * rewards * mask).sum(-1)
    a = G0 - G0.mean()
    return -(a[:, None] * log_probs * mask).sum(-1).mean()


@POLICY_GRADIENT.right("with a value baseline detached")
def baseline(log_probs, rewards, gamma, values, mask):
    G = rtg(rewards, gamma)
    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    return -(d * (G - values.detach()) * log_probs * mask).sum(-1).mean()


@POLICY_GRADIENT.right("leave-one-out over the batch")
def loo(log_probs, rewards, gamma, mask):
    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    G0 = (d * rewards * mask).sum(-1)
    n = len(G0)
    b = (G0.sum() - G0) / (n - 1) if n > 1 else torch.zeros_like(G0)
    return -((G0 - b)[:, None] * log_probs * mask).sum(-1).mean()


@POLICY_GRADIENT.right("cross entropy * returns (keras style): F.cross_entropy(reduction none)")
def ce_again(logits, actions, returns, gamma, mask):
    import torch.nn.functional as F

    nll = F.cross_entropy(logits.flatten(0, -2), actions.flatten(), reduction="none").view(actions.shape)
    d = gamma ** torch.arange(returns.shape[-1], dtype=logits.dtype)
    return (d * nll * returns * mask).sum(-1).mean()


@POLICY_GRADIENT.wrong("immediate_reward", "log_prob * reward_t")
def immediate(log_probs, rewards, gamma, mask):
    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    return -(d * rewards * log_probs * mask).sum(-1).mean()


@POLICY_GRADIENT.wrong("mean_over_own_steps", "GRPO 1/|o|")
def own_len(log_probs, rewards, gamma, mask):
    from pgtheory import returns_to_go

    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    return -((d * returns_to_go(rewards, gamma) * log_probs * mask).sum(-1) / mask.sum(-1)).mean()


@POLICY_GRADIENT.right("ratio form on fresh samples")
def ratio(log_probs, rewards, gamma, mask):
    from pgtheory import returns_to_go

    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    return -(d * returns_to_go(rewards, gamma) * (log_probs - log_probs.detach()).exp() * mask).sum(-1).mean()


@POLICY_GRADIENT.wrong("broadcast", "spinningup variants: batch sum product")
def batch_product(log_probs, rewards, gamma, mask):
    d = gamma ** torch.arange(rewards.shape[-1], dtype=log_probs.dtype)
    return -(log_probs * mask).sum() * (d * rewards * mask).sum() / len(rewards)


@POLICY_GRADIENT.right("time first", layout="[T, N]")
def tn(log_probs, rewards, gamma, mask):
    T = rewards.shape[0]
    G, c = torch.zeros_like(rewards), 0
    for t in reversed(range(T)):
        c = rewards[t] + gamma * c
        G[t] = c
    d = (gamma ** torch.arange(T, dtype=log_probs.dtype))[:, None]
    return -(d * G * log_probs * mask).sum(0).mean()


@MDP.right("student grid after toy_text, choice with p")
class Right(Base):
    pass


@MDP.right("cumsum and random() draw")
class Cumsum(Base):
    def draw(self, a):
        tr = self.P[self.s][a]
        u = self.np_random.random()
        return tr[int(np.argmax(np.cumsum([t[0] for t in tr]) > u))]


@MDP.wrong("reward", "GymDiscreteProblem #763: rewards aligned")
class Shifted(Base):
    def step(self, a):
        before = self.s
        s, _r, d, t, i = super().step(a)
        return s, float(before == 2), d, t, i


@MDP.wrong("probabilities", "np.random.choice without p")
class Uniform(Base):
    def draw(self, a):
        tr = self.P[self.s][a]
        return tr[int(self.np_random.integers(len(tr)))]


@MDP.wrong("never_terminated", "Gymnasium #1080")
class NoEnd(Base):
    def step(self, a):
        s, r, _d, t, i = super().step(a)
        return s, r, False, t, i


@MDP.wrong("start_state", "initial distribution ignored")
class Reset(Base):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s = 0
        return 0, {}


@MDP.wrong("another_action", "action numbering of the table")
class Swapped(Base):
    def draw(self, a):
        return super().draw(1 - a)


@MDP.right("state called self.state, unwrapped by TimeLimit")
class State(Base):
    @property
    def state(self):
        return self.s


@MDP.refused("obs returned before the update")
class OldObs(Base):
    def step(self, a):
        before = self.s
        _s, r, d, t, i = super().step(a)
        return before, r, d, t, i


@pytest.mark.parametrize(("judge", "verdict", "said"), [*KL, *POLICY_GRADIENT, *MDP])
def test_the_verdict_is_as_expected(judge, verdict, said):
    assert_as_expected(judge, verdict, said)
