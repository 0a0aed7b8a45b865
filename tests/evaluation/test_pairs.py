import pytest
import torch

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.rows import write_jsonl
from helpers.tiny import tiny_model
from sealtune.core.config import PairsConfig
from sealtune.core.errors import UserError
from sealtune.evaluation.pairs import Pair, encode_pairs, load_pairs, margins

ROWS = [{"prompt": "red?", "safe": "no", "unsafe": "yes, all of it"}, {"prompt": "a", "safe": "b", "unsafe": "b"}]


def test_margins_are_differences_of_log_probabilities():
    tokenizer = chatml_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer))
    pairs = encode_pairs([Pair(str(i), *row.values()) for i, row in enumerate(ROWS)], tokenizer, 100)
    found = margins(model, pairs, 1, lambda *call: None)
    sums, lengths = [], []
    for side in pairs:
        tokens, mask = side.row(0)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(tokens[None].tolist()), use_cache=False).logits[0]
        steps = logits.log_softmax(1)[:-1].gather(1, torch.tensor(tokens[1:].tolist())[:, None])[:, 0]
        sums.append(steps[torch.tensor(mask[1:])].sum().item())
        lengths.append(mask.sum())
    assert found.summed[0] == pytest.approx(sums[0] - sums[1], rel=1e-4)
    assert found.per_token[0] == pytest.approx(sums[0] / lengths[0] - sums[1] / lengths[1], rel=1e-4)
    assert found.summed[1] == pytest.approx(0, abs=1e-5)


def test_columns_may_have_other_names(tmp_path):
    file = tmp_path / "pairs.jsonl"
    write_jsonl(file, [{"id": "x", "q": "a", "chosen": "b", "rejected": "c"}] * 3)
    columns = {"prompt": "q", "safe": "chosen", "unsafe": "rejected"}
    found = load_pairs(PairsConfig(path=str(file), columns=columns, limit=2))
    assert found == [Pair("x", "a", "b", "c")] * 2
    with pytest.raises(UserError, match=r"line 1: no column 'prompt'; columns found: id, q, chosen, rejected; name it"):
        load_pairs(PairsConfig(path=str(file)))


@pytest.mark.parametrize("answer", ["", None, 3, " "])
def test_an_answer_without_text_is_an_error(tmp_path, answer):
    file = tmp_path / "pairs.jsonl"
    write_jsonl(file, [ROWS[0], ROWS[1] | {"unsafe": answer}])
    with pytest.raises(UserError, match=r"line 2: column 'unsafe' has no text"):
        load_pairs(PairsConfig(path=str(file)))


def test_a_pair_with_an_answer_that_is_too_long_is_left_out_as_a_whole(capsys):
    pairs = [Pair("short", "a", "b", "c"), Pair("long", "a", "b", "c " * 80)]
    found = encode_pairs(pairs, chatml_tokenizer(), 60)
    assert [list(side.ids) for side in found] == [["0"], ["0"]]
    assert "pairs: 1 of 2 left out; the first, long: unsafe answer: " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"evaluate.pairs: 1 of 1 left out"):
        encode_pairs(pairs[1:], chatml_tokenizer(), 60)
