"""The object store over S3: the subset that MinIO, SeaweedFS and AWS share."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import BinaryIO, cast

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error, ServerError

from qcrd.errors import NotFound, QcrdError, Transient
from qcrd.runtime.settings import StoreSettings

PART_BYTES = 16 * 2**20
"""Bytes of a part of a large object of known length; three are sent at once."""
STREAM_PART_BYTES = 5 * 2**20
"""The same of a body of unknown length, the least that S3 takes: the client holds up to four
copies, and 10,000 parts, which are S3's limit, make 52 GB."""
REGION = "us-east-1"
"""What stores without regions call theirs; naming it saves a request per link."""

NOT_FOUND_CODES = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchBucket", "ResourceNotFound"})
STORAGE_FULL_CODES = frozenset(
    {"XMinioStorageFull", "InsufficientStorage", "InsufficientStorageSpace", "StorageFull"}
)
TRANSIENT_CODES = frozenset(
    {"InternalError", "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable"}
    | {"RequestTimeout", "OperationAborted", "XMinioServerNotInitialized", "Busy"}
)


@contextmanager
def _translate_s3_errors(key: str) -> Iterator[None]:
    """Errors of the client, in our own words."""
    try:
        yield
    except S3Error as error:
        raise _to_qcrd_error(error, key) from error
    except (ServerError, urllib3.exceptions.HTTPError, OSError) as error:
        raise Transient(f"the object store does not answer: {error}") from error
    except MinioException as error:
        raise QcrdError(f"the object store cannot be understood at {key}: {error}") from error


def _to_qcrd_error(error: S3Error, key: str) -> QcrdError:
    status = error.response.status
    if error.code in NOT_FOUND_CODES:
        return NotFound(f"there is no object {key}")
    if error.code in STORAGE_FULL_CODES or status == 507:
        return Transient(f"the object store is full: {error.message}", code="store_full")
    if error.code in TRANSIENT_CODES or status >= 500:
        return Transient(f"the object store cannot answer now: {error.code}: {error.message}")
    return QcrdError(f"the object store refuses {key}: {error.code}: {error.message}")


def _make_client(settings: StoreSettings, endpoint: str) -> Minio:
    retries = urllib3.Retry(
        total=3,
        backoff_factor=0.2,
        status_forcelist=(500, 502, 503, 504),
        allowed_methods=None,
        # The last answer's body says why; urllib3 would only count the tries.
        raise_on_status=False,
    )
    pool = urllib3.PoolManager(
        maxsize=16, timeout=urllib3.Timeout(connect=3.0, read=60.0), retries=retries
    )
    return Minio(
        endpoint,
        access_key=settings.access_key or None,
        secret_key=settings.secret_key.get_secret_value() or None,
        secure=settings.secure,
        region=REGION,
        http_client=pool,
    )


class S3Store:
    """Connects on first use, and makes the bucket then if it is missing."""

    def __init__(self, settings: StoreSettings) -> None:
        self._bucket = settings.bucket
        self._client = _make_client(settings, settings.endpoint)
        public = settings.public_endpoint
        self._public_client = _make_client(settings, public) if public else self._client
        self._bucket_ready = False

    def _ensure_bucket(self) -> Minio:
        """Several may ask at once, and make it: while the store is away none waits for another."""
        if not self._bucket_ready:
            if not self._client.bucket_exists(self._bucket):
                self._make_bucket()
            self._bucket_ready = True
        return self._client

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            # Another service of the system, started at the same moment, was first.
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        if isinstance(data, bytes):
            length, data = len(data), io.BytesIO(data)
        # One part after the other where the body may break off: the client's threads would outlive
        # it, and send parts of an upload that is aborted already.
        part_size, parallel_uploads = (PART_BYTES, 3) if length >= 0 else (STREAM_PART_BYTES, 1)
        with _translate_s3_errors(key):
            self._ensure_bucket().put_object(
                self._bucket,
                key,
                data,
                length,
                part_size=part_size,
                num_parallel_uploads=parallel_uploads,
            )

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        with _translate_s3_errors(key):
            response = self._ensure_bucket().get_object(self._bucket, key)
            # By itself it closes at its end, and a reader's next read would be an error, not empty.
            cast(urllib3.HTTPResponse, response).auto_close = False
            try:
                yield cast(BinaryIO, io.BufferedReader(response))
            finally:
                response.close()
                response.release_conn()

    def list(self, prefix: str) -> list[str]:
        with _translate_s3_errors(prefix):
            entries = self._ensure_bucket().list_objects(
                self._bucket, prefix=prefix, recursive=True
            )
            return sorted(entry.object_name for entry in entries if entry.object_name)

    def delete(self, key: str) -> None:
        with _translate_s3_errors(key):
            self._ensure_bucket().remove_object(self._bucket, key)

    def presign_url(self, key: str, *, seconds: int) -> str:
        with _translate_s3_errors(key):
            expires = timedelta(seconds=seconds)
            return self._public_client.presigned_get_object(self._bucket, key, expires=expires)
