"""A run goes on bit for bit, whatever has stopped it; a file that does not fit changes nothing."""

import gc
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
    mdp: Any = changes.pop("source", gallery.short_corridor())
    kind = changes.pop("optimizer", torch.optim.Adam)
    policy = changes.pop("policy", None) or TabularPolicy(
        mdp.n_states, mdp.n_actions, init_std=0.1, generator=generator(2), dtype=F64
    )
    values = changes.pop("baseline") if "baseline" in changes else embedding(mdp.n_states)
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
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2) if envs is None else envs
    sizes = int(envs.single_action_space.n), 1
    policy, critic = (NeuralPolicy(4, n, hidden=(8,), generator=generator(n)) for n in sizes)
    adam = torch.optim.Adam([*policy.parameters(), *critic.parameters()], lr=0.01)
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
        trainer.policy.theta[0, 0], trainer.policy.theta[1, 1] = -math.inf, math.nan  # type: ignore[operator]
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


class Interrupt:
    """Ctrl-C at a chosen place of a call: a line of any function in a file whose path contains `inside`.

    Of the functions in files whose path contains `opcodes`, each opcode is a place.
    """

    def __init__(self, inside: str, opcodes: str) -> None:
        self.inside, self.opcodes = inside, opcodes
        self.places: list[tuple[Any, int]] = []
        self.stop_at = -1

    def trace(self, frame: Any, event: str, _: Any) -> Any:
        path = frame.f_code.co_filename
        if event == "call":
            frame.f_trace_opcodes = self.opcodes in path
            return self.trace if self.inside in path or self.opcodes in path else None
        if event in ("line", "opcode"):
            self.places.append((frame.f_code, frame.f_lasti))
            if len(self.places) == self.stop_at:
                raise KeyboardInterrupt
        return self.trace

    def __call__(self, call: Callable[[], Any], stop_at: int = -1) -> bool:
        """Whether the call was stopped, at that place of all that it reaches.

        Nothing is collected meanwhile: collecting calls what others have hung on it (Hypothesis does), at a time of
        its own, and swallows an exception that is raised there.
        """
        self.places, self.stop_at = [], stop_at
        before, collecting = sys.gettrace(), gc.isenabled()
        gc.disable()
        sys.settrace(self.trace)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
            if collecting:
                gc.enable()
        return False

    def choice(self, reset: Callable[[], Any], call: Callable[[], Any], at_most: int) -> list[int]:
        """The first time and the last that each place is reached; if these are too many, evenly chosen ones."""
        reset()
        call()  # what is done at the first call alone is not to be counted
        reset()
        self(call)
        first = {place: k for k, place in reversed([*enumerate(self.places, 1)])}
        last = {place: k for k, place in enumerate(self.places, 1)}
        both = sorted({*first.values(), *last.values()})
        return both[:: math.ceil(len(both) / at_most)]


def check_each_interrupt(
    build: Callable[[], Any],
    call: Callable[[Any], Any],
    *,
    at_most: int,
    outcomes: int = 1,
    inside: str = "",
    opcodes: str = "never",
) -> None:
    """Stop `call` at each place. Each time the state must be that before the call or one of those after.

    And the run must go on from there to the end of the uninterrupted one.
    """
    trainer, whole, interrupt = build(), build(), Interrupt(inside, opcodes)
    trainer.run(2)
    whole.run(2)
    start, states = trainer.state_dict(), []
    for _ in range(outcomes + 2):
        states.append(state_of(whole))
        whole.update()
    places = interrupt.choice(lambda: trainer.load_state_dict(start), lambda: call(trainer), at_most)
    seen, stopped = set(), 0
    for k in places:
        trainer.load_state_dict(start)
        stopped += interrupt(lambda: call(trainer), k)
        done = len(trainer.history) - 2
        seen.add(done)
        assert state_of(trainer) == states[done], f"stopped at {k}"
        trainer.run(outcomes + 1 - done)
        assert state_of(trainer) == states[outcomes + 1], f"gone on from {k}"
    assert len(places) > at_most / 3
    assert stopped == len(places)
    assert 0 in seen <= set(range(outcomes + 1))


def update(trainer: Any) -> None:
    trainer.update()


@pytest.mark.parametrize("build", BUILDS)
def test_an_update_stopped_at_a_line_of_the_package_has_not_begun_or_is_over(build: Callable[[], Any]) -> None:
    check_each_interrupt(build, update, at_most=150, inside="pgtheory")


