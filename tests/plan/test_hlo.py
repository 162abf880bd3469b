"""What is read from the text of a compiled program: sizes with padding, loops, fusions and collectives."""

# ruff: noqa: E501
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.plan import hlo, traffic

# A program in the form that XLA prints for a TPU: tiles, memory spaces, an asynchronous collective and a loop.
TPU = r"""HloModule jit_step, is_scheduled=true

%add.clone (x.1: f32[], y.1: f32[]) -> f32[] {
  %x.1 = f32[]{:T(128)} parameter(0)
  %y.1 = f32[]{:T(128)} parameter(1)
  ROOT %add.2 = f32[]{:T(128)} add(%x.1, %y.1)
}

%fused_computation (param_0.1: u8[100,6], param_1.1: s32[4]) -> f32[4,6] {
  %param_0.1 = u8[100,6]{1,0:T(8,128)(4,1)} parameter(0)
  %param_1.1 = s32[4]{0:T(128)} parameter(1)
  %gather.1 = u8[4,6]{1,0:T(8,128)(4,1)} gather(%param_0.1, %param_1.1), offset_dims={1}
  ROOT %convert.1 = f32[4,6]{1,0:T(8,128)} convert(%gather.1)
}

%body (carry.1: (s32[], f32[4,6])) -> (s32[], f32[4,6]) {
  %carry.1 = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) parameter(0)
  %count.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  %rows.1 = f32[4,6]{1,0:T(8,128)} get-tuple-element(%carry.1), index=1
  %all-reduce.1 = f32[4,6]{1,0:T(8,128)} all-reduce(%rows.1), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add.clone
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) tuple(%count.1, %all-reduce.1)
}

%condition (carry.2: (s32[], f32[4,6])) -> pred[] {
  %carry.2 = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) parameter(0)
  ROOT %constant.1 = pred[]{:T(512)} constant(true)
}

ENTRY %main.1 (p0: u8[100,6], p1: s32[4]) -> f32[4,6] {
  %p0 = u8[100,6]{1,0:T(8,128)(4,1)} parameter(0)
  %p1 = s32[4]{0:T(128)} parameter(1)
  %fusion.1 = f32[4,6]{1,0:T(8,128)} fusion(%p0, %p1), kind=kCustom, calls=%fused_computation
  %copy.1 = f32[4,6]{1,0:T(8,128)S(1)} copy(%fusion.1)
  %gather-start = (f32[4,6]{1,0:T(8,128)S(1)}, f32[32,6]{1,0:T(8,128)}) all-gather-start(%copy.1), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, metadata={op_name="jit(step)/all_gather"}
  %gather-done = f32[32,6]{1,0:T(8,128)} all-gather-done(%gather-start)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) tuple(%zero, %fusion.1)
  %while.1 = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %result = f32[4,6]{1,0:T(8,128)} get-tuple-element(%while.1), index=1
}
"""


def test_sizes() -> None:
    assert hlo.arrays('f32[2,3]{1,0}') == (hlo.Array(24, 24),)
    assert hlo.arrays('bf16[5,130]{1,0:T(8,128)(2,1)}') == (hlo.Array(1300, 2 * 8 * 256),)
    assert hlo.arrays('f32[3,130]{0,1:T(8,128)}') == (hlo.Array(1560, 4 * 128 * 136),)
    assert hlo.arrays('(s4[8]{0}, token[], u8[4]{0:S(5)})') == (hlo.Array(4, 4), hlo.Array(4, 4, 5))


def test_a_program_of_a_tpu() -> None:
    program = hlo.Program(TPU)
    rounds = {x.instruction.name: x.rounds for x in program.running()}
    assert rounds['fusion.1'] == 1 and rounds['all-reduce.1'] == 3 and 'add.2' not in rounds

    reduce, gather = sorted(traffic.collectives(program, 8), key=lambda x: x.kind, reverse=True)
    assert (gather.kind, gather.bytes, gather.devices, gather.source) == ('all-gather', 768, 8, 'jit(step)/all_gather')
    assert gather.sent == 768 * 7 / 8
    assert (reduce.kind, reduce.bytes, reduce.rounds, reduce.devices) == ('all-reduce', 96, 3, 4)
    assert reduce.sent == 2 * 96 * 3 / 4
    assert traffic.by_kind([gather, reduce]) == {'all-gather': (1, 768), 'all-reduce': (3, 288)}

    # Of 100 rows the fusion reads the four that it needs. The copy to the memory on the chip (S(1)) only reads.
    moved = traffic.memory(program)
    fusion, copy, gathered, loop = (4 * 6 + 16) + 96, 96, 768, 3 * 2 * 96
    assert moved.unpadded == fusion + copy + gathered + loop
    assert moved.bytes > 8 * moved.unpadded  # six columns in tiles of 128
    assert moved.no_product == moved.bytes


def test_a_program_of_this_jax() -> None:
    """The same is found in what jax compiles here: names, loops and groups are as they are read."""
    devices = find_devices(count=4)

    def step(x: jax.Array, w: jax.Array) -> jax.Array:
        body = lambda _, x: jax.lax.psum(x @ w, 'data') * 0.1  # noqa: E731
        return jax.lax.all_gather(jax.lax.fori_loop(0, 5, body, x), 'data', tiled=True)

    call = devices.run(step, (P('data'), P()), P())
    shapes = jax.ShapeDtypeStruct((16, 8), np.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)
    program = hlo.Program(call.lower(*shapes).compile().as_text())
    found = {x.kind: (x.bytes, x.rounds, x.devices) for x in traffic.collectives(program, 4)}
    assert found == {'all-reduce': (4 * 8 * 4, 5, 4), 'all-gather': (16 * 8 * 4, 1, 4)}
    moved = traffic.memory(program)
    product = 5 * 4 * (2 * 4 * 8 + 8 * 8)
    assert moved.bytes == moved.unpadded >= product
    assert moved.bytes - moved.no_product == pytest.approx(product, rel=0.5)
