"""The code of a small project: four formulas of policy gradients."""

import torch


def returns(rewards, gamma):
    """Discounted returns of one episode, a list."""
    total, found = 0.0, []
    for reward in reversed(rewards):
        total = reward + gamma * total
        found.append(total)
    return found[::-1]


def nucleus(logits, p):
    """Logits of the smallest set of tokens whose mass reaches p, and -inf elsewhere."""
    values, order = logits.sort(descending=True)
    probabilities = values.softmax(-1)
    drop = probabilities.cumsum(-1) - probabilities >= p
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)


def advantages(rollout, gamma, lam):
    """Generalized advantages of a rollout, a dictionary of tensors with time in the first axis."""
    alive = 1.0 - rollout["terminated"].float()
    goes_on = alive * (1.0 - rollout["truncated"].float())
    carry, found = torch.zeros_like(rollout["v"][0]), torch.zeros_like(rollout["v"])
    for t in reversed(range(len(found))):
        delta = rollout["r"][t] + gamma * alive[t] * rollout["v_next"][t] - rollout["v"][t]
        found[t] = carry = delta + gamma * lam * goes_on[t] * carry
    return found


def loss(log_probs, rewards, gamma, mask):
    """REINFORCE with returns to go, without the discount of the state, as most people write it."""
    steps = range(rewards.shape[-1])
    togo = [sum(gamma ** (k - t) * rewards[:, k] for k in steps if k >= t) for t in steps]
    return -torch.where(mask, torch.stack(togo, -1) * log_probs, 0.0).sum(-1).mean()