@pytest.mark.parametrize("build", BUILDS)
def test_an_update_stopped_inside_of_torch_or_gymnasium_has_not_begun_or_is_over(build: Callable[[], Any]) -> None:
    check_each_interrupt(build, update, at_most=60)


def test_an_update_stopped_at_an_opcode_of_what_makes_it_whole_has_not_begun_or_is_over() -> None:
    check_each_interrupt(on_mdp, update, at_most=200, inside="_resumable.py", opcodes="_resumable.py")


def test_a_run_stopped_between_updates_keeps_those_that_were_made() -> None:
    check_each_interrupt(on_mdp, lambda trainer: trainer.run(2), at_most=60, outcomes=2, inside="training")


@pytest.mark.parametrize("build", [on_mdp, by_ppo])
def test_a_second_interrupt_while_the_first_is_put_back_loses_nothing(build: Callable[[], Any]) -> None:
    trainer, whole, interrupt = build(), build(), Interrupt("pgtheory", "_resumable.py")
    trainer.run(2)
    whole.run(2)
    start, before = trainer.state_dict(), state_of(trainer)
    whole.run(1)
    recover = trainer._recover

    def begin() -> None:
        trainer.load_state_dict(start)
        trainer._journal = trainer._snapshot(), list(trainer.history), True
        trainer._learn()  # an update that is under way

    def stopped_in_recovery(k: int) -> None:
        begin()
        assert interrupt(recover, k)

    for k in interrupt.choice(begin, recover, 60):
        stopped_in_recovery(k)
        assert state_of(trainer) == before
        stopped_in_recovery(k)
        trainer.run(1)
        assert state_of(trainer) == state_of(whole)


@pytest.mark.parametrize("build", BUILDS)
def test_a_load_that_is_stopped_has_not_begun_or_is_over(build: Callable[[], Any], tmp_path: Path) -> None:
    trainer, interrupt = build(), Interrupt("pgtheory", "_resumable.py")
    trainer.run(2)
    path, after = file_of(trainer, tmp_path), state_of(trainer)
    trainer.run(1)
    start, before = trainer.state_dict(), state_of(trainer)
    places = interrupt.choice(lambda: trainer.load_state_dict(start), lambda: trainer.load(path), 100)
    seen, stopped = set(), 0
    for k in places:
        trainer.load_state_dict(start)
        stopped += interrupt(lambda: trainer.load(path), k)
        seen.add(state_of(trainer))
        assert seen <= {before, after}, f"stopped at {k}"
    assert stopped == len(places)
    assert before in seen


def test_gradients_are_taken_again_after_an_interrupt_that_has_switched_them_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer, whole = on_mdp(), on_mdp()
    enter = torch.no_grad.__enter__

    def stopped(self: Any) -> None:
        monkeypatch.undo()
        enter(self)  # so that the block is never left
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.no_grad, "__enter__", stopped)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.update()
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
    assert trainer.run(2) == whole.run(2)


SIGNALS = """
import math, random, signal, time
import tests_of_resuming as here

random.seed(0)
signal.signal(signal.SIGALRM, signal.default_int_handler)  # the alarm is a Ctrl-C, and needs no thread of its own
left = lambda: signal.getitimer(signal.ITIMER_REAL)[0]
for build in (here.on_mdp, here.by_ppo):
    whole, trainer, stops = build(), build(), 0
    whole.run(1)  # so that whatever is imported late is there
    late = math.inf
    for _ in range(5):  # the shortest: a machine that is busy for a while would have thousands of updates made
        begun = time.perf_counter()
        whole.run(1)
        late = min(late, 4 * (time.perf_counter() - begun))
    end = time.perf_counter() + 60
    while stops < 15 and (stops < 1 or time.perf_counter() < end):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, late))
            while left():  # an alarm in a destructor is swallowed there: then there is none to wait for
                trainer.update()
        except KeyboardInterrupt:
            stops += 1
    trainer.run(len(whole.history) + 1)
    whole.run(len(trainer.history) - len(whole.history))
    assert here.state_of(trainer) == here.state_of(whole)
    print(len(trainer.history))
"""


def test_a_run_that_is_stopped_by_signals_again_and_again_is_the_uninterrupted_one(tmp_path: Path) -> None:
    (tmp_path / "tests_of_resuming.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-c", SIGNALS]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    assert min(map(int, done.stdout.split())) > 6


# --- errors on the way


