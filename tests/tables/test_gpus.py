from datetime import date

import pytest

from repotune.errors import UsageError
from repotune.records import Gpu
from repotune.tables import find_gpu, gpus

GIB = 2**30

# Dense operations of one SM in one clock, as the whitepapers of the architectures give them:
# fp16 with fp16 and with fp32 accumulation, tf32, plain fp32, int8, fp8.
GEFORCE_TURING = (1024, 512, None, 128, 2048, None)
GEFORCE_AMPERE = (1024, 512, 256, 256, 2048, None)
GEFORCE_ADA = (1024, 512, 256, 256, 2048, 1024)
PRO_TURING = (1024, 1024, None, 128, 2048, None)
PRO_AMPERE = (1024, 1024, 512, 256, 2048, None)
PRO_ADA = (1024, 1024, 512, 256, 2048, 2048)
RATES = {
    ("Turing", True): GEFORCE_TURING, ("Turing", False): PRO_TURING,
    ("Ampere", True): GEFORCE_AMPERE, ("Ampere", False): PRO_AMPERE,
    ("Ada Lovelace", True): GEFORCE_ADA, ("Ada Lovelace", False): PRO_ADA,
    ("Blackwell", True): GEFORCE_ADA, ("Blackwell", False): PRO_ADA,
    ("Volta", False): (1024, 1024, None, 128, None, None),
    ("Pascal", False): (256, 128, None, 128, None, None),
    ("Maxwell", False): (None, None, None, 256, None, None),
    ("A100", False): (2048, 2048, 1024, 128, 4096, None),
    # Its fp32 units run at a higher clock than its tensor cores.
    ("Hopper", False): (4096, 4096, 2048, None, 8192, 8192),
}  # fmt: skip

SEVERAL = ["RTX 3050", "RTX 3080", "RTX 4060 Ti", "RTX 5060 Ti", "RTX 2060", "A100", "V100", "H100"]


def name_of(name: str, memory_bytes: int | None = None) -> str:
    return find_gpu(name, memory_bytes).gpu.name


def is_geforce(gpu: Gpu) -> bool:
    return gpu.kind in ("desktop", "laptop")


@pytest.mark.parametrize("gpu", gpus(), ids=lambda gpu: gpu.name)
def test_a_row_is_plausible_and_has_a_source(gpu: Gpu) -> None:
    assert len(gpu.source) > 10
    assert date(2015, 1, 1) <= date.fromisoformat(gpu.date) <= date(2026, 12, 31)
    assert 6 <= gpu.memory_gb <= 192
    assert 100 < gpu.bandwidth_gb_s <= 8000
    assert 35 <= gpu.power_w <= 1000
    assert (gpu.pcie_generation, gpu.pcie_lanes) in {(3, 16), (4, 8), (4, 16), (5, 8), (5, 16)}
    assert gpu.bf16 == (gpu.compute_capability >= (8, 0)) == (gpu.bf16_tflops is not None)
    assert (gpu.tf32_tflops is not None) == gpu.bf16
    assert (gpu.fp8_tflops is not None) == (gpu.compute_capability >= (8, 9))
    assert gpu.bf16_tflops in (None, gpu.fp16_tflops)
    if gpu.memory_bytes is not None:
        assert 0.9 < gpu.memory_bytes / (gpu.memory_gb * GIB) < 1
    assert (gpu.bus_bits is None) == (gpu.pin_gbps is None)
    if gpu.bus_bits is not None and gpu.pin_gbps is not None:
        assert gpu.bandwidth_gb_s == pytest.approx(gpu.bus_bits * gpu.pin_gbps / 8, rel=1e-3)
    else:
        assert gpu.memory_gb >= 16  # stacked memory


@pytest.mark.parametrize("gpu", gpus(), ids=lambda gpu: gpu.name)
def test_peaks_follow_from_units_and_clock(gpu: Gpu) -> None:
    if gpu.boost_mhz is None or gpu.name == "A10G":
        return  # the clock is not published, or the data sheet halves what the chip can do
    family = "A100" if gpu.compute_capability == (8, 0) else gpu.architecture
    peaks = (
        gpu.fp16_fp16_tflops,
        gpu.fp16_tflops,
        gpu.tf32_tflops,
        gpu.fp32_tflops,
        gpu.int8_tops,
        gpu.fp8_tflops,
    )
    for peak, rate in zip(peaks, RATES[family, is_geforce(gpu)], strict=True):
        if rate is None:
            assert peak is None or gpu.architecture == "Hopper"
        else:
            # Data sheets round, and some take a clock a little below the boost: 2 %.
            assert peak == pytest.approx(rate * gpu.sm_count * gpu.boost_mhz / 1e6, rel=0.02)


