"""The recipe: one checked object that says all that a training is told."""

from manyheads.recipe.describe import Setting, describe_settings, json_schema
from manyheads.recipe.schema import (
    EncoderSettings,
    MixingSettings,
    Recipe,
    ScheduleSettings,
    TaskSettings,
)

__all__ = [
    "EncoderSettings",
    "MixingSettings",
    "Recipe",
    "ScheduleSettings",
    "Setting",
    "TaskSettings",
    "describe_settings",
    "json_schema",
]
