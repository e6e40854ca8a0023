"""Check that docs/CONFIGURATION.md agrees with the code."""

from conftest import ROOT

from custom_components import reference


def test_the_configuration_reference_is_current(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert (ROOT / "docs" / "CONFIGURATION.md").read_text() == reference.reference(), (
        "run: python -m custom_components.reference > docs/CONFIGURATION.md"
    )


def test_every_key_and_argument_is_explained(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = [r for r in reference.reference().splitlines() if r.startswith("| `")]
    assert len(rows) > 200
    assert [row for row in rows if row.endswith("|  |")] == []
