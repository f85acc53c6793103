"""What defenses and attacks are called, with their settings. Pure."""

from __future__ import annotations

from mibench.publish import text
from mibench.publish.model import Catalogue


def defense_name(catalogue: Catalogue, defense: str, label: str) -> str:
    return text.full_name(catalogue.defenses.get(defense, {}).get("title") or defense, defense, label)


def attack_name(catalogue: Catalogue, attack: str, label: str) -> str:
    title = catalogue.attacks.get(attack, {}).get("title") or attack
    return text.full_name(title, attack, label, keep=True)
