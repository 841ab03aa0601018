import hashlib
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from segmentation.errors import InputError
from segmentation.models import model_code
from segmentation.models.model_code import ModelCode, local_code, read_code, stored_code, write_code
from tests.segmentation.models.own import TEN_LINES, written

CONSTANT = """
import torch
from torch import nn


class Constant(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.bias = nn.Parameter(torch.full((classes,), VALUE))

    def forward(self, images):
        return self.bias.reshape(1, -1, 1, 1).expand(len(images), -1, *images.shape[2:])
"""
WITH_FUNCTION = f"{CONSTANT}\n\ndef net(classes, channels):\n    return Constant(classes)\n"


def value_of(code: ModelCode) -> float:
    """What the network of `CONSTANT` returns for every pixel."""
    return float(code.build(3, 3, pretrained=False)(torch.zeros(1, 3, 2, 2)).detach().mean())


def test_the_code_is_every_local_module_that_is_imported_and_no_other() -> None:
    code = written(
        {
            "pack/__init__.py": "",
            "pack/nets/__init__.py": "from pack.layers import VALUE",
            "pack/nets/constant.py": f"from . import VALUE\nfrom ..more import late\n{WITH_FUNCTION}",
            "pack/layers.py": "VALUE = 2.0",
            "pack/more.py": "def late():\n    import beside\n    return beside\n",
            "pack/unused.py": "import a_package_that_is_not_installed",
            "beside.py": "import os, json",
        },
        "pack.nets.constant:net",
    )
    assert set(code.files) == {
        "pack/__init__.py", "pack/nets/__init__.py", "pack/nets/constant.py", "pack/layers.py", "pack/more.py",
        "beside.py",
    }  # fmt: skip
    assert code.requirements == ()
    shutil.rmtree("pack")
    assert value_of(code) == 2.0
    assert not {"pack", "beside"} & sys.modules.keys()


def test_installed_packages_are_requirements_and_their_files_are_not_copied() -> None:
    code = written({"my_models.py": f"import yaml, scipy.ndimage\n{TEN_LINES}"}, "my_models:net")
    found = {each.lower() for each in code.requirements}
    assert set(code.files) == {"my_models.py"}
    assert found == {f"pyyaml=={version('pyyaml')}", f"scipy=={version('scipy')}"}
    installed = local_code("yaml:safe_load")
    assert installed.files == {}
    assert [each.lower() for each in installed.requirements] == [f"pyyaml=={version('pyyaml')}"]


def test_a_folder_named_like_an_installed_package_is_not_local_code() -> None:
    Path("yaml").mkdir()
    assert set(written({"my_models.py": f"import yaml\n{TEN_LINES}"}, "my_models:net").files) == {"my_models.py"}


def test_two_models_whose_modules_have_equal_names_do_not_meet() -> None:
    files = {"layers.py": "VALUE = 1.0", "my_models.py": f"from layers import VALUE\n{WITH_FUNCTION}"}
    one = written(files, "my_models:net")
    late = "import layers\n" + WITH_FUNCTION.replace("VALUE", "layers.VALUE")
    two = written({"layers.py": "VALUE = 2.0", "my_models.py": late}, "my_models:net")
    assert [value_of(each) for each in (one, two, one)] == [1.0, 2.0, 1.0]
    assert one.checksum != two.checksum


def test_a_stored_model_uses_its_own_code_after_the_file_has_changed(tmp_path: Path) -> None:
    code = written({"my_models.py": WITH_FUNCTION.replace("VALUE", "1.0")}, "my_models:net")
    about = json.loads(json.dumps(write_code(code, tmp_path / "model")))
    changed = written({"my_models.py": WITH_FUNCTION.replace("VALUE", "3.0")}, "my_models:net")
    stored = read_code(about, tmp_path / "model")
    assert (stored.checksum, value_of(stored), value_of(changed)) == (code.checksum, 1.0, 3.0)
    assert not stored.is_same(changed)
    again = stored_code(code.as_values())
    assert (again.checksum, again.is_same(code)) == (code.checksum, True)


def test_the_checksum_is_the_sha_256_of_function_files_and_requirements() -> None:
    code = written({"my_models.py": TEN_LINES}, "my_models:net")
    text = json.dumps(["my_models:net", [["my_models.py", TEN_LINES]], []])
    assert code.checksum == hashlib.sha256(text.encode()).hexdigest()


def test_one_process_reads_the_code_once() -> None:
    before = written({"my_models.py": TEN_LINES}, "my_models:net")
    Path("my_models.py").write_text(TEN_LINES.replace("16", "8"))
    assert local_code("my_models:net") == before