@pytest.mark.parametrize(
    ("name", "field", "printed"),
    [
        # Figures that NVIDIA's whitepapers and data sheets print.
        ("RTX 2080 Ti", "fp16_tflops", 53.8),
        ("RTX 2080 Ti", "int8_tops", 215.2),
        ("RTX 3060", "fp16_tflops", 25.5),
        ("RTX 3070", "fp16_fp16_tflops", 81.3),
        ("RTX 3080 10GB", "bf16_tflops", 59.5),
        ("RTX 3090", "fp16_fp16_tflops", 142.3),
        ("RTX 3090", "fp16_tflops", 71.2),
        ("RTX 3090", "tf32_tflops", 35.6),
        ("RTX A6000", "bf16_tflops", 154.8),
        ("RTX 4090", "fp16_tflops", 165.2),
        ("RTX 4090", "fp8_tflops", 330.3),
        ("RTX 4090", "int8_tops", 660.6),
        ("RTX 4060", "fp32_tflops", 15.1),
        ("RTX 5090", "fp16_tflops", 209.5),
        ("RTX 5070", "fp32_tflops", 30.9),
        ("RTX 6000 Ada", "fp8_tflops", 728.5),
        ("H100 SXM5", "fp8_tflops", 1978.9),
        ("A10G", "bf16_tflops", 70.0),
        ("T4", "fp16_tflops", 65.0),
        ("P100 PCIe", "fp16_fp16_tflops", 18.7),
        ("RTX 3060", "bandwidth_gb_s", 360.0),
        ("RTX 4060 Ti 16GB", "bandwidth_gb_s", 288.0),
        ("RTX 4090", "bandwidth_gb_s", 1008.0),
    ],
)
def test_a_peak_is_the_printed_one(name: str, field: str, printed: float) -> None:
    assert getattr(find_gpu(name).gpu, field) == pytest.approx(printed, abs=0.11)


def test_names_are_their_own_and_no_two_rows_are_one() -> None:
    names = [gpu.name for gpu in gpus()]
    assert len(set(names)) == len(names)
    for gpu in gpus():
        match = find_gpu(gpu.name)
        assert (match.gpu, match.note) == (gpu, None)
        assert find_gpu(f"{gpu.name} {gpu.memory_gb}GB").gpu == gpu


