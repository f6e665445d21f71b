"""Files of sharded tensors: safetensors that say which part of each tensor they hold.

Written and read by torch's distributed checkpoints, so that what some ranks wrote any number of
ranks can read. Their own metadata, a pickle, is not written.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save


def write_shards(
    tensors: Mapping[str, Tensor], folder: Path, group: ProcessGroup | None
) -> list[Path]:
    """Write this rank's shards of `tensors` into an empty `folder`, and what is whole on some rank;
    all ranks of `group` write at once, each into a folder of its own. The files; there may be
    none."""
    with _quiet():
        save(
            dict(tensors),
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            process_group=group,
            no_dist=group is None,
        )
    return sorted(folder.glob("*.safetensors"))


def read_layout(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Size and type of each tensor that the files of `folder` hold together."""
    metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
    return {
        name: (found.size, found.properties.dtype)
        for name, found in metadata.state_dict_metadata.items()
        if isinstance(found, TensorStorageMetadata)
    }


def read_shards(tensors: Mapping[str, Tensor], folder: Path, group: ProcessGroup | None) -> None:
    """Fill `tensors`, which may be shards, from the files of `folder`, which has those of all ranks
    that wrote; all ranks of `group` read at once."""
    with _quiet():
        load(
            dict(tensors),
            storage_reader=HuggingFaceStorageReader(str(folder)),
            process_group=group,
            no_dist=group is None,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning that a single process saves and loads by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed.checkpoint")
        yield
