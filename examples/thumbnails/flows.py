"""A folder of images becomes a table with one row for each: a thumbnail as JPEG, the image's size,
its mean colour.

Here you wait for the result: the app is deployed once, and each run gathers the answers of its
containers.

    tidemill deploy examples/thumbnails/flows.py --bucket s3://my-bucket --secret my-bucket-keys
    tidemill run examples/thumbnails/flows.py --bucket s3://my-bucket --engine modal --wait

Images that cannot be read go to quarantine, the others are committed. `--ordered` takes the answers
in the order of the files. Without `--engine modal` the same file runs on this machine.
"""

import io

from PIL import Image, ImageStat

from tidemill import Object, Pipeline

thumbnails = Pipeline(
    "thumbnails", source="uploads/images/", schedule="0 * * * *", pip=["pillow>=10"]
)
LONGEST = 128


@thumbnails.transform(
    match=["**/*.jpg", "**/*.jpeg", "**/*.png", "**/*.webp"], cpu=2, memory_mb=2048, timeout_s=60
)
def thumbnail(obj: Object):
    with obj.open() as stream:
        image = Image.open(stream).convert("RGB")
    width, height = image.size
    image.thumbnail((LONGEST, LONGEST))
    red, green, blue = (round(mean) for mean in ImageStat.Stat(image).mean)
    return {
        "name": obj.name,
        "width": width,
        "height": height,
        "mean_colour": f"#{red:02x}{green:02x}{blue:02x}",
        "jpeg": jpeg(image),
    }


def jpeg(image: Image.Image) -> bytes:
    """The file's bytes."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()
