"""Azure OpenAI's embeddings, with a key."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, NoReturn

from tollway.errors import ConfigurationError
from tollway.limiter import AUTO_LIMITS
from tollway.limiter.feedback import AZURE_FEEDBACK
from tollway.providers.base import EmbeddingRules
from tollway.providers.errors import OPENAI_ERRORS
from tollway.providers.openai import DIMENSIONS, OpenAIProvider

if TYPE_CHECKING:
    from tollway.providers.errors import ErrorTable
    from tollway.transport import Transport

__all__ = ["AzureProvider", "resource_of", "version_of"]


class AzureProvider(OpenAIProvider):
    """One deployment of an embedding model at Azure OpenAI.

    Args:
        model: Name of the deployment.
        base_model: The model that is deployed, by which tokens are counted and priced. Default: the
            deployment's name, where a model is called so.
        azure_endpoint: `https://RESOURCE.openai.azure.com`; else from `AZURE_OPENAI_ENDPOINT`.
        api_version: Else from `OPENAI_API_VERSION` or `AZURE_OPENAI_API_VERSION`; without any, the
            v1 API is used, which needs none.
        api_key: Else from `AZURE_OPENAI_API_KEY`.
        dimensions: Shorter vectors, where the model can.
        http_client: As in `OpenAIProvider`.
        transport: As in `OpenAIProvider`.
        errors: What its errors mean, where that is not what they mean at OpenAI.
        connection: As in `OpenAIProvider`.

    Raises:
        ConfigurationError: No endpoint or key.
    """

    name = "azure"

    def __init__(
        self,
        model: str,
        *,
        base_model: str | None = None,
        azure_endpoint: str | None = None,
        api_version: str | None = None,
        api_key: str | None = None,
        dimensions: int | None = None,
        http_client: Any = None,
        transport: Transport | None = None,
        errors: ErrorTable = OPENAI_ERRORS,
        **connection: Any,
    ) -> None:
        address = resource_of(azure_endpoint, model)
        key = api_key or os.environ.get("AZURE_OPENAI_API_KEY")
        if not key:
            raise ConfigurationError(
                f"azure/{model} needs a key: set the environment variable AZURE_OPENAI_API_KEY, or "
                "give api_key"
            )
        self._version = version_of(api_version)
        super().__init__(
            model,
            api_key=key,
            base_url=address,
            dimensions=dimensions,
            http_client=http_client,
            transport=transport,
            errors=errors,
            **connection,
        )
        self._deployed = base_model or model
        known = self._deployed in DIMENSIONS
        # Every embedding model of OpenAI's has this encoding: tokens are exact under any name.
        self.rules = EmbeddingRules(
            encoding="cl100k_base",
            exact=True,
            max_texts=2048,
            max_request_tokens=300_000,
            max_text_tokens=8191,
            dimensions=dimensions or DIMENSIONS.get(self._deployed),
            price="listed" if known else "unknown",
        )
        # Azure judges requests over 1 to 10 seconds; its quotas are each account's own.
        self._feedback = AZURE_FEEDBACK
        self.limits = dataclasses.replace(AUTO_LIMITS, sub_window=1.0)

    def __repr__(self) -> str:
        """Show the deployment and the address, never the key."""
        return f"<AzureProvider {self.model} at {self.base_url}>"

    @property
    def priced_as(self) -> str:
        """The model that is deployed."""
        return self._deployed

    def batches(self) -> NoReturn:
        """Refuse: Azure takes batches of completions only."""
        raise ConfigurationError(
            f'azure/{self.model} embeds nothing in batches; mode="batch" is there for openai'
        )

    def _url(self) -> str:
        if self._version is None:
            return f"{self.base_url}/openai/v1/embeddings"
        deployment = f"{self.base_url}/openai/deployments/{self.model}"
        return f"{deployment}/embeddings?api-version={self._version}"

    def _credential(self) -> dict[str, str]:
        return {"api-key": self._key}


def resource_of(endpoint: str | None, model: str) -> str:
    """Return a resource's address.

    Args:
        endpoint: In any of the forms that the portal shows; else from the environment.
        model: Name of the deployment, for the error.

    Raises:
        ConfigurationError: None is named.
    """
    endpoint = endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT")
    if not endpoint:
        raise ConfigurationError(
            f"azure/{model} needs an address: set the environment variable "
            "AZURE_OPENAI_ENDPOINT, or give azure_endpoint"
        )
    return endpoint.rstrip("/").removesuffix("/openai/v1").removesuffix("/openai")


def version_of(given: str | None) -> str | None:
    """Return the version of the API that is given or in the environment; None for the v1 API."""
    names = ("OPENAI_API_VERSION", "AZURE_OPENAI_API_VERSION")
    return given or next((found for name in names if (found := os.environ.get(name))), None)
