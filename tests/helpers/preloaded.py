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
from helpers.few_prompts import ship_few_prompts

__all__ = ["accelerate", "fsdp", "peft", "sealtune", "transformers", "trl"]

ship_few_prompts()
