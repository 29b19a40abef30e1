"""Which images a task may have, how they come, and what becomes of one that cannot be had."""

import contextlib
from collections.abc import Iterator

import docker
import pytest

from domain.errors import Category, Failure
from tests.containers import images, registry
from tests.containers.registry import Registry
from tests.workspaces.conftest import ContainerBench

pytestmark = pytest.mark.containers


async def refused(bench: ContainerBench) -> Failure:
    """Give the failure of this order's creation; nothing of it is left."""
    with pytest.raises(Failure) as caught:
        await bench.provider.create(bench.order, bench.grant())
    assert caught.value.error.category is Category.INPUT
    assert not caught.value.error.retryable
    assert caught.value.error.guidance
    return caught.value


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("another/image:1", "image_not_allowed"),
        ("taskrunner-test/absent:1", "image_missing"),
        (images.BARE, "image_unusable"),
    ],
)
async def test_an_image_that_cannot_be_had_is_the_tasks_fault(bench: ContainerBench, image: str, code: str) -> None:
    """Not allowed, not here, without Python: category `input`, and the image's name."""
    bench.rules = bench.rules.model_copy(update={"images": ["taskrunner-test/*"]})
    bench.new(command=["true"], image=image)
    failure = await refused(bench)
    assert failure.error.code == code
    assert image in failure.error.message


async def test_more_than_the_node_gives_is_the_tasks_fault(bench: ContainerBench) -> None:
    """Refused by name before anything is made."""
    bench.rules = bench.rules.model_copy(update={"most": {"disk_mb": 100}})
    bench.new(command=["true"], resources={"disk_mb": 101})
    failure = await refused(bench)
    assert failure.error.code == "resources_not_allowed"
    assert "disk_mb 101 (at most 100)" in failure.error.message
    assert not bench.base.exists()


async def test_a_node_without_an_image_asks_for_one(bench: ContainerBench) -> None:
    """A task that names none is refused where the node has no default."""
    bench.rules = bench.rules.model_copy(update={"image": ""})
    bench.new(command=["true"])
    assert (await refused(bench)).error.code == "image_not_allowed"


async def test_an_image_is_named_by_its_digest(bench: ContainerBench) -> None:
    """The id of an image that is here, allowed by pattern."""
    digest = (await bench.client.images.inspect(images.WORKSPACE))["Id"]
    bench.rules = bench.rules.model_copy(update={"images": ["sha256:*"]})
    ended = await bench.run("exit 5", image=digest)
    assert ended.exit_code == 5


async def test_an_image_brings_its_environment_and_no_room(bench: ContainerBench) -> None:
    """Its variables reach commands; its volumes are memory, not folders of the node's disk."""
    await bench.run("echo $FURNISHED; grep ' /cache ' /proc/mounts | cut -d' ' -f1", image=images.FURNISHED)
    assert bench.api.log == b"yes\ntmpfs\n"
    assert not (await bench.client.volumes.list())["Volumes"]


@pytest.fixture(scope="module")
def root() -> bytes:
    """Give a root file system with Python."""
    return images.workspace()


@pytest.fixture
def remote(engine_address: str, root: bytes) -> Iterator[Registry]:
    """Give a registry with an image that this engine does not have, and let the engine forget it afterwards."""
    with registry.serving(root) as served:
        yield served
    with contextlib.closing(docker.DockerClient(base_url=engine_address)) as client:
        for name in (served.image, served.pinned):
            with contextlib.suppress(docker.errors.ImageNotFound):
                client.images.remove(name, force=True)


@pytest.mark.parametrize("how", ["image", "pinned"])
async def test_an_image_that_is_missing_is_pulled_once(bench: ContainerBench, remote: Registry, how: str) -> None:
    """By its name and by its digest; for the second workspace nobody is asked."""
    name = str(getattr(remote, how))
    bench.rules = bench.rules.model_copy(update={"images": [name], "pull": "missing"})
    assert (await bench.run("exit 5", image=name)).exit_code == 5
    asked = list(remote.asked)
    assert any("/manifests/" in path for path in asked)
    assert (await bench.run("exit 6", image=name)).exit_code == 6
    assert remote.asked == asked


async def test_an_image_that_the_registry_has_not_is_the_tasks_fault(bench: ContainerBench, remote: Registry) -> None:
    """Missing, with what the registry said."""
    name = remote.image + "-nobody-has-this"
    bench.rules = bench.rules.model_copy(update={"images": [name], "pull": "missing"})
    bench.new(command=["true"], image=name)
    failure = await refused(bench)
    assert failure.error.code == "image_missing"
    assert "cannot be pulled" in failure.error.message


async def test_a_registry_that_is_away_is_nobodys_fault(bench: ContainerBench) -> None:
    """Transient: the step is tried again."""
    with registry.serving(b"") as gone:
        name = gone.image
    bench.rules = bench.rules.model_copy(update={"images": [name], "pull": "missing"})
    bench.new(command=["true"], image=name)
    with pytest.raises(Failure) as caught:
        await bench.provider.create(bench.order, bench.grant())
    assert (caught.value.error.code, caught.value.error.retryable) == ("engine_failed", True)
