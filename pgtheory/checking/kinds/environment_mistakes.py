"""What goes wrong in environments, each mistake as a function that makes one."""

from collections.abc import Callable
from typing import Any

from pgtheory._gymnasium import import_gymnasium
from pgtheory.checking.report import Mistake, Source, arxiv, issue, pull


def _lake(
    step: Callable[[Any, Any, Any], Any] | None = None,
    reset: Callable[[Any], int] | None = None,
    table: Callable[[Any], None] | None = None,
    **options: Any,
) -> Callable[[], Any]:
    """A function that makes a small frozen lake with a change of its step, its reset or its table."""

    def make() -> Any:
        import_gymnasium()
        from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

        right: Any = FrozenLakeEnv

        class Lake(right):  # type: ignore[misc]
            def step(self, a: Any) -> Any:
                return super().step(a) if step is None else step(self, super().step, a)

            def reset(self, **keywords: Any) -> Any:
                state, info = super().reset(**keywords)
                if reset is not None:
                    self.s = state = reset(self)
                return state, info

        lake = Lake(desc=["SFF", "FHF", "FFG"], **{"is_slippery": True, "success_rate": 0.5, **options})
        if table is not None:
            table(lake)
        return lake

    return make


def _among_all_rows(lake: Any, step: Any, a: Any) -> Any:
    """A step by the outcomes of the row, all with the same probability."""
    row = lake.P[lake.s][a]
    _, lake.s, reward, terminated = row[int(lake.np_random.integers(len(row)))]
    return lake.s, reward, terminated, False, {}