@pytest.mark.parametrize(
    ("said", "name"),
    [
        # As the requirements page writes them.
        ("RTX 3060 (12GB)", "RTX 3060"),
        ("RTX 3060", "RTX 3060"),
        ("RTX 3060Ti (8GB)", "RTX 3060 Ti"),
        ("RTX 4060 (8GB)", "RTX 4060"),
        ("RTX 4060Ti (16GB)", "RTX 4060 Ti 16GB"),
        ("RTX 4070 (12GB)", "RTX 4070"),
        ("RTX A4000 (16GB)", "RTX A4000"),
        ("RTX 3080 (10/12GB)", "RTX 3080 10GB"),
        ("RTX 3090 (24GB)", "RTX 3090"),
        ("RTX 4090 (24GB)", "RTX 4090"),
        ("RTX A5000 (24GB)", "RTX A5000"),
        ("A100 (40GB/80GB)", "A100 PCIe 40GB"),
        ("T4 GPU (16GB)", "T4"),
        ("P100 GPU (16GB)", "P100 PCIe"),
        ("V100 GPU (16GB)", "V100 PCIe 16GB"),
        # As people type them.
        ("rtx3060", "RTX 3060"),
        ("3060", "RTX 3060"),
        ("RTX 3060 8GB", "RTX 3060 8GB"),
        ("rtx-4060ti 8 GB", "RTX 4060 Ti 8GB"),
        ("4070TiSuper", "RTX 4070 Ti Super"),
        ("RTX 4070 SUPER", "RTX 4070 Super"),
        ("rtx 4060 mobile", "RTX 4060 Laptop"),
        ("RTX 4070 노트북", "RTX 4070 Laptop"),
        ("A6000", "RTX A6000"),
        ("a100 80gb", "A100 PCIe 80GB"),
        ("RTX 3080 12GiB", "RTX 3080 12GB"),
    ],
)
def test_a_name_is_found_as_people_write_it(said: str, name: str) -> None:
    assert name_of(said) == name


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA GeForce RTX 3060", "RTX 3060"),
        ("GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti Super"),
        ("NVIDIA GeForce RTX 2070 SUPER", "RTX 2070 Super"),
        ("NVIDIA GeForce RTX 4050 Laptop GPU", "RTX 4050 Laptop"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "RTX 4060 Laptop"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "RTX 3060 Laptop"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("Tesla T4", "T4"),
        ("Tesla P100-PCIE-16GB", "P100 PCIe"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2 16GB"),
        ("Tesla V100-PCIE-32GB", "V100 PCIe 32GB"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIe 40GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM4 40GB"),
        ("A100-SXM-80GB", "A100 SXM4 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM5"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA RTX A4000", "RTX A4000"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Quadro RTX 6000", "Quadro RTX 6000"),
        ("Quadro M4000", "Quadro M4000"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
    ],
)
def test_what_torch_reports_means_one_row(reported: str, name: str) -> None:
    match = find_gpu(reported)
    assert (match.gpu.name, match.note) == (name, None)


@pytest.mark.parametrize("name", SEVERAL)
def test_a_name_that_fits_several_takes_the_least_memory_and_says_so(name: str) -> None:
    match = find_gpu(name)
    fitting = [gpu for gpu in gpus() if gpu.name.startswith(f"{name} ") and gpu.kind != "laptop"]
    fitting = [gpu for gpu in fitting if not {"Ti", "Super"} & set(gpu.name[len(name) :].split())]
    assert len(fitting) > 1
    assert match.gpu.memory_gb == min(gpu.memory_gb for gpu in fitting)
    assert match.note is not None
    assert all(gpu.name in match.note for gpu in fitting)


def test_the_memory_found_picks_the_row() -> None:
    assert name_of("NVIDIA GeForce RTX 4060 Ti", int(15.6 * GIB)) == "RTX 4060 Ti 16GB"
    assert name_of("NVIDIA GeForce RTX 4060 Ti", int(7.6 * GIB)) == "RTX 4060 Ti 8GB"
    assert name_of("NVIDIA GeForce RTX 3060", 8 * GIB) == "RTX 3060 8GB"
    assert name_of("NVIDIA GeForce RTX 3060", 11931 * 2**20) == "RTX 3060"
    assert name_of("NVIDIA GeForce RTX 3080", int(11.75 * GIB)) == "RTX 3080 12GB"
    for gpu in gpus():
        if gpu.memory_bytes is not None:
            assert find_gpu(gpu.name, gpu.memory_bytes).gpu == gpu


@pytest.mark.parametrize(
    ("name", "memory_bytes", "said"),
    [
        ("RTX 3061", None, "RTX 3060"),
        ("RTX 4090 D", None, "RTX 4090"),
        ("GTX 3090", None, "RTX 3090"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, "A100 SXM4 40GB"),
        ("NVIDIA GeForce RTX 2070 with Max-Q Design", None, "RTX 2070"),
        ("", None, "such as"),
        ("Apple M3", None, "is not known"),
        ("RTX 3060 16GB", None, "8 GB or 12 GB"),
        ("RTX 4090", 48 * GIB, "24 GB and 48.0 GiB were found"),
    ],
)
def test_what_is_not_known_is_an_error_and_never_the_nearest(
    name: str, memory_bytes: int | None, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        find_gpu(name, memory_bytes)
    assert said in str(caught.value)


def test_every_gpu_that_is_asked_for_has_a_row() -> None:
    names = {gpu.name for gpu in gpus()}
    assert names >= {
        "RTX 2060 6GB", "RTX 2060 Super", "RTX 2070", "RTX 2070 Super", "RTX 2080",
        "RTX 2080 Super", "RTX 2080 Ti", "RTX 3050 8GB", "RTX 3060", "RTX 3060 8GB", "RTX 3060 Ti",
        "RTX 3070", "RTX 3080 10GB", "RTX 3080 12GB", "RTX 3090", "RTX 4060", "RTX 4060 Ti 8GB",
        "RTX 4060 Ti 16GB", "RTX 4070", "RTX 4070 Super", "RTX 4080", "RTX 4090",
        "RTX 4050 Laptop", "RTX 4060 Laptop", "RTX 4070 Laptop", "RTX 5060", "RTX 5060 Ti 8GB",
        "RTX 5060 Ti 16GB", "RTX 5070", "RTX 5070 Ti", "RTX 5080", "RTX 5090", "RTX A4000",
        "RTX A5000", "RTX A6000", "RTX 6000 Ada", "T4", "P100 PCIe", "V100 PCIe 16GB",
        "V100 SXM2 16GB", "A10", "A10G", "L4", "L40S", "A100 PCIe 40GB", "A100 SXM4 40GB",
        "A100 PCIe 80GB", "A100 SXM4 80GB", "H100 PCIe", "H100 SXM5", "H200", "B200",
    }  # fmt: skip
