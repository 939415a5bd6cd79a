"""How the checks call this project: from the canonical inputs `x` of a check to its canonical answer.

This is the only file that knows both sides. A function that a check understands by the names of its arguments needs no
adapter; `UnknownForm` says when one is needed.
"""

import mine


def run_advantages(x):
    """The rollout as a dictionary, with time first, and back."""
    rollout = {"r": x.rewards.mT, "v": x.values.mT, "v_next": x.next_values.mT}
    rollout |= {"terminated": x.terminated.mT, "truncated": x.truncated.mT}
    return mine.advantages(rollout, x.gamma, x.lam).mT


def run_nucleus(x):
    """A row at a time, as the sampler does it."""
    return [mine.nucleus(row, x.p) for row in x.logits]
