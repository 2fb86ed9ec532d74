"""Azure OpenAI's chat completions, through the official SDK."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
from typing import TYPE_CHECKING, Any

from tollway.errors import AuthenticationError, ConfigurationError, TollwayError
from tollway.limiter import AUTO_LIMITS
from tollway.limiter.feedback import AZURE_FEEDBACK
from tollway.providers.azure import resource_of, version_of
from tollway.providers.errors import OPENAI_ERRORS
from tollway.providers.frame import fingerprint, own_client, told_client
from tollway.providers.openai import check_address, checked_key
from tollway.providers.openai_chat import OpenAIChatBatches, OpenAIChatProvider, sdk
from tollway.providers.openai_models import learned_of, model_of
from tollway.transport.loops import LoopClients

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping

    from tollway.providers.errors import ErrorTable

__all__ = ["AzureChatProvider"]

# https://learn.microsoft.com/azure/ai-services/openai/how-to/managed-identity
_SCOPE = "https://cognitiveservices.azure.com/.default"


class AzureChatProvider(OpenAIChatProvider):
    """One deployment at Azure OpenAI.

    Exactly one of a key, a token, a token provider and a credential is used. With a managed
    identity: `LLM("azure/my-gpt", credential="default")`.

    Args:
        model: Name of the deployment.
        base_model: The model that is deployed, by which tokens are counted and priced; without it
            the deployment's name is taken for one.
        azure_endpoint: `https://RESOURCE.openai.azure.com`; else from `AZURE_OPENAI_ENDPOINT`.
        api_version: Else from `OPENAI_API_VERSION` or `AZURE_OPENAI_API_VERSION`; without any, the
            v1 API is used, which needs none.
        api_key: Else from `AZURE_OPENAI_API_KEY`.
        azure_ad_token: Else from `AZURE_OPENAI_AD_TOKEN`.
        azure_ad_token_provider: A function, async or not, that returns a token.
        credential: One of `azure.identity.aio`, left open; or `default` for a
            `DefaultAzureCredential` of its own, which is closed with the provider.
        http_client: As in `OpenAIChatProvider`.
        client: An `openai.AsyncAzureOpenAI` to use as it is, but for its retries; left open.
        headers: Further headers of every request.
        errors: What its errors mean, where that is not what they mean at OpenAI.

    Raises:
        ConfigurationError: No endpoint or credential, or several credentials.
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
        azure_ad_token: str | None = None,
        azure_ad_token_provider: Callable[[], str | Awaitable[str]] | None = None,
        credential: Any = None,
        http_client: Any = None,
        client: Any = None,
        headers: Mapping[str, str] | None = None,
        errors: ErrorTable = OPENAI_ERRORS,
    ) -> None:
        self.model = model
        self._errors = errors
        self._headers = dict(headers or {})
        self._http_client = http_client
        self._is_openai = True
        self._token_provider = azure_ad_token_provider
        if client is not None:
            place = (azure_endpoint, api_version, http_client)
            keys = (api_key, azure_ad_token, azure_ad_token_provider, credential)
            client = own_client(client, *place, *keys)
            azure_endpoint = str(client.base_url)
        self.base_url = resource_of(azure_endpoint, model)
        check_address(self.base_url)
        self._version = version_of(api_version)
        given = [
            value
            for value in (api_key, azure_ad_token, azure_ad_token_provider, credential)
            if value
        ]
        if len(given) > 1:
            raise ConfigurationError(
                "give one of api_key, azure_ad_token, azure_ad_token_provider and credential, not "
                "several"
            )
        self._credential = credential
        self._credentials: LoopClients[Any] = LoopClients(
            lambda: identity(model).DefaultAzureCredential(),
            close_credential,
            None if credential == "default" else credential,
        )
        if credential is not None:
            azure_ad_token_provider = self._identity_token
            self._token_provider = azure_ad_token_provider
        if not given and client is None:
            azure_ad_token = os.environ.get("AZURE_OPENAI_AD_TOKEN")
            api_key = None if azure_ad_token else os.environ.get("AZURE_OPENAI_API_KEY")
        if client is not None:
            # To be struck out. Without a key the SDK has a phrase in its place.
            api_key = None if " " in client.api_key else client.api_key
            azure_ad_token = getattr(client, "_azure_ad_token", None)
        self._token = checked_key(azure_ad_token, f"azure/{model}", "AZURE_OPENAI_AD_TOKEN")
        self._key = checked_key(api_key, f"azure/{model}", "AZURE_OPENAI_API_KEY")
        if not (self._key or self._token or azure_ad_token_provider or client is not None):
            raise ConfigurationError(
                f"azure/{model} needs a credential: set the environment variable "
                "AZURE_OPENAI_API_KEY, or give api_key, credential or azure_ad_token_provider"
            )
        served = base_model or model
        self._set_up(learned_of(self.base_url, model, model_of(served)), client)
        self.rules = self._learned.rules(
            token_model=served,
            charges_max_tokens="sum",
            feedback=AZURE_FEEDBACK,
            price_provider="azure",
            price_model=served,
        )
        # Azure judges requests over 1 to 10 seconds.
        self.limits = dataclasses.replace(AUTO_LIMITS, sub_window=1.0)

    @property
    def quota_key(self) -> Hashable:
        """Provider, address, credential's fingerprint, deployment."""
        given = self._credential or self._token_provider
        named = given if isinstance(given, str) else f"function {id(given)}"
        secret = self._key or self._token or named
        return (self.name, self.base_url, fingerprint(secret), self.model)

    def batches(self) -> OpenAIChatBatches:
        """Return the batch API of this deployment, which has to be of a type for batches.

        Raises:
            ConfigurationError: An older API than v1 is used, whose addresses are each deployment's.
        """
        if self._version is not None:
            raise ConfigurationError(
                f"azure/{self.model} takes batches through its v1 API: leave api_version out, and "
                "OPENAI_API_VERSION unset"
            )
        return OpenAIChatBatches(self, self.base_url, "/chat/completions")

    def _secret(self) -> str:
        return self._key or self._token

    def _has_credential(self) -> bool:
        return True  # that of an injected client, where there is no other

    def _make_client(self) -> Any:
        openai = sdk()
        options = {
            "max_retries": 0,
            "default_headers": self._headers,
            "http_client": self._http_client or told_client(openai),
        }
        provider = None if self._token_provider is None else self._fresh_token
        if self._version is None:
            return openai.AsyncOpenAI(
                base_url=f"{self.base_url}/openai/v1/",
                api_key=provider or self._token or self._key,
                **options,
            )
        return openai.AsyncAzureOpenAI(
            azure_endpoint=self.base_url,
            azure_deployment=self.model,
            api_version=self._version,
            api_key=self._key or None,
            azure_ad_token=self._token or None,
            azure_ad_token_provider=provider,
            **options,
        )

    async def aclose(self) -> None:
        """Close this event loop's connections and credential; what was injected stays open."""
        await super().aclose()
        await self._credentials.aclose()

    async def _identity_token(self) -> str:
        credential = self._credentials.get()
        provider = identity(self.model).get_bearer_token_provider(credential, _SCOPE)
        token: str = await provider()
        return token

    async def _fresh_token(self) -> str:
        assert self._token_provider is not None
        try:
            token = self._token_provider()
            return await token if inspect.isawaitable(token) else token
        except TollwayError:
            raise
        except Exception as error:
            raise AuthenticationError(
                f"azure/{self.model}: the token provider failed ({type(error).__name__})"
            ) from error


def identity(model: str) -> Any:
    """Return the module of Azure's asynchronous credentials.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return importlib.import_module("azure.identity.aio")
    except ImportError as error:
        raise ConfigurationError(
            f"azure/{model} with a managed identity needs Azure's: pip install 'tollway[azure]'"
        ) from error


async def close_credential(credential: Any) -> None:
    """Close a credential that the provider made."""
    await credential.close()
