"""What `smallplan doctor` finds, how it says it, and that nothing on a machine stops it."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

from smallplan_planner.prompt import PROMPT_VERSION
from smallplan_training import cli, doctor
from smallplan_training.simulators.igibson import environment


def found(name: str, topic: str = "") -> doctor.Finding:
    """What one check finds, by its name."""
    (check,) = [check for check in doctor.CHECKS if check[1] == name and topic in ("", check[0])]
    (finding,) = doctor.examine((check,))
    return finding


def test_every_topic_is_one_line_and_in_the_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-secret")
    path = tmp_path / "doctor.json"
    assert cli.main(["doctor", "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    findings = json.loads(path.read_text())["findings"]
    assert len(shown.splitlines()) == len(findings) == len(doctor.CHECKS)
    assert {finding["topic"] for finding in findings} == {"simulators", "GPU", "ROS", "models", "teachers"}
    assert "sk-the-secret" not in shown + path.read_text()
    for row, finding in zip(shown.splitlines(), findings):
        assert (" ok " in row) == finding["ok"]
        assert finding["detail"] in row


def test_what_is_missing_comes_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    finding = found("openai")
    assert not finding.ok
    assert doctor.line(finding).plain.split(maxsplit=3)[2] == "missing"
    assert doctor.line(finding).plain.endswith(f"{finding.detail} -> {finding.remedy}")
    assert finding.remedy


def test_a_broken_installation_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Answer:
        raise OSError("libcudart.so.12: cannot open shared object file")

    def fine() -> doctor.Answer:
        return True, "there", "not shown"

    first, second = doctor.examine((("GPU", "training", broken), ("GPU", "inference", fine)))
    assert (first.ok, first.detail) == (False, "broken: OSError: libcudart.so.12: cannot open shared object file")
    assert (second.ok, second.remedy) == (True, "")


def test_igibson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv = tmp_path / "venv"
    monkeypatch.setenv("SMALLPLAN_IGIBSON_VENV", str(venv))
    assert "make igibson" in found("iGibson").detail
    (venv / "lib/python3.8/site-packages/igibson-2.2.2.dist-info").mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "python").touch()
    monkeypatch.setattr(environment, "missing_for_rendering", lambda: None)
    finding = found("iGibson")
    assert finding.ok
    assert finding.detail.startswith(f"2.2.2 in {venv}")
    monkeypatch.setattr(environment, "missing_for_rendering", lambda: "no EGL: `apt-get install -y libegl1`")
    finding = found("iGibson")
    assert not finding.ok
    assert "apt-get install -y libegl1" in finding.detail


def test_the_data_set_is_told_with_the_scenes_that_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGIBSON_DATASET_PATH", str(tmp_path))
    monkeypatch.setenv("SMALLPLAN_IGIBSON_VENV", str(tmp_path / "none"))
    assert not found("iGibson data set").ok
    (tmp_path / "objects").mkdir()
    (tmp_path / "VERSION").write_text("2.0.6")
    for name in ("Rs_int", "Pomaria_1_int"):
        (tmp_path / "scenes" / name / "urdf").mkdir(parents=True)
        (tmp_path / "scenes" / name / "urdf" / f"{name}_best.urdf").touch()
    finding = found("iGibson data set")
    assert finding.ok
    assert "1 of 8 train (not Merom_0_int, " in finding.detail
    assert "1 of 7 test" in finding.detail
    for name in ("Rs_int", "Pomaria_1_int"):
        (tmp_path / "scenes" / name / "urdf" / f"{name}_best.urdf").unlink()
    assert not found("iGibson data set").ok


def test_the_robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIBSON_ASSETS_PATH", str(tmp_path))
    assert not found("iGibson robot").ok
    (tmp_path / "models" / "fetch").mkdir(parents=True)
    (tmp_path / "models" / "fetch" / "fetch_gripper.urdf").touch()
    assert found("iGibson robot").detail == f"Fetch, in {tmp_path}"


@pytest.mark.parametrize(("available", "expected"), [(True, "CUDA 12.8: Big GPU"), (False, "it finds no GPU")])
def test_gpus_of_pytorch(available: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = types.SimpleNamespace(
        is_available=lambda: available, device_count=lambda: 1, get_device_name=lambda index: "Big GPU"
    )
    torch = types.SimpleNamespace(cuda=cuda, version=types.SimpleNamespace(cuda="12.8"))
    monkeypatch.setattr(doctor, "_version", lambda name: "2.13.0")
    monkeypatch.setattr(doctor.importlib, "import_module", lambda name: torch)
    finding = found("training")
    assert finding.ok == available
    assert finding.detail.endswith(expected)


def test_without_pytorch_and_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert found("training").remedy == "`make setup-training`"
    for name in ("inference", "gguf"):
        finding = found(name)
        assert (finding.ok, finding.remedy) == (False, "`make setup`")


def test_ros_and_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "smallplan_msgs" else object())
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert found("rclpy").detail == "ROS 2 humble, sourced"
    monkeypatch.delenv("ROS_DISTRO")
    assert "from PyPI" in found("rclpy").detail
    assert not found("messages").ok


@pytest.mark.parametrize(("version", "ok"), [(PROMPT_VERSION, True), ("1", False)])
def test_the_default_model_fits_the_prompt_or_not(
    version: str, ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = pytest.importorskip("smallplan_training.gguf_metadata")
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(doctor, "default_model", lambda: path)
    monkeypatch.setattr(metadata, "read_metadata", lambda path: {"smallplan.prompt_version": version})
    finding = found("default")
    assert finding.ok == ok
    assert f"prompt version {version}" in finding.detail
    assert "SHA-256 " in finding.detail
