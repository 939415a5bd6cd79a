r"""Chapter 1: named finite MDPs from the literature, each with its example number, as small functions.

.. no equation: each function is a world, not a formula
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pgtheory import _checks
from pgtheory.mdp import FiniteMDP

__all__ = [
    "bandit",
    "correlated_rewards",
    "gamblers_problem",
    "garnet",
    "gridworld",
    "gridworld_4x4",
    "random_walk",
    "recycling_robot",
    "short_corridor",
    "student_chain",
    "student_mdp",
    "tiny_language",
    "tiny_language_model",
    "token_sequences",
    "token_tree",
    "trap",
    "two_state_toy",
]

# An MDP whose outcomes are written one by one is refused if they are more than this.
OUTCOMES_LIMIT = 10_000_000

# A token tree with more states than this is refused.
TREE_LIMIT = 2**22

# The tokens of the tiny language, and the probability of the next one at the start and after each of them.
WORDS = ("good", "bad", "not", ".")
GOOD, BAD, NOT, FULL_STOP = range(4)
BIGRAMS = (
    (0.3, 0.2, 0.4, 0.1),
    (0.1, 0.1, 0.1, 0.7),
    (0.1, 0.1, 0.1, 0.7),
    (0.5, 0.3, 0.1, 0.1),
    (0.0, 0.0, 0.0, 1.0),
)


def recycling_robot(
    alpha: float = 0.8,
    beta: float = 0.4,
    r_search: float = 2.0,
    r_wait: float = 1.0,
    *,
    r_rescue: float = -3.0,
    dtype: torch.dtype = torch.float64,
) -> FiniteMDP:
    r"""The recycling robot: a battery that is high or low, and a choice between searching, waiting and recharging.

    The task continues for ever. The book leaves all parameters but the rescue symbolic: the defaults are ours, and so
    is the start in `high`.

    Args:
        alpha: the probability that a search leaves a high battery high.
        beta: the probability that a search leaves a low battery low; otherwise the robot must be rescued.
        r_search: the reward of a search; the book assumes that it exceeds `r_wait`.
        r_wait: the reward of waiting.
        r_rescue: the reward of a search that ends with an empty battery, -3 in the book.
        dtype: the dtype of probabilities and rewards.

    Returns:
        States high, low; actions search, wait, recharge, of which the last is not available in `high`.

    Raises:
        ValueError: if `alpha` or `beta` is not in [0, 1], or if a reward is not finite.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, Example 3.3.

    Example:
        >>> robot = recycling_robot(alpha=0.9)
        >>> robot.available.tolist()
        [[True, True, False], [True, True, True]]
        >>> robot.transitions()[0, 0]
        tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    alpha, beta = _checks.check_unit_interval("alpha", alpha), _checks.check_unit_interval("beta", beta)
    r_search, r_wait = _checks.check_finite_number("r_search", r_search), _checks.check_finite_number("r_wait", r_wait)
    r_rescue = _checks.check_finite_number("r_rescue", r_rescue)
    high, low = 0, 1
    search, wait, recharge = 0, 1, 2
    outcomes = [
        (high, search, high, r_search, alpha),
        (high, search, low, r_search, 1 - alpha),
        (high, wait, high, r_wait, 1.0),
        (low, search, high, r_rescue, 1 - beta),
        (low, search, low, r_search, beta),
        (low, wait, low, r_wait, 1.0),
        (low, recharge, high, 0.0, 1.0),
    ]
    return FiniteMDP.from_outcomes(
        outcomes,
        n_states=2,
        n_actions=3,
        initial=high,
        state_names=("high", "low"),
        action_names=("search", "wait", "recharge"),
    ).to(dtype=dtype)


def gridworld(*, dtype: torch.dtype = torch.float64) -> FiniteMDP:
    r"""The 5×5 gridworld with two special states: any action in A earns 10 and leads to A′, in B 5 and to B′.

    An action that would leave the grid costs 1 and changes nothing; every other reward is 0. The task continues for
    ever. State 5·row + column, from the top left. The source names no start: a uniform :math:`S_0` is our choice.

    Args:
        dtype: the dtype of probabilities and rewards.

    Returns:
        25 states, actions north, south, east, west.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, Example 3.5 and Figure 3.2
        (values of the equiprobable policy), Example 3.8 and Figure 3.5 (optimal values).

    Example:
        >>> mdp = gridworld()
        >>> mdp.rewards
        tensor([-1.,  0.,  5., 10.], dtype=torch.float64)
        >>> mdp.transitions()[1].argmax(-1)  # from A, state 1, everything leads to A′, state 21
        tensor([21, 21, 21, 21])
    """
    special = {(0, 1): ((4, 1), 10.0), (0, 3): ((2, 3), 5.0)}
    moves = {"north": (-1, 0), "south": (1, 0), "east": (0, 1), "west": (0, -1)}
    outcomes = []
    for row, column in _cells(5):
        for action, move in enumerate(moves.values()):
            target = _cell_after(row, column, move, 5)
            reward = -1.0 if target == (row, column) else 0.0
            (to_row, to_column), reward = special.get((row, column), (target, reward))
            outcomes.append((5 * row + column, action, 5 * to_row + to_column, reward, 1.0))
    names = [f"({row}, {column})" for row, column in _cells(5)]
    names[1], names[3], names[21], names[13] = "A", "B", "A′", "B′"
    return FiniteMDP.from_outcomes(
        outcomes, n_states=25, n_actions=4, initial=[1 / 25] * 25, state_names=names, action_names=tuple(moves)
    ).to(dtype=dtype)


