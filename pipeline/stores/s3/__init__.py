"""An S3 bucket, on AWS or a service like it."""
