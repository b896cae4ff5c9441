"""What iGibson's categories are to a search: the typed form of `config/igibson.yaml`, whose header explains it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import yaml

from smallplan_planner.names import meaning
from smallplan_planner.priors import Priors, load_priors
from smallplan_planner.resources import resource
from smallplan_training.errors import UserError


class Kind(Enum):
    """The values are the sections of the file."""

    BUILDING = "building"
    DOOR = "doors"
    CONTAINER = "containers"
    FURNITURE = "furniture"
    OBJECT = "objects"
    LEFT_OUT = "left_out"


@dataclass(frozen=True)
class Categories:
    """Kinds by iGibson's category, and room types by iGibson's."""

    kinds: dict[str, Kind]
    rooms: dict[str, str]
    priors: Priors
    path: Path

    def kind_of(self, category: str, source: str) -> Kind:
        """What a thing of this category is; what the table does not list is asked of the priors.

        Raises: UserError: neither knows the category; the message names `source`, the file that it stands in.
        """
        kind = self.kinds.get(category)
        if kind is not None:
            return kind
        word = meaning(category)
        if word in self.priors.furniture:
            return Kind.CONTAINER if self.priors.furniture[word].openable else Kind.FURNITURE
        if word in self.priors.objects:
            return Kind.OBJECT
        raise UserError(
            f"{source}: the category {category!r} is unknown; list it in {self.path} under one of "
            f"{', '.join(item.value for item in Kind)}, or in a copy that you give with --categories"
        )

    def word_for(self, category: str) -> str:
        """The word of the priors for a category, else the category in words."""
        word = meaning(category)
        return word if word in self.priors.furniture or word in self.priors.objects else category.replace("_", " ")

    def room_type(self, name: str) -> str:
        """Our word for iGibson's type of room."""
        return self.rooms.get(name, name.replace("_", " "))


def load_categories(path: Path | None = None) -> Categories:
    """The table in this file, by default the project's; raises `UserError` that names the file and what is wrong."""
    if path is None:
        try:
            path = resource("config", "igibson.yaml")
        except FileNotFoundError as error:
            raise UserError(str(error)) from error
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        kinds: dict[str, Kind] = {}
        for section, names in data["categories"].items():
            for name in names:
                if name in kinds:
                    raise ValueError(f"{name!r} is listed under {kinds[name].value} and under {section}")
                kinds[str(name)] = Kind(section)
        rooms = {str(name): str(word) for name, word in data["rooms"].items()}
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}; give a table of categories") from error
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: not a table of categories ({type(error).__name__}: {error}); see its header"
        ) from error
    return Categories(kinds, rooms, load_priors(), path)
