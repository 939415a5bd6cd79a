"""A conformance kit: is your implementation right, and if not, which known mistake is it?"""

from pgtheory.checking._advantages import check_advantages
from pgtheory.checking._catalogue import CHECKS, mistakes
from pgtheory.checking._environment import check_mdp
from pgtheory.checking._forms import UnknownForm
from pgtheory.checking._grpo import check_grpo
from pgtheory.checking._kl import check_kl
from pgtheory.checking._learning import learning_curve
from pgtheory.checking._policy_gradient import check_policy_gradient
from pgtheory.checking._ppo import check_ppo
from pgtheory.checking._report import Counterexample, Mistake, Report, Source, WrongImplementation
from pgtheory.checking._returns import check_returns
from pgtheory.checking._softmax import check_softmax
from pgtheory.checking._truncation import check_top_k, check_top_p

__all__ = [
    "CHECKS",
    "Counterexample",
    "Mistake",
    "Report",
    "Source",
    "UnknownForm",
    "WrongImplementation",
    "check_advantages",
    "check_grpo",
    "check_kl",
    "check_mdp",
    "check_policy_gradient",
    "check_ppo",
    "check_returns",
    "check_softmax",
    "check_top_k",
    "check_top_p",
    "learning_curve",
    "mistakes",
]
