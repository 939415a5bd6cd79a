r"""A run of `post_train`: what it was told, its state, and its steps.

A loss is a function of the log-probabilities of all tokens of the batch, which are few numbers. So it is differentiated
by them once, for the whole batch, whatever it divides by; and the derivatives are the weights with which the
completions, a few at a time and on any process, add their scores to the gradient, Σ ∂L/∂ln π · ∇ln π over all tokens.
That is why the result does not depend on how the batch is cut.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pgtheory import _checks, _ranks, _ratios
from pgtheory._checkpoints import digest
from pgtheory._gradients import checked_loss, slope_of
from pgtheory._masks import is_last_step
from pgtheory._rewards import Decode, rated, shown, some
from pgtheory.groups import GroupLoss, Variant, group_advantages, grpo_loss
from pgtheory.language_models import CausalLM, Completions, completion_log_probs, sample_completions
from pgtheory.reinforce import reinforce_loss
from pgtheory.surrogates import Clip, importance_ratios, kl_estimate, masked_mean, ppo_clip_loss
from pgtheory.training import Resumable

GROUP_LOSSES = ("rloo", "grpo", "dr_grpo", "dapo", "gspo")
LOSSES = ("reinforce", *GROUP_LOSSES, "ppo_clip")
LEAVE_ONE_OUT = ("rloo", "ppo_clip")


class PostTrainingRecord(NamedTuple):
    r"""What one step of `post_train` saw; means are over the completions, or the tokens, of all prompts of the step.

    Attributes:
        step: the number of steps made, this one included.
        reward: the mean reward.
        kl: the mean over tokens of `kl_estimate` k3 of the divergence from the reference, in nats; NaN without one.
            Times `length`, it is an unbiased estimate of the divergence of whole completions.
        entropy: the mean over tokens of :math:`-\ln\pi`, in nats.
        length: the mean number of tokens, the end token included.
        truncated: the fraction of completions that the length limit cut off.
        clipped: the fraction of tokens whose ratio was outside the clip range in the last epoch.
        gradient_norm: the norm of the gradient in the last epoch, before it is limited.
        prompt: one of the prompts, as text.
        completion: a completion of it.

    Example:
        >>> PostTrainingRecord(1, 0.5, 0.0, 1.2, 8.0, 0.0, 0.0, 0.3, "Sort 31:", "13").reward
        0.5
    """

    step: int
    reward: float
    kl: float
    entropy: float
    length: float
    truncated: float
    clipped: float
    gradient_norm: float
    prompt: str
    completion: str


class Settings(NamedTuple):
    """The arguments of `post_train` that decide the run."""

    loss: str | GroupLoss
    size: int
    prompts_per_step: int | None
    max_tokens: int
    end: int | Sequence[int] | None
    temperature: float
    top_k: int | None
    top_p: float | None
    learning_rate: float
    weight_decay: float
    max_grad_norm: float | None
    kl_weight: float
    epochs: int
    clip: Clip
    seed: int


class _Drawn(NamedTuple):
    """The completions of some prompts, what they earned, and what the reference says of them; on the CPU."""

    completions: Completions
    rewards: Tensor
    ref_log_probs: Tensor
    texts: list[tuple[str, str]]


class _Batch(NamedTuple):
    """All completions of a step, of all ranks, as a loss sees them: [B, K, T], the rewards [B, K]."""

    old_log_probs: Tensor
    mask: Tensor
    rewards: Tensor
    ref_log_probs: Tensor
    truncated: Tensor


class _Trained(nn.Module):
    """The parameters of a model that are trained, under its names for them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)