def gridworld_4x4(*, dtype: torch.dtype = torch.float64) -> FiniteMDP:
    r"""The 4×4 gridworld: -1 for every step until one of two opposite corners is reached.

    State 4·row + column, from the top left, so that states 1 to 14 have the numbers of the source. The source has one
    terminal state, drawn in two corners; here the corners are two terminal states, 0 and 15, which changes no value.
    An action that would leave the grid changes nothing. The uniform :math:`S_0` over the other states is our choice.

    Args:
        dtype: the dtype of probabilities and rewards.

    Returns:
        16 states, 2 of them terminal, actions up, down, right, left.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, Example 4.1 and Figure 4.1.

    Example:
        >>> gridworld_4x4()
        FiniteMDP(16 states (2 terminal), 4 actions, 1 reward, 56 outcomes)
    """
    moves = {"up": (-1, 0), "down": (1, 0), "right": (0, 1), "left": (0, -1)}
    outcomes = []
    for row, column in _cells(4)[1:-1]:
        for action, move in enumerate(moves.values()):
            to_row, to_column = _cell_after(row, column, move, 4)
            outcomes.append((4 * row + column, action, 4 * to_row + to_column, -1.0, 1.0))
    return FiniteMDP.from_outcomes(
        outcomes,
        n_states=16,
        n_actions=4,
        initial=[0.0, *[1 / 14] * 14, 0.0],
        terminal=[0, 15],
        action_names=tuple(moves),
    ).to(dtype=dtype)


def student_chain(*, dtype: torch.dtype = torch.float64) -> FiniteMDP:
    r"""The student Markov reward process: a day of classes, the pub and a social network, until the student sleeps.

    A reward process is an MDP with one action. The reward is that of leaving the state.

    Args:
        dtype: the dtype of probabilities and rewards.

    Returns:
        States class 1, class 2, class 3, pass, pub, facebook, sleep (terminal); the start is class 1.

    Source:
        Silver, *UCL Course on RL*, 2015, lecture 2, "Student MRP".

    Example:
        >>> student_chain().expected_rewards()[:, 0].round(decimals=9).tolist()
        [-2.0, -2.0, -2.0, 10.0, 1.0, -1.0, 0.0]
    """
    class_1, class_2, class_3, passed, pub, facebook, sleep = range(7)
    chain = {
        class_1: (-2.0, {class_2: 0.5, facebook: 0.5}),
        class_2: (-2.0, {class_3: 0.8, sleep: 0.2}),
        class_3: (-2.0, {passed: 0.6, pub: 0.4}),
        passed: (10.0, {sleep: 1.0}),
        pub: (1.0, {class_1: 0.2, class_2: 0.4, class_3: 0.4}),
        facebook: (-1.0, {facebook: 0.9, class_1: 0.1}),
    }
    outcomes = [(s, 0, to, reward, p) for s, (reward, row) in chain.items() for to, p in row.items()]
    return FiniteMDP.from_outcomes(
        outcomes,
        n_states=7,
        n_actions=1,
        initial=class_1,
        terminal=[sleep],
        state_names=("class 1", "class 2", "class 3", "pass", "pub", "facebook", "sleep"),
        action_names=("go on",),
    ).to(dtype=dtype)


