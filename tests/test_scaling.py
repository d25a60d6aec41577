"""What a compiled step sends between devices, and the arithmetic on it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import chips, hlo, our_step, scaling

HAND_WRITTEN = """HloModule jit_f, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inner (p: (s32[], u32[])) -> (s32[], u32[]) {
  %p = (s32[], u32[]) parameter(0)
  %n = u32[] get-tuple-element(%p), index=1
  %passes = u32[] all-reduce(%n), channel_id=9, to_apply=%add
  ROOT %t = (s32[], u32[]) tuple(%n, %passes)
}

%outer (p: (s32[], u32[])) -> (s32[], u32[]) {
  %p = (s32[], u32[]) parameter(0)
  ROOT %w = (s32[], u32[]) while(%p), condition=%inner_condition, body=%inner, \
backend_config={"known_trip_count":{"n":"5"}}
}

%search (p: pred[40]) -> pred[40] {
  %p = pred[40] parameter(0)
  ROOT %anyone = pred[40]{0} all-reduce(%p), channel_id=10, to_apply=%add
}

%wrapped (p: f32[64]) -> f32[8] {
  %p = f32[64]{0} parameter(0)
  ROOT %rs = f32[8]{0} reduce-scatter(%p), channel_id=3, dimensions={0}
}

ENTRY %main_spmd (a: f32[2,3], b: bf16[8]) -> f32[] {
  %a = f32[2,3]{1,0:T(8,128)} parameter(0), metadata={op_name="a"}
  %b = bf16[8]{0} parameter(1)
  %both = (f32[2,3]{1,0}, /*index=1*/bf16[8]{0}) all-reduce(%a, %b), \
channel_id=1, replica_groups=[1,8]<=[8], to_apply=%add, \
metadata={op_name="jit(f)/transpose(jvp(Net))/(conv/dot:norm/sum)"}
  %ar = f32[2,3]{1,0} all-reduce-start(%a), channel_id=2, to_apply=%add
  %ar.done = f32[2,3]{1,0} all-reduce-done(%ar)
  %ag = (bf16[8]{0}, bf16[64]{0}) all-gather-start(%b), dimensions={0}
  %ag.done = bf16[64]{0} all-gather-done(%ag)
  %cp = (bf16[8]{0}, bf16[8]{0}, u32[], u32[]) collective-permute-start(%b)
  %cp.done = bf16[8]{0} collective-permute-done(%cp)
  %big = f32[64]{0} broadcast(%a)
  %async = ((f32[64]{0}), f32[8]{0}) async-start(%big), calls=%wrapped
  %async.done = f32[8]{0} async-done(%async), calls=%wrapped
  %a2a = (s4[6]{0}, s4[6]{0}) all-to-all(%i, %j), channel_id=8
  %loop = (s32[], u32[]) while(%t), condition=%c, body=%outer, \
backend_config={"known_trip_count":{"n":"2"}}
  ROOT %found = pred[40]{0} while(%q), condition=%c, body=%search
}
"""
HAND_WRITTEN = HAND_WRITTEN.replace(
  '  %a2a', '  %i = s4[6]{0} parameter(2)\n  %j = s4[6]{0} parameter(3)\n  %a2a'
)


@pytest.fixture(scope='module')
def mesh():
  return jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )


def shaped(mesh, shape, *spec):
  sharding = NamedSharding(mesh, PartitionSpec(*spec))
  return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def compiled(function, *shapes, **options):
  return jax.jit(function, **options).lower(*shapes).compile().as_text()


def test_every_form_is_counted_once_with_its_bytes():
  found = [
    (c.kind, c.bytes, c.computation, c.times)
    for c in hlo.collectives(HAND_WRITTEN)
  ]
  assert found == [
    ('all-reduce', 4, 'inner', 10),
    ('all-reduce', 40, 'search', None),
    ('reduce-scatter', 256, 'wrapped', 1),
    ('all-reduce', 24 + 16, 'main_spmd', 1),
    ('all-reduce', 24, 'main_spmd', 1),
    ('all-gather', 128, 'main_spmd', 1),
    ('collective-permute', 16, 'main_spmd', 1),
    ('all-to-all', 6, 'main_spmd', 1),
  ]


def test_a_combined_collective_tells_what_each_array_is():
  combined = hlo.collectives(HAND_WRITTEN)[3]
  prefix = 'jit(f)/transpose(jvp(Net))/'
  assert combined.arrays == (
    (prefix + 'conv/dot', 24),
    (prefix + 'norm/sum', 16),
  )
  mixed = 'jit(f)/(transpose(jvp(Net))/(stem/conv:norm/sum):jvp()/sum)'
  shape = '(f32[2]{0}, f32[3]{0}, f32[])'
  line = f'  %r = {shape} all-reduce(), op_name="{mixed}"'
  (found,) = hlo.collectives(f'ENTRY %m () -> f32[] {{\n{line}\n}}')
  assert found.arrays == (
    ('jit(f)/transpose(jvp(Net))/stem/conv', 8),
    ('jit(f)/transpose(jvp(Net))/norm/sum', 12),
    ('jit(f)/jvp()/sum', 4),
  )


def test_the_summary_sets_open_loops_apart():
  summary = scaling.summarize(HAND_WRITTEN)
  assert summary['collectives'] == 10 + 6
  assert summary['with_weights'] == 1
  assert summary['unwanted'] == {'all-gather': 1}
  assert summary['bytes_a_pass_of_loops'] == [40]
  other = 10 * 4 + 256 + 24 + 128 + 16 + 6
  assert summary['bytes'] == {
    'weights': 24, 'norm_forward': 0, 'norm_backward': 16, 'other': other,
  }  # fmt: skip


def test_a_gradient_is_reduced_once(mesh):
  def step(w, x):
    return jax.grad(lambda w: jnp.tanh(x @ w).sum())(w)

  shapes = shaped(mesh, (24, 10)), shaped(mesh, (16, 24), 'data')
  text = compiled(step, *shapes, out_shardings=shapes[0].sharding)
  (found,) = hlo.collectives(text)
  assert (found.kind, found.bytes, found.times) == ('all-reduce', 960, 1)
  assert [scaling.role(name) for name, _ in found.arrays] == ['weights']


def test_gathered_and_sorted_weights_do_not_pass(mesh):
  shape = shaped(mesh, (32, 10), 'data')
  everywhere = NamedSharding(mesh, PartitionSpec())
  text = compiled(lambda w: w * 2, shape, out_shardings=everywhere)
  assert scaling.summarize(text)['unwanted'] == {'all-gather': 1}
  text = compiled(lambda w: jnp.sort(w.ravel())[40], shaped(mesh, (32, 10)))
  assert scaling.summarize(text)['unwanted']['sort'] == 1


@pytest.mark.parametrize('passes', [7, None])
def test_a_loop_counts_as_often_as_it_is_known_to_run(mesh, passes):
  def count(x):
    return jax.lax.psum(jnp.sum(x > 0, dtype=jnp.float32), 'data')

  def local(x):
    if passes is None:
      again = lambda c: c[0] > c[1]
      return jax.lax.while_loop(
        again, lambda c: (c[0], count(x * c[1])), (1.0, count(x))
      )[1]
    return jax.lax.fori_loop(0, passes, lambda _, c: count(x * c), 1.0)

  spec = PartitionSpec('data')
  search = jax.shard_map(
    local, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(), check_vma=False
  )
  found = hlo.collectives(compiled(search, shaped(mesh, (16,), 'data')))
  loop = [c for c in found if 'while' in c.arrays[0][0]]
  assert [(c.kind, c.bytes, c.times) for c in loop] == [
    ('all-reduce', 4, passes)
  ]


def test_the_step_sends_gradients_statistics_and_the_metrics(monkeypatch):
  monkeypatch.setitem(our_step.MODELS, 'convnet', (8, 10, 16))
  made, _, shapes = our_step.prepare('convnet', 'st3', 16)
  step = made.train_step.lower(made.target, shapes).compile()
  state = made.target
  summary = scaling.summarize(step.as_text())
  sizes = {'norm': 0, 'rest': 0}
  leaves = jax.tree_util.tree_leaves_with_path(state.variables['params'])
  for path, leaf in leaves:
    sizes['norm' if 'norm' in str(path) else 'rest'] += 4 * leaf.size
  assert summary['unwanted'] == {}
  # Each device looks for the threshold in the weights it has: nothing to send.
  assert summary['bytes_a_pass_of_loops'] == []
  assert 'while' in hlo.operations(step.as_text())
  assert summary['bytes'] == {
    'weights': sizes['rest'],
    'norm_forward': sizes['norm'],
    'norm_backward': 1.5 * sizes['norm'],
    'other': 8,
  }


def test_the_prediction_is_the_arithmetic_it_says(monkeypatch):
  chip = chips.Chip(1000.0, 4, 100.0, 10.0, 0.5, 'made up')
  assert chips.all_reduce(400.0, 4, chip) == pytest.approx(6.0)
  # Within a group as above; between two, a fourth of the bytes each.
  assert chips.all_reduce(400.0, 8, chip) == pytest.approx(6.0 + 10.0)
  monkeypatch.setitem(chips.CHIPS, 'made up', chip)
  monkeypatch.setattr(scaling, 'BATCH', 20_000)
  sizes = dict.fromkeys(scaling.ROLES, 0) | {'weights': 400, 'other': 200}
  row = {'model': 'm', 'method': 'st3', 'bytes': sizes}
  row |= {'collectives': 3, 'with_weights': 1}
  told = scaling.predict(row, 'made up', 4)
  assert told['compute_ms'] == 20_000
  assert told['gradients_ms'] == 7_000  # 6 s, and 2 doublings of 0.5 s
  assert told['statistics_ms'] == 5_000  # 3 s, and two collectives' waits
  assert told['of_these_waits_ms'] == 2_000
  assert told['efficiency_no_overlap'] == pytest.approx(20 / 32)
  assert told['efficiency_full_overlap'] == pytest.approx(20 / 25)
  monkeypatch.setattr(scaling, 'BATCH', 6_000)
  told = scaling.predict(row, 'made up', 4)
  assert told['efficiency_full_overlap'] == pytest.approx(6 / 12)


def test_links_are_slower_than_is_published_for_both_ways():
  for chip in chips.CHIPS.values():
    assert 0 < chip.outer < chip.inner
    assert all(v for v in dataclasses.asdict(chip).values())


def test_the_tables_hold_what_was_compiled_for_the_most_devices():
  def row(devices, size):
    sizes = dict.fromkeys(scaling.ROLES, 0) | {'weights': size}
    parameters = {'weights': size // 4, 'norms': 0, 'thresholds': 0}
    row = {'kind': 'step', 'model': 'resnet50', 'method': 'st3'}
    row |= {'devices': devices, 'parameters': parameters, 'unwanted': {}}
    row |= {'collectives': 1, 'with_weights': 1, 'bytes': sizes}
    return row | {'bytes_a_pass_of_loops': [4]}

  rows = [row(8, 102_228_128), row(2, 4)]
  told = scaling.predictions(rows)
  assert len(told) == 9
  assert {t['chips'] for t in told} == {8, 64, 512}
  best = [t['efficiency_full_overlap'] for t in told if t['chips'] == 8]
  assert min(t['gradients_ms'] for t in told) > 0.2  # not those of 4 bytes
  assert min(best) == 1.0  # the gradient hides behind 128 images' training
  text = scaling.tables(rows + told)
  assert '| resnet50 | st3 | 8 | 1 | 1 | 102,228,128 | 102,228,128 |' in text
  assert 'in loops 1' in text
  assert 'TPU v5e' in text and 'dgxh100' in text
