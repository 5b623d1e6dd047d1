"""The Maven coordinates of an OpenSearch node with ML Commons and neural-search, by version.

No Maven repository has the distribution itself, but its parts: the server with its dependencies, each module of the
core, and the plugins as zips. This module neither fetches nor runs anything.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

AGENT = "agent"
"""Folder of the Java agent that enforces the permissions of plugins in version 3."""

INSTALLER = "plugin-cli"
"""Folder of the jars of `opensearch-plugin`."""

PLUGINS = ("opensearch-job-scheduler", "opensearch-knn", "neural-search", "opensearch-ml-plugin")
"""Plugins of every version: neural-search has the rerank processor and extends knn, ML Commons needs the scheduler."""

RECIPE = 2
"""Version of how a home is assembled; a change makes homes of earlier versions invalid."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the core.

    Attributes:
        classname: The entry point, which differs between versions 2 and 3.
        artifacts: Artifact names of the jars.
    """

    classname: str
    artifacts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """A version of OpenSearch.

    Attributes:
        version: The version number.
        oldest_java: The lowest supported major version of Java.
        newest_java: The highest supported major version of Java.
        preferred_java: The Java that it was released with.
        server: Coordinates of the server and of dependencies that it does not declare.
        modules: The core's modules by name.
        tools: Programs beside the server: the folder of each in a home, and the coordinates of its jars.
        java_options: Additional options of the virtual machine.
        needs_policies: Whether it runs under Java's security manager, which needs a policy for every module.
    """

    version: str
    oldest_java: int
    newest_java: int
    preferred_java: int
    server: tuple[str, ...]
    modules: dict[str, Module] = field(default_factory=dict)
    tools: dict[str, tuple[str, ...]] = field(default_factory=dict)
    java_options: tuple[str, ...] = ()
    needs_policies: bool = False

    @property
    def plugins(self) -> tuple[str, ...]:
        """Coordinates of the plugin zips, whose versions have a fourth number."""
        return tuple(f"org.opensearch.plugin:{name}:{self.version}.0" for name in PLUGINS)

    @property
    def digest(self) -> str:
        """Eight characters that identify the parts."""
        parts = json.dumps([RECIPE, asdict(self), self.plugins], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()[:8]

    def runs_on(self, java: int) -> bool:
        """Whether it supports a major version of Java."""
        return self.oldest_java <= java <= self.newest_java


class CoreRelease(Release):
    """A version of which only the core is published."""

    @property
    def plugins(self) -> tuple[str, ...]:
        """No plugins."""
        return ()


def _bouncy_castle(version: str) -> tuple[str, ...]:
    # Without it, a node of version 3 crashes when it encrypts a credential.
    return tuple(f"org.bouncycastle:{name}-jdk18on:{version}" for name in ("bcprov", "bcpkix", "bcutil"))


def _server_of_3(version: str, *, log4j: str) -> tuple[str, ...]:
    return (
        *(
            f"org.opensearch:opensearch{part}:{version}"
            for part in ("", "-plugin-classloader", "-agent-bootstrap")
        ),
        f"org.apache.logging.log4j:log4j-core:{log4j}",
        *_bouncy_castle("1.82"),
    )


_MODULES_OF_3 = {
    "lang-painless": Module("org.opensearch.painless.PainlessModulePlugin", ("lang-painless",)),
    "transport-netty4": Module("org.opensearch.transport.Netty4ModulePlugin", ("transport-netty4-client",)),
    "analysis-common": Module(
        "org.opensearch.analysis.common.CommonAnalysisModulePlugin", ("analysis-common",)
    ),
}

RELEASES = {
    release.version: release
    for release in (
        Release(
            "2.19.1",
            oldest_java=11,
            newest_java=21,
            preferred_java=17,
            server=(
                "org.opensearch:opensearch:2.19.1",
                "org.opensearch:opensearch-plugin-classloader:2.19.1",
                "org.apache.logging.log4j:log4j-core:2.21.0",  # the version of the log4j-api that the server declares
            ),
            modules={
                "lang-painless": Module("org.opensearch.painless.PainlessPlugin", ("lang-painless",)),
                "transport-netty4": Module(
                    "org.opensearch.transport.Netty4Plugin", ("transport-netty4-client",)
                ),
                "analysis-common": Module(
                    "org.opensearch.analysis.common.CommonAnalysisPlugin", ("analysis-common",)
                ),
            },
            java_options=("-Djava.security.manager=allow",),
            needs_policies=True,
        ),
        Release(
            "3.6.0",
            oldest_java=21,
            newest_java=25,
            preferred_java=21,
            server=_server_of_3("3.6.0", log4j="2.25.3"),
            modules={
                **_MODULES_OF_3,
                # knn and neural-search extend it.
                "transport-grpc": Module(
                    "org.opensearch.transport.grpc.GrpcPlugin", ("transport-grpc", "transport-grpc-spi")
                ),
                # oversample and truncate_hits; not published for 2.19.1.
                "search-pipeline-common": Module(
                    "org.opensearch.search.pipeline.common.SearchPipelineCommonModulePlugin",
                    ("search-pipeline-common",),
                ),
            },
            # Neither is published for the other versions.
            tools={
                AGENT: ("org.opensearch:opensearch-agent:3.6.0",),
                INSTALLER: ("org.opensearch:opensearch-plugin-cli:3.6.0",),
            },
            java_options=("--add-modules=jdk.incubator.vector",),
        ),
    )
}
"""The tested versions: the oldest and the newest one whose parts are all published."""

CORE_RELEASES = {
    release.version: release
    for release in (
        CoreRelease(
            "3.9.0",
            oldest_java=21,
            newest_java=25,
            preferred_java=25,
            server=_server_of_3("3.9.0", log4j="2.25.5"),
            modules=_MODULES_OF_3,
            java_options=("--add-modules=jdk.incubator.vector",),
        ),
    )
}
"""Versions to test plugins on that need the core alone."""