@pytest.mark.parametrize(("weights", "expected"), [(True, 1.0), (False, 0.0)])
def test_a_function_learns_whether_to_load_pretrained_weights(weights: bool, expected: float) -> None:
    text = CONSTANT.replace("VALUE", "0.0") + (
        "\n\ndef net(classes, channels, pretrained=None, width=3):\n"
        "    network = Constant(classes)\n    nn.init.constant_(network.bias, float(pretrained))\n    return network\n"
    )
    code = written({"my_models.py": text}, "my_models:net")
    assert float(code.build(3, 3, pretrained=weights).get_parameter("bias").detach().mean()) == expected


@pytest.mark.parametrize(
    ("text", "function", "parts"),
    [
        (None, "absent_models:net", ["model=absent_models:net", "no module absent_models", "absent_models.py"]),
        (TEN_LINES, "my_models:nett", ["nett does not exist in my_models", "its functions are net"]),
        ("net = 3", "my_models:net", ["net is not a function"]),
        ("def net(:", "my_models:net", ["my_models.py, line 1"]),
        ("import torch\nnot_defined", "my_models:net", ["NameError", "not_defined", "my_models.py, line 2"]),
        ("import no_such_package", "my_models:net", ["ModuleNotFoundError", "no_such_package", "line 1"]),
        ("def net(n): ...", "my_models:net", ["(n)", "must take classes and channels"]),
        ("def net(classes, channels, depth): ...", "my_models:net", ["(classes, channels, depth)"]),
        ("def net(classes, channels):\n    return 3", "my_models:net", ["returned int", "torch.nn.Module"]),
        ("def net(classes, channels):\n    1 / 0", "my_models:net", ["channels=3", "ZeroDivisionError", "line 2"]),
        ("from torch import nn\ndef net(classes, channels):\n    return nn.ReLU()", "my_models:net", ["no parameters"]),
        (
            "from torch import nn\ndef net(classes, channels):\n    return nn.LazyConv2d(classes, 1)",
            "my_models:net", ["lazy parameters"],
        ),
        ("open(__file__)", "my_models:net", ["__file__", "Only .py files are stored"]),
        ("import segmentation.errors", "my_models:net", ["imports segmentation.errors", "my_models.py"]),
        (None, "segmentation.models.segmenter:build", ["cannot be stored", "copy it"]),
        (b"\xff\xfe# not utf-8", "my_models:net", ["my_models.py"]),
    ],
)  # fmt: skip
def test_code_that_does_not_work_is_refused_with_the_reason(
    text: str | bytes | None, function: str, parts: list[str]
) -> None:
    if text is not None:
        Path("my_models.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    model_code._local_code.cache_clear()
    with pytest.raises(InputError) as caught:
        local_code(function).build(3, 3, pretrained=True)
    for part in [function, *parts]:
        assert part in str(caught.value)


def test_a_missing_package_is_named_and_another_version_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    files = {"my_models.py": TEN_LINES}
    with pytest.raises(InputError, match=r"my_models:net needs the package no-such-package: pip install .*==1\.0"):
        ModelCode("my_models:net", files, ("no-such-package==1.0",)).build(3, 3, pretrained=False)
    ModelCode("my_models:net", files, ("numpy==0.1",)).build(3, 3, pretrained=False)
    assert "numpy==0.1; installed is" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"files": ["../my_models.py"]}, {"files": ["my_models.py", "missing.py"]}, {"files": [3]}, {"files": []},
        {"folder": ".."}, {"folder": "elsewhere"}, {"sha256": "0" * 64}, {"divisor": 3}, {"divisor": True},
        {"requirements": [3]}, {"function": "no function"},
    ],
)  # fmt: skip
def test_stored_code_that_is_not_what_was_written_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    code = written({"my_models.py": TEN_LINES}, "my_models:net")
    about = write_code(code, tmp_path / "code") | change
    with pytest.raises(ValueError, match=r".") as caught:
        read_code(about, tmp_path / "code")
    assert not isinstance(caught.value, InputError)


def test_stored_code_that_was_changed_is_refused(tmp_path: Path) -> None:
    about = write_code(written({"my_models.py": TEN_LINES}, "my_models:net"), tmp_path)
    (tmp_path / about["folder"] / "my_models.py").write_text(TEN_LINES.replace("16", "17"))
    with pytest.raises(ValueError, match="SHA-256 differs"):
        read_code(about, tmp_path)
