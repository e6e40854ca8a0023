import json

import pytest

from custom_components.config import UserError
from custom_components.io import Journal, read_jsonl, write_json, write_jsonl


def test_half_of_a_surrogate_pair_is_kept(tmp_path):
    """A model's text may hold one, which JSON can escape and UTF-8 cannot encode."""
    row = {"response": "x\ud83d y é"}
    write_jsonl(tmp_path / "a.jsonl", [row])
    write_json(tmp_path / "a.json", row)
    assert [r for _, r in read_jsonl(tmp_path / "a.jsonl")] == [row]
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == row and "é" in text


def test_a_journal_keeps_what_came_before_a_kill(tmp_path):
    path = tmp_path / "folder" / "journal.jsonl"
    assert list(Journal(path).read()) == [] and not path.exists()
    entries = [{"i": i, "text": "é\n"} for i in range(3)]
    journal = Journal(path)
    for entry in entries[:2]:
        journal.append(entry)
    assert list(journal.read()) == entries[:2]
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = list(Journal(path).read())
        assert kept == entries[: len(kept)]
        journal = Journal(path)
        journal.append(entries[2])
        journal.append(entries[0])
        journal.close()
        assert list(journal.read()) == [*kept, entries[2], entries[0]]


def test_a_journal_skips_lines_that_are_not_objects(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'null\n3\n{"a": 1}\n\xff{}\n\n[1]\n{"b": \n{"c": 2}')
    assert list(Journal(path).read()) == [{"a": 1}, {"c": 2}]


@pytest.mark.parametrize("write", [write_json, write_jsonl])
def test_a_file_never_replaces_a_folder(tmp_path, write):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("x")
    with pytest.raises(UserError, match="is a folder; name the file to write"):
        write(tmp_path / "folder", [])
    assert (tmp_path / "folder" / "kept").read_text() == "x"
