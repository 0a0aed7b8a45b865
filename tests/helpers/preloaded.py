"""Everything that a process of sealtune imports, for ``forked``."""

import accelerate.utils
import peft
import transformers.models.llama
import trl
from torch.distributed import fsdp

import sealtune.cli.main
import sealtune.pipeline.runner
import sealtune.ranking.methods.probe
import sealtune.tuning.train

__all__ = ["accelerate", "fsdp", "peft", "sealtune", "transformers", "trl"]