class Run(Resumable):
    """A run of `post_train`: its state is what is trained, the optimiser, the generator and the history."""

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Tensor],
        reward: Callable[..., Any],
        settings: Settings,
        *,
        reference: CausalLM | None,
        micro_batch: int | None,
        decode: Decode | None,
    ) -> None:
        _checks.check_instance("model", model, nn.Module)
        _checks.check_callable("reward", reward)
        self.trained = _Trained(model)
        parameters = list(self.trained.parameters())
        if not parameters:
            raise ValueError("model has no parameter that requires a gradient: there is nothing to train")
        self.model, self.reward, self.device = model, reward, parameters[0].device
        _checks.check_prompts("prompts", prompts)
        self.prompts = [prompt.long().to(self.device) for prompt in prompts]
        self.settings = _checked(settings, len(self.prompts))
        self.reference = _checked_reference(reference, model, self.settings.kl_weight)
        self.micro_batch = None if micro_batch is None else _checks.check_count("micro_batch", micro_batch)
        if decode is not None:
            _checks.check_callable("decode", decode)
        self.decode = decode
        self.rank, self.ranks = _ranks.rank_and_number()
        self.optimizer = torch.optim.AdamW(
            parameters, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        self.history: list[PostTrainingRecord] = []
        self._fixed: dict[str, str] | None = None

    def step(self) -> PostTrainingRecord:
        """Draw completions, and update by them: wholly, or not at all."""
        return self._whole(self._learn)

    def check_ranks(self) -> None:
        """Raise unless all ranks do the same."""
        if self.ranks == 1:
            return
        mine = {**self._configuration(), "trained": digest(list(self.trained.parameters())), "step": len(self.history)}
        first, *others = _ranks.gathered(lambda: mine)
        for rank, other in enumerate(others, 1):
            if differ := [key for key in {**first, **other} if first.get(key) != other.get(key)]:
                raise ValueError(f"rank {rank} was given something else than rank 0: {', '.join(differ)}")

    @contextlib.contextmanager
    def in_evaluation_mode(self) -> Iterator[None]:
        """Dropout is switched off: with it, the model that is scored would not be the one that was sampled from."""
        modules = [m for model in (self.model, self.reference) if isinstance(model, nn.Module) for m in model.modules()]
        modes = [module.training for module in modules]
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode

    def _learn(self) -> PostTrainingRecord:
        """One step."""
        chosen = torch.randperm(len(self.prompts), generator=self.generator)[: self.settings.prompts_per_step]
        seeds = torch.randint(2**62, (self.ranks,), generator=self.generator).tolist()
        shares = [share.tolist() for share in chosen.tensor_split(self.ranks)]
        drawn = _ranks.gathered(lambda: self._drawn([self.prompts[i] for i in shares[self.rank]], seeds[self.rank]))
        batch = _joined(drawn)
        first = sum(len(share) for share in shares[: self.rank])
        here = slice(first, first + len(shares[self.rank]))
        mine = Completions(*(field.to(self.device) for field in drawn[self.rank].completions))
        log_probs = batch.old_log_probs
        for epoch in range(self.settings.epochs):
            if epoch > 0:
                log_probs = torch.cat(_ranks.gathered(lambda: self._log_probs(mine)))
                # A token that is left out by now has the ratio 0, and no gradient: see `_accumulate`.
                log_probs = torch.where(log_probs.isfinite(), log_probs, batch.old_log_probs)
            slopes = slope_of(lambda x: self._loss(x, batch), log_probs)
            _checks.check_finite("the gradient of loss", slopes)
            self._accumulate(mine, slopes[here].to(self.device))
            norm = self._limited_norm()
            self.optimizer.step()
        texts = next(part.texts[0] for part in drawn if part.texts)
        self.history.append(self._seen(batch, log_probs, norm, texts))
        return self.history[-1]

    def _drawn(self, prompts: list[Tensor], seed: int) -> _Drawn:
        """Completions of some prompts, and what is known about them."""
        s = self.settings
        if not prompts:
            return self._nothing()
        completions = sample_completions(
            self.model,
            prompts,
            s.size,
            max_tokens=s.max_tokens,
            end=s.end,
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
            generator=torch.Generator(self.device).manual_seed(seed),
        )
        rewards = rated(self.reward, completions, self.decode)
        with self._as_reference() as reference, torch.no_grad():
            ref_log_probs = torch.full_like(completions.log_probs, math.nan)
            if reference is not None:
                ref_log_probs = completion_log_probs(
                    reference, completions, temperature=s.temperature, batch_size=self.micro_batch
                )
        on_cpu = Completions(*(field.cpu() for field in completions))
        text = shown(completions, 0, self.decode)
        return _Drawn(on_cpu, rewards.to(completions.log_probs.dtype), ref_log_probs.cpu(), [text])

    def _nothing(self) -> _Drawn:
        """The share of a rank that is left without prompts."""
        dtype = torch.promote_types(next(self.trained.parameters()).dtype, torch.float32)
        numbers = torch.zeros(0, self.settings.size, self.settings.max_tokens, dtype=dtype)
        tokens, flags = numbers.long(), numbers.bool()
        prompts = tokens[:, 0]
        completions = Completions(prompts, prompts.bool(), tokens, flags, numbers, flags.any(-1), flags.any(-1))
        return _Drawn(completions, numbers.sum(-1), numbers, [])

    def _log_probs(self, completions: Completions) -> Tensor:
        """What the model as it is now gives to the tokens, on the CPU."""
        if len(completions.tokens) == 0:
            return completions.log_probs.cpu()
        with torch.no_grad():
            return self._scored(completions, self.micro_batch).cpu()

    def _scored(self, completions: Completions, batch_size: int | None = None) -> Tensor:
        s = self.settings
        return completion_log_probs(
            self.model, completions, temperature=s.temperature, top_k=s.top_k, top_p=s.top_p, batch_size=batch_size
        )

    def _loss(self, log_probs: Tensor, batch: _Batch) -> Tensor:
        """The loss of the whole batch."""
        s, (old, mask, rewards, ref, _) = self.settings, batch
        if s.loss in GROUP_LOSSES:
            return grpo_loss(
                log_probs,
                old,
                rewards,
                mask=mask,
                variant=cast(Variant, s.loss),
                clip=s.clip,
                ref_log_probs=ref,
                beta=s.kl_weight,
            )
        penalty = s.kl_weight * kl_estimate(log_probs, ref, mask=mask) if s.kl_weight > 0.0 else torch.zeros_like(old)
        if s.loss == "ppo_clip":
            advantages = group_advantages(rewards, scale="none", baseline="leave_one_out").unsqueeze(-1)
            clipped = ppo_clip_loss(log_probs, old, advantages.expand_as(old), clip=s.clip, mask=mask)
            return clipped + masked_mean(penalty, mask)
        if s.loss == "reinforce":
            earned = torch.where(is_last_step(mask), rewards.unsqueeze(-1), 0.0)
            return reinforce_loss(log_probs, earned, 1.0, mask=mask) + penalty.sum(-1).mean()
        assert callable(s.loss)
        return checked_loss(s.loss(log_probs, old, rewards, mask=mask)) + penalty.sum(-1).mean()

    def _accumulate(self, completions: Completions, slopes: Tensor) -> None:
        """Put the gradient of the loss into `grad`, a few completions at a time: Σ ∂L/∂ln π · ∇ln π, of all ranks."""
        for parameter in self.trained.parameters():
            parameter.grad = torch.zeros_like(parameter)
        rows = slopes.flatten(0, 1).any(-1).nonzero().squeeze(-1)  # the others add nothing
        for part in torch.split(rows, self.micro_batch or max(1, len(rows))):
            if len(part) > 0:
                log_probs = self._scored(some(completions, part))
                weights = slopes.flatten(0, 1)[part].unsqueeze(1)
                (weights * torch.where(log_probs.isfinite(), log_probs, 0.0)).sum().backward()  # type: ignore[no-untyped-call]
        _ranks.add_up(parameter.grad for parameter in self.trained.parameters() if parameter.grad is not None)

    def _limited_norm(self) -> float:
        """Limit the norm of the gradient; return what it was."""
        largest = math.inf if self.settings.max_grad_norm is None else self.settings.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_(self.trained.parameters(), largest))
        if not math.isfinite(norm):
            raise ValueError(f"the gradient has the norm {norm}: nothing was changed in this step")
        return norm

    def _seen(self, batch: _Batch, log_probs: Tensor, norm: float, texts: tuple[str, str]) -> PostTrainingRecord:
        ratios, (low, high) = (
            importance_ratios(log_probs, batch.old_log_probs, mask=batch.mask),
            _ratios.checked_clip(self.settings.clip),
        )
        outside = ((ratios < 1 - low) | (ratios > 1 + high)).to(ratios.dtype)
        kl = math.nan
        if self._has_reference():
            kl = float(masked_mean(kl_estimate(batch.old_log_probs, batch.ref_log_probs, mask=batch.mask), batch.mask))
        return PostTrainingRecord(
            step=len(self.history) + 1,
            reward=float(batch.rewards.double().mean()),
            kl=kl,
            entropy=0.0 - float(masked_mean(batch.old_log_probs, batch.mask)),
            length=float(batch.mask.sum(-1).double().mean()),
            truncated=float(batch.truncated.double().mean()),
            clipped=float(masked_mean(outside, batch.mask)),
            gradient_norm=norm,
            prompt=texts[0],
            completion=texts[1],
        )

    def _has_reference(self) -> bool:
        return self.reference is not None or hasattr(self.model, "disable_adapter")

    @contextlib.contextmanager
    def _as_reference(self) -> Iterator[CausalLM | None]:
        """The reference: what was given, or the model without its adapters, or nothing."""
        if self.reference is None and self._has_reference():
            with self.model.disable_adapter():  # type: ignore[operator]
                yield self.model
        else:
            yield self.reference

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.trained}

    def _settings(self) -> dict[str, Any]:
        loss = self.settings.loss
        plain = {**self.settings._asdict(), "loss": loss if isinstance(loss, str) else _name(loss)}
        return {
            **plain,
            "of": _name(self.model),
            "prompts": digest(self.prompts),
            "ranks": self.ranks,
            **self._others(),
        }

    def _others(self) -> dict[str, str]:
        """What the run depends on and does not change, by digest: the rest of the model, and the reference."""
        if self._fixed is None:
            frozen = [p for p in self.model.parameters() if not p.requires_grad] + list(self.model.buffers())
            fixed = {"frozen": digest(frozen), "reference": "None"}
            if self.reference is not None:
                module = self.reference if isinstance(self.reference, nn.Module) else nn.Module()
                fixed["reference"] = f"{_name(self.reference)} {digest(list(module.parameters()))}"
            self._fixed = fixed
        return self._fixed

    def _record(self, row: tuple[Any, ...]) -> PostTrainingRecord:
        return PostTrainingRecord(*row)

    def _packed(self, rows: list[tuple[Any, ...]]) -> Any:
        return [list(row) for row in rows]

    def _unpacked(self, rows: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in rows]


