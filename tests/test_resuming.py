"""A run goes on bit for bit, whatever has stopped it; a file that does not fit changes nothing."""

import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from pgtheory import gallery
from pgtheory._checkpoints import read_checkpoint, write_checkpoint
from pgtheory.mdp import FiniteMDP
from pgtheory.softmax_policy import LinearPolicy, NeuralPolicy, TabularPolicy
from pgtheory.training import CheckpointError, PPOTrainer, Trainer

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embedding(n: int) -> nn.Embedding:
    values = nn.Embedding(n, 1, dtype=F64)
    nn.init.zeros_(values.weight)
    return values


def on_mdp(**changes: Any) -> Trainer:
    """A small run with everything that has a state."""
    mdp, kind = changes.pop("source", gallery.short_corridor()), changes.pop("optimizer", torch.optim.Adam)
    policy = changes.pop("policy", None) or TabularPolicy(
        mdp.n_states, mdp.n_actions, init_std=0.1, generator=generator(2), dtype=F64
    )
    values = changes.pop("baseline", embedding(mdp.n_states))
    of_values = list(values.parameters()) if isinstance(values, nn.Module) else []
    settings: dict[str, Any] = {"gamma": 0.95, "horizon": 5, "batch_size": 3, "entropy_weight": 0.01, **changes}
    optimizer = kind([*policy.parameters(), *of_values], lr=0.1)
    return Trainer(policy, mdp, optimizer=optimizer, baseline=values, generator=generator(1), **settings)


def on_cartpole() -> Trainer:
    policy, values = (NeuralPolicy(4, n, hidden=(8,), generator=generator(n)) for n in (2, 1))
    adam = torch.optim.Adam([*policy.parameters(), *values.parameters()], lr=0.01)
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2)
    return Trainer(
        policy, envs, 0.99, optimizer=adam, horizon=8, baseline=values, bootstrap=True, generator=generator(1)
    )


def by_ppo(envs: Any = None, **changes: Any) -> PPOTrainer:
    policy, critic = (NeuralPolicy(4, n, hidden=(8,), generator=generator(n)) for n in (2, 1))
    adam = torch.optim.Adam([*policy.parameters(), *critic.parameters()], lr=0.01)
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2) if envs is None else envs
    settings = {"n_steps": 6, "n_epochs": 1, "n_minibatches": 2, **changes}
    return PPOTrainer(policy, critic, envs, 0.99, optimizer=adam, generator=generator(1), **settings)


BUILDS = [on_mdp, on_cartpole, by_ppo]


