"""What the fault suite shares."""

from tests.workspaces.conftest import api, bench, local_bench  # noqa: F401 - fixtures
