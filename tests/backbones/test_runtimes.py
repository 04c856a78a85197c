"""Image encoders on OpenVINO: the same features as on PyTorch, from a cache that is checked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from common import MINI
from safetensors.torch import load_file, save_file

import prmagic
from prmagic.backbones import runtimes
from prmagic.backbones.adapters import load_promptable
from prmagic.backbones.checkpoints import CheckpointError
from prmagic.backbones.dino import Dino
from prmagic.backbones.runtimes import ENTRY, WEIGHTS, fastest_dtype, place

pytestmark = pytest.mark.filterwarnings("ignore:.* converted for OpenVINO, once")
SAMS = ["sam", *tiny.PUBLISHED]
CONVERTED = "is converted for OpenVINO, once"


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path_factory):
    """The cache, of all tests in this file."""
    folder = tmp_path_factory.getbasetemp() / "converted"
    monkeypatch.setenv("PRMAGIC_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {"sam": MINI, **{kind: tiny.save(kind, folder / kind) for kind in tiny.PUBLISHED}}


def on_openvino(model, dtype=torch.float32):
    pytest.importorskip("openvino")
    place([model], "openvino", [dtype])
    return model


def outputs(model, photo):
    (found,) = model.encode([photo])
    return (found.before_norm, found.after_norm) if isinstance(model, Dino) else (found.features, *found.details)


def load(**options):
    return prmagic.load("persam", sam=options.pop("sam", MINI), steps=1, **options)


class TestSameFeatures:
    @pytest.mark.parametrize("kind", SAMS)
    def test_every_promptable_model_gives_all_that_its_decoder_reads(self, kind, checkpoints):
        plain, fast = load_promptable(checkpoints[kind]), on_openvino(load_promptable(checkpoints[kind]))
        expected, found = outputs(plain, tiny.photo()), outputs(fast, tiny.photo())
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())

    @pytest.mark.parametrize("size", [None, (64, 96)])
    def test_tokens_before_and_after_the_norm(self, encoder_folder, size):
        plain = Dino.load(encoder_folder, input_size=size)
        fast = on_openvino(Dino.load(encoder_folder, input_size=size))
        for ours, theirs in zip(outputs(fast, tiny.photo()), outputs(plain, tiny.photo()), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())

    def test_the_same_bytes_every_time(self):
        first, second = (on_openvino(load_promptable(MINI)) for _ in range(2))
        (once,), (again,), (elsewhere,) = (outputs(model, tiny.photo()) for model in (first, first, second))
        assert torch.equal(once, again) and torch.equal(once, elsewhere)

    def test_bfloat16_where_the_cpu_has_it(self):
        pytest.importorskip("openvino")
        if "BF16" not in runtimes._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("needs a CPU with bfloat16")
        model = load_promptable(MINI)
        (exact,), (rounded,) = (
            outputs(each, tiny.photo()) for each in (load_promptable(MINI), on_openvino(model, torch.bfloat16))
        )
        assert not torch.equal(exact, rounded)
        assert torch.nn.functional.cosine_similarity(exact.flatten(), rounded.flatten(), 0) > 0.999
        assert model.dtype == torch.bfloat16 and rounded.dtype == torch.float32

    def test_it_has_as_many_threads_as_torch(self):
        pytest.importorskip("openvino")
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            compiled = on_openvino(load_promptable(MINI)).run.compiled
        finally:
            torch.set_num_threads(before)
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1

    def test_decoder_and_gradient_stay_on_torch_and_the_encoder_is_freed(self, mini):
        pytest.importorskip("openvino")
        support = prmagic.Support(mini["support_rgb"], mini["support_mask"])
        results = []
        for runtime in ("torch", "openvino"):
            segmenter = load(runtime=runtime, flow="full")
            results.append(segmenter.segment(mini["query_rgb"], segmenter.encode_support(support)))
        assert results[1].counts["gradient_decodes"] == results[0].counts["gradient_decodes"] > 0
        np.testing.assert_array_equal(results[0].mask, results[1].mask)
        assert all(weight.is_meta for weight in segmenter.framework.sam.network.parameters())
        assert not any(weight.is_meta for weight in segmenter.framework.sam.model.mask_decoder.parameters())


class TestCache:
    def test_a_model_is_converted_once(self, kept, tmp_path, monkeypatch):
        monkeypatch.setenv("PRMAGIC_CACHE", str(tmp_path / "new"))
        with pytest.warns(UserWarning, match=CONVERTED):
            on_openvino(load_promptable(MINI))
        (folder,) = (tmp_path / "new").glob("openvino-*[!k]")
        entry = json.loads((folder / ENTRY).read_text())
        assert entry["cosine"] > 0.99999 and entry["seconds"] > 0 and entry["dtype"] == "float32"
        unfinished = [path for path in (tmp_path / "new").iterdir() if path.name.startswith(".")]
        assert not unfinished
        before = (folder / WEIGHTS).stat().st_mtime_ns
        on_openvino(load_promptable(MINI))
        assert (folder / WEIGHTS).stat().st_mtime_ns == before

    @pytest.mark.parametrize("name", [WEIGHTS, ENTRY, "encoder.xml"])
    @pytest.mark.parametrize("damage", ["cut", "gone"])
    def test_a_damaged_entry_is_made_anew_and_told(self, kept, tmp_path, monkeypatch, name, damage):
        expected = outputs(on_openvino(load_promptable(MINI)), tiny.photo())
        shutil.copytree(kept, tmp_path / "copy")
        monkeypatch.setenv("PRMAGIC_CACHE", str(tmp_path / "copy"))
        files = list((tmp_path / "copy").glob(f"openvino-{load_promptable(MINI).fingerprint}*/{name}"))
        for file in files:
            file.unlink() if damage == "gone" else file.write_bytes(file.read_bytes()[:-7])
        with pytest.warns(UserWarning, match="damaged in the cache, and again converted"):
            found = outputs(on_openvino(load_promptable(MINI)), tiny.photo())
        assert torch.equal(found[0], expected[0])

    def test_weights_that_differ_anywhere_are_another_entry(self, tmp_path):
        """The fingerprint reads the first 64 values of each weight."""
        shutil.copytree(MINI, tmp_path / "other")
        weights = load_file(tmp_path / "other" / "model.safetensors")
        name = max((n for n in weights if n.startswith("vision_encoder.layers")), key=lambda n: weights[n].numel())
        weights[name].flatten()[64:] *= -1
        save_file(weights, tmp_path / "other" / "model.safetensors", {"format": "pt"})
        first, second = load_promptable(MINI), load_promptable(tmp_path / "other")
        assert first.fingerprint == second.fingerprint
        (one,), (other,) = (outputs(on_openvino(model), tiny.photo()) for model in (first, second))
        assert not torch.allclose(one, other, atol=1e-3)

    def test_features_that_differ_are_refused_and_not_kept(self, tmp_path, monkeypatch):
        pytest.importorskip("openvino")
        monkeypatch.setenv("PRMAGIC_CACHE", str(tmp_path))
        monkeypatch.setitem(runtimes.LEAST_COSINE, torch.float32, 1.1)
        told = (
            r"gives other features on OpenVINO in float32: cosine 1\.0000.*take the runtime torch \(--runtime torch\)"
        )
        with pytest.raises(CheckpointError, match=told):
            load(runtime="openvino")
        assert not [each for each in tmp_path.iterdir() if each.is_dir()]
        monkeypatch.setattr(runtimes, "SMALL", 0)
        with pytest.warns(UserWarning, match="torch runs the image encoders"):
            assert load().framework.placement["runtime"] == "torch"

    def test_a_cache_that_cannot_be_written(self, tmp_path, monkeypatch):
        pytest.importorskip("openvino")
        (tmp_path / "file").touch()
        monkeypatch.setenv("PRMAGIC_CACHE", str(tmp_path / "file"))
        with pytest.raises(CheckpointError, match=r"PRMAGIC_CACHE can name another folder.*--runtime torch"):
            load(runtime="openvino")

    def test_it_lies_where_the_system_keeps_caches(self, monkeypatch):
        platformdirs = pytest.importorskip("platformdirs")
        monkeypatch.delenv("PRMAGIC_CACHE")
        assert runtimes.cache_folder() == Path(platformdirs.user_cache_dir("prmagic", appauthor=False))

    def test_a_conversion_is_not_reported_to_anyone(self, tmp_path, monkeypatch):
        """`openvino.convert_model` sends that it was used, unless its user has opted out."""
        pytest.importorskip("openvino")
        telemetry = pytest.importorskip("openvino_telemetry")
        monkeypatch.setenv("PRMAGIC_CACHE", str(tmp_path))
        monkeypatch.setattr(telemetry.Telemetry, "init", lambda *_, **__: pytest.fail("telemetry was started"))
        on_openvino(load_promptable(MINI))


class TestChoice:
    def test_auto_leaves_small_models_on_torch(self):
        assert load().framework.placement == {"device": "cpu", "dtype": "float32", "runtime": "torch"}

    def test_auto_takes_openvino_for_large_ones(self, monkeypatch):
        pytest.importorskip("openvino")
        monkeypatch.setattr(runtimes, "SMALL", 0)
        assert load().framework.placement["runtime"] == "openvino"
        assert load(dtype="float16").framework.placement["runtime"] == "torch"

    def test_one_large_encoder_decides_for_both(self, encoder_folder, monkeypatch):
        pytest.importorskip("openvino")
        of_sam, of_encoder = (
            sum(weight.numel() for weight in model.network.parameters())
            for model in (load_promptable(MINI), Dino.load(encoder_folder))
        )
        monkeypatch.setattr(runtimes, "SMALL", max(of_sam, of_encoder))
        framework = prmagic.load("matcher", sam=MINI, encoder=encoder_folder).framework
        assert [model.runtime for model in framework.models] == ["openvino", "openvino"]

    def test_without_the_package_auto_is_torch_and_openvino_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(runtimes, "installed", lambda name: False)
        monkeypatch.setattr(runtimes, "SMALL", 0)
        assert load().framework.placement["runtime"] == "torch"
        with pytest.raises(ValueError, match=r"not installed: pip install 'prmagic\[openvino\]'"):
            load(runtime="openvino")

    def test_bfloat16_where_openvino_has_none_is_torchs(self, monkeypatch):
        monkeypatch.setattr(runtimes, "installed", lambda name: True)
        monkeypatch.setattr(runtimes, "_core", lambda: SimpleNamespace(get_property=lambda *_: ["FP32"]))
        monkeypatch.setattr(runtimes, "SMALL", 0)
        with pytest.warns(UserWarning, match="no bfloat16 on this CPU: torch runs the image encoders"):
            placement = load(dtype="bfloat16").framework.placement
        assert (placement["dtype"], placement["runtime"]) == ("bfloat16", "torch")
        with pytest.raises(CheckpointError, match=r"no bfloat16 on this CPU: take the runtime torch"):
            load(dtype="bfloat16", runtime="openvino")

    def test_an_openvino_that_cannot_be_imported(self, monkeypatch):
        monkeypatch.setattr(runtimes, "installed", lambda name: True)
        monkeypatch.setitem(sys.modules, "openvino", None)
        monkeypatch.setattr(runtimes, "SMALL", 0)
        with pytest.warns(UserWarning, match=r"cannot be started \(.*\): torch runs the image encoders"):
            assert load().framework.placement["runtime"] == "torch"
        with pytest.raises(CheckpointError, match=r"cannot be started .* take the runtime torch"):
            load(runtime="openvino")

    @pytest.mark.parametrize(
        "options, told",
        [
            ({"runtime": "openvin"}, "unknown runtime 'openvin': did you mean 'openvino'"),
            ({"runtime": "openvino", "dtype": "float16"}, "the runtime openvino has no float16: take float32"),
            ({"runtime": "openvino", "device": "meta"}, "for CPUs, not for meta: take the device cpu"),
        ],
    )
    def test_what_cannot_be_is_told(self, options, told):
        pytest.importorskip("openvino")
        with pytest.raises(ValueError, match=told):
            if options.get("device") == "meta":
                runtimes._check(torch.device("meta"), torch.float32)
            load(**options)

    @pytest.mark.parametrize("has_it", [True, False])
    def test_dtype_auto_is_bfloat16_for_the_sam_of_matcher_alone(self, has_it, encoder_folder, monkeypatch, recwarn):
        """Elsewhere masks change by more than is allowed."""
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_it, raising=False)
        assert fastest_dtype(torch.device("cpu")) == (torch.bfloat16 if has_it else torch.float32)
        models = {"sam": MINI, "encoder": encoder_folder}
        if has_it:
            with pytest.warns(UserWarning, match="SAM's image encoder runs in bfloat16: the device has it"):
                matcher = prmagic.load("matcher", dtype="auto", **models)
        else:
            matcher = prmagic.load("matcher", dtype="auto", **models)
        kinds = [model.dtype for model in matcher.framework.models]
        assert kinds == [torch.bfloat16 if has_it else torch.float32, torch.float32]
        assert matcher.settings["dtype"] == ("mixed" if has_it else "float32")
        for name, given in (("gf-sam", models), ("persam-f", {"sam": MINI})):
            assert prmagic.load(name, dtype="auto", **given).settings["dtype"] == "float32"

    def test_dtypes_are_named_as_load_takes_them(self, encoder_folder):
        models = {"sam": MINI, "encoder": encoder_folder}
        for dtype in ("float32", "bfloat16", "mixed"):
            placement = prmagic.load("gf-sam", dtype=dtype, **models).framework.placement
            assert placement["dtype"] == dtype
        assert load(dtype="mixed").framework.placement["dtype"] == "bfloat16"  # there is no other encoder

    def test_a_reference_is_kept_for_each_dtype(self, encoder_folder, mini, tmp_path):
        for dtype in ("bfloat16", "mixed"):
            segmenter = prmagic.load("gf-sam", dtype=dtype, cache=tmp_path, sam=MINI, encoder=encoder_folder)
            segmenter.encode_support(prmagic.Support(mini["support_rgb"], mini["support_mask"]))
        assert len(list(tmp_path.glob("*.safetensors"))) == 2

    def test_a_model_that_is_loaded_stays_where_it_is(self):
        model = on_openvino(load_promptable(MINI))
        assert load(sam=model, runtime="torch").framework.placement["runtime"] == "openvino"


class TestRecord:
    def test_settings_name_any_runtime_but_torch(self):
        pytest.importorskip("openvino")
        assert "runtime" not in load(runtime="torch").settings
        assert load(runtime="openvino").settings["runtime"] == "openvino"

    def test_a_reference_serves_on_the_other_runtime_and_a_cached_one_does_not(self, mini, tmp_path):
        pytest.importorskip("openvino")
        support = prmagic.Support(mini["support_rgb"], mini["support_mask"])
        segmenters = [load(runtime=runtime, cache=tmp_path) for runtime in ("torch", "openvino")]
        references = [segmenter.encode_support(support) for segmenter in segmenters]
        assert len(list(tmp_path.glob("*.safetensors"))) == 2
        for segmenter, reference in zip(segmenters, references[::-1], strict=True):
            assert segmenter.segment(mini["query_rgb"], reference).found


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interruption_finds_python_again(kept):
    """Two models on OpenVINO, one after the other, must leave the stack of signal handlers as it was."""
    pytest.importorskip("openvino")
    program = (
        "import faulthandler, os, signal, torch; faulthandler.enable()\n"
        "from prmagic.backbones.adapters import load_promptable\n"
        "from prmagic.backbones.runtimes import place\n"
        f"for _ in range(2): place([load_promptable({str(MINI)!r})], 'openvino', [torch.float32])\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr
