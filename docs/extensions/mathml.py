"""Equations as MathML, which browsers show without a script and without the network."""

from __future__ import annotations

import re
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Docutils puts the index of an accented letter beneath the letter: x-hat with index 0 must be (x-hat) index 0.
_LEAF = r"<(?:mi|mn|mo)[^>]*>[^<]*</(?:mi|mn|mo)>"
_ACCENTED = re.compile(rf"<munderover>\s*({_LEAF})\s*(.+?)\s*(<mo[^>]*>[ˉˆ]</mo>)\s*</munderover>", re.DOTALL)


def setup(app: Any) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(_render(node, as_block=False))
    raise SkipNode


def _block(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="math">{_render(node, as_block=True)}</div>\n')
    raise SkipNode


def _render(node: Any, *, as_block: bool) -> str:
    try:
        found = latex2mathml.tex2mathml(node.astext(), as_block=as_block)
        return _ACCENTED.sub(r'<msub><mover accent="true">\1\3</mover>\2</msub>', found)
    except MathError as error:
        logger.warning("equation cannot be shown: %s", error, location=node)
        return ""
