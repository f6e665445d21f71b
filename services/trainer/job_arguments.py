"""The command line of a training process, which its launcher takes as well and passes on."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job")
    parser.add_argument("token", type=int, help="of the lease that it trains under")
    parser.add_argument("--outcome", type=Path, help="file for the outcome; by default in Redis")
    parser.add_argument("--progress", type=Path, help="file to touch at each step; likewise")
    parser.add_argument("--parent", type=int, help="process to die with")
