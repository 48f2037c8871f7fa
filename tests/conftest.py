"""Fixtures that several test files share: both stages trained once on tiny images."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Both stages trained on grey 16x16 images (``tiny.TrainedStages``); do not write to its folders."""
    from tiny import TrainedStages

    return TrainedStages(tmp_path_factory.mktemp("trained"))
