"""``sealtune rank WORDS``, in a process that tells when it loads weights."""

import sys

from transformers import AutoModelForCausalLM

from sealtune import processes
from sealtune.cli import main

load = AutoModelForCausalLM.from_pretrained


def told(*args, **kwargs):
    print(f"process {processes.index()} loaded a model", flush=True)
    return load(*args, **kwargs)


if __name__ == "__main__":
    AutoModelForCausalLM.from_pretrained = told
    sys.argv = ["sealtune", "rank", *sys.argv[1:]]
    main()
