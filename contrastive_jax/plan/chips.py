"""Facts about accelerators, as their vendors state them: memory, bandwidths and the peak of matrix products."""

import dataclasses

GB, GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of device, as jax sees it. All rates are the vendor's peaks, none of them was measured here.

    Attributes:
      name: what a topology calls it.
      title: the vendor's name.
      platform: 'tpu', 'cuda' or 'cpu'.
      memory: bytes of memory of a device; 0: not known.
      bandwidth: bytes a second between a device and its memory; 0: not known.
      bfloat16, float32: FLOP a second of dense matrix products, float32 in jax's default precision (bfloat16 passes on
        a TPU, TF32 on NVIDIA); 0: not known.
      interconnect: bytes a second that a device sends to the others, over all links; 0: not known.
      per_host: the most devices of a host.
      source: where the numbers are from.
    """

    name: str
    title: str
    platform: str
    memory: float = 0
    bandwidth: float = 0
    bfloat16: float = 0
    float32: float = 0
    interconnect: float = 0
    per_host: int = 8
    source: str = ''

    def peak(self, dtype: str) -> float:
        """FLOP a second for a config's dtype."""
        return self.bfloat16 if dtype == 'bfloat16' else self.float32


def _tpu(name: str, title: str, memory: float, bandwidth: float, flops: float, gbits: float, page: str) -> Chip:
    """A TPU; its interconnect is stated in Gbit/s of all links of a chip."""
    source = f'cloud.google.com/tpu/docs/{page}'
    rates = flops * 1e12, flops * 1e12, gbits * GB / 8
    return Chip(name, title, 'tpu', memory * GIB, bandwidth * GB, *rates, per_host=4, source=source)


CHIPS = {
    chip.name: chip
    for chip in (
        _tpu('v4', 'TPU v4', 32, 1228, 275, 2400, 'v4'),
        _tpu('v5e', 'TPU v5e', 16, 819, 197, 1600, 'v5e'),
        _tpu('v5p', 'TPU v5p', 95, 2765, 459, 4800, 'v5p'),
        _tpu('v6e', 'TPU v6e', 32, 1640, 918, 3584, 'v6e'),
        Chip(
            'a100', 'NVIDIA A100 SXM 80 GB', 'cuda', 80 * GB, 2039 * GB, 312e12, 156e12, 300 * GB,
            source='nvidia.com/en-us/data-center/a100',
        ),
        Chip(
            'h100', 'NVIDIA H100 SXM', 'cuda', 80 * GB, 3350 * GB, 989.4e12, 494.7e12, 450 * GB,
            source='nvidia.com/en-us/data-center/h100',
        ),
        Chip(
            'h200', 'NVIDIA H200 SXM', 'cuda', 141 * GB, 4800 * GB, 989.4e12, 494.7e12, 450 * GB,
            source='nvidia.com/en-us/data-center/h200',
        ),
        Chip('cpu', 'virtual CPU device', 'cpu'),
    )
}  # fmt: skip

# What XLA has to know of a card to compile for it: attributes that the CUDA driver reports, which the vendor publishes
# for each architecture (streaming multiprocessors, clock, L2, shared memory), and the version of cuDNN.
_GPU_COMMON = {
    'threads_per_block_limit': 1024,
    'threads_per_warp': 32,
    'shared_memory_per_block': 48 * 1024,
    'threads_per_core_limit': 2048,
    'block_dim_limit_x': 2**31 - 1,
    'block_dim_limit_y': 65535,
    'block_dim_limit_z': 65535,
    'registers_per_core_limit': 65536,
    'registers_per_block_limit': 65536,
}
_HOPPER = {
    'shared_memory_per_core': 228 * 1024,
    'shared_memory_per_block_optin': 227 * 1024,
    'core_count': 132,
    'fpus_per_core': 128,
    'l2_cache_size': 50 * 2**20,
    'clock_rate_ghz': 1.98,
}
GPUS = {
    'a100': (
        (8, 0),
        {
            'shared_memory_per_core': 164 * 1024,
            'shared_memory_per_block_optin': 163 * 1024,
            'core_count': 108,
            'fpus_per_core': 64,
            'l2_cache_size': 40 * 2**20,
            'clock_rate_ghz': 1.41,
        },
    ),
    'h100': ((9, 0), _HOPPER),
    'h200': ((9, 0), _HOPPER),
}
CUDNN = (9, 12, 0)


def gpu_target(chip: Chip) -> str:
    """The text of XLA's GpuTargetConfigProto for a card."""
    (major, minor), fields = GPUS[chip.name]
    fields = {**_GPU_COMMON, **fields, 'memory_bandwidth': int(chip.bandwidth), 'device_memory_size': int(chip.memory)}
    lines = [f'  {name}: {value}' for name, value in fields.items()]
    cudnn = ' '.join(f'{name}: {x}' for name, x in zip(('major', 'minor', 'patch'), CUDNN, strict=True))
    return '\n'.join(
        [
            'gpu_device_info {',
            f'  cuda_compute_capability {{ major: {major} minor: {minor} }}',
            *lines,
            '}',
            'platform_name: "CUDA"',
            f'dnn_version_info {{ {cudnn} }}',
            f'device_description_str: "{chip.title}"',
        ]
    )
