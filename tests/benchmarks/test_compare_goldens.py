"""The script that compares us with recordings notices what differs."""

import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

CHECKOUT = Path(__file__).parents[2]
COPIES = {
    "hbq.safetensors": "hbq.safetensors",
    "guidance_laws.safetensors": "c2i_cfg.safetensors",
    "guidance_intervals.json": "c2i_interval_masks.json",
    "text_sampling_joint.safetensors": "joint_sample_t2i.safetensors",
    "sampling_entropy.safetensors": "c2i_entropy_ind.safetensors",
}


@pytest.fixture
def compare(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))
    import compare_goldens

    for ours, theirs in COPIES.items():
        shutil.copy(CHECKOUT / "tests/goldens" / ours, tmp_path / theirs)

    def run():
        code = compare_goldens.main([str(tmp_path), "--markdown", str(tmp_path / "table.md")])
        return code, (tmp_path / "table.md").read_text()

    return run


def test_recordings_that_we_reproduce_are_equal_and_one_changed_label_is_noticed(compare, tmp_path):
    code, table = compare()
    assert code == 0
    assert "| joint_sample_t2i.safetensors | labels of every step | equal |" in table
    assert "| c2i_entropy_ind.safetensors | step counts | equal |" in table
    path = tmp_path / "joint_sample_t2i.safetensors"
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        facts = file.metadata()
    tensors["step.sample_labels"][3, 5, 7] ^= 1
    path.unlink()
    save_file(tensors, path, facts)
    code, table = compare()
    assert code == 1
    assert "| joint_sample_t2i.safetensors | labels of every step | DIFFERENT |" in table
    del tensors["step.pt_token"]  # as in recordings of the April sampler
    save_file(tensors, path, facts)
    code, table = compare()
    assert code == 1
    assert "| joint_sample_t2i.safetensors | signals |" not in table
