"""By hand: who is champion, back to one before, promotions held, the full cap drawn, and how it all stands.

Each changes the champion's manifest, which gateways follow. The registry's alias follows too, if it answers.
"""

import getpass
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.errors import BundleError, GateError, TrackingError
from flows.config import Config
from serving.alarms import Alarms, alarms_of
from serving.bundle import Bundle
from serving.champion import TRAINED, Champion, LastTrained, Manifest, beside, change, change_record, read


def manifest(config: Config) -> Manifest:
    """As it is now; see `serving.champion.read`."""
    return read(config.champion_location)


def current(config: Config) -> str | None:
    """The champion's version, or None."""
    return manifest(config).version


def note_trained(config: Config) -> None:
    """Let gateways tell that there is a challenger, and since when."""
    now = LastTrained(at=datetime.now(UTC))
    change_record(beside(config.champion_location, TRAINED), LastTrained, "note of training", lambda _: now)


def describe(version: str, tag: str, bundle: Path, by: str | None = None) -> Champion:
    """A bundle that was built, as it stands in the manifest."""
    card = Bundle.open(bundle).card
    fingerprint, now, certificate = card.contract.fingerprint, datetime.now(UTC), card.certificate
    return Champion(
        version=version,
        tag=tag,
        bundle=str(bundle),
        contract=fingerprint,
        promise=card.promise,
        since=now,
        by=by,
        certified=certificate and certificate.made,
        uses=certificate and certificate.uses,
    )


def require_not_held(config: Config) -> None:
    """Raise GateError where promotions are held."""
    if (why := manifest(config).held) is not None:
        raise GateError(f"promotions are held ({why}), and the champion stays: optscale release")


def rollback(config: Config, to: str | None = None) -> dict[str, Any]:
    """Serve a former champion again: the latest whose bundle is here, or the version ``to``.

    Raises
    ------
    BundleError
        If there is none.
    """

    def back(now: Manifest) -> Manifest:
        here = [one for one in now.former if Path(one.bundle).is_dir() and to in (None, one.version)]
        if not here:
            known = ", ".join(dict.fromkeys(one.version for one in now.former)) or "none"
            asked = "" if to is None else f" of version {to}"
            raise BundleError(
                f"there is no former champion{asked} whose bundle is here (former: {known}); the champion "
                f"stays {now.version or 'none'}"
            )
        return now.name(_from_now(here[0]))

    return _told(config, _change(config, back))


def approve(config: Config) -> dict[str, Any]:
    """Let the version that waits be served; keeps who said so, and when.

    Raises
    ------
    GateError
        If none waits, or promotions are held.
    """
    require_not_held(config)

    def named(now: Manifest) -> Manifest:
        if now.waiting is None:
            raise GateError("no version waits for an approval; the next one that passes the gate will")
        return now.name(_from_now(now.waiting))

    return _told(config, _change(config, named))


def hold(config: Config, why: str) -> dict[str, Any]:
    """Promote nothing until `release`."""
    return _told(config, _change(config, lambda now: now.model_copy(update={"held": why})))


def release(config: Config) -> dict[str, Any]:
    """Promote again what passes the gate."""
    return _told(config, _change(config, lambda now: now.model_copy(update={"held": None})))


def full_cap(config: Config, on: bool, why: str | None = None) -> dict[str, Any]:
    """Have gateways draw the reference, or follow the policy again; keeps why, or who."""
    changes = {"full_cap": on, "full_cap_why": (why or f"by {who()}") if on else None}
    return _told(config, _change(config, lambda now: now.model_copy(update=changes)))


def status(config: Config) -> dict[str, Any]:
    """The champion, its promise and its age, what is held or waits, and what the registry says of it."""
    return _told(config, manifest(config))


def follow(config: Config, now: Manifest) -> str | None:
    """Let the registry's alias name the champion; what keeps it from that, in words."""
    from flows.tracking import BUNDLE, CHAMPION, Tracking

    if now.champion is None:
        return None
    try:
        tracking = Tracking(config)
        version, tag = now.champion.version, now.champion.tag
        if tracking.tags(version).get(BUNDLE) != tag:
            tracking.tag(version, **{BUNDLE: tag})
        if tracking.find(CHAMPION) != version:
            tracking.set_alias(CHAMPION, version)
    except TrackingError as error:
        return str(error)
    return None


def _change(config: Config, make: Callable[[Manifest], Manifest]) -> Manifest:
    return change(config.champion_location, make)


def who() -> str:
    """Name of the user, as far as one is known."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have none
        return "a user without a name"


def _from_now(champion: Champion) -> Champion:
    return champion.model_copy(update={"since": datetime.now(UTC), "by": who()})


def _told(config: Config, now: Manifest) -> dict[str, Any]:
    champion, found = now.champion, alarms_of(config.champion_location)
    if champion is None or found.version != champion.version:
        found = Alarms()  # of another, who is champion no more
    return {
        "champion": champion and champion.version,
        "bundle": champion and champion.tag,
        "since": champion and champion.since,
        "age_days": champion and round((datetime.now(UTC) - champion.since).total_seconds() / 86400, 2),
        "by": champion and (champion.by or "the gate"),
        "contract": champion and champion.contract,
        "promise": champion and champion.promise,
        "certified": champion and champion.certified,
        "certified_on_them": champion and champion.uses,
        "alarms": [f"{alarm.says} (since {alarm.since:%Y-%m-%d %H:%M} UTC)" for alarm in found.standing],
        "watched": found.looked,
        "full_cap": now.full_cap,
        "full_cap_why": now.full_cap_why,
        "held": now.held,
        "waiting": now.waiting and now.waiting.version,
        "former": [one.version for one in now.former],
        "registry": follow(config, now) or "its alias names the champion",
    }
