"""The README's example runs as it stands, but for the minutes it may take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    shorter = example.replace("max_minutes=1", "max_minutes=0.1, crop_size=32, crops_per_epoch=32")
    assert shorter != example
    exec(compile(shorter, "README.md", "exec"), {})
    assert "mean" in capsys.readouterr().out
    assert (tmp_path / "fibres.safetensors").is_file()


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
