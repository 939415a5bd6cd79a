"""What the trainers share: changes that happen wholly or not at all, a state, and checkpoints."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pgtheory._checkpoints import CheckpointError, kind, read_checkpoint, write_checkpoint
from pgtheory.training._configuration import of_module, of_optimizer

Result = TypeVar("Result")

# What a file that is intact, but has another form than a trainer's, may make of the code that unpacks it.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


class Resumable(ABC):
    r"""What `Trainer`, `PPOTrainer` and `post_train` share: a run that goes on bit for bit, whatever has stopped it.

    An update that is stopped, by an error or by Ctrl-C, leaves everything as it was before it: policy, optimiser,
    generator, history. So does a `load` that fails. A `save` that fails, or whose process is killed, leaves the file
    that stood there before.

    A checkpoint is a file in the safetensors format with a SHA-256 over all of it. Reading one executes no code. It
    holds what `state_dict` returns, bit for bit, NaN included, and the configuration of the trainer: `load` compares
    that with the trainer at hand and refuses a file of another run. Of the optimiser the file decides: its learning
    rate and other hyperparameters are what they were at the time of `save`, so a change of them comes after `load`.

    Attributes:
        history: one record for each update.

    Example:
        >>> import tempfile
        >>> from pgtheory import gallery
        >>> from pgtheory.softmax_policy import TabularPolicy
        >>> from pgtheory.training import Trainer
        >>> def build(gamma=1.0):
        ...     policy = TabularPolicy(2, 2)
        ...     adam, g = torch.optim.Adam(policy.parameters(), lr=0.1), torch.Generator().manual_seed(0)
        ...     bandit = gallery.bandit([1.0, 0.0])
        ...     return Trainer(policy, bandit, gamma, optimizer=adam, horizon=1, batch_size=5, generator=g)
        >>> first, second = build(), build()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     records = first.run(3)
        ...     first.save(folder + "/run.safetensors")
        ...     second.load(folder + "/run.safetensors")
        ...     build(gamma=0.9).load(folder + "/run.safetensors")
        Traceback (most recent call last):
        pgtheory._checkpoints.CheckpointError: .../run.safetensors is of another run: gamma is 1.0 in the file, but 0.9
        in the trainer
        >>> first.run(2) == second.run(2)
        True
    """

    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    history: list[Any]

    # While a change is under way: what to go back to. It outlasts the change only if putting back was stopped too.
    _journal: tuple[dict[str, Any], list[Any], bool] | None = None

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that the continuation depends on: parameters, optimiser, generator, history."""
        self._recover()
        return {**copied(self._snapshot()), "history": [tuple(record) for record in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state that `state_dict` returned, of a trainer built with the same arguments.

        The tensors are copied into the parameters, which stay the same objects.

        Raises:
            ValueError: `state` has other entries, shapes or dtypes than this trainer; nothing was changed.
        """
        self._check_state(state)

        def change() -> None:
            self._assign(state)
            self.history[:] = [self._record(row) for row in state["history"]]

        self._whole(change)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state and the configuration to a file: all of it, or nothing.

        Raises:
            CheckpointError: the file could not be written, such as on a full disk; an earlier one is still there.
            TypeError: `path` is no path.
        """
        state = self.state_dict()
        rows = self._packed(state["history"])
        write_checkpoint(path, {**state, "history": rows, "configuration": self._configuration()})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read a file that `save` wrote, and continue from there.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is no checkpoint, is damaged, or is of another run; nothing was changed.
            TypeError: `path` is no path.
        """
        state = read_checkpoint(path)
        try:
            theirs = dict(state.pop("configuration"))
            state["history"] = self._unpacked(state["history"])
        except MALFORMED as error:
            raise CheckpointError(f"{path} does not hold the state of a trainer") from error
        if differences := _differences(theirs, self._configuration()):
            raise CheckpointError(f"{path} is of another run: {'; '.join(differences)}")
        try:
            self.load_state_dict(state)
        except MALFORMED as error:
            raise CheckpointError(f"{path} does not fit: {error}") from error

    @abstractmethod
    def _modules(self) -> dict[str, nn.Module]:
        """The modules whose parameters and buffers belong to the state, by name."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The plain arguments of the trainer, and what describes its source."""

    @abstractmethod
    def _record(self, row: tuple[Any, ...]) -> Any:
        """An entry of the history, of its entries."""

    def _packed(self, rows: list[tuple[Any, ...]]) -> Any:
        """The history as a file holds it: numbers, in one tensor."""
        return torch.tensor(rows, dtype=torch.float64)

    def _unpacked(self, rows: Any) -> list[tuple[Any, ...]]:
        """The inverse of `_packed`."""
        return [(int(row[0]), *row[1:]) for row in rows.tolist()]

    def _configuration(self) -> dict[str, Any]:
        """What two trainers have to agree in, so that one may load the state of the other."""
        modules = self._modules()
        described = [of_module(name, module) for name, module in modules.items()]
        return {
            "trainer": type(self).__name__,
            **self._settings(),
            **dict(item for fields in described for item in fields.items()),
            **of_optimizer(self.optimizer, modules),
            "generator": self.generator.device.type,
        }

    def _whole(self, change: Callable[[], Result]) -> Result:
        """Make a change wholly or not at all: whatever stops it, Ctrl-C included, everything is put back."""
        self._recover()
        try:
            self._journal = self._snapshot(), list(self.history), torch.is_grad_enabled()
            result = change()
            self._journal = None  # from here on the change counts
        except BaseException:
            self._recover()
            raise
        return result

    def _recover(self) -> None:
        """Put back what a change has left unfinished. Stopped on the way, it can be done again."""
        if self._journal is None:
            return
        state, history, grad_enabled = self._journal
        torch.set_grad_enabled(grad_enabled)  # Ctrl-C between switching it off and entering the block
        self._assign(state)
        self.history[:] = history
        self._journal = None

    def _snapshot(self) -> dict[str, Any]:
        """A copy of the state without the history."""
        parts: dict[str, Any] = {name: module.state_dict() for name, module in self._modules().items()}
        parts |= {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}
        return {name: copied(part) for name, part in parts.items()}

    def _assign(self, state: dict[str, Any]) -> None:
        """The inverse of `_snapshot`."""
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        _assign_optimizer(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"].cpu())

    def _check_state(self, state: Any) -> None:
        """Raise `ValueError` unless the state can be assigned."""
        mine = {**self._snapshot(), "history": []}
        check_keys("state", state, mine)
        for name in self._modules():
            _check_tensors(name, state[name], mine[name])
        _check_optimizer(state["optimizer"], mine["optimizer"])
        _check_generator(self.generator, state["generator"])
        _check_history(state["history"], self._record)


def copied(tree: Any) -> Any:
    """A structure of the same kind whose tensors are copies."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(copied(value) for value in tree)
    return tree


def _assign_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state of `optimizer.state_dict`, exactly, and without keeping its tensors."""
    groups = zip(optimizer.state_dict()["param_groups"], state["param_groups"], strict=True)
    # What a group in a file of an older torch lacks stays as it is.
    state = copied({**state, "param_groups": [{**mine, **theirs} for mine, theirs in groups]})
    optimizer.load_state_dict(state)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # torch has cast to the dtype of the parameter what some optimisers keep in another, such as NAdam's mu_product.
    for index, entries in state["state"].items():
        live = optimizer.state[parameters[index]]
        for key, value in entries.items():
            if isinstance(value, Tensor) and live[key].dtype != value.dtype:
                live[key] = value.to(live[key].device)


def _differences(theirs: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """Each field in which two configurations differ, with both values."""

    def shown(configuration: dict[str, Any], key: str) -> str:
        return repr(configuration[key]) if key in configuration else "absent"

    pairs = {key: (shown(theirs, key), shown(mine, key)) for key in {**mine, **theirs}}
    return [f"{key} is {a} in the file, but {b} in the trainer" for key, (a, b) in pairs.items() if a != b]


def check_keys(name: str, value: Any, expected: dict[str, Any]) -> None:
    if not isinstance(value, dict) or value.keys() != expected.keys():
        found = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{name} has the entries {found}, expected {sorted(expected)}")


def _check_tensors(name: str, value: Any, expected: dict[str, Any]) -> None:
    check_keys(name, value, expected)
    for key, mine in expected.items():
        if kind(value[key]) != kind(mine):
            raise ValueError(f"{name}.{key} is {kind(value[key])}, expected {kind(mine)}")


def _check_optimizer(value: Any, expected: dict[str, Any]) -> None:
    check_keys("optimizer", value, expected)
    theirs, mine = value["param_groups"], expected["param_groups"]
    if [group["params"] for group in theirs] != [group["params"] for group in mine]:
        sizes = [[len(group["params"]) for group in groups] for groups in (theirs, mine)]
        raise ValueError(f"optimizer has groups of {sizes[0]} parameters, expected {sizes[1]}")
    if unknown := sorted({key for t, m in zip(theirs, mine, strict=True) for key in t.keys() - m.keys()}):
        raise ValueError(f"optimizer has the hyperparameters {unknown}, which this one does not know")
    indices = {index for group in mine for index in group["params"]}
    if unknown := [index for index in value["state"] if index not in indices]:
        raise ValueError(f"optimizer has a state of the parameters {unknown}, which this one does not have")


def _check_generator(generator: torch.Generator, value: Any) -> None:
    try:
        torch.Generator(device=generator.device).set_state(value.cpu())
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(f"generator is not the state of one on the {generator.device.type}: {error}") from error


def _check_history(value: Any, record: Callable[[tuple[Any, ...]], Any]) -> None:
    for i, row in enumerate(value):
        try:
            plain = [isinstance(entry, int | float | str) for entry in record(row)]
        except TypeError as error:
            raise ValueError(f"history[{i}] is no record of this trainer: {error}") from error
        if not all(plain):
            raise ValueError(f"history[{i}] is {row}, expected numbers or text")
