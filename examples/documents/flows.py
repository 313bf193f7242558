"""Long documents become passages, one row each, fit for search.

They are submitted one by one from a web server (see web.py).

    tidemill deploy examples/documents/flows.py --bucket s3://my-bucket --secret my-bucket-keys
    tidemill submit examples/documents/flows.py uploads/documents/report.md \\
        --bucket s3://my-bucket --engine modal
    tidemill jobs wait examples/documents/flows.py JOB --bucket s3://my-bucket

A document may take an hour. What became of a job is kept in the bucket, for as long as the bucket
is.
"""

from collections.abc import Iterator

from tidemill import InputRejected, Object, Pipeline

documents = Pipeline("documents", source="uploads/documents/", schedule="0 5 * * *")
WORDS_MAX = 120


@documents.transform(match=["**/*.md", "**/*.txt"], timeout_s=3600, memory_mb=2048)
def passages(obj: Object):
    number = 0
    for heading, words in sections(obj):
        for first in range(0, len(words), WORDS_MAX):
            number += 1
            some = words[first : first + WORDS_MAX]
            yield {
                "document": obj.name,
                "passage": number,
                "heading": heading,
                "words": len(some),
                "text": " ".join(some),
            }
    if not number:
        raise InputRejected("the document has no text")


def sections(obj: Object) -> Iterator[tuple[str, list[str]]]:
    """Headings, each with the words below it."""
    heading, words = "", []
    for line in obj.lines():
        if line.startswith("#"):
            yield heading, words
            heading, words = line.strip("# \n"), []
        else:
            words += line.split()
    yield heading, words
