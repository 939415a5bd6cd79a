"""Are these the log-probabilities of tokens in the distribution that sampled them? And if not, which mistake is it?"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Inputs, Layout, Reading, parts_of, shaped
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, UnknownForm, issue, pull

F64 = torch.float64
_EOS = 0
_WIDE = 32
_TRUNCATION = frozenset(["kept", "top_k", "top_p"])
_SHIFTED = (
    "it shifts by itself: place t of its answer is the token t + 1 under the logits of t, as for the logits of a model "
    "on these same tokens; where logits and tokens stand side by side it is off by one. Say names={{{name!r}: "
    "'input_ids'}} if the first is meant"
)

_AXES = (
    "its axis is that of the vocabulary for logits [N, V] only, and logits [B, T, V] are normalised over another: say "
    "layout='[B*T, V]' if it is never given these"
)


def check_log_probs(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that computes the log-probabilities of sampled tokens from logits.

    Equation :eq:`eq-token-log-prob`, with the temperature and the truncation that the tokens were drawn with. The
    function may be `fn(logits, tokens, temperature)`, with logits `[B, T, V]` of which each row is that of the token
    beside it. By the names of its arguments it may take a `mask` of the tokens that count, a `pad_token_id` (equal to
    that of the end of the sequence), and what truncates: `top_k`, `top_p`, or the mask of the tokens `kept`. It
    returns one number for each token, or the sum or mean of each sequence. With `input_ids` or `labels` it may shift by
    itself, and return one place less.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.logits / x.temperature, x.tokens)`;
            they are `x.logits`, `[B, T, V]`, `x.tokens` and `x.mask`, `[B, T]`, and `x.temperature`.
        layout: the order of axes, such as `"[T, V]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"x": "logits"}`.

    Returns:
        The report. If truncation is ignored, `details` has the probability that truncation keeps.

    Raises:
        UnknownForm: the function cannot be called, or does not return one number for each token or sequence.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Ackley, Hinton and Sejnowski, 1985, for the temperature.

    Example:
        >>> def log_probs(logits, tokens, temperature):
        ...     return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        >>> print(check_log_probs(log_probs).headline)
        check_log_probs: WRONG, a known mistake: the temperature is ignored
    """
    report = CHECK.judge(function, call=call, layout=layout, names=names)
    # A token is left out of aligned logits; those of a model at its own tokens are one place apart.
    doubtful = report.diagnosis == _LEFT_OUT and "input_ids" in report.binding.values()
    if not report.ok and (doubtful or not report.mistakes):
        report = _of_a_model(report, function, call=call, layout=layout, names=names)
    axis = next(m.name for m in MISTAKES if m.key.endswith("axis"))
    if report.ok and layout is None and any(axis in remark for remark in report.remarks):
        return replace(report, ok=False, remarks=(), abstains=_AXES)
    if [m.key for m in report.mistakes] == ["log_probs.truncation_ignored"]:
        masses = [float(m) for m in _kept_masses(frozenset(report.binding.values()) | _TRUNCATION)]
        details = {**report.details, "probability that is kept": f"{min(masses):.3g} to {max(masses):.3g}"}
        return replace(report, details=details)
    return report


def _of_a_model(report: Report, function: Callable[..., Any] | None, **options: Any) -> Report:
    """The report of a function that is right, or makes a known mistake, for the logits of a model at its own tokens."""
    try:
        shifted = _OF_A_MODEL[0].judge(function, **options)
    except UnknownForm:
        return report
    if not shifted.ok:
        return shifted if shifted.mistakes else report
    if "input_ids" in shifted.binding.values():
        return shifted
    name = next((name for name, role in shifted.binding.items() if role == "tokens"), "tokens")
    return replace(shifted, ok=False, remarks=(), abstains=_SHIFTED.format(name=name))


def _kept_masses(facts: frozenset[str]) -> list[Tensor]:
    cases = [case.inputs for case in CHECK.bench(facts).cases]
    return [(x["logits"] / x["temperature"]).softmax(-1)[x["kept"]].sum() / x["tokens"].numel() for x in cases]


# --- the cases ---


