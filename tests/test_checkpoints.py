"""Checkpoint files: what is written is read again, and nothing else is ever read or left behind."""

import errno
import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pgtheory._checkpoints import CheckpointError, read_checkpoint, write_checkpoint

F64 = torch.float64
TREE = {
    "configuration": {"gamma": 0.9, "horizon": 20},
    "policy": {"theta": torch.arange(6, dtype=F64).reshape(2, 3), "empty": torch.zeros(0, 3)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.999), "fused": None}]},
    "generator": torch.arange(200, dtype=torch.uint8),
}
OTHER = {"policy": {"theta": torch.ones(70_000)}, "which": "other"}


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal in types, keys and every bit of every tensor."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        flat = [x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*flat)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with TREE in it."""
    write_checkpoint(tmp_path / "run", TREE)
    return tmp_path / "run"


# --- what is written is read again


def bits(pattern: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([pattern], dtype=torch.int64).view(dtype)[:1]


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param(TREE, id="a state"),
        pytest.param(None, id="None"),
        pytest.param(torch.tensor(2.0), id="one number"),
        pytest.param([True, 1, 1.0, -0.0, 1e-320, float("inf"), float("nan"), 2**70], id="numbers"),
        pytest.param(["", 'quote "', "Übung π", "\ud800", "\0"], id="text"),
        pytest.param({"a": [(), [], {}, (None, ({"b": (1,)},))], 3: "three", -1: None}, id="nested"),
        pytest.param({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(2), "": torch.ones(3)}, id="names that collide"),
        pytest.param({"__metadata__": torch.ones(2), "tensor": torch.ones(3), "dict": 1}, id="names of the format"),
        pytest.param([torch.arange(12.0).reshape(3, 4).T, torch.arange(9)[1::3]], id="not contiguous"),
        pytest.param([bits(p, F64) for p in (0x7FF8000000000123, 0x7FF0000000000001, 1, 1 << 63 - 1)], id="patterns"),
        pytest.param([torch.zeros(s) for s in ([], [0], [2, 0, 3], [1, 1, 1])], id="shapes"),
    ],
)
def test_what_is_written_is_read_bit_for_bit(tree: Any, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", tree)
    assert same(read_checkpoint(tmp_path / "run"), tree)


FLOATS = [F64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
OTHERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", FLOATS + OTHERS, ids=str)
def test_every_dtype_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor([[0.0, 1.0, 0.5], [1.5, 3.0, 100.0]]).to(dtype)
    write_checkpoint(tmp_path / "run", [torch.ones(1, dtype=torch.bool), tensor])
    assert same(read_checkpoint(tmp_path / "run")[1], tensor)


def test_what_is_read_can_be_written_to_and_needs_no_gradient(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", torch.ones(2, requires_grad=True))
    tensor = read_checkpoint(tmp_path / "run")
    assert not tensor.requires_grad
    assert tensor.add_(1).tolist() == [2, 2]


def test_the_same_tree_gives_the_same_bytes_in_whatever_order_it_was_filled(path: Path) -> None:
    before = path.read_bytes()
    write_checkpoint(path, {key: TREE[key] for key in reversed(TREE)})
    assert path.read_bytes() == before
    write_checkpoint(path, read_checkpoint(path))
    assert path.read_bytes() == before


def test_the_file_is_as_its_description_says(path: Path) -> None:
    # Read by the description of the safetensors format, with nothing of ours.
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert metadata["format"] == "pgtheory 1"
    blank = data.replace(metadata["sha256"].encode(), b"")
    assert len(data) - len(blank) == 64
    assert hashlib.sha256(blank).hexdigest() == metadata["sha256"]
    entry = header["policy.theta"]
    begin, end = entry["data_offsets"]
    assert (entry["dtype"], entry["shape"], (8 + length) % 8) == ("F64", [2, 3], 0)
    assert struct.unpack("<6d", data[8 + length + begin : 8 + length + end]) == (0, 1, 2, 3, 4, 5)
    assert max(e["data_offsets"][1] for e in header.values()) == len(data) - 8 - length


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_second_writer_that_is_faster_does_not_disturb_the_first(
    function: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, between = getattr(os, function), []

    def overtaken(*arguments: Any) -> None:
        monkeypatch.undo()
        write_checkpoint(path, OTHER)
        between.append(read_checkpoint(path))
        original(*arguments)

    monkeypatch.setattr(os, function, overtaken)
    write_checkpoint(path, [TREE, "new"])
    assert same(between, [OTHER])
    assert same(read_checkpoint(path), [TREE, "new"])
    assert leftovers(path.parent) == []


def test_a_symbolic_link_stays_one_and_rights_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder" / "run")
    write_checkpoint(link, TREE)
    write_checkpoint(str(link), OTHER)
    assert link.is_symlink()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["run"]
    (tmp_path / "plain").touch()
    assert link.stat().st_mode == (tmp_path / "plain").stat().st_mode


# --- nothing else is read


def refusal(path: Path) -> str:
    """The message with which a file is refused, which must name it."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def overwrite(path: Path, place: int, byte: int) -> None:
    """Change one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(bytes([byte]))


def test_a_flipped_bit_is_seen_wherever_it_is(path: Path) -> None:
    data, seen = path.read_bytes(), 0
    for place in range(len(data)):
        for bit in range(8):
            overwrite(path, place, data[place] ^ 1 << bit)
            assert "damaged" in (message := refusal(path)) or "is no checkpoint" in message
            seen += 1
        overwrite(path, place, data[place])
    assert seen == 8 * len(data) > 2_000
    assert same(read_checkpoint(path), TREE)


def test_every_truncation_is_seen_and_anything_appended_too(path: Path) -> None:
    data = path.read_bytes()
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        refusal(path)
    for more in (b"\0", b" ", data):
        path.write_bytes(data + more)
        assert "damaged" in refusal(path)


def torch_saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("hello.txt", "hello")
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, theta=np.ones(3))
    return buffer.getvalue()


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


FOREIGN = [
    pytest.param(b"", "it is empty", id="empty"),
    pytest.param(b"gamma: 0.9\n" * 100, "is no checkpoint", id="text"),
    pytest.param(bytes(10_000), "is no checkpoint", id="zeros"),
    pytest.param(os.urandom(10_000), "is no checkpoint", id="noise"),
    pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(100), "is no checkpoint", id="picture"),
    pytest.param(gzip.compress(b"gamma"), "is no checkpoint", id="gzip"),
    pytest.param(zipped(), "looks like a file of torch.save or numpy.savez", id="zip"),
    pytest.param(arrays(), "looks like a file of torch.save or numpy.savez", id="numpy"),
    pytest.param(torch_saved(TREE), "looks like a file of torch.save", id="torch"),
    pytest.param(
        torch_saved(TREE, _use_new_zipfile_serialization=False), "looks like a file of torch.save", id="old torch"
    ),
    pytest.param(pickle.dumps({"gamma": 0.9}), "looks like a file of torch.save", id="pickle"),
    pytest.param(b'{"gamma": 0.9, "policy": [1, 2, 3]}', "is no checkpoint", id="json"),
    pytest.param(b"[" * 100_000, "is no checkpoint", id="deep json"),
    pytest.param(safetensors(b"{}"), "another safetensors file", id="safetensors"),
    pytest.param(
        safetensors(b'{"__metadata__":{"format":"pgtheory 2","sha256":"' + b"0" * 64 + b'"}}'),
        "is no checkpoint of pgtheory 1",
        id="a later format",
    ),
]


@pytest.mark.parametrize(("data", "message"), FOREIGN)
def test_a_foreign_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(data)
    assert message in refusal(tmp_path / "run")


def test_a_folder_is_refused_and_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    assert "cannot be read: Is a directory" in refusal(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_checkpoint(tmp_path / "nowhere")


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a file was executed",)


@pytest.mark.parametrize("save", [pickle.dumps, torch_saved])
def test_reading_a_file_executes_nothing(save: Callable[[Any], bytes], tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(save(Bomb()))
    assert "may execute code" in refusal(tmp_path / "run")


def forged(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with a checksum that is right, and whatever else."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    start = (len(text) if length is None else length).to_bytes(8, "little") + text + data
    place = start.index(b'"sha256":"') + 10
    digest = hashlib.sha256(start[:place] + start[place + 64 :]).hexdigest().encode()
    return start[:place] + digest + start[place + 64 :]


def header(tree: Any = '{"tensor":"x"}', **entries: Any) -> dict[str, Any]:
    return {"__metadata__": {"format": "pgtheory 1", "sha256": "0" * 64, "tree": tree}, **entries}


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = bytes(8)
START = b'{"__metadata__":{"format":"pgtheory 1","sha256":"' + b"0" * 64 + b'"'
FORGED = [
    pytest.param(forged(header(x=entry()), EIGHT, length=2**63), id="a header longer than the file"),
    pytest.param(forged(header(x=entry()), EIGHT, length=9), id="a header cut short"),
    pytest.param(forged(START + b"}}"), id="no tree"),
    pytest.param(forged(START + b"[" * 100_000), id="depth"),
    pytest.param(forged(header("[" * 100_000)), id="a deep tree"),
    pytest.param(forged(header(7)), id="a tree that is a number"),
    pytest.param(forged(header('{"pickle":"x"}', x=entry()), EIGHT), id="an unknown kind"),
    pytest.param(forged(header('{"dict":[[1,2,3]]}')), id="a triple in a dict"),
    pytest.param(forged(header('{"dict":[[[],2]]}')), id="a key that is a list"),
    pytest.param(forged(header("{}")), id="no kind"),
    pytest.param(forged(header('{"tensor":"y"}', x=entry()), EIGHT), id="a tensor that is not there"),
    pytest.param(forged(header('{"tensor":["x"]}', x=entry()), EIGHT), id="a name that is a list"),
    pytest.param(forged(header(x=entry("F128")), EIGHT), id="an unknown dtype"),
    pytest.param(forged(header(x=entry(shape=(3,))), EIGHT), id="a shape too large"),
    pytest.param(forged(header(x=entry(shape=(-1, -2))), EIGHT), id="a negative shape"),
    pytest.param(forged(header(x=entry(shape=(2.0,))), EIGHT), id="a shape of floats"),
    pytest.param(forged(header(x=entry(shape="2")), EIGHT), id="a shape of text"),
    pytest.param(forged(header(x=entry(shape=(2**62, 4), offsets=(0, 0)))), id="a shape that overflows"),
    pytest.param(forged(header(x=entry(shape=(2**70, 0), offsets=(0, 0)))), id="an empty shape that overflows"),
    pytest.param(forged(header(x=entry(offsets=(0, 12))), bytes(12)), id="offsets that do not fit"),
    pytest.param(forged(header(x=entry(offsets=(4, 12))), bytes(12)), id="a hole"),
    pytest.param(forged(header(x=entry(), y=entry()), EIGHT), id="an overlap"),
    pytest.param(forged(header(x=entry(offsets=(8, 0))), EIGHT), id="offsets in reverse"),
    pytest.param(forged(header(x=entry(offsets=(0,))), EIGHT), id="one offset"),
    pytest.param(forged(header(x=3), EIGHT), id="an entry that is a number"),
    pytest.param(forged(header(x=entry()), EIGHT + b"\0"), id="a byte too many"),
    pytest.param(forged(header(x=entry()), EIGHT[1:]), id="a byte too few"),
]


@pytest.mark.parametrize("data", FORGED)
def test_a_checksum_alone_is_not_believed(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(data)
    assert "is not well formed" in refusal(tmp_path / "run")


def test_the_forger_of_these_tests_can_write_a_file_that_is_right(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(forged(header(x=entry()), struct.pack("<2f", 1, 2)))
    assert same(read_checkpoint(tmp_path / "run"), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        pytest.param({"lr": {1, 2}}, "lr is of the type set", id="set"),
        pytest.param({"a": [0, object()]}, "a.1 is of the type object", id="object"),
        pytest.param({"a": b"bytes"}, "a is of the type bytes", id="bytes"),
        pytest.param({"a": torch.ones(1, dtype=torch.complex64)}, "a is a tensor of torch.complex64", id="complex"),
        pytest.param({"a": torch.ones(2, 2).to_sparse()}, "and torch.sparse_coo", id="sparse"),
        pytest.param({"a": {1.5: 0}}, "a has the key 1.5", id="key"),
        pytest.param({"a": {None: 0, "b": 1}}, "a has the key None", id="no key"),
        pytest.param({"a": {True: 0}}, "a has the key True", id="key that is a truth value"),
    ],
)
def test_what_a_file_cannot_hold_is_named_and_the_old_file_stays(tree: Any, message: str, path: Path) -> None:
    with pytest.raises(CheckpointError, match="run was not written") as caught:
        write_checkpoint(path, tree)
    assert message in str(caught.value)
    assert same(read_checkpoint(path), TREE)


@pytest.mark.parametrize("call", [read_checkpoint, lambda path: write_checkpoint(path, TREE)])
def test_a_path_that_is_none_is_refused(call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="path must be a string or a path, not NoneType"):
        call(None)
    with pytest.raises(CheckpointError, match="no file has such a name"):
        call("a\0b")


# --- nothing is left behind: whatever happens, the old file or the new one


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.endswith(".tmp")]


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: what reaches further is not written, as on a full disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("old", [True, False], ids=["over a file", "first file"])
def test_a_disk_that_is_full_after_any_number_of_bytes_keeps_the_old_file(old: bool, tmp_path: Path) -> None:
    path = tmp_path / "run"
    write_checkpoint(path, [TREE, "new"])
    size = path.stat().st_size
    path.unlink()
    if old:
        write_checkpoint(path, TREE)
    for room in range(0, size, 7):
        with pytest.raises(CheckpointError, match="run was not written: File too large"), at_most(room):
            write_checkpoint(path, [TREE, "new"])
        assert path.exists() == old
        assert leftovers(tmp_path) == []
    assert not old or same(read_checkpoint(path), TREE)
    with at_most(size):
        write_checkpoint(path, [TREE, "new"])
    assert same(read_checkpoint(path), [TREE, "new"])


def test_a_real_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        write_checkpoint(tmp_path / "run", TREE)
        with pytest.raises(CheckpointError, match="No space left on device"):
            write_checkpoint(tmp_path / "run", OTHER)
        assert same(read_checkpoint(tmp_path / "run"), TREE)
        assert leftovers(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_fails_at_the_end_keeps_the_old_file(
    function: str, code: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, fails)
    with pytest.raises(CheckpointError, match=f"run was not written: {os.strerror(code)}"):
        write_checkpoint(path, OTHER)
    assert same(read_checkpoint(path), TREE)
    assert leftovers(path.parent) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere/run was not written: No such file or directory"):
        write_checkpoint(tmp_path / "nowhere" / "run", TREE)
    (tmp_path / "run").mkdir()
    with pytest.raises(CheckpointError, match="run was not written: Is a directory"):
        write_checkpoint(tmp_path / "run", TREE)


def test_the_bytes_are_on_the_disk_before_the_name_changes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def call(*arguments: Any) -> Any:
            events.append(name)
            return function(*arguments)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name))
    write_checkpoint(path, OTHER)
    assert events == ["fsync", "replace", "fsync"]


# Between opening a file and entering its block, nothing can close it but its destructor, which then complains.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_anywhere_leaves_a_whole_file(path: Path) -> None:
    other = {**TREE, "which": "other"}
    found = []
    for k in range(10_000):
        write_checkpoint(path, TREE)
        if not interrupted(lambda: write_checkpoint(path, other), k):
            break
        tree = read_checkpoint(path)
        found.append("which" in tree)
        assert same(tree, other if "which" in tree else TREE)
    assert len(found) > 200
    assert len(set(found)) == 2


def interrupted(call: Callable[[], Any], k: int, inside: str = "pgtheory") -> bool:
    """Make a call that Ctrl-C stops at the k-th line of the package that it reaches; False if it is over before."""
    left = k

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        if event == "call":
            return trace if inside in frame.f_code.co_filename else None
        if event == "line":
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


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from pgtheory._checkpoints import read_checkpoint, write_checkpoint

path, n_kills = Path(sys.argv[1]), int(sys.argv[2])
trees = [{"which": i, "theta": torch.full((30_000,), float(i))} for i in (1, 2)]
write_checkpoint(path, trees[0])
random.seed(0)
for _ in range(n_kills):
    child = os.fork()
    if child == 0:
        while True:
            for tree in trees:
                write_checkpoint(path, tree)
    time.sleep(random.uniform(0.0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    tree = read_checkpoint(path)
    assert (tree["theta"] == tree["which"]).all()
print(len(list(path.parent.glob("*.tmp"))))
"""

WRITERS = """
import contextlib, os, signal, sys
from pathlib import Path
import torch
from pgtheory._checkpoints import read_checkpoint, write_checkpoint

os.fsync = lambda handle: None  # so that they write far more often
path, n_reads = Path(sys.argv[1]), int(sys.argv[2])
write_checkpoint(path, {"which": 0, "theta": torch.zeros(30_000)})
children = []
for i in (1, 2):
    child = os.fork()
    if child == 0:
        while True:
            write_checkpoint(path, {"which": i, "theta": torch.full((30_000,), float(i))})
    children.append(child)
seen, reads = set(), 0
try:
    while reads < n_reads or not {1, 2} <= seen:
        for child in children:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "a writer has failed"
        tree = read_checkpoint(path)
        assert (tree["theta"] == tree["which"]).all()
        seen.add(tree["which"])
        reads += 1
finally:
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
print(reads)
"""


def in_another_process(script: str, *arguments: Any) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    n_leftovers = int(in_another_process(KILLED, tmp_path / "run", 150))
    # Some kills fell into a save, between making the temporary file and renaming it.
    assert n_leftovers > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_of_two_writers_at_once_one_wins_whole(tmp_path: Path) -> None:
    assert int(in_another_process(WRITERS, tmp_path / "run", 150)) >= 150
