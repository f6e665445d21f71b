"""The object store over S3, in the subset that MinIO, SeaweedFS and AWS share."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from itertools import islice
from typing import BinaryIO, cast
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.credentials.providers import Provider
from minio.error import MinioException, S3Error, ServerError

from qcrd.errors import NotFound, QcrdError, Transient
from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.credentials import STORE_REFUSES, make_credential_provider
from qcrd.runtime.storage.unreadable import UnreadableObjects

PART_BYTES = 5 * 2**20
"""Part size of a large object, the smallest that S3 allows. The client holds up to four copies of a
part: with three parts of 16 MiB at once a process took 70 MiB more, and was not faster."""
MAX_PARTS = 10_000
"""Of an S3 object. So a stream of unknown length has 52 GB at most; where the length is known the
parts of a larger object are larger."""

MAX_LISTED_KEYS = 1000
"""Of one request to S3."""
NOT_FOUND_CODES = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})
STORAGE_FULL_CODES = frozenset(
    {"XMinioStorageFull", "InsufficientStorage", "InsufficientStorageSpace", "StorageFull"}
    | {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}
)
REFUSAL_STATUSES = frozenset({401, 403})
REFUSAL_CODES = frozenset(
    {"AccessDenied", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"}
    | {"SignatureDoesNotMatch", "RequestExpired", "RequestTimeTooSkewed", "InvalidSecurity"}
)
"""Rotated keys, an expired token, a clock that is wrong: some of them come with status 400."""
REGION_CODES = frozenset(
    {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidRegion"}
    | {"PermanentRedirect", "Redirect", "TemporaryRedirect", "RetryHead"}
)
TRANSIENT_CODES = frozenset(
    {"InternalError", "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable"}
    | {"RequestTimeout", "OperationAborted", "XMinioServerNotInitialized", "Busy"}
)


@contextmanager
def _translate_s3_errors(bucket: str, key: str) -> Iterator[None]:
    """Translate the client's errors into those of `qcrd.errors`."""
    try:
        yield
    except S3Error as error:
        raise _to_qcrd_error(error, bucket, key) from error
    except (ServerError, urllib3.exceptions.HTTPError, OSError) as error:
        message = f"the object store does not answer: {error} (QCRD_S3_ENDPOINT says where it is)"
        raise Transient(message) from error
    except (MinioException, ParseError) as error:
        # A proxy's page in place of the store's reply, and no fault of the work that asked.
        raise Transient(f"the object store cannot be understood at {key}: {error}") from error


def _to_qcrd_error(error: S3Error, bucket: str, key: str) -> QcrdError:
    status = error.response.status
    reason = f"{error.code}: {error.message}"
    if error.code in NOT_FOUND_CODES:
        return NotFound(f"there is no object {key}")
    if error.code in STORAGE_FULL_CODES or status == 507:
        return Transient(f"the object store is full: {error.message}", code="store_full")
    if advice := _find_advice(error.code or "", status, bucket):
        message = f"the object store refuses {key}: {reason}. {advice}"
        return Transient(message, code=STORE_REFUSES)
    if error.code in TRANSIENT_CODES or status >= 500:
        return Transient(f"the object store cannot answer now: {reason}")
    return QcrdError(f"the object store refuses {key}: {reason}")


def _find_advice(code: str, status: int, bucket: str) -> str:
    """What an operator can do about a refusal; empty where it is no operator's matter."""
    if code == "NoSuchBucket":
        return f"Make or restore the bucket {bucket}, or set QCRD_S3_BUCKET"
    if code in REGION_CODES:
        return "Set QCRD_S3_REGION to the region of the bucket"
    if code in REFUSAL_CODES or status in REFUSAL_STATUSES:
        return "Check the credentials (QCRD_S3_ACCESS_KEY), what they may do, and the clock"
    return ""


def make_client(settings: StoreSettings, endpoint: str, credentials: Provider) -> Minio:
    retries = urllib3.Retry(
        total=3,
        backoff_factor=0.2,
        status_forcelist=(500, 502, 503, 504),
        allowed_methods=None,
        # The last response's body has the reason; urllib3 would only report the retry count.
        raise_on_status=False,
    )
    pool = urllib3.PoolManager(
        maxsize=16, timeout=urllib3.Timeout(connect=3.0, read=60.0), retries=retries
    )
    return Minio(
        endpoint,
        credentials=credentials,
        secure=settings.secure,
        # Naming it saves a request per presigned URL.
        region=settings.region,
        http_client=pool,
    )


class S3Store:
    """Connects on first use, and creates the bucket if it is missing."""

    def __init__(
        self,
        settings: StoreSettings,
        *,
        connect: Callable[[StoreSettings, str, Provider], Minio] = make_client,
    ) -> None:
        self.unreadable = UnreadableObjects()
        self._bucket = settings.bucket
        credentials = make_credential_provider(settings)
        self._client = connect(settings, settings.endpoint, credentials)
        public = settings.public_endpoint
        self._public_client = connect(settings, public, credentials) if public else self._client
        self._bucket_ready = False

    def _translate_errors(self, key: str) -> AbstractContextManager[None]:
        return _translate_s3_errors(self._bucket, key)

    def _ensure_bucket(self) -> Minio:
        """Without a lock: while the store is unavailable, callers must not wait for each other."""
        if not self._bucket_ready:
            if not self._client.bucket_exists(self._bucket):
                self._make_bucket()
            self._bucket_ready = True
        return self._client

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            # Another service, started at the same moment, created it first.
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        if isinstance(data, bytes):
            length, data = len(data), io.BytesIO(data)
        with self._translate_errors(key):
            self._ensure_bucket().put_object(
                self._bucket,
                key,
                data,
                length,
                part_size=max(PART_BYTES, math.ceil(length / MAX_PARTS)),
                # A stream may break off, and the client's threads would go on sending parts of an
                # upload that was aborted.
                num_parallel_uploads=3 if length >= 0 else 1,
            )

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        with self._translate_errors(key):
            response = self._ensure_bucket().get_object(self._bucket, key)
            # With auto_close, a read after the end would raise instead of returning nothing.
            cast(urllib3.HTTPResponse, response).auto_close = False
            try:
                yield cast(BinaryIO, io.BufferedReader(response))
            finally:
                response.close()
                response.release_conn()

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[str]:
        with self._translate_errors(prefix):
            # Its public method always asks for a thousand keys, fifty times what a page needs.
            entries = self._ensure_bucket()._list_objects(
                self._bucket,
                prefix=prefix,
                start_after=after or None,
                max_keys=None if limit is None else min(limit, MAX_LISTED_KEYS),
                encoding_type="url",
            )
            return sorted(e.object_name for e in islice(entries, limit) if e.object_name)

    def delete(self, key: str) -> None:
        with self._translate_errors(key):
            self._ensure_bucket().remove_object(self._bucket, key)

    def presign_url(self, key: str, *, seconds: int) -> str:
        with self._translate_errors(key):
            expires = timedelta(seconds=seconds)
            return self._public_client.presigned_get_object(self._bucket, key, expires=expires)