def cases(facts: frozenset[str]) -> list[Case]:
    """Logits of small and large vocabularies, far apart, and -inf; with temperatures, padding and truncation if asked.

    The smallest first.
    """
    found = [_case(1, 2, 2), _case(2, 3, 3), _case(3, 1, 4), _case(4, 4, 5), _case(5, 3, _WIDE)]
    if "temperature" in facts:
        found += [_case(6, 2, 3, tau=0.5), _case(7, 3, 4, tau=2.0)]
    tau = 0.7 if "temperature" in facts else 1.0
    if facts & {"kept", "top_k"}:
        found += [_case(9, 2, 4, top_k=2), _case(10, 3, 6, top_k=3, tau=tau), _case(11, 2, 5, top_k=1)]
    if facts & {"kept", "top_p"}:
        found += [_case(21, 2, 4, top_p=0.6), _case(22, 3, 6, top_p=0.8, tau=tau), _case(23, 2, 5, top_p=0.1)]
    if facts & {"mask", "pad_id"}:
        found += [_case(12, 3, 4, mask="110"), _case(13, 4, 5, mask="1000", tau=1.0)]
    if "mask" in facts and "pad_id" not in facts:
        found += [_case(14, 4, 4, mask="1011"), _case(15, 3, 4, mask="011")]
        found.append(_case(16, 2, 3, mask="00", why="it fails where no token counts"))
    found.append(_case(17, 3, 4, excluded=True))
    if "top_p" not in facts:  # else rounding may drop tokens of almost no probability
        found += [_case(18, 2, 3, spread=15.0), _case(19, 2, 3, spread=900.0)]
        found += [_case(8, 2, 3, tau=0.05)] if "temperature" in facts else []
    return [*found, _case(20, 3, 4, batch=1)]


def _case(
    seed: int,
    steps: int,
    size: int,
    *,
    tau: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    mask: str = "",
    excluded: bool = False,
    spread: float = 1.5,
    batch: int = 2,
    why: str = "",
) -> Case:
    """Fixed logits `[B, T, V]` and tokens that are not the end of the sequence, which is token 0, but where it ends."""
    place = torch.arange(2 * steps * size, dtype=F64).reshape(2, steps, size)
    logits = spread * (1.3 * place + 2.1 * seed).sin() + 0.2 * (place / 7 + seed).cos()
    tokens = 1 + (torch.arange(2 * steps).reshape(2, steps) * 3 + seed) % (size - 1)
    taken = torch.tensor([[c == "1" for c in mask or "1" * steps], [True] * steps])
    if mask and not taken[0].all() and bool((taken[0].int().diff() <= 0).all()) and bool(taken[0, 0]):
        last = int(taken[0].sum()) - 1
        tokens[0, last:] = _EOS  # it ends, and the padding is the same token
    if excluded:
        chosen = torch.nn.functional.one_hot(tokens, size).bool()
        logits = torch.where(chosen.roll(1, -1), -math.inf, logits)
    if top_k or top_p < 1:  # the token that was drawn is one of those that are kept
        chosen = torch.nn.functional.one_hot(tokens, size).bool()
        best = torch.where(chosen, -math.inf, logits).topk(2, -1).values
        above = best[..., :1] + 0.3 if top_k == 1 or top_p < 0.5 else best.mean(-1, keepdim=True)
        logits = torch.where(chosen, above, logits)
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = (ordered / tau).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    first = (torch.arange(size) < (top_k or size)) & ((before < top_p) | (top_p == 1))
    kept = torch.zeros_like(first).scatter(-1, order, first)
    values = {"logits": logits, "tokens": tokens, "temperature": tau, "mask": taken, "kept": kept}
    values |= {"top_k": top_k or size, "top_p": top_p, "pad_id": _EOS}
    values = {name: x[:batch] if isinstance(x, Tensor) else x for name, x in values.items()}
    return Case(values, why, or_fails=True)


# --- what was returned ---

_TOKEN, _SEQUENCE, _REST, _ALL = "each token", "each sequence", "each token but the first", "one number"


