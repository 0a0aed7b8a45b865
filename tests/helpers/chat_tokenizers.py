"""Small fast tokenizers made in memory, with chat templates like those of well-known model families."""

import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "You are a helpful assistant. Please answer the question of the user.",
    "A list of three colours: red, green and blue.\n\nThe sum of 2 and 2 is 4.",
    "system user assistant model end start of turn header",
]

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '<|header_end|>\n\n' + message['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|header_end|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
THINKING = CHATML.replace("message['content'] +", "message['content'].split('</think>')[-1].lstrip('\n') +")
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def _train(specials: tuple[str, ...], trim_offsets: bool = False) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=alphabet, special_tokens=list(specials)
    )
    backend.train_from_iterator(LINES * 4, trainer)
    return backend


@cache
def chatml_tokenizer(trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    """ChatML with a default system prompt, as in SmolLM2 and Qwen."""
    backend = _train(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), trim_offsets)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHATML, **names)


@cache
def llama3_tokenizer() -> PreTrainedTokenizerFast:
    """A template that trims every content."""
    backend = _train(("<|bos|>", "<|start|>", "<|header_end|>", "<|eot|>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=LLAMA3, bos_token="<|bos|>", eos_token="<|eot|>"
    )


@cache
def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """No system role, turns that must alternate, and turn markers that are added but not special tokens."""
    backend = _train(("<bos>", "<eos>"))
    backend.add_tokens([AddedToken(name, normalized=False) for name in ("<start_of_turn>", "<end_of_turn>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=GEMMA, bos_token="<bos>", eos_token="<eos>")


@cache
def thinking_tokenizer() -> PreTrainedTokenizerFast:
    """ChatML that removes the reasoning from assistant turns, as in Qwen3."""
    backend = _train(("<|im_start|>", "<|im_end|>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=THINKING, eos_token="<|im_end|>")


@cache
def phi_tokenizer() -> PreTrainedTokenizerFast:
    """Special tokens that strip the whitespace after them, as in Phi-3."""
    backend = _train(("<|im_start|>", "<|im_end|>"))
    backend.add_special_tokens([AddedToken("<|end|>", rstrip=True), AddedToken("<|user|>", rstrip=True)])
    backend.add_special_tokens([AddedToken("<|assistant|>", rstrip=True)])
    template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, eos_token="<|end|>")


@cache
def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """As in SentencePiece, tokens start with a space marker; the template writes a space before each response."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    backend.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, special_tokens=["<unk>", "<s>", "</s>", *bytes_])
    backend.train_from_iterator([line + " [INST] [/INST]" for line in LINES] * 4, trainer)
    backend = _keep_special(backend, {"<unk>", "<s>", "</s>"})
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=MISTRAL, bos_token="<s>", eos_token="</s>")


def _keep_special(backend: Tokenizer, names: set[str]) -> Tokenizer:
    """Byte tokens belong to the vocabulary but are not added tokens."""
    spec = json.loads(backend.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in names]
    return Tokenizer.from_str(json.dumps(spec))


def bare_tokenizer() -> PreTrainedTokenizerFast:
    """A base model's tokenizer, without a chat template; not cached, since tests set one."""
    backend = _train(("<s>", "</s>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def byte_tokenizer(template: str | None, specials: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes and special tokens, among them its own bos, eos and pad."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    names = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
    backend.add_special_tokens([*names.values(), *(name for name in specials if name not in names.values())])
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **names)
