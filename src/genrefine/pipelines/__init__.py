"""Whole models behind one call: load, generate, save."""

from genrefine.model_folder.checks import PROMPTS, check_component_folder, check_pipeline_folder, load_component
from genrefine.pipelines.class_pipeline import ClassPipeline, ClassRequest
from genrefine.pipelines.film import FilmRecorder
from genrefine.pipelines.inspection import InspectedStep, inspect
from genrefine.pipelines.loading import load_pipeline
from genrefine.pipelines.maps import CodeMap, change_map, entropy_map, random_map, surprise_map
from genrefine.pipelines.output import ClassPipelineOutput, TextPipelineOutput
from genrefine.pipelines.text_pipeline import TextPipeline
from genrefine.pipelines.text_request import TextRequest

__all__ = [
    "PROMPTS",
    "ClassPipeline",
    "ClassPipelineOutput",
    "ClassRequest",
    "CodeMap",
    "FilmRecorder",
    "InspectedStep",
    "TextPipeline",
    "TextPipelineOutput",
    "TextRequest",
    "change_map",
    "check_component_folder",
    "check_pipeline_folder",
    "entropy_map",
    "inspect",
    "load_component",
    "load_pipeline",
    "random_map",
    "surprise_map",
]