def student_mdp(*, dtype: torch.dtype = torch.float64) -> FiniteMDP:
    r"""The student MDP: the student chain in which the student decides; every state has two of the five actions.

    Args:
        dtype: the dtype of probabilities and rewards.

    Returns:
        States class 1, class 2, class 3, facebook, sleep (terminal); actions study, sleep, facebook, quit, pub; the
        start is class 1.

    Source:
        Silver, *UCL Course on RL*, 2015, lecture 2, "Student MDP".

    Example:
        >>> student_mdp().available.sum(-1).tolist()
        [2, 2, 2, 2, 0]
    """
    class_1, class_2, class_3, facebook, sleep = range(5)
    study, go_to_sleep, use_facebook, leave, go_to_pub = range(5)
    outcomes = [
        (class_1, study, class_2, -2.0, 1.0),
        (class_1, use_facebook, facebook, -1.0, 1.0),
        (class_2, study, class_3, -2.0, 1.0),
        (class_2, go_to_sleep, sleep, 0.0, 1.0),
        (class_3, study, sleep, 10.0, 1.0),
        (class_3, go_to_pub, class_1, 1.0, 0.2),
        (class_3, go_to_pub, class_2, 1.0, 0.4),
        (class_3, go_to_pub, class_3, 1.0, 0.4),
        (facebook, use_facebook, facebook, -1.0, 1.0),
        (facebook, leave, class_1, 0.0, 1.0),
    ]
    return FiniteMDP.from_outcomes(
        outcomes,
        n_states=5,
        n_actions=5,
        initial=class_1,
        terminal=[sleep],
        state_names=("class 1", "class 2", "class 3", "facebook", "sleep"),
        action_names=("study", "sleep", "facebook", "quit", "pub"),
    ).to(dtype=dtype)


