"""ACL policies: the rules we ship and what may be derived from them, read from HCL.

Only what policies are made of: `namespace` blocks with `policy`, `capabilities` and `variables`, and `node`,
`agent`, `operator` blocks with `policy`. Anything else is refused, so that a rule is never silently ignored.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Any

import msgspec

_TOKEN = re.compile(
    r'\s+|(?:#|//)[^\n]*|/\*.*?\*/|"((?:[^"\\]|\\.)*)"|([A-Za-z_][\w-]*)|([{}\[\]=,])', re.DOTALL
)
_LEVELS = ("deny", "list", "read", "write", "scale")
_READ = frozenset({"list-jobs", "parse-job", "read-job", "read-job-scaling", "list-scaling-policies"})
_WRITE = _READ | {
    *("scale-job", "submit-job", "dispatch-job", "read-logs", "read-fs", "alloc-exec", "alloc-lifecycle"),
    "submit-recommendation",
}
_OF_POLICY = {"read": _READ, "write": _WRITE, "deny": frozenset({"deny"})}
_VARIABLE_CAPABILITIES = frozenset({"read", "write", "list", "destroy", "deny"})


class PolicyError(ValueError):
    """A policy cannot be read; the text says what and where."""


class NamespaceRule(msgspec.Struct, frozen=True):
    """What one `namespace` block grants; `pattern` may hold `*`."""

    pattern: str
    capabilities: frozenset[str]
    variables: dict[str, frozenset[str]]


class Policy(msgspec.Struct, frozen=True):
    """One policy; `areas` maps node, agent and operator to read or write."""

    namespaces: tuple[NamespaceRule, ...] = ()
    areas: dict[str, str] = {}


class Rights(msgspec.Struct, frozen=True):
    """What a token may do. `management` may do everything."""

    policies: tuple[Policy, ...] = ()
    management: bool = False

    def in_namespace(self, namespace: str, capability: str) -> bool:
        """Has the token `capability` in a namespace."""
        return self.management or _allows(self._capabilities(namespace), capability)

    def any_in_namespace(self, namespace: str) -> bool:
        """Has it any right there."""
        capabilities = self._capabilities(namespace)
        return self.management or bool(capabilities and "deny" not in capabilities)

    def on_variable(self, namespace: str, path: str, capability: str) -> bool:
        """Has it `capability` on a variable: the most specific path decides, and a deny in it wins."""
        if self.management:
            return True
        found: list[tuple[int, frozenset[str]]] = []
        for rule in self._rules(namespace):
            found += [
                (len(pattern.replace("*", "")), capabilities)
                for pattern, capabilities in rule.variables.items()
                if fnmatch.fnmatchcase(path, pattern)
            ]
        if not found:
            return False
        longest = max(length for length, _ in found)
        granted = frozenset().union(*(capabilities for length, capabilities in found if length == longest))
        if capability == "list" and "deny" not in granted and granted & {"read", "write"}:
            return True
        return _allows(granted, capability)

    def on(self, area: str, level: str) -> bool:
        """Has it `read` or `write` on node, agent or operator."""
        levels = {policy.areas.get(area, "") for policy in self.policies}
        if "deny" in levels and not self.management:
            return False
        return self.management or "write" in levels or level in levels

    def _rules(self, namespace: str) -> list[NamespaceRule]:
        """The rules of the pattern that fits a namespace best."""
        fitting = [
            rule
            for policy in self.policies
            for rule in policy.namespaces
            if fnmatch.fnmatchcase(namespace, rule.pattern)
        ]
        best = max((len(rule.pattern.replace("*", "")) for rule in fitting), default=0)
        return [rule for rule in fitting if len(rule.pattern.replace("*", "")) == best]

    def _capabilities(self, namespace: str) -> frozenset[str]:
        return frozenset().union(*(rule.capabilities for rule in self._rules(namespace)))


def parse_policy(text: str) -> Policy:
    """Read a policy.

    Raises:
        PolicyError: it is no policy, or holds something that the double does not know.
    """
    namespaces: list[NamespaceRule] = []
    areas: dict[str, str] = {}
    for kind, label, body in _blocks(text):
        if kind == "namespace":
            namespaces.append(_namespace_rule(label or "default", body))
        elif kind in ("node", "agent", "operator"):
            level = str(body.get("policy", ""))
            if level not in _LEVELS or len(body) != 1:
                raise PolicyError(f"{kind} takes a policy of read, write or deny")
            areas[kind] = level
        else:
            raise PolicyError(
                f"the double knows no rule {kind!r}; it reads namespace, node, agent and operator"
            )
    return Policy(tuple(namespaces), areas)


def _allows(granted: frozenset[str], capability: str) -> bool:
    return "deny" not in granted and capability in granted


def _namespace_rule(pattern: str, body: dict[str, Any]) -> NamespaceRule:
    unknown = body.keys() - {"policy", "capabilities", "blocks"}
    if unknown:
        raise PolicyError(f"namespace {pattern!r}: the double knows no {', '.join(sorted(unknown))}")
    level = body.get("policy", "")
    if level and level not in _OF_POLICY:
        raise PolicyError(f"namespace {pattern!r}: a policy is read, write or deny, not {level!r}")
    capabilities = frozenset(body.get("capabilities", ())) | _OF_POLICY.get(level, frozenset())
    variables: dict[str, frozenset[str]] = {}
    for kind, _, inner in body.get("blocks", ()):
        if kind != "variables":
            raise PolicyError(f"namespace {pattern!r}: the double knows no {kind}")
        for word, path, rule in inner.get("blocks", ()):
            granted = frozenset(rule.get("capabilities", ()))
            if word != "path" or not path or not granted or granted - _VARIABLE_CAPABILITIES:
                raise PolicyError(f"variables of {pattern!r}: path {path!r} takes capabilities of variables")
            variables[path] = granted
    return NamespaceRule(pattern, capabilities, variables)


Block = tuple[str, str, dict[str, Any]]


def _blocks(text: str) -> list[Block]:
    tokens = _tokens(text)
    found, rest = _body(tokens, 0)
    if rest != len(tokens):
        raise PolicyError("a closing brace without an opening one")
    if found.keys() - {"blocks"}:
        raise PolicyError(f"{', '.join(found.keys() - {'blocks'})} stands outside of any block")
    blocks: list[Block] = found.get("blocks", [])
    return blocks


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text) of words, strings and punctuation."""
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            line = text.count("\n", 0, at) + 1
            raise PolicyError(f"line {line}: {text[at : at + 20]!r} is not understood")
        string, word, mark = match.groups()
        if string is not None:
            found.append(("string", string))
        elif word is not None:
            found.append(("word", word))
        elif mark is not None:
            found.append(("mark", mark))
        at = match.end()
    return found


