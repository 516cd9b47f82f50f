"""Whether a page can be read and used by everyone: asked of Chromium, and of axe where it is.

axe-core (MPL) is no part of the project: FACTORY_AXE names its axe.min.js, from `npm install
axe-core`.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.browser import Browser, browser

AXE = Path(os.environ.get("FACTORY_AXE", "node_modules/axe-core/axe.min.js"))
LOOKS = ("1280 light", "1280 dark", "390 light", "390 dark")
"""Widths and themes in which pages are looked at."""

FAULTS = r"""(() => {
const found = [], say = (what, el) => found.push(`${what}: ${el.outerHTML.slice(0, 90)}`);
const shown = (el) => el.checkVisibility({ visibilityProperty: true, opacityProperty: true });
const flat = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (colour) => { flat.clearRect(0, 0, 1, 1); flat.fillStyle = colour;
  flat.fillRect(0, 0, 1, 1); return flat.getImageData(0, 0, 1, 1).data; };
const ground = (el) => { const over = []; for (; el; el = el.parentElement) {
  const c = rgba(getComputedStyle(el).backgroundColor); over.push(c); if (c[3] > 250) break; }
  return over.reduceRight((under, c) => blend(c, under), [255, 255, 255]); };
const blend = (c, under) => [0, 1, 2].map((i) => c[i] * c[3] / 255 + under[i] * (1 - c[3] / 255));
const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => { const v = c[i] / 255;
  return sum + w * (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (words.nextNode()) { const el = words.currentNode.parentElement;
  const unread = !words.currentNode.data.trim() || !shown(el);
  if (unread || el.closest("script, style, noscript")) continue;
  const style = getComputedStyle(el), size = parseFloat(style.fontSize);
  const ink = rgba(el.closest("svg") ? style.fill : style.color), under = ground(el);
  const [a, b] = [light(blend(ink, under)), light(under)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (large ? 3 : 4.5) - 0.01) say(`contrast ${ratio.toFixed(2)}`, el); }
for (const el of document.images) if (!el.hasAttribute("alt")) say("no alt", el);
for (const el of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
  if (!el.labels.length && !el.getAttribute("aria-label")) say("no label", el);
for (const el of document.querySelectorAll("a[href], button, summary, [tabindex='0']")) {
  if (!shown(el)) continue;
  const name = el.getAttribute("aria-label") || el.textContent.trim()
    || [...el.querySelectorAll("img")].map((i) => i.alt).join("");
  if (!name) say("no name", el);
  el.focus({ preventScroll: true, focusVisible: true });
  const style = getComputedStyle(el);
  if (document.activeElement === el && style.outlineStyle === "none" && style.boxShadow === "none")
    say("focus is not seen", el); }
for (const el of document.querySelectorAll("[id]"))
  if (document.querySelectorAll(`[id="${CSS.escape(el.id)}"]`).length > 1) say("id twice", el);
for (const el of document.querySelectorAll("*"))
  if (shown(el) && el.scrollWidth > el.clientWidth + 1
      && /auto|scroll/.test(getComputedStyle(el).overflowX) && el.clientWidth
      && el.tabIndex < 0 && !el.querySelector("a, button, input, summary"))
    say("scrolls without keys", el);
if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the screen");
if (!document.documentElement.lang) found.push("no language");
if (document.querySelectorAll("main").length !== 1) found.push("not one main part");
if (!document.querySelector("h1")) found.push("no h1");
return [...new Set(found)]; })()"""
"""Expression -> faults of a page by WCAG 2.2 AA: contrast 1.4.3, names 4.1.2, keys 2.1.1, 2.4.7."""

_AXE = """axe.run(document, {resultTypes: ["violations"]}).then((r) => r.violations
.filter((v) => ["serious", "critical"].includes(v.impact))
.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 90)).join(" | ")}`))"""


def axe() -> str:
    """Return axe-core's source, or skip."""
    if not AXE.is_file():
        pytest.skip("axe-core is not here: FACTORY_AXE names its axe.min.js (npm install axe-core)")
    return AXE.read_text(encoding="utf-8")


def faults(tab: Browser, addresses: list[str], source: str | None = None) -> dict[str, Any]:
    """Return 'look address' -> what is wrong there; of axe's findings the serious ones.

    Args:
        source: of axe-core; None: Chromium alone is asked.
    """
    return dict(_faults(tab, addresses, source))


def faults_of(page: Path) -> dict[str, Any]:
    """Return what is wrong with a page that lies in a file, axe's findings among it where it is."""
    with browser() as tab:
        found = faults(tab, [page.as_uri()])
        if AXE.is_file():
            found |= faults(tab, [f"{page.as_uri()}?axe"], axe())
    return found


def _faults(tab: Browser, addresses: list[str], source: str | None) -> Iterator[tuple[str, Any]]:
    question = FAULTS if source is None else f"{source};0,{_AXE}"
    for look in LOOKS:
        for address in addresses:
            steps = [("look", look), ("go", address), ("read", question)]
            found = tab.steps(*steps)
            assert found, f"{json.dumps(address)} gave no answer"
            if found[0]:
                yield f"{look} {address}", found[0]
