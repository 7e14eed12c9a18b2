from pathlib import Path

from roadwork_serve.engines.compile_caches import FOLDERS, keep_compiled


def test_compiled_code_is_kept_in_the_state_folder(tmp_path: Path) -> None:
    environment = {"ROADWORK_STATE": str(tmp_path / "state"), "TRITON_CACHE_DIR": "/mine"}
    keep_compiled(environment)
    assert environment["TRITON_CACHE_DIR"] == "/mine"
    assert environment["VLLM_CACHE_ROOT"] == str(tmp_path / "state/compiled/vllm")
    assert set(FOLDERS) <= set(environment)
    assert (tmp_path / "state/compiled").stat().st_mode & 0o077 == 0, "others must not put code there"


def test_without_a_usable_state_folder_the_libraries_choose(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {"ROADWORK_STATE": str(tmp_path / "file")}
    keep_compiled(environment)
    assert set(environment) == {"ROADWORK_STATE"}


def test_the_image_keeps_them_too() -> None:
    dockerfile = (Path(__file__).parents[2] / "ops/Dockerfile").read_text()
    assert all(f"{variable}=/data/" in dockerfile for variable in FOLDERS)
