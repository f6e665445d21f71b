"""The object store's credentials: from the settings, or from where AWS's own clients look.

That is, in this order: the variables `AWS_ACCESS_KEY_ID` and so on, the credentials file, and what
the machine is given: a web identity, a container's or an instance's role.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from xml.etree.ElementTree import ParseError

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
    StaticProvider,
)

from qcrd.errors import Transient
from qcrd.runtime.settings import StoreSettings

STORE_REFUSES = "store_refuses"
"""Code of a `Transient` that an operator has to end: keys, permissions, a bucket that is gone."""

ROLE_VARIABLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
TIMEOUT = urllib3.Timeout(connect=1.0, read=5.0)
"""A machine without a metadata service does not refuse a connection, it says nothing."""


def make_credential_provider(
    settings: StoreSettings, environment: Mapping[str, str] = os.environ
) -> Provider:
    if settings.access_key:
        return StaticProvider(
            settings.access_key,
            settings.secret_key.get_secret_value(),
            settings.session_token.get_secret_value() or None,
        )
    sources: dict[str, Provider] = {
        "AWS_ACCESS_KEY_ID": EnvAWSProvider(),
        "the AWS credentials file": AWSConfigProvider(),
    }
    is_disabled = environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    if not is_disabled or any(environment.get(name) for name in ROLE_VARIABLES):
        sources["the role of this machine"] = IamAwsProvider(
            custom_endpoint=settings.credentials_url,
            region=settings.region,
            http_client=urllib3.PoolManager(
                timeout=TIMEOUT, retries=urllib3.Retry(total=1, status_forcelist=(500, 503))
            ),
        )
    return CredentialChain(sources)


class CredentialChain(Provider):
    """The first of `sources` that has credentials. All are asked each time: a file may have got
    new ones, and what is valid for a time is kept by the source itself."""

    def __init__(self, sources: Mapping[str, Provider]) -> None:
        self._sources = sources

    def retrieve(self) -> Credentials:
        """`Transient` (code `store_refuses`) while no source has any."""
        problems = []
        for name, source in self._sources.items():
            try:
                return source.retrieve()
            except (
                ValueError,
                LookupError,
                OSError,
                ParseError,
                configparser.Error,
                urllib3.exceptions.HTTPError,
            ) as error:
                problems.append(f"{name}: {_hide_token(str(error))}")
        raise Transient(
            "there are no credentials for the object store: set QCRD_S3_ACCESS_KEY and "
            f"QCRD_S3_SECRET_KEY, or mend one of these sources ({'; '.join(problems)})",
            code=STORE_REFUSES,
        )


def _hide_token(message: str) -> str:
    """The client's errors repeat the address, with the machine's identity in it."""
    return re.sub(r"(WebIdentityToken=)[^&\s]+", r"\1…", message)
