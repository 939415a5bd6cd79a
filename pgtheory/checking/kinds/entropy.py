"""Is this the entropy of a policy, of each row, as a mean, or as a bonus? And if not, which known mistake is it?"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Inputs, Layout, Misfit, as_tensor, parts_of, shaped
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, Source, issue, pull

F64 = torch.float64
_SHANNON = Source("Shannon, 1948, section 6", "https://doi.org/10.1002/j.1538-7305.1948.tb01338.x")
_MINUS_INF = "it is NaN where a logit is -inf: 0 times infinity, where a token of probability 0 has entropy 0"
_NO_GRADIENT = "it carries no gradient: right as a number, and as a bonus it would do nothing"
_NAN_GRADIENT = "its gradient is NaN where a logit is -inf, though its value is right"
_AS_LOSS = "it is minus the entropy, as its name says: a term to be added to a loss"
_BONUS, _TERM = "positive, to be subtracted from a loss", "negative, to be added to a loss"


def check_entropy(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that computes the entropy of a policy from its logits, :math:`-\sum_a \pi(a) \ln \pi(a)`.

    Equation :eq:`eq-entropy`, and as a bonus :eq:`eq-entropy-bonus`. The function may be `fn(logits)`, with logits
    `[B, T, V]`, `[N, V]` or `[V]`; by the names of its arguments it may take `probs` or whole `log_probs` instead, a
    `temperature`, and a `mask` of the tokens that count. It returns the entropy of each row, or a mean or sum of them:
    the report says which. With an `entropy_coef` it is a bonus, with either sign, which the report says; with a `loss`
    as well, the bonus has to be taken off it. A function with `loss` in its name may return minus the entropy.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.logits, x.mask)`; they are
            `x.logits`, `[B, T, V]`, `x.mask`, `[B, T]`, `x.temperature`, and what follows from them, such as `x.probs`.
        layout: the order of axes, such as `"[B*T, V]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"x": "logits"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or returns neither one number for each row nor one in all.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Shannon, "A Mathematical Theory of Communication", 1948, section 6.

    Example:
        >>> def entropy(logits):
        ...     return -(logits.softmax(-1) * logits.log_softmax(-1)).mean(-1)
        >>> print(check_entropy(entropy).headline)
        check_entropy: WRONG, a known mistake: the mean over the vocabulary, not the sum
    """
    report = CHECK.judge(function, call=call, layout=layout, names=names)
    called = getattr(function, "__name__", "").lower()
    if not report.ok and ("loss" in called or "neg" in called):
        negative = _NEGATIVE[0].judge(function, call=call, layout=layout, names=names)
        if negative.ok:
            return replace(negative, remarks=(*negative.remarks, _AS_LOSS))
    other = next((remark for remark in report.remarks if "it returns other numbers" in remark), "")
    if report.ok and other and layout is None:
        why = f"it is right as {report.form}; {other}: declare layout={report.form.partition(' ')[2]!r}"
        return replace(report, ok=False, remarks=(), abstains=why)
    sign = next((sign for sign in (_BONUS, _TERM) if report.judged.endswith(sign)), "")
    if report.ok and sign:
        return replace(report, remarks=(*report.remarks, f"its bonus is {sign}"))
    return report


# --- the cases ---


def cases(facts: frozenset[str], negative: bool = False) -> list[Case]:
    """Rows of small and large vocabularies, equal, far apart, and with -inf; padding and temperatures if asked for.

    `sign` says what is expected: the entropy, minus the entropy, either as a bonus, or a loss less it.
    """
    sign = "-" if negative or "loss" in facts else "either" if "entropy_coef" in facts else "+"
    case = partial(_case, sign=sign, coef=0.05 if "entropy_coef" in facts else 1.0, loss=4.75 if "loss" in facts else 0)
    found = [case(1, 2, 2), case(2, 3, 3), case(3, 1, 4), case(4, 4, 5), case(5, 2, 16), case(6, 3, 32, spread=0.0)]
    if "temperature" in facts:
        found += [case(7, 2, 3, tau=0.5), case(8, 3, 4, tau=2.0)]
    if facts & {"mask", "padding"}:
        found += [case(9, 3, 4, mask="110"), case(10, 4, 3, mask="1000"), case(11, 4, 3, mask="1011")]
        found += [case(12, 3, 4, mask="011")]
        found.append(case(13, 2, 3, mask="00", why="it fails where no token of a sequence counts"))
    found += [case(14, 2, 3, spread=12.0), case(15, 3, 4, batch=1)]
    if not facts & {"probs"}:
        found.append(case(16, 2, 3, spread=300.0, why="it fails where logits lie hundreds apart"))
    return [*found, case(17, 2, 4, excluded=True, why=_MINUS_INF)]


