"""What is installed of Jupyter's front ends, and what their pages are told of it.

Reads the packages `notebook`, `jupyterlab` and `jupyterlab_server` through their own classes and functions: the two
applications are made as objects that hold their configuration, and are never started. Made once in each worker, off
the event loop, because it reads a hundred files. It never reads what belongs to a user, and it answers no request.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import jupyter_server
from jinja2 import Environment, FileSystemLoader
from jupyter_core.paths import jupyter_config_dir
from jupyter_server import DEFAULT_STATIC_FILES_PATH
from jupyter_server import version_info as jupyter_server_version
from jupyter_server_mathjax.app import STATIC_ASSETS_PATH
from jupyterlab_server.config import LabConfig, get_federated_extensions, get_page_config
from jupyterlab_server.handlers import LabHandler
from jupyterlab_server.licenses_handler import LicensesManager
from jupyterlab_server.settings_utils import _get_overrides
from jupyterlab_server.themes_handler import ThemesHandler

from server.frontend.packages import JupyterNotebookApp, LabApp, NotebookHandler

HERE: Final = Path(__file__).parent
SETTINGS_DIR: Final = str(HERE / "settings")  # our overrides, and the plugins that are switched off
TEMPLATES_DIR: Final = str(HERE / "templates")  # our own pages, each made of one of theirs
EXTENSION_DIR: Final = str(HERE / "extension")  # our own federated extensions; they come first
# What a kernel does beside a cell that runs, on its control channel: that it is through with that says nothing of the
# cell. Jupyter's server names some of these to its pages, and more that would hide what a kernel does at all.
BESIDE_CELLS: Final = (
    "create_subshell_request",
    "debug_request",
    "delete_subshell_request",
    "interrupt_request",
    "list_subshell_request",
    "shutdown_request",
    "usage_request",
)
# Directories of this server: the front ends tell them to nobody, and its users need not know them.
_OURS_ALONE: Final = (
    "appSettingsDir",
    "extraLabextensionsPath",
    "jupyterConfigDir",
    "labextensionsPath",
    "schemasDir",
    "staticDir",
    "templatesDir",
    "themesDir",
    "userSettingsDir",
    "workspacesDir",
)

log = logging.getLogger(__name__)


class Catalogue:
    """The installed front ends. Making one blocks for some 0.1 s."""

    def __init__(self) -> None:
        self.lab = LabApp(
            app_settings_dir=SETTINGS_DIR, extra_labextensions_path=[EXTENSION_DIR], news_url=None, log=log
        )
        self.notebook = JupyterNotebookApp(
            app_settings_dir=SETTINGS_DIR, extra_labextensions_path=[EXTENSION_DIR], log=log
        )
        for app in (self.lab, self.notebook):
            _without_slashes(app)
        self.labextensions_path: list[str] = [*self.lab.extra_labextensions_path, *self.lab.labextensions_path]
        self.overrides, error = _get_overrides(SETTINGS_DIR)
        if error:
            log.warning("Settings overrides cannot be read: %s", error)
        self.custom_css = _custom_css()
        self.mathjax = Path(STATIC_ASSETS_PATH)
        self.jupyter_static = Path(DEFAULT_STATIC_FILES_PATH)
        self.api_spec = Path(jupyter_server.__file__).parent / "services" / "api" / "api.yaml"
        self.extensions: dict[str, Path] = {
            name: Path(found["ext_path"]) for name, found in get_federated_extensions(self.labextensions_path).items()
        }
        self.theme_dirs = [*(path / "themes" for path in self.extensions.values()), Path(self.lab.themes_dir)]
        self._jinja = {app.name: _templates(app) for app in (self.lab, self.notebook)}
        self._page_config = {"lab": self._lab_config(), "notebook": self._notebook_config()}

    def page(self, app: str, template: str, **told: Any) -> str:
        """The HTML of a page of `app` ("lab" or "notebook"). `told`: what its page config has besides."""
        config = self._page_config[app] | told
        rendered: str = (
            self._jinja[app]
            .get_template(template)
            .render(page_config=config, base_url="/", ws_url="", custom_css=bool(self.custom_css))
        )
        return rendered

    def theme_css(self, file: Path, name: str) -> bytes:
        """A theme's style sheet, whose relative addresses lead to the API of themes. `name`: as it was asked for."""
        handler: Any = SimpleNamespace(absolute_path=str(file), themes_url=self.lab.themes_url.rstrip("/"), path=name)
        return ThemesHandler._get_css(handler)

    def license_report(self, kind: str, bundle: str, full_text: bool) -> tuple[str, str]:
        """(report, content type) of one bundle or all of them.

        A bundle is named, and not described by a pattern as in Jupyter: a pattern can be one that never ends.
        """
        pattern = re.escape(bundle) + "$" if bundle and bundle != ".*" else ".*"
        return LicensesManager(parent=self.lab).report(kind, pattern, full_text)

    def _lab_config(self) -> dict[str, Any]:
        # What LabApp.initialize_handlers tells the pages, of which the rest sets up a Tornado server.
        data = {
            "buildAvailable": False,
            "buildCheck": False,
            "devMode": False,
            "exposeAppInBrowser": False,
            "quitButton": False,
            "allow_hidden_files": False,
            "delete_to_trash": False,
            "token": "",
            "news": {"disabled": True},
            "notebookVersion": json.dumps(jupyter_server_version),
        }
        handler = self._handler(self.lab, data)
        return self._told(LabHandler.get_page_config.__wrapped__(handler))

    def _notebook_config(self) -> dict[str, Any]:
        handler = self._handler(self.notebook, {})
        return self._told(NotebookHandler.get_page_config(handler))

    def _handler(self, app: Any, data: dict[str, Any]) -> Any:
        """What stands for a request's handler where a page config is put together: the same for every request."""
        return SimpleNamespace(
            application=SimpleNamespace(),
            base_url="/",
            extensionapp=app,
            log=log,
            mathjax_url="/",  # MathJax comes with the bundles; without this the default is an address elsewhere
            name=app.name,
            serverapp=SimpleNamespace(preferred_dir="", contents_manager=SimpleNamespace(preferred_dir="")),
            settings={
                "base_url": "/",
                "mathjax_url": "/",
                "page_config_data": data,
                "server_root_dir": "",
                "terminals_available": False,
                "token": "",
            },
            static_url_prefix=f"/static/{app.name}/",
        )

    def _told(self, config: dict[str, Any]) -> dict[str, Any]:
        """A page config without what is this server's business alone, and with what is switched off."""
        off = get_page_config(self.labextensions_path, SETTINGS_DIR)["disabledExtensions"]
        told = {name: value for name, value in config.items() if name not in _OURS_ALONE}
        return told | {
            "disabledExtensions": sorted({*told["disabledExtensions"], *off}),
            "fullMathjaxUrl": "",
            "untracked_message_types": list(BESIDE_CELLS),
        }


def _without_slashes(app: Any) -> None:
    """As `jupyterlab_server.handlers.add_handlers` does: the pages put a slash after each of these addresses."""
    for name in LabConfig.class_trait_names():
        if name.endswith("_url"):
            setattr(app, name, getattr(app, name).rstrip("/"))


def _templates(app: Any) -> Environment:
    """The environment in which jupyter_server renders an application's templates."""
    return Environment(
        loader=FileSystemLoader([TEMPLATES_DIR, app.templates_dir, *app.template_paths]),
        extensions=["jinja2.ext.i18n"],
        autoescape=True,
    )


def _custom_css() -> str:
    """The style sheet that the operator has put where Jupyter looks for it; empty when there is none."""
    file = Path(jupyter_config_dir()) / "custom" / "custom.css"
    return file.read_text(encoding="utf-8") if file.is_file() else ""
