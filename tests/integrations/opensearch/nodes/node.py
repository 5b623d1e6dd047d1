"""Runs an OpenSearch node on free ports of this machine until a block ends, and removes its files.

It does not know reranking. The node has the plugins of releases.py, no security plugin, and no cluster settings.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.integrations.opensearch.nodes.assembly import add_plugin, home_of
from tests.integrations.opensearch.nodes.releases import (
    AGENT,
    CORE_RELEASES,
    INSTALLER,
    RELEASES,
    Release,
)
from tests.integrations.opensearch.nodes.toolchain import find_java, unprivileged

BOOT_S = 240.0
STOP_S = 60.0
HEAP = "768m"

# Those of the distribution's jvm.options that change behaviour; compilation is limited for a short run.
JAVA_OPTIONS = (
    "-Xss1m",
    "-Xshare:auto",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dfile.encoding=UTF-8",
    "-Djna.nosys=true",
    "-Dio.netty.noUnsafe=true",
    "-Dlog4j2.disable.jmx=true",
    "-Dlog4j.shutdownHookEnabled=false",
    "-Dopensearch.distribution.type=tar",
)

# A busy machine must not fail a test. ML Commons refuses predictions while the small heap, the memory or the disk
# is nearly full, and deploys every model again ten seconds after the node has started.
_ML_COMMONS = {
    "plugins.ml_commons.jvm_heap_memory_threshold": 100,
    "plugins.ml_commons.native_memory_threshold": 100,
    "plugins.ml_commons.disk_free_space_threshold": "1b",
    "plugins.ml_commons.model_auto_redeploy.enable": "false",
}

_LOGGING = """\
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


class NodeError(RuntimeError):
    """A node did not start or stop."""


@dataclass(frozen=True, slots=True)
class Node:
    """A running node.

    Attributes:
        version: OpenSearch's version.
        url: The address, without a trailing slash.
        log: File with its output.
        process: Its process.
        has_ml_commons: Whether it has ML Commons.
    """

    version: str
    url: str
    log: Path
    process: subprocess.Popen[bytes]
    has_ml_commons: bool


@contextmanager
def running_node(
    version: str,
    *,
    settings: Mapping[str, object] | None = None,
    http_port: int = 0,
    heap: str = HEAP,
    optimized: bool = False,
    core_only: bool = False,
    plugins: Sequence[Path] = (),
    secrets: Mapping[str, str] | None = None,
) -> Iterator[Node]:
    """Run a node until the block ends, and remove its folders.

    Args:
        version: One of `RELEASES` or `CORE_RELEASES`.
        settings: Additional lines of opensearch.yml.
        http_port: The HTTP port; 0 for a free port.
        heap: Size of the Java heap.
        optimized: Compile as in production: slower to start, faster later.
        core_only: Leave out k-NN, neural-search, ML Commons and the job scheduler.
        plugins: Zips of additional plugins.
        secrets: Settings of the keystore.

    Raises:
        ToolchainError: Java is missing, or Maven to assemble the node.
        NodeError: The node did not start or stop.
    """
    release = {**RELEASES, **CORE_RELEASES}[version]
    folder = Path(tempfile.mkdtemp(prefix=f"opensearch-{version}-"))
    try:
        has_ml_commons = bool(release.plugins) and not core_only
        _configure(
            folder, {"http.port": http_port, **(_ML_COMMONS if has_ml_commons else {}), **(settings or {})}
        )
        home = home_of(release)
        if core_only or plugins:
            home = _own_home(release, home, folder, plugins, core_only=core_only)
        if secrets:
            _write_keystore(release, home, folder, secrets)
        command = _command(release, home, folder, heap=heap, optimized=optimized)
        with _process(command, folder) as process:
            url = _wait_until_healthy(process, folder)
            yield Node(version, url, folder / "node.log", process, has_ml_commons)
    finally:
        shutil.rmtree(folder)


def _configure(folder: Path, settings: Mapping[str, object]) -> None:
    every = {
        "cluster.name": "tests",
        "node.name": "node-1",
        "discovery.type": "single-node",
        "network.host": "127.0.0.1",
        "transport.port": 0,
        "node.portsfile": "true",
        "path.data": folder / "data",
        "path.logs": folder / "logs",
        # A nearly full disk of a developer's machine must not fail a test.
        "cluster.routing.allocation.disk.threshold_enabled": "false",
        **settings,
    }
    for name in ("config", "data", "logs", "tmp"):
        (folder / name).mkdir()
    yaml = "".join(f"{name}: {value}\n" for name, value in every.items())
    (folder / "config" / "opensearch.yml").write_text(yaml, encoding="utf-8")
    (folder / "config" / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
    if owner := unprivileged():
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, owner["user"], owner["group"])


