"""Drop files in a bucket; your function turns each into rows; SQL answers.

from pipeline import Object, Pipeline
"""

from pipeline._version import __version__
from pipeline.declare.pipeline import Pipeline
from pipeline.errors import InputRejected, SourceChanged
from pipeline.work.object import Object

__all__ = ["InputRejected", "Object", "Pipeline", "SourceChanged", "__version__"]