def _observe(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The parts of the answer, each by what its shape says that it is."""
    shapes = {_TOKEN: sizes, _SEQUENCE: {**sizes, "T": 1}, _REST: {**sizes, "T": sizes["T"] - 1}}
    found = shaped(parts_of(call(inputs), "log"), layout, {**shapes, _ALL: {"B": 1, "T": 1}})
    if inputs.canonical["logits"].shape[-1] == _WIDE:
        _note_half_precision(call, inputs)
    return found


def _note_half_precision(call: Call, inputs: Inputs) -> None:
    """A remark if logits in half precision make the log-probabilities coarse."""
    half = inputs.canonical["logits"].bfloat16()
    try:
        got, right = (
            next(iter(parts_of(call(inputs.replaced(logits=x)), "log").values())) for x in (half, half.double())
        )
        off = float((got.double() - right.double()).abs().max())
    except Exception:
        return
    if off > 4e-3:
        inputs.notes.add(f"given logits in bfloat16 it is off by up to {off:.2g}: let it compute in single precision")


def _seen(x: Mapping[str, Any], answer: Tensor) -> Tensor:
    """The answer where the mask says that a token counts."""
    mask = x["mask"]
    if answer.shape == mask.shape:
        return torch.where(mask, answer, 0.0)
    if answer.shape == mask[:, 1:].shape:
        return torch.where(mask[:, 1:], answer, 0.0)
    return answer


# --- right forms, and the known mistakes: the parts that a mistake replaces ---

_Scale = Callable[[Tensor, float], Tensor]
_Select = Callable[[Tensor, Tensor], Tensor]


def _chosen(table: Tensor, tokens: Tensor) -> Tensor:
    return table.gather(-1, tokens[..., None])[..., 0]


def _log_probs(
    scale: _Scale = torch.div,
    normalise: Callable[[Tensor], Tensor] = lambda z: z.log_softmax(-1),
    select: _Select = _chosen,
    after: Callable[[Tensor, float], Tensor] = lambda table, tau: table,
    truncate: bool = True,
) -> Callable[..., Tensor]:
    """One number for each token: scale, exclude, normalise, choose."""

    def implementation(logits: Tensor, tokens: Tensor, temperature: float, kept: Tensor) -> Tensor:
        z = scale(logits, temperature)
        z = torch.where(kept, z, -math.inf) if truncate else z
        return select(after(normalise(z), temperature), tokens)

    return implementation


_right = _log_probs()


def _aggregated(mean: bool, counts: Callable[..., Tensor] | None = None) -> Callable[..., Tensor]:
    """The sum or mean over the tokens of each sequence that count."""

    def implementation(
        logits: Tensor, tokens: Tensor, temperature: float, kept: Tensor, mask: Tensor, pad_id: int
    ) -> Tensor:
        found = _right(logits, tokens, temperature, kept)
        used = counts(tokens, mask, pad_id) if counts else mask
        total = torch.where(used, found, 0.0).sum(-1, keepdim=True)
        return total / used.sum(-1, keepdim=True) if mean else total

    return implementation


def _of_all(of_sequences: Callable[..., Tensor], *, mean: bool) -> Callable[..., Tensor]:
    """The sum over all sequences, or divided by the number of tokens that count."""

    def implementation(
        logits: Tensor, tokens: Tensor, temperature: float, kept: Tensor, mask: Tensor, pad_id: int
    ) -> Tensor:
        total = of_sequences(logits, tokens, temperature, kept, mask, pad_id).sum()
        return (total / mask.sum() if mean else total).reshape(1, 1)

    return implementation


def _shifted(implementation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same of the logits of a model, of which each is for the token of the next place."""

    @functools.wraps(implementation)
    def shifted(*args: Any, **kwargs: Any) -> Tensor:
        inputs: dict[str, Any] = inspect.signature(implementation).bind(*args, **kwargs).arguments
        first = {name: inputs[name][:, :-1] for name in ("logits", "kept") if name in inputs}
        rest = {name: inputs[name][:, 1:] for name in ("tokens", "mask") if name in inputs}
        return implementation(**(inputs | first | rest))

    return shifted


def _filled(implementation: Callable[..., Tensor], value: float | None, behind: bool) -> Callable[..., Tensor]:
    """An answer that has a place less, the place filled: with a number, or with that of logits of 0."""

    @functools.wraps(implementation)
    def filled(*args: Any, **kwargs: Any) -> Tensor:
        logits = inspect.signature(implementation).bind(*args, **kwargs).arguments["logits"]
        found = implementation(*args, **kwargs)
        free = torch.full_like(logits[:, :1, 0], -math.log(logits.shape[-1]) if value is None else value)
        return torch.cat([found, free] if behind else [free, found], -1)

    return filled


_FILLED = tuple(_filled(_shifted(_right), value, behind) for value in (0.0, 1.0, None) for behind in (False, True))


def _every(tokens: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    return torch.ones_like(mask)


def _not_the_pad_token(tokens: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    return tokens != pad_id


def _eos_left_out(logits: Tensor, tokens: Tensor, temperature: float, kept: Tensor, pad_id: int) -> Tensor:
    return torch.where(tokens == pad_id, 0.0, _right(logits, tokens, temperature, kept))


def _rolled(by: int) -> _Select:
    return lambda table, tokens: _chosen(table, tokens.roll(by, -1))


def _other_shift(logits: Tensor, tokens: Tensor, temperature: float, kept: Tensor) -> Tensor:
    return _right(logits[:, 1:], tokens[:, :-1], temperature, kept[:, 1:])


def _not_shifted(logits: Tensor, tokens: Tensor, temperature: float, kept: Tensor) -> Tensor:
    return _right(logits, tokens, temperature, kept)[:, :-1]


def _first_left_out(logits: Tensor, tokens: Tensor, temperature: float, kept: Tensor) -> Tensor:
    return _right(logits, tokens, temperature, kept)[:, 1:]


def _clamped(eps: float) -> Callable[[Tensor], Tensor]:
    return lambda z: z.softmax(-1).clamp(eps, 1 - eps).log()


MISTAKES = (
    Mistake(
        "log_probs.temperature_ignored",
        "the temperature is ignored",
        "The tokens were drawn from softmax(z / τ), and these are the log-probabilities at temperature 1: the ratio to "
        "what the sampler reports is not 1 before any update.",
        "The result does not change with the temperature.",
        (pull("huggingface/trl", 3029), pull("unslothai/unsloth-zoo", 832), pull("radixark/miles", 68)),
        (_log_probs(scale=lambda z, tau: z),),
    ),
    Mistake(
        "log_probs.temperature_twice",
        "the temperature is applied twice",
        "The logits are divided by τ in two places: the result is that of τ².",
        "At temperature 2 the result is that of temperature 4.",
        (issue("RL-Align/RL-Kernel", 81),),
        (_log_probs(scale=lambda z, tau: z / tau**2),),
    ),
    Mistake(
        "log_probs.multiplied_by_temperature",
        "the logits are multiplied by the temperature",
        "A high temperature makes the distribution sharper, where it should make it flatter.",
        "At temperature 2 the result is that of temperature 1/2.",
        (),
        (_log_probs(scale=lambda z, tau: z * tau),),
        right_form=(pull("THUDM/slime", 2197),),
    ),
    Mistake(
        "log_probs.temperature_after_softmax",
        "the log-probabilities are divided by the temperature, not the logits",
        "log softmax(z) / τ is not normalised: the constant that is subtracted belongs to temperature 1.",
        "At a temperature other than 1 the probabilities do not sum to 1.",
        (pull("MoonshotAI/Kimi-Audio", 161),),
        (_log_probs(scale=lambda z, tau: z, after=torch.div),),
    ),
    Mistake(
        "log_probs.off_by_one",
        "the tokens and the logits are one place apart",
        "The logits of a place are read for the token before or behind it. The logits of a model stand one place "
        "before the token that they are for, and are shifted once, not twice and not never.",
        "The log-probability of the most probable token of a place appears at the place beside it.",
        (
            issue("lucidrains/PaLM-rlhf-pytorch", 31),
            pull("PrimeIntellect-ai/prime-rl", 1525),
            pull("meta-llama/llama", 869),
        ),
        (
            _log_probs(select=_rolled(1)),
            _log_probs(select=_rolled(-1)),
            *_FILLED,
            _other_shift,
        ),
    ),
    Mistake(
        "log_probs.a_token_left_out",
        "the first or the last token is left out",
        "One place is cut from tokens and logits alike: what is left is right, and the token that was cut is not "
        "trained on. The last one is the end of the sequence.",
        "The answer has one place less than there are tokens.",
        (),
        (_not_shifted, _first_left_out),
        right_form=(issue("huggingface/trl", 1061),),
    ),
    Mistake(
        "log_probs.truncation_ignored",
        "the full softmax for tokens that were drawn with truncation",
        "Top-k and top-p renormalise over the tokens that are kept. The full softmax is smaller by the logarithm of "
        "the probability that is kept, which then stands in every importance ratio.",
        "The difference to what the sampler reports is the same for all tokens of a place.",
        (issue("NVIDIA/NeMo-Aligner", 46), pull("PrimeIntellect-ai/prime-rl", 2979), pull("NVIDIA-NeMo/RL", 2053)),
        (_log_probs(truncate=False),),
    ),
    Mistake(
        "log_probs.eos_taken_for_padding",
        "the end of the sequence is taken for padding",
        "The mask is made by comparing tokens with the padding token, which is the end-of-sequence token as well: the "
        "end of every answer is masked, and is never learned.",
        "The last token of an answer that ends by itself has the log-probability 0.",
        (pull("huggingface/trl", 6357), pull("huggingface/trl", 4970)),
        (
            _eos_left_out,
            _aggregated(False, counts=_not_the_pad_token),
            _aggregated(True, counts=_not_the_pad_token),
        ),
    ),
    Mistake(
        "log_probs.padding_counted",
        "the log-probabilities of padding are counted",
        "The sum, or the mean, over a sequence goes on through its padding.",
        "The result changes with the padding.",
        (issue("huggingface/trl", 6803), issue("allenai/open-instruct", 756)),
        (
            _aggregated(False, counts=_every),
            _aggregated(True, counts=_every),
            _of_all(_aggregated(False, counts=_every), mean=False),
        ),
    ),
    Mistake(
        "log_probs.not_normalised",
        "the logits themselves, not normalised",
        "The logit of the token is taken without subtracting the logarithm of the sum of all exponentials: a constant "
        "added to the logits changes it, and its gradient makes no other token less probable.",
        "Numbers above 0.",
        (),
        (_log_probs(normalise=lambda z: z),),
        right_form=(issue("huggingface/trl", 1061),),
    ),
    Mistake(
        "log_probs.probabilities",
        "the probabilities, not their logarithms",
        "The result is exp of the right one.",
        "All numbers lie between 0 and 1.",
        (pull("pytorch/rl", 1750),),
        (_log_probs(normalise=lambda z: z.softmax(-1)),),
    ),
    Mistake(
        "log_probs.negative",
        "the sign is wrong: negative log-probabilities",
        "The cross-entropy is minus the log-probability: a ratio of such numbers is inverted.",
        "All numbers are above 0.",
        (issue("rlworkgroup/garage", 628),),
        (_log_probs(normalise=lambda z: -z.log_softmax(-1)),),
    ),
    Mistake(
        "log_probs.log_of_softmax",
        "the logarithm of a softmax, which underflows or is cut off",
        "A token of very small probability has log-probability -inf, or that of the ε that is added: its gradient is "
        "NaN or 0, and a ratio to it is wrong. log_softmax subtracts the logarithm of the sum, and is exact.",
        "No log-probability is below a bound, such as -16 or -18; or -inf appears.",
        (pull("deeplearning4j/nd4j", 458), issue("torch/nn", 804)),
        (
            _log_probs(normalise=lambda z: z.softmax(-1).log()),
            *(_log_probs(normalise=lambda z, e=e: (z.softmax(-1) + e).log()) for e in (1e-6, 1e-8, 1e-10, 1e-12)),  # type: ignore[misc]
            *(_log_probs(normalise=lambda z, e=e: z.softmax(-1).clamp(min=e).log()) for e in (1e-8, 1e-10)),  # type: ignore[misc]
            _log_probs(normalise=_clamped(torch.finfo(torch.float64).eps)),
            _log_probs(normalise=_clamped(torch.finfo(torch.float32).eps)),
        ),
    ),
    Mistake(
        "log_probs.wrong_axis",
        "normalised over the wrong axis",
        "The softmax is taken over the places of a sequence, or over the batch, not over the vocabulary.",
        "The probabilities of one token sum to 1 over the sequence.",
        (issue("DeepReinforcementLearning/DeepReinforcementLearningInAction", 32),),
        (_log_probs(normalise=lambda z: z.log_softmax(1)), _log_probs(normalise=lambda z: z.log_softmax(0))),
    ),
)


def _readings(roles: frozenset[str]) -> Sequence[Reading]:
    missing = "it takes no temperature: its logits have to be divided by it before"
    return [Reading(notes=() if "temperature" in roles else (missing,))]


def _applies(mistake: Mistake, facts: frozenset[str]) -> bool:
    of_temperature = "temperature" in mistake.key and "temperature" not in facts
    return not (of_temperature or ("truncation" in mistake.key and not facts & _TRUNCATION))


CHECK = Check(
    "log_probs",
    10,
    args=(
        Arg("logits", "B T V", "scores shift_logits shifted_logits response_logits completion_logits z preferences"),
        Arg(
            "tokens",
            "B T",
            "token_ids tok target_ids index idx actions action selected chosen_tokens completion_ids response_ids "
            "responses completions completion response samples a generated_ids output_ids generated",
        ),
        Arg("input_ids", "B T", "labels label target targets ids sequences sequence_ids", of=lambda x: x.tokens),
        Arg("temperature", also="tau t sampling_temperature"),
        Arg("mask", "B T", flag=True),
        Arg("padding", "B T", of=lambda x: ~x.mask, flag=True),
        Arg(
            "kept", "B T V", "keep kept_mask keep_mask sampling_mask nucleus nucleus_mask support vocab_mask", flag=True
        ),
        Arg("top_k", also="k topk"),
        Arg("top_p", also="p topp nucleus_p"),
        Arg("pad_id", also="pad_token_id pad_token eos_token_id eos_id eos padding_id pad"),
    ),
    needs=("logits", "tokens|input_ids"),
    signature=("logits", "tokens", "temperature"),
    axes="B T",
    layouts=("[B, T, V]", "[T, V]", "[B*T, V]", "[1, B, T, V]"),
    reference={
        "": _right,
        "the sum over the tokens of each sequence": _aggregated(False),
        "the mean over the tokens of each sequence": _aggregated(True),
        "the sum over all tokens": _of_all(_aggregated(False), mean=False),
        "the mean over all tokens": _of_all(_aggregated(False), mean=True),
    },
    cases=cases,
    mistakes=MISTAKES,
    readings=_readings,
    seen=_seen,
    observe=_observe,
    applies=_applies,
    example="call=lambda x: f(x.logits, x.tokens, x.temperature)  # [B, T, V], [B, T]; one number for each token",
)
_LEFT_OUT = next(m.name for m in MISTAKES if m.key.endswith("left_out"))


def _of_shifted(mistake: Mistake) -> Mistake:
    """A mistake in what shifts by itself; not to shift is one as well."""
    apart = (_not_shifted, _first_left_out) if mistake.key.endswith("off_by_one") else ()
    return replace(mistake, implementations=(*map(_shifted, mistake.implementations), *apart))


# In a tuple, as what stands alone is a check of its own.
_OF_A_MODEL = (
    replace(
        CHECK,
        reference={
            "one for each token but the first, shifted by itself": _shifted(_right),
            "the sum over each sequence, shifted by itself": _shifted(_aggregated(False)),
            "the mean over each sequence, shifted by itself": _shifted(_aggregated(True)),
            **{f"shifted by itself, with a place filled ({i})": f for i, f in enumerate(_FILLED)},
        },
        mistakes=tuple(map(_of_shifted, MISTAKES)),
    ),
)
