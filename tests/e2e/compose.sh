#!/usr/bin/env bash
# The containers, from nothing to a distilled student and down again: `make test-compose`.
# Where no image registry is reached: STANDINS=1 builds Redis and SeaweedFS under the same tags,
# and TORCH_INDEX= (empty) takes torch from the package index at hand.
set -euo pipefail
cd "$(dirname "$0")/../.."

unset QCRD_API_KEY QCRD_S3_ACCESS_KEY QCRD_S3_SECRET_KEY QCRD_REDIS_PASSWORD
export QCRD_API_PUBLISHED_PORT=${QCRD_API_PUBLISHED_PORT:-18000} QCRD_S3_PUBLISHED_PORT=${QCRD_S3_PUBLISHED_PORT:-19000}
files=(-f compose.yaml)
[ "${S3:-seaweedfs}" = seaweedfs ] && files+=(-f compose.seaweedfs.yaml)
compose() { docker compose -p qcrd-test "${files[@]}" "$@"; }

if [ "${STANDINS:-0}" = 1 ]; then
  docker build -q -t redis:8.2-bookworm --target redis tests/e2e/standins
  docker build -q -t chrislusf/seaweedfs:4.48 --target seaweedfs tests/e2e/standins
fi

down() { compose logs --no-color --tail 200 >"${LOGS:-/dev/null}" 2>&1 || true; compose down -v --timeout 20; }
trap down EXIT
compose build
size() { docker image inspect --format '{{.Size}}' "$1"; }
# The official base is about 130 MB, so that the gateway's image stays below 350 MB.
own=$(($(size qcrd-api) - $(size python:3.11-slim-bookworm)))
echo "compose: the gateway's own layers are $((own / 1000000)) MB"
[ "$own" -lt 215000000 ]
[ "$(docker run --rm qcrd-api python -c 'import importlib.util as u; print(u.find_spec("torch"))')" = None ]
compose up -d --wait --wait-timeout 300
compose ps
QCRD_API_KEY=$(compose exec -T api cat /secrets/api/QCRD_API_KEYS)
export QCRD_API_KEY
report=$(mktemp)
"${QCRD:-qcrd}" run "${SPEC:-tests/e2e/small.yaml}" --api "http://127.0.0.1:$QCRD_API_PUBLISHED_PORT" --report "$report"
python3 - "$report" <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
assert report["status"] == "succeeded", report["status"]
assert report["usage"]["teacher_completion_tokens"] > 0
print("compose: a student was distilled:", report["model"]["id"])
PY
