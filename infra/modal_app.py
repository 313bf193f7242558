"""The module that Modal imports, on the laptop that deploys and in each container: `tidemill deploy
FILE --bucket s3://...`, or

TIDEMILL_FILE=flows.py TIDEMILL_BUCKET=s3://my-bucket TIDEMILL_SECRET=my-bucket modal deploy
infra/modal_app.py
"""

from infra.app import build

app = build(globals())
