"""What a plan learns of the code: counted where it is little, else estimated."""

import pytest

from repotune.errors import CorpusError
from repotune.survey import code as survey


def test_a_small_tree_is_counted_and_a_large_one_estimated(source_tree, tmp_path, monkeypatch):
    def code(tree):
        return survey.code_in(tree, "starter", keep_vendored=False, seed=1)

    counted = code(source_tree)
    assert "were counted" in counted.note
    assert counted.tokens.high == counted.tokens.expected
    monkeypatch.setattr(survey, "SAMPLE", 25)
    for copy in range(4):
        for path in source_tree.rglob("*.py"):
            target = tmp_path / f"copy{copy}" / path.relative_to(source_tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes() + f"# {copy}\n".encode())
    estimated = code(tmp_path)
    assert "estimated from a sample of 25" in estimated.note
    assert estimated.tokens.low < 4 * counted.tokens.expected < 1.1 * estimated.tokens.high
    assert estimated.tokens.expected == pytest.approx(4 * counted.tokens.expected, rel=0.15)
    assert estimated.files == pytest.approx(4 * counted.files, rel=0.15)


def test_without_the_tokenizer_the_range_is_wider(source_tree):
    def spread(model):
        tokens = survey.code_in(source_tree, model, keep_vendored=False, seed=1).tokens
        return tokens.high / tokens.low

    assert spread("codellama/CodeLlama-7b-hf") > 1.15 > spread("starter")


def test_the_sample_is_the_same_for_the_same_seed(source_tree, monkeypatch):
    monkeypatch.setattr(survey, "SAMPLE", 10)
    first, again, other = (
        survey.code_in(source_tree, "starter", keep_vendored=False, seed=seed).tokens
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_nothing_to_learn_from(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(CorpusError, match="holds no code"):
        survey.code_in(tmp_path, "starter", keep_vendored=False, seed=1)
