import json

from custom_components.io import read_jsonl, write_json, write_jsonl


def test_half_of_a_surrogate_pair_is_kept(tmp_path):
    """A model's text may hold one; JSON can escape it, UTF-8 cannot hold it."""
    row = {"response": "x\ud83d y é"}
    write_jsonl(tmp_path / "a.jsonl", [row])
    write_json(tmp_path / "a.json", row)
    assert [r for _, r in read_jsonl(tmp_path / "a.jsonl")] == [row]
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == row and "é" in text
