"""The addresses of the front ends; any worker answers them."""

from __future__ import annotations

from typing import Final

from server.frontend import bundles, config, embed, events, files, lab_api, nbconvert, pages, small
from server.owned import Handler

SPACE: Final = pages.WORKSPACE
CONFIG: Final = r"/api/config/{section:\w+}"

ROUTES: Final[list[tuple[str, str, Handler]]] = [
    # Notebook 7
    ("GET", "/tree", pages.tree),
    ("GET", "/tree/{path:.*}", pages.tree),
    ("GET", "/notebooks", pages.notebooks),
    ("GET", "/notebooks/{path:.*}", pages.notebooks),
    ("GET", "/edit", pages.edit),
    ("GET", "/edit/{path:.*}", pages.edit),
    ("GET", "/consoles/{path:.*}", pages.consoles),
    ("GET", "/embed/{path:.+}", embed.embed),
    ("GET", "/embedded/notebooks/{path:.+}", embed.embed),
    # JupyterLab's API and files, before its pages, which take all that is left below /lab
    ("GET", "/lab/api/settings{slash:/?}", lab_api.list_settings),
    ("GET", "/lab/api/settings/{id:.+}", lab_api.get_settings),
    ("PUT", "/lab/api/settings/{id:.+}", lab_api.put_settings),
    ("GET", "/lab/api/workspaces{slash:/?}", lab_api.list_workspaces),
    ("GET", "/lab/api/workspaces/{name:.+}", lab_api.get_workspace),
    ("PUT", "/lab/api/workspaces/{name:.+}", lab_api.put_workspace),
    ("DELETE", "/lab/api/workspaces/{name:.+}", lab_api.delete_workspace),
    ("GET", "/lab/api/translations{slash:/?}", lab_api.list_translations),
    ("GET", "/lab/api/translations/{locale:.+}", lab_api.get_translation),
    ("GET", "/lab/api/themes/{file:.+}", lab_api.theme_file),
    ("GET", "/lab/api/licenses{slash:/?}", lab_api.licenses),
    ("GET", "/lab/api/listings/{file:.+}", lab_api.listings),
    ("GET", "/lab/api/{rest:.*}", lab_api.switched_off),
    ("GET", "/lab/extensions/{file:.+}", bundles.extension_file),
    # JupyterLab
    ("GET", "/lab", pages.lab),
    ("GET", "/lab/", pages.without_slash),
    ("GET", "/lab/tree/{path:.*}", pages.lab),
    ("GET", f"/lab/workspaces/{SPACE}", pages.lab),
    ("GET", f"/lab/workspaces/{SPACE}/tree/{{path:.*}}", pages.lab),
    ("GET", "/doc", pages.lab),
    ("GET", "/doc/tree/{path:.*}", pages.lab),
    ("GET", f"/doc/workspaces/{SPACE}/tree/{{path:.*}}", pages.lab),
    ("GET", "/lab/{rest:.*}", pages.lab_not_found),
    # What both load
    ("GET", "/static/notebook/favicons/{file:.+}", bundles.app_icon),
    ("GET", "/static/{app:lab|notebook}/{file:.+}", bundles.bundle_file),
    ("GET", "/static/mathjax/{file:.+}", bundles.mathjax_file),
    ("GET", "/static/{folder:favicons|logo}/{file:.+}", bundles.icon),
    ("GET", "/favicon.ico", bundles.favicon),
    ("GET", "/custom/custom.css", small.custom_css),
    # A user's files as they are, and in other formats
    ("GET", "/files/{path:.+}", files.user_file),
    ("GET", "/api/nbconvert", nbconvert.list_formats),
    ("GET", r"/nbconvert/{format:\w+}/{path:.+}", nbconvert.export),
    ("POST", r"/nbconvert/{format:\w+}", nbconvert.export_model),
    # Small parts of jupyter_server's API
    ("GET", "/api/events/subscribe", events.subscribe),
    ("POST", "/api/events", events.emit),
    ("GET", "/api/spec.yaml", small.api_spec),
    ("GET", CONFIG, config.get_section),
    ("PUT", CONFIG, config.put_section),
    ("PATCH", CONFIG, config.patch_section),
    ("GET", "/api/notebooks{path:(?:/.*)?}", small.notebooks_moved),
    ("GET", "/api/terminals", small.no_terminals),
    ("POST", "/api/terminals", small.no_terminals),
    ("GET", "/lsp/status", small.language_servers),
]
