"""Downloads from a server on this machine that cuts connections, asks for an agreement, or is not there."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.api import DataError
from workloads.full.data.criteo import CriteoDays
from workloads.full.data.download import download

CONTENT = bytes(range(256)) * 40
CUT = 3000


class Server(http.server.BaseHTTPRequestHandler):
    """`/signed` wants an agreement, `/cut` breaks off the first time that it is asked, `/whole` gives no ranges."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        begin = self.headers.get("Range")
        self.asked.append((self.path, begin))
        if self.path not in ("/cut", "/whole"):
            self.send_error(403 if self.path == "/signed" else 404)
            return
        is_first = [path for path, _ in self.asked].count("/cut") == 1 and self.path == "/cut"
        start = int(begin.removeprefix("bytes=").rstrip("-")) if begin and self.path == "/cut" else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : CUT if is_first else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.asked = []
    serving = http.server.HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()
    serving.server_close()


def test_a_download_that_was_cut_goes_on_where_it_stopped(server: str, tmp_path: Path):
    with pytest.raises(DataError, match=r"cut: .*Check the network and run make data again, which goes on where"):
        download([f"{server}/cut"], tmp_path / "raw/file.gz", terms="nowhere")
    assert not (tmp_path / "raw/file.gz").exists()
    download([f"{server}/cut"], tmp_path / "raw/file.gz", terms="nowhere")
    assert Server.asked == [("/cut", None), ("/cut", f"bytes={CUT}-")]
    assert (tmp_path / "raw/file.gz").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["file.gz"]


def test_a_server_that_knows_no_ranges_sends_all_of_it_anew(server: str, tmp_path: Path):
    (tmp_path / ".file.gz.partial").write_bytes(b"half")
    download([f"{server}/whole"], tmp_path / "file.gz", terms="nowhere")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_a_mirror_is_asked_where_a_place_has_moved(server: str, tmp_path: Path):
    download([f"{server}/moved", f"{server}/whole"], tmp_path / "file.gz", terms="nowhere")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_a_missing_agreement_says_where_to_sign_and_where_the_file_goes(server: str, tmp_path: Path):
    with pytest.raises(
        DataError, match=rf"only to those who have agreed .*Agree at https://terms.*{tmp_path}/file\.gz"
    ):
        download([f"{server}/signed", f"{server}/whole"], tmp_path / "file.gz", terms="https://terms")


def test_without_a_network_each_place_is_named_with_its_reason(tmp_path: Path):
    with pytest.raises(DataError, match=r"file\.gz cannot be fetched \(http://127\.0\.0\.1:9/x: .*refused.*make data"):
        download(["http://127.0.0.1:9/x"], tmp_path / "file.gz", terms="nowhere")


def test_size_terms_and_time_are_said_before_a_full_disk_is():
    source = CriteoDays()
    assert source.disk_megabytes > 1_000_000
    assert any("huggingface.co/datasets/criteo/CriteoClickLogs" in note for note in source.notes)
    assert any("half a day" in note for note in source.notes)
