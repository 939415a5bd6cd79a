"""What goes wrong in REINFORCE losses: each mistake is a recipe, or a loss that uses one wrongly."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.recipes import Recipe, as_loss
from pgtheory.checking.report import Mistake, Source, arxiv, issue, pull

_BOOK = Source("Sutton and Barto, 2018, section 13.3", "http://incompleteideas.net/book/the-book-2nd.html")
_KOOL = Source("Kool, van Hoof and Welling, 2019", "https://openreview.net/forum?id=r1lgTGL5DE")
_NOTA = arxiv("Nota and Thomas, 2020", "1906.07073")
_TUCKER = arxiv("Tucker et al., 2018", "1802.10031")


def _detached(log_probs: Tensor, rewards: Tensor, gamma: float, *, mask: Tensor) -> Tensor:
    return as_loss(Recipe())(log_probs.detach(), rewards, gamma, mask=mask)


def _without_mask(log_probs: Tensor, rewards: Tensor, gamma: float, *, mask: Tensor) -> Tensor:
    return as_loss(Recipe(mask="ignored"))(log_probs, rewards, gamma, mask=mask)


def _attached_values(log_probs: Tensor, rewards: Tensor, gamma: float, *, mask: Tensor, values: Tensor) -> Tensor:
    """The gradient flows into the baseline: what it adds to the right loss has no slope by the log-probabilities."""
    steps = torch.where(mask, gamma ** torch.arange(rewards.shape[-1]) * values * log_probs, 0.0)
    behind = torch.where(mask, gamma ** torch.arange(rewards.shape[-1]) * values * log_probs.detach(), 0.0)
    return as_loss(Recipe())(log_probs, rewards, gamma, mask=mask) + (behind - steps.detach()).sum() / len(mask)


def _losses(**choices: Sequence[str]) -> tuple[Callable[..., Tensor], ...]:
    """The losses of the recipes with each value of one choice."""
    ((choice, names),) = choices.items()
    return tuple(as_loss(Recipe()._replace(**{choice: name})) for name in names)


def _mistake(
    key: str,
    name: str,
    meaning: str,
    sign: str,
    sources: tuple[Source, ...],
    *implementations: Callable[..., Any],
    right_form: tuple[Source, ...] = (),
) -> Mistake:
    key = f"policy_gradient.{key}"
    return Mistake(key, name, meaning, sign, sources, implementations, right_form=right_form)


MISTAKES = (
    _mistake(
        "sign",
        "the wrong sign: the loss climbs where it should descend",
        "The minus is missing: minimising the loss makes the return smaller.",
        "The performance falls from the first update on.",
        (pull("KanishJebaMathewM/Truxify", 11885), issue("danijar/dreamerv3", 69)),
        *_losses(sign=["plus"]),
    ),
    _mistake(
        "gamma_t_dropped",
        "γ^t dropped",
        "For J = E[G_0] the term of step t has the weight γ^t G_t. Without γ^t late steps count too much, and the "
        "result is in general, with two or more parameters, the gradient of no function.",
        "It is right at γ = 1 and in episodes of one step.",
        (_NOTA, arxiv("Zhang et al., 2022", "2010.01069"), issue("ufal/npfl122", 117), issue("pytorch/examples", 744)),
        *_losses(discount=["dropped"]),
    ),
    _mistake(
        "gamma_t_twice",
        "γ^t applied twice",
        "The discount of the start is counted again: γ^t multiplies a return that is counted from the start (G_0, or "
        "γ^t G_t) already. Late steps count too little.",
        "It is right at γ = 1 and in episodes of one step.",
        (issue("mimoralea/gdrl", 9), issue("tensorflow/agents", 503)),
        as_loss(Recipe("full")),
        as_loss(Recipe("from_start")),
    ),
    _mistake(
        "gamma_ignored",
        "γ is ignored",
        "Neither the rewards nor the steps are discounted: it is the gradient of the undiscounted return.",
        "The loss does not change with γ.",
        (issue("dennybritz/reinforcement-learning", 55), issue("openai/baselines", 901)),
        as_loss(Recipe("undiscounted", "dropped")),
        as_loss(Recipe("total", "dropped")),
    ),
    _mistake(
        "returns_not_discounted",
        "γ is left out of the returns, though γ^t is there",
        "The weights are γ^t times a plain sum of rewards: a reward that comes late counts as much as one that comes "
        "at once.",
        "It is right at γ = 1 and in episodes of one step.",
        (issue("dennybritz/reinforcement-learning", 55),),
        as_loss(Recipe("undiscounted")),
        as_loss(Recipe("total")),
        right_form=(_BOOK,),
    ),
    _mistake(
        "discounted_twice",
        "γ applied twice per step in the returns",
        "A reward that comes k steps later counts γ^(2k), not γ^k.",
        "It is right at γ = 1 and in episodes of one step.",
        (issue("tensorflow/agents", 503),),
        *_losses(returns=["squared"]),
    ),
    _mistake(
        "exponent_from_the_end",
        "the exponent of γ counted from the end of the episode",
        "The last reward has the weight 1 and the first is discounted most: the weights run the wrong way.",
        "With a reward at the end alone, all steps have the same return.",
        (),
        *_losses(returns=["from_end"]),
        right_form=(_BOOK,),
    ),
    _mistake(
        "immediate_reward",
        "the immediate reward alone in place of the return",
        "Each action is credited with the reward of its own step, and not with what it leads to.",
        "It is right in episodes of one step; elsewhere only the last step is.",
        (issue("hpcaitech/ColossalAI", 4491), pull("natolambert/rlhf-book", 216)),
        as_loss(Recipe("immediate")),
        as_loss(Recipe("immediate", "dropped")),
    ),
    _mistake(
        "own_reward_dropped",
        "the reward of the step itself is dropped: the return is off by one",
        "The return starts one step late, so what the action earned at once is not in it.",
        "In episodes of one step there is no gradient.",
        (issue("shehzaadzd/MINERVA", 28), pull("lilianweng/lil-log", 8)),
        *_losses(returns=["own_dropped"]),
    ),
    _mistake(
        "reward_of_the_step_before",
        "the rewards are shifted by one: each step has that of the step before",
        "A step's reward is stored one place late. The last reward of the episode is in no return.",
        "In episodes of one step there is no gradient.",
        (issue("openai/spinningup", 50), issue("openai/spinningup", 67)),
        *_losses(returns=["shifted"]),
    ),
    _mistake(
        "last_reward_dropped",
        "the last reward of the episode is dropped",
        "The last reward, often the only one that is not zero, is in no return.",
        "In episodes of one step there is no gradient.",
        (issue("weipu-zhang/STORM", 16), issue("rasbt/machine-learning-book", 240)),
        *_losses(returns=["last_dropped"]),
    ),
    _mistake(
        "last_reward_only",
        "the last reward of the episode alone",
        "Earlier rewards are in no return.",
        "It is right where all rewards but the last are 0.",
        (),
        *_losses(returns=["last_only"]),
        right_form=(_BOOK,),
    ),
    _mistake(
        "past_rewards",
        "past rewards: the return is accumulated forwards",
        "The sum runs from the first step to the present one: each action is credited with what came before it.",
        "It is right in episodes of one step. In longer ones, what an action leads to does not count.",
        (issue("mohmdelsayed/streaming-drl", 3), issue("numpy/numpy", 16578)),
        *_losses(returns=["forwards", "forwards_from_start"]),
    ),
    _mistake(
        "reversed_order",
        "the returns in reversed order",
        "The list of returns is never turned round: the first step has the return of the last one.",
        "It is right in episodes of one step.",
        (issue("PacktPublishing/Tensorflow-2-Reinforcement-Learning-Cookbook", 27),),
        *_losses(returns=["reversed"]),
    ),
    _mistake(
        "mean_of_the_rest",
        "a mean of the later rewards in place of their sum",
        "The return is divided by the number of steps that are left.",
        "It is right in episodes of one step.",
        (),
        *_losses(returns=["mean_of_rest"]),
        right_form=(_BOOK,),
    ),
    _mistake(
        "pairing_lost",
        "the pairing of action and return is lost: the sum of all returns of the episode multiplies each score",
        "A sum or a mean over the steps is taken before the product, or [T, 1] meets [T]: each log-probability is "
        "multiplied with all the returns of its episode.",
        "All steps of an episode have the same weight, which is not G_0.",
        (issue("Farama-Foundation/Gymnasium", 1336),),
        *(as_loss(Recipe(kind, "dropped")) for kind in ("all_returns", "all_discounted")),
    ),
    _mistake(
        "mean_over_all_steps",
        "a mean over all steps of the batch in place of a sum over the steps",
        "The sum over the steps of the batch is divided by their number, which depends on the actions: episodes that "
        "come in a batch of short ones count more. The direction changes, not only the length.",
        "It is right, but for a constant, where all episodes have the same length.",
        (issue("openai/spinningup", 59), issue("openai/spinningup", 414), issue("openai/spinningup", 454)),
        *_losses(average=["all_steps"]),
    ),
    _mistake(
        "mean_over_own_steps",
        "a mean over the steps of each episode in place of a sum over the steps",
        "Each episode is divided by its own length, which depends on the actions: a step of a short episode counts "
        "more than one of a long episode.",
        "It is right, but for a constant, where all episodes have the same length.",
        (issue("KaiyangZhou/pytorch-vsumm-reinforce", 48), arxiv("Liu et al., 2025", "2503.20783")),
        *_losses(average=["own_steps"]),
    ),
    _mistake(
        "mean_over_padded_steps",
        "a mean over the padded steps in place of a sum over the steps",
        "The padding is counted as steps: the loss is divided by N times the length of the longest episode.",
        "More padding makes the gradient smaller.",
        (pull("NovaSky-AI/SkyRL", 462), pull("Stable-Baselines-Team/stable-baselines3-contrib", 78)),
        *_losses(average=["padded_steps"]),
    ),
    _mistake(
        "mean_over_running_episodes",
        "a mean over the episodes that are still running at each step",
        "Each step is divided by the number of episodes that reach it, not by N: late steps, which few episodes reach, "
        "count too much.",
        "It is right for a batch of one episode, and where all episodes have the same length.",
        (arxiv("Liu et al., 2025, on divisors that depend on lengths", "2503.20783"),),
        *_losses(average=["running"]),
        right_form=(_BOOK,),
    ),
    _mistake(
        "own_sample_baseline",
        "a baseline that includes the own sample",
        "The mean of the returns of all N episodes depends on the actions of each of them. Where every episode counts, "
        "the gradient is (N - 1)/N of the right one: its direction is right, and for a fixed N it amounts to a smaller "
        "learning rate. The mean of the other episodes is exact.",
        "For a batch of one episode there is no gradient.",
        (_KOOL, arxiv("Ahmadian et al., 2024", "2402.14740"), issue("arnauqb/blackbirds", 53)),
        *_losses(baseline=["own_sample", "own_sample_running"]),
        as_loss(Recipe(baseline="own_sample_start")),
    ),
    _mistake(
        "batch_mean_baseline",
        "the mean return over all steps of the batch as baseline",
        "The mean includes the own returns of each step, and depends on the actions.",
        "For a batch of one episode with one step there is no gradient.",
        (pull("ServiceNow/PipelineRL", 54),),
        *_losses(baseline=["batch_mean"]),
        right_form=(_TUCKER,),
    ),
    _mistake(
        "episode_mean_baseline",
        "the mean return over the steps of the own episode as baseline",
        "The mean depends on the actions of the episode. Early steps, which have more ahead, get positive weights and "
        "late ones negative weights, whatever is done.",
        "In episodes of one step there is no gradient.",
        (issue("alessiodm/drl-zh", 5),),
        *_losses(baseline=["episode_mean"]),
    ),
    _mistake(
        "standardised_batch",
        "standardised returns over the batch",
        "Mean and standard deviation of the batch (or the deviation alone) depend on the actions in it: the weights "
        "are biased, in direction too.",
        "Adding a constant to the returns, or multiplying them, changes nothing.",
        (issue("pytorch/examples", 590), issue("keon/policy-gradient", 5), issue("wojzaremba/trpo", 6)),
        *_losses(
            baseline=["batch_std_0", "batch_std_1", "step_std_0", "step_std_1", "start_std_0", "batch_scale_0"],
        ),
    ),
    _mistake(
        "standardised_episode",
        "standardised returns within each episode",
        "The mean and the deviation are those of the episode itself: early steps get positive weights and late ones "
        "negative weights, however good the episode was.",
        "A constant reward for each step does not count; an episode of one step has no gradient, or NaN.",
        (issue("MorvanZhou/Reinforcement-learning-with-tensorflow", 128), issue("alessiodm/drl-zh", 5)),
        *_losses(baseline=["episode_std_0", "episode_std_1", "episode_scale_0", "episode_scale_1"]),
    ),
    _mistake(
        "broadcast",
        "broadcasting [N, 1] against [N]: each score is multiplied with the returns of all episodes",
        "The product has N × N entries: an episode's score meets the returns of the others, which only add noise. The "
        "expectation is right but for a factor, and the variance is much larger.",
        "All episodes of the batch have the same weight.",
        (issue("PacktPublishing/Deep-Reinforcement-Learning-Hands-On", 74), issue("pytorch/rl", 1243)),
        as_loss(Recipe("full", "dropped", "pairs_start")),
        as_loss(Recipe("to_go", "kept", "pairs")),
        as_loss(Recipe("to_go", "kept", "pairs_all")),
    ),
    _mistake(
        "probability_not_log",
        "π in place of log π",
        "The gradient of π(A) in place of that of ln π(A): each term has the factor π(A) once more, and actions that "
        "are rarely drawn count too little.",
        "Each slope is the right one times the probability of the action.",
        (issue("shariqiqbal2810/MAAC", 20), issue("alessiodm/drl-zh", 10)),
        *_losses(score=["probability"]),
    ),
    _mistake(
        "log_prob_of_another_step",
        "the log-probability of another step: shifted by one",
        "The return of a step multiplies the score of the next step.",
        "In episodes of one step there is no gradient.",
        (issue("lucidrains/PaLM-rlhf-pytorch", 31), issue("apple/ml-diffucoder", 15)),
        *_losses(score=["next"]),
    ),
    _mistake(
        "last_step_dropped",
        "the last step is dropped",
        "The score of the last action is left out, as by a loop or a slice that ends one step early.",
        "In episodes of one step there is no gradient.",
        (issue("apple/ml-diffucoder", 15), issue("Farama-Foundation/Gymnasium", 1494)),
        *_losses(score=["last_dropped", "last_column_dropped"]),
    ),
    _mistake(
        "first_step_dropped",
        "the first step is dropped",
        "The score of the first action is left out.",
        "In episodes of one step there is no gradient.",
        (issue("lucidrains/PaLM-rlhf-pytorch", 31),),
        *_losses(score=["first_dropped"]),
        right_form=(_BOOK,),
    ),
    _mistake(
        "mask_ignored",
        "the mask is ignored: padding is trained on",
        "Log-probabilities behind the end of an episode get a gradient, as soon as something stands in the rewards "
        "there, or a baseline is subtracted.",
        "The slopes are not 0 where no step was taken.",
        (pull("alibaba/ROLL", 444), pull("natolambert/rlhf-book", 216), pull("NovaSky-AI/SkyRL", 462)),
        _without_mask,
        *(as_loss(Recipe(baseline=name, mask="ignored")) for name in ("leave_one_out",)),
    ),
    _mistake(
        "no_gradient",
        "no gradient: the log-probabilities are detached",
        "Nothing flows back: the log-probabilities are detached, turned into numbers, or copied by torch.tensor.",
        "The loss does not require a gradient, or all slopes are 0.",
        (pull("kengz/SLM-Lab", 133), issue("Quantum-Cheese/DeepReinforcementLearning_Pytorch", 1)),
        _detached,
    ),
    _mistake(
        "baseline_not_detached",
        "the baseline is not detached: the policy loss trains the values",
        "The gradient flows through the advantage into the baseline, which is pushed wherever it makes the policy loss "
        "smaller, not towards the returns.",
        "The slopes by the values change with the log-probabilities.",
        (issue("astariul/encode-attend-navigate-pytorch", 2), issue("ChenRocks/fast_abs_rl", 49)),
        _attached_values,
    ),
    Mistake(
        "policy_gradient.full_return",
        "the return of the whole episode at every step",
        "each score is multiplied with G_0, which also holds what was earned before. The expectation is right, and the "
        "variance is larger as a rule.",
        "All steps of an episode have the same weight.",
        (issue("udacity/deep-reinforcement-learning", 42), pull("huggingface/deep-rl-class", 95)),
        (as_loss(Recipe("full", "dropped")), as_loss(Recipe("full", "dropped", "leave_one_out"))),
        severity="remark",
    ),
)
