"""``sealtune rank WORDS``, in a process that tells when it loads weights."""

import sys

from transformers import AutoModelForCausalLM

from sealtune.cli.main import main
from sealtune.core import distributed

load = AutoModelForCausalLM.from_pretrained


def told(*args, **kwargs):
    print(f"process {distributed.process_index()} loaded a model", flush=True)
    return load(*args, **kwargs)


if __name__ == "__main__":
    AutoModelForCausalLM.from_pretrained = told
    sys.argv = ["sealtune", "rank", *sys.argv[1:]]
    main()
