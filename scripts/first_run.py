"""Choose a model that is available, and start the service. `bash start.sh` runs this in a complete environment.

A model that `--model`, QWEN_RERANK_MODEL or the configuration file names is never replaced. Without one, the default
model serves if it is in a hub's local cache or a hub answers within five seconds: Hugging Face, then ModelScope where its
package is installed, or only the one that `hub` names. Otherwise the bundled demo checkpoint serves, with a notice. All
arguments go to `qwen-rerank serve`.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from qwen_rerank_plugins.config import DEFAULT_MODEL, DEMO_MODEL, load_config_with_sources
from qwen_rerank_plugins.errors import RerankError

ROOT = Path(__file__).resolve().parent.parent

HUB_TIMEOUT_S = 5.0
HUBS = ("huggingface", "modelscope")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

DEMO_NOTICE = """\
*********************************************************************************************
  The DEMO checkpoint is going to rank: {default} is not in the local
  hub cache, and no hub is reachable.

  The demo is a very small model that shows how everything works. Its results are poor: do
  not measure quality with it. With a connection to the hub, or with a folder of weights:

      bash start.sh --model {default}
      bash start.sh --model path/to/folder
      bash start.sh --model path/to/file.gguf
      bash start.sh --model {default} --hub modelscope
*********************************************************************************************"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Replace this process by `qwen-rerank serve` with all arguments, and with a model if none is named."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = [sys.executable, "-m", "qwen_rerank_plugins", "serve", *given]
    hubs = hubs_to_ask(given)
    if hubs:
        begin = time.perf_counter()
        command += choose_model(hubs)
        say(f"the model was chosen in {time.perf_counter() - begin:.1f} s")
    say("starting the service; it says when it is ready")
    sys.stdout.flush()
    os.execv(command[0], command)


def hubs_to_ask(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the hubs that may have the default model; none if a model or another backend is configured."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--model", "--config", "--backend", "--hub"):
        parser.add_argument(name)
    parser.add_argument("-h", "--help", action="store_true")
    options, _ = parser.parse_known_args(list(arguments))
    if options.help or options.model or options.backend not in {None, "local"}:
        return ()
    try:
        overrides = {"hub": options.hub} if options.hub else {}
        config, sources = load_config_with_sources(options.config, overrides=overrides)
    except RerankError:
        return ()  # the command itself reports the error
    if config.backend != "local" or sources["model"] != "default":
        return ()
    return HUBS if sources["hub"] == "default" else (config.hub,)


def choose_model(hubs: Sequence[str]) -> list[str]:
    """Return options with the default model and the first hub that has it, else with `demo`; the reason is printed."""
    for hub in hubs:
        if in_local_cache(hub, DEFAULT_MODEL):
            say(f"{DEFAULT_MODEL} is in the local cache of {hub}")
            return ["--model", DEFAULT_MODEL, "--hub", hub]
    for hub in hubs:
        size_bytes = hub_size_bytes(hub, DEFAULT_MODEL)
        if size_bytes is not None:
            say(f"{DEFAULT_MODEL} will be downloaded from {hub}: {size_bytes / 1e9:.1f} GB")
            return ["--model", DEFAULT_MODEL, "--hub", hub]
    print(DEMO_NOTICE.format(default=DEFAULT_MODEL), file=sys.stderr)
    return ["--model", DEMO_MODEL]


def in_local_cache(hub: str, model: str) -> bool:
    """Whether configuration, tokenizer and weights of a model are in a hub's local cache."""
    if hub == "modelscope":
        try:
            from modelscope.hub.snapshot_download import snapshot_download

            folder = Path(snapshot_download(model, local_files_only=True))
        except Exception:  # noqa: BLE001 - not installed, or not cached
            return False
        cached = [path.name for path in folder.iterdir()]
    else:
        from huggingface_hub import try_to_load_from_cache

        names = ("config.json", "tokenizer.json", *WEIGHTS)
        cached = [name for name in names if isinstance(try_to_load_from_cache(model, name), str)]
    return {"config.json", "tokenizer.json"} <= set(cached) and not set(WEIGHTS).isdisjoint(cached)


def hub_size_bytes(hub: str, model: str) -> int | None:
    """Return the size of a model's weights on a hub, or None if the hub does not answer in time or must not be asked."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        say(f"{hub} is not asked, because HF_HUB_OFFLINE is set")
        return None
    if hub == "modelscope" and find_spec("modelscope") is None:
        say(
            "modelscope is not asked, because its package is not installed: pip install 'qwen-rerank-plugins[modelscope]'"
        )
        return None
    say(f"asking {hub} for {model}, for at most {HUB_TIMEOUT_S:.0f} s")
    sizes: list[int] = []

    def ask() -> None:
        try:
            sizes.append(ask_modelscope(model) if hub == "modelscope" else ask_huggingface(model))
        except Exception as error:  # noqa: BLE001 - any error means that the model is not available
            say(f"{hub} is unreachable ({type(error).__name__})")

    # A name server that never answers ignores the timeout; the thread is then left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S)
    return sizes[0] if sizes else None


def ask_huggingface(model: str) -> int:
    """Return the size of a model's weights on Hugging Face, or on the mirror that HF_ENDPOINT names."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    return get_hf_file_metadata(hf_hub_url(model, WEIGHTS[0]), timeout=HUB_TIMEOUT_S).size or 0


def ask_modelscope(model: str) -> int:
    """Return the size of a model's weights on ModelScope."""
    from modelscope.hub.api import HubApi

    files = HubApi().get_model_files(model)
    return sum(file["Size"] for file in files if file["Path"].endswith(".safetensors"))


def say(text: str) -> None:
    """Print a line on standard error."""
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
