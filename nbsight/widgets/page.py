"""A widget as one HTML file that works offline and without a kernel."""

from __future__ import annotations

import base64
import html
import json
from typing import Any

__all__ = ["standalone_page"]

# The module gets a model that remembers what it is told and can ask nobody.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ background: #ffffff; margin: 24px; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111418; }} }}
</style>
</head>
<body>
<div id="view"></div>
<script type="application/json" id="state">{state}</script>
<script type="module">
const bytes = text => Uint8Array.from(atob(text), char => char.charCodeAt(0));
const state = JSON.parse(document.getElementById('state').textContent);
const traits = {{ ...state.traits, data: new DataView(bytes(state.data).buffer) }};
const listeners = {{}};
const model = {{
  get: name => traits[name],
  set: (name, value) => {{
    traits[name] = value;
    (listeners['change:' + name] ?? []).forEach(listener => listener());
  }},
  on: (event, listener) => {{ (listeners[event] ??= []).push(listener); }},
  off: (event, listener) => {{
    listeners[event] = (listeners[event] ?? []).filter(one => one !== listener);
  }},
  save_changes: () => {{}},
  send: () => {{}},
}};
const url = URL.createObjectURL(new Blob([bytes(state.module)], {{ type: 'text/javascript' }}));
const {{ default: widget }} = await import(url);
widget.render({{ model, el: document.getElementById('view') }});
</script>
</body>
</html>
"""


def standalone_page(*, title: str, module: str, state: dict[str, Any], data: bytes) -> str:
    """The page's text.

    Args:
        title: Title of the browser's tab.
        module: Text of the widget's ES module.
        state: Traits that JSON knows.
        data: The bytes trait.
    """
    content = json.dumps(
        {
            "traits": state,
            "data": base64.b64encode(data).decode(),
            "module": base64.b64encode(module.encode()).decode(),
        }
    )
    # a prompt may hold "</script>"
    return PAGE.format(title=html.escape(title), state=content.replace("<", "\\u003c"))
