"""Weights from files: every layout in use loads, and whatever does not fit says so in one line."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from collections import OrderedDict
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgedeploy.core.errors import ArtifactError, EdgeDeployError, UnknownNameError, UsageError
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.checkpoint import (
    WEIGHTS,
    bundled_weights,
    convert_state_dict,
    load_checkpoint,
    load_for_training,
    load_trunk,
    load_weights,
)

State = dict[str, Tensor]


def random_state(name: str, **options: Any) -> State:
    """A state that no fresh network has by chance."""
    torch.manual_seed(7)
    state = create_model(name, **options).state_dict()
    return {k: torch.rand_like(v) + 0.5 if v.is_floating_point() else v + 3 for k, v in state.items()}


def assert_loaded(state: State, model: torch.nn.Module) -> None:
    have = model.state_dict()
    assert have.keys() == state.keys()
    assert all(torch.equal(have[k], v) for k, v in state.items())
    assert not model.training


def lornatang(state: State) -> State:
    names = {"first_part.": "feature_maps.", "last_part.": "sub_pixel."}
    return {
        next(b + k.removeprefix(a) for a, b in names.items() if k.startswith(a)): v for k, v in state.items()
    }


LAYOUTS = {
    "plain": lambda s: s,
    "ordered": OrderedDict,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "data parallel": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "wrapper": lambda s: {f"model.{k}": v for k, v in s.items()},
    "wrapper in data parallel": lambda s: {f"module.model.{k}": v for k, v in s.items()},
    "data parallel in wrapper": lambda s: {f"model.module.{k}": v for k, v in s.items()},
    "other names": lornatang,
    "other names, wrapped": lambda s: {"state_dict": {f"module.{k}": v for k, v in lornatang(s).items()}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_layouts_of_a_checkpoint(tmp_path: Path, layout: str, suffix: str) -> None:
    state = random_state("espcn_x3")
    content = LAYOUTS[layout](state)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(content, path)
    else:
        save_file(content.get("state_dict", content), path)
    loaded = load_checkpoint("espcn_x3", path)
    assert_loaded(state, loaded.model)
    assert loaded.unused == ()
    assert len(loaded.sha256) == 64


def test_zip_and_legacy_format_of_pytorch(tmp_path: Path) -> None:
    state = random_state("espcn_x2")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_loaded(state, load_weights("espcn_x2", tmp_path / "old.pth"))


def test_training_only_keys_are_named_not_dropped_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = random_state("ddrnet_23_slim", augment=True)
    extra = [k for k in state if k.startswith("seghead_extra.")]
    loss = {"loss.criterion.weight": torch.ones(19)}
    torch.save({f"model.{k}": v for k, v in state.items()} | loss, tmp_path / "aug.pth")

    loaded = load_checkpoint("ddrnet_23_slim", tmp_path / "aug.pth")
    assert sorted(loaded.unused) == sorted([*extra, *loss])
    assert_loaded({k: v for k, v in state.items() if k not in extra}, loaded.model)

    with caplog.at_level(logging.WARNING):
        load_weights("ddrnet_23_slim", tmp_path / "aug.pth")
    assert "seghead_extra" in caplog.text

    both = load_checkpoint("ddrnet_23_slim", tmp_path / "aug.pth", augment=True)
    assert both.unused == tuple(loss)
    assert_loaded(state, both.model)


def test_a_classifier_gives_segmentation_its_trunk(tmp_path: Path) -> None:
    state = random_state("ddrnet_23_slim_cls")
    path = tmp_path / "imagenet.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    torch.manual_seed(1)
    loaded = load_trunk("ddrnet_23_slim", path, classes=11, augment=True)
    assert not loaded.model.training
    have = loaded.model.state_dict()
    shared = have.keys() & state.keys()
    assert all(torch.equal(have[key], state[key]) for key in shared)
    assert {key.split(".")[0] for key in have.keys() - shared} == {"spp", "final_layer", "seghead_extra"}
    assert set(loaded.fresh) == have.keys() - shared
    assert set(loaded.unused) == state.keys() - shared
    assert {key.split(".")[0] for key in loaded.unused} == {"down5", "last_layer", "linear"}
    torch.manual_seed(1)
    built = create_model("ddrnet_23_slim", classes=11, augment=True).state_dict()
    assert all(torch.equal(have[key], built[key]) for key in loaded.fresh)


def test_scale_fusion_begins_on_a_trunk_without_it(tmp_path: Path) -> None:
    state = random_state("dbnet_mobilenetv3_large")  # of the form for inference: no threshold head
    torch.save(state, tmp_path / "plain.pth")
    loaded = load_trunk("dbnetpp_mobilenetv3_large", tmp_path / "plain.pth", augment=True)
    have = loaded.model.state_dict()
    assert all(torch.equal(have[key], state[key]) for key in state)
    assert set(loaded.fresh) == have.keys() - state.keys()
    began = {".".join(key.split(".")[:2]) for key in loaded.fresh}
    assert began == {"decoder.concat_attention", "decoder.thresh", "backbone.classifier"}
    assert loaded.unused == ()


def test_training_goes_on_from_weights_for_inference(tmp_path: Path) -> None:
    state = random_state("ddrnet_23_slim")
    torch.save(state, tmp_path / "deploy.pth")
    torch.manual_seed(1)
    loaded = load_for_training("ddrnet_23_slim", tmp_path / "deploy.pth", augment=True)
    have = loaded.model.state_dict()
    assert all(torch.equal(have[key], state[key]) for key in state)
    assert {key.split(".")[0] for key in loaded.fresh} == {"seghead_extra"}
    torch.manual_seed(1)
    built = create_model("ddrnet_23_slim", augment=True).state_dict()
    assert all(torch.equal(have[key], built[key]) for key in loaded.fresh)
    with pytest.raises(
        UsageError, match=r"has no seghead_extra"
    ):  # whoever loads it to use it wants all of it
        load_checkpoint("ddrnet_23_slim", tmp_path / "deploy.pth", augment=True)


def test_a_damaged_head_of_training_does_not_begin_anew(tmp_path: Path) -> None:
    state = random_state("ddrnet_23_slim", augment=True)
    del state["seghead_extra.conv2.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(UsageError, match=r"has no seghead_extra\.conv2\.weight"):
        load_for_training("ddrnet_23_slim", tmp_path / "cut.pth", augment=True)


def test_only_a_whole_trunk_of_the_same_variant_is_taken(tmp_path: Path) -> None:
    state = random_state("ddrnet_23_slim_cls")
    path = tmp_path / "imagenet.pth"
    torch.save({k: v for k, v in state.items() if k != "layer3_.0.conv1.weight"}, path)
    with pytest.raises(UsageError, match=r"has no layer3_\.0\.conv1\.weight of ddrnet_23_slim"):
        load_trunk("ddrnet_23_slim", path)
    torch.save(state, path)
    with pytest.raises(UsageError, match="does not fit ddrnet_23:"):
        load_trunk("ddrnet_23", path)
    with pytest.raises(UsageError, match="has no spp"):
        load_checkpoint("ddrnet_23_slim", path)
    with pytest.raises(UsageError, match="no trunk that is pretrained apart") as caught:
        load_trunk("espcn_x3", path)
    assert "ddrnet_23_slim" in caught.value.hint


def test_checkpoints_older_than_batch_counting_load(tmp_path: Path) -> None:
    state = random_state("ddrnet_23_slim")
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "old.pth")
    have = load_weights("ddrnet_23_slim", tmp_path / "old.pth").state_dict()
    assert all(torch.equal(have[k], v) for k, v in state.items() if "num_batches" not in k)


def test_half_precision_weights_widen_exactly(tmp_path: Path) -> None:
    state = {k: v.half() for k, v in random_state("espcn_x2").items()}
    save_file(state, tmp_path / "half.safetensors")
    assert_loaded(
        {k: v.float() for k, v in state.items()}, load_weights("espcn_x2", tmp_path / "half.safetensors")
    )


def changed(state: State, **changes: Any) -> State:
    """A copy with entries replaced, or removed where the change is None."""
    merged = {**state, **{k.replace("__", "."): v for k, v in changes.items()}}
    return {k: v for k, v in merged.items() if v is not None}


UNFIT = {
    "missing": ({"last_part__0__bias": None}, "has no last_part.0.bias of espcn_x3"),
    "shape": ({"last_part__0__bias": torch.zeros(4)}, r"last_part.0.bias is \(4,\), not \(9,\)"),
    "more": ({"last_part__9__bias": torch.zeros(4)}, "espcn_x3 lacks: last_part.9.bias"),
    "type": ({"last_part__0__bias": torch.zeros(9, dtype=torch.int8)}, "last_part.0.bias is torch.int8"),
    "nan": ({"last_part__0__bias": torch.full((9,), torch.nan)}, "last_part.0.bias holds NaN"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, fault: str) -> None:
    changes, message = UNFIT[fault]
    torch.save(changed(random_state("espcn_x3"), **changes), tmp_path / "bad.pth")
    with pytest.raises(UsageError, match=message) as caught:
        load_weights("espcn_x3", tmp_path / "bad.pth")
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(random_state("espcn_x4"), tmp_path / "x4.pth")
    with pytest.raises(UsageError, match="does not fit espcn_x3") as caught:
        load_weights("espcn_x3", tmp_path / "x4.pth")
    assert "another model" in caught.value.hint


class Bomb:
    """What a hostile pickle does: runs a command while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def broken_files(folder: Path) -> dict[str, Path]:
    state = random_state("espcn_x3")
    paths = {name: folder / name for name in (
        "hostile.pth", "hostile_in_zip.pth", "cut.pth", "cut.safetensors", "empty.pth", "empty.safetensors",
        "text.pth", "list.pth", "numbers.pth", "compressed.pth", "folder.pth", "absent.pth", "model.onnx",
        "object.pth",
    )}  # fmt: skip
    paths["hostile.pth"].write_bytes(pickle.dumps({"state_dict": Bomb(folder / "exploded")}))
    torch.save({**state, "x": Bomb(folder / "exploded")}, paths["hostile_in_zip.pth"])
    torch.save(state, paths["cut.pth"])
    paths["cut.pth"].write_bytes(paths["cut.pth"].read_bytes()[:5000])
    save_file(state, paths["cut.safetensors"])
    paths["cut.safetensors"].write_bytes(paths["cut.safetensors"].read_bytes()[:5000])
    for name in ("empty.pth", "empty.safetensors", "model.onnx"):
        paths[name].write_bytes(b"")
    paths["text.pth"].write_text("not weights at all, but long enough to look at")
    torch.save(list(state.values()), paths["list.pth"])
    torch.save({"a": 1}, paths["numbers.pth"])
    torch.save(torch.nn.Conv2d(1, 1, 1), paths["object.pth"])
    torch.save(state, folder / "whole.pth")
    with (
        zipfile.ZipFile(folder / "whole.pth") as whole,
        zipfile.ZipFile(paths["compressed.pth"], "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    paths["folder.pth"].mkdir()
    return paths


def test_files_that_are_no_weights_give_one_line_and_a_hint(tmp_path: Path) -> None:
    for name, path in broken_files(tmp_path).items():
        with pytest.raises(ArtifactError) as caught:
            load_weights("espcn_x3", path)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value), name
        assert caught.value.hint, name
        assert len(str(caught.value)) < 300 + len(str(path)), name
    assert not (tmp_path / "exploded").exists()


def test_hostile_pickle_is_called_what_it_is(tmp_path: Path) -> None:
    path = broken_files(tmp_path)["hostile_in_zip.pth"]
    with pytest.raises(ArtifactError, match="more than tensors"):
        load_weights("espcn_x3", path)


def test_unknown_bundled_name_lists_the_known() -> None:
    with pytest.raises(UnknownNameError, match="unknown weights of espcn_x3 't91'"):
        load_weights("espcn_x3", "t91")


def test_a_model_without_bundled_weights_asks_for_a_file() -> None:
    assert bundled_weights("ddrnet_39") == []
    with pytest.raises(UsageError, match="no weights of ddrnet_39") as caught:
        load_weights("ddrnet_39")
    assert caught.value.hint


def test_bundled_weights_of_other_classes_bring_their_own() -> None:
    """DDRNet's are of another number of classes than its builder's."""
    assert len(load_checkpoint("ddrnet_23_slim").info.labels) == 11


@pytest.mark.parametrize("name", MODELS.names())
def test_bundled_weights_load_and_have_a_card(name: str) -> None:
    info = MODELS.get(name)
    names = bundled_weights(info)
    if info.default_weights:
        assert names[0] == info.default_weights
    for weights in names:
        loaded = load_checkpoint(info, weights)
        assert loaded.unused == ()
        card = loaded.source.with_suffix(".md").read_text(encoding="utf-8")
        assert loaded.sha256 in card
        assert all(word in card for word in ("## Data", "## Recipe", "## Metrics", "icen"))


def test_bundled_weights_stay_small() -> None:
    files = list(Path(str(resources.files(WEIGHTS))).glob("*.safetensors"))
    assert files
    assert sum(file.stat().st_size for file in files) <= 40_000_000
    models = {name: bundled_weights(name) for name in MODELS.names()}
    assert {f"{model}-{weights}" for model, names in models.items() for weights in names} == {
        file.stem for file in files
    }


def test_weights_of_half_the_bytes_are_widened(tmp_path: Path) -> None:
    state = random_state("espcn_x2")
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "half.safetensors")
    for key, value in load_weights("espcn_x2", tmp_path / "half.safetensors").state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].half().float())


def test_conversion_touches_only_other_peoples_names() -> None:
    state = random_state("espcn_x2")
    assert convert_state_dict("espcn_x2", state).keys() == state.keys()
    assert convert_state_dict(MODELS.get("espcn_x2"), lornatang(state)).keys() == state.keys()


def test_errors_are_of_the_family_that_the_command_line_catches(tmp_path: Path) -> None:
    with pytest.raises(EdgeDeployError):
        load_weights("espcn_x3", tmp_path)