def _joined(drawn: list[_Drawn]) -> _Batch:
    """The shares of all ranks as one batch."""
    columns = (
        [part.completions.log_probs for part in drawn],
        [part.completions.mask for part in drawn],
        [part.rewards for part in drawn],
        [part.ref_log_probs for part in drawn],
        [part.completions.truncated for part in drawn],
    )
    return _Batch(*(torch.cat(column) for column in columns))


def _name(value: object) -> str:
    return getattr(value, "__qualname__", type(value).__name__)


def _checked(settings: Settings, n_prompts: int) -> Settings:
    """The settings in plain types; raise unless each is in its range."""
    s, count, not_negative = settings, _checks.check_count, _checks.check_not_negative
    if not callable(s.loss) or isinstance(s.loss, type):
        _checks.check_choice("loss", s.loss, LOSSES)
    temperature = not_negative("temperature", s.temperature)
    if temperature == 0.0:
        raise ValueError("temperature must be positive: at 0 nothing is sampled")
    per_step = n_prompts if s.prompts_per_step is None else count("prompts_per_step", s.prompts_per_step)
    if per_step > n_prompts:
        raise ValueError(f"prompts_per_step is {per_step}, but there are {n_prompts} prompts")
    ends = s.end if isinstance(s.end, Sequence) and not isinstance(s.end, str | bytes) else [s.end]
    return Settings(
        loss=s.loss,
        size=count("size", s.size, at_least=2 if s.loss in LEAVE_ONE_OUT else 1),
        prompts_per_step=per_step,
        max_tokens=count("max_tokens", s.max_tokens),
        end=None if s.end is None else [count("end", token, at_least=0) for token in ends],
        temperature=temperature,
        top_k=None if s.top_k is None else count("top_k", s.top_k),
        top_p=None if s.top_p is None else _checks.check_unit_interval("top_p", s.top_p),
        learning_rate=not_negative("learning_rate", s.learning_rate),
        weight_decay=not_negative("weight_decay", s.weight_decay),
        max_grad_norm=None if s.max_grad_norm is None else not_negative("max_grad_norm", s.max_grad_norm),
        kl_weight=not_negative("kl_weight", s.kl_weight),
        epochs=count("epochs", s.epochs),
        clip=_ratios.checked_clip(s.clip),
        seed=count("seed", s.seed, at_least=0),
    )


def _checked_reference(reference: CausalLM | None, model: nn.Module, kl_weight: float) -> CausalLM | None:
    if reference is not None:
        _checks.check_callable("reference", reference)
    elif kl_weight > 0.0 and not hasattr(model, "disable_adapter"):
        raise ValueError(f"kl_weight is {kl_weight} but reference is None, and model has no adapters to switch off")
    return reference
