"""Where weights come from: names and their typos, the hub and its cache, revisions, and what run.json keeps of them."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from common import MINI
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import SamModel

from prmagic.backbones.checkpoints import EMBEDDED_FOLDER, CheckpointError, checksums, load_pretrained
from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam

BASE = "facebook/sam-vit-base"
FIRST, SECOND = "1" * 40, "2" * 40  # commits


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the hub's with the tiny SAM in two commits: the first is the branch `old`, the second is `main`."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--facebook--sam-vit-base"
    (repository / "refs").mkdir(parents=True)
    for branch, commit, shift in (("old", FIRST, 0), ("main", SECOND, 1)):
        folder = shutil.copytree(MINI, repository / "snapshots" / commit)
        (repository / "refs" / branch).write_text(commit)
        weights = load_file(folder / "model.safetensors")
        weights["mask_decoder.iou_token.weight"] += shift
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return repository / "snapshots"


class TestRevisions:
    @pytest.mark.parametrize("revision", ["@old", f"@{FIRST}"])
    def test_behind_an_at(self, revision, cache, sam):
        assert Sam.load(BASE + revision).fingerprint == sam.fingerprint
        assert Sam.load(BASE + revision).name == BASE + revision

    @pytest.mark.parametrize("revision", ["", "@main", f"@{SECOND}"])
    def test_without_one_it_is_main(self, revision, cache, sam):
        assert Sam.load(BASE + revision).fingerprint != sam.fingerprint

    def test_an_at_in_a_folders_name_is_no_revision(self, tmp_path, sam):
        assert Sam.load(shutil.copytree(MINI, tmp_path / "sam@home")).fingerprint == sam.fingerprint

    def test_one_that_is_empty(self, cache):
        refused(f"{BASE}@", "names no revision", f"{BASE}@main")

    def test_one_that_is_not_cached(self, cache):
        refused(f"{BASE}@v9", "not in the local cache", "HF_HUB_OFFLINE is set", f"`hf download {BASE} --revision v9`")

    def test_of_what_is_no_hub_id(self):
        refused("embedded@main", "no SAM is called 'embedded@main'", "did you mean 'embedded'")


def refused(name, *words, kind="sam", without=()):
    with pytest.raises(CheckpointError) as error:
        (Sam if kind == "sam" else Dino).load(name)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert not any(word in str(error.value) for word in without)


class TestNames:
    def test_offline_nothing_is_downloaded_and_that_is_said(self, cache):
        refused("facebook/sam-vit-huge", "HF_HUB_OFFLINE is set", "Unset it", "`hf download facebook/sam-vit-huge`")

    def test_offline_a_typo_is_still_one(self, cache):
        refused("facebook/sam-vit-hug", "did you mean 'facebook/sam-vit-huge'")

    @pytest.mark.parametrize("name", ["facebook/dinov2-large", "facebook/dinov2-large@main"])
    def test_an_encoder_in_sams_place(self, name):
        refused(name, "facebook/dinov2-large is no SAM", "is the name of an encoder, to be given as such (--encoder)")

    def test_a_sam_in_the_encoders_place(self):
        refused(BASE, "is no encoder", "is the name of a SAM, to be given as such (--sam)", kind="encoder")

    def test_the_name_that_torch_hub_has_for_an_encoder(self):
        refused("dinov2_vitl14", "no SAM is called", "is the name of an encoder, to be given as such (--encoder)")
        refused("dinov2_vitl14", "no encoder is called", kind="encoder", without=["--"])

    def test_a_file_that_is_not_there(self, tmp_path, monkeypatch):
        (tmp_path / "sam_vit_h_4b8939.pth").touch()
        (tmp_path / "cat.jpg").touch()
        meant = f"did you mean {tmp_path / 'sam_vit_h_4b8939.pth'}?"
        refused(tmp_path / "sam_vit_h.pth", "there is no file", meant, without=["--encoder"])
        refused(tmp_path / "nowhere" / "sam_vit_h.pth", "there is no file", without=["did you mean"])
        monkeypatch.chdir(tmp_path)
        refused("weights/sam_vit_b.pth", "there is no file weights/sam_vit_b.pth")  # and no model on the hub

    def test_an_encoders_file_in_sams_place_that_is_not_there(self):
        refused("dinov2_vitl14.pth", "there is no file dinov2_vitl14.pth", "is the name of an encoder", "(--encoder)")


class TestChecksums:
    def test_of_the_embedded(self):
        for kind in ("sam", "encoder"):
            file = EMBEDDED_FOLDER / kind / "model.safetensors"
            assert checksums(kind, "embedded") == {"model.safetensors": sha256(file)}

    def test_of_a_folder_and_of_its_parts(self, tmp_path):
        assert checksums("sam", MINI) == {"model.safetensors": sha256(MINI / "model.safetensors")}
        folder = tmp_path / "parts"
        SamModel.from_pretrained(MINI).save_pretrained(folder, max_shard_size="50KB")
        parts = sorted(folder.glob("model-0*.safetensors"))
        assert len(parts) > 1
        assert checksums("sam", str(folder)) == {part.name: sha256(part) for part in parts}

    def test_of_a_file(self, tmp_path):
        (tmp_path / "a.pth").write_bytes(b"weights" * 1_000_000)
        assert checksums("sam", tmp_path / "a.pth") == {"a.pth": sha256(tmp_path / "a.pth")}

    def test_of_a_model_in_the_cache(self, cache):
        for name, commit in ((BASE, SECOND), (f"{BASE}@old", FIRST), (f"{BASE}@{FIRST}", FIRST)):
            assert checksums("sam", name) == {"model.safetensors": sha256(cache / commit / "model.safetensors")}
        assert checksums("sam", "facebook/sam-vit-huge") == {}


class TestTheHubSaysNo:
    @pytest.fixture
    def hub(self, cache, monkeypatch):
        """A hub on this machine that refuses each model in the way that its name says, as the real one does."""
        answers = {
            "gated": (401, "GatedRepo"), "not-granted": (403, "GatedRepo"), "unknown": (401, "RepoNotFound"),
            "unheard-of": (404, "RepoNotFound"), "revision": (404, "RevisionNotFound"), "forbidden": (403, ""),
            "broken": (418, ""),
        }  # fmt: skip

        class Refusing(BaseHTTPRequestHandler):
            def do_GET(self):
                status, code = next((a for name, a in answers.items() if name in self.path), (404, "EntryNotFound"))
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_POST = do_GET  # noqa: N815

            def log_message(self, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Refusing)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield address
        server.shutdown()
        server.server_close()

    @pytest.mark.parametrize("name", ["facebook/gated", "facebook/not-granted"])
    def test_a_gated_model(self, name, hub):
        refused(name, f"{name} is gated", f"access at {hub}/{name}", "`hf auth login`")

    @pytest.mark.parametrize("name", ["facebook/unknown", "facebook/unheard-of", "facebook/forbidden"])
    def test_a_model_that_it_does_not_have_or_does_not_show(self, name, hub):
        refused(name, f"the hub has no model {name}", ": embedded, facebook/", "`hf auth login`", without=["gated"])

    def test_a_revision_that_it_does_not_have(self, hub):
        refused("facebook/revision@v7", "facebook/revision has no revision 'v7'")

    def test_a_hub_that_is_broken(self, hub):
        refused("facebook/broken", "could not be downloaded", "`hf download facebook/broken`", without=["gated"])

    def test_what_is_cached_is_not_asked_for(self, hub, sam):
        assert Sam.load(f"{BASE}@old").fingerprint == sam.fingerprint


class TestCodeInAModelFolder:
    """transformers would run Python files of a model's folder if it were told to trust them, or ask on the console."""

    CODE = "import pathlib\npathlib.Path(__file__).with_name('it-ran').touch()\nConfig = Model = dict\n"

    @pytest.fixture
    def asked(self, monkeypatch):
        """What was asked on the console; nobody answers."""
        questions = []

        def ask(question=""):
            questions.append(question)
            raise EOFError

        monkeypatch.setattr("builtins.input", ask)
        return questions

    def prepare(self, folder, model_type):
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": model_type, "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "code.py").write_text(self.CODE)
        return folder

    @pytest.mark.parametrize("kind", ["sam", "encoder"])
    def test_of_an_unknown_kind_is_refused_and_not_run(self, kind, tmp_path, encoder_folder, asked):
        folder = shutil.copytree({"sam": MINI, "encoder": encoder_folder}[kind], tmp_path / "model")
        self.prepare(folder, "of_nobody")
        refused(folder, str(folder), "code of its own, which is never run", kind=kind, without=["damaged"])
        assert not (folder / "it-ran").exists()
        assert asked == []

    def test_of_a_known_kind_is_not_needed_and_not_run(self, tmp_path, asked, sam):
        folder = self.prepare(shutil.copytree(MINI, tmp_path / "model"), "sam")
        assert Sam.load(folder).fingerprint == sam.fingerprint
        assert not (folder / "it-ran").exists()
        assert asked == []

    def test_of_a_model_on_the_hub(self, cache, asked):
        for kind in ("of_nobody", "sam"):
            self.prepare(cache / SECOND, kind)
            if kind == "sam":
                Sam.load(BASE)
            else:
                refused(BASE, BASE, "code of its own, which is never run", without=["not in the local cache"])
            assert not list(cache.rglob("it-ran"))
        assert asked == []

    def test_in_pickled_weights(self, tmp_path):
        folder = shutil.copytree(MINI, tmp_path / "model")
        (folder / "model.safetensors").unlink()
        torch.save({"a": pathlib.PurePosixPath("an object, not a tensor")}, folder / "pytorch_model.bin")
        refused(folder, str(folder), "could run any code", "Take one with model.safetensors", without=["weights_only"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers(value, tmp_path):
    folder = shutil.copytree(MINI, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["mask_decoder.iou_token.weight"][0, 0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "is damaged: mask_decoder.iou_token.weight has values that are no finite numbers")


def test_a_damaged_file_in_the_cache(cache):
    (cache / SECOND / "model.safetensors").write_bytes(b"nothing")
    refused(BASE, "damaged", f"`hf download {BASE} --force-download`", without=["not in the local cache"])


def test_a_model_of_another_kind_on_the_hub(cache):
    (cache / SECOND / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(CheckpointError, match=f"{BASE} is a 'dinov2' model; as SAM, 'sam' is needed here"):
        load_pretrained("sam", (SamModel,), BASE)
