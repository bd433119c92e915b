import pytest
import transformers

from omnivinci_hf.registration.tested_versions import NEWEST_TRANSFORMERS, OLDEST_TRANSFORMERS, warn_if_untested


@pytest.mark.parametrize("version", ["6.0.0", "5.100.0", "5.99.0.dev0", "6"])
def test_a_newer_transformers_than_any_tested_is_told(monkeypatch, caplog, version):
    monkeypatch.setattr(transformers, "__version__", version)
    warn_if_untested()
    (record,) = caplog.records
    assert (
        f"Transformers {OLDEST_TRANSFORMERS} to {NEWEST_TRANSFORMERS}" in record.message and version in record.message
    )


@pytest.mark.parametrize("version", [f"{OLDEST_TRANSFORMERS}.0", f"{NEWEST_TRANSFORMERS}.7", NEWEST_TRANSFORMERS])
def test_a_tested_one_is_not(monkeypatch, caplog, version):
    monkeypatch.setattr(transformers, "__version__", version)
    warn_if_untested()
    assert not caplog.records
