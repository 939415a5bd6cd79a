"""What goes wrong in estimates of the KL divergence, and in losses that should have its gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from pgtheory.checking.calling import Misfit
from pgtheory.checking.report import Mistake, Source, arxiv, issue, pull


def of_ratio(value: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The value of each token as a function of k1 = ln π - ln π_ref, 0 where the mask says so."""
    return _of_both(lambda p, q: value(p - q))


def _of_both(value: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The value of each token as a function of ln π and ln π_ref, 0 where the mask says so."""

    def implementation(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask.bool(), value(log_probs, ref_log_probs), 0.0)

    return implementation


def _unmasked(value: Callable[[Tensor], Tensor], reduce: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def implementation(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
        return reduce(value(log_probs - ref_log_probs))

    return implementation


def _masked_then(value: Callable[[Tensor], Tensor], reduce: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def implementation(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
        return reduce(value(log_probs - ref_log_probs) * mask)

    return implementation


def _of_distributions(value: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A function of two whole distributions."""

    def implementation(log_probs: Tensor, ref_log_probs: Tensor, whole: bool) -> Tensor:
        if not whole:
            raise Misfit("it takes whole distributions")
        return value(log_probs.softmax(-1), ref_log_probs.softmax(-1))

    return implementation


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    return (p * (p / middle).log() + q * (q / middle).log()).sum(-1) / 2


def k1(d: Tensor) -> Tensor:
    """The log ratio."""
    return d


def k2(d: Tensor) -> Tensor:
    """Half of its square."""
    return d.square() / 2


def k3(d: Tensor) -> Tensor:
    """The ratio less 1 less its logarithm."""
    return torch.expm1(-d) + d


def _mean(values: Tensor) -> Tensor:
    return values.mean()


def _row_mean(values: Tensor) -> Tensor:
    return values.mean(-1)


_REDUCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (lambda x: x, _mean, torch.sum, _row_mean, lambda x: x.sum(-1))
_SCHULMAN = Source("Schulman, 2020, Approximating KL Divergence", "http://joschu.net/blog/kl-approx.html")
_TANG = arxiv("Tang and Munos, 2025", "2506.09477")
_LIU = arxiv("Liu et al., 2025", "2510.01555")
_KL_DIV = Source(
    "PyTorch, documentation of KLDivLoss", "https://docs.pytorch.org/docs/stable/generated/torch.nn.KLDivLoss.html"
)

MISTAKES = (
    Mistake(
        "kl.k2",
        "k2, half the squared log ratio, which is biased as an estimate of the KL",
        "Its expectation is not the divergence, though close to it where the policies are. It is the estimate whose "
        "gradient, when it is used as a loss, is right.",
        "The values are never negative and do not change when the arguments are swapped.",
        (pull("NovaSky-AI/SkyRL", 1445),),
        (of_ratio(k2),),
        "remark",
        right_form=(_SCHULMAN,),
    ),
    Mistake(
        "kl.sign",
        "arguments swapped or sign wrong, so that it estimates -KL",
        "The log ratio is ln ref - ln π. Its mean over samples of π is minus the divergence: as a penalty it rewards "
        "moving away from the reference.",
        "The mean over many samples is negative.",
        (issue("nebuly-ai/optimate", 298), issue("lucidrains/PaLM-rlhf-pytorch", 38)),
        (of_ratio(lambda d: -d), of_ratio(lambda d: -k3(d))),
    ),
    Mistake(
        "kl.k3_ratio_inverted",
        "k3 with the ratio inverted, π/ref in place of ref/π",
        "With samples of π the ratio of k3 must be ref/π, whose expectation is 1. With π/ref the estimate is biased, "
        "and large where the policies differ.",
        "The values are never negative, and much larger than the log ratio where π is above the reference.",
        (issue("walkinglabs/hands-on-modern-rl", 27), issue("hpcaitech/ColossalAI", 3696)),
        (of_ratio(lambda d: torch.expm1(d) - d),),
        right_form=(_SCHULMAN,),
    ),
    Mistake(
        "kl.other_direction",
        "KL(ref‖π), the other direction",
        "The samples are weighted by ref/π, so that the expectation is that of the reference: it estimates the "
        "divergence in the other direction, which penalises other things.",
        "With a reference that excludes a token, it stays finite where KL(π‖ref) is infinite.",
        (issue("Kaixhin/ACER", 6), issue("advait/c4a0", 35)),
        (of_ratio(lambda d: torch.exp(-d) * -d), of_ratio(lambda d: torch.exp(-d) * -d - torch.expm1(-d))),
    ),
    Mistake(
        "kl.absolute_value",
        "absolute value of the log ratio",
        "The negative terms are what makes the expectation of k1 the divergence. Without their sign the estimate is "
        "too large wherever the policies differ.",
        "The values are the right ones with the sign removed.",
        (issue("huggingface/trl", 1161), issue("openai/spinningup", 137)),
        (of_ratio(torch.abs),),
    ),
    Mistake(
        "kl.square_without_half",
        "square of the log ratio without the factor 1/2",
        "It is twice k2: as a penalty with a coefficient of its own it does no harm, as an estimate of the divergence "
        "it is about twice too large.",
        "Close to the reference the result is twice the divergence.",
        (pull("PrimeIntellect-ai/prime-rl", 1697), pull("one-covenant/grail", 42)),
        (of_ratio(torch.square),),
    ),
    Mistake(
        "kl.negatives_clipped",
        "negative values clipped to 0",
        "A log ratio may be negative for a token, and must be for the mean to be right. Clipped at 0 the estimate is "
        "biased upwards.",
        "No value is negative, and many are exactly 0.",
        (pull("huggingface/trl", 3710), issue("tatsu-lab/alpaca_farm", 67)),
        (of_ratio(lambda d: d.clamp(min=0)),),
    ),
    Mistake(
        "kl.k3_without_one",
        "k3 without the -1",
        "The term r - 1 has expectation 0, and r has expectation 1: the estimate is too large by 1.",
        "It is 1 where the policies are equal.",
        (),
        (of_ratio(lambda d: torch.exp(-d) + d),),
        right_form=(_SCHULMAN,),
    ),
    Mistake(
        "kl.k3_wrong_sign_of_log",
        "k3 with the wrong sign of ln r",
        "It is (r - 1) + ln r, where the right form is (r - 1) - ln r: the expectation is minus the divergence, or "
        "biased if the ratio is inverted too.",
        "The values have both signs, and k3 has none below 0.",
        (issue("EmbodiedCity/Embodied-R.code", 2),),
        (of_ratio(lambda d: torch.expm1(-d) - d), of_ratio(lambda d: torch.expm1(d) + d)),
        right_form=(_SCHULMAN,),
    ),
    Mistake(
        "kl.k3_exp_twice",
        "k3 with the exponential taken twice, or of the ratio",
        "The ratio has been exponentiated already, and is put where its logarithm belongs: (exp(r) - 1) - r.",
        "Where the policies are equal it is e - 2, not 0.",
        (pull("Rolv-Arild/rocket-learn", 12),),
        (
            of_ratio(lambda d: torch.exp(-d).expm1() - torch.exp(-d)),
            of_ratio(lambda d: torch.exp(d).expm1() - torch.exp(d)),
        ),
    ),
    Mistake(
        "kl.k3_without_log",
        "r - 1 without the -ln r",
        "What is left of k3 without its logarithm has expectation 0, whatever the policies are.",
        "The mean over many samples is 0.",
        (),
        (of_ratio(lambda d: torch.expm1(-d)),),
        right_form=(_SCHULMAN,),
    ),
    Mistake(
        "kl.probability_difference",
        "difference of probabilities instead of their log ratio",
        "The log-probabilities are exponentiated and then subtracted: no divergence is a mean of that, and tokens of "
        "small probability count for nothing.",
        "The values lie between -1 and 1.",
        (),
        (
            _of_both(lambda p, q: p.exp() - q.exp()),
            _of_both(lambda p, q: (p.exp() - q.exp()).abs()),
            _of_both(lambda p, q: (p.exp() - q.exp()).square()),
            _of_both(lambda p, q: (p.exp() - q.exp()).square() / 2),
        ),
        right_form=(_SCHULMAN,),
    ),
    Mistake(
        "kl.weighted_twice",
        "sampled log ratio weighted by the probability again",
        "π ln(π/ref) is a term of the sum over all tokens. Of tokens that were sampled from π the mean is wanted, and "
        "this weights by π a second time: frequent tokens count too much.",
        "The result is smaller than the divergence, the more the larger the vocabulary.",
        (issue("marin-community/marin", 1708),),
        (_of_both(lambda p, q: p.exp() * (p - q)),),
    ),
    Mistake(
        "kl.kl_div_arguments",
        "F.kl_div with its arguments as they come: weighted by the reference",
        "F.kl_div(input, target) is target (ln target - input): given the log-probabilities of π first, it is "
        "ref ln(ref/π), a term of the other direction, and on sampled tokens no estimate at all.",
        "The values are bounded by the probabilities of the reference.",
        (issue("pytorch/pytorch", 57459), issue("sarahwie/attention", 6)),
        (_of_both(lambda p, q: q.exp() * (q - p)),),
    ),
    Mistake(
        "kl.mask_ignored",
        "the mask is ignored: padding counts",
        "What stands behind the end of a sequence is treated as a token: it enters the penalty or its mean.",
        "The result changes with the padding.",
        (pull("natolambert/rlhf-book", 216), issue("huggingface/trl", 6803), pull("radixark/miles", 1383)),
        tuple(_unmasked(value, reduce) for value in (k1, k3) for reduce in _REDUCTIONS),
    ),
    Mistake(
        "kl.mean_over_padding",
        "mean over all positions, padding included",
        "Padding is set to 0 and then counted: the sum is divided by the length of the row and not by the number of "
        "tokens, so that short sequences count for less.",
        "The result shrinks when padding is added.",
        (pull("natolambert/rlhf-book", 216), pull("allenai/open-instruct", 535), issue("huggingface/trl", 6803)),
        tuple(_masked_then(value, reduce) for value in (k1, k3) for reduce in (_mean, _row_mean)),
    ),
    Mistake(
        "kl.mean_over_vocabulary",
        "mean over the vocabulary instead of the sum, as with reduction='mean'",
        "The divergence is the sum of its terms over all tokens. Their mean is smaller by the size of the vocabulary: "
        "F.kl_div needs reduction='batchmean' or 'sum'.",
        "The result is the right one divided by the number of tokens.",
        (),
        (_of_distributions(lambda p, q: (p * (p / q).log()).mean()),),
        right_form=(_KL_DIV,),
    ),
    Mistake(
        "kl.jensen_shannon",
        "the Jensen-Shannon divergence, to the mean of the two distributions",
        "Both distributions are compared with their mixture: a distance that is bounded by ln 2, and goes to 0, not to "
        "the divergence, as the mixture goes to one of the two.",
        "It is the same with the arguments swapped, and never above ln 2.",
        (issue("modelscope/ms-swift", 10078), issue("verl-project/verl-recipe", 151)),
        (
            _of_distributions(lambda p, q: _jensen_shannon(p, q).mean()),
            _of_distributions(_jensen_shannon),
        ),
    ),
)

LOSS_MISTAKES = (
    Mistake(
        "kl_loss.k1",
        "k1 as a loss: expected gradient zero",
        "The gradient of ln π(a) - ln ref(a) is the score, whose expectation is 0: the reference has no influence, and "
        "the penalty adds nothing but noise.",
        "A larger coefficient does not bring the policy nearer to the reference.",
        (pull("allenai/open-instruct", 535), pull("OpenRLHF/OpenRLHF", 1309), _TANG),
        (of_ratio(k1),),
    ),
    Mistake(
        "kl_loss.other_direction",
        "gradient of KL(ref‖π), the other direction, as k3 has when it is used as a loss",
        "k3 estimates KL(π‖ref) as a value, but its gradient with the samples held fixed is that of KL(ref‖π). Near "
        "the reference the two agree to first order, far from it they do not.",
        "The weight of the score is 1 - ref/π, not ln(π/ref).",
        (pull("verl-project/verl", 2953), pull("OpenRLHF/OpenRLHF", 1309), _TANG, _LIU),
        (of_ratio(k3),),
    ),
    Mistake(
        "kl_loss.detached",
        "no gradient: the result is detached",
        "It is computed under no_grad, or from detached log-probabilities, or turned into a number: added to a loss, "
        "it changes its value and nothing else.",
        "The result does not require a gradient.",
        (issue("allenai/open-instruct", 530), issue("NovaSky-AI/SkyRL", 1340)),
        (of_ratio(lambda d: k3(d).detach()),),
    ),
    Mistake(
        "kl_loss.k3_ratio_inverted",
        "k3 with the ratio inverted, as a loss",
        "The weight of the score is π/ref - 1, not ln(π/ref): tokens that the reference finds unlikely dominate.",
        "The gradient grows exponentially with the log ratio.",
        (issue("walkinglabs/hands-on-modern-rl", 27), issue("hpcaitech/ColossalAI", 3696)),
        (of_ratio(lambda d: torch.expm1(d) - d),),
        right_form=(_SCHULMAN,),
    ),
    Mistake(
        "kl_loss.square_without_half",
        "twice the gradient: the square without the factor 1/2",
        "It is 2 k2. The direction is right and the length is twice that of the gradient of the divergence: the "
        "coefficient means something else than it says.",
        "The angle to the true gradient is 0, and the length 2.",
        (pull("PrimeIntellect-ai/prime-rl", 1697),),
        (of_ratio(torch.square),),
    ),
    Mistake(
        "kl_loss.sign",
        "gradient of -KL: the sign is wrong",
        "Minimising it drives the policy away from the reference.",
        "The angle to the true gradient is 180 degrees.",
        (issue("qiancheng0/ToolRL", 52), issue("huggingface/trl", 463)),
        (of_ratio(lambda d: -k2(d)),),
    ),
    Mistake(
        "kl_loss.absolute_value",
        "absolute value of the log ratio, as a loss",
        "The weight of the score is only the sign of the log ratio: tokens a little and very far off weigh the same.",
        "Every token has the weight 1 or -1.",
        (issue("huggingface/trl", 1161),),
        (of_ratio(torch.abs),),
    ),
    Mistake(
        "kl_loss.weighted_twice",
        "sampled log ratio weighted by the probability again, as a loss",
        "π ln(π/ref) is a term of the sum over all tokens, where its gradient is right. On sampled tokens it is "
        "weighted by π a second time.",
        "Rare tokens have almost no gradient.",
        (issue("marin-community/marin", 1708),),
        (_of_both(lambda p, q: p.exp() * (p - q)),),
    ),
    Mistake(
        "kl_loss.kl_div_arguments",
        "F.kl_div with its arguments as they come, on sampled tokens, as a loss",
        "F.kl_div(input, target) is target (ln target - input), whose gradient by the sampled log-probability is minus "
        "the probability under the reference.",
        "The gradient does not vanish where the policies are equal.",
        (issue("pytorch/pytorch", 57459), issue("sarahwie/attention", 6)),
        (_of_both(lambda p, q: q.exp() * (q - p)),),
    ),
    Mistake(
        "kl_loss.mask_ignored",
        "the mask is ignored: padding has a gradient",
        "What stands behind the end of a sequence is treated as a token, and its log-probability is differentiated.",
        "The gradient by the log-probability of padding is not 0.",
        (pull("natolambert/rlhf-book", 216), pull("allenai/open-instruct", 535)),
        tuple(_unmasked(value, reduce) for value in (k2,) for reduce in _REDUCTIONS),
    ),
    Mistake(
        "kl_loss.mean_over_padding",
        "mean over all positions, padding included, so that the gradient shrinks with padding",
        "Padding is set to 0 and then counted: the sum is divided by the length of the row and not by the number of "
        "tokens, so that the strength of the penalty depends on how much padding a batch has.",
        "The angle to the true gradient is 0, and the length the part of the positions that are tokens.",
        (pull("natolambert/rlhf-book", 216), pull("allenai/open-instruct", 535), issue("huggingface/trl", 6803)),
        tuple(_masked_then(k2, reduce) for reduce in (_mean, _row_mean)),
    ),
    Mistake(
        "kl_loss.mean_over_vocabulary",
        "mean over the vocabulary, so that the gradient is too small by its size",
        "The divergence is the sum of its terms over all tokens, and their mean has a gradient that is smaller by the "
        "size of the vocabulary: F.kl_div needs reduction='batchmean' or 'sum'.",
        "The angle to the true gradient is 0, and the length one over the number of tokens.",
        (),
        (_of_distributions(lambda p, q: (p * (p / q).log()).mean()),),
        right_form=(_KL_DIV,),
    ),
)
