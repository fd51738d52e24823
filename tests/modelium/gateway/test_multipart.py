from __future__ import annotations

import pytest

from modelium.gateway.multipart import MAX_PARTS, form_fields, renamed_form
from modelium.gateway.problems import HttpProblem


def form(**fields: str) -> bytes:
    parts = [
        f'--B\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    return ("".join(parts) + "--B--\r\n").encode()


def test_fields_are_read_and_long_ones_left_alone() -> None:
    found = form_fields(form(model="m", stream="true", prompt="x" * 5000, empty=""))
    assert found == {"model": "m", "stream": True, "empty": ""}
    assert form_fields(form(model="m"))["stream"] is False


def test_a_file_that_is_called_model_is_not_the_model() -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; filename="x; name=model"; name="file"\r\n\r\n'
        b'evil\r\n--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B--'
    )
    assert form_fields(body)["model"] == "m"
    assert renamed_form(body, "n").endswith(b"\r\n\r\nn\r\n--B--")
    assert b"evil" in renamed_form(body, "n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--",
        b"\r\n",
        b"--\r\n",
        b"--B\r\n",
        form(**{f"f{number}": "" for number in range(MAX_PARTS + 1)}),
        form(model="m")[:-8],
        form(model="m")[:-7] + b"\r\n" + form(model="other"),
        b"--" + b"B" * 100 + b"\r\n",
        b"--B\r\n" + b"x" * 5000 + b"\r\n\r\n\r\n--B--",
    ],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(HttpProblem, match="not a multipart form"):
        form_fields(body)
