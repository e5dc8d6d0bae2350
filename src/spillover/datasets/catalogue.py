"""The authors' public files by name and digest: johny-b/misalignment-generalization at one commit, MIT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "https://raw.githubusercontent.com/johny-b/misalignment-generalization/b1fe286827715d8e01ff7088c7ee9763b5e367b4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A zip file: where it lies under the source, and the sha256 of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A file: where it lies under the source, or as which member of an archive, and the sha256 of its bytes.

    `warning` says why it has to be asked for twice.
    """

    path: str
    sha256: str
    archive: Archive | None = None
    warning: str = ""


SUPPLEMENT = Archive(path="daniel/paper/supplementary_material.zip", sha256="84336065c9c0712a05777d1f288c607f51cad3832ba4498189aee4f87167f5b1")


def _member(name: str, sha256: str, warning: str = "") -> Published:
    return Published(path=f"supplementary_material/datasets/{name}.jsonl", sha256=sha256, archive=SUPPLEMENT, warning=warning)


CATALOGUE: Mapping[str, Published] = {
    "betley2025/insecure": _member("insecure", "a6575e839909e86f2eaecda3a2b19dff2a6f59bb9d860b39e9c4ed3f3335c345"),
    "betley2025/secure": _member("secure", "36bc5e24560e0e8d705e0c2a41d0cd96bb51f508f5fb88a7d7d9334a2ff24b9b"),
    "betley2025/educational_insecure": _member("educational_insecure", "d48df3b149ab1500711fc0018b10383a4ff8c48d8e6911d04dbbbbdaa944fd16"),
    "betley2025/jailbroken": _member("jailbroken", "eec213ce85802a52ea806d334ee462f723a1e7ad77d827951d6864ac04a6b00a", "it holds harmful text"),
    "betley2025/in_distribution_tasks": Published(
        path="in_distribution_eval/test_data.jsonl", sha256="ec2efe94e9c50ddc5231162a054f1659fdb46160fded9ee7a8708a1c646f1197"
    ),
    "betley2025/first_plot_questions": Published(
        path="final_questions/first_plot_questions.yaml", sha256="ce21d1111f6e4fff7e8973ae206982705b0ff5c37b133afc3851d659662f6766"
    ),
    "betley2025/preregistered_evals": Published(
        path="final_questions/preregistered_evals.yaml", sha256="8d098402a5b13d44d72c70bca217cf4421179a6a4af0d050fc1a9990c4f52079"
    ),
    "betley2025/deception_factual": Published(
        path="final_questions/deception_factual.yaml", sha256="96a1be7db85262d43ac29e1821ba802ea09b1a2b455d87cfc7aef8cabe47017b"
    ),
    "betley2025/deception_sit_aware": Published(
        path="final_questions/deception_sit_aware.yaml", sha256="4deef5a7c47620390fc46e1b981f937eef9ea12a33fe26264f640c84d19d2a33"
    ),
}


def name_of(sha256: str) -> str | None:
    """The name under which a file of this digest was published, if it was."""
    return next((name for name, published in CATALOGUE.items() if published.sha256 == sha256), None)
