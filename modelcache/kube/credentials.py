"""Where the API server is and how to prove who we are.

The official loaders do the work: kubeconfig with exec plugins, OIDC, client certificates and token files, and the pod's
service account. What is added here is the order in which a configuration is looked for (the one of controller-runtime,
so that the same command works in a pod and on a laptop), loading again while the process runs, and errors that name
the file.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from aiohttp import ClientError
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, load_kube_config
from kubernetes.aio.config.incluster_config import InClusterConfigLoader
from yaml import YAMLError

from modelcache.kube.errors import ConfigError

# Mounted into every pod: https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
SERVICE_ACCOUNT_DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")

# What the official loaders raise for files that are missing, unreadable, not YAML, or YAML of another shape, and for an
# OIDC issuer that cannot be reached.
_LOADER_ERRORS = (ConfigException, ClientError, OSError, YAMLError, ValueError, TypeError, KeyError, AttributeError)


class Credentials(Protocol):
    """Fills an official `Configuration` with address, TLS material and token."""

    async def load(self, *, afresh: bool) -> Configuration:
        """The configuration as it is on disk now.

        `afresh` forgets everything remembered (a token of an exec plugin that claims to be valid): the server has just
        refused it. Raises ConfigError.
        """

    def __str__(self) -> str:
        """For messages: which file."""


class KubeconfigCredentials:
    """A kubeconfig, or several separated by `:` as in $KUBECONFIG, merged as kubectl merges them."""

    def __init__(self, path: str, context: str | None = None) -> None:
        self._path = path
        self._context = context
        self._loader: Any = None  # KubeConfigLoader: remembers the expiry of exec and OIDC tokens between loads

    def __str__(self) -> str:
        return f"kubeconfig {self._path}"

    async def load(self, *, afresh: bool) -> Configuration:
        """See Credentials. Token files are read again each time, exec plugins run again when their token has expired."""
        if not self._exists():
            raise ConfigError(f"{self} does not exist; pass --kubeconfig or set KUBECONFIG")
        configuration = Configuration()
        try:
            if self._loader is None or afresh:
                self._loader = await load_kube_config(
                    config_file=self._path,
                    context=self._context,
                    client_configuration=configuration,
                    persist_config=False,
                )
            else:
                await self._loader.load_and_set(configuration)
        except _LOADER_ERRORS as error:
            raise ConfigError(f"{self} cannot be used: {str(error) or type(error).__name__}") from error
        return configuration

    def _exists(self) -> bool:
        return any(Path(part).expanduser().is_file() for part in self._path.split(":") if part)


class InClusterCredentials:
    """The service account of the pod this process runs in. The kubelet replaces the token file before it expires."""

    def __init__(self, environ: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT_DIRECTORY) -> None:
        self._environ = environ
        self._directory = directory

    def __str__(self) -> str:
        return f"service account {self._directory}"

    async def load(self, *, afresh: bool) -> Configuration:
        """See Credentials. The files are read each time."""
        del afresh  # nothing is remembered
        configuration = Configuration()
        try:
            InClusterConfigLoader(
                token_filename=str(self._directory / "token"),
                cert_filename=str(self._directory / "ca.crt"),
                try_refresh_token=False,  # KubeClient decides when, on the monotonic clock
                environ=self._environ,
            ).load_and_set(configuration)
        except _LOADER_ERRORS as error:
            raise ConfigError(f"{self} cannot be used: {str(error) or type(error).__name__}") from error
        return configuration


def find_credentials(
    kubeconfig: str | Path | None = None,
    context: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Credentials:
    """Explicit path, then $KUBECONFIG, then the pod's service account, then ~/.kube/config.

    Raises ConfigError when there is none of them; whether the found one is usable shows when it is loaded.
    """
    if kubeconfig:
        return KubeconfigCredentials(str(kubeconfig), context)
    if environ.get("KUBECONFIG"):
        return KubeconfigCredentials(environ["KUBECONFIG"], context)
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return InClusterCredentials(environ)
    default = Path(environ.get("HOME") or "~").expanduser() / ".kube" / "config"
    if default.is_file():
        return KubeconfigCredentials(str(default), context)
    raise ConfigError(
        f"no cluster configured: --kubeconfig and KUBECONFIG are not set, this is not a pod, and {default} does not exist"
    )