def _body(tokens: list[tuple[str, str]], at: int) -> tuple[dict[str, Any], int]:
    """Attributes, and blocks under "blocks", up to the closing brace or the end."""
    found: dict[str, Any] = {}
    while at < len(tokens) and tokens[at] != ("mark", "}"):
        name = tokens[at][1]
        at += 1
        if at < len(tokens) and tokens[at] == ("mark", "="):
            found[name], at = _value(tokens, at + 1)
            continue
        label = ""
        if at < len(tokens) and tokens[at][0] == "string":
            label = tokens[at][1]
            at += 1
        if at >= len(tokens) or tokens[at] != ("mark", "{"):
            raise PolicyError(f"{name} {label}: a value or a block was expected")
        inner, at = _body(tokens, at + 1)
        if at >= len(tokens):
            raise PolicyError(f"{name} {label}: the block is not closed")
        found.setdefault("blocks", []).append((name, label, inner))
        at += 1
    return found, at


def _value(tokens: list[tuple[str, str]], at: int) -> tuple[Any, int]:
    """A string, or a list of strings."""
    if at < len(tokens) and tokens[at][0] == "string":
        return tokens[at][1], at + 1
    if at < len(tokens) and tokens[at] == ("mark", "["):
        values: list[str] = []
        at += 1
        while at < len(tokens) and tokens[at] != ("mark", "]"):
            if tokens[at][0] == "string":
                values.append(tokens[at][1])
            elif tokens[at] != ("mark", ","):
                break
            at += 1
        if at < len(tokens) and tokens[at] == ("mark", "]"):
            return values, at + 1
    raise PolicyError("a string or a list of strings was expected")
