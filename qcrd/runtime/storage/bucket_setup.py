"""Prepare the store's bucket, and on MinIO a user who may do no more than read and write in it.

`python -m qcrd.runtime.storage.bucket_setup`, once and before the services: with the admin keys of
a MinIO server it makes the bucket, a policy and the user of `QCRD_S3_ACCESS_KEY`, each of them
again if it is there; a user whose secret key has changed gets the new one. Others who have that
policy and no more are those of former access keys, and are removed. Without admin keys it uses the
services' own.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import urllib3
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from pydantic import SecretStr, model_validator

from qcrd.errors import QcrdError, Transient
from qcrd.runtime import telemetry
from qcrd.runtime.retrying import call_with_retries
from qcrd.runtime.settings import EnvironmentSettings, LogSettings, StoreSettings, load_settings
from qcrd.runtime.storage.s3 import S3Store

log = logging.getLogger(__name__)

RETRY_SECONDS = (1.0,) * 60
"""A server that has just begun to listen may refuse for some seconds."""
BUCKET_ACTIONS = ("s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads")
OBJECT_ACTIONS = (
    *("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject"),
    *("s3:ListMultipartUploadParts", "s3:PutObject"),
)


class StoreAdminSettings(EnvironmentSettings, env_prefix="QCRD_S3_ADMIN_"):
    """Keys of a MinIO server's administrator; without them nobody is administrated."""

    access_key: str = ""
    secret_key: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def require_both(self) -> Self:
        if bool(self.access_key) != bool(self.secret_key.get_secret_value()):
            raise ValueError("set both QCRD_S3_ADMIN_ACCESS_KEY and QCRD_S3_ADMIN_SECRET_KEY")
        return self


def make_policy(bucket: str) -> dict[str, Any]:
    """Reading and writing in `bucket`, and nothing about buckets, users or the server."""
    arn = f"arn:aws:s3:::{bucket}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": list(BUCKET_ACTIONS), "Resource": [arn]},
            {"Effect": "Allow", "Action": list(OBJECT_ACTIONS), "Resource": [f"{arn}/*"]},
        ],
    }


def prepare_bucket(settings: StoreSettings, admin: StoreAdminSettings) -> None:
    """Afterwards `settings` can read and write the bucket. `Transient` while the server is away or
    refuses."""
    owner = settings
    if admin.access_key:
        owner = settings.model_copy(
            update={"access_key": admin.access_key, "secret_key": admin.secret_key}
        )
    # Whoever lists an empty folder first makes the bucket.
    S3Store(owner).list("ready/")
    if admin.access_key:
        client = _make_client(settings, admin)
        with _translate_admin_errors(settings):
            _make_user(client, settings)
        S3Store(settings).list("ready/")
        # Not before the new one is known to work.
        with _translate_admin_errors(settings):
            _remove_former_users(client, settings)


def _make_client(settings: StoreSettings, admin: StoreAdminSettings) -> MinioAdmin:
    return MinioAdmin(
        endpoint=settings.endpoint,
        credentials=StaticProvider(admin.access_key, admin.secret_key.get_secret_value()),
        region=settings.region,
        secure=settings.secure,
        http_client=urllib3.PoolManager(timeout=urllib3.Timeout(connect=3.0, read=30.0)),
    )


def _make_user(client: MinioAdmin, settings: StoreSettings) -> None:
    """The user of `settings`, whose one policy is named after the bucket."""
    client.policy_add(settings.bucket, policy=make_policy(settings.bucket))
    client.user_add(settings.access_key, settings.secret_key.get_secret_value())
    client.policy_set(settings.bucket, user=settings.access_key)


def _remove_former_users(client: MinioAdmin, settings: StoreSettings) -> None:
    """Users with our policy alone, which nobody else is given, but the one of `settings`."""
    for name, user in json.loads(client.user_list()).items():
        if user.get("policyName") == settings.bucket and name != settings.access_key:
            client.user_remove(name)
            log.info("removed the user of a former QCRD_S3_ACCESS_KEY: %s", name)


@contextmanager
def _translate_admin_errors(settings: StoreSettings) -> Iterator[None]:
    try:
        yield
    except MinioAdminException as error:
        raise Transient(
            f"the store's administration refuses: {_read_code(error)}; check "
            "QCRD_S3_ADMIN_ACCESS_KEY and QCRD_S3_ADMIN_SECRET_KEY, and that "
            f"{settings.endpoint} is a MinIO server"
        ) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Transient(f"the store's administration does not answer: {error}") from error


def _read_code(error: MinioAdminException) -> str:
    """MinIO's own word for it where the reply is its, else the status."""
    found = re.search(r'"Code": ?"(\w+)"', str(error)) or re.search(r"Status: (\d+)", str(error))
    return found[1] if found else "no reason"


def main() -> None:
    telemetry.configure_logging("bucket", load_settings(LogSettings).level)
    settings, admin = load_settings(lambda: (StoreSettings(), StoreAdminSettings()))
    if not settings.access_key:
        raise SystemExit("set QCRD_S3_ACCESS_KEY and QCRD_S3_SECRET_KEY, the keys of the services")
    try:
        call_with_retries(
            lambda: prepare_bucket(settings, admin),
            RETRY_SECONDS,
            before_retry=lambda error: log.warning("trying again: %s", error),
        )
    except QcrdError as error:
        raise SystemExit(f"the bucket {settings.bucket} was not made: {error}") from error
    log.info("the bucket %s is ready on %s", settings.bucket, settings.endpoint)


if __name__ == "__main__":
    main()
