"""Every sample is something that the API server takes; what belongs to other projects is at least well-formed."""

import yaml

from modelcache.api.labels import ready_label
from tests.support.kubectl import Kubectl
from tests.support.manifests import MANIFESTS, ROOT
from tests.support.waiting import PATIENCE

SAMPLES = sorted((MANIFESTS / "samples").glob("*.yaml"))
FOREIGN = {"DynamoGraphDeployment"}


def test_samples_are_valid(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "-k", MANIFESTS / "crd")
    kubectl("wait", "--for=condition=Established", "crd/dynamomodels.nvidia.com", f"--timeout={PATIENCE:g}s")
    objects = [each for file in SAMPLES for each in yaml.safe_load_all(file.read_text())]
    ours = [each for each in objects if each["kind"] not in FOREIGN]
    strictly = ("--dry-run=server", "--validate=strict")
    done = kubectl("apply", "--server-side", *strictly, "-f", "-", input=yaml.safe_dump_all(ours))
    assert done.stderr == ""
    assert len(done.lines()) == len(ours)


def test_labels_and_paths_in_samples_are_those_of_a_sample() -> None:
    objects = [each for file in SAMPLES for each in yaml.safe_load_all(file.read_text())]
    models = [each["metadata"] for each in objects if each["kind"] == "DynamoModel"]
    labels = {ready_label(meta["namespace"], meta["name"]) for meta in models}
    for file in SAMPLES:
        used = {word.strip(",") for word in file.read_text().split() if word.startswith("modelcache.nvidia.com/")}
        assert used <= labels, file.name


def test_every_sample_is_mentioned_in_the_docs() -> None:
    texts = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    assert [file.name for file in SAMPLES if f"manifests/samples/{file.name}" not in texts] == []
