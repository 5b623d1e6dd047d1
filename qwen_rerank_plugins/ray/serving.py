"""The service as a Ray Serve application: gateway replicas serve HTTP, scorer replicas score.

    client → Serve's proxy → Gateway: the FastAPI app → DeploymentScorer → ScorerReplica: batches → the core

The app is that of `qwen-rerank serve`, with the same paths, limits and responses.
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
    ApplicationSettings,
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

HEALTH_CHECKS: dict[str, Any] = {"health_check_period_s": 5.0, "health_check_timeout_s": 30.0}
RETRY_AFTER_S = 1.0
POLL_S = 0.1


@serve.ingress()
class Gateway:
    """A replica that serves HTTP.

    Args:
        scorer: The deployment of scorer replicas.
        config: The settings of the reranker.
        service: The settings of the service.
        scaling: The limits of calls to the replicas.
    """

    def __init__(
        self,
        scorer: DeploymentHandle[Any],
        config: RerankConfig,
        service: ServiceSettings,
        scaling: ScalingSettings,
    ) -> None:
        self._scorer = DeploymentScorer(
            scorer,
            model=scorer_name(config),
            batch_tokens=scaling.batch_tokens,
            max_length=config.max_length,
            call_attempts=scaling.call_attempts,
        )
        self._config = config
        self._service = service
        self._lifecycle: Any = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Create the app in the replica; Serve calls this."""
        app = create_app(self._config, settings=self._service, scorer=self._scorer)
        self._lifecycle = app.state.service.lifecycle
        return app

    async def check_health(self) -> None:
        """Return once the scorer has responded; Serve then sends requests and repeats the check periodically.

        Raises:
            EngineError: The service cannot score any more, so that Serve replaces this gateway.
        """
        while self._lifecycle.state == "loading":  # noqa: ASYNC110 (the lifecycle has no event to wait for)
            await asyncio.sleep(POLL_S)
        if self._lifecycle.state == "broken":
            raise EngineError("the service cannot score")


def build_app(arguments: Mapping[str, Any]) -> Application:
    """Build the application, for `serve run`, `serve build`, a Serve config file, or `ray.serve.run`.

        serve run qwen_rerank_plugins.ray:build_app model=Qwen/Qwen3-Reranker-0.6B num_gpus=1 max_replicas=8

    Args:
        arguments: The settings of `ScalingSettings`, of a configuration, of the service (`service.NAME`), and `config`,
            the path of a configuration file. The environment is read as well.

    Raises:
        ConfigurationError: An argument is unknown or not valid.
    """
    settings = read_arguments(arguments)
    scorer = _scorer_deployment(settings).bind(_replica_config(settings), settings.scaling)
    return _gateway_deployment(settings).bind(scorer, *settings)


def _replica_config(settings: ApplicationSettings) -> RerankConfig:
    """Return the configuration of a scorer replica: errors are raised, and a full queue refuses calls."""
    config = with_reserved_threads(settings.config, settings.scaling.num_cpus)
    changes: dict[str, Any] = {"on_error": "raise"}
    if "admission" not in config.model_fields_set:
        changes["admission"] = "reject"
    return config.replace(**changes)


def _scorer_deployment(settings: ApplicationSettings) -> serve.Deployment:
    scaling = settings.scaling
    resources: dict[str, Any] = {"num_cpus": scaling.num_cpus, "num_gpus": scaling.num_gpus}
    if scaling.accelerator_type is not None:
        resources["accelerator_type"] = scaling.accelerator_type
    deployment: Any = serve.deployment(
        ScorerReplica,
        name=SCORER_NAME,
        ray_actor_options=resources,
        max_ongoing_requests=scaling.max_ongoing_requests,
        max_queued_requests=scaling.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        graceful_shutdown_timeout_s=settings.service.shutdown_grace_s,
        **HEALTH_CHECKS,
        **_replica_count(scaling),
    )
    return cast(serve.Deployment, deployment)


def _replica_count(scaling: ScalingSettings) -> dict[str, Any]:
    """Return the options for a fixed number of replicas, or for autoscaling."""
    if scaling.max_replicas is None:
        return {"num_replicas": scaling.num_replicas}
    autoscaling = AutoscalingConfig(
        min_replicas=scaling.num_replicas,
        max_replicas=scaling.max_replicas,
        target_ongoing_requests=scaling.target_ongoing_requests,
        upscale_delay_s=scaling.upscale_delay_s,
        downscale_delay_s=scaling.downscale_delay_s,
    )
    return {"autoscaling_config": autoscaling}


def _gateway_deployment(settings: ApplicationSettings) -> serve.Deployment:
    scaling, service = settings.scaling, settings.service
    deployment: Any = serve.deployment(
        Gateway,
        name=GATEWAY_NAME,
        num_replicas=scaling.num_gateways,
        ray_actor_options={"num_cpus": scaling.gateway_num_cpus},
        max_ongoing_requests=service.max_connections,
        max_queued_requests=service.max_connections,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        graceful_shutdown_timeout_s=service.request_timeout_s,
        **HEALTH_CHECKS,
    )
    return cast(serve.Deployment, deployment)