def _case(
    seed: int,
    steps: int,
    size: int,
    *,
    sign: str,
    coef: float,
    loss: float,
    tau: float = 1.0,
    mask: str = "",
    excluded: bool = False,
    spread: float = 1.5,
    batch: int = 2,
    why: str = "",
) -> Case:
    place = torch.arange(2 * steps * size, dtype=F64).reshape(2, steps, size)
    logits = spread * (1.3 * place + 2.1 * seed).sin() + 0.3 * seed
    if excluded:
        logits[..., 1] = -math.inf
    taken = torch.tensor([[c == "1" for c in mask or "1" * steps], [True] * steps])
    tokens = (torch.arange(2 * steps).reshape(2, steps) * 2 + seed) % size
    tokens = torch.where(tokens == 1, 0, tokens) if excluded else tokens
    values = {"logits": logits, "mask": taken, "tokens": tokens, "temperature": tau, "entropy_coef": coef}
    values |= {"loss": torch.tensor(loss, dtype=F64), "sign": sign}
    values = {name: x[:batch] if isinstance(x, Tensor) and x.ndim else x for name, x in values.items()}
    return Case(values, why, or_fails=True)


# --- what was returned ---

_ROW, _SEQUENCE, _ALL = "each row", "each sequence", "one number"


def _observe(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The parts of the answer by what their shape says that they are; of a bonus with both signs."""
    if layout.axes == ("V",):
        return {_ROW: _row_by_row(call, inputs)}
    leaf = inputs.canonical["logits"].requires_grad_()
    with torch.enable_grad():
        output = parts_of(call(inputs.replaced(logits=leaf * 1.0)), "ent")
    shapes = {_ROW: sizes, _SEQUENCE: {**sizes, "T": 1}, _ALL: {"B": 1, "T": 1}}
    found = shaped(output, layout, shapes, ", nor one number")
    _note_gradient(next(iter(output.values())), leaf, inputs)
    if inputs.canonical["sign"] == "either":
        found = {f"{name}, {_BONUS}": x for name, x in found.items()} | {
            f"{name}, {_TERM}": -x for name, x in found.items()
        }
    return found


def _row_by_row(call: Call, inputs: Inputs) -> Tensor:
    """What a function of one row of logits answers for each."""
    x = inputs.canonical
    batch, steps = x["mask"].shape
    found = []
    for b, t in itertools.product(range(batch), range(steps)):
        one = {name: x[name][b : b + 1, t : t + 1] for name in ("logits", "mask", "tokens")}
        found.append(as_tensor(call(inputs.replaced(**one))).double())
        if found[-1].numel() != 1:
            raise Misfit(f"it returned shape {list(found[-1].shape)} for one row")
    return torch.stack([number.reshape(()) for number in found]).reshape(batch, steps)


def _note_gradient(value: Any, leaf: Tensor, inputs: Inputs) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return
    if not value.requires_grad:
        inputs.notes.update([_NO_GRADIENT] if inputs.canonical["entropy_coef"] != 1 else [])
    elif bool(leaf.isinf().any()) and bool(value.isfinite().all()):
        slope = torch.autograd.grad(value.double().sum(), leaf, allow_unused=True)[0]
        if slope is not None and bool(slope.isnan().any()):
            inputs.notes.add(_NAN_GRADIENT)


def _seen(x: Mapping[str, Any], answer: Tensor) -> Tensor:
    return torch.where(x["mask"], answer, 0.0) if answer.shape == x["mask"].shape else answer


# --- right forms, and the known mistakes: the parts that a mistake replaces ---

_Average = Callable[[Tensor, Tensor], Tensor]


def _of_row(h: Tensor, mask: Tensor) -> Tensor:
    return h


def _mean(h: Tensor, mask: Tensor) -> Tensor:
    return (torch.where(mask, h, 0.0).sum() / mask.sum()).reshape(1, 1)


def _sum(h: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, h, 0.0).sum().reshape(1, 1)


def _sequence_sums(h: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, h, 0.0).sum(-1, keepdim=True)


def _sequence_means(h: Tensor, mask: Tensor) -> Tensor:
    return _sequence_sums(h, mask) / mask.sum(-1, keepdim=True)


_AVERAGES: Mapping[str, _Average] = {
    "the entropy of each row": _of_row,
    "the mean over all tokens": _mean,
    "the sum over all tokens": _sum,
    "the sum over the tokens of each sequence": _sequence_sums,
    "the mean over the tokens of each sequence": _sequence_means,
    "the mean over sequences of their means": lambda h, mask: _sequence_means(h, mask).mean().reshape(1, 1),
    "the mean over sequences of their sums": lambda h, mask: _sequence_sums(h, mask).mean().reshape(1, 1),
}
_WRONG_AVERAGES: Mapping[str, _Average] = {
    "mask_ignored": lambda h, mask: _mean(h, torch.ones_like(mask)),
    "mask_ignored_sums": lambda h, mask: _sequence_sums(h, torch.ones_like(mask)),
    "mask_ignored_sums_mean": lambda h, mask: _sequence_sums(h, torch.ones_like(mask)).mean().reshape(1, 1),
    "mask_ignored_means": lambda h, mask: _sequence_means(h, torch.ones_like(mask)),
    "mask_ignored_sum": lambda h, mask: _sum(h, torch.ones_like(mask)),
    "padded": lambda h, mask: torch.where(mask, h, 0.0).mean().reshape(1, 1),
    "padded_means": lambda h, mask: torch.where(mask, h, 0.0).mean(-1, keepdim=True),
    "mask_one_place_on": lambda h, mask: _mean(h, mask.roll(1, -1)),
    "mask_one_place_back": lambda h, mask: _mean(h, mask.roll(-1, -1)),
    "mask_inverted": lambda h, mask: _mean(h, ~mask),
}


def _shannon(z: Tensor) -> Tensor:
    log_probs = z.log_softmax(-1)
    return -(log_probs.exp() * log_probs.clamp(min=-1e300)).sum(-1)


def _entropy(
    of_row: Callable[..., Tensor] = _shannon,
    average: _Average = _of_row,
    scale: Callable[[Tensor, float], Tensor] = torch.div,
    sign: float = 1.0,
) -> Callable[..., Tensor]:
    """The entropy; times a coefficient if there is one, and taken off the loss if there is one."""

    def implementation(logits: Tensor, mask: Tensor, temperature: float, **rest: Any) -> Tensor:
        h: Tensor = sign * rest.get("entropy_coef", 1.0) * average(of_row(scale(logits, temperature)), mask)
        loss = rest.get("loss", 0.0)
        return loss - h if rest.get("sign", "-" if float(loss) else "+") == "-" else h

    def of_tokens(logits: Tensor, mask: Tensor, tokens: Tensor, temperature: float, **rest: Any) -> Tensor:
        return _entropy(lambda z: of_row(z, tokens), average, scale, sign)(logits, mask, temperature, **rest)

    return of_tokens if of_row in (_of_the_token, _surprise) else implementation


def _sign_turned(average: _Average) -> Callable[..., Tensor]:
    negative = _entropy(average=average, sign=-1.0)

    def implementation(logits: Tensor, mask: Tensor, temperature: float, **rest: Any) -> Tensor:
        if rest.get("sign") == "either":
            raise ValueError("either sign is right")
        return negative(logits, mask, temperature, **rest)

    return implementation


def _of_the_token(z: Tensor, tokens: Tensor) -> Tensor:
    log_probs = z.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return -log_probs.exp() * log_probs


def _surprise(z: Tensor, tokens: Tensor) -> Tensor:
    return -z.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def _over(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp(min=1e-300).log()).sum(-1)


def _each(of_row: Callable[..., Tensor], **options: Any) -> tuple[Callable[..., Tensor], ...]:
    """A mistake in the entropy of a row, for rows and for the averages."""
    return tuple(_entropy(of_row, average, **options) for average in _AVERAGES.values())


def _averages(*names: str) -> tuple[Callable[..., Tensor], ...]:
    return tuple(_entropy(average=_WRONG_AVERAGES[name]) for name in names)


MISTAKES = (
    Mistake(
        "entropy.sign",
        "the sign is wrong",
        "Without a coefficient the entropy is a number above 0, and this is minus it; beside a loss the bonus is added "
        "to it, so that the optimiser makes the policy deterministic.",
        "The entropy of a uniform row is below 0; or the loss grows with the entropy.",
        (pull("PKU-Alignment/omnisafe", 133), pull("nebuly-ai/optimate", 250), issue("DLR-RM/stable-baselines3", 127)),
        tuple(map(_sign_turned, _AVERAGES.values())),
    ),
    Mistake(
        "entropy.mean_over_vocabulary",
        "the mean over the vocabulary, not the sum",
        "-π ln π is averaged over the tokens of the vocabulary, and is smaller than the entropy by the size of it.",
        "The result for a uniform row is ln V / V.",
        (),
        _each(lambda z: _shannon(z) / z.shape[-1]),
        right_form=(_SHANNON,),
    ),
    Mistake(
        "entropy.of_the_token",
        "of the chosen token alone: -π ln π without the others",
        "The entropy is a sum over all tokens. That of one says nothing about how spread the others are, and may grow "
        "when the token becomes less probable.",
        "The result changes with the token that was drawn.",
        (pull("noahfarr/rlx", 3), pull("nric/ProximalPolicyOptimizationKeras", 5)),
        _each(_of_the_token),
    ),
    Mistake(
        "entropy.estimate",
        "minus the log-probability of the token that was drawn",
        "An estimate of the entropy from one sample: right in expectation as a number. The expectation of its gradient "
        "is 0, so it is no bonus.",
        "The result changes with the token that was drawn.",
        (issue("DLR-RM/stable-baselines3", 1857), issue("huggingface/trl", 2281)),
        _each(_surprise),
        severity="remark",
    ),
    Mistake(
        "entropy.softmax_twice",
        "the softmax is applied twice",
        "Probabilities are taken for logits: the entropy is near its largest value, and hardly changes.",
        "The result is never far below ln V.",
        (issue("Lightning-Universe/lightning-bolts", 654),),
        _each(lambda z: _shannon(z.softmax(-1))),
    ),
    Mistake(
        "entropy.not_normalised",
        "the logits are taken for log-probabilities",
        "-Σ π z lacks the logarithm of the sum of the exponentials: it changes with a constant that is added to the "
        "logits. Where a softmax is missing as well, the weights do not sum to 1.",
        "A uniform row of logits 0 has the result 0.",
        (),
        (
            *_each(lambda z: -(z.softmax(-1) * z).sum(-1)),
            *_each(lambda z: -(z.softmax(-1) * z.clamp(min=-1e300)).sum(-1)),
            *_each(lambda z: -(z.exp() * z).sum(-1)),
        ),
        right_form=(_SHANNON,),
    ),
    Mistake(
        "entropy.without_probabilities",
        "-Σ ln π, without the probabilities as weights",
        "The logarithms are summed, or averaged, over the vocabulary: the cross-entropy from the uniform distribution, "
        "which has its smallest value where the entropy has its largest.",
        "It grows without bound as one token takes all.",
        (),
        (*_each(lambda z: -z.log_softmax(-1).sum(-1)), *_each(lambda z: -z.log_softmax(-1).mean(-1))),
        right_form=(_SHANNON,),
    ),
    Mistake(
        "entropy.base_two",
        "in bits, with the logarithm to base 2",
        "The entropy in bits is 1.44 times that in nats, and so is its bonus.",
        "A fair coin has entropy 1, not 0.693.",
        (),
        _each(lambda z: _shannon(z) / math.log(2)),
        right_form=(_SHANNON,),
    ),
    Mistake(
        "entropy.wrong_axis",
        "over the wrong axis",
        "The softmax is taken over the places of a sequence, or over the batch, not over the vocabulary.",
        "The result of a row changes with the other rows.",
        (issue("DeepReinforcementLearning/DeepReinforcementLearningInAction", 32),),
        tuple(f for axis in (0, 1) for f in _each(lambda z, axis=axis: _over(z.softmax(axis)))),
    ),
    Mistake(
        "entropy.temperature_ignored",
        "the temperature is ignored",
        "The entropy is that of temperature 1, not that of the policy that draws the tokens.",
        "The result does not change with the temperature.",
        (pull("OpenRLHF/OpenRLHF", 1319),),
        _each(_shannon, scale=lambda z, tau: z),
    ),
    Mistake(
        "entropy.multiplied_by_temperature",
        "the logits are multiplied by the temperature",
        "A high temperature makes the entropy smaller, where it should make it larger.",
        "At temperature 2 the result is that of temperature 1/2.",
        (),
        _each(_shannon, scale=lambda z, tau: z * tau),
        right_form=(pull("THUDM/slime", 2197),),
    ),
    Mistake(
        "entropy.padding_counted",
        "the mask is ignored: padding is counted",
        "The mean or sum goes over all places of the batch: the entropy of what stands behind the end is in it, and in "
        "the bonus.",
        "The result changes with the padding.",
        (pull("huggingface/trl", 6121), issue("allenai/open-instruct", 756), issue("huggingface/trl", 6803)),
        _averages(*(name for name in _WRONG_AVERAGES if name.startswith("mask_ignored"))),
    ),
    Mistake(
        "entropy.mean_over_padding",
        "the masked sum is divided by the number of all places",
        "Padding has entropy 0 and is counted in the denominator: the mean shrinks with the amount of padding.",
        "More padding makes the result smaller.",
        (),
        _averages("padded", "padded_means"),
        right_form=(pull("huggingface/trl", 6121),),
    ),
    Mistake(
        "entropy.mask_of_another_place",
        "the mask is one place off",
        "The logits of a place are those of the next token; with the mask of the tokens not shifted as well, the mean "
        "is over other places than the loss.",
        "The last token that counts is left out, and one that does not is in.",
        (pull("huggingface/trl", 5620),),
        _averages("mask_one_place_on", "mask_one_place_back"),
    ),
    Mistake(
        "entropy.mask_inverted",
        "the mask is inverted",
        "The mean is over the padding alone.",
        "Where nothing is masked the result is NaN or 0.",
        (),
        _averages("mask_inverted"),
        right_form=(pull("huggingface/trl", 6121),),
    ),
)


def _applies(mistake: Mistake, facts: frozenset[str]) -> bool:
    of_mask = mistake.key.partition(".")[2] in ("padding_counted", "mean_over_padding") or "mask" in mistake.key
    of_token = mistake.key in ("entropy.of_the_token", "entropy.estimate") and "tokens" not in facts
    of_temperature = "temperature" in mistake.key and "temperature" not in facts
    return not ((of_mask and not facts & {"mask", "padding"}) or of_token or of_temperature)


CHECK = Check(
    "entropy",
    4,
    args=(
        Arg("logits", "B T V", "scores shift_logits shifted_logits response_logits z preferences"),
        Arg("mask", "B T", flag=True),
        Arg("padding", "B T", of=lambda x: ~x.mask, flag=True),
        Arg("tokens", "B T", "actions action labels index a input_ids token_ids"),
        Arg("temperature", also="tau t"),
        Arg("entropy_coef", also="beta coef coefficient alpha c ent_weight"),
        Arg("loss", also="policy_loss pg_loss actor_loss pi_loss"),
        Arg("sign", asked=True),
        Arg("probs", "B T V", "p policy action_probs prob", of=lambda x: (x.logits / x.temperature).softmax(-1)),
        Arg(
            "log_probs",
            "B T V",
            "log_p all_log_probs lp logps",
            of=lambda x: (x.logits / x.temperature).log_softmax(-1),
        ),
        Arg("dim", also="axis", of=lambda x: -1),
    ),
    needs=("logits|probs|log_probs",),
    signature=("logits",),
    axes="B T",
    layouts=("[B, T, V]", "[T, V]", "[B*T, V]", "[V]", "[1, B, T, V]"),
    reference={name: _entropy(average=average) for name, average in _AVERAGES.items()},
    cases=cases,
    mistakes=MISTAKES,
    seen=_seen,
    observe=_observe,
    applies=_applies,
    batched=True,
    example="call=lambda x: f(x.logits, x.mask)  # [B, T, V], [B, T]; the entropy of each row, or one number",
)
# In a tuple, as what stands alone is a check of its own.
_NEGATIVE = (replace(CHECK, cases=partial(cases, negative=True)),)
