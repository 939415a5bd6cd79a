"""The known mistakes of generalized advantages."""

import torch

from pgtheory.checking.episodes import shifted
from pgtheory.checking.report import Mistake, arxiv, issue, pull
from pgtheory.checking.td_errors import (
    MOVES,
    SCALES,
    bootstrapped,
    cut_at_masked_steps,
    flags_of_another_step,
    forwards,
    gae,
    lambda_from_the_second_step,
    none,
    of_steps,
    own_value,
    padding,
    run_together,
    scaled_returns,
    seeded,
    seeded_always,
    td_error,
    then_standardised,
    unless,
    whitened,
    with_next,
    zero,
)

_GAE = arxiv("Schulman et al., 2016, eq. (16)", "1506.02438")
_TIME_LIMITS = arxiv("Pardo et al., 2018", "1712.00378")


MISTAKES = (
    Mistake(
        "advantages.padding_counted",
        "the mask is ignored",
        "What stands behind the last step that was taken is counted as rewards and values. It is right only if zeros "
        "stand there.",
        "The result changes with the padding.",
        (pull("radixark/miles", 1827), pull("natolambert/rlhf-book", 216), issue("huggingface/trl", 7024)),
        (*(padding(flagged=f, bootstrapped=b, summed=True) for f in (False, True) for b in (True, False)),),
    ),
    Mistake(
        "advantages.padding_bootstrapped",
        "bootstraps from the padding",
        "The sum ends at the last step that was taken, but its δ contains the value that stands behind it.",
        "Only the sequences that are shorter than the longest are wrong.",
        (pull("radixark/miles", 1827), issue("huggingface/trl", 7024)),
        (
            *(padding(flagged=f, bootstrapped=True, summed=False) for f in (False, True)),
            *(cut_at_masked_steps(flagged=f, after=lambda s: s.row_values) for f in (False, True)),
        ),
    ),
    Mistake(
        "advantages.done_of_next_step",
        "off by one: the done flag of the next step is used",
        "The flag of step t + 1 is read where that of step t belongs, so that the cut and the missing bootstrap come "
        "one step early.",
        "It is wrong at the ends of episodes and at the steps just before them.",
        (issue("DLR-RM/stable-baselines3", 105), issue("hill-a/stable-baselines", 385)),
        flags_of_another_step(-1),
    ),
    Mistake(
        "advantages.done_of_previous_step",
        "off by one: the done flag of the previous step is used",
        "The flag of step t - 1 is read where that of step t belongs, so that the last step of an episode bootstraps "
        "from the reset state and the first step of the next one is cut off.",
        "It is wrong at the last step of an episode and at the first step after it.",
        (issue("anthonytorlucci/rlevo", 342), pull("RoboVerseOrg/RoboVerse", 814)),
        flags_of_another_step(1),
    ),
    Mistake(
        "advantages.bootstraps_after_termination",
        "bootstraps after a termination",
        "δ contains γ V(S_{t+1}) although the episode terminated there, where the value is 0 by definition; the sum "
        "is cut at the right place.",
        "The advantage of a terminal step changes with the value of the terminal state.",
        (
            issue("MorvanZhou/Reinforcement-learning-with-tensorflow", 153),
            issue("openai/spinningup", 257),
            issue("thu-ml/tianshou", 869),
        ),
        (
            gae(with_next(MOVES[0])),
            gae(with_next(MOVES[1])),
            gae(with_next(unless(lambda s: s.terminated, MOVES[1]))),
        ),
    ),
    Mistake(
        "advantages.flags_ignored",
        "the ends of episodes are ignored altogether",
        "δ bootstraps after a termination and the sum goes on into the next episode, as if the row were one episode.",
        "The result does not change with the flags.",
        (issue("vietnh1009/Super-mario-bros-PPO-pytorch", 21), issue("thu-ml/tianshou", 869)),
        tuple(gae(with_next(move), none) for move in MOVES),
    ),
    Mistake(
        "advantages.sum_not_cut_at_termination",
        "the sum over δ goes on through a termination",
        "δ is right, but the factor (1 - done) is missing from the recursion: advantages hold errors of the next "
        "episode.",
        "A row with one episode only is right.",
        (issue("vietnh1009/Super-mario-bros-PPO-pytorch", 21),),
        (
            gae(cut=none),
            gae(cut=lambda s: s.truncated),
            gae(with_next(unless(lambda s: s.truncated, MOVES[1])), none),
            gae(with_next(unless(lambda s: s.truncated, zero)), none),
        ),
    ),
    Mistake(
        "advantages.truncation_as_termination",
        "a truncation is treated as a termination",
        "Nothing is bootstrapped at a time limit, although the state that was reached has a value: the truncated step "
        "looks too bad.",
        "The advantage of a truncated step does not change with V(S_{t+1}).",
        (issue("vwxyzjn/cleanrl", 198), issue("luchris429/purejaxrl", 20), _TIME_LIMITS),
        (gae(with_next(unless(lambda s: s.ends, zero))),),
    ),
    Mistake(
        "advantages.sum_not_cut_at_truncation",
        "the sum over δ goes on through a truncation",
        "The truncated step bootstraps rightly, but the recursion is cut at terminations only: advantages hold errors "
        "of the next episode.",
        "It is wrong before truncations only, and by what happens after the reset.",
        (issue("Toni-SM/skrl", 224), issue("Toni-SM/skrl", 449)),
        (gae(cut=lambda s: s.terminated),),
    ),
    Mistake(
        "advantages.truncation_ignored",
        "truncations are ignored altogether",
        "A truncated step bootstraps from the value of the next step in the row, which belongs to another episode, and "
        "the sum goes on into it.",
        "The result does not change with the flags of truncation.",
        (issue("Toni-SM/skrl", 224), pull("google-deepmind/mujoco_playground", 320), _TIME_LIMITS),
        (
            gae(with_next(unless(lambda s: s.truncated, MOVES[1])), lambda s: s.terminated),
            gae(with_next(unless(lambda s: s.truncated & ~s.is_last, zero)), lambda s: s.terminated),
        ),
    ),
    Mistake(
        "advantages.reset_state_bootstrapped",
        "bootstraps from the reset state at a truncation",
        "V(S_{t+1}) is read from the next step of the row, which is the first state of another episode; the state "
        "that was truly reached is lost.",
        "The advantage of a truncated step changes with the value of the state after the reset.",
        (issue("google-deepmind/mujoco_playground", 305), issue("sail-sg/envpool", 194)),
        (
            gae(with_next(unless(lambda s: s.truncated, MOVES[1]))),
            gae(with_next(unless(lambda s: s.truncated & ~s.terminated, MOVES[1]))),
        ),
    ),
    Mistake(
        "advantages.flags_swapped",
        "terminations and ends of episodes are swapped",
        "δ is masked where the episode ended in any way, and the sum is cut at terminations only: the two flags stand "
        "in each other's place.",
        "It is wrong at truncations and before them.",
        (pull("pytorch/rl", 2773), issue("vwxyzjn/cleanrl", 457)),
        (gae(with_next(unless(lambda s: s.ends, zero)), lambda s: s.terminated),),
    ),
    Mistake(
        "advantages.own_value_at_truncation",
        "bootstraps from V(S_t) instead of V(S_{t+1}) at a truncation",
        "The value of the state before the step stands in for that of the state that was reached at the time limit.",
        "The advantage of a truncated step does not change with V(S_{t+1}).",
        (issue("Denys88/rl_games", 128), issue("leggedrobotics/rsl_rl", 151)),
        (gae(with_next(unless(lambda s: s.truncated, lambda s: s.values))),),
    ),
    Mistake(
        "advantages.ended_step_zeroed",
        "the advantage of the last step of an episode is set to zero",
        "The mask multiplies the whole δ of the step that ends the episode, so that its reward and its value count for "
        "nothing.",
        "Every step with a flag has advantage 0.",
        (issue("ikostrikov/pytorch-a2c-ppo-acktr-gail", 182),),
        tuple(
            gae(delta=lambda s, at=at: torch.where(at(s), 0.0, td_error(s)))  # type: ignore[misc]
            for at in (lambda s: s.terminated, lambda s: s.truncated, lambda s: s.ends)
        ),
    ),
    Mistake(
        "advantages.terminal_reward_dropped",
        "the reward of the step that terminates is dropped",
        "The factor (1 - done) multiplies the reward as well as the value of the next state.",
        "At a termination the advantage is -V(S_t), whatever the reward.",
        (issue("weipu-zhang/STORM", 16),),
        (
            gae(lambda s: torch.where(s.terminated, -s.values, td_error(s))),
            gae(lambda s: torch.where(s.ends, -s.values, td_error(s))),
        ),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.masked_twice",
        "the mask is applied twice, and cuts one step too early as well",
        "The advantage that is carried back is multiplied by the flag of its own step after the recursion has been "
        "masked: the step before an end loses it too.",
        "The step before the last of an episode has advantage δ alone.",
        (issue("alessiodm/drl-zh", 13),),
        (
            gae(cut=lambda s: s.ends | shifted(s.ends, -1, "False")),
            gae(cut=lambda s: s.ends | shifted(s.terminated, -1, "False")),
        ),
    ),
    Mistake(
        "advantages.lambda_ignored",
        "λ is missing: the bootstrapped return minus V(S_t), as if λ = 1",
        "δ is weighted by γ^l where (γλ)^l belongs: the variance that λ should reduce stays.",
        "The result does not change with λ.",
        (issue("AI4Finance-Foundation/ElegantRL", 183),),
        (gae(weight=lambda s: s.gamma),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.monte_carlo",
        "Monte Carlo returns minus V(S_t)",
        "The advantage is the sum of the rewards of the row minus V(S_t): λ is ignored, and nothing is bootstrapped "
        "where the episode goes on or was truncated.",
        "The result changes with no value but V(S_t).",
        (issue("hpcaitech/ColossalAI", 4491),),
        (gae(lambda s: s.rewards, weight=lambda s: s.gamma, then=lambda s, a: a - s.values),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.sum_without_gamma",
        "γ is missing from γλ: the sum is weighted by λ alone",
        "δ_{t+l} is weighted by λ^l where (γλ)^l belongs: later errors count too much.",
        "With λ = 1 the errors are not discounted.",
        (issue("boyu-ai/Hands-on-RL", 22),),
        (gae(weight=lambda s: s.lam),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.sum_not_weighted",
        "γλ is missing: the plain sum over δ",
        "All later errors count alike, whatever γ and λ are.",
        "The difference of the advantages of two steps in a row is δ.",
        (issue("boyu-ai/Hands-on-RL", 22),),
        (gae(weight=lambda s: 1.0),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.weight_on_delta",
        "γλ multiplies δ instead of the sum that is carried back",
        "The recursion is A_t = γλ δ_t + A_{t+1} where A_t = δ_t + γλ A_{t+1} is right.",
        "The last advantage is γλ δ.",
        (issue("boyu-ai/Hands-on-RL", 22),),
        (gae(weight=lambda s: 1.0, then=lambda s, a: s.gamma * s.lam * a),),
    ),
    Mistake(
        "advantages.delta_without_gamma",
        "γ is missing from δ",
        "δ is R + V(S_{t+1}) - V(S_t): the value of the next state is not discounted.",
        "The advantage is too large by (1 - γ) V(S_{t+1}) and what follows from it.",
        (),
        (gae(lambda s: s.rewards + bootstrapped(s) - s.values),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.gamma_ignored",
        "γ is ignored altogether",
        "γ is missing from δ and from the weight of the sum, as if it were 1.",
        "The result does not change with γ.",
        (issue("dennybritz/reinforcement-learning", 55),),
        (gae(lambda s: s.rewards + bootstrapped(s) - s.values, weight=lambda s: s.lam),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.gamma_twice",
        "γ is applied twice",
        "γ² stands where γ belongs, in δ or in the weight of the sum.",
        "With γ = 1 it is right.",
        (),
        (
            gae(lambda s: s.rewards + s.gamma**2 * bootstrapped(s) - s.values),
            gae(weight=lambda s: s.gamma**2 * s.lam),
            gae(lambda s: s.rewards + s.gamma**2 * bootstrapped(s) - s.values, weight=lambda s: s.gamma**2 * s.lam),
        ),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.lambda_in_delta",
        "λ is in δ",
        "δ is R + γλ V(S_{t+1}) - V(S_t): λ belongs in the weight of the sum only.",
        "The last advantage changes with λ.",
        (),
        (
            gae(lambda s: s.rewards + s.gamma * s.lam * bootstrapped(s) - s.values),
            gae(lambda s: s.rewards + s.lam * bootstrapped(s) - s.values),
        ),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.reward_discounted",
        "the immediate reward is discounted as well",
        "δ is γ (R + V(S_{t+1})) - V(S_t): the reward of the step itself has weight γ.",
        "At a termination the advantage is γ R - V(S_t).",
        (pull("juliusfrost/dreamer-pytorch", 59),),
        (gae(lambda s: s.gamma * (s.rewards + bootstrapped(s)) - s.values),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.own_value_for_next",
        "V(S_t) is used for V(S_{t+1}) in δ",
        "Both values in δ are those of the state before the step.",
        "The result does not change with the value of the state reached.",
        (issue("4kasha/CartPole_PPO", 1),),
        (
            gae(with_next(own_value)),
            gae(with_next(lambda s: s.values)),
        ),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.values_swapped",
        "V(S_t) and V(S_{t+1}) are swapped in δ",
        "δ is R + γ V(S_t) - V(S_{t+1}): the change of the value has the wrong sign.",
        "A step into a better state gets a smaller advantage.",
        (),
        (
            gae(lambda s: s.rewards + s.gamma * s.values - bootstrapped(s)),
            *(
                gae(lambda s, after=after: s.rewards + s.gamma * own_value(s) - after(s))  # type: ignore[misc]
                for after in MOVES
            ),
        ),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.next_value_missing",
        "V(S_{t+1}) is missing: rewards minus values are summed",
        "δ is R - V(S_t): the value of the next state is not added.",
        "The result does not change with the value after the last step.",
        (pull("dennybritz/reinforcement-learning", 39), issue("hpcaitech/ColossalAI", 4491)),
        (gae(lambda s: s.rewards - s.values),),
    ),
    Mistake(
        "advantages.reward_minus_value",
        "the reward minus V(S_t), without what follows",
        "Neither the value of the next state nor any later step counts.",
        "Every advantage is that of the last step of an episode.",
        (issue("hpcaitech/ColossalAI", 4491), pull("natolambert/rlhf-book", 216)),
        (gae(lambda s: s.rewards - s.values, weight=lambda s: 0.0),),
    ),
    Mistake(
        "advantages.sign",
        "the sign is flipped",
        "The result is minus the advantage: good actions become less probable.",
        "Every number has the wrong sign.",
        (),
        (gae(then=lambda s, a: -a),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.lambda_returns",
        "λ-returns instead of advantages: V(S_t) is added back",
        "The result is A + V(S_t), the target of the value function; as a weight of the score it has a larger "
        "variance, and it is not an advantage.",
        "At a termination the result is the reward.",
        (issue("higgsfield-ai/higgsfield", 6), issue("ikostrikov/pytorch-a2c-ppo-acktr-gail", 110)),
        (gae(then=lambda s, a: a + s.values),),
    ),
    Mistake(
        "advantages.values_subtracted_twice",
        "V(S_t) is subtracted twice",
        "The values are subtracted from what are advantages already, as if these were returns.",
        "At a termination the result is R - 2 V(S_t).",
        (issue("higgsfield-ai/higgsfield", 6),),
        (gae(then=lambda s, a: a - s.values),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.value_not_subtracted",
        "V(S_t) is not subtracted in δ",
        "δ is R + γ V(S_{t+1}): what is summed are targets, each of which counts the future again.",
        "The result does not change with V(S_t) of the first step.",
        (issue("higgsfield-ai/higgsfield", 6),),
        (gae(lambda s: s.rewards + s.gamma * bootstrapped(s)),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.delta_alone",
        "δ alone, as if λ = 0",
        "Nothing is summed: later errors do not count, whatever λ is. It also comes about if the recursion reads A_t, "
        "which is still 0, in place of A_{t+1}.",
        "The result does not change with λ.",
        (issue("4kasha/CartPole_PPO", 1),),
        (gae(weight=lambda s: 0.0),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.last_step_not_bootstrapped",
        "the last step of the row is not bootstrapped",
        "A row that stops before its episode ends is treated as if the episode had terminated there: the value after "
        "the last step is 0.",
        "The result does not change with the value after the last step.",
        (pull("rohitg00/ai-engineering-from-scratch", 54), issue("vwxyzjn/cleanrl", 16)),
        (
            gae(with_next(unless(lambda s: s.is_last & ~s.truncated, zero))),
            gae(with_next(unless(lambda s: s.is_last, zero))),
        ),
    ),
    Mistake(
        "advantages.own_value_at_the_end",
        "the value of the last state stands for the value behind the row",
        "A row that stops before its episode ends is bootstrapped from the value of the state in which its last action "
        "was taken, not from that of the state reached.",
        "The result does not change with the value after the last step, and the last advantage has γ V(S_t) - V(S_t).",
        (issue("tensorflow/agents", 953),),
        (
            gae(with_next(unless(lambda s: s.is_last & ~s.truncated, own_value))),
            gae(with_next(unless(lambda s: s.is_last, own_value))),
        ),
    ),
    Mistake(
        "advantages.last_step_dropped",
        "the last step of the row is dropped",
        "The loop starts one step early, as with range(T - 1): the last advantage stays 0, and its error reaches no "
        "other step.",
        "The last advantage is 0.",
        (issue("Farama-Foundation/Gymnasium", 1494), issue("vwxyzjn/cleanrl", 16)),
        (
            gae(lambda s: torch.where(s.is_last, 0.0, td_error(s))),
            gae(then=lambda s, a: torch.where(s.is_last, 0.0, a)),
        ),
    ),
    Mistake(
        "advantages.accumulated_forwards",
        "accumulated forwards in time",
        "The recursion runs from the first step to the last: A_t holds the errors before t instead of those after it.",
        "The first advantage is its δ alone.",
        (issue("mohmdelsayed/streaming-drl", 3),),
        tuple(forwards(cut) for cut in (lambda s: s.ends, none, lambda s: shifted(s.ends, -1, "False"))),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.reversed_order",
        "the advantages in reversed order",
        "The recursion runs backwards and appends, and the list is never turned round: step t gets the advantage of "
        "step T-1-t.",
        "The first advantage is that of the last step.",
        (issue("PacktPublishing/Tensorflow-2-Reinforcement-Learning-Cookbook", 27),),
        (gae(then=lambda s, a: a.flip(-1)),),
    ),
    Mistake(
        "advantages.standardised",
        "the advantages are standardised",
        "The mean is subtracted and the result divided by the standard deviation. PPO code often does this on purpose "
        "afterwards; the results are no estimates of the advantage, and their signs may differ from it.",
        "The result has mean 0, and is NaN or 0 for one step.",
        (issue("openai/baselines", 544), issue("DLR-RM/stable-baselines3", 485), issue("tensorflow/agents", 651)),
        (
            *(
                then_standardised(ddof, dims, eps, alone)
                for alone in (True, False)
                for dims in ((-1,), (-2, -1))
                for ddof, eps in ((0, 1e-8), (0, 0.0), (1, 1e-8))
            ),
            *(whitened(ddof) for ddof in (0, 1)),
        ),
    ),
    Mistake(
        "advantages.standardised_over_rows",
        "the advantages are standardised over the rows of the batch",
        "The mean and the standard deviation of each step are those of the other rows at the same step: with two rows "
        "the result is 1 and -1.",
        "Each step has mean 0 over the rows.",
        (issue("openai/baselines", 544), issue("DLR-RM/stable-baselines3", 485)),
        tuple(then_standardised(ddof, (-2,), eps, True) for ddof, eps in ((0, 1e-8), (0, 0.0), (1, 1e-8))),
    ),
    Mistake(
        "advantages.centred",
        "the mean of the advantages is subtracted",
        "The advantages of the batch are centred: their signs may differ from those of the advantages.",
        "The result has mean 0.",
        (issue("openai/baselines", 544),),
        tuple(
            gae(then=lambda s, a, d=dims: a - a.mean(d, keepdim=True))  # type: ignore[misc]
            for dims in ((-1,), (-2, -1))
        ),
    ),
    Mistake(
        "advantages.rows_run_together",
        "the rows of a batch run together",
        "The batch is treated as one long row, or the running sum is not set to zero before the next row: advantages "
        "hold errors of other rows.",
        "A single row is right, a batch of two is not.",
        (pull("juliusfrost/dreamer-pytorch", 59), issue("apeterswu/RL4NMT", 3)),
        (run_together(False), run_together(True)),
    ),
    Mistake(
        "advantages.cut_at_masked_steps",
        "the sum over δ is cut at every masked step",
        "The recursion is multiplied by the mask. That is right for padding behind an answer; a tool's output inside "
        "one is masked too, and the steps before it lose what follows.",
        "With a hole in the mask, the steps before it do not see the reward behind it.",
        (issue("verl-project/verl", 7278), pull("alibaba/ROLL", 447)),
        tuple(cut_at_masked_steps(flagged=f, after=zero) for f in (False, True)),
    ),
    Mistake(
        "advantages.masked_steps_as_ends",
        "the sum over δ is cut at a masked step inside a row, as at a truncation",
        "Each δ bootstraps from the value of the next step taken, and the sum ends there: an estimate with a shorter "
        "horizon, where λ should reach across the tool's output.",
        "With a mask that only ends rows nothing changes.",
        (issue("verl-project/verl", 7278),),
        (cut_at_masked_steps(flagged=True, after=lambda s: s.next_values),),
        severity="remark",
    ),
    Mistake(
        "advantages.masked_steps_as_steps",
        "masked steps inside a row count as steps with reward 0 and value 0",
        "With a mask that only ends rows it is right. A hole in the mask takes the bootstrap from the step before it, "
        "and discounts what follows once more for each masked step.",
        "With γ = λ = 1 it is right for any mask.",
        (pull("alibaba/ROLL", 447),),
        tuple(padding(flagged=f, bootstrapped=True, summed=True, zeroed=True) for f in (False, True)),
        severity="remark",
    ),
    Mistake(
        "advantages.bootstraps_where_both",
        "bootstraps where a step is both terminated and truncated",
        "A step that reaches a terminal state at the time limit is taken for a truncation alone: the value of a "
        "terminal state is 0.",
        "It is wrong only where both flags are set.",
        (),
        tuple(gae(with_next(unless(lambda s: s.terminated & s.truncated, move))) for move in MOVES),
        right_form=(_TIME_LIMITS,),
    ),
    Mistake(
        "advantages.carry_seeded",
        "the recursion starts with the bootstrap value instead of 0",
        "The value after the last step is in its δ already; as the first value of the sum that is carried back it "
        "counts a second time, with weight (γλ)^(T-t).",
        "It is right for rows that end in a termination.",
        (pull("simonsays1980/rl-triton", 4),),
        (gae(then=seeded), gae(then=seeded_always)),
    ),
    Mistake(
        "advantages.lambda_from_the_second_step",
        "λ is missing from the first step of the sum",
        "δ_{t+l} is weighted by γ^l λ^(l-1) where (γλ)^l belongs: all that follows counts too much by 1/λ.",
        "With λ = 1, and for the last step of an episode, it is right.",
        (),
        (of_steps(lambda_from_the_second_step),),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.reward_plus_own_value",
        "the reward plus V(S_t), without γ",
        "The value of the state before the step is added to the reward, and nothing is discounted or subtracted: it is "
        "no error of a prediction.",
        "The result does not change with γ.",
        (),
        (
            gae(lambda s: s.rewards + s.values, weight=lambda s: 0.0),
            gae(lambda s: s.rewards + s.values),
            gae(lambda s: s.rewards + own_value(s) - s.values),
        ),
        right_form=(_GAE,),
    ),
    Mistake(
        "advantages.scaled_returns_minus_values",
        "standardised returns minus the values",
        "The returns are normalised before the values are subtracted: the two have different scales, and their "
        "difference is no advantage.",
        "Doubled rewards and values do not double the result.",
        (issue("DLR-RM/stable-baselines3", 2089),),
        tuple(scaled_returns(change, bootstrap=b) for change in SCALES for b in (False, True)),
    ),
)
