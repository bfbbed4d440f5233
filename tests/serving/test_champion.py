"""The champion's manifest: whole or not there, and one before can be gone back to."""

from datetime import UTC, datetime

import pytest

from data.errors import BundleError
from serving.champion import KEPT, Champion, Manifest, change, read

NOW = datetime.now(UTC)


def champion(version, tag=None):
    values = {"bundle": f"/b/{version}", "contract": "c", "promise": None, "since": NOW}
    return Champion(version=version, tag=tag or f"optscale:{version}", **values)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_is_written_is_read_at_a_path_or_a_uri(tmp_path, scheme):
    location = f"{scheme}{tmp_path}/deep/champion.json"
    assert read(location) == Manifest()
    made = change(location, lambda now: now.name(champion("1")))
    assert read(location) == made
    assert made.version == "1"
    held = change(location, lambda now: now.model_copy(update={"held": "why", "full_cap": True}))
    assert (read(location).version, held.held) == ("1", "why")


def test_the_one_before_is_remembered_once():
    manifest = Manifest()
    for version in "1213":
        manifest = manifest.name(champion(version))
    assert manifest.version == "3"
    assert [one.version for one in manifest.former] == ["1", "2"]
    for version in range(100):
        manifest = manifest.name(champion(str(version)))
    assert len(manifest.former) == KEPT


def test_what_waited_does_so_no_longer_once_it_is_named():
    waiting = Manifest(waiting=champion("2"))
    assert waiting.name(champion("1")).waiting == champion("2")
    assert waiting.name(champion("2")).waiting is None


def test_what_is_no_manifest_is_told(tmp_path):
    (tmp_path / "champion.json").write_text('{"champion": 3}')
    with pytest.raises(BundleError, match=r"champion.json is no champion's manifest .*champion"):
        read(str(tmp_path / "champion.json"))
    with pytest.raises(BundleError, match="cannot be read"):
        read("nowhere://x/champion.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        change(str(tmp_path / "file" / "champion.json"), lambda now: now)
