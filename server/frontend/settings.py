"""JupyterLab's settings: what plugins can be set to, and what a user has set.

Owns what is kept of them in memory: the schemas with nobody's settings, per language, as JSON (in their own language
made once on each host); and of each user's own files what jupyterlab_server made of them, while the file stays the
same. All functions block, for threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import orjson
from jupyterlab_server.settings_utils import SETTINGS_EXTENSION, SchemaHandler, get_settings, save_settings
from jupyterlab_server.translation_utils import DEFAULT_LOCALE, L10N_SCHEMA_NAME, translator

from server.frontend.preferences import SETTINGS, Preferences
from server.frontend.shelf import shelved, stamp_of

if TYPE_CHECKING:
    from server.frontend.catalogue import Catalogue

NOWHERE: Final = "/dev/null"  # a directory without settings
KEPT_FILES: Final = 2_000  # users' settings in memory, some KiB each
KEPT_LANGUAGES: Final = 8

# jupyterlab_server's translator has one language for the whole process.
_TRANSLATOR: Final = threading.Lock()


class LabSettings:
    """The settings of all users, as their front ends ask for them."""

    def __init__(self, catalogue: Catalogue, shelf: Path) -> None:
        """`shelf`: the file that all workers of this host have the list in."""
        self._catalogue, self._shelf = catalogue, shelf
        self._translated: OrderedDict[str, dict[str, bytes]] = OrderedDict()
        self._own: OrderedDict[tuple[str, str, int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._default_locale = self._locale_in(NOWHERE)
        self._plain = self._listed_here(self._default_locale)
        self.ids_only = orjson.dumps({"settings": [{"id": plugin} for plugin in self._plain]})
        self.all_of_none = self._joined(self._plain)

    def knows(self, plugin: str) -> bool:
        """Whether a plugin of this id has settings. Ids are looked up here and never joined to a path unseen."""
        return plugin in self._plain

    def all(self, mine: Preferences) -> bytes:
        """Every plugin's settings, as JSON."""
        own = self._files(mine)
        if not own:
            return self.all_of_none
        locale = self.locale(mine)
        plugins = dict(self._plugins(locale))
        for plugin, file in own.items():
            plugins[plugin] = self._of_user(mine, plugin, file, locale)
        return self._joined(plugins)

    def one(self, mine: Preferences, plugin: str) -> bytes:
        """One plugin's settings, as JSON; `knows(plugin)` is true."""
        locale = self.locale(mine)
        file = self._files(mine).get(plugin)
        return self._of_user(mine, plugin, file, locale) if file else self._plugins(locale)[plugin]

    def save(self, mine: Preferences, plugin: str, raw: str) -> None:
        """Keep what a user has set. Raises jsonschema's ValidationError, ValueError, or ApiError for the bounds."""
        told = self._catalogue

        def write(directory: str) -> None:
            save_settings(told.lab.schemas_dir, directory, plugin, raw, told.overrides, told.labextensions_path)

        mine.replace(SETTINGS, write)

    def locale(self, mine: Preferences) -> str:
        """The language that a user has chosen."""
        file = self._files(mine).get(L10N_SCHEMA_NAME)
        if file is None:
            return self._default_locale
        return self._locale_in(str(mine.directory(SETTINGS)))

    def _locale_in(self, directory: str) -> str:
        told = self._catalogue
        asking: Any = SimpleNamespace(
            **self._where(directory), labextensions_path=told.labextensions_path, log=told.lab.log
        )
        locale: str = SchemaHandler.get_current_locale(asking)
        return locale

    def _files(self, mine: Preferences) -> dict[str, Path]:
        """A user's files of settings, by the id of the plugin; what no plugin has (any more) is left out."""
        directory = mine.directory(SETTINGS)
        found = {}
        for file in mine.files(SETTINGS):
            plugin = f"{file.parent.relative_to(directory)}:{file.name.removesuffix(SETTINGS_EXTENSION)}"
            if self.knows(plugin):
                found[plugin] = file
        return found

    def _where(self, directory: str) -> dict[str, Any]:
        return {
            "app_settings_dir": self._catalogue.lab.app_settings_dir,
            "schemas_dir": self._catalogue.lab.schemas_dir,
            "settings_dir": directory,
            "overrides": self._catalogue.overrides,
        }

    def _plugins(self, locale: str) -> dict[str, bytes]:
        """All plugins with nobody's settings, as JSON by id, in the order in which jupyterlab_server lists them."""
        if locale == self._default_locale:
            return self._plain
        with self._lock:
            kept = self._translated.get(locale)
        if kept is None:
            kept = self._listed(locale)
            with self._lock:
                self._translated[locale] = kept
                while len(self._translated) > KEPT_LANGUAGES:
                    self._translated.popitem(last=False)
        return kept

    def _listed_here(self, locale: str) -> dict[str, bytes]:
        if (
            locale.partition("_")[0] != DEFAULT_LOCALE
        ):  # translations come from packages of which the stamp knows nothing
            return self._listed(locale)
        overrides = orjson.dumps(self._catalogue.overrides, option=orjson.OPT_SORT_KEYS).decode()
        stamp = stamp_of(self._sources(), version("jupyterlab_server"), locale, overrides)
        return shelved(self._shelf, stamp, lambda: self._listed(locale))

    def _sources(self) -> Iterator[Path]:
        """The files that the list is made from."""
        places = [Path(self._catalogue.lab.schemas_dir)]
        for extension in self._catalogue.extensions.values():
            places.append(extension / "schemas")
            yield extension / "package.json"
        for place in places:
            yield from (file for file in place.rglob("*") if file.is_file())

    def _listed(self, locale: str) -> dict[str, bytes]:
        return {each["id"]: orjson.dumps(each) for each in self._asked(NOWHERE, locale)["settings"]}

    def _of_user(self, mine: Preferences, plugin: str, file: Path, locale: str) -> bytes:
        told = file.stat()
        name = (str(file), locale, told.st_mtime_ns, told.st_ino)
        with self._lock:
            kept = self._own.get(name)
        if kept is None:
            kept = orjson.dumps(self._asked(str(mine.directory(SETTINGS)), locale, plugin))
            with self._lock:
                self._own[name] = kept
                while len(self._own) > KEPT_FILES:
                    self._own.popitem(last=False)
        return kept

    def _asked(self, directory: str, locale: str, plugin: str = "") -> dict[str, Any]:
        told = self._catalogue
        with _TRANSLATOR:
            translator.set_locale(locale)
            found, warnings = get_settings(
                **self._where(directory),
                schema_name=plugin,
                labextensions_path=told.labextensions_path,
                translator=translator.translate_schema,
            )
        for warning in filter(None, warnings):
            told.lab.log.warning("%s", warning)
        return dict(found)

    @staticmethod
    def _joined(plugins: dict[str, bytes]) -> bytes:
        return b'{"settings":[' + b",".join(plugins.values()) + b"]}"
