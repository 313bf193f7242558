"""Texts go through a model in batches: which language is each in?

A class loads the model once for each container.

    tidemill deploy examples/languages/flows.py --bucket s3://my-bucket --secret my-bucket-keys
    tidemill status examples/languages/flows.py --bucket s3://my-bucket

Each call takes up to 32 texts; small uploads that come one by one wait up to half a second for
company. `status` says how full the batches are: a low figure means that `batch_wait_ms` is too
short, or the batch larger than the traffic. The containers get an L4, or an A10 where there is
none. This model (97 languages, shipped in its package) would do without; load yours in its place.
On a laptop the same file runs as it is.
"""

from tidemill import Object, Pipeline

languages = Pipeline("languages", source="uploads/texts/", schedule="*/5 * * * *")


@languages.transform(
    match="**/*.txt",
    gpu=["L4", "A10"],
    batch_size=32,
    batch_wait_ms=500,
    max_containers=4,
    scaledown_window_s=120,
    timeout_s=120,
    pip=["py3langid==0.4.0"],
)
class Detect:
    def load(self):
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self.model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def __call__(self, objs: list[Object]):
        found = [self.model.classify(obj.text()) for obj in objs]
        return [
            {"text": obj.name, "language": language, "probability": float(probability)}
            for obj, (language, probability) in zip(objs, found, strict=True)
        ]


languages.aggregate(
    "by_language",
    by=["language"],
    sql="SELECT language, count(*) AS texts FROM languages GROUP BY language",
)
