"""Policy-gradient theory that runs: every labelled equation of the book has one function here.

The modules follow the chapters of the book, and each imports only from its own chapter or an earlier one:
`mdp`, `gallery`, `trajectories`, `returns`, `value_functions`, `softmax_policy`, `gaussian_policy`, `decoding`,
`policy_gradient`, `reinforce`, `surrogates`, `advantages`, `training`, `groups`, `off_policy`, `token_log_probs`,
`language_models`, `tiny_gpt`, `post_training`, `smollm`, `checking`.
Every name that one of them lists in its `__all__` is a name of the package too.
"""
# ruff: noqa: F403 - the list of the public names of a module is its own __all__, and stands nowhere else.

import typing as _typing
from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from types import ModuleType as _ModuleType

# `pgtheory.advantages`, `pgtheory.softmax_policy` and `pgtheory.token_log_probs` are functions. The modules of these
# names are reached by `from pgtheory.softmax_policy import ...`; `import pgtheory.softmax_policy as m` binds the
# function. The first import of a module binds its name in the package to the module: so all three modules are
# imported here, and the functions of these names after them.
from pgtheory.advantages import *
from pgtheory.decoding import *
from pgtheory.gallery import *
from pgtheory.gaussian_policy import *
from pgtheory.groups import *
from pgtheory.language_models import *
from pgtheory.mdp import *
from pgtheory.off_policy import *
from pgtheory.policy_gradient import *
from pgtheory.post_training import *
from pgtheory.reinforce import *
from pgtheory.returns import *
from pgtheory.smollm import *
from pgtheory.softmax_policy import *
from pgtheory.surrogates import *
from pgtheory.tiny_gpt import *
from pgtheory.token_log_probs import *
from pgtheory.training import *
from pgtheory.trajectories import *
from pgtheory.value_functions import *

__version__ = "0.1.0"

if _typing.TYPE_CHECKING:
    from pgtheory.checking import *
else:
    _LOADED = [name for name, value in globals().items() if name[0] != "_" and not isinstance(value, _ModuleType)]

    # `checking`, with its catalogue, is imported when it, one of its names or the list of all names is first asked for.
    def __getattr__(name):
        if name in ("__all__", "checking") or not (name[0] == "_" or _find_spec(f"{__name__}.{name}")):
            checking = _import_module("pgtheory.checking")
            if name == "checking":
                return checking
            if name == "__all__":
                return sorted([*_LOADED, *checking.__all__, "__version__"])
            if name in checking.__all__:
                return getattr(checking, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__")})