def _never_slips(lake: Any, step: Any, a: Any) -> Any:
    row = lake.P[lake.s][a]
    _, lake.s, reward, terminated = row[len(row) // 2]
    return lake.s, reward, terminated, False, {}


def _changed(change: Callable[[Any, Any, bool, bool], tuple[Any, bool, bool]]) -> Callable[[Any, Any, Any], Any]:
    """A right step, of which the reward and the flags are changed afterwards, given the next state."""

    def step(lake: Any, right: Any, a: Any) -> Any:
        s, reward, terminated, truncated, info = right(a)
        return s, *change(s, reward, terminated, truncated), info

    return step


def _moved_on(lake: Any, step: Any, a: Any) -> Any:
    """A step that leads to the mirror image of the state, without reward."""
    s, reward, terminated, truncated, info = step(a)
    lake.s = (s + 5) % 9
    return lake.s, reward, terminated, truncated, info


def _sticky(lake: Any, step: Any, a: Any) -> Any:
    """A step that repeats the last action with probability 1/4."""
    if lake.lastaction is not None and lake.np_random.random() < 0.25:
        a = lake.lastaction
    return step(a)


def _first_outcome_dropped(lake: Any) -> None:
    for actions in lake.P.values():
        for a, row in actions.items():
            actions[a] = row[1:] if len(row) > 1 else row


def _states_from_one(lake: Any) -> None:
    for actions in lake.P.values():
        for a, row in actions.items():
            actions[a] = [(p, s + 1, r, end) for p, s, r, end in row]


_DYNAMICS = Source("Sutton and Barto, 2018, eq. (3.2) and (3.3)", "http://incompleteideas.net/book/the-book-2nd.html")

MISTAKES = (
    Mistake(
        "mdp.probabilities_do_not_sum_to_1",
        "probabilities of the table do not sum to 1",
        "The outcomes of an action, or the start states, have probabilities that are negative or do not sum to 1: "
        "values computed from the table are those of no process.",
        "The sum of P[s][a] over its outcomes is not 1.",
        (issue("MatthewJA/Inverse-Reinforcement-Learning", 1), issue("Svalorzen/AI-Toolbox", 45)),
        (_lake(table=_first_outcome_dropped),),
    ),
    Mistake(
        "mdp.next_state_outside",
        "next state of the table outside the observation space",
        "The table leads to a state that does not exist, often because states are counted from 1 in one place and from "
        "0 in another.",
        "A next state is negative, or not below the number of states.",
        (issue("QuantEcon/QuantEcon.py", 855),),
        (_lake(table=_states_from_one),),
    ),
    Mistake(
        "mdp.probabilities",
        "step samples the outcomes of the table with other probabilities",
        "Every outcome of step is one of the table, but not as often as the table says: planning on the table and "
        "learning from samples solve two different problems. An option changed after the table was built "
        "does it.",
        "Each single step looks right, and long averages do not.",
        (pull("rohitg00/ai-engineering-from-scratch", 54),),
        (_lake(_among_all_rows), _lake(_never_slips)),
        right_form=(_DYNAMICS,),
    ),
    Mistake(
        "mdp.reward",
        "reward of step is not that of the table",
        "The next states are right and the rewards are not: a policy that is best for the table need not be so here.",
        "The next state and the flag agree, the reward does not.",
        (issue("PacktPublishing/Hands-On-Reinforcement-Learning-with-Python", 4),),
        (
            _lake(_changed(lambda s, r, end, cut: (r - 0.01, end, cut))),
            _lake(_changed(lambda s, r, end, cut: (0.0, end, cut))),
            _lake(_changed(lambda s, r, end, cut: (-1.0 if end and not r else r, end, cut))),
        ),
        right_form=(_DYNAMICS,),
    ),
    Mistake(
        "mdp.never_terminated",
        "terminated is never reported, though the table has ends",
        "The episode goes on after an end of the table: what is earned afterwards counts, and values are bootstrapped "
        "from a state that has none.",
        "Episodes end by their time limit alone.",
        (pull("openai/gym", 429),),
        (_lake(_changed(lambda s, r, end, cut: (r, False, cut))),),
        right_form=(_DYNAMICS,),
    ),
    Mistake(
        "mdp.always_terminated",
        "terminated is reported after every step",
        "Every episode has one step, and nothing beyond the immediate reward can be learned; for example because the "
        "flag that an end has set is not cleared by `reset`.",
        "All episodes have length 1.",
        (issue("JuliaReinforcementLearning/ReinforcementLearningEnvironments.jl", 135),),
        (_lake(_changed(lambda s, r, end, cut: (r, True, cut))),),
        right_form=(_DYNAMICS,),
    ),
    Mistake(
        "mdp.truncated_for_terminated",
        "termination reported as truncated",
        "An end of the table is reported as if a limit of time had been reached: a learner bootstraps from the "
        "terminal state, whose value is 0.",
        "terminated is False and truncated True where the table has an end.",
        (issue("Farama-Foundation/HighwayEnv", 415), issue("RobertTLange/gymnax", 109)),
        (
            _lake(_changed(lambda s, r, end, cut: (r, False, end))),
            _lake(_changed(lambda s, r, end, cut: (r, end and r > 0, end and r == 0))),
        ),
    ),
    Mistake(
        "mdp.terminated",
        "terminated flag of step is not that of the table",
        "Some outcomes end the episode in step and not in the table, or the other way round, such as a hole or a cliff "
        "that only one of the two takes for an end.",
        "Next states and rewards agree, the flag does not.",
        (
            pull("openai/gym", 429),
            issue("brett-daley/gym-classics", 6),
            issue("dennybritz/reinforcement-learning", 219),
        ),
        (
            _lake(_changed(lambda s, r, end, cut: (r, end and r > 0, cut))),
            _lake(_changed(lambda s, r, end, cut: (r, end or s == 2, cut))),
        ),
    ),
    Mistake(
        "mdp.action_ignored",
        "the action is ignored",
        "Whatever the action is, step does the same: always what one of the actions does, or one drawn at random.",
        "The law of the next state does not depend on the action.",
        (),
        (
            _lake(lambda lake, step, a: step(0)),
            _lake(lambda lake, step, a: step(int(lake.np_random.integers(4)))),
        ),
        right_form=(_DYNAMICS,),
    ),
    Mistake(
        "mdp.another_action",
        "actions permuted: step takes another action than the one given",
        "The numbers of the actions do not mean the same in step and in the table, such as up and down swapped.",
        "Step does exactly what the table says of another action, in all states.",
        (issue("rlberry-py/rlberry", 84), issue("openai/gym", 72)),
        (
            _lake(lambda lake, step, a: step((a + 1) % 4)),
            _lake(lambda lake, step, a: step(3 - a)),
            _lake(lambda lake, step, a: step(min(a + 1, 3))),
        ),
    ),
    Mistake(
        "mdp.next_state",
        "next state of step is not one of the table",
        "Step leads to states that the table does not name for this state and action, or goes on from another state "
        "than the one that it returns.",
        "A next state is seen that has no entry in P[s][a].",
        (pull("rohitg00/ai-engineering-from-scratch", 54),),
        (_lake(_moved_on, is_slippery=False),),
        right_form=(_DYNAMICS,),
    ),
    Mistake(
        "mdp.start_state",
        "start state of reset is not drawn from initial_state_distrib",
        "Episodes start elsewhere than the published distribution says: the expected return is that of another one.",
        "The frequencies of the start states differ from initial_state_distrib.",
        (pull("openai/gym", 345), issue("Farama-Foundation/Gymnasium", 1115)),
        (_lake(reset=lambda lake: 3), _lake(reset=lambda lake: int(lake.np_random.integers(9)))),
    ),
    Mistake(
        "mdp.not_of_the_state_alone",
        "step depends on more than the state and the action",
        "After some steps the same action in the same state has other outcomes than after a reset: what step remembers "
        "is not in the state, such as the last action, which a sticky one repeats.",
        "It is right in the first step of an episode and wrong later.",
        (arxiv("Machado et al., 2018 (sticky actions)", "1709.06009"),),
        (_lake(_sticky),),
        right_form=(_DYNAMICS,),
    ),
)
