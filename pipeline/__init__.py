"""Drop files in a bucket; your function turns each into rows; SQL answers.

from pipeline import Object, Pipeline
"""

from pipeline.api import Pipeline
from pipeline.errors import InputRejected, SourceChanged
from pipeline.objects import Object

__all__ = ["InputRejected", "Object", "Pipeline", "SourceChanged", "__version__"]

__version__ = "0.1.0"
