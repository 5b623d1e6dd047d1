"""The service as an application of Ray Serve: gateways that speak HTTP, replicas that score.

    client → Serve's proxy → Gateway: our FastAPI app → DeploymentScorer → ScorerReplica: batches → the core

The app is the one of `qwen-rerank serve`, with the same addresses, limits and answers; only what scores is elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import EngineError
from qwen_rerank_plugins.ray.deployment import DeploymentScorer
from qwen_rerank_plugins.ray.replica import ScorerReplica
from qwen_rerank_plugins.ray.scaling import (
    Deployment,
    ScalingSettings,
    read_arguments,
    scorer_name,
    with_reserved_threads,
)
from qwen_rerank_plugins.service.app import create_app
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["Gateway", "build_app"]

GATEWAY_NAME = "Gateway"
SCORER_NAME = "Scorer"

HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 30.0
RETRY_AFTER_S = 1.0
LOOK_EVERY_S = 0.1


@serve.ingress()
class Gateway:
    """A replica that speaks HTTP.

    Args:
        scorer: The deployment that scores.
        config: The reranker's settings.
        settings: The service's.
        scaling: How calls are cut and repeated.
    """

    def __init__(
        self,
        scorer: DeploymentHandle[Any],
        config: RerankConfig,
        settings: ServiceSettings,
        scaling: ScalingSettings,
    ) -> None:
        self._remote = DeploymentScorer(
            scorer,
            model=scorer_name(config),
            batch_tokens=scaling.batch_tokens,
            max_length=config.max_length,
            call_attempts=scaling.call_attempts,
        )
        self._parts = (config, settings)
        self._life: Any = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Put the app together, in the replica; Serve starts it."""
        config, settings = self._parts
        app = create_app(config, settings=settings, scorer=self._remote)
        self._life = app.state.service.lifecycle
        return app

    async def check_health(self) -> None:
        """Be healthy once the scorer answered; Serve sends requests from then on, and asks again every few seconds.

        Raises:
            EngineError: It will not answer any more, and a new gateway might find another.
        """
        while self._life.state == "loading":  # noqa: ASYNC110 (whoever changes it knows of nobody who waits)
            await asyncio.sleep(LOOK_EVERY_S)
        if self._life.state == "broken":
            raise EngineError("the service cannot score")


def build_app(arguments: Mapping[str, Any]) -> Application:
    """Build the application, for `serve run`, `serve build`, Serve's own file, or `ray.serve.run`.

        serve run qwen_rerank_plugins.ray:build_app model=Qwen/Qwen3-Reranker-0.6B num_gpus=1 max_replicas=8

    Args:
        arguments: Settings of `ScalingSettings`, of a configuration, of the service (`service.NAME`), and `config`, the
            path of a configuration file. The environment is read as well.

    Raises:
        ConfigurationError: An argument is unknown or wrong.
    """
    deployment = read_arguments(arguments)
    return _gateway(deployment).bind(
        _scorer(deployment).bind(_replica_config(deployment), deployment.scaling),
        deployment.config,
        deployment.settings,
        deployment.scaling,
    )


def _replica_config(deployment: Deployment) -> RerankConfig:
    """The settings with which a replica scores: those of the plain service, and the threads that it reserved."""
    config = with_reserved_threads(deployment.config, deployment.scaling.num_cpus)
    changes: dict[str, Any] = {"on_error": "raise"}
    if "admission" not in config.model_fields_set:
        changes["admission"] = "reject"
    return config.replace(**changes)


def _scorer(deployment: Deployment) -> serve.Deployment:
    scaling, settings = deployment.scaling, deployment.settings
    resources: dict[str, Any] = {"num_cpus": scaling.num_cpus, "num_gpus": scaling.num_gpus}
    if scaling.accelerator_type is not None:
        resources["accelerator_type"] = scaling.accelerator_type
    made: Any = serve.deployment(
        ScorerReplica,
        name=SCORER_NAME,
        ray_actor_options=resources,
        max_ongoing_requests=scaling.max_ongoing_requests,
        max_queued_requests=scaling.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        graceful_shutdown_timeout_s=settings.shutdown_grace_s,
        **_health(),
        **_growth(scaling),
    )
    return cast(serve.Deployment, made)


def _growth(scaling: ScalingSettings) -> dict[str, Any]:
    """A fixed number of replicas, or the bounds between which Ray chooses one."""
    if scaling.max_replicas is None:
        return {"num_replicas": scaling.num_replicas}
    growth = AutoscalingConfig(
        min_replicas=scaling.num_replicas,
        max_replicas=scaling.max_replicas,
        target_ongoing_requests=scaling.target_ongoing_requests,
        upscale_delay_s=scaling.upscale_delay_s,
        downscale_delay_s=scaling.downscale_delay_s,
    )
    return {"autoscaling_config": growth}


def _gateway(deployment: Deployment) -> serve.Deployment:
    scaling, settings = deployment.scaling, deployment.settings
    made: Any = serve.deployment(
        Gateway,
        name=GATEWAY_NAME,
        num_replicas=scaling.num_gateways,
        ray_actor_options={"num_cpus": scaling.gateway_num_cpus},
        max_ongoing_requests=settings.max_connections,
        max_queued_requests=settings.max_connections,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        graceful_shutdown_timeout_s=settings.request_timeout_s,
        **_health(),
    )
    return cast(serve.Deployment, made)


def _health() -> dict[str, Any]:
    return {"health_check_period_s": HEALTH_PERIOD_S, "health_check_timeout_s": HEALTH_TIMEOUT_S}