def _own_home(
    release: Release, home: Path, folder: Path, plugins: Sequence[Path], *, core_only: bool
) -> Path:
    """Make a home with its own plugins; the rest of it is linked."""
    own = folder / "home"
    (own / "plugins").mkdir(parents=True)
    (own / "bin").mkdir()
    for name in ("lib", "modules", *release.tools):
        (own / name).symlink_to(home / name)
    # They come first, since libraries of the tool that installs them are also in the release's plugins.
    for archive in plugins:
        _install(release, own, folder, archive)
    if not core_only:
        # Version 2 may only read files whose real paths are below its home.
        shutil.copytree(home / "plugins", own / "plugins", copy_function=_link, dirs_exist_ok=True)
    return own


def _link(source: str, target: str) -> None:
    """Create a hard link, or a copy if the target is on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _install(release: Release, home: Path, folder: Path, archive: Path) -> None:
    """Install a plugin as users do; where `opensearch-plugin` is not published, unpack its zip."""
    if INSTALLER not in release.tools:
        add_plugin(archive, home / "plugins")
        return
    # It has its own Bouncy Castle, and refuses duplicate classes.
    server = [path for path in (home / "lib").iterdir() if "jdk18on" not in path.name]
    jars = {path.name: str(path) for path in (*server, *(home / INSTALLER).iterdir())}
    command = [
        find_java(release).path,
        f"-Dopensearch.path.home={home}",
        f"-Dopensearch.path.conf={folder / 'config'}",
        "-cp",
        ":".join(jars.values()),
        "org.opensearch.tools.cli.plugin.PluginCli",
        "install",
        "--batch",
        archive.as_uri(),
    ]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    if ran.returncode:
        raise NodeError(f"opensearch-plugin ended with {ran.returncode!r}:\n{ran.stdout}{ran.stderr}")


def _write_keystore(release: Release, home: Path, folder: Path, secrets: Mapping[str, str]) -> None:
    """Create the node's keystore; the distribution's tool for it is not published."""
    program = [
        find_java(release).path,
        "-cp",
        f"{home}/lib/*",
        str(Path(__file__).with_name("Keystore.java")),
    ]
    subprocess.run(
        [*program, str(folder / "config")],
        input="".join(f"{name}\n{value}\n" for name, value in secrets.items()),
        text=True,
        check=True,
        cwd=folder,
        **unprivileged(),
    )


def _command(release: Release, home: Path, folder: Path, *, heap: str, optimized: bool) -> list[str]:
    options = [one for one in JAVA_OPTIONS if not (optimized and "TieredStop" in one)]
    # End the node if the tests are killed.
    prefix = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    agents = [f"-javaagent:{path}" for path in (home / AGENT).glob(f"*-agent-{release.version}.jar")]
    return [
        *prefix,
        find_java(release).path,
        f"-Xms{heap}",
        f"-Xmx{heap}",
        *options,
        *release.java_options,
        *agents,
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        f"-Dopensearch.path.home={home}",
        f"-Dopensearch.path.conf={folder / 'config'}",
        "-cp",
        f"{home}/lib/*",
        "org.opensearch.bootstrap.OpenSearch",
    ]


@contextmanager
def _process(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "node.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            **unprivileged(),
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate the process; kill it and raise if it does not end."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise NodeError(f"the node did not stop within {STOP_S!r} s of SIGTERM and was killed") from None


def _wait_until_healthy(process: subprocess.Popen[bytes], folder: Path) -> str:
    give_up = time.monotonic() + BOOT_S
    while time.monotonic() < give_up and process.poll() is None:
        if (url := _url(folder)) and _is_healthy(url):
            return url
        time.sleep(0.2)
    what = f"ended with {process.poll()!r}" if process.poll() is not None else f"is not up after {BOOT_S!r} s"
    tail = (folder / "node.log").read_text(encoding="utf-8", errors="replace")[-4000:]
    raise NodeError(f"the node {what} before it was healthy. The end of its log:\n{tail}")


def _url(folder: Path) -> str | None:
    """Return the address that the node wrote to its ports file, or None."""
    ports = folder / "logs" / "http.ports"
    if not ports.exists():
        return None
    addresses = [line for line in ports.read_text(encoding="utf-8").split() if line.startswith("127.")]
    return f"http://{addresses[0]}" if addresses else None


def _is_healthy(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/_cluster/health", trust_env=False, timeout=10)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK and answer.json()["status"] in {"yellow", "green"}
