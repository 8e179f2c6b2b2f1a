"""An ASGI application written in C, for uvicorn: answers GET / and POST /echo.

python -m uvicorn examples.awaitables.asgi_app:app --interface asgi3 --lifespan off \\
    --loop hybridloop:new_event_loop
"""

from __future__ import annotations

from examples.awaitables.extensions import build_c

app = build_c("asgi").App()
