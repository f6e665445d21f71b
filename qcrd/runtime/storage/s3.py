"""The object store over S3, in the subset that MinIO, SeaweedFS and AWS share."""

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
from qcrd.runtime.storage.unreadable import UnreadableObjects

PART_BYTES = 16 * 2**20
"""Part size of a large object of known length; three parts are uploaded at once."""
STREAM_PART_BYTES = 5 * 2**20
"""Part size of a stream of unknown length, the smallest that S3 allows: the client holds up to four
copies of a part, and S3's limit of 10,000 parts makes 52 GB."""
REGION = "us-east-1"
"""The region name of stores without regions; naming it saves a request per presigned URL."""

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
    """Translate the client's errors into those of `qcrd.errors`."""
    try:
        yield
    except S3Error as error:
        raise _to_qcrd_error(error, key) from error
    except (ServerError, urllib3.exceptions.HTTPError, OSError) as error:
        raise Transient(f"the object store does not respond: {error}") from error
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
        # The last response's body has the reason; urllib3 would only report the retry count.
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
    """Connects on first use, and creates the bucket if it is missing."""

    def __init__(self, settings: StoreSettings) -> None:
        self.unreadable = UnreadableObjects()
        self._bucket = settings.bucket
        self._client = _make_client(settings, settings.endpoint)
        public = settings.public_endpoint
        self._public_client = _make_client(settings, public) if public else self._client
        self._bucket_ready = False

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
        # A stream may break off: upload its parts one by one, as the client's threads would go on
        # sending parts of an upload that was aborted.
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
            # With auto_close, a read after the end would raise instead of returning nothing.
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