def random_walk(
    n: int = 5, *, r_left: float = 0.0, r_right: float = 1.0, dtype: torch.dtype = torch.float64
) -> FiniteMDP:
    r"""The random walk: from the centre of a row of `n` states, one step left or right with equal probability.

    A reward process: there is one action. The walk ends beyond either end of the row; all rewards but those are 0.

    Args:
        n: the number of states that are not terminal; 5 in Example 6.2, 19 in Example 7.1. With an even `n` there are
            two centres, and the start is the left one.
        r_left: the reward of ending on the left; -1 in Example 7.1.
        r_right: the reward of ending on the right.
        dtype: the dtype of probabilities and rewards.

    Returns:
        `n` + 2 states from left to right, of which the first and the last are terminal.

    Raises:
        ValueError: if `n` is less than 1.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, Examples 6.2 and 7.1.

    Example:
        >>> random_walk()
        FiniteMDP(7 states (2 terminal), 1 action, 2 rewards, 10 outcomes)
    """
    n = _checks.check_count("n", n, at_most=OUTCOMES_LIMIT // 2)
    ends = {
        0: _checks.check_finite_number("r_left", r_left),
        n + 1: _checks.check_finite_number("r_right", r_right),
    }
    outcomes = [(s, 0, to, ends.get(to, 0.0), 0.5) for s in range(1, n + 1) for to in (s - 1, s + 1)]
    return FiniteMDP.from_outcomes(
        outcomes, n_states=n + 2, n_actions=1, initial=(n + 1) // 2, terminal=[0, n + 1], action_names=("step",)
    ).to(dtype=dtype)


def short_corridor(*, dtype: torch.dtype = torch.float64) -> FiniteMDP:
    r"""The short corridor with switched actions: three states in a row, of which the middle one swaps left and right.

    Every step costs 1. To an agent that cannot tell the three states apart, the best policy is stochastic: it goes
    right with probability :math:`2 - \sqrt 2`, and its value is :math:`-(6 + 4\sqrt 2)`.

    Args:
        dtype: the dtype of probabilities and rewards.

    Returns:
        States 0 (the start), 1, 2 and the goal (terminal); actions left, right.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, Example 13.1.

    Example:
        >>> short_corridor().transitions()[1]  # the switched state: left leads on, right leads back
        tensor([[0., 0., 1., 0.],
                [1., 0., 0., 0.]], dtype=torch.float64)
    """
    left, right, goal = 0, 1, 3
    steps = [(0, left, 0), (0, right, 1), (1, left, 2), (1, right, 0), (2, left, 1), (2, right, goal)]
    return FiniteMDP.from_outcomes(
        [(s, a, to, -1.0, 1.0) for s, a, to in steps],
        n_states=4,
        n_actions=2,
        initial=0,
        terminal=[goal],
        state_names=("first", "switched", "last", "goal"),
        action_names=("left", "right"),
    ).to(dtype=dtype)


def gamblers_problem(
    p_heads: float = 0.4, goal: int = 100, *, zero_stake: bool = False, dtype: torch.dtype = torch.float64
) -> FiniteMDP:
    r"""The gambler's problem: stakes on coin flips until the capital reaches the goal or nothing is left.

    The state is the capital, the action is the stake, and :math:`\mathcal{A}(s)` depends on s. The reward is 1 for
    reaching the goal, else 0, so a value is a probability of success when :math:`\gamma = 1`.

    Args:
        p_heads: the probability that a stake is won.
        goal: the capital that wins.
        zero_stake: whether a stake of 0 is available, as it is in the source. A policy that always stakes 0 never
            terminates, and has no value at :math:`\gamma = 1` as defined in chapter 3, so the default is without.
        dtype: the dtype of probabilities and rewards.

    Returns:
        `goal` + 1 states, of which 0 and `goal` are terminal; `goal // 2` + 1 actions, numbered by their stake, of
        which :math:`1, \dots, \min(s, \mathrm{goal} - s)` are available in s. The start, `goal // 2`, is our choice.

    Raises:
        ValueError: if `p_heads` is not in [0, 1] or `goal` is less than 2.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, Example 4.3.

    Example:
        >>> mdp = gamblers_problem(goal=4)
        >>> mdp.available.int().tolist()
        [[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 0, 0]]
    """
    p_heads = _checks.check_unit_interval("p_heads", p_heads)
    goal, zero_stake = _checks.check_count("goal", goal, at_least=2), _checks.check_flag("zero_stake", zero_stake)
    _checks.check_room("the outcomes of gamblers_problem", goal, goal // 2, limit=OUTCOMES_LIMIT)
    outcomes = []
    for capital in range(1, goal):
        for stake in range(0 if zero_stake else 1, min(capital, goal - capital) + 1):
            outcomes.append((capital, stake, capital + stake, float(capital + stake == goal), p_heads))
            outcomes.append((capital, stake, capital - stake, 0.0, 1 - p_heads))
    return FiniteMDP.from_outcomes(
        outcomes, n_states=goal + 1, n_actions=goal // 2 + 1, initial=goal // 2, terminal=[0, goal]
    ).to(dtype=dtype)


def bandit(means: Sequence[float], *, spread: float = 0.0, dtype: torch.dtype = torch.float64) -> FiniteMDP:
    r"""A bandit: one choice, one reward, and the episode is over.

    Args:
        means: the expected reward of each arm.
        spread: the reward of arm a is `means[a]` plus or minus `spread`, each with probability 1/2.
        dtype: the dtype of probabilities and rewards.

    Returns:
        State 0 (the start), the terminal state 1, and one action for each arm.

    Raises:
        ValueError: if there is no arm, or if a number is not finite.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 2.1.

    Example:
        >>> bandit([1.0, 2.0], spread=0.5).rewards
        tensor([0.5000, 1.5000, 2.5000], dtype=torch.float64)
    """
    expected, spread = _checks.check_numbers("means", means).tolist(), _checks.check_finite_number("spread", spread)
    outcomes = [(0, arm, 1, mean + sign * spread, 0.5) for arm, mean in enumerate(expected) for sign in (-1, 1)]
    n_actions = _checks.check_count("the number of means", len(outcomes) // 2)
    return FiniteMDP.from_outcomes(outcomes, n_states=2, n_actions=n_actions, initial=0, terminal=[1]).to(dtype=dtype)


def correlated_rewards(correlation: float = 1.0, *, dtype: torch.dtype = torch.float64) -> FiniteMDP:
    r"""A family of MDPs with the same :math:`p(s' \mid s, a)` and :math:`r(s, a)`, but not the same dynamics.

    The first step leads to `good` or `bad` with probability 1/2 each, and its reward is +1 or -1 with probability 1/2
    each; `correlation` is that of the two. The second step earns +1 in `good`, -1 in `bad`, and ends the episode.
    At :math:`\gamma = 1` the return has mean 0 and variance :math:`2 + 2 \cdot` `correlation`.

    Args:
        correlation: from -1 to 1.
        dtype: the dtype of probabilities and rewards.

    Returns:
        States start, good, bad, end (terminal), one action.

    Raises:
        ValueError: if `correlation` is not in [-1, 1].

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.2) to (3.5): what the
        four-argument form can say and the others cannot. The example is ours.

    Example:
        >>> same, opposite = correlated_rewards(1.0), correlated_rewards(-1.0)
        >>> torch.equal(same.transitions(), opposite.transitions())
        True
        >>> torch.equal(same.expected_rewards(), opposite.expected_rewards())
        True
        >>> torch.equal(same.dynamics(), opposite.dynamics())
        False
    """
    correlation = _checks.check_real("correlation", correlation)
    if not -1.0 <= correlation <= 1.0:
        raise ValueError(f"correlation must be in [-1, 1], not {correlation}")
    start, good, bad, end = range(4)
    first = [
        (start, 0, state, sign, (1 + sign * side * correlation) / 4)
        for state, side in ((good, 1.0), (bad, -1.0))
        for sign in (-1.0, 1.0)
    ]
    return FiniteMDP.from_outcomes(
        [*first, (good, 0, end, 1.0, 1.0), (bad, 0, end, -1.0, 1.0)],
        n_states=4,
        n_actions=1,
        initial=start,
        terminal=[end],
        state_names=("start", "good", "bad", "end"),
    ).to(dtype=dtype)


def trap(*, dtype: torch.dtype = torch.float64) -> FiniteMDP:
    r"""A choice between an end and a trap: a state that is not terminal, but that no action leaves.

    A policy that may fall into the trap does not surely terminate, so at :math:`\gamma = 1` it has no value as defined
    in chapter 3.

    Args:
        dtype: the dtype of probabilities and rewards.

    Returns:
        States start, trap, end (terminal); actions leave (reward 1, to the end) and fall (reward 0, to the trap).

    Source:
        Puterman, *Markov Decision Processes*, 1994, chapter 7, on when the total reward is well defined.
        The example is ours.

    Example:
        >>> trap().transitions()[1]  # in the trap
        tensor([[0., 1., 0.],
                [0., 1., 0.]], dtype=torch.float64)
    """
    start, caught, end = range(3)
    leave, fall = 0, 1
    outcomes = [
        (start, leave, end, 1.0, 1.0),
        (start, fall, caught, 0.0, 1.0),
        (caught, leave, caught, 0.0, 1.0),
        (caught, fall, caught, 0.0, 1.0),
    ]
    return FiniteMDP.from_outcomes(
        outcomes,
        n_states=3,
        n_actions=2,
        initial=start,
        terminal=[end],
        state_names=("start", "trap", "end"),
        action_names=("leave", "fall"),
    ).to(dtype=dtype)


def two_state_toy(*, dtype: torch.dtype = torch.float64) -> FiniteMDP:
    r"""A small MDP in which everything varies: the start, the rewards, the next states, and the length of an episode.

    Every action ends the episode with positive probability within two steps, so every policy surely terminates. All
    probabilities are dyadic, so that sums of few products of them are exact.

    Args:
        dtype: the dtype of probabilities and rewards.

    Returns:
        States first, second, end (terminal); actions stay, go.

    Source:
        Ours, made for tests that enumerate every trajectory.

    Example:
        >>> two_state_toy()
        FiniteMDP(3 states (1 terminal), 2 actions, 6 rewards, 8 outcomes)
    """
    first, second, end = range(3)
    stay, go = 0, 1
    outcomes = [
        (first, stay, first, 1.0, 0.5),
        (first, stay, second, 0.0, 0.5),
        (first, go, second, 2.0, 0.75),
        (first, go, end, -1.0, 0.25),
        (second, stay, second, 0.5, 0.25),
        (second, stay, end, 1.0, 0.75),
        (second, go, first, -1.0, 0.5),
        (second, go, end, 3.0, 0.5),
    ]
    return FiniteMDP.from_outcomes(
        outcomes,
        n_states=3,
        n_actions=2,
        initial=[0.75, 0.25, 0.0],
        terminal=[end],
        state_names=("first", "second", "end"),
        action_names=("stay", "go"),
    ).to(dtype=dtype)


def token_sequences(
    n_tokens: int, length: int, *, eos: int | None = None, n_prompts: int = 1
) -> list[tuple[int, tuple[int, ...]]]:
    r"""The prompt and the tokens that each state of `token_tree` stands for, in the order of the states.

    Shorter sequences come first, then smaller prompts, then lexicographic order. To find a state by its sequence,
    invert the list: `{sequence: s for s, sequence in enumerate(token_sequences(...))}`.

    Args:
        n_tokens: the size V of the vocabulary.
        length: the largest number L of tokens in a response.
        eos: the token that ends a response early, if any.
        n_prompts: the number of prompts.

    Returns:
        One pair `(prompt, tokens)` for each state.

    Raises:
        ValueError: if a count is less than 1, if `eos` is no token, or if there are more than 2^22 states.

    Source:
        The tree is that of every autoregressive model; see chapter 10.

    Example:
        >>> token_sequences(2, 2)
        [(0, ()), (0, (0,)), (0, (1,)), (0, (0, 0)), (0, (0, 1)), (0, (1, 0)), (0, (1, 1))]
        >>> token_sequences(2, 2, eos=1)
        [(0, ()), (0, (0,)), (0, (1,)), (0, (0, 0)), (0, (0, 1))]
    """
    n_tokens, length = _checks.check_count("n_tokens", n_tokens), _checks.check_count("length", length)
    n_prompts = _checks.check_count("n_prompts", n_prompts)
    if eos is not None and not 0 <= _checks.check_count("eos", eos, at_least=0) < n_tokens:
        raise ValueError(f"eos is {eos}, not a token in 0..{n_tokens - 1}")
    _check_tree_size(n_tokens, length, eos, n_prompts)
    level: list[tuple[int, tuple[int, ...]]] = [(prompt, ()) for prompt in range(n_prompts)]
    sequences = list(level)
    for _ in range(length):
        open_prefixes = [(prompt, tokens) for prompt, tokens in level if not tokens or tokens[-1] != eos]
        level = [(prompt, (*tokens, token)) for prompt, tokens in open_prefixes for token in range(n_tokens)]
        sequences += level
    return sequences


def token_tree(
    n_tokens: int = 2,
    length: int = 3,
    *,
    reward: Callable[[int, tuple[int, ...]], float] | Float[Tensor, "K"] | None = None,
    eos: int | None = None,
    n_prompts: int = 1,
    initial: Float[Tensor, "n_prompts"] | Sequence[float] | None = None,
    seed: int = 0,
    words: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float64,
) -> FiniteMDP:
    r"""Language generation as an MDP: a state is a prompt and the tokens so far, an action appends one token.

    Transitions are deterministic and the only reward comes with the last token. A response is complete, and its state
    terminal, after `length` tokens or at `eos`. `token_sequences` lists what the states stand for.

    Args:
        n_tokens: the size V of the vocabulary, which is the number of actions.
        length: the largest number L of tokens in a response.
        reward: the reward of a complete response: a function of the prompt and the tokens (`eos` included), or one
            number for each terminal state in the order of the states. By default, standard uniform numbers.
        eos: the token that ends a response early, if any.
        n_prompts: the number of prompts; prompt x is state x.
        initial: the distribution of the prompts, `[n_prompts]`; uniform by default.
        seed: which table of random rewards, where `reward` is not given.
        words: a name for each token, of which the names of states and actions are made; otherwise the numbers.
        dtype: the dtype of probabilities and rewards.

    Returns:
        The tree, :math:`(V^{L+1} - 1)/(V - 1)` states for each prompt where there is no `eos`.

    Raises:
        ValueError: as `token_sequences`, or if `reward`, `initial` or `words` does not have the right number of
            entries.

    Source:
        Ours; Puterman, *Markov Decision Processes*, 1994, section 2.1, calls such a state a history.

    Example:
        >>> mdp = token_tree(n_tokens=2, length=2, reward=lambda prompt, tokens: float(sum(tokens)))
        >>> mdp.state_names
        ('x0', 'x0 0', 'x0 1', 'x0 0 0', 'x0 0 1', 'x0 1 0', 'x0 1 1')
        >>> mdp.expected_rewards()[2]  # after the token 1
        tensor([1., 2.], dtype=torch.float64)
    """
    sequences = token_sequences(n_tokens, length, eos=eos, n_prompts=n_prompts)
    words = _checks.check_names("words", words, n_tokens)
    n_prompts, random = _checks.check_count("n_prompts", n_prompts), _seeded(seed)
    terminal = torch.tensor([len(tokens) == length or tokens[-1:] == (eos,) for _, tokens in sequences])
    by_state = torch.zeros(len(sequences), dtype=torch.float64)
    by_state[terminal] = _response_rewards(reward, [x for x, t in zip(sequences, terminal, strict=True) if t], random)
    # The children of the k-th open prefix are the next n_tokens states after the prompts and the children before them.
    s = (~terminal).nonzero()[:, 0].repeat_interleave(n_tokens)
    child = torch.arange(n_prompts, len(sequences))
    outcomes = (s, (child - n_prompts) % n_tokens, child, by_state[child], torch.ones(len(child), dtype=torch.float64))
    return FiniteMDP.from_outcomes(
        outcomes,
        n_states=len(sequences),
        n_actions=n_tokens,
        initial=_prompt_distribution(initial, n_prompts, len(sequences)),
        terminal=terminal,
        state_names=[_text(prompt, tokens, words, n_prompts) for prompt, tokens in sequences],
        action_names=words,
    ).to(dtype=dtype)


def tiny_language(length: int = 2, *, dtype: torch.dtype = torch.float64) -> FiniteMDP:
    r"""The token tree of this book: reviews in a language of three words, rated when they are complete.

    The words are good, bad and not, and a full stop ends the review; so does the length limit. Each good counts 1 and
    each bad -1, and the word "not" turns the one after it over: "not bad" is rated 1, "good good" 2.

    Args:
        length: the largest number of tokens in a review, the full stop included.
        dtype: the dtype of probabilities and rewards.

    Returns:
        The `token_tree`; actions 0 good, 1 bad, 2 not, 3 the full stop. With two tokens it has 17 states, and state
        `1 + a` follows the first token `a`.

    Raises:
        ValueError: if `length` is less than 1, or so large that the tree has more than 2^22 states.

    Source:
        Ours.

    Example:
        >>> language = tiny_language()
        >>> language.state_names[:6]
        ('start', 'good', 'bad', 'not', '.', 'good good')
        >>> language.expected_rewards()[3]  # after "not"
        tensor([-1.,  1.,  0.,  0.], dtype=torch.float64)
    """
    return token_tree(
        len(WORDS), length, reward=lambda prompt, tokens: _rating(tokens), eos=FULL_STOP, words=WORDS, dtype=dtype
    )


def tiny_language_model(length: int = 2, *, dtype: torch.dtype = torch.float64) -> Float[Tensor, "S A"]:
    r"""A policy for `tiny_language`: the probability of the next token, given the last one alone.

    Its most probable first word is "not", its most probable review "good ."; so greedy decoding misses it.

    Args:
        length: as for `tiny_language`.
        dtype: the dtype of the probabilities.

    Returns:
        The table of probabilities, `[S, A]`; the rows of complete reviews are 0.

    Raises:
        ValueError: as `tiny_language`.

    Source:
        Ours; Shannon, *A mathematical theory of communication*, 1948, section 3, writes English in this way.

    Example:
        >>> tiny_language_model()[:5]
        tensor([[0.3000, 0.2000, 0.4000, 0.1000],
                [0.1000, 0.1000, 0.1000, 0.7000],
                [0.1000, 0.1000, 0.1000, 0.7000],
                [0.5000, 0.3000, 0.1000, 0.1000],
                [0.0000, 0.0000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    if dtype is not None:  # which means float64, as for the worlds of this module
        _checks.check_dtype("dtype", dtype)
    sequences = token_sequences(len(WORDS), length, eos=FULL_STOP)
    complete = torch.tensor([len(tokens) == length or tokens[-1:] == (FULL_STOP,) for _, tokens in sequences])
    # Row 0 is that of the start, row 1 + a that of the token a.
    rows = torch.tensor([1 + tokens[-1] if tokens else 0 for _, tokens in sequences])
    return torch.tensor(BIGRAMS, dtype=torch.float64)[rows].where(~complete[:, None], 0.0).to(dtype=dtype)


def garnet(
    n_states: int,
    n_actions: int,
    branching: int,
    *,
    stop_probability: float = 0.0,
    seed: int = 0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> FiniteMDP:
    r"""A Garnet: a random MDP in which every action leads to `branching` states, drawn without replacement.

    Their probabilities are the lengths of the pieces into which uniform cut points divide [0, 1]. The reward of each
    outcome is a standard normal number. The start is uniform.

    Args:
        n_states: the number of states that are not terminal.
        n_actions: the number of actions, all of them available everywhere.
        branching: the number of next states of each (s, a).
        stop_probability: the probability that a step ends the episode, with a normal reward of its own. If it is
            positive, a terminal state with the number `n_states` is appended, and every policy surely terminates.
        seed: which Garnet; the same seed gives the same MDP.
        generator: drawn from in place of `seed`, on the CPU.
        dtype: the dtype of probabilities and rewards.

    Returns:
        The MDP, built in a time that is nearly linear in the number of outcomes.

    Raises:
        ValueError: if a count is less than 1, if `branching` exceeds `n_states`, or if `stop_probability` is not in
            [0, 1].

    Source:
        Archibald, McKinnon and Thomas, "On the generation of Markov decision processes", 1995; normal rewards as in
        Bhatnagar et al., "Natural actor-critic algorithms", 2009.

    Example:
        >>> garnet(10, 2, 3, seed=1)
        FiniteMDP(10 states (0 terminal), 2 actions, 60 rewards, 60 outcomes)
    """
    n_states, n_actions = _checks.check_count("n_states", n_states), _checks.check_count("n_actions", n_actions)
    if _checks.check_count("branching", branching) > n_states:
        raise ValueError(f"branching is {branching}, more than the {n_states} states")
    _checks.check_room("the outcomes of garnet", n_states, n_actions, branching, limit=10 * OUTCOMES_LIMIT)
    stop = _checks.check_unit_interval("stop_probability", stop_probability)
    _checks.check_generator("generator", generator, "the MDP", torch.device("cpu"))
    rng = _seeded(seed) if generator is None else generator
    n_rows = n_states * n_actions
    next_states = _distinct(n_rows, branching, n_states, rng)
    probabilities = _random_partition(n_rows, branching, rng) * (1 - stop)
    if stop > 0:
        next_states = torch.cat([next_states, torch.full((n_rows, 1), n_states)], -1)
        probabilities = torch.cat([probabilities, torch.full((n_rows, 1), stop, dtype=torch.float64)], -1)
    rewards = torch.randn(next_states.shape, generator=rng, dtype=torch.float64)
    row = torch.arange(n_rows).repeat_interleave(next_states.shape[1])
    columns = (row // n_actions, row % n_actions, next_states.flatten(), rewards.flatten(), probabilities.flatten())
    total = n_states + (stop > 0)
    start = torch.full((total,), 1 / n_states, dtype=torch.float64)
    start[n_states:] = 0.0
    return FiniteMDP.from_outcomes(
        columns, n_states=total, n_actions=n_actions, initial=start, terminal=list(range(n_states, total))
    ).to(dtype=dtype)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(_checks.check_count("seed", seed, at_least=-(2**63), at_most=2**64 - 1))


def _cells(size: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(size) for column in range(size)]


def _cell_after(row: int, column: int, move: tuple[int, int], size: int) -> tuple[int, int]:
    """The cell that a move leads to: the same one, if the move would leave the grid."""
    target = (row + move[0], column + move[1])
    return target if all(0 <= i < size for i in target) else (row, column)


def _check_tree_size(n_tokens: int, length: int, eos: int | None, n_prompts: int) -> None:
    n_states, n_open = n_prompts, n_prompts
    for _ in range(length):
        n_states, n_open = n_states + n_open * n_tokens, n_open * (n_tokens - (eos is not None))
        if n_states > TREE_LIMIT:
            raise ValueError(
                f"a tree of {length} tokens from a vocabulary of {n_tokens:,} has more than {TREE_LIMIT:,} states: "
                "make n_tokens or length smaller"
            )


def _response_rewards(
    reward: Callable[[int, tuple[int, ...]], float] | Tensor | None,
    responses: list[tuple[int, tuple[int, ...]]],
    generator: torch.Generator,
) -> Tensor:
    """The reward of each complete response, in float64."""
    if reward is None:
        return torch.rand(len(responses), generator=generator, dtype=torch.float64)
    if isinstance(reward, Tensor):
        _checks.check_floating("reward", reward)
        if reward.shape != (len(responses),):
            expected = f"[{len(responses)}], one for each complete response"
            raise ValueError(f"reward has shape {list(reward.shape)}, expected {expected}")
        _checks.check_finite("reward", reward)
        return reward.detach().double().cpu()
    _checks.check_callable("reward", reward)
    numbers = [_checks.check_finite_number("reward(…)", reward(prompt, tokens)) for prompt, tokens in responses]
    return torch.tensor(numbers, dtype=torch.float64)


def _text(prompt: int, tokens: Sequence[int], words: Sequence[str] | None, n_prompts: int) -> str:
    """The name of a state of a token tree."""
    if words is None:
        return " ".join([f"x{prompt}", *map(str, tokens)])
    start = "start" if n_prompts == 1 and not tokens else f"x{prompt}"
    return " ".join([*([start] if n_prompts > 1 or not tokens else []), *(words[token] for token in tokens)])


def _rating(tokens: Sequence[int]) -> int:
    """+1 for each good, -1 for each bad, turned over by "not" just before it."""
    worth = {GOOD: 1, BAD: -1}
    return sum(
        worth.get(t, 0) * (-1 if before == NOT else 1) for before, t in zip((None, *tokens[:-1]), tokens, strict=True)
    )


def _prompt_distribution(initial: Tensor | Sequence[float] | None, n_prompts: int, n_states: int) -> Tensor:
    """The distribution of the prompts, padded with zeros for the states that are no prompts."""
    given = _checks.check_numbers("initial", [1 / n_prompts] * n_prompts if initial is None else initial).double()
    if given.shape != (n_prompts,):
        raise ValueError(f"initial has shape {list(given.shape)}, expected [{n_prompts}], one for each prompt")
    return torch.nn.functional.pad(given.detach().cpu(), (0, n_states - n_prompts))


def _distinct(n_rows: int, k: int, n: int, generator: torch.Generator) -> Tensor:
    """In each row, k distinct numbers below n, every set of them equally likely (Floyd's algorithm on all rows)."""
    chosen = torch.empty(n_rows, k, dtype=torch.int64)
    for i, top in enumerate(range(n - k, n)):
        drawn = torch.randint(top + 1, (n_rows,), generator=generator)
        taken = (chosen[:, :i] == drawn[:, None]).any(-1)
        chosen[:, i] = torch.where(taken, top, drawn)
    return chosen


def _random_partition(n_rows: int, k: int, generator: torch.Generator) -> Tensor:
    """In each row, the lengths of the k pieces into which k - 1 uniform points cut [0, 1]."""
    cuts = torch.rand(n_rows, k - 1, generator=generator, dtype=torch.float64).sort(-1).values
    edges = torch.nn.functional.pad(torch.nn.functional.pad(cuts, (1, 0)), (0, 1), value=1.0)
    return edges.diff(dim=-1)