class Fails(nn.Module):
    """Values of states, until they are asked for once too often."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.left = embedding(4), 10**9

    def forward(self, states: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no more")
        return self.values(states)  # type: ignore[no-any-return]


def test_an_update_that_fails_changes_nothing() -> None:
    values = Fails()
    trainer, whole = on_mdp(baseline=values), on_mdp(baseline=Fails())
    trainer.run(2)
    before, values.left = state_of(trainer), 0
    with pytest.raises(RuntimeError, match="no more"):
        trainer.update()
    assert state_of(trainer) == before
    values.left = 10**9
    assert trainer.run(2) == whole.run(4)[2:]


class Moody(gymnasium.Env[Any, int]):
    """Observations that no seed decides."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,))
    action_space: Any = gymnasium.spaces.Discrete(2)
    rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.rng.uniform(size=4).astype(np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.rng.uniform(size=4).astype(np.float32), 1.0, False, False, {}


class Dial(gymnasium.Env[Any, int]):
    """It shows the last of many actions."""

    observation_space = gymnasium.spaces.Box(0.0, 1000.0, (4,))
    action_space: Any = gymnasium.spaces.Discrete(700)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(4, dtype=np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.full(4, action, dtype=np.float32), float(action % 7), False, False, {}


def test_environments_of_many_actions_are_brought_back(tmp_path: Path) -> None:
    whole, first, second = (by_ppo(SyncVectorEnv([Dial] * 2)) for _ in range(3))
    first.run(2)
    second.load(file_of(first, tmp_path))
    assert second.run(2) == whole.run(4)[2:]


def test_environments_that_cannot_be_brought_back_begin_anew_with_a_warning(tmp_path: Path) -> None:
    trainer = by_ppo(SyncVectorEnv([Moody] * 2))
    trainer.run(2)
    trainer.load(file_of(trainer, tmp_path))
    with pytest.warns(RuntimeWarning, match="new episodes begin"):
        trainer.update()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.run(2)
    assert [record.steps for record in trainer.history] == [12, 24, 36, 48, 60]


# --- files of another run, of something else, or damaged


def walls() -> FiniteMDP:
    """Like the short corridor, but with other rewards."""
    mdp = gallery.short_corridor()
    return FiniteMDP.from_table(mdp.dynamics(), 2 * mdp.rewards, initial=mdp.initial, terminal=mdp.terminal)


def tanh(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Embedding(4, 3, dtype=F64), *layers, nn.Linear(3, 1, dtype=F64))


def reversed_adam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(list(parameters)[::-1], lr=lr)


def by_group(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam([{"params": [p]} for p in parameters], lr=lr)


def lake(**options: Any) -> Any:
    return gymnasium.make_vec("FrozenLake-v1", num_envs=2, **options)


def on_lake(envs: Any) -> Trainer:
    policy = TabularPolicy(16, 4)
    return Trainer(policy, envs, 0.9, optimizer=torch.optim.SGD(policy.parameters(), lr=0.1), horizon=4)


def masked(*rows: int) -> TabularPolicy:
    available = torch.ones(4, 2, dtype=torch.bool)
    available[list(rows), 0] = False
    return TabularPolicy(4, 2, available=available, dtype=F64)


MDP, OTHER = gallery.short_corridor, gallery.random_walk
DIFFERENCES = [
    pytest.param(on_mdp, lambda: on_mdp(gamma=0.9), "gamma is 0.95 in the file, but 0.9 in", id="another gamma"),
    pytest.param(on_mdp, lambda: on_mdp(horizon=6), "horizon is 5 in the file, but 6 in", id="another horizon"),
    pytest.param(
        on_mdp, lambda: on_mdp(batch_size=4), "batch_size is 3 in the file, but 4 in", id="another batch size"
    ),
    pytest.param(
        on_mdp,
        lambda: on_mdp(entropy_weight=0.0),
        "entropy_weight is 0.01 in the file, but 0.0 in",
        id="another entropy weight",
    ),
    pytest.param(
        on_mdp,
        lambda: on_mdp(discount_states=False),
        "discount_states is True in the file, but False in",
        id="another discount",
    ),
    pytest.param(
        on_mdp, lambda: on_mdp(bootstrap=True), "bootstrap is False in the file, but True in", id="another bootstrap"
    ),
    pytest.param(
        lambda: on_mdp(baseline=1.0),
        lambda: on_mdp(baseline=2.0),
        "baseline is 1.0 in the file, but 2.0 in",
        id="another baseline number",
    ),
    pytest.param(
        lambda: on_mdp(baseline=None),
        lambda: on_mdp(baseline="leave_one_out"),
        "baseline is None in the file, but 'leave_one_out' in",
        id="another baseline",
    ),
    pytest.param(
        on_mdp,
        lambda: on_mdp(baseline=None),
        "baseline is 'Embedding' in the file, but None in",
        id="no baseline module",
    ),
    pytest.param(
        lambda: on_mdp(baseline=tanh(nn.Tanh())),
        lambda: on_mdp(baseline=tanh(nn.ReLU())),
        "baseline parts is 'Embedding, Tanh, Linear' in the file, but 'Embedding, ReLU, Linear' in",
        id="other layers",
    ),
    pytest.param(
        on_mdp,
        lambda: on_mdp(policy=LinearPolicy(torch.ones(4, 2, 3, dtype=F64))),
        "policy is 'TabularPolicy' in the file, but 'LinearPolicy' in",
        id="another policy",
    ),
    pytest.param(
        lambda: on_mdp(baseline=1.0),
        lambda: on_mdp(baseline=1.0, policy=TabularPolicy(4, 2)),
        "policy.theta is 'float64 [4, 2]' in the file, but 'float32 [4, 2]' in",
        id="another dtype",
    ),
    pytest.param(
        on_mdp,
        lambda: on_mdp(policy=TabularPolicy(5, 2, dtype=F64)),
        "policy.theta is 'float64 [4, 2]' in the file, but 'float64 [5, 2]' in",
        id="another shape",
    ),
    pytest.param(
        lambda: on_mdp(policy=masked(0)),
        lambda: on_mdp(policy=masked(1)),
        "policy._mask is 'SHA-256",
        id="another mask",
    ),
    pytest.param(
        lambda: on_mdp(optimizer=torch.optim.SGD),
        on_mdp,
        "optimizer is 'SGD' in the file, but 'Adam' in",
        id="another optimiser",
    ),
    pytest.param(
        on_mdp,
        lambda: on_mdp(optimizer=reversed_adam),
        "optimizer group 0 is 'policy.theta, baseline.weight' in the file, but 'baseline.weight, policy.theta' in",
        id="another order",
    ),
    pytest.param(
        on_mdp,
        lambda: on_mdp(optimizer=by_group),
        "optimizer group 1 is absent in the file, but 'baseline.weight' in",
        id="other groups",
    ),
    pytest.param(on_mdp, lambda: on_mdp(source=walls()), "source dynamics is 'SHA-256", id="other dynamics"),
    pytest.param(
        on_mdp,
        lambda: on_mdp(source=OTHER(n=2)),
        "source dynamics is 'SHA-256",
        id="another start",
    ),
    pytest.param(
        on_mdp, lambda: on_mdp(source=OTHER(n=5)), "source states is 4 in the file, but 7 in", id="more states"
    ),
    pytest.param(
        on_mdp,
        lambda: on_mdp(
            source=SyncVectorEnv([MDP().to_gymnasium] * 3), policy=TabularPolicy(4, 2, dtype=F64), baseline=embedding(4)
        ),
        "source is 'FiniteMDP' in the file, but 'SyncVectorEnv' in",
        id="environments",
    ),
    pytest.param(
        lambda: on_lake(lake()),
        lambda: on_lake(lake(is_slippery=False)),
        "source is_slippery is absent in the file, but False in",
        id="another option",
    ),
    pytest.param(
        by_ppo,
        lambda: by_ppo(gymnasium.make_vec("CartPole-v1", num_envs=3)),
        "envs number is 2 in the file, but 3 in",
        id="more environments",
    ),
    pytest.param(
        by_ppo,
        lambda: by_ppo(gymnasium.make_vec("CartPole-v0", num_envs=2)),
        "envs is 'CartPole-v1' in the file, but 'CartPole-v0' in",
        id="another environment",
    ),
    pytest.param(by_ppo, on_cartpole, "trainer is 'PPOTrainer' in the file, but 'Trainer' in", id="another trainer"),
    pytest.param(
        by_ppo, lambda: by_ppo(clip=(0.1, 0.2)), "clip is (0.2, 0.2) in the file, but (0.1, 0.2) in", id="another clip"
    ),
    *(
        pytest.param(
            by_ppo, lambda name=name, value=value: by_ppo(**{name: value}), f"{name} is ", id=f"another {name}"
        )
        for name, value in {
            "lam": 0.5,
            "n_steps": 7,
            "n_epochs": 2,
            "n_minibatches": 3,
            "value_weight": 1.0,
            "entropy_weight": 0.1,
            "max_norm": 1.0,
            "normalize": False,
        }.items()
    ),
]


def refused(trainer: Trainer | PPOTrainer, path: Path) -> str:
    """The message with which a trainer refuses a file, which must name it; the trainer must be what it was."""
    before, updates = state_of(trainer), len(trainer.history)
    with pytest.raises(CheckpointError) as caught:
        trainer.load(path)
    assert str(caught.value).startswith(str(path))
    assert state_of(trainer) == before
    trainer.update()
    assert len(trainer.history) == updates + 1
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:.*CartPole-v0 is out of date:DeprecationWarning")
@pytest.mark.parametrize(("build", "other", "message"), DIFFERENCES)
def test_the_file_of_another_run_is_refused(
    build: Callable[[], Any], other: Callable[[], Any], message: str, tmp_path: Path
) -> None:
    first, second = build(), other()
    first.run(1)
    second.run(1)
    text = refused(second, file_of(first, tmp_path))
    assert "is of another run: " in text
    assert message in text


def test_every_difference_is_named_at_once(tmp_path: Path) -> None:
    path = file_of(on_mdp(), tmp_path)
    message = refused(on_mdp(gamma=0.9, horizon=6), path)
    expected = "gamma is 0.95 in the file, but 0.9 in the trainer; horizon is 5 in the file, but 6 in the trainer"
    assert message == f"{path} is of another run: {expected}"


def without(name: str) -> Callable[[Any], Any]:
    return lambda tree: {key: value for key, value in tree.items() if key != name}


def changed(*keys: Any, to: Any) -> Callable[[Any], Any]:
    def change(tree: Any) -> Any:
        inner = tree
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        return tree

    return change


WRONG = [
    pytest.param(lambda tree: [tree], "does not hold the state of a trainer", id="a list"),
    pytest.param(lambda tree: torch.ones(2), "does not hold the state of a trainer", id="a tensor"),
    pytest.param(without("configuration"), "does not hold the state of a trainer", id="no configuration"),
    pytest.param(without("history"), "does not hold the state of a trainer", id="no history"),
    pytest.param(changed("configuration", to=3), "does not hold the state", id="configuration"),
    pytest.param(changed("history", to=3), "does not hold the state", id="history"),
    pytest.param(changed("history", to=torch.ones(2, 3)), "history[0] is no record", id="short history"),
    pytest.param(changed("history", to=torch.full((1, 8), math.nan)), "does not hold the state", id="no count"),
    pytest.param(without("policy"), "state has the entries ['baseline', 'generator'", id="no policy"),
    pytest.param(changed("more", to=1), "state has the entries", id="more"),
    pytest.param(changed("policy", to=None), "policy has the entries NoneType, expected ['theta']", id="policy"),
    pytest.param(
        changed("policy", "theta", to=torch.ones(3, 2)),
        "policy.theta is float32 [3, 2], expected float64 [4, 2]",
        id="parameters",
    ),
    pytest.param(changed("baseline", "weight", to="w"), "baseline.weight is str, expected", id="a text"),
    pytest.param(
        changed("generator", to=torch.ones(3)), "generator is not the state of one on the cpu", id="generator"
    ),
    pytest.param(changed("generator", to=torch.zeros(3, dtype=torch.uint8)), "generator is not", id="short generator"),
    pytest.param(changed("generator", to=None), "generator is not the state of one", id="no generator"),
    pytest.param(changed("optimizer", to={}), "optimizer has the entries [], expected", id="optimiser"),
    pytest.param(changed("optimizer", "param_groups", to=[]), "optimizer has groups of [] parameters", id="groups"),
    pytest.param(changed("optimizer", "param_groups", to=[{"params": [0]}]), "of [1] parameters", id="few parameters"),
    pytest.param(changed("optimizer", "param_groups", to=3), "does not fit", id="groups that are a number"),
    pytest.param(
        changed("optimizer", "param_groups", 0, "momentum", to=0.9),
        "optimizer has the hyperparameters ['momentum'], which",
        id="hyperparameters",
    ),
    pytest.param(changed("optimizer", "state", 7, to={}), "a state of the parameters [7]", id="a third parameter"),
    pytest.param(changed("optimizer", "state", 0, to=3), "does not fit", id="a state that is a number"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_whole_file_that_holds_something_else_is_refused(
    change: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    trainer, other = on_mdp(), on_mdp()
    trainer.run(2)
    other.run(3)
    path = file_of(trainer, tmp_path)
    write_checkpoint(path, change(read_checkpoint(path)))
    assert message in refused(other, path)


def test_a_state_of_another_trainer_is_refused_without_a_file() -> None:
    trainer, before = on_mdp(), state_of(on_mdp())
    with pytest.raises(ValueError, match=re.escape("hyperparameters ['dampening', 'momentum', 'nesterov']")):
        trainer.load_state_dict(on_mdp(optimizer=torch.optim.SGD).state_dict())
    assert state_of(trainer) == before


WRONG_ENVIRONMENTS = [
    pytest.param(lambda tree: {}, "environments has the entries [], expected ['actions', 'earned', 'last', 'seed']"),
    pytest.param(changed("last", to={}), "environments.last has the entries [], expected ['actions', 'mask', "),
    *(
        pytest.param(changed(name, to=torch.zeros(n, 6)), f"environments has {rows} rows, expected 2")
        for name in ("actions", "earned")
        for n, rows in ((1, [1, 2]), (3, [2, 3]))
    ),
    pytest.param(changed("last", "next_states", to=torch.zeros(3, 1, 4)), "environments has [2, 3] rows, expected 2"),
    *(pytest.param(changed("seed", to=seed), "a seed or an action that is out of range") for seed in (-1, 2**31)),
    pytest.param(changed("actions", to=torch.full((2, 6), 2)), "environments has a seed or an action"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_ENVIRONMENTS)
def test_environments_that_cannot_be_are_refused(change: Callable[[Any], Any], message: str) -> None:
    trainer = by_ppo()
    trainer.update()
    state, before = trainer.state_dict(), state_of(trainer)
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer.load_state_dict(state | {"environments": change(state["environments"])})
    assert state_of(trainer) == before


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_a_state_of_environments_is_as_long_as_its_actions(seed: int) -> None:
    trainer = by_ppo()
    trainer.run(3)
    state = trainer.state_dict()
    assert state["environments"]["actions"].shape == (2, 18)
    assert {column.shape[:2] for column in state["environments"]["last"].values()} == {(2, 1)}
    trainer.load_state_dict(state | {"environments": state["environments"] | {"seed": seed}})
    assert trainer.state_dict()["environments"]["seed"] == seed


def test_an_optimiser_that_refuses_its_state_halfway_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, other = on_mdp(), on_mdp()
    trainer.run(2)
    path, load, calls = file_of(trainer, tmp_path), other.optimizer.load_state_dict, []

    def fails_once(state: Any) -> None:
        load(state)
        calls.append(state)
        if len(calls) == 1:
            raise RuntimeError("refused")

    monkeypatch.setattr(other.optimizer, "load_state_dict", fails_once)
    assert "does not fit: refused" in refused(other, path)


def test_a_file_of_torch_save_is_refused(tmp_path: Path) -> None:
    trainer = on_mdp()
    torch.save(trainer.state_dict(), tmp_path / "run")
    assert "looks like a file of torch.save" in refused(trainer, tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        trainer.load(tmp_path / "nowhere")


@pytest.mark.parametrize("build", [on_mdp, by_ppo])
def test_a_damaged_file_changes_nothing(build: Callable[[], Any], tmp_path: Path) -> None:
    trainer, other = build(), build()
    trainer.run(2)
    path, before = file_of(trainer, tmp_path), state_of(other)
    data = path.read_bytes()
    for place in range(0, len(data), 23):
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(bytes([data[place] ^ 1 << place % 8]))
        with pytest.raises(CheckpointError):
            other.load(path)
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(data[place : place + 1])
    for length in range(len(data) - 1, 0, -37):
        with open(path, "r+b") as file:
            file.truncate(length)
        with pytest.raises(CheckpointError):
            other.load(path)
    assert state_of(other) == before


def test_a_state_that_no_file_can_hold_leaves_the_old_file(tmp_path: Path) -> None:
    trainer = on_mdp()
    data = file_of(trainer, tmp_path).read_bytes()
    trainer.optimizer.param_groups[0]["schedule"] = object()
    with pytest.raises(CheckpointError, match=r"param_groups\.0\.schedule is of the type object"):
        trainer.save(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == data


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_a_run_on_environments_of_every_autoreset_mode_survives_an_interrupt(mode: AutoresetMode) -> None:
    def build() -> Trainer:
        envs = SyncVectorEnv([gallery.short_corridor().to_gymnasium] * 3, autoreset_mode=mode)
        return on_mdp(source=envs, policy=TabularPolicy(4, 2, dtype=F64), baseline=embedding(4))

    check_each_interrupt(build, update, at_most=20, inside="gymnasium")
