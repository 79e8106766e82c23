"""What can be seen without running the notebooks; make test-notebooks runs them."""

import csv
import json
import re
from pathlib import Path

import pytest

from vit_jax.models import AUGREG_NAMES, list_models

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# As in the authors' bucket.
INDEX_COLUMNS = (
    "name,ds,lr,aug,wd,do,sd,best_val,final_val,final_test,adapt_ds,adapt_lr,adapt_steps,"
    "adapt_resolution,adapt_final_val,adapt_final_test,params,infer_samples_per_sec,filename,"
    "adapt_filename"
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_where_a_notebook_is_found(path):
    cells = json.loads(path.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    [address] = re.findall(r'url="https://(.*?)"', (ROOT / "setup.py").read_text())
    repository = address.removeprefix("github.com/")
    badge = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{path.name}"
    assert sources[0].startswith("[![Open in Colab](")
    assert f"]({badge})" in sources[0]
    assert f"](notebooks/{path.name})" in (ROOT / "README.md").read_text()
    assert any(f"git+https://{address}" in source for source in sources)
    [parameters] = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert parameters["source"][0].startswith("FAST = False")


def test_the_sample_of_augregs_index():
    with (ROOT / "tests" / "golden" / "augreg_index.csv").open() as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert ",".join(reader.fieldnames) == INDEX_COLUMNS
    assert len(rows) == 9
    for row in rows:
        short = row["filename"].split("-")[0]
        assert re.sub("[+/]", "_", row["name"]) == short
        assert int(row["params"]) == list_models()[AUGREG_NAMES[short]]
        assert row["adapt_filename"].startswith(f"{row['filename']}--{row['adapt_ds']}-")