def frozen(tree: Any) -> Any:
    """A tree in a form that is equal where, and only where, every bit is."""
    if isinstance(tree, Tensor):
        return (
            str(tree.dtype),
            tuple(tree.shape),
            tree.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
    if isinstance(tree, dict):
        return tuple(sorted(((str(key), frozen(value)) for key, value in tree.items()), key=lambda item: item[0]))
    if isinstance(tree, list | tuple):
        return tuple(frozen(value) for value in tree)
    return repr(tree)


def state_of(trainer: Trainer | PPOTrainer) -> Any:
    return frozen(trainer.state_dict())


def file_of(trainer: Trainer | PPOTrainer, tmp_path: Path) -> Path:
    trainer.save(tmp_path / "run")
    return tmp_path / "run"


# --- what is saved goes on bit for bit


@pytest.mark.parametrize("build", BUILDS)
def test_a_loaded_run_is_the_uninterrupted_one_bit_for_bit(build: Callable[[], Any], tmp_path: Path) -> None:
    whole, first, second = build(), build(), build()
    whole.run(12)
    first.run(7)
    path = file_of(first, tmp_path)
    second.run(2)  # a state of its own, which loading must replace
    second.load(path)
    second.run(5)
    first.run(5)  # saving has changed nothing
    assert state_of(first) == state_of(second) == state_of(whole)
    assert len(second.history) == 12


@pytest.mark.parametrize("build", BUILDS)
def test_the_beginning_of_a_run_can_be_saved_too(build: Callable[[], Any], tmp_path: Path) -> None:
    whole, second = build(), build()
    path = file_of(build(), tmp_path)
    second.run(1)
    second.load(path)
    assert second.history == []
    whole.run(3)
    second.run(3)
    assert state_of(second) == state_of(whole)


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "ASGD", "RMSprop", "Rprop", "Adagrad", "Adadelta"]
)
def test_every_optimiser_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    # torch.optim casts what NAdam and ASGD keep in float32 to the dtype of the parameter: that would be another run.
    whole, first, second = (on_mdp(optimizer=getattr(torch.optim, name)) for _ in range(3))
    whole.run(6)
    first.run(3)
    second.load(file_of(first, tmp_path))
    second.run(3)
    assert state_of(second) == state_of(whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_dtypes_go_on_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    def build() -> Trainer:
        return on_mdp(policy=TabularPolicy(4, 2, dtype=dtype), baseline=-1.0)

    whole, first, second = build(), build(), build()
    whole.run(4)
    first.run(2)
    second.load(file_of(first, tmp_path))
    second.run(2)
    assert state_of(second) == state_of(whole)


def test_the_generator_of_torch_is_saved_where_no_other_is_given(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    try:
        trainer = on_mdp()
        trainer.generator = torch.default_generator
        path = file_of(trainer, tmp_path)
        first = trainer.run(2)
        trainer.load(path)
        assert trainer.run(2) == first
    finally:
        torch.set_rng_state(before)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    trainer = on_mdp()
    trainer.run(2)
    first = file_of(trainer, tmp_path).read_bytes()
    other = on_mdp()
    other.load(tmp_path / "run")
    assert file_of(trainer, tmp_path).read_bytes() == file_of(other, tmp_path).read_bytes() == first


def test_not_a_number_and_infinity_are_kept_as_they_are(tmp_path: Path) -> None:
    trainer, other = on_mdp(), on_mdp()
    with torch.no_grad():
        trainer.policy.theta[0, 0], trainer.policy.theta[1, 1] = -math.inf, math.nan  # type: ignore[index, operator]
    other.load(file_of(trainer, tmp_path))
    assert state_of(other) == state_of(trainer)


def test_the_learning_rate_is_that_of_the_file_and_can_be_changed_after(tmp_path: Path) -> None:
    trainer, other = on_mdp(), on_mdp()
    trainer.optimizer.param_groups[0]["lr"] = 0.025
    trainer.run(1)
    other.load(file_of(trainer, tmp_path))
    assert other.optimizer.param_groups[0]["lr"] == 0.025
    other.optimizer.param_groups[0]["lr"] = 0.5
    before = other.policy.theta.detach().clone()  # type: ignore[operator]
    other.update()
    trainer.update()
    assert not torch.equal(other.policy.theta, trainer.policy.theta)  # type: ignore[arg-type]
    assert not torch.equal(other.policy.theta, before)  # type: ignore[arg-type]


def test_a_hyperparameter_that_an_older_file_lacks_stays_as_it_is(tmp_path: Path) -> None:
    trainer, other = on_mdp(), on_mdp()
    tree = read_checkpoint(file_of(trainer, tmp_path))
    del tree["optimizer"]["param_groups"][0]["decoupled_weight_decay"]
    write_checkpoint(tmp_path / "run", tree)
    other.load(tmp_path / "run")
    assert state_of(other) == state_of(trainer)


def test_loading_keeps_the_parameters_that_the_optimiser_holds(tmp_path: Path) -> None:
    trainer, other = on_mdp(), on_mdp()
    trainer.run(1)
    held = [(p, p.data_ptr()) for group in other.optimizer.param_groups for p in group["params"]]
    history = other.history
    other.load(file_of(trainer, tmp_path))
    now = [p for group in other.optimizer.param_groups for p in group["params"]]
    assert all(p is q and q.data_ptr() == place for (p, place), q in zip(held, now, strict=True))
    assert now[0] is other.policy.theta
    assert other.history is history


def test_a_state_is_a_copy_and_stays_one_after_it_was_loaded() -> None:
    trainer = by_ppo()
    trainer.run(2)
    state = trainer.state_dict()
    before = frozen(state)
    for _ in range(2):
        trainer.run(2)
        assert frozen(state) == before
        trainer.load_state_dict(state)
        assert state_of(trainer) == before


# --- Ctrl-C


def interrupted(call: Callable[[], Any], k: int, *, inside: str = "", opcodes: str = "never") -> bool:
    """Make a call that Ctrl-C stops at the k-th place that it reaches; False if it is over before.

    The places are the lines of all functions in files whose path contains `inside`, and all opcodes of the functions
    in files whose path contains `opcodes`.
    """
    left = k

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        path = frame.f_code.co_filename
        if event == "call":
            frame.f_trace_opcodes = opcodes in path
            return trace if inside in path or opcodes in path else None
        if event in ("line", "opcode"):
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def after_each_interrupt(
    build: Callable[[], Any], call: Callable[[Any], Any], outcomes: int, step: int = 1, **places: str
) -> int:
    """Stop `call` at every `step`-th place. Each time the state must be that before the call or one of those after.

    And the run must go on from there to the end of the uninterrupted one.
    """
    trainer, whole = build(), build()
    states = []
    trainer.run(2)
    whole.run(2)
    start = trainer.state_dict()
    for _ in range(outcomes + 2):
        states.append(state_of(whole))
        whole.update()
    n_stops, seen = 0, set()
    for k in range(0, 10**9, step):
        trainer.load_state_dict(start)
        if not interrupted(lambda: call(trainer), k, **places):
            break
        n_stops += 1
        done = len(trainer.history) - 2
        seen.add(done)
        assert state_of(trainer) == states[done], f"stopped at {k}"
        trainer.run(outcomes + 1 - done)
        assert state_of(trainer) == states[outcomes + 1], f"gone on from {k}"
    assert seen <= set(range(outcomes + 1))
    assert 0 in seen
    return n_stops


def update(trainer: Any) -> None:
    trainer.update()


@pytest.mark.parametrize("build", BUILDS)
def test_an_update_stopped_at_any_line_of_the_package_has_not_begun_or_is_over(build: Callable[[], Any]) -> None:
    assert after_each_interrupt(build, update, 1, inside="pgtheory") > 100


@pytest.mark.parametrize(("build", "step"), [(on_mdp, 61), (on_cartpole, 61), (by_ppo, 97)])
def test_an_update_stopped_inside_of_torch_or_gymnasium_has_not_begun_or_is_over(
    build: Callable[[], Any], step: int
) -> None:
    assert after_each_interrupt(build, update, 1, step) > 10


def test_an_update_stopped_at_any_opcode_of_what_makes_it_whole_has_not_begun_or_is_over() -> None:
    n_stops = after_each_interrupt(on_mdp, update, 1, inside="_resumable.py", opcodes="_resumable.py")
    assert n_stops > 300


def test_a_run_stopped_between_updates_keeps_those_that_were_made() -> None:
    n_stops = after_each_interrupt(on_mdp, lambda t: t.run(2, progress=False), 2, 3, inside="training")
    assert n_stops > 50
