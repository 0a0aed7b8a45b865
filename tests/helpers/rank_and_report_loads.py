"""``sealtune rank ARGUMENTS``, in a process that prints when it loads weights."""

import sys

from transformers import AutoModelForCausalLM

from sealtune.cli.main import main
from sealtune.core import distributed

from_pretrained = AutoModelForCausalLM.from_pretrained


def report(*args, **kwargs):
    if kwargs.get("device_map") != "meta":  # only names and shapes are read
        print(f"process {distributed.process_index()} loaded a model", flush=True)
    return from_pretrained(*args, **kwargs)


if __name__ == "__main__":
    AutoModelForCausalLM.from_pretrained = report
    sys.argv = ["sealtune", "rank", *sys.argv[1:]]
    main()
