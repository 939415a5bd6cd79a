"""What goes wrong in losses of groups of responses: each mistake is a value of a factor."""

from pgtheory.checking.clipped import ADVANTAGE_SPECS, SIGN, SURROGATE_SPECS, TO_REFERENCE_SPEC
from pgtheory.checking.group_losses import CENTRES, NORMS, SCALES
from pgtheory.checking.loss import Spec, values
from pgtheory.checking.report import Source, arxiv, issue, pull
from pgtheory.checking.responses import RESPONSE_SPECS

_GRPO = arxiv("Shao et al., 2024", "2402.03300")
_KL = Source("Schulman, Approximating KL Divergence, 2020", "http://joschu.net/blog/kl-approx.html")

_OF_ADVANTAGES = tuple(
    (spec, names)
    for spec in ADVANTAGE_SPECS
    for tail, names in (
        ("absolute_advantage", ("absolute 1", "absolute std1", "absolute std0")),
        ("sign_of_advantage", ("signs 1",)),
        ("advantages_not_used", ("ones 1",)),
    )
    if spec.tail == tail
)
ADVANTAGES_OF_GROUPS = (
    Spec(
        "baseline_of_the_batch",
        "mean and standard deviation over the whole batch instead of the group",
        "Responses to different prompts are compared: all responses to an easy prompt are reinforced, and all to a "
        "hard one are punished.",
        "With one group it is right.",
        (issue("XU-YIJIE/grpo-flat", 2), issue("THUDM/slime", 1414)),
        values("advantage", *(f"batch mean {scale}" for scale in ("1", "std1", "std0"))),
    ),
    Spec(
        "not_centred",
        "the rewards are scaled but not centred",
        "The rewards are divided by the standard deviation without the mean of the group being subtracted: the scale "
        "depends on the responses, and there is no baseline to make up for it.",
        "The advantages of a group do not sum to 0.",
        (),
        values("advantage", *(f"group nothing {scale}" for scale in SCALES[1:])),
        (_GRPO,),
    ),
    Spec(
        "wrong_grouping",
        "rewards are grouped wrongly: mean and standard deviation over responses to different prompts",
        "A reshape, or an axis, puts responses to different prompts into one group.",
        "It is right with one group, and wrong with several.",
        (issue("areal-project/AReaL", 1419), issue("THUDM/slime", 1414)),
        values(
            "advantage",
            *(f"{part} mean {s}" for part in ("strided", "blocks", "columns") for s in ("1", "std1", "std0")),
        ),
    ),
    Spec(
        "repeat_for_repeat_interleave",
        "repeat instead of repeat_interleave: the statistics of another group",
        "The means of the groups are tiled (1, 2, 1, 2) where responses come group by group (1, 1, 2, 2).",
        "It is right with one group, and wrong with several.",
        (),
        values("advantage", *(f"repeat {scale}" for scale in ("1", "std1", "std0"))),
        (_GRPO,),
    ),
    Spec(
        "advantages_of_other_responses",
        "the advantages are given to other responses",
        "Advantages are computed rightly and then put in another order: transposed, or shifted within the group.",
        "The slopes of a response depend on the reward of another one.",
        (),
        values("advantage", *(f"{how} {s}" for how in ("transposed", "other") for s in ("1", "std1", "std0"))),
        (_GRPO,),
    ),
    Spec(
        "advantages_of_another_group",
        "the advantages of another group",
        "Responses to one prompt are weighted by what responses to another one have earned.",
        "It is right with one group.",
        (),
        values("advantage", *(f"rolled {scale}" for scale in ("1", "std1", "std0"))),
        (_GRPO,),
    ),
    Spec(
        "divided_by_variance",
        "divided by the variance instead of the standard deviation",
        "The scale of the rewards does not cancel but is inverted: doubled rewards halve the gradient.",
        "The advantages have the standard deviation 1/σ, not 1.",
        (),
        values("advantage", *(f"group {centre} var{ddof}" for centre in CENTRES for ddof in (0, 1))),
        (_GRPO,),
    ),
    Spec(
        "statistics_over_tokens",
        "mean and standard deviation over tokens instead of responses",
        "The reward is repeated at each token before the mean is taken: long responses count more often.",
        "It is right where all responses are equally long.",
        (),
        values("advantage", *(f"tokens {scale}" for scale in ("1", "std1", "std0"))),
        (_GRPO,),
    ),
    Spec(
        "normalised_twice",
        "normalised twice: in the group, and again over the batch",
        "Advantages that have been divided by the standard deviation of the group are standardised once more over the "
        "whole batch.",
        "The scale of a group depends on the other groups.",
        (pull("axon-rl/gem", 113), pull("amazon-science/reskill", 12)),
        values("advantage", *(f"twice {a} {b}" for a in ("std1", "std0") for b in ("std1",))),
    ),
    Spec(
        "leave_one_out_divided_wrongly",
        "the mean of the other responses is divided by the size of the group",
        "The sum of the K - 1 other rewards is divided by K: the baseline is too small, and not centred.",
        "With equal rewards the advantages are not 0.",
        (issue("redai-studio/Relax", 174),),
        values("advantage", "own 1"),
        (arxiv("Ahmadian et al., 2024", "2402.14740"),),
    ),
    *(spec._replace(values=values("advantage", *names)) for spec, names in _OF_ADVANTAGES),
)
AVERAGE_SPECS = (
    Spec(
        "mask_ignored",
        "the mask is ignored: padding is trained on",
        "What stands behind the end of a response enters the loss like a token of it.",
        "There are slopes at places where the mask is False.",
        (pull("bingreeky/MemGen", 33), issue("MakazhanAlpamys/Soup", 723), pull("alibaba/ROLL", 444)),
        values("average", *(f"every{kind} {n}" for kind in ("", "_mean", "_response", "_tokens") for n in NORMS[:2])),
    ),
    Spec(
        "divided_by_the_longest",
        "divided by the length of the longest response",
        "The sum over tokens is divided by the largest number of tokens in the group or batch: the weight of a "
        "response depends on how long the others happen to be.",
        "One longer response makes the gradient of all others smaller.",
        (issue("huggingface/trl", 2995),),
        values("average", *(f"{base} {norm}" for base in ("longest", "longest_of_all") for norm in NORMS[:2])),
        (arxiv("Liu et al., 2025 (Dr. GRPO)", "2503.20783"),),
    ),
)
NO_EPSILON = Spec(
    "no_epsilon",
    "no epsilon: 0/0 when all rewards of a group are equal",
    "The standard deviation of equal rewards is 0; without an ε in the denominator one such group makes the whole "
    "gradient NaN.",
    "NaN as soon as a prompt is solved by all responses, or by none.",
    (pull("bojieli/ai-agent-book", 498),),
    values("advantage", "unguarded std1", "unguarded std0"),
)
PENALTY_SPECS = (
    Spec(
        "kl_swapped",
        "the arguments of the KL penalty are swapped",
        "k3 is r - 1 - log r with r = π_ref/π; with π/π_ref it is another function, whose gradient grows with the "
        "ratio that it should bound.",
        "At log π - log π_ref = 1 the slope of the penalty is e - 1, not 1 - 1/e.",
        (issue("walkinglabs/hands-on-modern-rl", 27),),
        values("penalty", "swapped"),
        (_KL,),
    ),
    Spec(
        "kl_without_gradient",
        "the KL penalty has no gradient",
        "It is computed without gradients, detached, or from log-probabilities that do not depend on the parameters: "
        "it changes the value of the loss and nothing else.",
        "The slopes do not change with β.",
        (issue("allenai/open-instruct", 530), issue("NovaSky-AI/SkyRL", 1340)),
        values("penalty", "none"),
    ),
    Spec(
        "kl_sign",
        "the sign of the KL penalty is wrong: divergence is rewarded",
        "The penalty is subtracted from the loss, or added to the objective: the policy is driven away from the "
        "reference.",
        "A larger β makes the KL larger.",
        (issue("qiancheng0/ToolRL", 52), issue("lucidrains/PaLM-rlhf-pytorch", 38)),
        ({"penalty": "k3", "penalty_sign": -1.0},),
    ),
    Spec(
        "kl_unmasked",
        "the KL penalty is not masked: padding enters it",
        "The penalty is averaged over all places, those behind the end of a response included.",
        "There are slopes at places where the mask is False, if β is not 0.",
        (pull("allenai/open-instruct", 535), pull("natolambert/rlhf-book", 216)),
        tuple({"penalty": "k3", "penalty_average": f"every{kind} GS"} for kind in ("", "_mean", "_response")),
    ),
    Spec(
        "kl_k1_as_loss",
        "k1 as a loss: its expected gradient is zero",
        "The gradient of log π - log π_ref does not depend on the reference, and its expectation under π is 0: the "
        "penalty only adds noise.",
        "The slopes do not change with the reference.",
        (pull("allenai/open-instruct", 535), arxiv("Tang and Munos, 2025", "2506.09477")),
        values("penalty", "k1"),
    ),
    Spec(
        "kl_absolute",
        "the absolute log-ratio as KL penalty",
        "|log π - log π_ref| has the same slope however far the policy is from the reference; it estimates no KL.",
        "The slope of the penalty is ±β.",
        (issue("huggingface/trl", 1161),),
        values("penalty", "absolute"),
        (_KL,),
    ),
    Spec(
        "kl_exp_of_the_ratio",
        "k3 with the exponential of the ratio",
        "The ratio is exponentiated once more: exp(r) - r - 1 where r is already π_ref/π.",
        "The penalty is not 0 where the policies agree.",
        (pull("Rolv-Arild/rocket-learn", 12),),
        values("penalty", "exp_of_ratio"),
    ),
)

SPECS = (
    SIGN,
    *SURROGATE_SPECS,
    *RESPONSE_SPECS,
    TO_REFERENCE_SPEC,
    *ADVANTAGES_OF_GROUPS,
    NO_EPSILON,
    *AVERAGE_SPECS,
    *PENALTY_SPECS,
)
