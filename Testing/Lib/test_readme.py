"""The README's example runs as it stands, but for the minutes it may take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    shorter = example.replace("max_minutes=1", "max_minutes=0.1, crop_size=32, crops_per_epoch=32")
    assert shorter != example
    exec(compile(shorter, "README.md", "exec"), {})
    assert "mean" in capsys.readouterr().out
    assert (tmp_path / "fibres.safetensors").is_file()


def test_every_link_to_a_file_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    files = [link for link in links if "://" not in link]
    assert files
    assert [file for file in files if not (Path(__file__).parents[2] / file).exists()] == []
