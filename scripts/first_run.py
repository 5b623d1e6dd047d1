"""Choose a model that is available, and start the service. `bash start.sh` runs this in a complete environment.

A model that `--model`, QWEN_RERANK_MODEL or the configuration file names is never replaced. Without one, the default
model serves if it is in the local hub cache or the hub answers within five seconds, and otherwise the bundled demo
checkpoint, with a notice. All arguments go to `qwen-rerank serve`.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from qwen_rerank_plugins.config import DEFAULT_MODEL, DEMO_MODEL, load_config_with_sources
from qwen_rerank_plugins.errors import RerankError

ROOT = Path(__file__).resolve().parent.parent

HUB_TIMEOUT_S = 5.0
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

DEMO_NOTICE = """\
*********************************************************************************************
  The DEMO checkpoint is going to rank: {default} is not in the local
  hub cache, and the hub is unreachable.

  The demo is a very small model that shows how everything works. Its results are poor: do
  not measure quality with it. With a connection to the hub, or with a folder of weights:

      bash start.sh --model {default}
      bash start.sh --model path/to/folder
*********************************************************************************************"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Replace this process by `qwen-rerank serve` with all arguments, and with a model if none is named."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = [sys.executable, "-m", "qwen_rerank_plugins", "serve", *given]
    if wants_choice(given):
        command += ["--model", choose_model()]
    sys.stdout.flush()
    os.execv(command[0], command)


def wants_choice(arguments: Sequence[str]) -> bool:
    """Whether neither arguments nor the configuration name a model or another backend."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--model", "--config", "--backend"):
        parser.add_argument(name)
    parser.add_argument("-h", "--help", action="store_true")
    options, _ = parser.parse_known_args(list(arguments))
    if options.help or options.model or options.backend not in {None, "local"}:
        return False
    try:
        config, sources = load_config_with_sources(options.config)
    except RerankError:
        return False  # the command itself reports the error
    return config.backend == "local" and sources["model"] == "default"


def choose_model() -> str:
    """Return the default model if it is available, else `demo`, with the reason on standard error."""
    if in_local_cache(DEFAULT_MODEL):
        say(f"{DEFAULT_MODEL} is in the local hub cache")
        return DEFAULT_MODEL
    size_bytes = hub_size_bytes(DEFAULT_MODEL)
    if size_bytes is not None:
        say(f"{DEFAULT_MODEL} will be downloaded: {size_bytes / 1e9:.1f} GB")
        return DEFAULT_MODEL
    print(DEMO_NOTICE.format(default=DEFAULT_MODEL), file=sys.stderr)
    return DEMO_MODEL


def in_local_cache(model: str) -> bool:
    """Whether configuration, tokenizer and weights of a hub model are in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> bool:
        return isinstance(try_to_load_from_cache(model, name), str)

    return cached("config.json") and cached("tokenizer.json") and any(map(cached, WEIGHTS))


def hub_size_bytes(model: str) -> int | None:
    """Return the size of a hub model's weights, or None if the hub does not answer in time or must not be asked."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        say("the hub is not asked, because HF_HUB_OFFLINE is set")
        return None
    say(f"asking the hub for {model}, for at most {HUB_TIMEOUT_S:.0f} s")
    sizes: list[int] = []

    def ask() -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        try:
            sizes.append(get_hf_file_metadata(hf_hub_url(model, WEIGHTS[0]), timeout=HUB_TIMEOUT_S).size or 0)
        except Exception as error:  # noqa: BLE001 - any error means that the model is not available
            say(f"the hub is unreachable ({type(error).__name__})")

    # A name server that never answers ignores the timeout; the thread is then left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S)
    return sizes[0] if sizes else None


def say(text: str) -> None:
    """Print a line on standard error."""
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
