"""Files of weights and where they are found."""

import pytest

from checkpoints import files
from tests.helpers import AUGREG_INDEX
from vit_jax import weights as weight_files


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "a.h5").touch()
    with pytest.raises(ValueError, match=r"a\.h5 is empty"):
        weight_files.read(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"there is no file .*no.npz"):
        weight_files.read(tmp_path / "no.npz")
    (tmp_path / "empty").mkdir()  # nothing beside it is a run that could be suggested
    for path in (tmp_path / "empty", "no/such"):
        with pytest.raises(ValueError, match=r"holds no run, and is no file\. .*hf://OWNER"):
            weight_files.read(path)


def test_the_best_of_augreg_is_found(tmp_path):
    (tmp_path / "index.csv").write_text(AUGREG_INDEX)
    assert weight_files.find("R_Ti_16", f"{tmp_path}/") == f"{tmp_path}/R_Ti_16-i21k-best.npz"
    assert (
        weight_files.find("B_16-i21k-lr_0.1", str(tmp_path)) == f"{tmp_path}/B_16-i21k-lr_0.1.npz"
    )
    for path in ("a/b", "b.npz", "gs://a/b-c", "hf://timm/x", str(tmp_path)):
        assert weight_files.find(path, "elsewhere") == path
    with pytest.raises(ValueError, match=r"index.csv knows no 'S_16' that was pretrained on i21k"):
        weight_files.find("S_16", str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.csv").write_text("name,filename\na,b\n")
    with pytest.raises(ValueError, match=r"other/index.csv lacks the column\(s\) ds, final_val"):
        weight_files.find("S_16", str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"there is no file .*index.csv"):
        weight_files.find("S_16", str(tmp_path / "no"))
    with pytest.raises(ValueError, match=r"say --config\.pretrained=PATH"):
        weight_files.find("S_16", "")


def test_buckets_that_cannot_be_reached(monkeypatch):
    import tensorflow as tf
    from etils import epath

    def fail(self):
        raise tf.errors.FailedPreconditionError(None, None, "no network\nmore")

    monkeypatch.setattr(epath.gpath._GPath, "exists", fail)
    with pytest.raises(ValueError, match=r"gs://vit_models/a.npz: no network\. Weights can come"):
        files.fetch("gs://vit_models/a.npz")
