"""QCRD: quality-guided contrastive rationale distillation (Wang et al., EMNLP 2025)."""

__version__ = "0.1.0"
