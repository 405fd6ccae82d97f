"""Initializers."""

from __future__ import annotations

import pytest

from kfasync.errors import InvalidSpecError
from kfasync.jobs import (
    DataCacheInitializer,
    HuggingFaceDatasetInitializer,
    HuggingFaceModelInitializer,
    S3DatasetInitializer,
    S3ModelInitializer,
)


@pytest.mark.parametrize("kind", [S3DatasetInitializer, S3ModelInitializer])
def test_s3_needs_an_s3_address(kind: type[S3DatasetInitializer | S3ModelInitializer]) -> None:
    assert kind("s3://bucket/path").storage_uri == "s3://bucket/path"
    with pytest.raises(InvalidSpecError, match="s3://bucket/path"):
        kind("https://bucket/path")


@pytest.mark.parametrize("uri", ["hf://a/b", "cache://schema", "cache://a/b/c"])
def test_a_cache_needs_a_schema_and_a_table(uri: str) -> None:
    with pytest.raises(InvalidSpecError, match="cache://schema/table"):
        DataCacheInitializer(uri, "s3://meta.json", 2)


def test_a_cache_needs_two_nodes() -> None:
    with pytest.raises(InvalidSpecError, match="at least 2"):
        DataCacheInitializer("cache://schema/table", "s3://meta.json", 1)


def test_secrets_stay_out_of_reprs() -> None:
    shown = repr(
        [
            HuggingFaceModelInitializer("hf://a/b", access_token="hush"),
            HuggingFaceDatasetInitializer("hf://a/b", access_token="hush"),
            S3ModelInitializer("s3://a/b", access_key_id="hush", secret_access_key="hush"),
            S3DatasetInitializer("s3://a/b", access_key_id="hush", secret_access_key="hush"),
        ]
    )
    assert "hush" not in shown


def test_other_formats_of_the_weights_are_ignored_by_default() -> None:
    first = HuggingFaceModelInitializer("hf://a/b")
    assert first.ignore_patterns is not None
    first.ignore_patterns.append("*.txt")
    assert HuggingFaceModelInitializer("hf://a/b").ignore_patterns == ["*.msgpack", "*.h5", "*.bin", "*.pt", "*.pth"]
