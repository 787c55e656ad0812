"""What was found of a wish list, for programs: JSON, SARIF and GitLab's Code Quality."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ... import __version__
from .check import Checked
from .findings import Finding, Level, Rule

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_GITLAB_SEVERITIES: Mapping[Level, str] = {Level.ERROR: "major", Level.WARNING: "minor"}


def as_json(checked: Checked) -> str:
    """All of it, as an object that docs/checking-wish-lists.md describes."""
    members = {
        "list": checked.path.as_posix(),
        "repository": checked.repository,
        "problems": len(checked.counted(Level.ERROR)),
        "warnings": len(checked.counted(Level.WARNING)),
        "to_fetch": checked.to_fetch,
        "silent": list(checked.silent),
        "findings": [_plain(item) for item in checked.findings],
        "images": [asdict(item) for item in checked.images],
        "globs": [asdict(item) for item in checked.globs],
        "leaving": list(checked.leaving),
    }
    return _text(members)


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule.id,
        "level": finding.level,
        "path": finding.path.as_posix(),
        "line": finding.line,
        "subject": finding.subject,
        "message": finding.message,
        "known": finding.known,
        "fingerprint": finding.fingerprint,
    }


def as_gitlab(checked: Checked) -> str:
    """The findings as GitLab's Code Quality has them ("Code Quality report format").

    It shows one finding a fingerprint, and compares those of the two branches itself.
    """
    issues = [
        {
            "description": item.message,
            "check_name": f"duccmake/{item.rule.id}",
            "fingerprint": item.fingerprint,
            "severity": _GITLAB_SEVERITIES[item.level],
            "location": {"path": item.path.as_posix(), "lines": {"begin": item.line}},
        }
        for item in checked.findings
    ]
    return _text(issues)


def as_sarif(checked: Checked) -> str:
    """The findings as SARIF 2.1.0, with what GitHub's code scanning asks of it.

    That refuses a whole file for one result without a location in the repository, and takes
    ``primaryLocationLineHash`` for what a result is known by.
    """
    rules = list(Rule)
    driver = {
        "name": "duccmake",
        "version": __version__,
        "rules": [
            {
                "id": rule.id,
                "shortDescription": {"text": f"{rule.summary}."},
                "defaultConfiguration": {"level": rule.level},
            }
            for rule in rules
        ],
    }
    results = [_result(item, rules.index(item.rule), checked) for item in checked.findings]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return _text({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]})


def _result(finding: Finding, rule: int, checked: Checked) -> dict[str, Any]:
    location = {
        "artifactLocation": {"uri": _uri(finding.path)},
        "region": {"startLine": finding.line},
    }
    result = {
        "ruleId": finding.rule.id,
        "ruleIndex": rule,
        "level": finding.level,
        "message": {"text": finding.message},
        "locations": [{"physicalLocation": location}],
        "fingerprints": {"duccmake/v1": finding.fingerprint},
        "partialFingerprints": {"primaryLocationLineHash": finding.fingerprint},
    }
    if checked.is_compared:
        result["baselineState"] = "unchanged" if finding.known else "new"
    return result


def _uri(path: Path) -> str:
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _text(members: object) -> str:
    return json.dumps(members, indent=1) + "\n"
